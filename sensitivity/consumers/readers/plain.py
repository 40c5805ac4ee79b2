"""Plain lists: one entry a line under one rule (`--as fqn`, `glob`, `substring`, `regex`, ...), or
a JSON or Python list of strings.

    # comments, blank lines
    embed                  # a comment behind an entry is its reason
    fqn:norm_out.linear    # another rule for this line: fqn, glob, substring, regex, regex-full, regex-search

What an entry hits stays bf16. Globs are the dialect of `sensitivity.patterns`, and what `skip-list`
exports.
"""

import ast
import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from sensitivity.consumers.lists import ConsumerList, Entry
from sensitivity.consumers.readers._base import Reader
from sensitivity.consumers.rules import MAX_ENTRY, RULES
from sensitivity.errors import PatternError

PLAIN_RULES = (
    "fqn",
    "glob",
    "substring",
    "dotted-substring",
    "prefix",
    "regex",
    "regex-full",
    "regex-search",
)
"""Rules that a line may name in front of a colon."""

MAX_ENTRIES = 20_000

_LITERAL = re.compile(
    r"""\ufeff?\s*[\[({](\s|\#[^\n]*)*(['"]|[\])]\s*$)"""
)  # brackets around strings, or around nothing; a regex may begin with one, too


class PlainReader(Reader):
    """One entry a line, under the rule that is its name."""

    def __init__(self, rule: str) -> None:
        self.rule = rule

    @property
    def name(self) -> str:  # type: ignore[override]
        """The rule's name."""
        return self.rule

    @property
    def words(self) -> str:  # type: ignore[override]
        """The rule in words."""
        return f"one entry a line: {RULES[self.rule].words}"

    def read(self, text: str) -> ConsumerList:
        """Lines, or a list of strings as Python and JSON write it."""
        entries = list(self._literal(text.strip()) if _LITERAL.match(text) else self._lines(text))
        if len(entries) > MAX_ENTRIES:
            raise PatternError(
                f"found {len(entries)} entries; allowed are {MAX_ENTRIES}; a model has fewer"
                " Linears: name another file"
            )
        notes = () if entries else ("the list has no entries: it quantizes every Linear",)
        return ConsumerList(
            consumer=self.rule, entries=tuple(dict.fromkeys(entries)), either_name=True, notes=notes
        )

    def _literal(self, text: str) -> Iterable[Entry]:
        try:
            values = ast.literal_eval(text.removeprefix("\ufeff"))
        except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
            raise PatternError(
                f"found a list that cannot be read ({error}); allowed are strings in brackets, or"
                " one entry a line"
            ) from None
        if not isinstance(values, (list, tuple, set)):
            comma = (
                'with one string in round brackets, add a comma: ("a",)'
                if isinstance(values, str)
                else "write it so"
            )
            raise PatternError(
                f"found a {type(values).__name__} in brackets; allowed are lists of strings;"
                f" {comma}"
            )
        for value in sorted(values, key=str) if isinstance(values, set) else values:
            if not isinstance(value, str):
                raise PatternError(
                    f"found {value!r:.80} in the list; allowed are strings; write each name or"
                    " pattern in quotes"
                )
            yield self._entry(value.strip())

    def _lines(self, text: str) -> Iterable[Entry]:
        for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), start=1):
            before, _, reason = line.partition("#")
            if before.strip():
                yield self._entry(before.strip(), line=number, reason=reason.strip())

    def _entry(self, text: str, line: int | None = None, reason: str = "") -> Entry:
        if not text or len(text) > MAX_ENTRY:
            where = "" if line is None else f"line {line}: "
            raise PatternError(
                f"{where}found an entry of {len(text)} characters; allowed are 1 to {MAX_ENTRY};"
                " write one name or pattern an entry"
            )
        rule, colon, rest = text.partition(":")
        known = colon and rule in PLAIN_RULES
        return Entry(
            text=rest.strip() if known else text,
            rule=rule if known else self.rule,
            line=line,
            reason=reason,
        )


PLAIN_READERS: Mapping[str, PlainReader] = MappingProxyType(
    {rule: PlainReader(rule) for rule in PLAIN_RULES}
)
