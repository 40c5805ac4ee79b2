"""ModelOpt's lists: what its reader makes of them, and that exported ones mean exactly the recipe,
to our reader and to ModelOpt itself.

ModelOpt is large and slow to import, so the tests do without it. Those marked `real_modelopt` run
where it is installed, and were run with 0.47.0 beside torch 2.15 and diffusers 0.42.1: `uv run
--group consumers pytest tests/test_modelopt.py`. The others compare with what it did then:
`RECORDED` is what its `set_quantizer_by_cfg` made of `LISTS` on these namesakes, and a test
compares that again with the real one.
"""

import importlib.util
import json
import random
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from sensitivity.consumers.exporters.attention_families import attention_families
from sensitivity.consumers.exporters.modelopt import ModelOptExporter
from sensitivity.consumers.lists import ModelTree
from sensitivity.consumers.readers import get_reader, guess_reader
from sensitivity.consumers.readers.modelopt_quantizers import QuantizerList
from sensitivity.core.format_name import FormatName
from sensitivity.errors import PatternError, RecipeError
from sensitivity.recipes.recipe import Recipe

from support.namesakes import NamesakeNet, linears
from support.recipes import make_recipe

real_modelopt = pytest.mark.skipif(
    importlib.util.find_spec("modelopt") is None, reason="nvidia-modelopt is not installed"
)

NVFP4 = {"num_bits": (2, 1), "block_sizes": {-1: 16, "type": "dynamic", "scale_bits": (4, 3)}}
MXFP8 = {"num_bits": (4, 3), "block_sizes": {-1: 32, "type": "dynamic", "scale_bits": (8, 0)}}
TENSOR = {"num_bits": (4, 3), "axis": None}
ROW, TOKEN = (
    {"num_bits": (4, 3), "axis": 0},
    {
        "num_bits": (4, 3),
        "type": "dynamic",
        "block_sizes": {-1: None},
    },
)
OFF = {"quantizer_name": "*", "enable": False}


def both(
    pattern: str, weight: dict[str, Any], inputs: dict[str, Any] | None = None, **more: Any
) -> list[dict[str, Any]]:
    """Entries for the weight and the input of what a pattern names."""
    return [
        {"quantizer_name": f"{pattern}weight_quantizer", "cfg": weight, **more},
        {"quantizer_name": f"{pattern}input_quantizer", "cfg": inputs or weight, **more},
    ]


def with_convolution() -> NamesakeNet:
    """Namesakes and a convolution, which has quantizers as well."""
    return NamesakeNet(conv=nn.Conv2d(16, 16, 1))


FQNS = tuple(linears(with_convolution()))

LISTS: dict[str, list[dict[str, Any]]] = {
    "the default preset, which turns proj_out off": [
        OFF,
        *both("*", NVFP4),
        {"quantizer_name": "*proj_out.*", "enable": False},
    ],
    "a full name": [OFF, *both("*", NVFP4), {"quantizer_name": "proj_out.*", "enable": False}],
    "a name without its quantizer": [
        OFF,
        *both("*", NVFP4),
        {"quantizer_name": "proj_out", "enable": False},
    ],
    "anchored at its start": [OFF, *both("blocks.1.*", MXFP8)],
    "open at its start": [OFF, *both("*blocks.1*", MXFP8)],
    "the last one decides": [
        OFF,
        *both("*", ROW, TOKEN),
        *both("*to_q.", NVFP4),
        {"quantizer_name": "blocks.1.*", "enable": False},
    ],
    "on again, as it was": [
        OFF,
        *both("*", NVFP4),
        {"quantizer_name": "*", "enable": False},
        {"quantizer_name": "blocks.[!1]*.to_q.[wi]*", "enable": True},
    ],
    "of another class": [
        OFF,
        *both("*", NVFP4, parent_class="nn.Linear"),
        {"quantizer_name": "*", "parent_class": "nn.Conv2d", "enable": False},
    ],
}
"""Lists in which matching goes wrong easily."""


def _named(*chosen: str) -> list[str]:
    return [fqn for fqn in FQNS if any(fqn == name or fqn.startswith(name) for name in chosen)]


_TO_Q = [fqn for fqn in FQNS if fqn.endswith("to_q")]
RECORDED: dict[str, dict[str, str]] = {
    "the default preset, which turns proj_out off": dict.fromkeys(_TO_Q, "nvfp4"),
    "a full name": dict.fromkeys([fqn for fqn in FQNS if fqn != "proj_out"], "nvfp4"),
    "a name without its quantizer": dict.fromkeys(FQNS, "nvfp4"),
    "anchored at its start": dict.fromkeys(["blocks.1.to_q", "blocks.1.proj_out"], "mxfp8"),
    "open at its start": dict.fromkeys(_named("blocks.1", "single_blocks.1"), "mxfp8"),
    "the last one decides": {
        fqn: "nvfp4" if fqn in _TO_Q else "fp8"
        for fqn in FQNS
        if fqn not in ("blocks.1.to_q", "blocks.1.proj_out")
    },
    "on again, as it was": dict.fromkeys([f"blocks.{n}.to_q" for n in (0, *range(2, 10))], "nvfp4"),
    "of another class": dict.fromkeys(FQNS, "nvfp4"),
}
"""{list: {Linear: format}} of those that are quantized, by ModelOpt 0.47.0."""


def read(
    value: Any, fqns: tuple[str, ...] = FQNS, quantized: FormatName = FormatName.MXFP8
) -> dict[str, str]:
    """{Linear: format} of those that our reader says are quantized."""
    text = value if isinstance(value, str) else repr(value)
    found = get_reader("modelopt").read(text).assign(ModelTree(fqns=fqns), quantized=quantized)
    return {fqn: str(name) for fqn, name in found.items() if name is not FormatName.BF16}


@pytest.mark.parametrize("name", LISTS)
def test_reader_matches_as_recorded(name: str) -> None:
    """What ModelOpt did with each list is what our reader says of it, as a list and as a whole
    config, in Python and in JSON.
    """
    assert read(LISTS[name]) == RECORDED[name]
    assert read({"quant_cfg": LISTS[name], "algorithm": "max"}) == RECORDED[name]
    assert read(json.dumps({"quant_cfg": LISTS[name]})) == RECORDED[name]


def quantize(module: nn.Module, config: dict[str, Any]) -> dict[str, str]:
    """ModelOpt's own word about what `mtq.quantize` did to each Linear; nothing else in the module
    may be quantized.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import modelopt.torch.quantization as mtq
        from modelopt.torch.export.quant_utils import get_quantization_format
        from modelopt.torch.quantization.nn import TensorQuantizer

        fqns = linears(module)
        mtq.quantize(module, config, None)
    names = {"nvfp4": "nvfp4", "mxfp8": "mxfp8", "fp8_pc_pt": "fp8", "fp8": "fp8 per tensor"}
    found = {}
    for fqn in fqns:
        linear = module.get_submodule(fqn)
        assert linear.weight_quantizer.is_enabled == linear.input_quantizer.is_enabled
        if linear.weight_quantizer.is_enabled:
            found[fqn] = names[get_quantization_format(linear)]
            assert linear.input_quantizer.num_bits == linear.weight_quantizer.num_bits
            if found[fqn] != "fp8":
                assert linear.input_quantizer.block_sizes == linear.weight_quantizer.block_sizes
            else:
                assert (
                    linear.weight_quantizer.axis,
                    linear.input_quantizer._dynamic,
                    linear.input_quantizer.block_sizes,
                ) == (
                    0,
                    True,
                    {-1: None},
                )
    on = {
        name.rpartition(".")[0]
        for name, child in module.named_modules()
        if isinstance(child, TensorQuantizer) and child.is_enabled
    }
    assert on == set(found)
    return found


@real_modelopt
@pytest.mark.parametrize("name", LISTS)
def test_recorded_is_what_modelopt_does(name: str) -> None:
    """`set_quantizer_by_cfg` itself gives each Linear of the net the recorded format."""
    from modelopt.torch.export.quant_utils import get_quantization_format
    from modelopt.torch.quantization.conversion import replace_quant_module, set_quantizer_by_cfg

    net = with_convolution()
    replace_quant_module(net)
    set_quantizer_by_cfg(net, LISTS[name])
    found = {fqn: get_quantization_format(net.get_submodule(fqn)) for fqn in FQNS}
    assert {fqn: kind.replace("_pc_pt", "") for fqn, kind in found.items() if kind} == RECORDED[
        name
    ]


PATTERNS = (
    "*",
    "*.weight_quantizer",
    "blocks.1.*",
    "*proj_out*",
    "*to_q.*_quantizer",
    "[!b]*.to_q.input_quantizer",
    "proj_out",
    "proj_out.weight_quantizer",
)
CFGS = (None, NVFP4, MXFP8, ROW, TENSOR)


@real_modelopt
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.tuples(
            st.sampled_from(PATTERNS),
            st.sampled_from(CFGS),
            st.sampled_from([True, False]),
            st.sampled_from([None, "nn.Linear", "nn.Conv2d"]),
        )
    )
)
def test_reader_applies_any_list_as_modelopt_does(
    entries: list[tuple[str, Any, bool, str | None]],
) -> None:
    """Each quantizer of each Linear ends on or off and with the numbers that our reader's steps
    say, whatever overrides what.
    """
    from modelopt.torch.quantization.conversion import replace_quant_module, set_quantizer_by_cfg

    steps = [
        {"quantizer_name": name, "enable": on}
        | ({"cfg": cfg} if cfg else {})
        | ({"parent_class": parent} if parent else {})
        for name, cfg, on, parent in entries
    ]
    net = nn.ModuleDict(
        {
            "blocks": nn.ModuleList(
                nn.ModuleDict({"to_q": nn.Linear(32, 32), "proj_out": nn.Linear(32, 32)})
                for _ in range(2)
            ),
            "proj_out": nn.Linear(32, 32),
        }
    )
    fqns = linears(net)
    replace_quant_module(net)
    set_quantizer_by_cfg(net, steps)
    listed = get_reader("modelopt").read(repr([OFF, *steps]) if steps else repr([OFF]))
    assert isinstance(listed, QuantizerList)
    for kind, states in (
        replace(listed, steps=listed.steps[1:]).states(ModelTree(fqns=tuple(fqns))).items()
    ):
        for fqn in fqns:
            real = getattr(net.get_submodule(fqn), kind)
            assert states[fqn].on == real.is_enabled
            if kind != "output_quantizer" and states[fqn].numerics:
                assert (
                    states[fqn].numerics.format.value
                    == {
                        (2, 1): "nvfp4",
                        (4, 3): "mxfp8" if (real.block_sizes or {}).get(-1) else "fp8",
                    }[real.num_bits]
                )


@real_modelopt
def test_cfgs_are_modelopts_presets() -> None:
    """The exported cfgs are those of the presets of the installed ModelOpt, but for a hint about
    costs.
    """
    import modelopt.torch.quantization as mtq

    from sensitivity.consumers.exporters.modelopt import CONFIGS

    for name, preset in {
        "nvfp4": mtq.NVFP4_DEFAULT_CFG,
        "mxfp8": mtq.MXFP8_DEFAULT_CFG,
        "fp8": mtq.FP8_PER_CHANNEL_PER_TOKEN_CFG,
    }.items():
        given = {
            entry["quantizer_name"]: entry["cfg"]
            for entry in preset["quant_cfg"]
            if entry.get("cfg")
        }
        for kind, ours in zip(("weight", "input"), CONFIGS[FormatName(name)], strict=True):
            theirs = {
                key: value
                for key, value in given[f"*{kind}_quantizer"].items()
                if key != "effective_bits" and value is not None
            }
            assert theirs == ours


# --- the exporter ---------------------------------------------------------------------------------


def tiny_flux() -> nn.Module:
    """FLUX with eleven blocks of each kind."""
    from diffusers import FluxTransformer2DModel

    return FluxTransformer2DModel(
        patch_size=1,
        in_channels=32,
        num_layers=11,
        num_single_layers=11,
        attention_head_dim=32,
        num_attention_heads=1,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(8, 12, 12),
    ).bfloat16()


def tiny_ltx2() -> nn.Module:
    """LTX-2 with eleven blocks: video, audio, and attentions between them."""
    from diffusers import LTX2VideoTransformer3DModel

    return LTX2VideoTransformer3DModel(
        in_channels=32,
        out_channels=32,
        patch_size=1,
        patch_size_t=1,
        num_attention_heads=1,
        attention_head_dim=32,
        cross_attention_dim=32,
        audio_in_channels=32,
        audio_out_channels=32,
        audio_num_attention_heads=1,
        audio_attention_head_dim=32,
        audio_cross_attention_dim=32,
        num_layers=11,
        qk_norm="rms_norm_across_heads",
        caption_channels=32,
        rope_double_precision=False,
        rope_type="split",
    ).bfloat16()


MODELS: dict[str, Callable[[], nn.Module]] = {
    "flux": tiny_flux,
    "ltx2": tiny_ltx2,
    "namesakes": with_convolution,
}


def scattered(fqns: list[str], *formats: str) -> Recipe:
    """Formats drawn for each Linear, the same for q, k and v; `proj_out` of the top and block 1
    stay bf16, which their namesakes do not.
    """
    rng, layers = random.Random(0), dict.fromkeys(fqns, "bf16")
    for fqn in fqns:
        layers[fqn] = rng.choice([*formats, *formats, "bf16"])
    for family in attention_families(fqns):
        layers.update(dict.fromkeys(family, layers[family[0]]))
    kept = [
        fqn
        for fqn in fqns
        if fqn in ("proj_out", "audio_proj_out") or fqn.startswith("transformer_blocks.1.")
    ]
    layers.update(dict.fromkeys(kept, "bf16"))
    recipe = make_recipe(fqns, [])
    return Recipe.from_mapping(
        {
            **recipe.model_dump(),
            "layers": layers,
            "skip": [fqn for fqn in fqns if layers[fqn] == "bf16"],
        }
    )


def config_of(text: str) -> dict[str, Any]:
    """The config that an exported Python text defines."""
    namespace: dict[str, Any] = {}
    exec(compile(text, "exported.py", "exec"), namespace)
    return namespace["config"]


@pytest.mark.parametrize("form", list(ModelOptExporter.forms))
@pytest.mark.parametrize("formats", [("nvfp4",), ("mxfp8", "nvfp4", "fp8")], ids="+".join)
@pytest.mark.parametrize("model", MODELS)
def test_export_means_the_recipe(model: str, formats: tuple[str, ...], form: str) -> None:
    """Read back by ModelOpt's rules, on the model's real names, each text gives every Linear its
    format.
    """
    with torch.device("meta"):
        fqns = linears(MODELS[model]())
    recipe = scattered(fqns, *formats)
    exporter = ModelOptExporter(form=form)
    assert exporter.assign(exporter.export(recipe), recipe, fqns) == recipe.layers
    assert guess_reader(exporter.export(recipe)).name == "modelopt"


@real_modelopt
@pytest.mark.parametrize("formats", [("nvfp4",), ("mxfp8", "nvfp4", "fp8")], ids="+".join)
@pytest.mark.parametrize("model", MODELS)
def test_real_modelopt_quantizes_exactly_the_recipe(model: str, formats: tuple[str, ...]) -> None:
    """`mtq.quantize` with the exported config gives the recipe's Linears their formats and nothing
    else; what it then writes we read, and write alike.
    """
    from modelopt.torch.export.convert_hf_config import convert_hf_quant_config_format
    from modelopt.torch.export.quant_utils import get_quant_config

    net = MODELS[model]()
    recipe = scattered(linears(net), *formats)
    chosen = {fqn: str(name) for fqn, name in recipe.layers.items() if name is not FormatName.BF16}
    assert quantize(net, config_of(ModelOptExporter().export(recipe))) == chosen
    written = get_quant_config(net)
    assert read(json.dumps(written), tuple(recipe.layers)) == chosen
    assert (
        read(
            json.dumps({"quantization_config": convert_hf_quant_config_format(written)}),
            tuple(recipe.layers),
        )
        == chosen
    )
    if len(formats) > 1:
        ours = json.loads(ModelOptExporter(form="hf-quant-config").export(recipe))["quantization"]
        theirs = {
            fqn: {key: value for key, value in layer.items() if value}
            for fqn, layer in written["quantization"]["quantized_layers"].items()
        }
        assert ours["quantized_layers"] == theirs


def test_two_denoisers_get_a_config_each() -> None:
    """Where a recipe is for two, names in a config are those inside its component, and each config
    holds for its own alone.
    """
    fqns = [
        f"{part}.blocks.{n}.attn1.to_q"
        for part in ("transformer", "transformer_2")
        for n in (1, 10)
    ]
    components = {"transformer": "WanTransformer3DModel", "transformer_2": "WanTransformer3DModel"}
    recipe = make_recipe(
        fqns,
        [fqns[0], fqns[3]],
        "nvfp4",
        component_class="WanTransformer3DModel",
        components=components,
    )
    for form in ModelOptExporter.forms:
        exporter = ModelOptExporter(form=form)
        assert exporter.assign(exporter.export(recipe), recipe, fqns) == recipe.layers
    configs = config_of(ModelOptExporter().export(recipe))
    names = {
        part: [entry["quantizer_name"] for entry in config["quant_cfg"]]
        for part, config in configs.items()
    }
    assert names["transformer"] == [
        "*",
        "blocks.1.attn1.to_q.weight_quantizer",
        "blocks.1.attn1.to_q.input_quantizer",
    ]
    assert names["transformer_2"] == [
        "*",
        "blocks.10.attn1.to_q.weight_quantizer",
        "blocks.10.attn1.to_q.input_quantizer",
    ]


def test_patterns_are_few_and_have_reasons() -> None:
    """Roles over many blocks are one pattern, with its reason above; the header says versions,
    numbers and what calibration has to do with them.
    """
    recipe = make_recipe(FQNS, [fqn for fqn in FQNS if fqn.endswith("to_q")], "nvfp4")
    text = ModelOptExporter().export(recipe)
    entries = config_of(text)["quant_cfg"]
    assert [entry["quantizer_name"] for entry in entries] == [
        "*",
        "*.to_q.weight_quantizer",
        "*.to_q.input_quantizer",
    ]
    assert {entry.get("parent_class") for entry in entries[1:]} == {"nn.Linear"}
    assert "# nvfp4: every to_q, wherever it stands (22 Linears)" in text
    for words in (
        "for 0.44 and newer",
        "mtq.quantize(pipeline.transformer, config",
        "predicted for b200",
        "scale a tensor from calibration",
    ):
        assert words in text


@pytest.mark.parametrize(
    ("quantized", "algorithms"),
    [
        ([f"transformer.{fqn}" for fqn in FQNS if fqn.endswith("to_q")], ["NVFP4", None]),
        (
            [
                f"{part}.{fqn}"
                for part in ("transformer", "transformer_2")
                for fqn in FQNS
                if (part, fqn) != ("transformer", "proj_out")
            ],
            ["MIXED_PRECISION", "NVFP4"],
        ),
    ],
)
def test_two_denoisers_whose_checkpoints_say_it_differently(
    quantized: list[str], algorithms: list[str | None]
) -> None:
    """One may be left alone, or list what is quantized where the other lists what is not; the
    reader knows each one's default.
    """
    components = dict.fromkeys(("transformer", "transformer_2"), "WanTransformer3DModel")
    recipe = make_recipe(
        [f"{part}.{fqn}" for part in components for fqn in FQNS],
        quantized,
        "nvfp4",
        component_class="WanTransformer3DModel",
        components=components,
    )
    exporter = ModelOptExporter(form="hf-quant-config")
    text = exporter.export(recipe)
    assert [part["quantization"]["quant_algo"] for part in json.loads(text).values()] == algorithms
    assert exporter.verify(recipe, recipe.layers) == recipe.layers


def test_checkpoints_say_mixed_precision_where_names_are_parts_of_others() -> None:
    """vLLM takes an excluded name as a substring:

    `proj_out` alone would exclude those of the blocks, so quantized Linears are listed instead.
    """
    free = make_recipe(FQNS, [fqn for fqn in FQNS if fqn.endswith("to_q")], "mxfp8")
    body = json.loads(ModelOptExporter(form="hf-quant-config").export(free))["quantization"]
    assert (body["quant_algo"], body["group_size"], body["exclude_modules"]) == (
        "MXFP8",
        32,
        list(free.skip),
    )
    bound = make_recipe(FQNS, [fqn for fqn in FQNS if fqn != "proj_out"], "fp8")
    body = json.loads(ModelOptExporter(form="hf-quant-config").export(bound))["quantization"]
    assert body["quant_algo"] == "MIXED_PRECISION"
    assert body["quantized_layers"]["blocks.0.proj_out"] == {
        "quant_algo": "FP8_PER_CHANNEL_PER_TOKEN"
    }


def test_checkpoints_with_torn_attentions_are_refused() -> None:
    """ModelOpt's export asserts one format for q, k and v: checkpoints are refused, quant_cfg says
    it in a comment; a cross-attention's q is free.
    """
    fqns = [
        f"blocks.0.{attention}.{name}"
        for attention in ("attn1", "attn2")
        for name in ("to_q", "to_k", "to_v")
    ]
    torn = make_recipe(fqns, ["blocks.0.attn1.to_q", "blocks.0.attn2.to_q"], "nvfp4")
    exporter = ModelOptExporter(form="hf-quant-config")
    with pytest.raises(
        RecipeError, match=r"blocks.0.attn1.to_q \(nvfp4\), blocks.0.attn1.to_k \(bf16\)"
    ):
        exporter.export(torn)
    nearest = exporter.nearest(torn)
    assert {fqn for fqn, name in nearest.items() if name is not FormatName.BF16} == {
        "blocks.0.attn2.to_q"
    }
    assert (
        "asserts that q, k and v have one format, which 1 attentions do not"
        in ModelOptExporter().export(torn)
    )


@real_modelopt
def test_real_modelopt_refuses_torn_attentions() -> None:
    """Fusing Linears of two formats is an assertion in what its export of diffusers models calls."""
    from modelopt.torch.export.quant_utils import preprocess_linear_fusion

    net = with_convolution()
    quantize(
        net,
        {
            "quant_cfg": [OFF, *both("blocks.0.to_q.", NVFP4), *both("blocks.1.to_q.", MXFP8)],
            "algorithm": "max",
        },
    )
    with pytest.raises(AssertionError, match="different quantization formats"):
        preprocess_linear_fusion([net.blocks[0].to_q, net.blocks[1].to_q])


@real_modelopt
def test_real_modelopt_calls_the_same_names_qkv() -> None:
    """The families that the exporter keeps together are those of ModelOpt's own functions."""
    from modelopt.torch.export.diffusers_utils import get_qkv_group_key, is_qkv_projection

    with torch.device("meta"):
        fqns = [fqn for make in (tiny_flux, tiny_ltx2) for fqn in linears(make())]
    groups: dict[str, set[str]] = {}
    for fqn in filter(is_qkv_projection, fqns):
        groups.setdefault(get_qkv_group_key(fqn), set()).add(fqn)
    families = [set(family) for family in attention_families(fqns)]
    assert families
    assert all(any(family <= group for group in groups.values()) for family in families)
    assert {fqn for group in groups.values() for fqn in group} - {
        fqn for family in families for fqn in family
    } == {
        fqn
        for fqn in fqns
        if fqn.endswith("to_q") and ("attn2" in fqn or "_to_" in fqn.split(".")[-2])
    }


# --- the reader -----------------------------------------------------------------------------------


def test_an_addition_takes_the_users_format() -> None:
    """Entries without any cfg are what people append to a preset: what they do not turn off has the
    format that is named, and a note says so.
    """
    listed = get_reader("modelopt").read('[{"quantizer_name": "*proj_out*", "enable": false}]')
    assert read(
        [{"quantizer_name": "*proj_out*", "enable": False}], quantized=FormatName.FP8
    ) == dict.fromkeys(_TO_Q, "fp8")
    assert "read as an addition" in listed.notes[0]


def test_the_older_dict_is_read_as_it_was() -> None:
    """Up to 0.43 `default` came first wherever it stood; a cfg alone turned nothing on, classes
    held dicts of their own (as 0.43.0 did when it was run).
    """
    off = {"enable": False}
    on = {**NVFP4, "enable": True}
    old = {
        "*weight_quantizer": on,
        "*input_quantizer": on,
        "nn.Conv2d": {"*": off},
        "*proj_out*": off,
        "default": off,
    }
    assert read({"quant_cfg": old}) == read(old) == dict.fromkeys(_TO_Q, "nvfp4")
    notes = get_reader("modelopt").read(repr(old)).notes
    assert any("later releases apply `default` where it stands" in note for note in notes)
    assert read({"*weight_quantizer": NVFP4, "*input_quantizer": NVFP4, "default": off}) == {}


def test_fp8_of_other_granularity_is_said() -> None:
    """FP8_DEFAULT_CFG has one scale a tensor: it is read as fp8 with a note; row and token scales
    need none. Entries about attention are set apart.
    """
    preset = [
        OFF,
        *both("*", TENSOR),
        {"quantizer_name": "*softmax_quantizer", "cfg": TENSOR},
        {"quantizer_name": "*output_quantizer", "enable": False},
    ]
    listed = get_reader("modelopt").read(repr(preset))
    assert read(preset) == dict.fromkeys(FQNS, "fp8")
    assert len(listed.entries) == 3
    assert any("one scale a tensor" in note for note in listed.notes)
    assert any("2 entries are about other quantizers" in note for note in listed.notes)
    assert not get_reader("modelopt").read(repr([OFF, *both("*", ROW, TOKEN)])).notes


def test_hits_say_what_an_entry_names() -> None:
    """An entry hits the Linears of which it names the weight or the input; one without a
    quantizer's name hits nothing, and stays in the list to be reported.
    """
    listed = get_reader("modelopt").read(
        repr([OFF, *both("*blocks.1.", NVFP4), {"quantizer_name": "proj_out", "enable": False}])
    )
    hits = {entry.text: listed.hits(entry, ModelTree(fqns=FQNS)) for entry in listed.entries}
    assert hits["*"] == set(FQNS)
    assert hits["*blocks.1.input_quantizer"] == frozenset()
    assert hits["proj_out"] == frozenset()
    hits = [
        listed.hits(entry, ModelTree(fqns=("blocks.1", "a.blocks.10")))
        for entry in listed.entries[1:3]
    ]
    assert hits == [frozenset({"blocks.1"})] * 2


def test_checkpoint_configs_are_shell_patterns() -> None:
    """`exclude_modules` and `ignore` match whole names with wildcards, and a note says that vLLM
    takes substrings; MIXED_PRECISION names what is quantized.
    """
    excluded = {
        "quantization": {
            "quant_algo": "NVFP4",
            "exclude_modules": ["proj_out", "blocks.1.*", "single*"],
        }
    }
    kept = {"proj_out", *_named("blocks.1."), *_named("single")}
    assert read(excluded) == dict.fromkeys([fqn for fqn in FQNS if fqn not in kept], "nvfp4")
    flat = {
        "quant_method": "modelopt",
        "quant_algo": "MXFP8",
        "ignore": ["*proj_out"],
        "config_groups": {},
    }
    assert read(json.dumps(flat)) == dict.fromkeys(_TO_Q, "mxfp8")
    assert guess_reader(json.dumps(flat)).name == "modelopt"
    assert any(
        "vLLM also skips" in note
        for note in get_reader("modelopt").read(json.dumps(excluded)).notes
    )
    mixed = {
        "quant_algo": "MIXED_PRECISION",
        "quantized_layers": {
            "proj_out": {"quant_algo": "FP8"},
            "blocks.1.to_q": {"quant_algo": "NVFP4"},
        },
    }
    assert read({"quantization": mixed}) == {"proj_out": "fp8", "blocks.1.to_q": "nvfp4"}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([OFF, both("*", NVFP4)[0]], "has only its weight quantized"),
        (both("blocks.*", NVFP4), r"proj_out is left in ModelOpt's default \(int8\)"),
        ([OFF, *both("*", NVFP4, MXFP8)], "has mxfp8 and nvfp4 mixed"),
        (
            [OFF, *both("*", NVFP4), {"quantizer_name": "*proj_out*", "enable": True}],
            "has its output quantized",
        ),
        ([OFF, *both("*", {"num_bits": 8, "axis": None})], r"expected one of NVFP4 \(num_bits"),
        ([OFF, {"quantizer_name": "*"}], "neither cfg nor enable"),
        ([OFF, {"name": "*", "cfg": NVFP4}], r"found the entry .*write each entry so"),
        ([{"quantizer_name": 3, "enable": False}], "found '3' in quantizer_name"),
        (
            {"quantization": {"quant_algo": "W4A16_AWQ"}},
            "found the quant_algo 'W4A16_AWQ'; expected one of NVFP4",
        ),
        ({"quantization": {"quant_algo": "MIXED_PRECISION"}}, "without quantized_layers"),
        ({"quant_cfg": 3}, "found a quant_cfg that is a int"),
        (
            "import modelopt\nCFG = modelopt.NVFP4_DEFAULT_CFG",
            r"line 2: found code \(modelopt.NVFP4_DEFAULT_CFG\)",
        ),
        (
            "config = [{'quantizer_name': '*', 'enable': False, 'enable': True}]",
            "found the key 'enable', twice",
        ),
        ('{"quant_cfg": [], "quant_cfg": []}', "twice"),
        (
            "a = [0, 0]\n"
            + "\n".join(
                f"{x} = [*{y}, *{y}]"
                for x, y in zip("bcdefghijklmnopq", "abcdefghijklmnop", strict=True)
            ),
            "over 20000 items",
        ),
        ("[" * 5000, "neither JSON"),
        ("-" * 200_000 + "1", "neither JSON"),
        ("- not: python", "neither JSON"),
        ("x" * 4_000_001, "found a text of 4000001 characters"),
        ("{}", "no ModelOpt config"),
    ],
)
def test_what_cannot_be_read_is_refused(value: Any, words: str) -> None:
    """Formats that are none of ours, halves of a Linear, code, and hostile texts are refused with
    what was found and what is allowed.
    """
    with pytest.raises(PatternError, match=words):
        read(value)


def test_the_filters_of_modelopts_examples_are_plain_regexes() -> None:
    """Its diffusers examples turn quantizers off by `pattern.match(name)`: the reader `regex` says
    the same of the modules.
    """
    pattern = r"(proj_out.*|.*(time_text_embed|context_embedder|x_embedder|norm_out|time_guidance_embed|stream_modulation).*)"
    with torch.device("meta"):
        fqns = tuple(linears(tiny_flux()))
    found = (
        get_reader("regex").read(pattern).assign(ModelTree(fqns=fqns), quantized=FormatName.NVFP4)
    )
    kept = {
        fqn for fqn in fqns if fqn == "proj_out" or "embed" in fqn or fqn.startswith("norm_out")
    }
    assert {fqn for fqn, name in found.items() if name is FormatName.BF16} == kept
