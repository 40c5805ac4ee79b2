"""torchao's exports: the real `quantize_` makes exactly the recipe of them."""

import json

import pytest

from sensitivity.consumers.exporters import (
    get_exporter,
    to_torchao,
)
from sensitivity.consumers.exporters.torchao import TorchaoExporter

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


def test_torchao_json_is_torchaos_own() -> None:
    """For three formats torchao reads back an `FqnToConfig` equal to the object, with None for
    bf16, but for the machine's own mslk.
    """
    from torchao.core.config import config_from_dict

    recipe = flux_recipe("mxfp8", "nvfp4", "fp8")
    read = config_from_dict(json.loads(get_exporter("torchao").export(recipe)))
    made = to_torchao(recipe)
    for config in (*read.fqn_to_config.values(), *made.fqn_to_config.values()):
        if hasattr(config, "use_triton_kernel"):
            config.use_triton_kernel = None
    assert read == made
    assert list(made.fqn_to_config) == list(FLUX_FQNS)
    assert {fqn for fqn, config in made.fqn_to_config.items() if config is None} == set(recipe.skip)
