r"""How does convert_to_quant read its options? A command line that quantizes a file for ComfyUI.

    ctq -i model.safetensors -o model-nvfp4.safetensors --custom-type nvfp4 \
      --custom-layers '^double_blocks\..*\.weight$' --exclude-layers .

Names are those of the file, the original checkpoint's (`consumers.served_names`, "comfyui"). For
each weight of two dimensions, in this order:

1. `custom_layers`, a `re.search` of the weight's name: it gets `custom_type`;
2. `exclude_layers`, a `re.search` too, or a preset such as `flux2`, which looks for parts of names:
   it stays as it is, or gets `fallback`;
3. all others get the main format: `nvfp4`, `mxfp8`, `int8`, else fp8.

With `nvfp4` or `mxfp8` and neither `custom_type` nor `fallback` another routine runs. It ignores
`custom_layers`, and leaves alone all weights with "norm" or "bias" in their names, and more.

Formats. Its fp8 has one scale a tensor, in `scaling_mode` row or block other ones; row is
dequantized before the product. Its int8 in `scaling_mode` row is this tool's int8, and with
`convrot` int8-rot in groups of 256, 64 or 16, where K is a multiple of the group; where it is not,
convert_to_quant takes 64 for a main format, and rotates nothing for custom layers.
`full_precision_matrix_mult` makes a format weight-only. What is said for all with `convrot` is so
for custom layers of int8 too.

An expression's alternatives are entries of their own. Text between several commands says which
component each is for: `# component: NAME`.

It does not read `layer_config`, which is another file, and does not see `heur`, which leaves
weights alone by their shape.

Source: convert_to_quant 1.3.4 (`cli/main.py`, `formats/fp8_conversion.py`,
`formats/nvfp4_conversion.py`, `formats/mxfp8_conversion.py`), read, and run beside this in the
tests.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

from sensitivity.consumers.lists import Entry, ModelTree
from sensitivity.consumers.other_formats import ListedFormat, OtherFormat, weight_only
from sensitivity.consumers.readers._base import Reader
from sensitivity.consumers.readers.comfyui import DEFAULT_GROUP, FP8_NOTE, FUSED_NOTE
from sensitivity.consumers.readers.command_lines import Command, read_commands
from sensitivity.consumers.readers.convert_to_quant_filters import ALWAYS, FILTERS, OTHER_FILTERS
from sensitivity.consumers.readers.entries import check_count
from sensitivity.consumers.readers.served_lists import ServedList
from sensitivity.consumers.rules import hits
from sensitivity.core.format_name import FormatName
from sensitivity.core.rotation_block import BLOCKS
from sensitivity.core.words import did_you_mean
from sensitivity.errors import PatternError

PROGRAMS = ("ctq", "convert_to_quant", "convert-to-quant")
RULE = "weight-regex-search"
TYPES = ("fp8", "int8", "mxfp8", "nvfp4")
"""What `custom_type` and `fallback` may be."""

WEIGHT_ONLY: Mapping[ListedFormat, FormatName] = {
    name: name.weight_only for name in (FormatName.NVFP4, FormatName.MXFP8, FormatName.INT8)
}
"""{format: the one of a layer whose weight is dequantized before the product}."""

OTHER_MODES = (
    *("convert_fp8_scaled", "convert_int8_scaled", "make_hybrid_mxfp8", "legacy_input_add"),
    *("cleanup_fp8_scaled", "actcal", "edit_quant"),
)
"""Switches with which it quantizes nothing."""

HEUR_NOTE = "`heur` leaves more weights as they are, by their shape, which is not seen here"
IGNORED_NOTE = (
    "custom_layers without custom_type is ignored here: with nvfp4 or mxfp8 alone another routine"
    " runs"
)

_FLAGS = re.compile(r"\(\?[aiLmsux]+\)")
_REFERENCE = re.compile(r"\\[1-9]|\(\?P=|\(\?\(")
_EXPECTED = (
    "a command such as `ctq -i FILE` with custom_layers and custom_type, nvfp4, exclude_layers, ..."
)


class _Meaning(NamedTuple):
    """What one command says: its entries, what presets look for, and formats."""

    entries: list[Entry]
    parts: tuple[str, ...]
    excluded: ListedFormat
    default: ListedFormat
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvertToQuantList(ServedList):
    """Expressions on weights' names, and the parts of names that presets look for.

    Attributes:
        presets: {component: (parts of names, what a weight with one of them becomes)}, where no
            entry hits it.
    """

    presets: Mapping[str, tuple[tuple[str, ...], ListedFormat]] = field(default_factory=dict)

    def assign(self, tree: ModelTree, *, quantized: FormatName) -> dict[str, ListedFormat]:
        """{FQN: format} of every Linear, as `ServedList.assign`."""
        formats = ServedList.assign(self, tree, quantized=quantized)
        names = self.names(tree)
        named = frozenset[str]().union(*(self.hits(own, tree, names) for own in self.entries))
        for component, (parts, becomes) in self.presets.items():
            found = frozenset[str]().union(*(hits("substring", part, names) for part in parts))
            for fqn in frozenset[str]().union(*(names[name] for name in found)) - named:
                if component in ("", self.part_of(fqn, tree)):
                    formats[fqn] = becomes
        return formats


class ConvertToQuantReader(Reader):
    """Command lines of convert_to_quant."""

    name: ClassVar[str] = "convert-to-quant"
    description: ClassVar[str] = (
        "a command line of convert_to_quant (ctq): custom_layers, exclude_layers and presets, each"
        " anywhere in the weight's name in the original checkpoint"
    )

    def read(self, text: str) -> ConvertToQuantList:
        """The list of one command, or of one for each component."""
        commands = read_commands(text, PROGRAMS)
        if not commands:
            raise PatternError(f"found no command; expected {_EXPECTED}; write the whole line")
        components = [command.component for command in commands]
        if len(set(components)) < len(commands) or (len(commands) > 1 and "" in components):
            raise PatternError(
                f"found {len(commands)} commands; expected one, or a comment `# component: NAME`"
                " before each; add the comments"
            )
        meanings = {command.component: _meaning(command) for command in commands}
        entries = [entry for one in meanings.values() for entry in one.entries]
        check_count(len(entries))
        return ConvertToQuantList(
            consumer=self.name,
            entries=tuple(entries),
            default=FormatName.BF16,
            defaults={component: one.default for component, one in meanings.items()},
            served="comfyui",
            parts=tuple(component for component in components if component),
            presets={name: (one.parts, one.excluded) for name, one in meanings.items()},
            notes=_notes(meanings.values()),
        )

    def looks_like(self, text: str) -> bool:
        """There is a command of one of its programs."""
        try:
            return bool(read_commands(text, PROGRAMS))
        except PatternError:
            return False


def alternatives(expression: str) -> list[str]:
    """The alternatives of a regular expression at its outermost level.

    The expression itself, alone, where these would not mean the same: with flags for all of it,
    with references to groups, or with an alternative that is empty.
    """
    if _FLAGS.match(expression) or _REFERENCE.search(expression):
        return [expression]
    found, depth, place, in_set = [""], 0, 0, -1
    while place < len(expression):
        sign = expression[place]
        size = 2 if sign == "\\" else 1
        if in_set >= 0:
            is_end = sign == "]" and place > in_set
            in_set = -1 if is_end else in_set
        elif sign == "[":
            negated = expression[place + 1 : place + 2] == "^"
            in_set = place + 1 + negated  # a bracket in the first place stands for itself
        elif sign in "()":
            depth += 1 if sign == "(" else -1
        if sign == "|" and depth == 0 and in_set < 0:
            found.append("")
        else:
            found[-1] += expression[place : place + size]
        place += size
    return found if all(found) else [expression]


def _meaning(command: Command) -> _Meaning:
    options = command.options
    _check_options(options, command.line)
    mixes = bool(options.get("custom_type") or options.get("fallback"))
    alone = not mixes and ("nvfp4" in options or "mxfp8" in options)
    main = next((name for name in ("nvfp4", "mxfp8", "int8") if name in options), "fp8")
    fallback = options.get("fallback")
    excluded = FormatName.BF16 if not fallback else _format(fallback, options)
    entries = list[Entry]()
    if not alone and options.get("custom_layers"):
        custom = _format(options["custom_type"], options, custom=True)
        entries += _entries(options["custom_layers"], custom, command)
    if options.get("exclude_layers"):
        entries += _entries(options["exclude_layers"], excluded, command)
    parts = [*ALWAYS] * alone
    for name in FILTERS:
        parts += FILTERS[name] if name in options else ()
    return _Meaning(
        entries=entries,
        parts=tuple(dict.fromkeys(parts)),
        excluded=excluded,
        default=_format(main, {} if alone else options),
        notes=(
            *((HEUR_NOTE,) * ("heur" in options or "custom_heur" in options)),
            *((IGNORED_NOTE,) * (alone and "custom_layers" in options)),
        ),
    )


def _entries(expression: str, becomes: ListedFormat, command: Command) -> Iterator[Entry]:
    for text in dict.fromkeys(alternatives(expression)):
        yield Entry(
            text=text,
            rule=RULE,
            format=becomes,
            component=command.component,
            line=command.line,
        )


def _check_options(options: Mapping[str, str], line: int) -> None:
    """Raise PatternError for options that this reader cannot follow, and for wrong ones."""
    for name in OTHER_MODES:
        if name in options:
            raise PatternError(
                f"line {line}: found {name}, which quantizes nothing; expected {_EXPECTED}; give"
                " the command that made the file"
            )
    if "layer_config" in options:
        raise PatternError(
            f"line {line}: found layer_config, which names another file; expected"
            " custom_layers and exclude_layers; write its patterns so"
        )
    for name in OTHER_FILTERS:
        if name in options:
            raise PatternError(
                f"line {line}: found the preset {name}, for models whose names are not known here;"
                f" expected one of {', '.join(FILTERS)}; use exclude_layers"
            )
    for name in ("custom_type", "fallback"):
        if name in options and options[name] not in TYPES:
            hint = did_you_mean(options[name][:40], TYPES, otherwise="name one of them")
            raise PatternError(
                f"line {line}: found {name} {options[name][:40]!r}; expected one of"
                f" {', '.join(TYPES)}; {hint}"
            )
    alone = ("nvfp4" in options or "mxfp8" in options) and not options.get("fallback")
    if options.get("custom_layers") and not options.get("custom_type") and not alone:
        raise PatternError(
            f"line {line}: found custom_layers without custom_type, on which convert_to_quant"
            " fails; expected both; add the type"
        )


def _format(kind: str, options: Mapping[str, str], *, custom: bool = False) -> ListedFormat:
    """The format of a type, under the options for all or for the custom layers."""
    mode = options.get("scaling_mode", "tensor")
    if custom:
        mode = options.get("custom_scaling_mode", mode)
    in_16_bits = any(
        name in options
        for name in (
            *("full_precision_matrix_mult", "fpmm"),
            *(("custom_full_precision_mm", "custom_fpmm") if custom else ()),
        )
    )
    if kind in (FormatName.NVFP4, FormatName.MXFP8):
        found: ListedFormat = FormatName(kind)
    elif kind == FormatName.INT8:
        found = _int8(mode, options, custom=custom)
    elif mode == "tensor":
        found = FormatName.FP8
    else:
        found = OtherFormat(f"fp8, one scale a {mode} (convert_to_quant)")
        in_16_bits = in_16_bits or mode == "row"
    if not in_16_bits:
        return found
    return WEIGHT_ONLY.get(found) or weight_only(found.value)


def _int8(mode: str, options: Mapping[str, str], *, custom: bool) -> ListedFormat:
    """int8 or int8-rot where scales are one a row, else a format of another name."""
    if mode != "row":
        return OtherFormat(f"int8, one scale a {mode} (convert_to_quant)")
    if custom and "custom_convrot" in options:
        group = options.get("custom_convrot_group_size", str(DEFAULT_GROUP))
    elif "dynamic_convrot" in options:
        return OtherFormat("int8, rotated by as much as K allows (convert_to_quant)")
    elif "convrot" in options:
        group = options.get("convrot_group_size", str(DEFAULT_GROUP))
    else:
        return FormatName.INT8
    if group in map(str, BLOCKS):
        return FormatName.INT8_ROT
    return OtherFormat(f"int8, rotated by {group[:8]} (convert_to_quant)")


def _notes(meanings: Collection[_Meaning]) -> tuple[str, ...]:
    """What was not seen, and where formats differ from this tool's."""
    notes = dict.fromkeys(note for one in meanings for note in one.notes)
    used = {entry.format for one in meanings for entry in one.entries}
    used |= {one.default for one in meanings if not _excludes_all(one)}
    return (
        *notes,
        *((FUSED_NOTE,) if FormatName.NVFP4 in used else ()),
        *((FP8_NOTE,) if FormatName.FP8 in used else ()),
    )


def _excludes_all(meaning: _Meaning) -> bool:
    """Whether no weight gets the main format, as in the commands that the exporter writes."""
    return any(entry.text == "." and entry.format is FormatName.BF16 for entry in meaning.entries)
