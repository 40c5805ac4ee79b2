"""Plain lists: one entry a line under one rule (`fqn`, `glob`, `substring`, `regex`, ...), or a
list of strings in JSON or Python.

    # a comment
    embed                  # a comment after an entry is its reason
    fqn:norm_out.linear    # another rule for this line, one of PLAIN_RULES

Blank lines are ignored. What an entry hits stays bf16. Globs are the dialect of `core.patterns`,
which the exporter `skip-list` writes.
"""

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from sensitivity.consumers.lists import ConsumerList, Entry
from sensitivity.consumers.readers._base import Reader
from sensitivity.consumers.readers.entries import check_count
from sensitivity.consumers.readers.literals import parse_python
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
"""The rules that plain lists have. A line may name one in front of a colon."""

_BLANKS = re.compile(r"(?:\s++|#[^\n]*+)*+")
"""White space and comments; possessive, so that it never backtracks."""


def is_bracketed(text: str) -> bool:
    """Whether a text is a list in brackets: around strings, or around nothing.

    A regular expression may begin with a bracket, too.
    """
    text = text.removeprefix("\ufeff").strip()
    if text[:1] not in ("[", "(", "{"):
        return False
    end = _BLANKS.match(text, 1)
    rest = text[end.end() if end else 1 :]
    return rest[:1] in ("'", '"') or rest in ("]", ")")


class PlainReader(Reader):
    """One entry a line, under the rule that is the reader's name."""

    def __init__(self, rule: str) -> None:
        self.rule = rule

    @property
    def name(self) -> str:  # type: ignore[override]
        """The rule's name."""
        return self.rule

    @property
    def description(self) -> str:  # type: ignore[override]
        """The rule in a sentence."""
        return f"one entry a line: {RULES[self.rule].description}"

    def read(self, text: str) -> ConsumerList:
        """The entries of the lines, or of a list of strings as Python or JSON writes it."""
        entries = list(self._literal(text) if is_bracketed(text) else self._lines(text))
        check_count(len(entries))
        notes = () if entries else ("the list has no entries: it quantizes every Linear",)
        return ConsumerList(
            consumer=self.rule, entries=tuple(dict.fromkeys(entries)), either_name=True, notes=notes
        )

    def _literal(self, text: str) -> Iterable[Entry]:
        try:
            values = parse_python(text)
        except ValueError as error:
            raise PatternError(
                f"found a list that cannot be read ({error}); expected strings in brackets; write"
                " them so, or one entry a line"
            ) from None
        if not isinstance(values, (list, tuple)):
            step = (
                'with one string in round brackets, add a comma: ("a",)'
                if isinstance(values, str)
                else "write the entries as a list"
            )
            raise PatternError(
                f"found a {type(values).__name__} in brackets; expected a list of strings; {step}"
            )
        for value in values:
            if not isinstance(value, str):
                raise PatternError(
                    f"found {value!r:.80} in the list; expected a string; write each name or"
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
                f"{where}found an entry of {len(text)} characters; expected 1 to {MAX_ENTRY}; write"
                " one name or pattern an entry"
            )
        rule, colon, rest = text.partition(":")
        names_rule = colon and rule in PLAIN_RULES
        return Entry(
            text=rest.strip() if names_rule else text,
            rule=rule if names_rule else self.rule,
            line=line,
            reason=reason,
        )


PLAIN_READERS: Mapping[str, PlainReader] = MappingProxyType(
    {rule: PlainReader(rule) for rule in PLAIN_RULES}
)
"""{rule: its reader}."""
