r"""Which text stands in every name that a regular expression matches? `literals_of`.

    literals_of(r"^blocks\.[0-3]\.attn\.to_q$")
    # Literals(longest=".attn.to_q", last=".attn.to_q", whole="", repeats=0)

Most expressions in lists are names with a few sets or stars. Looking for their longest run of plain
characters first leaves few names to match. Expressions with groups, alternatives, counted repeats
or classes (`\d`) are not looked into.
"""

import re
from typing import NamedTuple

_TOKEN = re.compile(
    r"""(?P<plain>[A-Za-z0-9_-]|\\[.-])
    | (?P<repeat>[*+?][+?]?)
    | \[\^?\]?[^\]\\]*\]
    | \.""",
    re.VERBOSE,
)


class Literals(NamedTuple):
    """What an expression's plain characters say.

    Attributes:
        longest: the longest run of them; "" where there is none.
        last: the run at the expression's end; "" where something else ends it.
        whole: the name that an expression of nothing but characters is; "" for any other.
        repeats: how many `*`, `+` and `?` it has. With at most one it cannot backtrack for long.
    """

    longest: str
    last: str
    whole: str
    repeats: int


def literals_of(expression: str) -> Literals | None:
    """What is in an expression; None for one that has more than characters, sets and repeats."""
    body = expression.removeprefix("^").removesuffix("$")
    runs, place, repeats = [""], 0, 0
    while place < len(body):
        token = _TOKEN.match(body, place)
        if token is None:
            return None
        if token["plain"]:
            runs[-1] += token["plain"].removeprefix("\\")
        elif token["repeat"]:
            runs[-1:] = [runs[-1][:-1], ""]
            repeats += 1
        else:
            runs.append("")
        place = token.end()
    whole = runs[0] if len(runs) == 1 else ""
    return Literals(max(runs, key=len), runs[-1], whole, repeats)
