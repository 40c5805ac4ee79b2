"""How do compressed-tensors and llm-compressor read a list?

The list is a `quantization_config` as JSON, or an llm-compressor recipe as YAML.

    {"quant_method": "compressed-tensors",
     "config_groups": {"group_0": {"targets": ["Linear"], "weights": {...},
                                   "input_activations": {...}}},
     "ignore": ["proj_out"]}

    default_stage:
      default_modifiers:
        QuantizationModifier:
          scheme: {FP8_DYNAMIC: ["re:.*attn.*"], NVFP4: [Linear]}
          ignore: [proj_out]

Where the config is wrapped (config.json, `compression_config`), the wrapper is peeled off.

A target, or an entry of `ignore`, is the whole name of a module; or `re:` and a regular expression
for `re.match`, which is anchored at its start only; or the name of a class.

Rule. What `ignore` hits stays as it is, whatever the targets say. Of the targets that hit a Linear
the most specific decides: whole names, then regular expressions, then classes. Among targets of one
kind the first in alphabetical order decides, whatever the order of the groups. A target that stands
in two groups belongs to the later one. A Linear that no target hits stays as it is. A group without
weights and activations quantizes nothing, and takes its Linears from groups with less specific
targets.

Source: compressed-tensors 0.20.0 (`utils/match.py`: `match_named_modules`, `match_targets`;
`quantization/lifecycle/apply.py`: `apply_quantization_config`) and llm-compressor 0.14.0.1
(`recipe/recipe.py`; `modifiers/quantization/quantization/mixin.py`: `resolve_quantization_config`),
read and run. This order of precedence holds since compressed-tensors 0.12; MXFP8 exists since 0.15.
What ModelOpt writes into `config.json` looks alike (`quant_method: modelopt`) and is read by
`readers.modelopt`.
"""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from sensitivity.consumers.lists import ConsumerList, Entry
from sensitivity.consumers.other_formats import ListedFormat
from sensitivity.consumers.readers._base import Reader
from sensitivity.consumers.readers.compressed_tensors_groups import TargetGroup, groups_of
from sensitivity.consumers.readers.documents import (
    named_parts,
    parse_object,
    parts_of,
    unwrapped,
)
from sensitivity.consumers.readers.entries import check_count, check_name
from sensitivity.consumers.rules import LINEAR_CLASSES
from sensitivity.core.format_name import FormatName
from sensitivity.errors import PatternError

_EXPECTED = (
    "a quantization_config with config_groups, a recipe with one QuantizationModifier, or one of"
    " these for each component"
)

NOT_ROWWISE_NOTE = (
    "fp8 there has scales from calibration, or one a tensor or block; this tool knows fp8 with a"
    " scale a row, computed at run time"
)


class CompressedTensorsReader(Reader):
    """`quantization_config` (JSON), or an llm-compressor recipe (YAML)."""

    name: ClassVar[str] = "compressed-tensors"
    description: ClassVar[str] = (
        "config_groups and ignore, as JSON or an llm-compressor recipe: names, re: with re.match,"
        " or classes; the most specific decides"
    )

    def read(self, text: str) -> ConsumerList:
        """A config or recipe, or {component: one of them}."""
        entries: list[Entry] = []
        notes: dict[str, None] = {}
        value = parse_object(text, _EXPECTED)
        parts = parts_of(value, lambda part: _config_in(part) is not None, _EXPECTED)
        for component, part in parts.items():
            config = None if part is None else _config_in(part)
            for entry, note in _read_config(config or {"config_groups": {}}, component):
                entries.append(entry)
                if note:
                    notes.setdefault(note)
        check_count(len(entries))
        return ConsumerList(
            consumer=self.name,
            entries=tuple(entries),
            default=FormatName.BF16,
            parts=named_parts(parts),
            notes=tuple(notes),
        )

    def looks_like(self, text: str) -> bool:
        """The text has a word that only these forms have."""
        is_config = "config_groups" in text and "modelopt" not in text
        return is_config or any(f"{name}Modifier" in text for name in ("Quantization", "GPTQ"))


def _read_config(config: Mapping[str, Any], component: str) -> Iterator[tuple[Entry, str]]:
    """The entries in the order in which they decide, each with a note about it or ""."""
    ignored = config.get("ignore") or []
    if not isinstance(ignored, list):
        raise PatternError(
            f"found ignore {str(ignored)[:80]!r}; expected a list of names; write it in brackets"
        )
    for name in ignored:
        yield _entry(name, FormatName.BF16, component), ""
    targets: dict[str, TargetGroup] = {}
    for group in groups_of(config):
        for name in group.targets:
            targets[_entry(name, group.format, component).text] = group
    for name in sorted(targets, key=lambda name: (name in LINEAR_CLASSES, "re:" in name, name)):
        group = targets[name]
        yield _entry(name, group.format, component), "" if group.exact else NOT_ROWWISE_NOTE


def _entry(name: Any, becomes: ListedFormat, component: str) -> Entry:
    text = check_name(name, "targets or ignore", expected="a name, re: and a pattern, or a class")
    return Entry(text=text, rule="target", format=becomes, component=component)


def _config_in(value: Any) -> Mapping[str, Any] | None:
    """The mapping that holds config_groups or scheme; None if there is none.

    It is the value itself, its quantization_config, or the one quantization modifier of a recipe.
    """
    if not isinstance(value, Mapping):
        return None
    body = unwrapped(dict(value), _EXPECTED)
    method = body.get("quant_method", "compressed-tensors")
    if method != "compressed-tensors":
        raise PatternError(
            f"found quant_method {str(method)[:80]!r}; expected compressed-tensors; read the list"
            " with the `form` of that tool, such as modelopt"
        )
    if "config_groups" in body or "scheme" in body:
        return body
    modifiers = list(_modifiers(body))
    if len(modifiers) > 1:
        raise PatternError(
            f"found {len(modifiers)} modifiers that quantize; expected one; put their groups into"
            " one QuantizationModifier"
        )
    return modifiers[0] if modifiers else None


def _modifiers(recipe: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The arguments of the modifiers of an llm-compressor recipe that have groups."""
    for stage, groups in recipe.items():
        if not str(stage).endswith("_stage") or not isinstance(groups, Mapping):
            continue
        for key, group in groups.items():
            if not str(key).endswith("_modifiers") or not isinstance(group, Mapping):
                continue
            for arguments in group.values():
                if isinstance(arguments, Mapping) and (
                    "config_groups" in arguments or "scheme" in arguments
                ):
                    yield arguments
