"""How does a diffusers pipeline load already quantized as the recipe says? With a `PipelineQuantizationConfig` for its denoisers.

The form is `TorchAoConfig(FqnToConfig(...))`, which matches exact FQNs. It needs diffusers 0.42, and the Python that is exported checks
that: older ones do not resolve its names. `modules_to_not_convert`, the older form, matches substrings (`proj_out` skips 39 Linears of
FLUX instead of one) and is not used. diffusers also uses it for classes with `_keep_in_fp32_modules`: Linears whose name contains one of
those are never quantized, so a recipe that quantizes one is refused here.

Two texts: `python` defines `quantization_config()`; `json` is `{component: TorchAoConfig.to_dict()}`, for `TorchAoConfig.from_dict`.

    from flux_recipe import quantization_config
    pipeline = FluxPipeline.from_pretrained(model_id, quantization_config=quantization_config(), dtype=torch.bfloat16)

diffusers is imported inside functions only. (`pipelines` is the one importer of diffusers; the exception here is the quantization config,
the form that this file is about.) It quantizes the recipe's components and touches no other.
"""

import ast
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from sensitivity.errors import RecipeError
from sensitivity.exporters._base import Exporter, assign_within, describe, resolve_exact
from sensitivity.exporters.torchao import native_config_dicts, read_keys, to_torchao_dicts, to_torchaos
from sensitivity.recipe import Recipe
from sensitivity.spec import FormatName

MIN_DIFFUSERS = (0, 42)

_CODE = '''\
{header}

import importlib.util
import json

import diffusers
from torchao.core.config import config_from_dict
from torchao.quantization import FqnToConfig

CONFIGS = json.loads(r"""
{configs}
""")
LAYERS = json.loads(r"""
{layers}
""")  # component -> format -> Linears


def quantization_config():
    """For {pipeline}.from_pretrained(..., quantization_config=quantization_config(), dtype=torch.bfloat16)."""
    if tuple(int(part) for part in diffusers.__version__.split(".")[:2]) < {minimum}:
        raise RuntimeError(
            f"found diffusers {{diffusers.__version__}}; allowed are {dotted} and newer, older ones misread it; pip install -U diffusers"
        )
    if "nvfp4" in CONFIGS and not _has_mslk():
        CONFIGS["nvfp4"]["_data"]["use_triton_kernel"] = False
    configs = {{name: config_from_dict(config) for name, config in CONFIGS.items()}}
    mapping = {{}}
    for component, layers in LAYERS.items():
        keys = {{fqn: configs.get(name) for name, fqns in layers.items() for fqn in fqns}}  # bf16 has no config: None
        mapping[component] = diffusers.TorchAoConfig(FqnToConfig(keys))
    return diffusers.PipelineQuantizationConfig(quant_mapping=mapping)


def _has_mslk():
    """Whether NVFP4's fast activation quantizer is installed (`mslk` on PyPI is an empty placeholder); without it NVFP4 is slow."""
    try:
        return importlib.util.find_spec("mslk.quantize.triton.fp4_quantize") is not None
    except ImportError:
        return False
'''


@dataclass(frozen=True, kw_only=True)
class DiffusersExporter(Exporter):
    """Python (default) or JSON for `from_pretrained(quantization_config=...)`."""

    name: ClassVar[str] = "diffusers"
    forms: ClassVar[Mapping[str, str]] = {"python": ".py", "json": ".diffusers.json"}

    def render(self, recipe: Recipe) -> str:
        """The text in the exporter's form."""
        if self.form == "json":
            mapping = {
                component: {"quant_method": "torchao", "quant_type": {"default": config}, "modules_to_not_convert": None}
                for component, config in to_torchao_dicts(recipe).items()
            }
            return json.dumps(mapping, indent=1) + "\n"
        layers: dict[str, dict[str, list[str]]] = {}
        for component, formats in recipe.layers_by_component.items():
            for fqn, name in formats.items():
                layers.setdefault(component, {}).setdefault(name.value, []).append(fqn)
        configs = {name.value: config for name, config in native_config_dicts(recipe).items()}
        return _CODE.format(
            header="\n".join(f"# {line}" for line in describe(recipe)),
            configs=json.dumps(configs, indent=1),
            layers=json.dumps(layers, indent=1),
            pipeline=recipe.model.pipeline_class,
            minimum=MIN_DIFFUSERS,
            dotted=".".join(map(str, MIN_DIFFUSERS)),
        )

    def assign(self, text: str, recipe: Recipe, fqns: Iterable[str]) -> dict[str, FormatName]:
        """Substrings that the class keeps in fp32 first, then torchao's exact rule."""
        if self.form == "json":
            keys = {component: read_keys(config["quant_type"]["default"], recipe) for component, config in json.loads(text).items()}
        else:
            known = native_config_dicts(recipe)
            if _read_constant(text, "CONFIGS") != {name.value: config for name, config in known.items()}:
                raise RecipeError("found other torchao configs in the exported Python; allowed are the recipe's; export it again")
            keys = {
                component: {fqn: FormatName(name) if FormatName(name) in known else None for name, fqns in layers.items() for fqn in fqns}
                for component, layers in _read_constant(text, "LAYERS").items()
            }
        kept = {component: kept_in_fp32(kind) for component, kind in recipe.model.classes.items()}

        def decide(component: str, fqn: str) -> FormatName:
            fp32 = any(f"{part}." in f"{fqn}.weight" for part in kept[component])
            return FormatName.BF16 if fp32 else resolve_exact(keys[component], fqn)

        return assign_within(recipe, fqns, decide)


def _read_constant(text: str, name: str) -> Any:
    """The value of the line `NAME = json.loads(r'''...''')` in exported Python, without running it."""
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and ast.unparse(node.targets[0]) == name:
            return json.loads(ast.literal_eval(node.value.args[0]))
    raise RecipeError(f"found no {name} in the exported Python; allowed is the text that this exporter writes; export it again")


def kept_in_fp32(component_class: str) -> tuple[str, ...]:
    """Name parts that diffusers never quantizes in this class; none for a class that diffusers does not have."""
    import diffusers

    kept = getattr(getattr(diffusers, component_class, None), "_keep_in_fp32_modules", None) or ()
    return (kept,) if isinstance(kept, str) else tuple(kept)


def to_diffusers(recipe: Recipe) -> Any:
    """`diffusers.PipelineQuantizationConfig` that loads the recipe's components quantized.

    Raises:
        RecipeError: diffusers is older than 0.42, or would treat a layer otherwise than the recipe says.
    """
    import diffusers

    if tuple(int(part) for part in diffusers.__version__.split(".")[:2]) < MIN_DIFFUSERS:
        raise RecipeError(
            f"found diffusers {diffusers.__version__}; allowed are 0.42 and newer, older ones do not resolve FqnToConfig; "
            "pip install -U diffusers, or use the exporter torchao"
        )
    DiffusersExporter(form="json").verify(recipe, recipe.layers)
    mapping = {component: diffusers.TorchAoConfig(config) for component, config in to_torchaos(recipe).items()}
    return diffusers.PipelineQuantizationConfig(quant_mapping=mapping)
