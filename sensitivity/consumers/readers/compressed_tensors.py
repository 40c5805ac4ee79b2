"""How compressed-tensors and llm-compressor read a list:

`quantization_config` as JSON, or a recipe as YAML.

    {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"targets": ["Linear"], "weights": {...}, "input_activations": {...}}}, "ignore": ["proj_out"]}

    default_stage:
      default_modifiers:
        QuantizationModifier: {scheme: {FP8_DYNAMIC: ["re:.*attn.*"], NVFP4: [Linear]}, ignore: [proj_out]}

A target, and an entry of `ignore`, is the whole name of a module, `re:` and a regular expression
for `re.match` (anchored at the start alone), or the name of a class. What `ignore` hits stays as it
is, whatever targets say. Of the targets that hit a Linear the most specific decides: whole names,
then regular expressions, then classes, and among these the first in alphabetical order (not in that
of the groups). A target that stands in two groups counts in the later one. What no target hits
stays as it is. A group without weights and activations quantizes nothing, and takes its Linears
from groups that are less specific.

Read and run in compressed-tensors 0.20.0 (`utils/match.py`: `match_named_modules`, `match_targets`;
`quantization/lifecycle/apply.py`: `apply_quantization_config`) and llm-compressor 0.14.0.1
(`recipe/recipe.py`; `modifiers/quantization/quantization/mixin.py`: `resolve_quantization_config`).
Precedence is so since compressed-tensors 0.12; MXFP8 came with 0.15. What ModelOpt writes into
`config.json` (`quant_method: modelopt`) looks alike and is the reader `modelopt`'s.
"""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

import yaml

from sensitivity.consumers.lists import ConsumerList, Entry
from sensitivity.consumers.readers._base import Reader
from sensitivity.consumers.rules import LINEAR_CLASSES, MAX_ENTRY
from sensitivity.core.format_name import FormatName
from sensitivity.core.json_files import parse_json
from sensitivity.errors import PatternError

MAX_TEXT, MAX_ENTRIES = 2_000_000, 20_000
"""Characters of a text; targets and ignored names of a list."""

PRESETS: Mapping[str, tuple[FormatName, bool]] = {
    "UNQUANTIZED": (FormatName.BF16, True),
    "NVFP4": (FormatName.NVFP4, True),
    "MXFP8": (FormatName.MXFP8, True),
    "FP8_DYNAMIC": (FormatName.FP8, True),
    "FP8": (FormatName.FP8, False),
    "FP8_BLOCK": (FormatName.FP8, False),
}
"""Scheme by name -> format, and whether it is just this tool's."""

NOT_ROWWISE = (
    "fp8 there has scales from calibration, or one a tensor or block; this tool knows fp8 with a"
    " scale a row, computed at run time"
)


class Group(NamedTuple):
    """A `config_groups` entry: its targets, what they become, and whether the numbers are just this
    tool's.
    """

    targets: list[Any]
    format: FormatName
    exact: bool


class CompressedTensorsReader(Reader):
    """`quantization_config` (JSON), or an llm-compressor recipe (YAML)."""

    name: ClassVar[str] = "compressed-tensors"
    words: ClassVar[str] = (
        "config_groups and ignore, as JSON or an llm-compressor recipe: names, re: with re.match,"
        " or classes; the most specific decides"
    )

    def read(self, text: str) -> ConsumerList:
        """A config or recipe, or {component: one of them}."""
        value = _parse(text)
        if (body := _body(value)) is not None:
            parts = {"": body}
        elif (
            isinstance(value, Mapping)
            and value
            and all(_body(child) is not None for child in value.values())
        ):
            parts = {str(component): _body(child) or {} for component, child in value.items()}
        else:
            raise PatternError(
                f"found a {type(value).__name__} without config_groups or scheme; allowed are a"
                " quantization_config, a recipe with one QuantizationModifier, or one of these for"
                " each component; name the file that has it"
            )
        entries: list[Entry] = []
        notes: dict[str, None] = {}
        for component, config in parts.items():
            for entry, note in _read_config(config, component):
                entries.append(entry)
                if note:
                    notes.setdefault(note)
        if len(entries) > MAX_ENTRIES:
            raise PatternError(
                f"found {len(entries)} targets and ignored names; allowed are {MAX_ENTRIES}; a"
                " model has fewer Linears: name another file"
            )
        return ConsumerList(
            consumer=self.name, entries=tuple(entries), default=FormatName.BF16, notes=tuple(notes)
        )

    def looks_like(self, text: str) -> bool:
        """By the words that the forms are made of."""
        return (
            "config_groups" in text and "modelopt" not in text
        ) or "QuantizationModifier" in text


def _read_config(config: Mapping[str, Any], component: str) -> Iterator[tuple[Entry, str]]:
    """Entries in the order in which they decide, each with what a user should know about it."""
    ignored = config.get("ignore") or []
    if not isinstance(ignored, list):
        raise PatternError(
            f"found ignore {str(ignored)[:80]!r}; allowed is a list of names; write it in brackets"
        )
    for name in ignored:
        yield _entry(name, FormatName.BF16, component), ""
    targets: dict[str, Group] = {}
    for group in _groups(config):
        for name in group.targets:
            targets[_entry(name, group.format, component).text] = group
    for name, group in sorted(
        targets.items(), key=lambda item: (item[0] in LINEAR_CLASSES, "re:" in item[0], item[0])
    ):
        yield _entry(name, group.format, component), "" if group.exact else NOT_ROWWISE


def _entry(name: Any, becomes: FormatName, component: str) -> Entry:
    if not isinstance(name, str) or not 0 < len(name) <= MAX_ENTRY:
        raise PatternError(
            f"found the target {str(name)[:80]!r}; allowed are texts of 1 to {MAX_ENTRY}"
            " characters; write a name, re: and a regular expression, or a class"
        )
    return Entry(text=name, rule="target", format=becomes, component=component)


def _groups(config: Mapping[str, Any]) -> list[Group]:
    """The groups of a config, or of a modifier with `scheme` and `targets`."""
    groups, scheme, targets = (
        config.get("config_groups"),
        config.get("scheme"),
        config.get("targets", ["Linear"]),
    )
    if groups and scheme:
        raise PatternError(
            "found both config_groups and scheme; allowed is one of them; take one out"
        )
    if isinstance(scheme, str):
        return [_preset(scheme, targets)]
    if isinstance(scheme, Mapping):
        return [_preset(name, own) for name, own in scheme.items()]
    if not isinstance(groups, Mapping) or scheme:
        raise PatternError(
            f"found config_groups {str(groups or scheme)[:80]!r}; allowed is a mapping of groups"
            " with targets; write each group under a name"
        )
    return [_group(str(name), group) for name, group in groups.items()]


def _preset(name: Any, targets: Any) -> Group:
    known = PRESETS.get(name.upper()) if isinstance(name, str) else None
    if known is None:
        raise PatternError(
            f"found the scheme {str(name)[:80]!r}; allowed are {', '.join(PRESETS)}; this tool has"
            " no other formats for weights and activations"
        )
    return Group(_targets(name, [targets] if isinstance(targets, str) else targets), *known)


def _targets(name: Any, targets: Any) -> list[Any]:
    if not isinstance(targets, list):
        raise PatternError(
            f"found the group {str(name)[:80]!r} with targets {str(targets)[:80]!r}; allowed is a"
            " list; write it in brackets"
        )
    return targets


def _group(name: str, group: Any) -> Group:
    if isinstance(group, list):
        return _preset(name, group)
    if not isinstance(group, Mapping):
        raise PatternError(
            f"found the group {name[:80]!r} with {str(group)[:80]!r}; allowed are targets, weights"
            " and input_activations; write them"
        )
    targets, weights, inputs = (
        _targets(name, group.get("targets")),
        group.get("weights"),
        group.get("input_activations"),
    )
    if not weights and not inputs and not group.get("output_activations"):
        return Group(targets, FormatName.BF16, True)
    kinds = (_kind(weights), _kind(inputs))
    if group.get("output_activations") or None in kinds:
        raise PatternError(
            f"found the group {name[:80]!r} with weights {str(weights)[:80]}, input_activations"
            f" {str(inputs)[:80]}; allowed are NVFP4, MXFP8 and FP8 for both and nothing for"
            " outputs; this tool has no other formats: read the list without this group"
        )
    if kinds == ("nvfp4", "nvfp4") or kinds == ("mxfp8", "mxfp8"):
        return Group(targets, FormatName(kinds[0]), True)
    if all(kind and kind.startswith("fp8") for kind in kinds):
        return Group(targets, FormatName.FP8, kinds == ("fp8 channel False", "fp8 token True"))
    raise PatternError(
        f"found the group {name[:80]!r} with {kinds[0]} weights and {kinds[1]} activations; allowed"
        " is one format for both; correct it"
    )


def _kind(args: Any) -> str | None:
    """What quantization args say in one word, or for fp8 three: strategy, and whether scales are
    computed at run time. None: no format of this tool.
    """
    if not isinstance(args, Mapping) or str(args.get("type", "int")).lower() != "float":
        return None
    bits, size, scales = (
        args.get("num_bits", 8),
        args.get("group_size"),
        str(args.get("scale_dtype")),
    )
    given = args.get("strategy") or (
        "tensor" if size is None else "channel" if size == -1 else "group"
    )
    if bits == 4:
        return "nvfp4" if size == 16 else None
    if bits != 8:
        return None
    return (
        "mxfp8" if size == 32 and "uint8" in scales else f"fp8 {given} {bool(args.get('dynamic'))}"
    )


def _body(value: Any) -> Mapping[str, Any] | None:
    """The mapping that holds config_groups or scheme: the value itself, its quantization_config, or
    the one quantization modifier of a recipe.
    """
    if not isinstance(value, Mapping):
        return None
    inner = value.get("quantization_config")
    body: Mapping[str, Any] = inner if isinstance(inner, Mapping) else value
    if body.get("quant_method", "compressed-tensors") != "compressed-tensors":
        raise PatternError(
            f"found quant_method {str(body['quant_method'])[:80]!r}; allowed here is"
            " compressed-tensors; read it with that tool's reader, such as --as modelopt"
        )
    if "config_groups" in body or "scheme" in body:
        return body
    modifiers: list[Mapping[str, Any]] = [
        arguments
        for stage, groups in body.items()
        if str(stage).endswith("_stage") and isinstance(groups, Mapping)
        for key, group in groups.items()
        if str(key).endswith("_modifiers") and isinstance(group, Mapping)
        for arguments in group.values()
        if isinstance(arguments, Mapping)
        and ("config_groups" in arguments or "scheme" in arguments)
    ]
    if len(modifiers) > 1:
        raise PatternError(
            f"found {len(modifiers)} modifiers that quantize; allowed is one; put their groups into"
            " one QuantizationModifier"
        )
    return modifiers[0] if modifiers else None


class _StrictLoader(yaml.SafeLoader):
    """YAML without anchors (which can make a small text huge) and without keys that come twice."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            raise PatternError(
                f"found an alias (*{event.anchor}); allowed is YAML without them; write the"
                " value out"
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        mapping = super().construct_mapping(node, deep=deep)
        if len(mapping) != len(node.value):
            raise PatternError(
                f"line {node.start_mark.line + 1}: found a key twice; allowed is each once; take"
                " one out"
            )
        return mapping


def _parse(text: str) -> Any:
    if len(text) > MAX_TEXT:
        raise PatternError(
            f"found a text of {len(text)} characters; allowed are {MAX_TEXT}; name the config alone"
        )
    source = text.removeprefix("\ufeff")
    try:
        if source.lstrip().startswith("{"):
            return parse_json(source.encode())
        return yaml.load(source, Loader=_StrictLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise PatternError(
            f"found a text that is neither JSON nor YAML ({' '.join(str(error).split())[:200]});"
            " allowed is one of them; mend it"
        ) from None
