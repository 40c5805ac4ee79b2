"""Which Linears does a pattern match?

One dialect for the whole project: shell globs on FQNs (dotted module names such as
`transformer_blocks.0.attn.to_q`).

    *       any run of characters, also none; it crosses dots: `*.to_q` finds `to_q` at any depth
    ?       exactly one character
    [0-3]   one character of a set or range; `[!0-3]` one that is not in it
    others  themselves; upper and lower case differ

    >>> match("blocks.1.*", ["blocks.1.ff", "blocks.10.ff"])
    ('blocks.1.ff',)

A pattern must match the whole FQN, so `blocks.1.*` does not find `blocks.10.ff`, and `proj_out`
finds the top-level layer only. Regular expressions and substrings are not part of the dialect. A
character that no FQN can have is an error, since such a pattern would silently match nothing.

Method. A glob becomes a regular expression whose stars never backtrack into each other
(`fnmatch.translate` writes them as atomic groups), so no pattern is slow.

What this module does not do: read models, or find the patterns of a list of names
(`core.pattern_cover` does).
"""

import fnmatch
import re
from collections.abc import Collection, Iterable
from functools import lru_cache
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from sensitivity.core.fqns import within
from sensitivity.errors import PatternError

MAX_LENGTH = 512
"""Characters in a pattern or FQN. The longest FQN of the models in studies/ has 61."""

FQN = r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*"  # a hyphen: Z-Image's `all_x_embedder.2-1`
_GLOB = re.compile(r"(?:[A-Za-z0-9_.*?-]|\[!?[A-Za-z0-9_.\-]+\])+")
_RANGE = re.compile(r"(.)-(.)")
META = frozenset("*?[")
"""The characters that make an entry a glob; an entry without them is a name."""


class Pattern(BaseModel):
    """A glob and the reason that it is there. Unknown fields survive a round trip."""

    model_config = ConfigDict(frozen=True, extra="allow")

    pattern: str
    reason: str


class Expansion(NamedTuple):
    """What a list of patterns matched."""

    matched: frozenset[str]
    """The FQNs that at least one pattern matches."""
    dead: tuple[str, ...]
    """The patterns that match no FQN, in the order given."""


def is_fqn(text: str) -> bool:
    """Whether `text` can be the FQN of a module: segments of letters, digits, `_` and `-`, joined
    by single dots, at most 512 characters.
    """
    return len(text) <= MAX_LENGTH and re.fullmatch(FQN, text) is not None


def check_pattern(pattern: str) -> str:
    """Return `pattern` unchanged.

    Raises:
        PatternError: it is empty, too long, or has a character that is not in the dialect.
    """
    if not pattern or len(pattern) > MAX_LENGTH:
        raise PatternError(
            f"found a pattern of {len(pattern)} characters; expected 1 to {MAX_LENGTH}:"
            " write one FQN or one shell glob, such as blocks.*.ff"
        )
    if not _GLOB.fullmatch(pattern):
        raise PatternError(
            f"found the pattern {pattern!r}; expected letters, digits, '_', '-', '.', and the"
            " globs '*', '?' and closed sets like '[0-3]' or '[!0]'; it is a shell glob on the"
            " FQN, not a regular expression: rewrite it, for instance as blocks.*.attn.to_q"
        )
    sets = re.findall(r"\[!?([^\]]+)\]", pattern)
    for low, high in (ends for characters in sets for ends in _RANGE.findall(characters)):
        if low > high:
            raise PatternError(
                f"found the range {low}-{high} in {pattern!r}; expected its lower end first: write"
                f" [{high}-{low}]"
            )
    return pattern


@lru_cache(maxsize=4096)
def _compile(pattern: str) -> re.Pattern[str]:
    return re.compile(fnmatch.translate(check_pattern(pattern)))


def to_regex(pattern: str) -> str:
    """The glob as an anchored regular expression, for tools that use `re.match`, `re.fullmatch` or
    `re.search`: `a.*.[!0]` -> `^a\\..*\\.[^0]$`.

    Raises:
        PatternError: the pattern is malformed.
    """
    signs = {"*": ".*", "?": ".", ".": r"\."}
    parts = re.findall(r"\[!?[^\]]+\]|.", check_pattern(pattern))
    written = ("[^" + p[2:] if p.startswith("[!") else signs.get(p, p) for p in parts)
    return f"^{''.join(written)}$"


def match(pattern: str, fqns: Iterable[str]) -> tuple[str, ...]:
    """The FQNs that `pattern` matches as a whole, in the order given.

    Raises:
        PatternError: the pattern is malformed.
    """
    found = _compile(pattern).match
    return tuple(fqn for fqn in fqns if found(fqn))


def expand(
    patterns: Iterable[str], fqns: Iterable[str], components: Collection[str] = ()
) -> Expansion:
    """The union of what `patterns` match among `fqns`, and the patterns that match nothing.

    Args:
        patterns: globs, or exact names.
        fqns: all FQNs of the model.
        components: the components that FQNs begin with, if there are several. A pattern may then
            match an FQN with its component's name or without: `proj_out` matches that of each.

    Raises:
        PatternError: a pattern is malformed. A dead pattern is no error here: the caller decides
            what it means.
    """
    universe: dict[str, set[str]] = {}
    for fqn in fqns:
        for name in (fqn, within(fqn, components)):
            universe.setdefault(name, set()).add(fqn)
    matched: set[str] = set()
    dead: list[str] = []
    for pattern in patterns:
        if META.isdisjoint(check_pattern(pattern)):
            hits: tuple[str, ...] = (pattern,) if pattern in universe else ()
        else:
            hits = match(pattern, universe)
        matched.update(*(universe[name] for name in hits))
        if not hits:
            dead.append(pattern)
    return Expansion(frozenset(matched), tuple(dead))


def read_list(text: str) -> tuple[str, ...]:
    """The entries of a skip file: one exact FQN or glob a line, without repeats.

    `#` starts a comment, and blank lines are ignored.

    Raises:
        PatternError: an entry is malformed; the message has its line number.
    """
    entries: dict[str, None] = {}
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), start=1):
        entry = line.partition("#")[0].strip()
        if entry:
            try:
                entries.setdefault(check_pattern(entry))
            except PatternError as error:
                raise PatternError(f"line {number}: {error}") from None
    return tuple(entries)
