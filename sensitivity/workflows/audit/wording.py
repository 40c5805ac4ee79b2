"""How do the messages of an audit name Linears, places and times?

plural(2, "Linear")                                      # "2 Linears"
first_names(["a", "b", "b", "c", "d"])                   # "a, b, c and 1 more"
some_roles(["blocks.attn.to_q", "blocks.attn.to_k"])     # "blocks.attn.{to_q, to_k}"
"""

from collections.abc import Iterable

from sensitivity.consumers.lists import Entry
from sensitivity.core.words import and_more


def place(entry: Entry) -> str:
    """The line of an entry, to stand in front of a message; "" if it is not known."""
    return "" if entry.line is None else f"line {entry.line}: "


def first_names(names: Iterable[str], most: int = 3) -> str:
    """The first names, each once, and how many more there are."""
    return and_more(dict.fromkeys(names), most=most)


def some_roles(roles: Iterable[str], most: int = 3) -> str:
    """The first roles, what they begin with written once: `blocks.attn.{to_q, to_k} and 2 more`."""
    distinct = list(dict.fromkeys(roles))
    shown = [role.split(".") for role in distinct[:most]]
    common = 0
    while len(shown) > 1 and all(
        len(parts) > common + 1 and parts[common] == shown[0][common] for parts in shown
    ):
        common += 1
    if not common:
        return first_names(distinct, most)
    ends = ", ".join(".".join(parts[common:]) for parts in shown)
    more = f" and {len(distinct) - most} more" if len(distinct) > most else ""
    return f"{'.'.join(shown[0][:common])}.{{{ends}}}{more}"


def plural(number: int, noun: str) -> str:
    """A number with its noun: 1 Linear, 2 Linears, 2 entries."""
    if number == 1:
        return f"1 {noun}"
    return f"{number} {noun[:-1]}ies" if noun.endswith("y") else f"{number} {noun}s"


def milliseconds(seconds: float) -> str:
    """Seconds as milliseconds, with as many digits as matter."""
    return f"{seconds * 1e3:.3g} ms" if abs(seconds) < 0.1 else f"{seconds * 1e3:.0f} ms"


def gains(seconds: float) -> str:
    """What Linears gain or lose: "gain 1.2 ms"."""
    return f"{'gain' if seconds >= 0 else 'lose'} {milliseconds(abs(seconds))}"
