"""SDNQ: the config that is exported, and how its lists are read.

Tests marked `real_sdnq` run where it is installed: `uv run --group consumers pytest
tests/consumers/test_sdnq.py`. They were run with 0.2.8 beside torch 2.15 and diffusers 0.42.1, on a
CPU. The others compare with `LISTS`, which says what it did there.
"""

import importlib.util
import json
import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sensitivity.consumers.exporters.sdnq import SdnqExporter
from sensitivity.consumers.lists import ModelTree
from sensitivity.consumers.readers import get_reader, guess_reader
from sensitivity.core.format_name import FormatName
from sensitivity.errors import PatternError, RecipeError
from sensitivity.recipes.recipe import Recipe

from support.namesakes import NamesakeNet, linears
from support.recipes import FLUX_FQNS, flux_recipe, make_recipe
from support.served import two_wans
from support.tiny_denoisers import tiny_flux

real_sdnq = pytest.mark.skipif(
    importlib.util.find_spec("sdnq") is None, reason="it is not installed"
)

FP8 = {"weights_dtype": "float8_e4m3fn", "use_quantized_matmul": True}
FREE = {"add_skip_keys": False, "minimum_allowed_numel": 0, "minimum_allowed_channel_size": 0}
INT8, UINT4 = "int8", "uint4 (sdnq)"


def net() -> nn.Module:
    """Namesakes; a convolution and an embedding, which are no Linears."""
    return NamesakeNet(conv=nn.Conv2d(32, 32, 1), table=nn.Embedding(64, 32))


with torch.device("meta"):
    FQNS = tuple(linears(net()))


def having(*parts: str) -> set[str]:
    """The Linears with one of these texts in their names."""
    return {fqn for fqn in FQNS if any(part in fqn for part in parts)}


def begun(*texts: str) -> set[str]:
    return {fqn for fqn in FQNS if fqn.startswith(texts)}


LISTS: dict[str, tuple[dict[str, Any], dict[str, set[str]]]] = {
    "all of it": (FP8, {"fp8": set(FQNS)}),
    "a part of the name": (
        {**FP8, "modules_to_not_convert": ["proj_out"]},
        {"fp8": having("to_q")},
    ),
    "the whole weight, and not the module": (
        {**FP8, "modules_to_not_convert": ["blocks.0.proj_out.weight", "blocks.1.proj_out"]},
        {"fp8": set(FQNS) - {"blocks.0.proj_out"}},
    ),
    "a beginning, ten included": (
        {**FP8, "modules_to_not_convert": [".blocks.1"]},
        {"fp8": set(FQNS) - begun("blocks.1")},
    ),
    "a star, anchored at the start alone": (
        {**FP8, "modules_to_not_convert": ["blocks.1.*", "*[0-3].to_q*"]},
        {"fp8": set(FQNS) - begun("blocks.1.") - having(*(f"{n}.to_q" for n in range(4)))},
    ),
    "types, the first one that hits": (
        {
            **FP8,
            "modules_to_not_convert": ["single_blocks"],
            "modules_dtype_dict": {"int8": ["*to_q.weight"], "uint4": ["blocks"]},
        },
        {
            INT8: begun("blocks") & having("to_q"),
            UINT4: begun("blocks") - having("to_q"),
            "fp8": {"proj_out"},
        },
    ),
    "bits": (
        {
            "weights_dtype": "uint4",
            "use_quantized_matmul": True,
            "modules_dtype_dict": {
                "minimum_4bit": ["to_q"],
                "minimum_8bit": [".blocks.1.", "single_blocks"],
            },
        },
        {INT8: begun("blocks.1.", "single"), UINT4: set(FQNS) - begun("blocks.1.", "single")},
    ),
    "products in 16 bits": (
        {**FP8, "modules_to_not_use_matmul": [".blocks"]},
        {"float8_e4m3fn (sdnq) weight-only": begun("blocks"), "fp8": set(FQNS) - begun("blocks")},
    ),
    "arguments of its own": (
        {
            "weights_dtype": "int8",
            "use_quantized_matmul": True,
            "modules_quant_config": {"proj_out": FP8, ".blocks.0.": {"weights_dtype": "uint4"}},
        },
        {
            "fp8": having("proj_out"),
            UINT4: {"blocks.0.to_q"},
            INT8: having("to_q") - {"blocks.0.to_q"},
        },
    ),
}
"""{what is shown: (config, {format: Linears} of what SDNQ 0.2.8 made of it)}."""


def said(config: Mapping[str, Any], **changes: Any) -> dict[str, set[str]]:
    """{format: Linears} of what our reader makes of a config."""
    listed = get_reader("sdnq").read(json.dumps({"quant_method": "sdnq", **config}))
    tree = ModelTree(fqns=FQNS, classes={"transformer": "X"}, **changes)
    found: dict[str, set[str]] = {}
    for fqn, name in listed.assign(tree, quantized=FormatName.NVFP4).items():
        if name.is_quantized:
            found.setdefault(name.value, set()).add(fqn)
    return found


@pytest.mark.parametrize("name", LISTS)
def test_lists_are_read_as_sdnq_reads_them(name: str) -> None:
    """Every Linear gets the format that SDNQ gave it."""
    config, expected = LISTS[name]
    assert said({**config, **FREE}) == expected


def test_diffusers_reads_its_backend_alike() -> None:
    """The form of diffusers has the same lists, where none meets another one's Linears."""
    tree = ModelTree(fqns=FQNS, classes={"transformer": "X"})
    for config, expected in LISTS.values():
        text = json.dumps({"quant_method": "sdnq", **config, **FREE})
        found = get_reader("diffusers").read(text).assign(tree, quantized=FormatName.NVFP4)
        for words, fqns in expected.items():
            assert {fqn for fqn, own in found.items() if own.value == words} == fqns


def quantize(module: nn.Module, config: Mapping[str, Any]) -> dict[str, set[str]]:
    """{format: Linears} by SDNQ's own word, of what it did to a module; nothing else may change."""
    from sdnq import SDNQConfig
    from sdnq.quantizer import apply_sdnq_to_module

    with torch.no_grad():
        module, _ = apply_sdnq_to_module(module, SDNQConfig(**config))
    return formats_of(module)


def formats_of(module: nn.Module) -> dict[str, set[str]]:
    """The formats of a module that SDNQ has quantized; fp8 has one scale a row of the weight."""
    found: dict[str, set[str]] = {}
    for fqn, child in module.named_modules():
        made = getattr(child, "sdnq_dequantizer", None)
        if made is None:
            continue
        assert made.layer_class_name == "Linear"
        words = f"{made.weights_dtype} (sdnq)" + " weight-only" * (not made.use_quantized_matmul)
        if made.use_quantized_matmul and made.weights_dtype == "float8_e4m3fn":
            assert made.quantized_matmul_dtype == "float8_e4m3fn"
            assert not made.re_quantize_for_matmul
            assert child.scale.numel() == made.original_shape[0]
            words = "fp8"
        if made.weights_dtype == "int8" and made.group_size == -1:
            assert (made.quantized_matmul_dtype, child.scale.dtype) == ("int8", torch.float32)
            assert child.scale.numel() == made.original_shape[0]
            words = "int8-rot" if made.use_hadamard else "int8"
            assert not made.use_hadamard or made.hadamard_group_size in (16, 64, 256)
        is_wide = made.original_shape[-1] > 32  # else SDNQ's groups are rows, whatever is asked for
        if not made.use_quantized_matmul and made.group_size == -1 and is_wide:
            assert child.scale.numel() == made.original_shape[0]
            words = {"int8": "int8-a16", "float8_e4m3fn": "fp8-a16"}[made.weights_dtype]
        found.setdefault(words, set()).add(fqn)
    return found


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """SDNQ looks at this when it is imported, and compiles a test otherwise."""
    monkeypatch.setenv("SDNQ_USE_TORCH_COMPILE", "0")


@real_sdnq
@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("name", LISTS)
def test_the_real_sdnq_did_so(name: str) -> None:
    """What `LISTS` says is what SDNQ does to the module."""
    config, expected = LISTS[name]
    assert quantize(net(), {**config, **FREE}) == expected


def scattered(fqns: list[str]) -> Recipe:
    """Random choices; the top-level `proj_out` and block 1 stay bf16, their namesakes do not."""
    rng = random.Random(0)
    kept = {fqn for fqn in fqns if fqn == "proj_out" or fqn.startswith("blocks.1.")}
    chosen = [fqn for fqn in fqns if fqn not in kept and rng.random() < 0.6]
    return make_recipe(fqns, chosen, "fp8")


@real_sdnq
@pytest.mark.usefixtures("eager")
def test_the_real_sdnq_quantizes_exactly_the_recipe() -> None:
    """Its config class takes the exported arguments, and the module's Linears get the recipe's
    formats, small ones and those that it would leave out by itself included.
    """
    for make in (net, tiny_flux):
        module = make()
        recipe = scattered(linears(module))
        expected = {fqn for fqn, own in recipe.layers.items() if own.is_quantized}
        found = quantize(module, json.loads(SdnqExporter().export(recipe)))
        assert set().union(*found.values()) == expected
        if make is net:
            assert found == {"fp8": expected}


@real_sdnq
@pytest.mark.usefixtures("eager")
def test_from_pretrained_quantizes_exactly_the_recipe(tmp_path: Path) -> None:
    """diffusers loads a folder with the exported config and quantizes what the recipe says, the
    class's own skip-list or not; the list that it saves is read alike.
    """
    from diffusers import FluxTransformer2DModel
    from sdnq import SDNQConfig

    plain = tiny_flux().bfloat16()
    plain.save_pretrained(tmp_path / "plain")
    recipe = scattered(linears(plain))
    expected = {fqn for fqn, own in recipe.layers.items() if own.is_quantized}
    assert "x_embedder" in expected or "context_embedder" in expected
    config = SDNQConfig(**json.loads(SdnqExporter().export(recipe)))
    loaded = FluxTransformer2DModel.from_pretrained(
        tmp_path / "plain", quantization_config=config, torch_dtype=torch.bfloat16
    )
    assert set().union(*formats_of(loaded).values()) == expected
    loaded.save_pretrained(tmp_path / "made")
    saved = (tmp_path / "made" / "config.json").read_text()
    assert guess_reader(saved).name == "sdnq"
    tree = ModelTree(fqns=tuple(recipe.layers), classes={"transformer": "FluxTransformer2DModel"})
    found = get_reader("sdnq").read(saved).assign(tree, quantized=FormatName.NVFP4)
    assert {fqn for fqn, own in found.items() if own.is_quantized} == expected


VARIANTS = ("int8", "int8-rot", "int8-a16", "fp8-a16", "fp8")


def wide_net() -> nn.Module:
    """Linears whose K is 256, the group of a rotation."""
    blocks = (nn.ModuleDict({"q": nn.Linear(256, 64)}) for _ in range(11))
    return nn.ModuleDict({"blocks": nn.ModuleList(blocks), "proj_out": nn.Linear(256, 64)})


@real_sdnq
@pytest.mark.usefixtures("eager")
def test_the_real_sdnq_quantizes_the_variants() -> None:
    """Each Linear has the type, the scales, the rotation and the product of its format, where one
    config says one of them, two or all.
    """
    for count in (1, 2, len(VARIANTS)):
        for start in range(len(VARIANTS) if count < 3 else 1):
            formats = [VARIANTS[(start + place) % len(VARIANTS)] for place in range(count)]
            module = wide_net()
            fqns = linears(module)
            recipe = make_recipe(fqns, [fqn for fqn in fqns if fqn != "proj_out"], *formats)
            expected: dict[str, set[str]] = {}
            for fqn, own in recipe.layers.items():
                if own.is_quantized:
                    expected.setdefault(own.value, set()).add(fqn)
            assert quantize(module, json.loads(SdnqExporter().export(recipe))) == expected


@real_sdnq
@pytest.mark.usefixtures("eager")
def test_the_real_sdnqs_rotation_is_ours() -> None:
    """Its Hadamard matrix of each of this tool's blocks is this tool's own."""
    from sdnq.quant_utils import build_hadamard

    from sensitivity.core.rotation_block import BLOCKS
    from sensitivity.formats.rotation import hadamard

    for block in BLOCKS:
        ours = hadamard(block, torch.device("cpu"))
        assert torch.equal(build_hadamard(block).bfloat16(), ours)


def test_the_config_of_flux() -> None:
    """Namesakes are told apart, sets of blocks keep a star, and both lists are exact; nothing is
    left to SDNQ's own lists and bounds.
    """
    recipe = flux_recipe("fp8")
    config = json.loads(SdnqExporter().export(recipe))
    assert config["add_skip_keys"] is False
    assert config["minimum_allowed_numel"] == config["minimum_allowed_channel_size"] == 0
    assert config["modules_to_not_convert"] == [
        "x_embedder.weight",
        "proj_out.weight",
        "transformer_blocks.1.*.weight",
    ]
    (entries,) = config["modules_dtype_dict"].values()
    assert "single_transformer_blocks.*.weight" in entries
    assert all("*" in entry or entry.removesuffix(".weight") in FLUX_FQNS for entry in entries)


def test_two_denoisers_have_a_config_each() -> None:
    """Names are those inside the component; one that stays bf16 has no types."""
    fqns = [f"{part}.blocks.{n}.q" for part in ("transformer", "transformer_2") for n in (1, 10)]
    text = SdnqExporter().export(two_wans(dict.fromkeys(fqns, "bf16") | {fqns[1]: "fp8"}))
    configs = json.loads(text)
    assert configs["transformer"]["modules_to_not_convert"] == ["blocks.1.q.weight"]
    assert configs["transformer_2"]["modules_dtype_dict"] == {}
    assert guess_reader(text).name == "sdnq"


@pytest.mark.parametrize("name", ["nvfp4", "mxfp8", "fp8-lb", "nvfp4-a16"])
def test_formats_that_sdnq_lacks_are_refused(name: str) -> None:
    """It has no block scales of that kind; a finer format is what comes near."""
    recipe = make_recipe(FQNS, FQNS[:1], name)
    with pytest.raises(RecipeError, match=rf"sdnq \(json\) cannot express: it has no {name}"):
        SdnqExporter().export(recipe)
    nearest = SdnqExporter().nearest(recipe)[FQNS[0]]
    finer = {"nvfp4": "fp8", "nvfp4-a16": "fp8-a16"}
    assert nearest == finer.get(name, "bf16")


def test_small_weights_and_products() -> None:
    """Where shapes are known: weights below SDNQ's bounds stay, and products of K or N below 32, or
    no multiples of 16, run in 16 bits.
    """
    shapes = {FQNS[0]: (16, 4096), FQNS[1]: (64, 64), FQNS[2]: (1024, 24), FQNS[3]: (1024, 32)}
    found = said({**FP8, "add_skip_keys": False}, shapes=shapes)
    assert found == {
        "fp8": set(FQNS) - {*FQNS[:3]},
        "float8_e4m3fn (sdnq) weight-only": {FQNS[2]},
    }


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"group_size": 32}, "float8_e4m3fn (sdnq)"),
        ({"use_svd": True}, "float8_e4m3fn (sdnq) with a low-rank part"),
        ({"use_hadamard": True, "use_quantized_matmul": False}, "rotated weight-only"),
        ({"weights_dtype": "fp4"}, "fp4 (sdnq)"),
        ({"weights_dtype": "fp8", "group_size": -1}, "fp8"),
    ],
)
def test_only_rows_of_fp8_are_this_tools(changes: dict[str, Any], words: str) -> None:
    """Other scales, types and parts are formats with a name alone."""
    (found,) = said({**FP8, **FREE, **changes})
    assert found.endswith(words)
    assert (found == "fp8") is (words == "fp8")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights_dtype": "bf16"}, "found the type 'bf16'; expected one of SDNQ's"),
        ({"modules_dtype_dict": {"some_bits": ["a"]}}, "expected a type, or a number of bits"),
        ({"modules_dtype_dict": ["a"]}, "expected an object"),
        ({"modules_to_not_convert": [3]}, "a part of a name"),
        ({"modules_quant_config": {"a": 3}}, "an object of arguments for each name"),
    ],
)
def test_wrong_configs_are_refused(changes: dict[str, Any], message: str) -> None:
    """By what was found and what was expected."""
    with pytest.raises(PatternError, match=message):
        said({**FP8, **changes})


def test_names_that_sdnq_adds_are_said() -> None:
    """A note where it adds some; a mixed pipeline is left to the reader of diffusers."""
    config = {"quant_method": "sdnq", **FP8}
    assert "`add_skip_keys` false" in get_reader("sdnq").read(json.dumps(config)).notes[0]
    free = json.dumps({**config, "add_skip_keys": False})
    assert get_reader("sdnq").read(free).notes == ()
    mixed = {"transformer": config, "text_encoder": {"quant_method": "gguf"}}
    assert guess_reader(json.dumps(mixed)).name == "diffusers"
    assert guess_reader(json.dumps({"transformer": config, "vae": None})).name == "sdnq"


def test_entries_decide_and_nothing_else() -> None:
    """A list without one of its entries, as the audit asks for it, says what is left."""
    text = json.dumps({"quant_method": "sdnq", **LISTS["a part of the name"][0], **FREE})
    listed = get_reader("sdnq").read(text)
    tree = ModelTree(fqns=FQNS)
    without = replace(listed, entries=())
    assert set(without.assign(tree, quantized=FormatName.FP8).values()) == {FormatName.FP8}
    assert listed.hits(listed.entries[0], tree) == having("proj_out")
