"""diffusers' exports: real pipelines load exactly the recipe with them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sensitivity.consumers.exporters import (
    to_diffusers,
)
from sensitivity.consumers.exporters.diffusers import DiffusersExporter
from sensitivity.consumers.lists import ModelTree
from sensitivity.consumers.readers import get_reader
from sensitivity.core.format_name import FormatName
from sensitivity.errors import RecipeError
from sensitivity.recipes.recipe import Recipe

from support.namesakes import linears, quantized_types
from support.recipes import FLUX_FQNS, flux_recipe, make_recipe, run_exported

OF_TORCHAO = [form for form in DiffusersExporter.forms if form != "modelopt"]
"""Forms that quantize when they are loaded; the other one describes a checkpoint."""


@pytest.fixture(scope="module")
def tiny_flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved FluxPipeline with a random transformer of 1 double and 2 single blocks, and nothing
    else.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    torch.manual_seed(0)
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=32,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=32,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(8, 12, 12),
    ).bfloat16()
    nothing = dict.fromkeys(("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    path = tmp_path_factory.mktemp("tiny-flux")
    FluxPipeline(
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(), **nothing
    ).save_pretrained(path)
    return path


def _tiny_recipe(path: Path) -> Recipe:
    from diffusers import FluxTransformer2DModel

    fqns = linears(FluxTransformer2DModel.from_pretrained(path, subfolder="transformer"))
    kept = (
        "proj_out",
        "x_embedder",
        "single_transformer_blocks.0.attn.to_q",
        "transformer_blocks.0.ff.net.2",
    )
    return make_recipe(fqns, [fqn for fqn in fqns if fqn not in kept], "mxfp8")


def _config_from(form: str, recipe: Recipe) -> Any:
    import diffusers

    if form == "object":
        return to_diffusers(recipe)
    if form == "json":
        mapping = json.loads(DiffusersExporter(form="json").export(recipe))
        configs = {
            component: diffusers.TorchAoConfig.from_dict(config)
            for component, config in mapping.items()
        }
        return diffusers.PipelineQuantizationConfig(quant_mapping=configs)
    return run_exported(DiffusersExporter(form=form).export(recipe))["quantization_config"]()


NOTHING = dict.fromkeys(("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))


@pytest.mark.parametrize("form", ["object", *OF_TORCHAO])
def test_real_diffusers_loads_exactly_the_recipe(
    tiny_flux: Path, form: str, tmp_path: Path
) -> None:
    """A pipeline loaded with the exported config has the recipe's Linears quantized, namesakes of
    the skipped ones included; saved and loaded again, too, with the same numbers.
    """
    from diffusers import DiffusionPipeline

    recipe = _tiny_recipe(tiny_flux)
    pipeline = DiffusionPipeline.from_pretrained(
        tiny_flux, quantization_config=_config_from(form, recipe), dtype=torch.bfloat16, **NOTHING
    )
    assert set(quantized_types(pipeline.transformer)) == set(recipe.layers) - set(recipe.skip)
    assert len(recipe.skip) == 4
    pipeline.save_pretrained(tmp_path)
    again = DiffusionPipeline.from_pretrained(tmp_path, dtype=torch.bfloat16, **NOTHING)
    assert quantized_types(again.transformer) == quantized_types(pipeline.transformer)
    for fqn in recipe.layers:
        saved, loaded = (
            pipe.transformer.get_submodule(fqn).weight.data for pipe in (pipeline, again)
        )
        for part in ("qdata", "scale"):
            assert fqn in recipe.skip or torch.equal(
                getattr(saved, part).view(torch.uint8), getattr(loaded, part).view(torch.uint8)
            )


@pytest.mark.parametrize("form", ["object", *OF_TORCHAO])
def test_two_denoisers_each_get_their_own(form: str, tmp_path: Path) -> None:
    """A Wan 2.2 pipeline with two transformers loads each as the recipe says, though their names
    are the same.
    """
    from diffusers import (
        DiffusionPipeline,
        FlowMatchEulerDiscreteScheduler,
        WanPipeline,
        WanTransformer3DModel,
    )

    sizes = {
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "text_dim": 32,
        "freq_dim": 32,
        "ffn_dim": 32,
        "num_layers": 2,
        "rope_max_seq_len": 32,
    }
    parts = {
        name: WanTransformer3DModel(**sizes).bfloat16() for name in ("transformer", "transformer_2")
    }
    nothing = dict.fromkeys(("vae", "text_encoder", "tokenizer"))
    WanPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(), boundary_ratio=0.9, **parts, **nothing
    ).save_pretrained(tmp_path)
    fqns = [
        f"{name}.{fqn}"
        for name, part in parts.items()
        for fqn in linears(part)
        if "time_embedder" not in fqn
    ]
    kept = [
        fqn
        for fqn in fqns
        if fqn == "transformer.proj_out" or fqn.startswith("transformer_2.blocks.1.")
    ]
    every = [f"{name}.{fqn}" for name, part in parts.items() for fqn in linears(part)]
    model_fields = {
        "component_class": "WanTransformer3DModel",
        "pipeline_class": "WanPipeline",
        "components": dict.fromkeys(parts, "WanTransformer3DModel"),
    }
    recipe = make_recipe(every, [fqn for fqn in fqns if fqn not in kept], "mxfp8", **model_fields)
    pipeline = DiffusionPipeline.from_pretrained(
        tmp_path, quantization_config=_config_from(form, recipe), dtype=torch.bfloat16, **nothing
    )
    found = {f"{name}.{fqn}" for name in parts for fqn in quantized_types(getattr(pipeline, name))}
    assert found == set(recipe.layers) - set(recipe.skip) == set(fqns) - set(kept)


@pytest.mark.parametrize(
    ("parts", "kept"),
    [
        (
            ["proj_out"],
            {
                "proj_out",
                "single_transformer_blocks.0.proj_out",
                "single_transformer_blocks.1.proj_out",
            },
        ),
        (["proj_out.weight"], {"proj_out"}),
        (
            ["transformer_blocks.0.attn.to_q"],
            {"transformer_blocks.0.attn.to_q", "single_transformer_blocks.0.attn.to_q"},
        ),
        (["transformer_blocks.0.attn.to_q.weight"], {"transformer_blocks.0.attn.to_q"}),
        (
            ["embedder.*", "attn.to_", "single_transformer_blocks.1.proj_mlp"],
            {"single_transformer_blocks.1.proj_mlp"},
        ),
    ],
)
def test_real_modules_to_not_convert(tiny_flux: Path, parts: list[str], kept: set[str]) -> None:
    """diffusers keeps the Linears that the reader predicts, also where an entry hits many."""
    from diffusers import FluxTransformer2DModel, TorchAoConfig

    from sensitivity.formats.registry import get_format

    config = TorchAoConfig(get_format("mxfp8").native_config(), modules_to_not_convert=list(parts))
    listed = get_reader("diffusers").read(json.dumps(config.to_dict(), default=str))
    model = FluxTransformer2DModel.from_pretrained(
        tiny_flux, subfolder="transformer", quantization_config=config, dtype=torch.bfloat16
    )
    tree = ModelTree(fqns=tuple(linears(model)), classes={"transformer": "FluxTransformer2DModel"})
    assert set(tree.fqns) - set(quantized_types(model)) == kept
    assert {
        fqn
        for fqn, fmt in listed.assign(tree, quantized=FormatName.MXFP8).items()
        if fmt is FormatName.BF16
    } == kept


def test_nothing_quantized_needs_no_config() -> None:
    """For a recipe of bf16 only, the older form says None, and the component that is all bf16
    beside another one is left out.
    """
    exporter = DiffusersExporter(form="modules-to-not-convert")
    assert (
        run_exported(exporter.export(make_recipe(FLUX_FQNS, [])))["quantization_config"]() is None
    )
    classes = {"transformer": "FluxTransformer2DModel", "transformer_2": "FluxTransformer2DModel"}
    recipe = make_recipe(
        ["transformer.a", "transformer_2.a"], ["transformer_2.a"], "mxfp8", components=classes
    )
    assert list(run_exported(exporter.export(recipe))["quantization_config"]().quant_mapping) == [
        "transformer_2"
    ]


def test_python_export_checks_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under an older diffusers the exported code and the library refuse with the version and the
    next step.
    """
    import diffusers

    recipe = flux_recipe("mxfp8")
    namespace = run_exported(DiffusersExporter().export(recipe))
    monkeypatch.setattr(diffusers, "__version__", "0.41.2")
    with pytest.raises(RuntimeError, match=r"found diffusers 0\.41\.2; expected 0\.42 or newer"):
        namespace["quantization_config"]()
    with pytest.raises(
        RecipeError,
        match=r"found diffusers 0\.41\.2; expected 0\.42 or newer.*exporter torchao",
    ):
        to_diffusers(recipe)


def test_python_export_reads_nvfp4_without_mslk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The exported code asks the serving machine for mslk, whatever the exporting one had."""
    recipe = flux_recipe("nvfp4")
    namespace = run_exported(DiffusersExporter().export(recipe))
    for there in (True, False):
        monkeypatch.setitem(namespace, "_has_mslk", lambda there=there: there)
        keys = (
            namespace["quantization_config"]().quant_mapping["transformer"].quant_type.fqn_to_config
        )
        assert keys["norm_out.linear"].use_triton_kernel is there
        assert "proj_out" not in keys


def test_modules_kept_in_fp32_are_known(tmp_path: Path) -> None:
    """diffusers never quantizes what Wan's `_keep_in_fp32_modules` names: such a recipe is refused
    by layer, and the nearest one is what the real diffusers loads.
    """
    from diffusers import WanTransformer3DModel

    torch.manual_seed(0)
    wan = WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        text_dim=32,
        freq_dim=32,
        ffn_dim=32,
        num_layers=1,
        rope_max_seq_len=32,
    ).bfloat16()
    wan.save_pretrained(tmp_path)
    fqns, model_fields = (
        linears(wan),
        {
            "component_class": "WanTransformer3DModel",
            "pipeline_class": "WanPipeline",
        },
    )
    recipe = make_recipe(fqns, [fqn for fqn in fqns if fqn != "proj_out"], "mxfp8", **model_fields)
    for form in OF_TORCHAO:
        exporter = DiffusersExporter(form=form)
        with pytest.raises(
            RecipeError,
            match=(
                r"always runs 2 .*time_embedder\.linear_1.* in bf16"
                r" \(WanTransformer3DModel\._keep_in_fp32_modules names rope, time_embedder"
            ),
        ):
            exporter.export(recipe)
        nearest = exporter.nearest(recipe)
        again = make_recipe(
            fqns,
            [fqn for fqn in fqns if nearest[fqn] is not FormatName.BF16],
            "mxfp8",
            **model_fields,
        )
        config = _config_from(form, again).quant_mapping["transformer"] if form != "json" else None
        assert exporter.verify(again, fqns) == nearest
        if config is not None:
            model = WanTransformer3DModel.from_pretrained(
                tmp_path, quantization_config=config, dtype=torch.bfloat16
            )
            assert set(quantized_types(model)) == set(fqns) - set(again.skip)
            assert len(again.skip) == 3
