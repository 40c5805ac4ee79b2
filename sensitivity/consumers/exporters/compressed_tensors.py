"""How do compressed-tensors and llm-compressor read a recipe?

As `quantization_config` (JSON), or as an llm-compressor recipe (YAML).

    apply_quantization_config(transformer, QuantizationConfig(**json.load(open("recipe.compressed-tensors.json"))))
    oneshot(model=transformer, recipe="recipe.llmcompressor.yaml", ...)

Each format is one group. Every quantized Linear is a target and every other is in `ignore`, so
nothing is left to the order in which rules are tried, and loaders that want a word about each layer
have one. `config` has exact names. `recipe` has one regular expression for a role, such as
`re:^blocks\\.(?:[0-9]|1[0-8])\\.attn\\.to_q$`: anchored at both ends and with its indices counted
out, it can match these names and no others, on any model.

Formats are the presets of compressed-tensors 0.20: NVFP4, MXFP8 (0.15 and newer), and for fp8
FP8_DYNAMIC (one scale a row of the weight, one a token at run time). NVFP4's activations have a
scale a tensor that calibration data must give, where this tool's computes it at run time.

Where a recipe is for several denoisers, there is one config for each, under the component's name.
Consumer's side: `sensitivity.consumers.compressed_tensors`.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from sensitivity.consumers.exporters._base import (
    CALIBRATED,
    Exporter,
    describe,
    quantized_formats,
    tree_of,
)
from sensitivity.consumers.readers.compressed_tensors import CompressedTensorsReader
from sensitivity.core.format_name import FormatName
from sensitivity.core.pattern_cover import index_globs
from sensitivity.core.patterns import format_indices
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
        "weights": {**_FP8, "strategy": "channel", "dynamic": False},
        "input_activations": {**_FP8, "strategy": "token", "dynamic": True},
    },
}
"""Format -> weights and input_activations, as in the presets."""

STORED: Mapping[FormatName, str] = {
    FormatName.NVFP4: "nvfp4-pack-quantized",
    FormatName.MXFP8: "mxfp8-quantized",
    FormatName.FP8: "float-quantized",
}
"""Format -> how a checkpoint holds it (`CompressionFormat`)."""


@dataclass(frozen=True, kw_only=True)
class CompressedTensorsExporter(Exporter):
    """`quantization_config` as JSON, or an llm-compressor recipe as YAML; for several components
    {component: config}.
    """

    name: ClassVar[str] = "compressed-tensors"
    forms: ClassVar[Mapping[str, str]] = {
        "config": ".compressed-tensors.json",
        "recipe": ".llmcompressor.yaml",
    }

    def notes(self, recipe: Recipe, text: str) -> tuple[str, ...]:  # noqa: ARG002 - the contract's signature
        """What the form without comments cannot say."""
        return (
            (CALIBRATED,)
            if self.form == "config" and FormatName.NVFP4 in recipe.layers.values()
            else ()
        )

    def render(self, recipe: Recipe) -> str:
        """The text of the form."""
        if self.form == "recipe":
            return _yaml(recipe)
        configs = {
            component: _config(layers) for component, layers in recipe.layers_by_component.items()
        }
        return (
            json.dumps(
                configs if recipe.model.components else next(iter(configs.values())), indent=1
            )
            + "\n"
        )

    def assign(self, text: str, recipe: Recipe, fqns: Iterable[str]) -> dict[str, FormatName]:
        """As compressed-tensors' reader says."""
        return (
            CompressedTensorsReader()
            .read(text)
            .assign(tree_of(recipe, fqns), quantized=FormatName.BF16)
        )


def _config(layers: Mapping[str, FormatName]) -> dict[str, Any]:
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
        "ignore": [fqn for fqn, name in layers.items() if name is FormatName.BF16],
    }


def _by_format(layers: Mapping[str, FormatName]) -> dict[FormatName, list[str]]:
    """{quantized format: its Linears}, of those that there are."""
    found = {name: [fqn for fqn, own in layers.items() if own is name] for name in SCHEMES}
    return {name: fqns for name, fqns in found.items() if fqns}


def _yaml(recipe: Recipe) -> str:
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
    kept = [fqn for fqn, name in layers.items() if name is FormatName.BF16]
    return [*lines, f"      ignore:{'' if kept else ' []'}", *_targets(kept, " " * 6)]


def _targets(fqns: Iterable[str], indent: str) -> list[str]:
    lines: list[str] = []
    for target, reason in exact_targets(fqns):
        lines += [f"{indent}# {reason}"] if reason else []
        lines.append(f"{indent}- '{target}'")
    return lines


def exact_targets(fqns: Iterable[str]) -> list[tuple[str, str]]:
    """(target, reason) that match exactly these names: one regular expression for a role in several
    blocks, else the name and no reason.
    """
    roles: dict[tuple[str, str], dict[str, str]] = defaultdict(
        dict
    )  # (before, after the first index) -> index -> name
    for fqn in fqns:
        parts = fqn.split(".")
        place = next((place for place, part in enumerate(parts) if place and part.isdigit()), None)
        if place is None:
            roles[(fqn, "")][""] = fqn
        else:
            roles[(".".join(parts[:place]), ".".join(parts[place + 1 :]))][parts[place]] = fqn
    targets = []
    for (before, after), names in roles.items():
        if len(names) == 1:
            targets.append((next(iter(names.values())), ""))
            continue
        globs = [glob for glob, _ in index_globs(names)]
        counted = globs[0] if len(globs) == 1 else f"(?:{'|'.join(globs)})"
        ending = rf"\.{re.escape(after)}" if after else ""
        where = f"{before} {format_indices(map(int, names))}"
        targets.append(
            (
                rf"re:^{re.escape(before)}\.{counted}{ending}$",
                f"{after or 'all'} in {where} ({len(names)} Linears)",
            )
        )
    return targets
