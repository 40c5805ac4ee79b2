"""The limits of a list: how long its text and an entry may be, and how many entries it may have.

check_name(name, "ignore")          # the name itself, or an error that says where it was found
check_count(len(entries))
"""

from typing import Any

from sensitivity.consumers.rules import MAX_ENTRY
from sensitivity.errors import PatternError

MAX_ENTRIES = 20_000
"""The most entries of a list. No model has as many Linears."""


def bare_text(text: str, *, most: int) -> str:
    """A list's text without a byte order mark and without blanks around it.

    Raises:
        PatternError: it has more than `most` characters.
    """
    if len(text) > most:
        raise PatternError(
            f"found a text of {len(text)} characters; expected at most {most}; save the list alone"
        )
    return text.removeprefix("\ufeff").strip()


def check_count(count: int) -> None:
    """Raise PatternError for a list of more than `MAX_ENTRIES` entries."""
    if count > MAX_ENTRIES:
        raise PatternError(
            f"found {count} entries; expected at most {MAX_ENTRIES}, more than any model has"
            " Linears; name another file"
        )


def check_name(name: Any, key: str, *, expected: str = "a name") -> str:
    """The name itself, if it is one.

    Args:
        name: what the text has.
        key: where it was found, for the message.
        expected: what an entry is, for the message.

    Raises:
        PatternError: it is no string of 1 to `MAX_ENTRY` characters.
    """
    if not isinstance(name, str) or not 0 < len(name) <= MAX_ENTRY:
        raise PatternError(
            f"found {str(name)[:80]!r} in {key}; expected {expected}, a text of 1 to {MAX_ENTRY}"
            " characters; write it in quotes"
        )
    return name


def check_names(value: Any, key: str, *, expected: str = "a name") -> tuple[str, ...]:
    """The strings of a list, each once and in order; none for null.

    Args:
        value: what the text has.
        key: where it was found, for the message.
        expected: what an entry is, for the message.

    Raises:
        PatternError: it is no list of strings, or has too many of them, or too long ones.
    """
    names = [] if value is None else value
    if not isinstance(names, list):
        raise PatternError(
            f"found {key} {str(value)[:80]!r}; expected a list of names; write them in brackets"
        )
    check_count(len(names))
    return tuple(dict.fromkeys(check_name(name, key, expected=expected) for name in names))
