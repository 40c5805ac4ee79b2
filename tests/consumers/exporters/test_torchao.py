"""torchao's exports: the real `quantize_` makes exactly the recipe of them."""

import json
from types import SimpleNamespace

import pytest
import torch

from sensitivity.consumers.exporters import (
    get_exporter,
    to_diffusers,
    to_torchao,
)
from sensitivity.consumers.exporters.torchao import TorchaoExporter
from sensitivity.errors import RecipeError

from support.namesakes import NamesakeNet, linears, quantized_types
from support.recipes import FLUX_FQNS, flux_recipe, make_recipe, run_exported


@pytest.mark.parametrize("via_json", [False, True])
def test_real_torchao_quantizes_exactly_the_recipe(via_json: bool) -> None:
    """`quantize_` with the object, or with the JSON read back by torchao, changes the recipe's
    Linears only.
    """
    from torchao.core.config import config_from_dict
    from torchao.quantization import quantize_

    net = NamesakeNet().bfloat16()
    chosen = [fqn for fqn in linears(net) if fqn != "proj_out" and not fqn.startswith("blocks.1.")]
    recipe = make_recipe(linears(net), chosen, "mxfp8")
    config = (
        config_from_dict(json.loads(get_exporter("torchao").export(recipe)))
        if via_json
        else to_torchao(recipe)
    )
    quantize_(net, config, filter_fn=None)
    assert quantized_types(net) == dict.fromkeys(chosen, "MXTensor")


def test_real_torchao_with_the_exported_filter() -> None:
    """`quantize_` with the exported config and filter changes the recipe's Linears only."""
    from torchao.quantization import quantize_

    net = NamesakeNet().bfloat16()
    chosen = [fqn for fqn in linears(net) if fqn != "proj_out" and not fqn.startswith("blocks.1.")]
    exported = run_exported(
        TorchaoExporter(form="filter-fn").export(make_recipe(linears(net), chosen, "mxfp8"))
    )
    quantize_(net, exported["config"]("mxfp8"), filter_fn=exported["filter_fn"])
    assert quantized_types(net) == dict.fromkeys(chosen, "MXTensor")


def test_one_filter_for_each_format_and_component() -> None:
    """Two formats and two denoisers give a filter each, which the real `quantize_` takes: together
    they are the recipe, and none overlaps.
    """
    from torchao.quantization import quantize_

    names = {
        f"{part}.{fqn}": part
        for part in ("transformer", "transformer_2")
        for fqn in linears(NamesakeNet())
    }
    chosen = [
        fqn
        for fqn in names
        if not fqn.endswith("transformer.proj_out") and "_2.blocks.1." not in fqn
    ]
    classes = {"transformer": "FluxTransformer2DModel", "transformer_2": "FluxTransformer2DModel"}
    recipe = make_recipe(names, chosen, "mxfp8", "nvfp4", components=classes)
    text = TorchaoExporter(form="filter-fn").export(recipe)
    exported = run_exported(text)
    for component, layers in recipe.layers_by_component.items():
        for name in ("mxfp8", "nvfp4"):
            net = NamesakeNet().bfloat16()
            quantize_(
                net,
                exported["config"]("mxfp8"),
                filter_fn=exported[f"filter_fn_{component}_{name}"],
            )
            assert set(quantized_types(net)) == {fqn for fqn, fmt in layers.items() if fmt == name}
    assert exported["config"]("nvfp4").use_dynamic_per_tensor_scale


WEIGHTS = {"int8": "Int8Tensor", "int8-a16": "Int8Tensor", "fp8-a16": "Float8Tensor"}
CONFIGURED = ("int8", "fp8-lb", "nvfp4-a16", "fp8-a16", "int8-a16")


def test_real_torchao_quantizes_the_variants() -> None:
    """`quantize_` with the JSON of int8 and weight-only formats: each Linear has the tensor of its
    format, with activations quantized for int8 alone, and what comes out is close to bf16.
    """
    from torchao.core.config import config_from_dict
    from torchao.quantization import quantize_

    net, names = NamesakeNet().bfloat16(), linears(NamesakeNet())
    recipe = make_recipe(names, [fqn for fqn in names if fqn != "proj_out"], *WEIGHTS)
    plain = {fqn: net.get_submodule(fqn).weight.detach().clone() for fqn in names}
    quantize_(
        net, config_from_dict(json.loads(get_exporter("torchao").export(recipe))), filter_fn=None
    )
    found = quantized_types(net)
    assert found == {fqn: WEIGHTS[name] for fqn, name in recipe.layers.items() if name.is_quantized}
    x = torch.randn(32, 32, generator=torch.Generator().manual_seed(0)).bfloat16()
    for fqn in found:
        linear = net.get_submodule(fqn)
        assert (linear.weight.act_quant_kwargs is None) == recipe.layers[fqn].is_weight_only
        expected = x.float() @ plain[fqn].float().t()
        made = linear(x).float() - (0 if linear.bias is None else linear.bias.float())
        assert (made - expected).norm() < 0.05 * expected.norm()


def test_configs_of_the_variants_are_torchaos_own() -> None:
    """torchao makes objects of the exported configs, with the lower bound and one scale a row; the
    Python checks torchao's version for the bound, and function names are Python names.
    """
    from torchao.core.config import config_from_dict
    from torchao.quantization import PerRow

    recipe = flux_recipe(*CONFIGURED)
    config = config_from_dict(json.loads(get_exporter("torchao").export(recipe)))
    made = {recipe.layers[fqn]: own for fqn, own in config.fqn_to_config.items()}
    assert (made["fp8-lb"].activation_value_lb, made["fp8-lb"].granularity) == (
        1e-12,
        [PerRow(), PerRow()],
    )
    assert [made[name].granularity for name in ("int8", "fp8-a16", "int8-a16")] == [PerRow()] * 3
    exported = run_exported(TorchaoExporter(form="filter-fn").export(recipe))
    assert exported["config"]("fp8-lb") == made["fp8-lb"]
    assert callable(exported["filter_fn_nvfp4_a16"])
    exported["torchao"] = SimpleNamespace(__version__="0.17.0")
    with pytest.raises(RuntimeError, match=r"found torchao 0.17.0; expected 0.18 or newer"):
        exported["config"]("fp8-lb")
    notes = get_exporter("torchao").notes(recipe, "")
    words = ("0.18", "round more often", "10.7 ms at M = 512")
    assert all(word in note for word, note in zip(words, notes, strict=True))


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("nvfp4-4o6", "chooses four-over-six scales"),
        ("int8-rot", "none of its configs rotates"),
        ("mxfp8-a16", "no weight-only config for mxfp8"),
    ],
)
@pytest.mark.parametrize("consumer", ["torchao", "diffusers"])
def test_what_no_config_says_is_refused(consumer: str, name: str, why: str) -> None:
    """With the reason, what torchao takes, and what runs the format; the object is refused too."""
    recipe = flux_recipe(name)
    takes = r"\(it takes mxfp8, nvfp4, fp8, int8, .*; `Recipe.apply` runs the others\)"
    words = rf"it has no {name} \(.*{why}\), which .*{takes}; choose another exporter"
    with pytest.raises(RecipeError, match=words):
        get_exporter(consumer).export(recipe)
    with pytest.raises(RecipeError, match=words):
        (to_torchao if consumer == "torchao" else to_diffusers)(recipe)


def test_torchao_json_is_torchaos_own() -> None:
    """For all of its formats torchao reads back an `FqnToConfig` equal to the object, with None for
    bf16, but for the machine's own mslk.
    """
    from torchao.core.config import config_from_dict

    recipe = flux_recipe("mxfp8", "nvfp4", "fp8", *CONFIGURED)
    read = config_from_dict(json.loads(get_exporter("torchao").export(recipe)))
    made = to_torchao(recipe)
    for config in (*read.fqn_to_config.values(), *made.fqn_to_config.values()):
        if hasattr(config, "use_triton_kernel"):
            config.use_triton_kernel = None
    assert read == made
    assert list(made.fqn_to_config) == list(FLUX_FQNS)
    assert {fqn for fqn, config in made.fqn_to_config.items() if config is None} == set(recipe.skip)
