"""ModelOpt's exports mean exactly the recipe, to our reader and to ModelOpt itself.

Tests marked `real_modelopt` run where ModelOpt is installed: see `support.quant_cfgs`.
"""

import json
import random
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from sensitivity.consumers.exporters.attention_families import attention_families
from sensitivity.consumers.exporters.modelopt import ModelOptExporter
from sensitivity.consumers.readers import guess_reader
from sensitivity.core.format_name import FormatName
from sensitivity.errors import RecipeError
from sensitivity.recipes.recipe import Recipe

from support.namesakes import linears
from support.quant_cfgs import (
    FQNS,
    MXFP8,
    NVFP4,
    OFF,
    both,
    read,
    real_modelopt,
    with_convolution,
)
from support.recipes import make_recipe
from support.tiny_denoisers import tiny_flux, tiny_ltx2


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


@real_modelopt
def test_four_over_six_is_modelopts_preset() -> None:
    """The exported cfgs and algorithm are those of NVFP4_FOUR_OVER_SIX_CFG, and ModelOpt takes a
    whole config with them.
    """
    import modelopt.torch.quantization as mtq
    from modelopt.torch.quantization.config import QuantizeConfig

    preset = mtq.NVFP4_FOUR_OVER_SIX_CFG
    recipe = make_recipe(FQNS, FQNS[:2], "nvfp4-4o6", "nvfp4")
    config = config_of(ModelOptExporter().export(recipe))
    assert config["algorithm"] == preset["algorithm"]
    theirs = next(
        entry["cfg"]
        for entry in preset["quant_cfg"]
        if entry["quantizer_name"] == "*weight_quantizer"
    )
    weight = next(entry["cfg"] for entry in config["quant_cfg"] if FQNS[0] in str(entry))
    assert QuantizeConfig(**config).quant_cfg
    for key, value in weight["block_sizes"].items():
        assert theirs["block_sizes"][key] == value


MODELS: dict[str, Callable[[], nn.Module]] = {
    "flux": lambda: tiny_flux().bfloat16(),
    "ltx2": lambda: tiny_ltx2().bfloat16(),
    "namesakes": with_convolution,
}


def scattered(fqns: list[str], *formats: str) -> Recipe:
    """Random formats, the same for q, k and v.

    The top-level `proj_out` and block 1 stay bf16, but Linears with similar names do not.
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


VARIANTS = ("nvfp4", "nvfp4-4o6", "mxfp8", "nvfp4-a16", "mxfp8-a16")
STATIC = ("fp8", "int8", "fp8-a16", "int8-a16", "nvfp4-a16")


@real_modelopt
@pytest.mark.parametrize("formats", [VARIANTS, STATIC], ids="+".join)
def test_real_modelopt_sets_the_variants_quantizers(formats: tuple[str, ...]) -> None:
    """ModelOpt's own quantizers of each Linear, after the exported config, read back by this tool's
    reader of attributes: the recipe's formats; weight-only ones have no input quantizer.
    """
    import modelopt.torch.quantization as mtq
    from modelopt.torch.quantization.nn import TensorQuantizer

    net = with_convolution()
    recipe = make_recipe(FQNS, [fqn for fqn in FQNS if fqn != "proj_out"], *formats)
    config = config_of(ModelOptExporter().export(recipe))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mtq.quantize(net, {**config, "algorithm": None}, None)  # calibration wants a GPU
    entries = [
        {
            "quantizer_name": name,
            "cfg": {
                "num_bits": child.num_bits,
                "axis": child.axis,
                "block_sizes": child.block_sizes,
                "type": "dynamic" if child._dynamic else "static",
            },
            "enable": child.is_enabled,
        }
        for name, child in net.named_modules()
        if isinstance(child, TensorQuantizer)
    ]
    assert read(repr([OFF, *entries])) == {
        fqn: str(own) for fqn, own in recipe.layers.items() if own.is_quantized
    }


@pytest.mark.parametrize("form", ModelOptExporter.forms)
def test_variants_are_exported_or_refused(form: str) -> None:
    """A checkpoint says nvfp4 for both choices of scales; what it cannot say, and rotations, are
    refused with the reason.
    """
    exporter = ModelOptExporter(form=form)
    chosen = [name for name in VARIANTS if FormatName(name) in exporter.formats]
    recipe = make_recipe(FQNS, FQNS, *chosen)
    assert exporter.verify(recipe, FQNS) == recipe.layers
    for name, why in (
        ("int8-rot", "another Hadamard matrix"),
        ("fp8-lb", "cannot be told a lower bound of activations"),
        *((("int8", "scales of activations from calibration"),) * (form != "quant-cfg")),
        *((("fp8-a16", "has no name for it"),) * (form != "quant-cfg")),
    ):
        with pytest.raises(RecipeError, match=rf"it has no {name} \(.*{why}.*`Recipe.apply` runs"):
            exporter.export(make_recipe(FQNS, FQNS[:1], name))


def test_four_over_six_beside_static_scales_is_refused() -> None:
    """Its algorithm is for the whole model, and would move the scales of FP8 weights."""
    recipe = make_recipe(FQNS, FQNS[:2], "nvfp4-4o6", "fp8")
    with pytest.raises(RecipeError, match="cannot name fp8 and nvfp4-4o6 together: the algorithm"):
        ModelOptExporter().export(recipe)
    nearest = ModelOptExporter().nearest(recipe)
    assert [nearest[fqn] for fqn in FQNS[:2]] == [FormatName.FP8, FormatName.FP8]
    assert ModelOptExporter(form="hf-quant-config").export(recipe)


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
    """ModelOpt's own fusion of Linears asserts that they have one format."""
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
