"""How does a diffusers pipeline load already quantized as the recipe says?

With a `PipelineQuantizationConfig` for its denoisers.

Three texts:

- `python` (default) defines `quantization_config()`, with `TorchAoConfig(FqnToConfig(...))`, which
  matches exact FQNs. It needs diffusers 0.42, and the code checks that: older ones do not resolve
  its names;
- `json` is the same as `{component: TorchAoConfig.to_dict()}`, for `TorchAoConfig.from_dict`;
- `modules-to-not-convert` is Python for diffusers 0.37 and newer, with one quantized format:
  `TorchAoConfig(config, modules_to_not_convert=[...])`. Entries match parts of names there
  (`proj_out` skips 39 Linears of FLUX), so the shortest list that hits exactly the bf16 Linears is
  looked for, with whole parameter names, such as `proj_out.weight`, where nothing shorter does.

    from flux_recipe import quantization_config
    pipeline = FluxPipeline.from_pretrained(model_id, quantization_config=quantization_config(), dtype=torch.bfloat16)

diffusers never quantizes Linears whose name contains a part of their class's
`_keep_in_fp32_modules`: a recipe that does is refused, and the nearest leaves them in bf16. What
diffusers makes of a list is in `consumers.diffusers`.

diffusers is imported inside functions only. (`pipelines` is the one importer of diffusers; the
exception here is the quantization config, the form that this file is about.) It quantizes the
recipe's components and touches no other.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from sensitivity.consumers.exporters._base import Exporter, describe, quantized_formats, tree_of
from sensitivity.consumers.exporters._python import MSLK, read_constants, write_constant
from sensitivity.consumers.exporters.substrings import cover
from sensitivity.consumers.exporters.torchao import (
    native_config_dicts,
    to_torchao_dicts,
    to_torchaos,
)
from sensitivity.consumers.readers import get_reader
from sensitivity.consumers.readers.diffusers import kept_in_fp32
from sensitivity.consumers.rules import hits
from sensitivity.core.format_name import FormatName
from sensitivity.core.words import some
from sensitivity.errors import RecipeError
from sensitivity.recipes.recipe import Recipe

MIN_DIFFUSERS, MIN_FOR_SUBSTRINGS = (0, 42), (0, 37)
SUBSTRINGS = "modules-to-not-convert"

_HEAD = """\
{header}

import importlib.util
import json

import diffusers
from torchao.core.config import config_from_dict
{imports}
"""

_CODE = '''

def quantization_config():
    """For {pipeline}.from_pretrained(..., quantization_config=quantization_config(), {dtype}=torch.bfloat16)."""
    if tuple(int(part) for part in diffusers.__version__.split(".")[:2]) < {minimum}:
        raise RuntimeError(
            f"found diffusers {{diffusers.__version__}}; allowed are {dotted} and newer, older ones misread it; pip install -U diffusers"
        )
    if "nvfp4" in CONFIGS and not _has_mslk():
        CONFIGS["nvfp4"]["_data"]["use_triton_kernel"] = False
    configs = {{name: config_from_dict(config) for name, config in CONFIGS.items()}}
    mapping = {{}}
{mapping}
'''

_EXACT = """\
    for component, layers in LAYERS.items():
        keys = {fqn: configs.get(name) for name, fqns in layers.items() for fqn in fqns}  # bf16 has no config: None
        mapping[component] = diffusers.TorchAoConfig(FqnToConfig(keys))
    return diffusers.PipelineQuantizationConfig(quant_mapping=mapping)"""

_PARTS = """\
    for component, skip in SKIP.items():
        for config in configs.values():  # there is one
            mapping[component] = diffusers.TorchAoConfig(config, modules_to_not_convert=list(skip))
    return diffusers.PipelineQuantizationConfig(quant_mapping=mapping) if mapping else None"""


@dataclass(frozen=True, kw_only=True)
class DiffusersExporter(Exporter):
    """Python (default) or JSON for `from_pretrained(quantization_config=...)`."""

    name: ClassVar[str] = "diffusers"
    forms: ClassVar[Mapping[str, str]] = {
        "python": ".py",
        "json": ".diffusers.json",
        SUBSTRINGS: ".py",
    }

    @property
    def max_formats(self) -> int:  # type: ignore[override]
        """One where the list has no formats."""
        return 1 if self.form == SUBSTRINGS else len(FormatName)

    def render(self, recipe: Recipe) -> str:
        """The text in the exporter's form."""
        if self.form == "json":
            return json.dumps(_exact_configs(to_torchao_dicts(recipe)), indent=1) + "\n"
        configs = {name.value: config for name, config in native_config_dicts(recipe).items()}
        header = "\n".join(f"# {line}" for line in describe(recipe))
        imports = (
            "" if self.form == SUBSTRINGS else "from torchao.quantization import FqnToConfig\n"
        )
        constants = write_constant("CONFIGS", configs)
        if self.form == SUBSTRINGS:
            constants += _write_substrings(recipe)
        else:
            constants += write_constant("LAYERS", _layers(recipe), "component -> format -> Linears")
        return _HEAD.format(header=header, imports=imports) + constants + self._code(recipe)

    def _code(self, recipe: Recipe) -> str:
        old = self.form == SUBSTRINGS
        minimum = MIN_FOR_SUBSTRINGS if old else MIN_DIFFUSERS
        code = _CODE.format(
            pipeline=recipe.model.pipeline_class,
            dtype="torch_dtype" if old else "dtype",
            minimum=minimum,
            dotted=".".join(map(str, minimum)),
            mapping=_PARTS if old else _EXACT,
        )
        return code + MSLK

    def assign(self, text: str, recipe: Recipe, fqns: Iterable[str]) -> dict[str, FormatName]:
        """The config that the text makes, as diffusers reads it."""
        tree, other = tree_of(recipe, fqns), next(iter(quantized_formats(recipe)), FormatName.BF16)
        if self.form == SUBSTRINGS:
            configs, skip = read_constants(text, "CONFIGS", "SKIP", code=self._code(recipe))
            mapping = {
                component: _torchao_config(config, skip[component])
                for config in configs.values()
                for component in skip
            }
        elif self.form == "python":
            configs, layers = read_constants(text, "CONFIGS", "LAYERS", code=self._code(recipe))
            keys = {
                component: {fqn: configs.get(name) for name, own in formats.items() for fqn in own}
                for component, formats in layers.items()
            }
            mapping = _exact_configs(
                {
                    name: {"_type": "FqnToConfig", "_data": {"fqn_to_config": own}}
                    for name, own in keys.items()
                }
            )
        else:
            mapping = json.loads(text)
        if not mapping:
            return dict.fromkeys(tree.fqns, FormatName.BF16)
        return get_reader("diffusers").read(json.dumps(mapping)).assign(tree, quantized=other)

    def obstacles(self, recipe: Recipe) -> list[str]:
        """Those of the base, and Linears that diffusers keeps in fp32."""
        return super().obstacles(recipe) + [
            f"it never quantizes what {recipe.model.classes[component]}._keep_in_fp32_modules names"
            f" ({', '.join(parts)}), and the recipe quantizes {some(fqns)}"
            for component, (parts, fqns) in _kept_but_quantized(recipe).items()
        ]

    def nearest(self, recipe: Recipe) -> dict[str, FormatName]:
        """That of the base, with those Linears in bf16."""
        kept = dict.fromkeys(
            (fqn for _, fqns in _kept_but_quantized(recipe).values() for fqn in fqns),
            FormatName.BF16,
        )
        return super().nearest(recipe) | kept


def _kept_but_quantized(recipe: Recipe) -> dict[str, tuple[tuple[str, ...], list[str]]]:
    """{component:

    (parts of names, FQNs)} of Linears that the recipe quantizes and diffusers does not.
    """
    found = {}
    several = bool(recipe.model.components)
    for component, layers in recipe.layers_by_component.items():
        parts = kept_in_fp32(recipe.model.classes[component])
        kept = frozenset[str]().union(*(hits("dotted-substring", part, layers) for part in parts))
        names = [fqn for fqn, name in layers.items() if fqn in kept and name is not FormatName.BF16]
        if names:
            found[component] = (parts, [f"{component}.{fqn}" if several else fqn for fqn in names])
    return found


def _layers(recipe: Recipe) -> dict[str, dict[str, list[str]]]:
    """{component: {format: FQNs}}."""
    layers: dict[str, dict[str, list[str]]] = {}
    for component, formats in recipe.layers_by_component.items():
        for fqn, name in formats.items():
            layers.setdefault(component, {}).setdefault(name.value, []).append(fqn)
    return layers


def _write_substrings(recipe: Recipe) -> str:
    """`SKIP`: what hits the bf16 Linears of each component that has others, with what each entry
    hits.
    """
    lines = [
        "SKIP = {  # component -> parts of the names of Linears that stay bf16, for this model only"
    ]
    for component, layers in recipe.layers_by_component.items():
        if set(layers.values()) != {FormatName.BF16}:
            entries = cover(
                [fqn for fqn, name in layers.items() if name is FormatName.BF16], layers
            )
            lines += [
                f'    "{component}": [',
                *(f'        "{entry}",  # {reason}' for entry, reason in entries.items()),
                "    ],",
            ]
    return "\n".join([*lines, "}"]) + "\n"


def _exact_configs(configs: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """{component: `TorchAoConfig.to_dict()`} of {component: torchao's config}."""
    return {component: _torchao_config(config, None) for component, config in configs.items()}


def _torchao_config(config: dict[str, Any], skip: list[str] | None) -> dict[str, Any]:
    return {
        "quant_method": "torchao",
        "quant_type": {"default": config},
        "modules_to_not_convert": skip,
    }


def to_diffusers(recipe: Recipe) -> Any:
    """`diffusers.PipelineQuantizationConfig` that loads the recipe's components quantized.

    Raises:
        RecipeError: diffusers is older than 0.42, or would treat a layer otherwise than the recipe
            says.
    """
    import diffusers

    if tuple(int(part) for part in diffusers.__version__.split(".")[:2]) < MIN_DIFFUSERS:
        raise RecipeError(
            f"found diffusers {diffusers.__version__}; allowed are 0.42 and newer, older ones do"
            " not resolve FqnToConfig; pip install -U diffusers, or export it in the form"
            f" {SUBSTRINGS}, or with the exporter torchao"
        )
    DiffusersExporter(form="json").verify(recipe, recipe.layers)
    mapping = {
        component: diffusers.TorchAoConfig(config)
        for component, config in to_torchaos(recipe).items()
    }
    return diffusers.PipelineQuantizationConfig(quant_mapping=mapping)
