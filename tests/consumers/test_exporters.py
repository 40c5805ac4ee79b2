"""Exports: each text, read by the real consumer or by its simulated rule, means exactly the recipe."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sensitivity.consumers.exporters import EXPORTERS, get_exporter, to_diffusers, to_torchao
from sensitivity.consumers.exporters.diffusers import DiffusersExporter
from sensitivity.consumers.exporters.skip_list import SkipListExporter
from sensitivity.consumers.exporters.substrings import exact_substrings
from sensitivity.consumers.exporters.torchao import TorchaoExporter
from sensitivity.consumers.lists import ModelTree
from sensitivity.consumers.readers import get_reader
from sensitivity.core.format_name import FormatName
from sensitivity.core.patterns import expand, read_list
from sensitivity.errors import RecipeError
from sensitivity.recipes.recipe import Recipe

from support.recipes import make_recipe

FLUX_FQNS = (
    "x_embedder",
    "context_embedder",
    "time_text_embed.timestep_embedder.linear_1",
    "proj_out",
    "norm_out.linear",
    *(
        f"transformer_blocks.{block}.{role}"
        for block in range(12)
        for role in ("attn.to_q", "ff.net.2", "norm1.linear")
    ),
    *(
        f"single_transformer_blocks.{block}.{role}"
        for block in range(12)
        for role in ("attn.to_q", "proj_mlp", "proj_out")
    ),
)
"""FLUX's names in small: `proj_out` and `transformer_blocks.N` are also parts of longer names."""


def flux_recipe(*formats: str) -> Recipe:
    """Names where substring matching goes wrong: the top-level `proj_out` and block 1 stay bf16,
    their namesakes do not.
    """
    kept = {
        "proj_out",
        "x_embedder",
        *(fqn for fqn in FLUX_FQNS if fqn.startswith("transformer_blocks.1.")),
    }
    return make_recipe(
        FLUX_FQNS, (fqn for fqn in FLUX_FQNS if fqn not in kept), *(formats or ("nvfp4",))
    )


ALL: list[Any] = [
    cls(form=form)
    for cls in (SkipListExporter, TorchaoExporter, DiffusersExporter)
    for form in cls.forms
]
THREE_FORMATS = [exporter for exporter in ALL if exporter.max_formats >= 3]


@pytest.mark.parametrize("exporter", ALL, ids=repr)
def test_export_means_the_recipe(exporter: Any) -> None:
    """The text, read back by the consumer's rule on the model's Linears, gives every layer its
    format.
    """
    recipe = flux_recipe()
    assert exporter.assign(exporter.export(recipe), recipe, FLUX_FQNS) == recipe.layers
    assert exporter.verify(recipe, FLUX_FQNS) == recipe.layers


@pytest.mark.parametrize("exporter", THREE_FORMATS, ids=repr)
def test_three_formats_survive(exporter: Any) -> None:
    """Consumers that hold a format a layer get all of them."""
    recipe = flux_recipe("mxfp8", "nvfp4", "fp8")
    assert set(exporter.verify(recipe, FLUX_FQNS).values()) == set(FormatName)


@pytest.mark.parametrize("exporter", ALL, ids=repr)
def test_verify_names_layers_of_another_model(exporter: Any) -> None:
    """Linears that only one side has are named, and nothing is exported for such a model."""
    with pytest.raises(
        RecipeError,
        match=(
            r"found 2 Linear\(s\).*x_embedder is not in the model; new_layer is not in the recipe"
        ),
    ):
        exporter.verify(flux_recipe(), [*FLUX_FQNS[1:], "new_layer"])


def test_proof_catches_a_wrong_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text that skips too much by substring-like globs is refused by layer, and no text comes
    out.
    """
    monkeypatch.setattr(
        SkipListExporter,
        "render",
        lambda _self, _recipe: "*proj_out\nx_embedder\ntransformer_blocks.1.*\n",
    )
    with pytest.raises(
        RecipeError,
        match=(
            r"found 12 Linear\(s\) that skip-list would treat"
            r" .*single_transformer_blocks.0.proj_out would be"
        ),
    ):
        SkipListExporter(form="globs").export(flux_recipe())


def test_unknown_exporter_gets_the_closest_name() -> None:
    """A slip is answered with the name that was meant."""
    assert {"skip-list", "torchao", "diffusers"} <= set(EXPORTERS)
    with pytest.raises(
        RecipeError,
        match=r"found the exporter 'skiplist'; expected one of skip-list, .*; did you mean 'skip-list'",
    ):
        get_exporter("skiplist")
    with pytest.raises(RecipeError, match="name one of them"):
        get_exporter("zzz")


# --- skip-list ------------------------------------------------------------------------------------


def test_skip_list_text() -> None:
    """Exact names under comments with model, latency and its source, LPIPS; a newline in a model's
    id cannot become an entry.
    """
    recipe = flux_recipe()
    lines = SkipListExporter().export(recipe).splitlines()
    entries = [line for line in lines if not line.startswith("#")]
    assert tuple(entries) == recipe.skip
    header = "\n".join(line for line in lines if line.startswith("#"))
    assert "every other Linear is nvfp4" in header
    assert "model: toy proj_out, revision not given, pretrained weights" in header
    assert (
        "3 s in bf16, 2 s quantized, 1.5x, predicted for b200, batch size 1, compile mode none"
        in header
    )
    assert (
        "LPIPS (alex): 0.15, 95% interval 0.1 to 0.2, noise floor not measured, 1 pictures"
        in header
    )


def test_skip_list_globs() -> None:
    """Globs carry their reasons and select the same Linears."""
    recipe = flux_recipe()
    text = SkipListExporter(form="globs").export(recipe)
    assert "transformer_blocks.1.*  # all of transformer_blocks.1 (3 Linears)" in text
    assert expand(read_list(text), FLUX_FQNS).matched == set(recipe.skip)


@pytest.mark.parametrize(
    "exporter", [exporter for exporter in ALL if exporter not in THREE_FORMATS], ids=repr
)
def test_two_formats_where_a_file_names_one(exporter: Any) -> None:
    """A list without formats is refused for a recipe with two, and the nearest recipe takes the
    finer one throughout.
    """
    recipe = flux_recipe("mxfp8", "nvfp4")
    with pytest.raises(
        RecipeError,
        match=r"its file names 1 quantized format\(s\), and the recipe has 2 \(mxfp8, nvfp4\)",
    ):
        exporter.export(recipe)
    nearest = exporter.nearest(recipe)
    assert set(nearest.values()) == {FormatName.MXFP8, FormatName.BF16}
    assert {fqn for fqn in nearest if nearest[fqn] is FormatName.BF16} == set(recipe.skip)
    again = make_recipe(FLUX_FQNS, (fqn for fqn in FLUX_FQNS if fqn not in recipe.skip), "mxfp8")
    assert exporter.verify(again, FLUX_FQNS) == nearest


def test_skip_list_regex() -> None:
    """Anchored expressions with reasons:

    Python's own re.match, and fullmatch and search, find the skipped Linears and no namesakes.
    """
    recipe = flux_recipe()
    text = SkipListExporter(form="regex").export(recipe)
    assert "^transformer_blocks\\.1\\..*$  # all of transformer_blocks.1 (3 Linears)" in text
    entries = [line.partition("  #")[0] for line in text.splitlines() if not line.startswith("#")]
    for method in (re.match, re.fullmatch, re.search):
        assert {fqn for fqn in FLUX_FQNS if any(method(entry, fqn) for entry in entries)} == set(
            recipe.skip
        )


def test_skip_list_of_an_all_bf16_recipe() -> None:
    """Nothing quantized is a list of everything."""
    recipe = make_recipe(["a", "b"], [])
    assert read_list(SkipListExporter().export(recipe)) == ("a", "b")


# --- torchao --------------------------------------------------------------------------------------


class NamesakeNet(nn.Module):
    """`proj_out` at the top and in two blocks; blocks 1 and 10 exist."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"proj_out": nn.Linear(32, 32), "up": nn.Linear(32, 32)})
            for _ in range(11)
        )
        self.proj_out = nn.Linear(32, 32)


def _linears(module: nn.Module) -> list[str]:
    return [fqn for fqn, child in module.named_modules() if isinstance(child, nn.Linear)]


def _quantized(module: nn.Module) -> dict[str, str]:
    weights = {fqn: module.get_submodule(fqn).weight.data for fqn in _linears(module)}
    return {
        fqn: type(weight).__name__
        for fqn, weight in weights.items()
        if type(weight) is not torch.Tensor
    }


@pytest.mark.parametrize("via_json", [False, True])
def test_real_torchao_quantizes_exactly_the_recipe(via_json: bool) -> None:
    """`quantize_` with the object, or with the JSON read back by torchao, changes the recipe's
    Linears only.
    """
    from torchao.core.config import config_from_dict
    from torchao.quantization import quantize_

    net = NamesakeNet().bfloat16()
    chosen = [fqn for fqn in _linears(net) if fqn != "proj_out" and not fqn.startswith("blocks.1.")]
    recipe = make_recipe(_linears(net), chosen, "mxfp8")
    config = (
        config_from_dict(json.loads(get_exporter("torchao").export(recipe)))
        if via_json
        else to_torchao(recipe)
    )
    quantize_(net, config, filter_fn=None)
    assert _quantized(net) == dict.fromkeys(chosen, "MXTensor")


def _run(text: str) -> dict[str, Any]:
    """What exported Python defines."""
    namespace: dict[str, Any] = {}
    exec(compile(text, "exported.py", "exec"), namespace)
    return namespace


def test_real_torchao_with_the_exported_filter() -> None:
    """`quantize_` with the exported config and filter changes the recipe's Linears only."""
    from torchao.quantization import quantize_

    net = NamesakeNet().bfloat16()
    chosen = [fqn for fqn in _linears(net) if fqn != "proj_out" and not fqn.startswith("blocks.1.")]
    exported = _run(
        TorchaoExporter(form="filter-fn").export(make_recipe(_linears(net), chosen, "mxfp8"))
    )
    quantize_(net, exported["config"]("mxfp8"), filter_fn=exported["filter_fn"])
    assert _quantized(net) == dict.fromkeys(chosen, "MXTensor")


def test_one_filter_for_each_format_and_component() -> None:
    """Two formats and two denoisers give a filter each, which the real `quantize_` takes: together
    they are the recipe, and none overlaps.
    """
    from torchao.quantization import quantize_

    names = {
        f"{part}.{fqn}": part
        for part in ("transformer", "transformer_2")
        for fqn in _linears(NamesakeNet())
    }
    chosen = [
        fqn
        for fqn in names
        if not fqn.endswith("transformer.proj_out") and "_2.blocks.1." not in fqn
    ]
    classes = {"transformer": "FluxTransformer2DModel", "transformer_2": "FluxTransformer2DModel"}
    recipe = make_recipe(names, chosen, "mxfp8", "nvfp4", components=classes)
    text = TorchaoExporter(form="filter-fn").export(recipe)
    exported = _run(text)
    for component, layers in recipe.layers_by_component.items():
        for name in ("mxfp8", "nvfp4"):
            net = NamesakeNet().bfloat16()
            quantize_(
                net,
                exported["config"]("mxfp8"),
                filter_fn=exported[f"filter_fn_{component}_{name}"],
            )
            assert set(_quantized(net)) == {fqn for fqn, fmt in layers.items() if fmt == name}
    assert exported["config"]("nvfp4").use_dynamic_per_tensor_scale


@pytest.mark.parametrize(
    "exporter",
    [
        TorchaoExporter(form="filter-fn"),
        DiffusersExporter(),
        DiffusersExporter(form="modules-to-not-convert"),
    ],
    ids=repr,
)
def test_exported_python_is_proved_without_running_it(exporter: Any) -> None:
    """Changed names are found by layer, changed code is refused, and neither is run."""
    recipe = flux_recipe("mxfp8")
    text = exporter.export(recipe)
    assert (
        exporter.assign(text.replace('norm1.linear"', 'norm1.lin"'), recipe, FLUX_FQNS)
        != recipe.layers
    )
    with pytest.raises(RecipeError, match="other code behind them"):
        exporter.assign(text + "\nraise SystemExit(3)\n", recipe, FLUX_FQNS)
    with pytest.raises(RecipeError, match="found Python without"):
        exporter.assign(text.replace("CONFIGS = ", "OTHERS = "), recipe, FLUX_FQNS)


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


def test_text_does_not_depend_on_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """With or without mslk the exported texts are the same."""
    from sensitivity.formats import mslk

    recipe, texts = flux_recipe(), set()
    for there in (True, False):
        monkeypatch.setattr(mslk, "is_available", lambda there=there: there)
        texts.add(tuple(exporter.export(recipe) for exporter in ALL))
    assert len(texts) == 1


# --- diffusers ------------------------------------------------------------------------------------


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

    fqns = _linears(FluxTransformer2DModel.from_pretrained(path, subfolder="transformer"))
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
    return _run(DiffusersExporter(form=form).export(recipe))["quantization_config"]()


NOTHING = dict.fromkeys(("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))


@pytest.mark.parametrize("form", ["object", *DiffusersExporter.forms])
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
    assert set(_quantized(pipeline.transformer)) == set(recipe.layers) - set(recipe.skip)
    assert len(recipe.skip) == 4
    pipeline.save_pretrained(tmp_path)
    again = DiffusionPipeline.from_pretrained(tmp_path, dtype=torch.bfloat16, **NOTHING)
    assert _quantized(again.transformer) == _quantized(pipeline.transformer)
    for fqn in recipe.layers:
        saved, loaded = (
            pipe.transformer.get_submodule(fqn).weight.data for pipe in (pipeline, again)
        )
        for part in ("qdata", "scale"):
            assert fqn in recipe.skip or torch.equal(
                getattr(saved, part).view(torch.uint8), getattr(loaded, part).view(torch.uint8)
            )


@pytest.mark.parametrize("form", ["object", *DiffusersExporter.forms])
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
        for fqn in _linears(part)
        if "time_embedder" not in fqn
    ]
    kept = [
        fqn
        for fqn in fqns
        if fqn == "transformer.proj_out" or fqn.startswith("transformer_2.blocks.1.")
    ]
    every = [f"{name}.{fqn}" for name, part in parts.items() for fqn in _linears(part)]
    said = {
        "component_class": "WanTransformer3DModel",
        "pipeline_class": "WanPipeline",
        "components": dict.fromkeys(parts, "WanTransformer3DModel"),
    }
    recipe = make_recipe(every, [fqn for fqn in fqns if fqn not in kept], "mxfp8", **said)
    pipeline = DiffusionPipeline.from_pretrained(
        tmp_path, quantization_config=_config_from(form, recipe), dtype=torch.bfloat16, **nothing
    )
    found = {f"{name}.{fqn}" for name in parts for fqn in _quantized(getattr(pipeline, name))}
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
    """diffusers itself keeps what the reader says that these entries keep, over-matching included."""
    from diffusers import FluxTransformer2DModel, TorchAoConfig

    from sensitivity.formats.registry import get_format

    config = TorchAoConfig(get_format("mxfp8").native_config(), modules_to_not_convert=list(parts))
    listed = get_reader("diffusers").read(json.dumps(config.to_dict(), default=str))
    model = FluxTransformer2DModel.from_pretrained(
        tiny_flux, subfolder="transformer", quantization_config=config, dtype=torch.bfloat16
    )
    tree = ModelTree(fqns=tuple(_linears(model)), classes={"transformer": "FluxTransformer2DModel"})
    assert set(tree.fqns) - set(_quantized(model)) == kept
    assert {
        fqn
        for fqn, fmt in listed.assign(tree, quantized=FormatName.MXFP8).items()
        if fmt is FormatName.BF16
    } == kept


def test_parts_of_names_are_short_where_they_can_be() -> None:
    """Roles and blocks in one entry, whole names where a part hits more, the weight's name where
    the whole name hits more; each says what it hits.
    """
    roles = [fqn for fqn in FLUX_FQNS if fqn.endswith((".proj_mlp", "norm1.linear"))]
    assert exact_substrings(roles, FLUX_FQNS) == {
        "norm1": "12 Linears, first transformer_blocks.0.norm1.linear",
        "proj_mlp": "12 Linears, first single_transformer_blocks.0.proj_mlp",
    }
    assert list(exact_substrings([fqn for fqn in FLUX_FQNS if fqn.startswith("single")], FLUX_FQNS)) == [
        "single_transformer_blocks"
    ]
    assert exact_substrings(["proj_out"], FLUX_FQNS) == {"proj_out.weight": "this Linear; 'proj_out' hits 13"}
    assert exact_substrings(["single_transformer_blocks.1.proj_out"], FLUX_FQNS) == {
        "single_transformer_blocks.1.proj_out": "this Linear"
    }
    assert list(exact_substrings(["transformer_blocks.1.attn.to_q"], FLUX_FQNS)) == [
        "transformer_blocks.1.attn.to_q.weight"
    ]
    assert exact_substrings([], FLUX_FQNS) == {}
    assert exact_substrings(["0"], ["0", "1.0", "10"]) == {
        "0.weight": "this Linear; '0' hits 3"
    }  # a Sequential's
    assert '"proj_out.weight",  # this Linear; ' in DiffusersExporter(
        form="modules-to-not-convert"
    ).export(flux_recipe())


def test_nothing_quantized_needs_no_config() -> None:
    """For a recipe of bf16 only, the older form says None, and the component that is all bf16
    beside another one is left out.
    """
    exporter = DiffusersExporter(form="modules-to-not-convert")
    assert _run(exporter.export(make_recipe(FLUX_FQNS, [])))["quantization_config"]() is None
    classes = {"transformer": "FluxTransformer2DModel", "transformer_2": "FluxTransformer2DModel"}
    recipe = make_recipe(
        ["transformer.a", "transformer_2.a"], ["transformer_2.a"], "mxfp8", components=classes
    )
    assert list(_run(exporter.export(recipe))["quantization_config"]().quant_mapping) == [
        "transformer_2"
    ]


def test_python_export_checks_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under an older diffusers the exported code and the library refuse with the version and the
    next step.
    """
    import diffusers

    recipe = flux_recipe("mxfp8")
    namespace = _run(DiffusersExporter().export(recipe))
    monkeypatch.setattr(diffusers, "__version__", "0.41.2")
    with pytest.raises(
        RuntimeError, match=r"found diffusers 0\.41\.2; expected 0\.42 or newer"
    ):
        namespace["quantization_config"]()
    with pytest.raises(
        RecipeError,
        match=r"found diffusers 0\.41\.2; expected 0\.42 or newer.*exporter torchao",
    ):
        to_diffusers(recipe)


def test_python_export_reads_nvfp4_without_mslk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The exported code asks the serving machine for mslk, whatever the exporting one had."""
    recipe = flux_recipe("nvfp4")
    namespace = _run(DiffusersExporter().export(recipe))
    for there in (True, False):
        monkeypatch.setitem(namespace, "_has_mslk", lambda there=there: there)
        keys = (
            namespace["quantization_config"]().quant_mapping["transformer"].quant_type.fqn_to_config
        )
        assert keys["norm_out.linear"].use_triton_kernel is there
        assert keys["proj_out"] is None


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
    fqns, said = (
        _linears(wan),
        {
            "component_class": "WanTransformer3DModel",
            "pipeline_class": "WanPipeline",
        },
    )
    recipe = make_recipe(fqns, [fqn for fqn in fqns if fqn != "proj_out"], "mxfp8", **said)
    for form in DiffusersExporter.forms:
        exporter = DiffusersExporter(form=form)
        with pytest.raises(
            RecipeError,
            match=(
                r"never quantizes what WanTransformer3DModel\._keep_in_fp32_modules.*quantizes 2"
                r" .*time_embedder\.linear_1"
            ),
        ):
            exporter.export(recipe)
        nearest = exporter.nearest(recipe)
        again = make_recipe(
            fqns, [fqn for fqn in fqns if nearest[fqn] is not FormatName.BF16], "mxfp8", **said
        )
        config = _config_from(form, again).quant_mapping["transformer"] if form != "json" else None
        assert exporter.verify(again, fqns) == nearest
        if config is not None:
            model = WanTransformer3DModel.from_pretrained(
                tmp_path, quantization_config=config, dtype=torch.bfloat16
            )
            assert set(_quantized(model)) == set(fqns) - set(again.skip)
            assert len(again.skip) == 3
