r"""How do compressed-tensors and llm-compressor read a recipe? As a `quantization_config` (form
`config`, JSON) or as an llm-compressor recipe (form `recipe`, YAML).

    config = json.load(open("recipe.compressed-tensors.json"))
    apply_quantization_config(transformer, QuantizationConfig(**config))

    oneshot(model=transformer, recipe="recipe.llmcompressor.yaml", ...)

Each format is one group. Every quantized Linear is a target and every other Linear is in `ignore`.
So the result does not depend on the order in which a reader tries its rules, and readers that need
an entry for each layer have one. `config` has exact names. `recipe` has one regular expression a
role, such as `re:^blocks\.(?:[0-9]|1[0-8])\.attn\.to_q$` (`exporters.exact_targets`).

Formats are presets of compressed-tensors 0.20: NVFP4, MXFP8 (0.15 and newer), and with one scale a
row of the weight and one a token at run time FP8_DYNAMIC for fp8 and INT8 for int8. Weight-only are
NVFP4A16, MXFP8A16, and fp8 and int8 with one scale a row (its W8A16 has one for 128 values). In
NVFP4 the activations have one scale a tensor, which needs calibration data; this tool's nvfp4
computes it at run time. Its Hadamard transforms (`transform_config`) are of another kind than this
tool's rotation, and no scheme chooses four-over-six scales; both are refused.

A recipe for several denoisers becomes one config for each, under the component's name. How the
consumer reads them is in `readers.compressed_tensors`.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from sensitivity.consumers.exporters._base import (
    CALIBRATED,
    Exporter,
    indented_json,
    one_or_all,
    quantized_formats,
    tree_of,
)
from sensitivity.consumers.exporters._header import describe
from sensitivity.consumers.exporters.exact_targets import exact_targets
from sensitivity.consumers.other_formats import ListedFormat
from sensitivity.consumers.readers.compressed_tensors import CompressedTensorsReader
from sensitivity.core.format_name import FormatName, skipped
from sensitivity.recipes.recipe import Recipe

_NVFP4 = {
    "num_bits": 4,
    "type": "float",
    "symmetric": True,
    "strategy": "tensor_group",
    "group_size": 16,
    "scale_dtype": "torch.float8_e4m3fn",
}
_MXFP8 = {
    "num_bits": 8,
    "type": "float",
    "symmetric": True,
    "strategy": "group",
    "group_size": 32,
    "scale_dtype": "torch.uint8",
}
_FP8 = {"num_bits": 8, "type": "float", "symmetric": True}
_INT8 = {"num_bits": 8, "type": "int", "symmetric": True}
_A_ROW = {"strategy": "channel", "dynamic": False}
_A_TOKEN = {"strategy": "token", "dynamic": True}

SCHEMES: Mapping[FormatName, dict[str, Any]] = {
    FormatName.NVFP4: {
        "weights": {**_NVFP4, "dynamic": False},
        "input_activations": {**_NVFP4, "dynamic": "local", "observer": "static_minmax"},
    },
    FormatName.MXFP8: {
        "weights": {**_MXFP8, "dynamic": False},
        "input_activations": {**_MXFP8, "dynamic": True},
    },
    FormatName.FP8: {
        "weights": {**_FP8, **_A_ROW},
        "input_activations": {**_FP8, **_A_TOKEN},
    },
    FormatName.INT8: {
        "weights": {**_INT8, **_A_ROW},
        "input_activations": {**_INT8, **_A_TOKEN},
    },
    FormatName.NVFP4_A16: {"weights": {**_NVFP4, "dynamic": False}},
    FormatName.MXFP8_A16: {"weights": {**_MXFP8, "dynamic": False}},
    FormatName.FP8_A16: {"weights": {**_FP8, **_A_ROW}},
    FormatName.INT8_A16: {"weights": {**_INT8, **_A_ROW}},
}
"""{format: weights and input_activations of its preset}; without the second it is weight-only."""

STORED: Mapping[FormatName, str] = {
    FormatName.NVFP4: "nvfp4-pack-quantized",
    FormatName.MXFP8: "mxfp8-quantized",
    FormatName.FP8: "float-quantized",
    FormatName.INT8: "int-quantized",
    FormatName.NVFP4_A16: "nvfp4-pack-quantized",
    FormatName.MXFP8_A16: "mxfp8-quantized",
    FormatName.FP8_A16: "naive-quantized",
    FormatName.INT8_A16: "pack-quantized",
}
"""{format: how a checkpoint stores it (`CompressionFormat`, as `infer_module_format` finds it)}."""


@dataclass(frozen=True, kw_only=True)
class CompressedTensorsExporter(Exporter):
    """`quantization_config` as JSON, or an llm-compressor recipe as YAML."""

    name: ClassVar[str] = "compressed-tensors"
    forms: ClassVar[Mapping[str, str]] = {
        "config": ".compressed-tensors.json",
        "recipe": ".llmcompressor.yaml",
    }
    formats: ClassVar[frozenset[FormatName]] = frozenset({FormatName.BF16, *SCHEMES})
    lacks: ClassVar[Mapping[FormatName, str]] = dict.fromkeys(
        (name for name in FormatName if name.is_rotated),
        "its transforms multiply by other Hadamard matrices",
    )

    def notes(self, recipe: Recipe, text: str) -> tuple[str, ...]:  # noqa: ARG002
        """That nvfp4 needs calibration, in the form that has no comments."""
        says_nothing = self.form == "config" and FormatName.NVFP4 in recipe.layers.values()
        return (CALIBRATED,) if says_nothing else ()

    def render(self, recipe: Recipe) -> str:
        """The text of the form."""
        if self.form == "recipe":
            return _yaml(recipe)
        configs = {
            component: _config(layers) for component, layers in recipe.layers_by_component.items()
        }
        return indented_json(one_or_all(recipe, configs))

    def assign(self, text: str, recipe: Recipe, fqns: Iterable[str]) -> dict[str, ListedFormat]:
        """What the reader makes of the text."""
        listed = CompressedTensorsReader().read(text)
        return listed.assign(tree_of(recipe, fqns), quantized=FormatName.BF16)


def _config(layers: Mapping[str, FormatName]) -> dict[str, Any]:
    """The `quantization_config` of one component."""
    groups = {
        f"group_{name}": {"targets": chosen, **SCHEMES[name], "format": STORED[name]}
        for name, chosen in _by_format(layers).items()
    }
    stored = {group["format"] for group in groups.values()}
    return {
        "quant_method": "compressed-tensors",
        "format": (
            "dense" if not stored else stored.pop() if len(stored) == 1 else "mixed-precision"
        ),
        "config_groups": groups,
        "ignore": skipped(layers),
    }


def _by_format(layers: Mapping[str, FormatName]) -> dict[FormatName, list[str]]:
    """{quantized format: its Linears} of the formats that are used."""
    found = {name: [fqn for fqn, own in layers.items() if own is name] for name in SCHEMES}
    return {name: fqns for name, fqns in found.items() if fqns}


def _yaml(recipe: Recipe) -> str:
    """The llm-compressor recipe, with comments above."""
    lines = [f"# {line}" for line in _header(recipe)]
    for component, layers in recipe.layers_by_component.items():
        indent = ""
        if recipe.model.components:
            lines.append(f"{component}:")
            indent = "  "
        lines += [indent + line for line in _modifier(layers)]
    return "\n".join(lines) + "\n"


def _header(recipe: Recipe) -> list[str]:
    used = quantized_formats(recipe)
    lines = [
        "llm-compressor recipe, as 0.14 with compressed-tensors 0.20 reads it.",
        *describe(recipe),
    ]
    if recipe.model.components:
        lines.insert(
            1,
            f"One recipe for each of {', '.join(recipe.model.components)}: give each component its"
            " own, without the first level.",
        )
    if FormatName.NVFP4 in used:
        lines.append(
            "nvfp4: activations have a scale a tensor from calibration data, which oneshot must be"
            " given; the recipe's is computed at run time"
        )
    if FormatName.MXFP8 in used:
        lines.append("mxfp8: needs compressed-tensors 0.15 or newer")
    if FormatName.FP8 in used:
        lines.append("fp8: FP8_DYNAMIC, one scale a row of the weight, one a token at run time")
    if FormatName.INT8 in used:
        lines.append("int8: INT8 (W8A8), one scale a row of the weight, one a token at run time")
    return lines


def _modifier(layers: Mapping[str, FormatName]) -> list[str]:
    """The lines of one recipe with one QuantizationModifier."""
    groups = _by_format(layers)
    lines = [
        "default_stage:",
        "  default_modifiers:",
        "    QuantizationModifier:",
        f"      config_groups:{'' if groups else ' {}'}",
    ]
    for name, chosen in groups.items():
        lines += [f"        group_{name}:", "          targets:", *_targets(chosen, " " * 10)]
        lines += [f"          {key}: {json.dumps(args)}" for key, args in SCHEMES[name].items()]
    kept = skipped(layers)
    return [*lines, f"      ignore:{'' if kept else ' []'}", *_targets(kept, " " * 6)]


def _targets(fqns: Iterable[str], indent: str) -> list[str]:
    """The lines of a list of targets, each regular expression under its reason."""
    lines: list[str] = []
    for target, reason in exact_targets(fqns):
        lines += [f"{indent}# {reason}"] if reason else []
        lines.append(f"{indent}- '{target}'")
    return lines
