"""YAML that is safe to read and has one meaning.

    parse_yaml("default_stage: {}")
    parse_yaml("imports: {a: b}\n---\n- $import: a")       # two documents: [{...}, [...]]

Two passes. The first looks at the parser's events and bounds their number, their depth and the
length of plain scalars, and refuses aliases and tags: a small text with aliases can become a huge
value, and tags construct other types. The second constructs the value. Keys that appear twice are
refused, as in JSON (`core.json_files`). Dates are texts here.
"""

from collections.abc import Iterator
from typing import Any

import yaml

from sensitivity.core.outside_files import YAML_LIST
from sensitivity.core.words import printable
from sensitivity.errors import PatternError

MAX_PLAIN = 4096
"""The most characters of a scalar without quotes. Python takes quadratic time for long numbers."""

_BASE: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in C is ten times faster
_SCALARS = (str, bool, int, float, type(None))


def parse_yaml(text: str) -> Any:
    """The value of a YAML text; the list of its values where it has several documents.

    Raises:
        PatternError: an alias, a tag, a key that appears twice, or too much of anything.
        ValueError: it is no YAML.
    """
    if len(text) > YAML_LIST.max_bytes:
        raise PatternError(
            f"found YAML of {len(text)} characters; expected at most {YAML_LIST.max_bytes}; save"
            " the list alone, or as JSON"
        )
    try:
        _check_events(text)
        values = [_checked(value) for value in yaml.load_all(text, Loader=_StrictLoader)]
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(printable(" ".join(str(error).split())[:200])) from None
    return values[0] if len(values) == 1 else values or None


def _check_events(text: str) -> None:
    depth = 0
    events: Iterator[Any] = yaml.parse(text, Loader=_BASE)
    for count, event in enumerate(events):
        if isinstance(event, yaml.AliasEvent):
            raise PatternError(
                f"found an alias (*{str(event.anchor)[:80]}); expected YAML without aliases; write"
                " the value out"
            )
        if getattr(event, "tag", None) is not None:
            raise PatternError(
                f"line {event.start_mark.line + 1}: found the tag {event.tag[:80]!r}; expected"
                " plain YAML; take it out"
            )
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if count > YAML_LIST.max_values or depth > YAML_LIST.max_depth:
            raise PatternError(
                f"found YAML of more than {YAML_LIST.max_values} values, or deeper than"
                f" {YAML_LIST.max_depth} levels; expected less; save the list alone"
            )
        is_plain = isinstance(event, yaml.ScalarEvent) and event.style in (None, "")
        if is_plain and len(event.value) > MAX_PLAIN:
            raise PatternError(
                f"line {event.start_mark.line + 1}: found {len(event.value)} characters without"
                f" quotes; expected at most {MAX_PLAIN}; write quotes around a text"
            )


class _StrictLoader(_BASE):  # type: ignore[misc]
    """YAML without repeated keys and without dates."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - as PyYAML declares it
        first: [pair for pair in pairs if pair[0] != "tag:yaml.org,2002:timestamp"]
        for first, pairs in _BASE.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        mapping = super().construct_mapping(node, deep=deep)
        if len(mapping) != len(node.value):
            raise PatternError(
                f"line {node.start_mark.line + 1}: found a key twice; expected each once; take one"
                " out"
            )
        return mapping


def _checked(value: Any) -> Any:
    """The value itself, if all of it is text, finite numbers, lists and mappings."""
    for scalar in _scalars(value):
        if (
            not isinstance(scalar, _SCALARS)
            or (isinstance(scalar, int) and abs(scalar) >= 10**20)
            or (isinstance(scalar, float) and not abs(scalar) < float("inf"))
            or (isinstance(scalar, str) and any("\ud800" <= sign <= "\udfff" for sign in scalar))
        ):
            raise PatternError(
                f"found {type(scalar).__name__} that JSON cannot hold; expected texts, finite"
                " numbers of 64 bits, true, false and null; correct it"
            )
    return value


def _scalars(value: Any) -> Iterator[Any]:
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            pending += [*item, *item.values()]
        elif isinstance(item, list):
            pending += item
        else:
            yield item
