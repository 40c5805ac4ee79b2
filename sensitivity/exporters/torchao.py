"""How does torchao read a recipe? As an `FqnToConfig`: a config for each module FQN.

Every Linear is a key, spelled out: torchao ignores keys that match nothing, so a short pattern that is wrong would be silent. A bf16 Linear
has the value None. The JSON is that of `torchao.core.config.config_to_dict`, without `module_fqn_to_config`, an old second copy of the same
mapping that torchao fills in again.

    config = config_from_dict(json.load(open("recipe.torchao.json")))
    quantize_(transformer, config, filter_fn=None)

Where a recipe is for several denoisers, there is one `FqnToConfig` for each, under the component's name: {"transformer": {...}, "transformer_2": {...}}.

A text is the same wherever it is exported, so its NVFP4 asks for the mslk kernel, as torchao does by default (`use_triton_kernel`); where
mslk is missing, torchao asserts at the first forward: install it, or set false there. `to_torchao` looks at this machine instead.

torchao is imported inside the functions that need it, through `sensitivity.formats` where a config is made. (`formats` is the one
importer of torchao; the exception here is `FqnToConfig` and `config_to_dict`, the form that this file is about.) The configs
of mxfp8 and nvfp4 are torchao prototypes: another torchao may refuse them.
"""

import json
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from sensitivity.errors import RecipeError
from sensitivity.exporters._base import Exporter, assign_within, quantized_formats, resolve_exact
from sensitivity.recipe import Recipe
from sensitivity.spec import FormatName


@dataclass(frozen=True, kw_only=True)
class TorchaoExporter(Exporter):
    """JSON of an `FqnToConfig`, or of one a component."""

    name: ClassVar[str] = "torchao"
    forms: ClassVar[Mapping[str, str]] = {"json": ".torchao.json"}

    def render(self, recipe: Recipe) -> str:
        """The JSON text, indented."""
        configs = to_torchao_dicts(recipe)
        return json.dumps(configs if recipe.model.components else next(iter(configs.values())), indent=1) + "\n"

    def assign(self, text: str, recipe: Recipe, fqns: Iterable[str]) -> dict[str, FormatName]:
        """Exact parameter name, exact module name, `_default`."""
        data = json.loads(text)
        keys = {name: read_keys(data[name] if recipe.model.components else data, recipe) for name in recipe.model.classes}
        return assign_within(recipe, fqns, lambda component, fqn: resolve_exact(keys[component], fqn))


def native_config_dicts(recipe: Recipe) -> dict[FormatName, dict[str, Any]]:
    """The torchao config of each quantized format of the recipe, as torchao's own JSON, the same on every machine."""
    from torchao.core.config import config_to_dict

    from sensitivity.formats import get_format

    configs = {name: config_to_dict(get_format(name).native_config()) for name in quantized_formats(recipe)}
    if FormatName.NVFP4 in configs:
        configs[FormatName.NVFP4]["_data"]["use_triton_kernel"] = True
    return configs


def to_torchao_dicts(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """{component: what `torchao.core.config.config_from_dict` reads as its `FqnToConfig`}."""
    configs = native_config_dicts(recipe)
    return {
        component: {
            "_type": "FqnToConfig",
            "_version": 1,
            "_data": {"fqn_to_config": {fqn: configs.get(name) for fqn, name in layers.items()}},
        }
        for component, layers in recipe.layers_by_component.items()
    }


def to_torchao(recipe: Recipe) -> Any:
    """`to_torchaos` where the recipe is for several components, else the one there is."""
    configs = to_torchaos(recipe)
    return configs if recipe.model.components else next(iter(configs.values()))


def to_torchaos(recipe: Recipe) -> dict[str, Any]:
    """{component: `torchao.quantization.FqnToConfig`} for this machine, with every Linear as a key; use them with `quantize_(..., filter_fn=None)`."""
    from torchao.quantization import FqnToConfig

    from sensitivity.formats import get_format

    configs = {name: get_format(name).native_config() for name in quantized_formats(recipe)}
    return {
        component: FqnToConfig(OrderedDict((fqn, configs.get(name)) for fqn, name in layers.items()))
        for component, layers in recipe.layers_by_component.items()
    }


def read_keys(data: dict[str, Any], recipe: Recipe) -> dict[str, FormatName | None]:
    """Key -> format in the JSON of an `FqnToConfig`, by comparing each config with those of the recipe's formats.

    Raises:
        RecipeError: a key is a regular expression, or a config is none of ours.
    """
    names = {json.dumps(config, sort_keys=True): name for name, config in native_config_dicts(recipe).items()}
    keys: dict[str, FormatName | None] = {}
    for key, config in data["_data"]["fqn_to_config"].items():
        form = json.dumps(config, sort_keys=True)
        if key.startswith("re:") or (config is not None and form not in names):
            raise RecipeError(f"found the key {key!r} with {form[:120]}; allowed are FQNs with the recipe's own configs; export it again")
        keys[key] = names.get(form)
    return keys
