"""How does ModelOpt read the entries of a `quant_cfg`?

    {"quant_cfg": [{"quantizer_name": "*", "enable": False},
                   {"quantizer_name": "blocks.*.weight_quantizer", "parent_class": "nn.Linear",
                    "cfg": {...}}, ...],
     "algorithm": "max"}

Entries are shell patterns (Python's `fnmatch`) on the names of quantizers, such as
`blocks.0.attn.to_q.weight_quantizer`. All of them are applied in order, so the last one that
matches decides. A quantizer that no entry turns off is on, in ModelOpt's own default (int8). An
entry without `cfg` only turns quantizers on or off. A list that gives no `cfg` at all is read as an
addition to the config of the format that the user names.

The older form. Since ModelOpt 0.44 `quant_cfg` is a list. Up to 0.43 it was a dict, whose key
`default` came first wherever it stood, and whose cfgs turned nothing on without `enable`. Later
releases still take a dict, but read it as they read a list.

Source: ModelOpt 0.47.0, read and run (`torch/quantization/conversion.py`: `set_quantizer_by_cfg`,
`_match_quantizer`; `config.py`: `normalize_quant_cfg_list`), and 0.43.0 for the dict.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from sensitivity.consumers.readers.entries import check_name
from sensitivity.consumers.readers.modelopt_numerics import numerics_of
from sensitivity.consumers.readers.modelopt_quantizers import QuantizerEntry, QuantizerList
from sensitivity.core.format_name import FormatName
from sensitivity.errors import PatternError

PER_TENSOR_NOTE = (
    "fp8 there has one scale a tensor, or scales from calibration; this tool knows fp8 with a scale"
    " a row, computed at run time"
)
_OLDER_NOTE = (
    "read as ModelOpt up to 0.43 does: `default` comes first, and a cfg without enable turns"
    " nothing on; later releases apply `default` where it stands, over all before it, and turn on"
    " what gets a cfg"
)
_ADDITION_NOTE = (
    "no entry has a cfg: read as an addition to the config of the format that is named; what that"
    " one turns off by itself is not seen"
)


class _RawEntry(NamedTuple):
    """The parts of one entry as they were written, in the list or in the older dict."""

    name: Any
    parent: Any
    cfg: Any
    enable: Any


def read_quant_cfg(raw: Any, component: str) -> QuantizerList:
    """The list of a `quant_cfg`.

    Args:
        raw: its value, a list of entries or the older dict.
        component: the component that it is for; "" is every component.

    Raises:
        PatternError: it is neither, or an entry is malformed or gives none of our formats.
    """
    if not isinstance(raw, (Mapping, list)):
        raise PatternError(
            f"found a quant_cfg that is a {type(raw).__name__}; expected a list of entries, or a"
            " dict; print the config and save that"
        )
    written = _older_entries(raw) if isinstance(raw, Mapping) else _entries(raw)
    steps = tuple(_quantizer_entry(entry, component) for entry in written)
    return QuantizerList(
        consumer="modelopt",
        entries=tuple(step for step in steps if step.is_about_linears),
        steps=steps,
        last_wins=True,
        notes=tuple(_notes(steps, has_default=isinstance(raw, Mapping) and "default" in raw)),
    )


def _notes(steps: Sequence[QuantizerEntry], *, has_default: bool) -> Iterator[str]:
    if has_default:
        yield _OLDER_NOTE
    if not any(step.numerics for step in steps):
        yield _ADDITION_NOTE
    if any(step.numerics and not step.numerics.rowwise for step in steps if step.is_about_linears):
        yield PER_TENSOR_NOTE
    others = [step for step in steps if not step.is_about_linears]
    if others:
        yield (
            f"{len(others)} entries are about other quantizers or modules than the weights and"
            f" inputs of Linears ({others[0].text}, ...)"
        )


def _entries(raw: Sequence[Any]) -> Iterator[_RawEntry]:
    """The entries of a list, in order; items in the older form are read as well."""
    for item in raw:
        if isinstance(item, Mapping) and "quantizer_name" in item:
            enable = item.get("enable", True) if item.get("cfg") or "enable" in item else None
            yield _RawEntry(
                item["quantizer_name"], item.get("parent_class"), item.get("cfg") or None, enable
            )
        elif isinstance(item, Mapping) and len(item) == 1:
            for entry in _older_entry(*next(iter(item.items()))):
                turns_on = entry.cfg and entry.enable is None
                yield entry._replace(enable=True) if turns_on else entry
        else:
            raise PatternError(
                f"found the entry {str(item)[:80]}; expected"
                ' {"quantizer_name": ..., "cfg": {...}, "enable": ...}; write each entry so'
            )


def _older_entries(raw: Mapping[Any, Any]) -> Iterator[_RawEntry]:
    """The entries of the older dict: `default` first, then the others in order."""
    for key, value in sorted(raw.items(), key=lambda item: item[0] != "default"):
        yield from _older_entry(key, value)


def _older_entry(key: Any, value: Any) -> Iterator[_RawEntry]:
    """The entries of one item of the older dict; an item may hold the entries of a class."""
    if isinstance(key, str) and key.startswith("nn.") and isinstance(value, Mapping):
        for name, cfg in value.items():
            yield from (entry._replace(parent=key) for entry in _older_entry(name, cfg))
        return
    name = "*" if key == "default" else key
    if isinstance(value, Mapping):
        cfg = {attribute: item for attribute, item in value.items() if attribute != "enable"}
        yield _RawEntry(name, None, cfg or None, value.get("enable"))
    else:
        yield _RawEntry(name, None, value or None, True)


def _quantizer_entry(raw: _RawEntry, component: str) -> QuantizerEntry:
    name = check_name(
        raw.name, "quantizer_name", expected="the name of a quantizer or a shell pattern"
    )
    if not isinstance(raw.parent, (str, type(None))):
        raise PatternError(
            f"found {name[:80]!r} with the parent_class {str(raw.parent)[:80]!r}; expected the name"
            " of a class; write it in quotes"
        )
    if not isinstance(raw.enable, bool) and (raw.cfg is None or raw.enable is not None):
        raise PatternError(
            f"found {name[:80]!r} with neither cfg nor enable, or with enable {raw.enable!r};"
            " expected a cfg, or enable True or False; write what the entry does"
        )
    entry = QuantizerEntry(
        text=name,
        rule="fnmatch",
        component=component,
        format=FormatName.BF16 if raw.enable is False else None,
        enable=raw.enable,
        parent=raw.parent or "",
    )
    if raw.cfg is None or not entry.is_about_linears:
        return entry
    numerics = numerics_of(name, raw.cfg)
    return replace(
        entry, numerics=numerics, format=FormatName.BF16 if raw.enable is False else numerics.format
    )
