"""How does a diffusers pipeline load already quantized as the recipe says? With a
`PipelineQuantizationConfig` for its denoisers: the object of `to_diffusers`, or one of three texts:

- `python` (default) defines `quantization_config()`, with `TorchAoConfig(FqnToConfig(...))`, which
  matches exact FQNs. It needs diffusers 0.42, and the code checks that: older releases do not
  resolve its names;
- `json` is the same as {component: `TorchAoConfig.to_dict()`}, for `TorchAoConfig.from_dict`;
- `modules-to-not-convert` is Python for diffusers 0.37 and newer, for one quantized format:
  `TorchAoConfig(config, modules_to_not_convert=[...])`. Entries match parts of names there
  (`proj_out` skips 39 Linears of FLUX). The text has the shortest list that hits exactly the bf16
  Linears (`exporters.substrings`).

    from flux_recipe import quantization_config
    pipeline = FluxPipeline.from_pretrained(
        model_id, quantization_config=quantization_config(), dtype=torch.bfloat16
    )

The config quantizes the recipe's components and changes no other component. diffusers never
quantizes Linears whose name contains a part of their class's `_keep_in_fp32_modules`: a recipe that
quantizes one is refused, and the nearest recipe leaves them in bf16. How diffusers reads a list is
in `readers.diffusers`. diffusers is imported inside functions only.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from sensitivity.consumers.exporters._base import (
    Exporter,
    indented_json,
    only_format,
    tree_of,
)
from sensitivity.consumers.exporters._header import describe
from sensitivity.consumers.exporters._python import MSLK, read_constants, write_constant
from sensitivity.consumers.exporters.substrings import exact_substrings
from sensitivity.consumers.exporters.torchao import (
    fqn_to_config_dicts,
    fqn_to_configs,
    native_config_dicts,
)
from sensitivity.consumers.other_formats import ListedFormat
from sensitivity.consumers.readers import get_reader
from sensitivity.consumers.readers.diffusers import kept_in_fp32
from sensitivity.consumers.rules import hits
from sensitivity.core.format_name import FormatName, quantized, skipped
from sensitivity.core.words import some
from sensitivity.errors import RecipeError
from sensitivity.recipes.recipe import Recipe

MIN_DIFFUSERS, MIN_FOR_SUBSTRINGS = (0, 42), (0, 37)
"""The oldest diffusers that reads `FqnToConfig`, and `modules_to_not_convert`, as written here."""

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
    """For {pipeline}.from_pretrained(..., quantization_config=quantization_config(), \
{dtype}=torch.bfloat16)."""
    if tuple(int(part) for part in diffusers.__version__.split(".")[:2]) < {minimum}:
        raise RuntimeError(
            f"found diffusers {{diffusers.__version__}}; expected {dotted} or newer, since older \
ones misread it; pip install -U diffusers"
        )
    if "nvfp4" in CONFIGS and not _has_mslk():
        CONFIGS["nvfp4"]["_data"]["use_triton_kernel"] = False
    configs = {{name: config_from_dict(config) for name, config in CONFIGS.items()}}
    mapping = {{}}
{mapping}
'''

_EXACT = """\
    for component, layers in LAYERS.items():
        keys = {fqn: configs.get(name) for name, fqns in layers.items() for fqn in fqns}  \
# bf16 has no config: None
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
        """One in the form whose list has no formats."""
        return 1 if self.form == SUBSTRINGS else len(FormatName)

    def render(self, recipe: Recipe) -> str:
        """The text of the form."""
        if self.form == "json":
            return indented_json(_exact_configs(fqn_to_config_dicts(recipe)))
        configs = {name.value: config for name, config in native_config_dicts(recipe).items()}
        header = "\n".join(f"# {line}" for line in describe(recipe))
        constants = write_constant("CONFIGS", configs)
        if self.form == SUBSTRINGS:
            imports = ""
            constants += _write_substrings(recipe)
        else:
            imports = "from torchao.quantization import FqnToConfig\n"
            constants += write_constant("LAYERS", _layers(recipe), "component -> format -> Linears")
        return _HEAD.format(header=header, imports=imports) + constants + self._code(recipe)

    def _code(self, recipe: Recipe) -> str:
        """The code behind the constants."""
        for_older = self.form == SUBSTRINGS
        minimum = MIN_FOR_SUBSTRINGS if for_older else MIN_DIFFUSERS
        code = _CODE.format(
            pipeline=recipe.model.pipeline_class,
            dtype="torch_dtype" if for_older else "dtype",
            minimum=minimum,
            dotted=".".join(map(str, minimum)),
            mapping=_PARTS if for_older else _EXACT,
        )
        return code + MSLK

    def assign(self, text: str, recipe: Recipe, fqns: Iterable[str]) -> dict[str, ListedFormat]:
        """What the reader makes of the config that the text defines."""
        tree, mapping = tree_of(recipe, fqns), self._mapping(text, recipe)
        if not mapping:
            return dict.fromkeys(tree.fqns, FormatName.BF16)
        listed = get_reader("diffusers").read(json.dumps(mapping))
        return listed.assign(tree, quantized=only_format(recipe))

    def _mapping(self, text: str, recipe: Recipe) -> dict[str, Any]:
        """{component: `TorchAoConfig.to_dict()`} that the text defines."""
        if self.form == "json":
            mapping: dict[str, Any] = json.loads(text)
            return mapping
        if self.form == SUBSTRINGS:
            configs, skip = read_constants(text, "CONFIGS", "SKIP", code=self._code(recipe))
            return {
                component: _torchao_config(config, skip[component])
                for config in configs.values()
                for component in skip
            }
        configs, layers = read_constants(text, "CONFIGS", "LAYERS", code=self._code(recipe))
        keys = {
            component: {fqn: configs.get(name) for name, own in formats.items() for fqn in own}
            for component, formats in layers.items()
        }
        return _exact_configs(
            {
                component: {"_type": "FqnToConfig", "_data": {"fqn_to_config": own}}
                for component, own in keys.items()
            }
        )

    def obstacles(self, recipe: Recipe) -> list[str]:
        """Those of every exporter, and quantized Linears that diffusers keeps in fp32."""
        return super().obstacles(recipe) + [
            f"it never quantizes what {recipe.model.classes[component]}._keep_in_fp32_modules names"
            f" ({', '.join(parts)}), and the recipe quantizes {some(fqns)}"
            for component, (parts, fqns) in _kept_but_quantized(recipe).items()
        ]

    def nearest(self, recipe: Recipe) -> dict[str, FormatName]:
        """The nearest formats of every exporter, with bf16 for what diffusers keeps in fp32."""
        kept = [fqn for _, fqns in _kept_but_quantized(recipe).values() for fqn in fqns]
        return super().nearest(recipe) | dict.fromkeys(kept, FormatName.BF16)


def to_diffusers(recipe: Recipe, *, allow_random_weights: bool = False) -> Any:
    """`diffusers.PipelineQuantizationConfig` that loads the recipe's components quantized.

    Args:
        recipe: the recipe.
        allow_random_weights: take a recipe that was searched on random weights, which says nothing
            about the model.

    Raises:
        RecipeError: the recipe is of random weights and that is not allowed; or diffusers is older
            than 0.42, or would treat a layer otherwise than the recipe says.
    """
    recipe.check_weights(allow_random=allow_random_weights)
    import diffusers

    if tuple(int(part) for part in diffusers.__version__.split(".")[:2]) < MIN_DIFFUSERS:
        raise RecipeError(
            f"found diffusers {diffusers.__version__}; expected 0.42 or newer, since older ones do"
            " not resolve FqnToConfig; pip install -U diffusers, or export it in the form"
            f" {SUBSTRINGS}, or with the exporter torchao"
        )
    DiffusersExporter(form="json").verify(recipe, recipe.layers)
    mapping = {
        component: diffusers.TorchAoConfig(config)
        for component, config in fqn_to_configs(recipe).items()
    }
    return diffusers.PipelineQuantizationConfig(quant_mapping=mapping)


def _kept_but_quantized(recipe: Recipe) -> dict[str, tuple[tuple[str, ...], list[str]]]:
    """{component: (parts of names, FQNs)} of Linears that the recipe quantizes and diffusers does
    not.
    """
    found = {}
    several = bool(recipe.model.components)
    for component, layers in recipe.layers_by_component.items():
        parts = kept_in_fp32(recipe.model.classes[component])
        kept = frozenset[str]().union(*(hits("dotted-substring", part, layers) for part in parts))
        names = [fqn for fqn in quantized(layers) if fqn in kept]
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
    """`SKIP`: the entries of each component that is quantized, each with what it hits."""
    lines = [
        "SKIP = {  # component -> parts of the names of Linears that stay bf16, for this model only"
    ]
    for component, layers in recipe.layers_by_component.items():
        if quantized(layers):
            entries = exact_substrings(skipped(layers), layers)
            lines += [
                f'    "{component}": [',
                *(f'        "{entry}",  # {reason}' for entry, reason in entries.items()),
                "    ],",
            ]
    return "\n".join([*lines, "}"]) + "\n"


def _exact_configs(configs: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """{component: `TorchAoConfig.to_dict()`} of {component: torchao's config as JSON}."""
    return {component: _torchao_config(config, None) for component, config in configs.items()}


def _torchao_config(config: dict[str, Any], skip: list[str] | None) -> dict[str, Any]:
    """`TorchAoConfig.to_dict()` of torchao's config as JSON."""
    return {
        "quant_method": "torchao",
        "quant_type": {"default": config},
        "modules_to_not_convert": skip,
    }
