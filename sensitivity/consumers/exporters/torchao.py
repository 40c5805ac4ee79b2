"""How does torchao quantize as a recipe says? With an `FqnToConfig` (form `json`, or the object of
`to_torchao`), or with one `filter_fn` for each format (form `filter-fn`).

`json` has every Linear as a key, with its whole name: torchao ignores keys that fit nothing, so a
wrong short pattern would go unnoticed. A bf16 Linear has the value None. The JSON is that of
`torchao.core.config.config_to_dict`, without `module_fqn_to_config`, an older copy of the same
mapping that torchao fills in when it reads the JSON.

    config = config_from_dict(json.load(open("recipe.torchao.json")))
    quantize_(transformer, config, filter_fn=None)

A recipe for several denoisers becomes one `FqnToConfig` for each, under the component's name:
{"transformer": {...}, "transformer_2": {...}}.

`filter-fn` is Python, because `quantize_` takes one config a call. It defines `LAYERS` (component
-> format -> regular expressions of the Linears to quantize), `config(format)`, and a filter
function for each component and format. With one component and one format the function is called
`filter_fn`. A Linear that the recipe does not know stays bf16.

    from recipe import config, filter_fn
    quantize_(pipeline.transformer, config("nvfp4"), filter_fn=filter_fn)

Steps. `filter-fn` of a recipe with a step policy also defines `StepPolicy`, a context manager and
`callback_on_step_end` in one (`exporters._steps_code`).

mslk. A JSON is the same on whichever machine it is exported. Its nvfp4 therefore uses the mslk
kernel (`use_triton_kernel`), as torchao does by default. Where mslk is missing, torchao fails at
the first forward pass: install it, or set false there. The exported Python and `to_torchao` look
for mslk on the machine that they run on.

Formats. A config says mxfp8, nvfp4, fp8, fp8-lb (`activation_value_lb`, torchao 0.18 and newer) and
int8, and weight-only nvfp4, fp8 and int8. None says four-over-six scales or a rotation, and there
is no weight-only mxfp8; `Recipe.apply` puts these into torchao's tensors itself. torchao's
weight-only products round more often than this tool's; no code differs.

torchao is imported inside functions only, and configs are made by `sensitivity.formats`. Those of
mxfp8 and nvfp4 are prototypes of torchao: another version may refuse them. How torchao reads a list
is in `readers.torchao`.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from sensitivity.consumers.exporters._base import (
    Exporter,
    indented_json,
    one_or_all,
    only_format,
    quantized_formats,
    tree_of,
)
from sensitivity.consumers.exporters._header import describe
from sensitivity.consumers.exporters._python import (
    MSLK,
    pattern_line,
    read_constants,
    write_configs,
    write_layers,
)
from sensitivity.consumers.exporters._steps_code import steps_code, steps_constant, steps_in
from sensitivity.consumers.exporters.exact_targets import counted_regexes
from sensitivity.consumers.lists import ConsumerList, Entry
from sensitivity.consumers.other_formats import ListedFormat
from sensitivity.consumers.readers import get_reader
from sensitivity.consumers.readers.torchao_configs import format_of
from sensitivity.core.assignment import Assignment
from sensitivity.core.format_name import FormatName, quantized
from sensitivity.core.step_policy import StepPolicy
from sensitivity.recipes.recipe import Recipe

_HEAD = """\
{header}

import importlib.util
import re

{imports}from torch import nn
from torchao.core.config import config_from_dict

"""

FORMATS = frozenset(
    {
        *(FormatName.BF16, FormatName.MXFP8, FormatName.NVFP4, FormatName.FP8, FormatName.INT8),
        *(FormatName.FP8_LB, FormatName.NVFP4_A16, FormatName.FP8_A16, FormatName.INT8_A16),
    }
)
"""The formats that a config of torchao 0.18 says."""

LACKS: Mapping[FormatName, str] = {
    FormatName.NVFP4_4O6: "none of its configs chooses four-over-six scales",
    FormatName.MXFP8_A16: "it has no weight-only config for mxfp8",
    **dict.fromkeys((own for own in FormatName if own.is_rotated), "none of its configs rotates"),
}
"""{format: why no config of torchao 0.18 says it}."""

LOWER_BOUND_NOTE = "fp8-lb (`activation_value_lb`) needs torchao 0.18 or newer"
ROUNDING_NOTE = (
    "torchao's weight-only products round more often than this tool's (the dequantized weight, or"
    " the product before its scale, to bf16); the weights' codes are the same"
)
SLOW_INT8_NOTE = (
    "int8-a16: do not compile torchao's Int8WeightOnlyConfig for many rows. On an H200 (torch 2.11,"
    " torchao 0.18) its compiled product takes 10.7 ms at M = 512, K = N = 3072, where bf16 takes"
    " 0.02 ms; `Recipe.apply` dequantizes instead, and that is what was priced"
)

MIN_FOR_LOWER_BOUND = (0, 18)
"""The oldest torchao whose fp8 keeps to `activation_value_lb`."""

_CHECK = """
    if tuple(int(part) for part in torchao.__version__.split(".")[:2]) < {minimum}:
        raise RuntimeError(
            f"found torchao {{torchao.__version__}}; expected {dotted} or newer, which fp8-lb needs"
        )"""

_CONFIG = '''

def config(format):
    """The torchao config of a format, for quantize_."""{check}
    if format == "nvfp4" and not _has_mslk():
        CONFIGS["nvfp4"]["_data"]["use_triton_kernel"] = False
    return config_from_dict(CONFIGS[format])
'''

_FILTER = '''

def {name}(module, fqn):
    """quantize_(pipeline.{component}, config("{format}"), filter_fn={name})"""
    patterns = "|".join(LAYERS["{component}"]["{format}"])
    return isinstance(module, nn.Linear) and re.fullmatch(patterns, fqn) is not None
'''


@dataclass(frozen=True, kw_only=True)
class TorchaoExporter(Exporter):
    """JSON of an `FqnToConfig`, or of one for each component; or Python with filter functions."""

    name: ClassVar[str] = "torchao"
    forms: ClassVar[Mapping[str, str]] = {"json": ".torchao.json", "filter-fn": ".py"}
    formats: ClassVar[frozenset[FormatName]] = FORMATS
    lacks: ClassVar[Mapping[FormatName, str]] = LACKS

    def notes(self, recipe: Recipe, text: str) -> tuple[str, ...]:  # noqa: ARG002
        """The version that fp8-lb needs, and how weight-only products round."""
        return torchao_notes(recipe)

    def render(self, recipe: Recipe) -> str:
        """The text of the form."""
        if self.form == "json":
            return indented_json(one_or_all(recipe, fqn_to_config_dicts(recipe)))
        layers = _linears_by_format(recipe)
        configs = {name.value: config for name, config in native_config_dicts(recipe).items()}
        header = "\n".join(f"# {line}" for line in describe(recipe))
        constants = write_configs(configs) + write_layers(
            {component: _lines(own) for component, own in layers.items()},
            "component -> format -> Linears to quantize, for re.fullmatch",
        )
        imports = "" if recipe.step_policy is None else "import torch\n"
        imports += "import torchao\n" if FormatName.FP8_LB in configs else ""
        head = _HEAD.format(header=header, imports=imports) + constants + steps_constant(recipe)
        return head + _functions(layers) + steps_code(recipe)

    def policy_obstacles(self, assignment: Assignment, classes: Mapping[str, str]) -> list[str]:
        """None of Python, which has a class for it; a JSON says nothing of steps."""
        if self.form == "filter-fn":
            return []
        return super().policy_obstacles(assignment, classes)

    def step_policy(self, text: str, recipe: Recipe) -> StepPolicy:
        """What the Python runs."""
        if self.form == "filter-fn":
            return steps_in(text, recipe)
        return super().step_policy(text, recipe)

    def assign(self, text: str, recipe: Recipe, fqns: Iterable[str]) -> dict[str, ListedFormat]:
        """What the reader makes of a JSON; of Python, the formats of the names in `LAYERS`."""
        tree, other = tree_of(recipe, fqns), only_format(recipe)
        if self.form == "json":
            return get_reader("torchao").read(text).assign(tree, quantized=other)
        (layers,) = read_constants(text, "LAYERS")
        code = _functions(layers) + steps_code(recipe)
        (configs,) = read_constants(text, "CONFIGS", code=code)
        formats = {name: format_of(config, name) for name, config in configs.items()}
        entries = tuple(
            Entry(text=pattern, rule="regex-full", format=formats[name], component=component)
            for component, own in layers.items()
            for name, chosen in own.items()
            for pattern in chosen
        )
        listed = ConsumerList(consumer=self.name, entries=entries, default=FormatName.BF16)
        return listed.assign(tree, quantized=other)


def torchao_notes(recipe: Recipe) -> tuple[str, ...]:
    """What torchao's configs do not say, for the formats that a recipe uses."""
    used = quantized_formats(recipe)
    return (
        *((LOWER_BOUND_NOTE,) if FormatName.FP8_LB in used else ()),
        *((ROUNDING_NOTE,) if any(name.is_weight_only for name in used) else ()),
        *((SLOW_INT8_NOTE,) if FormatName.INT8_A16 in used else ()),
    )


def check_version(used: Iterable[str]) -> str:
    """The exported lines that check torchao's version; "" where no format needs a newer one."""
    if FormatName.FP8_LB not in used:
        return ""
    minimum = MIN_FOR_LOWER_BOUND
    return _CHECK.format(minimum=minimum, dotted=".".join(map(str, minimum)))


def to_torchao(recipe: Recipe, *, allow_random_weights: bool = False) -> Any:
    """`torchao.quantization.FqnToConfig` for this machine, or {component: one} of a recipe for
    several components.

    Use it with `quantize_(..., filter_fn=None)`; every Linear is a key.

    Args:
        recipe: the recipe.
        allow_random_weights: take a recipe that was searched on random weights, which says nothing
            about the model.

    Raises:
        RecipeError: the recipe is of random weights and that is not allowed; or it has a format
            that no config of torchao says.
    """
    recipe.check_weights(allow_random=allow_random_weights)
    TorchaoExporter().check(recipe)
    return one_or_all(recipe, fqn_to_configs(recipe))


def fqn_to_configs(recipe: Recipe) -> dict[str, Any]:
    """{component: `torchao.quantization.FqnToConfig`} for this machine."""
    from torchao.quantization import FqnToConfig

    from sensitivity.formats.registry import get_format

    configs = {name: get_format(name).native_config() for name in quantized_formats(recipe)}
    return {
        component: FqnToConfig(
            OrderedDict((fqn, configs.get(name)) for fqn, name in layers.items())
        )
        for component, layers in recipe.layers_by_component.items()
    }


def fqn_to_config_dicts(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """{component: JSON of its `FqnToConfig`}, for `torchao.core.config.config_from_dict`."""
    configs = native_config_dicts(recipe)
    return {
        component: {
            "_type": "FqnToConfig",
            "_version": 1,
            "_data": {"fqn_to_config": {fqn: configs.get(name) for fqn, name in layers.items()}},
        }
        for component, layers in recipe.layers_by_component.items()
    }


def native_config_dicts(recipe: Recipe) -> dict[FormatName, dict[str, Any]]:
    """{format: its torchao config as JSON} of the recipe's quantized formats.

    It is the same on every machine.
    """
    from torchao.core.config import config_to_dict

    from sensitivity.formats.registry import get_format

    configs = {
        name: config_to_dict(get_format(name).native_config()) for name in quantized_formats(recipe)
    }
    if FormatName.NVFP4 in configs:
        configs[FormatName.NVFP4]["_data"]["use_triton_kernel"] = True
    return configs


def _linears_by_format(recipe: Recipe) -> dict[str, dict[str, list[str]]]:
    """{component: {format: its Linears}} of what is quantized."""
    found: dict[str, dict[str, list[str]]] = {}
    for component, formats in recipe.layers_by_component.items():
        own = found[component] = {}
        for fqn, name in quantized(formats).items():
            own.setdefault(name.value, []).append(fqn)
    return found


def _lines(layers: Mapping[str, Iterable[str]]) -> list[str]:
    """The lines of one component in `LAYERS`: for each format its regular expressions."""
    lines = []
    for name, fqns in layers.items():
        lines.append(f'"{name}": [')
        lines += [
            f"    {pattern_line(regex, ',', count)}" for regex, count in counted_regexes(fqns)
        ]
        lines.append("],")
    return lines


def _functions(layers: Mapping[str, Mapping[str, Iterable[str]]]) -> str:
    """The code behind the constants: a filter function for each component and format."""
    pairs = [(component, name) for component, own in layers.items() for name in own]
    names_component = len(layers) > 1
    names_format = len({name for _, name in pairs}) > 1
    filters = [
        _FILTER.format(
            name="_".join(
                [
                    "filter_fn",
                    *([component] if names_component else []),
                    *([name.replace("-", "_")] if names_format else []),
                ]
            ),
            component=component,
            format=name,
        )
        for component, name in pairs
    ]
    code = _CONFIG.format(check=check_version(name for _, name in pairs))
    return code + "".join(filters) + MSLK
