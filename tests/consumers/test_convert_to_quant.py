"""convert_to_quant: the commands that are exported, and how its options are read.

Tests marked `real_tool` run where it is installed: `uv run --group consumers pytest
tests/consumers/test_convert_to_quant.py`. They were run with 1.3.4 beside torch 2.15, on a CPU.
"""

import importlib.util
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from sensitivity.consumers.exporters.convert_to_quant import ConvertToQuantExporter
from sensitivity.consumers.other_formats import ListedFormat
from sensitivity.consumers.readers import get_reader, guess_reader
from sensitivity.consumers.readers.convert_to_quant import alternatives
from sensitivity.consumers.readers.convert_to_quant_filters import (
    ALWAYS,
    FILTERS,
    OTHER_FILTERS,
)
from sensitivity.consumers.readers.safetensors_lists import list_in_file
from sensitivity.core.format_name import FormatName
from sensitivity.errors import PatternError, RecipeError
from sensitivity.recipes.recipe import Recipe

from support.recipes import make_recipe
from support.served import recipe_of, tree, two_wans

real_tool = pytest.mark.skipif(
    importlib.util.find_spec("convert_to_quant") is None, reason="it is not installed"
)

KIND = "QwenImageTransformer2DModel"
BLOCK = "transformer_blocks.{}.{}"
ROLES = ("attn.to_q", "attn.add_q_proj", "img_mlp.net.2", "txt_mod.1", "img_mod.1")
FQNS = (
    *("img_in", "norm_out.linear", "proj_out", "time_text_embed.timestep_embedder.linear_1"),
    *(BLOCK.format(block, role) for block in (0, 1, 10) for role in ROLES),
)
"""Names that this model has in the original checkpoint as well."""

OTHERS = ("txt_norm", "pos_embed.table", "text_encoder.proj")
"""Other matrices of the file."""


def scattered() -> Recipe:
    """Two formats, with namesakes (block 1 and 10) in other ones."""
    formats = dict.fromkeys(FQNS, "bf16")
    formats |= {BLOCK.format(block, "attn.to_q"): "nvfp4" for block in (0, 10)}
    formats |= {BLOCK.format(block, "img_mlp.net.2"): "mxfp8" for block in (0, 1)}
    formats |= {BLOCK.format(1, role): "nvfp4" for role in ("attn.add_q_proj", "txt_mod.1")}
    return recipe_of(KIND, formats)


def read(text: str, fqns: tuple[str, ...] = FQNS) -> dict[str, ListedFormat]:
    """What our reader makes of a command, without what stays bf16."""
    listed = get_reader("convert-to-quant").read(text)
    found = listed.assign(tree(KIND, fqns), quantized=FormatName.NVFP4)
    return {fqn: name for fqn, name in found.items() if name.is_quantized}


LISTS = {
    "a type for some, others left": (
        "--custom-layers 'attn.to_q|img_mlp' --custom-type nvfp4 --exclude-layers .",
        {BLOCK.format(b, r): "nvfp4" for b in (0, 1, 10) for r in ("attn.to_q", "img_mlp.net.2")},
    ),
    "custom layers win over exclusions and presets": (
        "--custom-layers proj_out --custom-type nvfp4 --exclude-layers 'proj|blocks' --qwen",
        {"proj_out": "nvfp4"},
    ),
    "the name has the weight's ending": (
        r"--custom-layers '^proj_out\.weight$|linear$' --custom-type nvfp4 --exclude-layers .*",
        {"proj_out": "nvfp4"},
    ),
    "what is excluded falls back": (
        "--custom-layers 'blocks.1' --custom-type nvfp4 --exclude-layers 'blocks.0'"
        " --fallback fp8 --exclude-layers 'blocks|in|out|text'",
        {fqn: "nvfp4" if "blocks.1" in fqn else "fp8" for fqn in FQNS},
    ),
    "a preset, with the main format for the others": (
        "--qwen --custom-layers nothing --custom-type fp8",
        {fqn: "fp8" for fqn in FQNS if "blocks" in fqn and fqn != "transformer_blocks.0.img_mod.1"},
    ),
    "one format by itself leaves norms": (
        "--mxfp8 --exclude-layers 'to_q|mod' --custom-layers norm_out",
        {fqn: "mxfp8" for fqn in FQNS if not re.search("to_q|mod|norm", fqn)},
    ),
    "alternatives in groups and sets": (
        r"--custom-layers 'blocks\.(0|10)\.attn|[|]|\||txt_mod' --custom-type nvfp4"
        " --exclude_layers=.",
        {
            **{
                BLOCK.format(b, r): "nvfp4"
                for b in (0, 10)
                for r in ("attn.to_q", "attn.add_q_proj")
            },
            **{BLOCK.format(b, "txt_mod.1"): "nvfp4" for b in (0, 1, 10)},
        },
    ),
}
"""{what is shown: (options, {FQN: format} of what is quantized)}, the same in the real tool."""


@pytest.mark.parametrize("name", LISTS)
def test_options_are_read_as_the_tool_reads_them(name: str) -> None:
    """What stays, what falls back and what gets which type; the real tool agrees, below."""
    options, expected = LISTS[name]
    assert read(f"ctq -i in.safetensors -o out.safetensors --simple {options}") == expected


def converted(
    arguments: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch, *, k: int = 64
) -> Path:
    """The file that the real tool makes of one whose weights are small, with `arguments`.

    The classes that quantize to mxfp8 and nvfp4 need a GPU and are replaced; the others are the
    tool's own.
    """
    from convert_to_quant.cli.main import get_parser, run_conversion
    from convert_to_quant.formats import fp8_conversion, mxfp8_conversion

    class Converter:
        block_size, scaling_mode = 32, "tensor"

        def __init__(self, **_more: Any) -> None:
            pass

        def convert(self, tensor: torch.Tensor, **_more: Any) -> Any:
            scales = torch.ones(tensor.shape[0], tensor.shape[1] // 32, dtype=torch.uint8)
            return tensor.to(torch.float8_e4m3fn), scales, None, {}

        def quantize(self, tensor: torch.Tensor) -> Any:
            return self.convert(tensor.cpu())[:2]

    class Finer(Converter):
        def convert(self, tensor: torch.Tensor, **_more: Any) -> Any:
            weight, scales, *rest = super().convert(tensor)
            return weight, scales, torch.ones(()), *rest

    monkeypatch.setattr(fp8_conversion, "LearnedMXFP8Converter", Converter)
    monkeypatch.setattr(fp8_conversion, "LearnedNVFP4Converter", Finer)
    monkeypatch.setattr(mxfp8_conversion, "MXFP8Converter", Converter)
    source, made = folder / "in.safetensors", folder / "out.safetensors"
    tensors = {f"{name}.weight": torch.randn(32, k) for name in (*FQNS, *OTHERS)}
    save_file({key: value.bfloat16() for key, value in tensors.items()}, source)
    options = get_parser().parse_args(
        [
            *(*arguments, "-i", str(source), "-o", str(made), "--device", "cpu"),
            *("--save-quant-metadata", "--calib-samples", "2", "--verbose", "MINIMAL"),
        ]
    )
    run_conversion(options)
    return made


def formats_in(path: Path) -> dict[str, ListedFormat]:
    """{name: format} of what is quantized in a file, as ComfyUI reads it."""
    names = (*FQNS, *OTHERS)
    layers = json.loads(list_in_file(path))["__metadata__"]["_quantization_metadata"]
    listed = get_reader("comfyui").read(layers)
    kept = {entry.text: entry.format for entry in listed.entries if entry.format}
    assert set(kept) <= set(names)
    return kept


@real_tool
@pytest.mark.parametrize("name", LISTS)
def test_the_real_tool_reads_the_options_alike(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file that it makes has the formats that our reader says, layer by layer."""
    options, expected = LISTS[name]
    arguments = ["--simple", *shlex.split(options)]
    if "--custom-type" in options:
        arguments += ["--custom-simple", "--fallback-simple"]
    found = formats_in(converted(arguments, tmp_path, monkeypatch))
    assert {name: own for name, own in found.items() if name in FQNS} == expected


@real_tool
def test_the_real_tool_quantizes_exactly_the_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exported command, with its quoting, gives the recipe's layers their formats, and leaves
    every other matrix of the file as it was; a recipe of one format as well.
    """
    both = scattered()
    one = recipe_of(
        KIND,
        {f: "bf16" if own == "mxfp8" else own.value for f, own in both.layers.items()},
    )
    for number, recipe in enumerate((both, one)):
        folder = tmp_path / str(number)
        folder.mkdir()
        text = ConvertToQuantExporter().export(recipe)
        _, *arguments = shlex.split(text.replace("\\\n", ""), comments=True)
        expected = {fqn: own for fqn, own in recipe.layers.items() if own.is_quantized}
        assert formats_in(converted(arguments, folder, monkeypatch)) == expected


PAIRS = (
    ("int8",),
    ("int8-rot",),
    ("int8", "int8-rot"),
    ("nvfp4-a16", "int8"),
    ("nvfp4-a16", "mxfp8-a16"),
    ("nvfp4", "nvfp4-a16"),
)
"""Int8 beside a main nvfp4 or mxfp8 is not among them: the tool wants a GPU for it."""


@real_tool
@pytest.mark.parametrize("formats", PAIRS, ids="+".join)
def test_the_real_tool_makes_the_variants(
    formats: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """INT8 a row, rotated or not, and weights alone: the metadata of the real tool's file gives
    each layer the recipe's format, and INT8 weights have one scale a row.
    """
    chosen = [BLOCK.format(b, r) for b in (0, 1, 10) for r in ("img_mlp.net.2", "txt_mod.1")]
    layers = {fqn: formats[place % len(formats)] for place, fqn in enumerate(chosen)}
    recipe = recipe_of(KIND, dict.fromkeys(FQNS, "bf16") | layers)
    text = ConvertToQuantExporter().export(recipe)
    _, *arguments = shlex.split(text.replace("\\\n", ""), comments=True)
    made = converted(arguments, tmp_path, monkeypatch, k=256)
    assert formats_in(made) == layers
    with safe_open(made, "pt") as file:
        for fqn, name in layers.items():
            if name.startswith("int8"):
                assert file.get_tensor(f"{fqn}.weight_scale").numel() == 32


def test_a_rotation_beside_weights_alone_is_refused() -> None:
    """What is said for one of two formats is for both there; the nearest recipe has one of them."""
    recipe = make_recipe([*FQNS], FQNS[:2], "int8-rot", "nvfp4-a16", component_class=KIND)
    with pytest.raises(RecipeError, match="cannot name int8-rot and nvfp4-a16 together: the opt"):
        ConvertToQuantExporter().export(recipe)
    nearest = ConvertToQuantExporter().nearest(recipe)
    assert set(nearest.values()) == {FormatName.INT8_ROT, FormatName.BF16}
    three = make_recipe([*FQNS], FQNS[:3], "int8", "nvfp4", "mxfp8", component_class=KIND)
    with pytest.raises(RecipeError, match="its file names 2 quantized format"):
        ConvertToQuantExporter().export(three)
    lacking = make_recipe([*FQNS], FQNS[:1], "fp8-a16", component_class=KIND)
    with pytest.raises(RecipeError, match=r"it has no fp8-a16 \(ComfyUI has no fp8 with one sc"):
        ConvertToQuantExporter().export(lacking)


@real_tool
def test_presets_are_the_real_tools() -> None:
    """Each preset has the tool's own texts, but for those in which another one stands."""
    from convert_to_quant.constants import AVOID_KEY_NAMES, MODEL_FILTERS

    def shortest(texts: Any) -> set[str]:
        return {one for one in texts if not any(own in one for own in texts if own != one)}

    assert shortest(AVOID_KEY_NAMES) == shortest(ALWAYS)
    for name, ours in FILTERS.items():
        own = MODEL_FILTERS[name]
        theirs = [*own.get("exclude", []), *own.get("highprec", [])]
        assert shortest(theirs) == shortest(ours), name
    assert set(MODEL_FILTERS) == {*FILTERS, *OTHER_FILTERS}


def test_a_command_with_two_formats() -> None:
    """One format is named, the other is the main one, and the rest of the file is excluded."""
    text = ConvertToQuantExporter().export(scattered())
    assert guess_reader(text).name == "convert-to-quant"
    words = shlex.split(text.replace("\\\n", ""), comments=True)
    assert words[:5] == ["ctq", "-i", "model.safetensors", "-o", "model-quantized.safetensors"]
    assert words[words.index("--custom-type") + 1] == "nvfp4"
    assert {"--mxfp8", "--simple", "--custom-simple"} <= set(words)
    excluded = re.compile(words[words.index("--exclude-layers") + 1])
    assert [name for name in (*FQNS, *OTHERS) if not excluded.search(f"{name}.weight")] == [
        "transformer_blocks.0.img_mlp.net.2",
        "transformer_blocks.1.img_mlp.net.2",
    ]
    assert not excluded.search("model.diffusion_model.transformer_blocks.0.img_mlp.net.2.weight")


def test_fused_layers_are_named_once() -> None:
    """FLUX's q, k and v are one matrix of the original checkpoint."""
    fqns = [f"transformer_blocks.0.attn.to_{part}" for part in "qkv"]
    recipe = recipe_of("FluxTransformer2DModel", dict.fromkeys(fqns, "nvfp4"))
    assert (
        r"'^(model\.diffusion_model\.)?double_blocks\.0\.img_attn\.qkv\.weight$'"
        in ConvertToQuantExporter().export(recipe)
    )


def test_two_denoisers_are_two_commands() -> None:
    """Each has a comment with its name; one that stays bf16 excludes everything."""
    fqns = [
        f"{part}.blocks.{n}.ffn.net.2" for part in ("transformer", "transformer_2") for n in "01"
    ]
    recipe = two_wans(dict.fromkeys(fqns, "bf16") | {fqns[0]: "nvfp4"})
    text = ConvertToQuantExporter().export(recipe)
    assert text.count("ctq -i") == 2
    assert "# component: transformer_2\nctq -i transformer_2.safetensors" in text
    assert text.rstrip().endswith("--exclude-layers .")
    listed = get_reader("convert-to-quant").read(text)
    assert listed.parts == ("transformer", "transformer_2")
    without = text.replace("# component", "# of")
    with pytest.raises(PatternError, match="found 2 commands; expected one, or a comment"):
        get_reader("convert-to-quant").read(without)


def test_fp8_is_refused() -> None:
    """Its fp8 has one scale a tensor, or multiplies in 16 bits; mxfp8 is what comes near."""
    recipe = make_recipe([*FQNS], [FQNS[0]], "fp8", component_class=KIND)
    with pytest.raises(RecipeError, match=r"it has no fp8, which .*img_in"):
        ConvertToQuantExporter().export(recipe)
    assert ConvertToQuantExporter().nearest(recipe)[FQNS[0]] is FormatName.MXFP8
    unknown = make_recipe(["a"], ["a"], "nvfp4", component_class="SD3Transformer2DModel")
    with pytest.raises(RecipeError, match="the names that it gives the Linears of SD3"):
        ConvertToQuantExporter().export(unknown)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", FormatName.FP8),
        ("--int8", "int8, one scale a tensor (convert_to_quant)"),
        ("--scaling-mode row", "fp8, one scale a row (convert_to_quant) weight-only"),
        ("--scaling_mode=block", "fp8, one scale a block (convert_to_quant)"),
        ("--nvfp4", FormatName.NVFP4),
        ("--mxfp8 --custom-type fp8 -fpmm", FormatName.MXFP8_A16),
        ("-fpmm", "fp8 weight-only"),
        ("--int8 --scaling_mode row", FormatName.INT8),
        ("--int8 --scaling_mode row -fpmm", FormatName.INT8_A16),
        ("--int8 --scaling_mode row --convrot", FormatName.INT8_ROT),
        ("--int8 --scaling_mode row --convrot --convrot-group-size 64", FormatName.INT8_ROT),
        (
            "--int8 --scaling_mode row --convrot --convrot-group-size 1024",
            "int8, rotated by 1024 (convert_to_quant)",
        ),
        (
            "--int8 --scaling_mode row --dynamic-convrot",
            "int8, rotated by as much as K allows (convert_to_quant)",
        ),
    ],
)
def test_the_main_format(options: str, expected: str) -> None:
    """What a command without lists makes of a Linear."""
    assert read(f"./bin/ctq -i a.safetensors {options}", ("img_in",)) == {"img_in": expected}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--custom-layers a", "custom_layers without custom_type, on which"),
        ("--custom-layers a --custom-type fp4", "custom_type 'fp4'; expected one of fp8, int8"),
        ("--layer-config a.json", "layer_config, which names another file"),
        ("--hunyuan", "preset hunyuan, for models whose names are not known"),
        ("--edit-quant --add-keys a", "edit_quant, which quantizes nothing"),
        ("--exclude-layers 'a", r"cannot be read \(No closing quotation\)"),
        ("--exclude-layers '(a'", "the regular expression '\\(a'"),
    ],
)
def test_other_commands_are_refused(options: str, message: str) -> None:
    """Wrong ones, and those that cannot be followed, by what was found."""
    with pytest.raises(PatternError, match=message):
        read(f"# mine\n\npython -m convert_to_quant {options}")


def test_what_is_not_seen_is_said() -> None:
    """Notes on shapes, on ignored layers, and on what one scale a tensor means."""
    notes = get_reader("convert-to-quant").read("ctq -i a --nvfp4 --heur --custom-layers b").notes
    assert [note.split()[0] for note in notes] == ["`heur`", "custom_layers", "a"]
    assert "one scale a tensor" in get_reader("convert-to-quant").read("ctq -i a").notes[0]
    with pytest.raises(PatternError, match="found no command"):
        get_reader("convert-to-quant").read("cp a b")


@pytest.mark.filterwarnings("ignore:Possible :FutureWarning")
@given(st.text(alphabet=r"ab|()[]\^.1", max_size=9), st.text(alphabet="ab|1)]", max_size=4))
def test_alternatives_mean_the_whole(expression: str, name: str) -> None:
    """Any of them matches where the whole expression does, whatever it is made of."""
    try:
        whole = re.compile(expression)
    except re.error:
        return
    parts = [re.compile(part) for part in alternatives(expression)]
    assert bool(whole.search(name)) == any(part.search(name) for part in parts)
