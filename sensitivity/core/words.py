"""How is a message put into words? Safe to print, short, and with what was left out counted.

    first_line(error)                            # "No such file or directory"
    and_more(["a", "b", "c", "d"], most=2)       # "a, b and 2 more"
    counted(["a", "b", "c", "d"], most=2)        # "4 (a, b and 2 more)"
    format_indices([0, 1, 2, 7])                 # "0-2, 7"
    did_you_mean("nvpf4", ["nvfp4", "fp8"])      # "did you mean 'nvfp4'?"
    duration(160)                                # "2 min 40 s"
    gigabytes(24_000_000_000)                    # "24 GB"

Every function returns plain text; nothing is printed here.
"""

import difflib
from collections.abc import Iterable, Iterator, Sequence

MAX_SHOWN = 1_000
"""Characters of a name in a message; a longer name is cut. FQNs have at most 512."""


def printable(text: str) -> str:
    """A text as one line that is safe on a terminal.

    Control characters, line breaks and marks of direction become spaces.
    """
    return "".join(c if c.isprintable() else " " for c in text)


def first_line(error: BaseException, *, most: int = 200) -> str:
    """The first line of an error's message, at most `most` characters; its class if it has none.

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

    Names that cannot be printed or are longer than `MAX_SHOWN` are escaped and cut.
    """
    safe = [
        name if name.isprintable() and len(name) < MAX_SHOWN else ascii(name[:80])
        for name in names[:most]
    ]
    return f"{len(names)} ({and_more([*safe, *names[most:]], most=most)})"


def some(fqns: Iterable[str]) -> str:
    """How many Linears there are, and the first three: "4 Linear(s) (a, b, c, ...)"."""
    names = list(fqns)
    return f"{len(names)} Linear(s) ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"


def did_you_mean(
    name: str, known: Iterable[str], *, otherwise: str = "", most: int = 1, cutoff: float = 0.6
) -> str:
    """The known names that are closest to a misspelt one, as a question.

    Args:
        name: what was given.
        known: the names that exist.
        otherwise: the text where no name is close.
        most: how many names are offered at most.
        cutoff: how similar they must be, 0 to 1 (`difflib.get_close_matches`).
    """
    closest = difflib.get_close_matches(name, list(known), n=most, cutoff=cutoff)
    return f"did you mean {' or '.join(repr(str(x)) for x in closest)}?" if closest else otherwise


def gigabytes(nbytes: float) -> str:
    """Bytes as GB (1e9 bytes), with five digits, by which peaks of two skip-lists can be told
    apart.
    """
    return f"{nbytes / 1e9:.5g} GB"


def format_indices(indices: Iterable[int]) -> str:
    """Indices as ranges, for people: {0, 1, 2, 7} -> "0-2, 7"."""
    ranges = consecutive(sorted(set(indices)))
    return ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in ranges)


def consecutive(ordered: Iterable[int]) -> Iterator[tuple[int, int]]:
    """The (first, last) of each run of consecutive numbers: 0, 1, 2, 7 -> (0, 2), (7, 7)."""
    first = last = None
    for value in ordered:
        if first is None or last is None:
            first = value
        elif value != last + 1:
            yield first, last
            first = value
        last = value
    if first is not None and last is not None:
        yield first, last


def duration(seconds: float) -> str:
    """A time for people: "0.4 s", "8 s", "2 min 40 s", "3 h 5 min", "12 days".

    From 10 minutes on, seconds are left out, from two days on hours too.
    """
    if seconds < 0.95:
        return f"{max(seconds, 0.0):.1f} s"
    whole, minutes = round(seconds), round(seconds / 60)
    if whole < 60:
        return f"{whole} s"
    if whole < 600:
        return _two(whole, 60, "min", "s")
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return _two(minutes, 60, "h", "min")
    return f"{seconds / 86_400:,.0f} days"


def _two(number: int, of: int, large: str, small: str) -> str:
    """A number of small units as large and small ones; no "0 s" at the end."""
    whole, rest = divmod(number, of)
    return f"{whole} {large} {rest} {small}" if rest else f"{whole} {large}"
