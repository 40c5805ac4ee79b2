"""How a message is put together: text that is safe to print, the gist of an error, and long lists
cut short.

first_line(error)                            # "No such file or directory"
and_more(["a", "b", "c", "d"], most=2)       # "a, b and 2 more"
counted(["a", "b", "c", "d"], most=2)        # "4 (a, b and 2 more)"
"""

from collections.abc import Iterable, Sequence

MAX_SHOWN = 1_000
"""Characters of a name in a message. A longer one is cut: an FQN with a reason is shorter."""


def printable(text: str) -> str:
    """A text as one line that a terminal may be given.

    Control characters, line breaks and marks of direction become spaces.
    """
    return "".join(c if c.isprintable() else " " for c in text)


def first_line(error: BaseException, *, most: int = 200) -> str:
    """The first line of an error's message, at most `most` characters; its class where it has none.

    SQLAlchemy wraps the driver's error; the driver's own message is used (`error.orig`).
    """
    text = str(getattr(error, "orig", None) or error).strip()
    return text.splitlines()[0][:most] if text else type(error).__name__


def and_more(items: Iterable[str], *, most: int, separator: str = ", ") -> str:
    """The first `most` items, joined, and how many were left out: "a, b and 2 more"."""
    items = list(items)
    shown = separator.join(items[:most])
    left = len(items) - most
    return f"{shown} and {left} more" if left > 0 else shown


def counted(names: Sequence[str], *, most: int = 10) -> str:
    """How many names there are, and the first `most` of them: "12 (a, b and 10 more)".

    Names that are unprintable or longer than `MAX_SHOWN` are shown escaped and cut.
    """
    safe = [
        name if name.isprintable() and len(name) < MAX_SHOWN else ascii(name[:80])
        for name in names[:most]
    ]
    return f"{len(names)} ({and_more([*safe, *names[most:]], most=most)})"


def some(fqns: Iterable[str]) -> str:
    """How many Linears, and the first three."""
    names = list(fqns)
    return f"{len(names)} Linear(s) ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
