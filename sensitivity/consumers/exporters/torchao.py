"""How does torchao quantize as a recipe says?

With an `FqnToConfig` (`json`), or with one `filter_fn` for each format (`filter-fn`).

`json`: every Linear is a key, spelled out: torchao ignores keys that match nothing, so a short
pattern that is wrong would be silent. A bf16 Linear has the value None. It is what
`torchao.core.config.config_to_dict` writes, without `module_fqn_to_config`, an old second copy of
the same mapping that torchao fills in again.

    config = config_from_dict(json.load(open("recipe.torchao.json")))
    quantize_(transformer, config, filter_fn=None)

Where a recipe is for several denoisers, there is one `FqnToConfig` for each, under the component's
name: {"transformer": {...}, "transformer_2": {...}}.

`filter-fn`: Python that defines `LAYERS` (component -> format -> Linears to quantize),
`config(format)` and a function for each component and format that the recipe uses, because
`quantize_` takes one config a call. With one of each it is called `filter_fn`. A Linear that the
recipe does not know stays bf16.

    from recipe import config, filter_fn
    quantize_(pipeline.transformer, config("nvfp4"), filter_fn=filter_fn)

A JSON is the same wherever it is exported, so its NVFP4 asks for the mslk kernel, as torchao does
by default (`use_triton_kernel`); where mslk is missing, torchao asserts at the first forward:
install it, or set false there. The Python and `to_torchao` look at the machine that they run on
instead.

torchao is imported inside the functions that need it, through `sensitivity.formats` where a config
is made. (`formats` is the one importer of torchao; the exception here is `FqnToConfig` and
`config_to_dict`, the form that this file is about.) The configs of mxfp8 and nvfp4 are torchao
prototypes: another torchao may refuse them. What torchao makes of a list is in `consumers.torchao`.
"""

import json
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from sensitivity.consumers.exporters._base import Exporter, describe, quantized_formats, tree_of
from sensitivity.consumers.exporters._python import MSLK, read_constants, write_constant
from sensitivity.consumers.lists import ConsumerList, Entry
from sensitivity.consumers.readers import get_reader
from sensitivity.consumers.readers.torchao import format_of
from sensitivity.core.format_name import FormatName
from sensitivity.recipes.recipe import Recipe

_HEAD = """\
{header}

import importlib.util
import json

from torch import nn
from torchao.core.config import config_from_dict

"""

_CONFIG = '''

def config(format):
    """The torchao config of a format, for quantize_."""
    if format == "nvfp4" and not _has_mslk():
        CONFIGS["nvfp4"]["_data"]["use_triton_kernel"] = False
    return config_from_dict(CONFIGS[format])
'''

_FILTER = '''

def {name}(module, fqn):
    """quantize_(pipeline.{component}, config("{format}"), filter_fn={name})"""
    return isinstance(module, nn.Linear) and fqn in LAYERS["{component}"]["{format}"]
'''


@dataclass(frozen=True, kw_only=True)
class TorchaoExporter(Exporter):
    """JSON of an `FqnToConfig`, or of one a component; or Python with filter functions."""

    name: ClassVar[str] = "torchao"
    forms: ClassVar[Mapping[str, str]] = {"json": ".torchao.json", "filter-fn": ".py"}

    def render(self, recipe: Recipe) -> str:
        """The text in the exporter's form."""
        if self.form == "json":
            configs = to_torchao_dicts(recipe)
            return (
                json.dumps(
                    configs if recipe.model.components else next(iter(configs.values())), indent=1
                )
                + "\n"
            )
        layers: dict[str, dict[str, list[str]]] = {}
        for component, formats in recipe.layers_by_component.items():
            own = layers[component] = {}
            for fqn, name in formats.items():
                if name is not FormatName.BF16:
                    own.setdefault(name.value, []).append(fqn)
        configs = {name.value: config for name, config in native_config_dicts(recipe).items()}
        constants = write_constant("CONFIGS", configs) + write_constant(
            "LAYERS", layers, "component -> format -> Linears to quantize"
        )
        return (
            _HEAD.format(header="\n".join(f"# {line}" for line in describe(recipe)))
            + constants
            + _functions(layers)
        )

    def assign(self, text: str, recipe: Recipe, fqns: Iterable[str]) -> dict[str, FormatName]:
        """`FqnToConfig` as torchao reads it; filter functions choose the names that `LAYERS` has."""
        tree, other = tree_of(recipe, fqns), next(iter(quantized_formats(recipe)), FormatName.BF16)
        if self.form == "json":
            return get_reader("torchao").read(text).assign(tree, quantized=other)
        (layers,) = read_constants(text, "LAYERS")
        (configs,) = read_constants(text, "CONFIGS", code=_functions(layers))
        formats = {name: format_of(config, name) for name, config in configs.items()}
        entries = tuple(
            Entry(text=fqn, rule="fqn", format=formats[name], component=component)
            for component, own in layers.items()
            for name, chosen in own.items()
            for fqn in chosen
        )
        return ConsumerList(consumer=self.name, entries=entries, default=FormatName.BF16).assign(
            tree, quantized=other
        )


def _functions(layers: Mapping[str, Mapping[str, Iterable[str]]]) -> str:
    """The code behind the constants: a filter for each component and format."""
    pairs = [(component, name) for component, own in layers.items() for name in own]
    parts = [
        layers if len(layers) > 1 else (),
        pairs if len({name for _, name in pairs}) > 1 else (),
    ]
    filters = [
        _FILTER.format(
            name="_".join(
                ["filter_fn", *([component] if parts[0] else []), *([name] if parts[1] else [])]
            ),
            component=component,
            format=name,
        )
        for component, name in pairs
    ]
    return _CONFIG + "".join(filters) + MSLK


def native_config_dicts(recipe: Recipe) -> dict[FormatName, dict[str, Any]]:
    """The torchao config of each quantized format of the recipe, as torchao's own JSON, the same on
    every machine.
    """
    from torchao.core.config import config_to_dict

    from sensitivity.formats.registry import get_format

    configs = {
        name: config_to_dict(get_format(name).native_config()) for name in quantized_formats(recipe)
    }
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
    """{component:

    `torchao.quantization.FqnToConfig`} for this machine, with every Linear as a key; use them with
    `quantize_(..., filter_fn=None)`.
    """
    from torchao.quantization import FqnToConfig

    from sensitivity.formats.registry import get_format

    configs = {name: get_format(name).native_config() for name in quantized_formats(recipe)}
    return {
        component: FqnToConfig(
            OrderedDict((fqn, configs.get(name)) for fqn, name in layers.items())
        )
        for component, layers in recipe.layers_by_component.items()
    }
