"""Exports: each text, read by the real consumer or by its simulated rule, means exactly the recipe."""

import json
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sensitivity.errors import RecipeError
from sensitivity.exporters import EXPORTERS, DiffusersExporter, SkipListExporter, get_exporter
from sensitivity.exporters._base import resolve_exact
from sensitivity.patterns import expand, read_list
from sensitivity.recipe import Recipe
from sensitivity.spec import FormatName

FLUX_FQNS = (
    "x_embedder", "context_embedder", "time_text_embed.timestep_embedder.linear_1", "proj_out", "norm_out.linear",
    *(f"transformer_blocks.{block}.{role}" for block in range(12) for role in ("attn.to_q", "ff.net.2", "norm1.linear")),
    *(f"single_transformer_blocks.{block}.{role}" for block in range(12) for role in ("attn.to_q", "proj_mlp", "proj_out")),
)  # fmt: skip
"""FLUX's names in small: `proj_out` and `transformer_blocks.N` are also parts of longer names."""


def make_recipe(fqns: Iterable[str], quantized: Iterable[str], *formats: str, **changes: Any) -> Recipe:
    """A recipe over `fqns` in which `quantized` take `formats` in turn."""
    chosen = list(quantized)
    layers = dict.fromkeys(fqns, "bf16") | {fqn: formats[place % len(formats)] for place, fqn in enumerate(chosen)}
    model = {
        "id": "toy\nproj_out", "revision": None, "pipeline_class": "FluxPipeline", "component": "transformer",
        "component_class": "FluxTransformer2DModel", "weights": "pretrained",
    }  # fmt: skip
    latency = {"bf16_s": 3.0, "quantized_s": 2.0, "speedup": 1.5, "source": "predicted", "target": "b200", "batch_size": 1}
    lpips = {"mean": 0.15, "ci95": [0.1, 0.2], "net": "alex", "noise_floor": None, "prompts": ["a"], "seeds": [1], "per_prompt": [0.15]}
    data = {
        "name": "toy", "model": model | changes, "layers": layers, "skip": [fqn for fqn in layers if layers[fqn] == "bf16"],
        "latency": {**latency, "compile_mode": None}, "fidelity": {"lpips": lpips}, "block_patterns": {}, "environment": {},
        "memory": {"bf16_bytes": 2, "quantized_bytes": 1, "source": "predicted"},
        "search": {"study": "toy", "budget": 1, "trials": 1, "sampler": "sweep", "seed": None},
    }  # fmt: skip
    return Recipe.from_mapping(data)


def flux_recipe(*formats: str) -> Recipe:
    """Names where substring matching goes wrong: the top-level `proj_out` and block 1 stay bf16, their namesakes do not."""
    kept = {"proj_out", "x_embedder", *(fqn for fqn in FLUX_FQNS if fqn.startswith("transformer_blocks.1."))}
    return make_recipe(FLUX_FQNS, (fqn for fqn in FLUX_FQNS if fqn not in kept), *(formats or ("nvfp4",)))


ALL = [SkipListExporter(), SkipListExporter(form="globs"), get_exporter("torchao"), DiffusersExporter(), DiffusersExporter(form="json")]
THREE_FORMATS = [exporter for exporter in ALL if not isinstance(exporter, SkipListExporter)]


@pytest.mark.parametrize("exporter", ALL, ids=repr)
def test_export_means_the_recipe(exporter: Any) -> None:
    """The text, read back by the consumer's rule on the model's Linears, gives every layer its format."""
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
    with pytest.raises(RecipeError, match=r"found 2 Linear\(s\).*x_embedder is not in the model; new_layer is not in the recipe"):
        exporter.verify(flux_recipe(), [*FLUX_FQNS[1:], "new_layer"])


def test_proof_catches_a_wrong_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text that skips too much by substring-like globs is refused by layer, and no text comes out."""
    monkeypatch.setattr(SkipListExporter, "render", lambda _self, _recipe: "*proj_out\nx_embedder\ntransformer_blocks.1.*\n")
    with pytest.raises(
        RecipeError, match=r"found 12 Linear\(s\) that skip-list would treat .*single_transformer_blocks.0.proj_out would be"
    ):
        SkipListExporter().export(flux_recipe())


@pytest.mark.filterwarnings("ignore:Config Deprecation")
@pytest.mark.parametrize(
    "keys", [{"a": 1}, {"a": 0}, {"_default": 1}, {"a": 0, "_default": 1}, {"a.weight": 0, "a": 1}, {"a.weight": 1, "a": 0}, {}]
)
def test_simulated_rule_is_the_consumers(keys: dict[str, int]) -> None:
    """torchao and diffusers themselves decide on the same keys as `resolve_exact`: parameter, module, `_default`."""
    from diffusers.quantizers.torchao.torchao_quantizer import _resolve_fqn_to_config
    from torchao.prototype.mx_formats import MXDynamicActivationMXWeightConfig
    from torchao.quantization import FqnToConfig, quantize_

    config = FqnToConfig({key: MXDynamicActivationMXWeightConfig() if value else None for key, value in keys.items()})
    expected = resolve_exact({key: FormatName.MXFP8 if value else None for key, value in keys.items()}, "a") is FormatName.MXFP8
    assert (_resolve_fqn_to_config(config, "a", "a.weight") is not None) == expected
    net = nn.ModuleDict({"a": nn.Linear(32, 32, bias=False)}).bfloat16()
    quantize_(net, config, filter_fn=None)
    assert bool(_quantized(net)) == expected


def test_unknown_exporter_gets_the_closest_name() -> None:
    """A slip is answered with the name that was meant."""
    assert set(EXPORTERS) == {"skip-list", "torchao", "diffusers"}
    with pytest.raises(RecipeError, match="found the exporter 'skiplist'; allowed are skip-list, torchao, diffusers; did you mean 'skip-l"):
        get_exporter("skiplist")
    with pytest.raises(RecipeError, match="name one of them"):
        get_exporter("zzz")


# --- skip-list -------------------------------------------------------------------------------------------------------------------------


def test_skip_list_text() -> None:
    """Exact names under comments with model, latency and its source, LPIPS; a newline in a model's id cannot become an entry."""
    recipe = flux_recipe()
    lines = SkipListExporter().export(recipe).splitlines()
    entries = [line for line in lines if not line.startswith("#")]
    assert tuple(entries) == recipe.skip
    header = "\n".join(line for line in lines if line.startswith("#"))
    assert "every other Linear is nvfp4" in header
    assert "model: toy proj_out, revision not given, pretrained weights" in header
    assert "3 s in bf16, 2 s quantized, 1.5x, predicted for b200, batch size 1, compile mode none" in header
    assert "LPIPS (alex): 0.15, 95% interval 0.1 to 0.2, noise floor not measured, 1 pictures" in header


def test_skip_list_globs() -> None:
    """Globs carry their reasons and select the same Linears."""
    recipe = flux_recipe()
    text = SkipListExporter(form="globs").export(recipe)
    assert "transformer_blocks.1.*  # all of transformer_blocks.1 (3 Linears)" in text
    assert expand(read_list(text), FLUX_FQNS).matched == set(recipe.skip)


def test_skip_list_refuses_three_formats() -> None:
    """A skip-list cannot say which of two formats a layer has."""
    with pytest.raises(RecipeError, match=r"found 2 quantized formats \(mxfp8, nvfp4\).*use the exporter torchao or diffusers"):
        SkipListExporter().export(flux_recipe("mxfp8", "nvfp4"))


def test_skip_list_of_an_all_bf16_recipe() -> None:
    """Nothing quantized is a list of everything."""
    recipe = make_recipe(["a", "b"], [])
    assert read_list(SkipListExporter().export(recipe)) == ("a", "b")


# --- torchao ---------------------------------------------------------------------------------------------------------------------------


class NamesakeNet(nn.Module):
    """`proj_out` at the top and in two blocks; blocks 1 and 10 exist."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.ModuleDict({"proj_out": nn.Linear(32, 32), "up": nn.Linear(32, 32)}) for _ in range(11))
        self.proj_out = nn.Linear(32, 32)


def _linears(module: nn.Module) -> list[str]:
    return [fqn for fqn, child in module.named_modules() if isinstance(child, nn.Linear)]


def _quantized(module: nn.Module) -> dict[str, str]:
    weights = {fqn: module.get_submodule(fqn).weight.data for fqn in _linears(module)}
    return {fqn: type(weight).__name__ for fqn, weight in weights.items() if type(weight) is not torch.Tensor}


@pytest.mark.parametrize("via_json", [False, True])
def test_real_torchao_quantizes_exactly_the_recipe(via_json: bool) -> None:
    """`quantize_` with the object, or with the JSON read back by torchao, changes the recipe's Linears only."""
    from torchao.core.config import config_from_dict
    from torchao.quantization import quantize_

    net = NamesakeNet().bfloat16()
    chosen = [fqn for fqn in _linears(net) if fqn != "proj_out" and not fqn.startswith("blocks.1.")]
    recipe = make_recipe(_linears(net), chosen, "mxfp8")
    config = config_from_dict(json.loads(get_exporter("torchao").export(recipe))) if via_json else recipe.to_torchao()
    quantize_(net, config, filter_fn=None)
    assert _quantized(net) == dict.fromkeys(chosen, "MXTensor")


def test_torchao_json_is_torchaos_own() -> None:
    """For three formats torchao reads back an `FqnToConfig` equal to the object, with None for bf16, but for the machine's own mslk."""
    from torchao.core.config import config_from_dict

    recipe = flux_recipe("mxfp8", "nvfp4", "fp8")
    read = config_from_dict(json.loads(get_exporter("torchao").export(recipe)))
    made = recipe.to_torchao()
    for config in (*read.fqn_to_config.values(), *made.fqn_to_config.values()):
        if hasattr(config, "use_triton_kernel"):
            config.use_triton_kernel = None
    assert read == made
    assert list(made.fqn_to_config) == list(FLUX_FQNS)
    assert {fqn for fqn, config in made.fqn_to_config.items() if config is None} == set(recipe.skip)


def test_text_does_not_depend_on_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """With or without mslk the exported texts are the same."""
    import sensitivity.formats

    recipe, texts = flux_recipe(), set()
    for there in (True, False):
        monkeypatch.setattr(sensitivity.formats, "mslk_is_available", lambda there=there: there)
        texts.add((get_exporter("torchao").export(recipe), get_exporter("diffusers").export(recipe)))
    assert len(texts) == 1


# --- diffusers -------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny_flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved FluxPipeline with a random transformer of 1 double and 2 single blocks, and nothing else."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    torch.manual_seed(0)
    transformer = FluxTransformer2DModel(
        patch_size=1, in_channels=32, num_layers=1, num_single_layers=2, attention_head_dim=32, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=(8, 12, 12),
    ).bfloat16()  # fmt: skip
    nothing = dict.fromkeys(("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    path = tmp_path_factory.mktemp("tiny-flux")
    FluxPipeline(transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(), **nothing).save_pretrained(path)
    return path


def _tiny_recipe(path: Path) -> Recipe:
    from diffusers import FluxTransformer2DModel

    fqns = _linears(FluxTransformer2DModel.from_pretrained(path, subfolder="transformer"))
    kept = ("proj_out", "x_embedder", "single_transformer_blocks.0.attn.to_q", "transformer_blocks.0.ff.net.2")
    return make_recipe(fqns, [fqn for fqn in fqns if fqn not in kept], "mxfp8")


def _config_from(form: str, recipe: Recipe) -> Any:
    import diffusers

    if form == "object":
        return recipe.to_diffusers()
    if form == "json":
        mapping = json.loads(DiffusersExporter(form="json").export(recipe))
        configs = {component: diffusers.TorchAoConfig.from_dict(config) for component, config in mapping.items()}
        return diffusers.PipelineQuantizationConfig(quant_mapping=configs)
    namespace: dict[str, Any] = {}
    exec(compile(DiffusersExporter().export(recipe), "exported.py", "exec"), namespace)
    return namespace["quantization_config"]()


@pytest.mark.parametrize("form", ["object", "python", "json"])
def test_real_diffusers_loads_exactly_the_recipe(tiny_flux: Path, form: str) -> None:
    """A pipeline loaded with the exported config has the recipe's Linears quantized, namesakes of the skipped ones included."""
    from diffusers import FluxPipeline

    recipe = _tiny_recipe(tiny_flux)
    nothing = dict.fromkeys(("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    pipeline = FluxPipeline.from_pretrained(tiny_flux, quantization_config=_config_from(form, recipe), dtype=torch.bfloat16, **nothing)
    assert set(_quantized(pipeline.transformer)) == set(recipe.layers) - set(recipe.skip)
    assert len(recipe.skip) == 4


def test_python_export_checks_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under an older diffusers the exported code and the library refuse with the version and the next step."""
    import diffusers

    recipe = flux_recipe("mxfp8")
    namespace: dict[str, Any] = {}
    exec(compile(DiffusersExporter().export(recipe), "exported.py", "exec"), namespace)
    monkeypatch.setattr(diffusers, "__version__", "0.41.2")
    with pytest.raises(RuntimeError, match=r"found diffusers 0\.41\.2; allowed are 0\.42 and newer"):
        namespace["quantization_config"]()
    with pytest.raises(RecipeError, match=r"found diffusers 0\.41\.2; allowed are 0\.42 and newer.*exporter torchao"):
        recipe.to_diffusers()


def test_python_export_reads_nvfp4_without_mslk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The exported code asks the serving machine for mslk, whatever the exporting one had."""
    recipe = flux_recipe("nvfp4")
    namespace: dict[str, Any] = {}
    exec(compile(DiffusersExporter().export(recipe), "exported.py", "exec"), namespace)
    for there in (True, False):
        monkeypatch.setitem(namespace, "_has_mslk", lambda there=there: there)
        keys = namespace["quantization_config"]().quant_mapping["transformer"].quant_type.fqn_to_config
        assert keys["norm_out.linear"].use_triton_kernel is there
        assert keys["proj_out"] is None


def test_modules_kept_in_fp32_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers never quantizes names that contain a part of `_keep_in_fp32_modules`: a recipe that does is refused."""
    import diffusers

    kept = types.SimpleNamespace(_keep_in_fp32_modules=["timestep_embedder"])
    monkeypatch.setattr(diffusers, "FluxTransformer2DModel", kept)
    recipe = make_recipe(FLUX_FQNS, FLUX_FQNS, "mxfp8")
    with pytest.raises(
        RecipeError, match=r"found 1 .*: time_text_embed\.timestep_embedder\.linear_1 would be bf16, not mxfp8\. The export"
    ):
        DiffusersExporter().export(recipe)
