"""Which Linears does a pattern name, and what is the shortest list of patterns that names exactly
these Linears?

One dialect for the whole project: shell globs on FQNs (dotted module names such as
`transformer_blocks.0.attn.to_q`).

    *       any run of characters, none included; it crosses dots: `*.to_q` finds `to_q` at any depth
    ?       exactly one character
    [0-3]   one character of a set or range; `[!0-3]` one that is not in it
    others  themselves; upper and lower case differ

A pattern must match the whole FQN, so `blocks.1.*` finds `blocks.1.ff` and not `blocks.10.ff`, and
`proj_out` finds the top-level layer only. Regular expressions and substrings are not part of it; a
character that no FQN can hold is refused instead of matching nothing in silence.

Method. A glob becomes a regular expression whose stars never backtrack into each other
(`fnmatch.translate` writes them as atomic groups), so no pattern is slow. `compress` is a greedy
set cover: candidates are containers (`blocks.1.*`), roles over all indices (`blocks.*.ff`), roles
over sets of indices (`blocks.1[0-4].ff`) and tails (`*.ff`); only candidates that hit nothing
outside the selection survive, and what is left is named exactly.

It does not read models, and it does not promise the shortest list there is: greedy is within a
logarithm of it. Exactness holds for the universe given, not for another model.

    >>> [p.pattern for p in compress({"a.0.q", "a.1.q"}, ["a.0.q", "a.1.q", "a.0.k", "a.1.k"])]
    ['a.*.q']
"""

import fnmatch
import re
from collections.abc import Collection, Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from sensitivity.core.fqns import within
from sensitivity.errors import PatternError

MAX_LENGTH = 512
"""Characters in a pattern or FQN. The longest FQN of the models studied has 61."""

FQN = r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*"  # a hyphen: Z-Image's `all_x_embedder.2-1`
_GLOB = re.compile(r"(?:[A-Za-z0-9_.*?-]|\[!?[A-Za-z0-9_.\-]+\])+")
_RANGE = re.compile(r"(.)-(.)")
META = frozenset("*?[")
"""Characters that make an entry a glob; one without them is a name."""


class Pattern(BaseModel):
    """A glob and why it is there."""

    model_config = ConfigDict(frozen=True, extra="allow")

    pattern: str
    reason: str


class Expansion(NamedTuple):
    """What a list of patterns matched.

    `matched`: the FQNs that at least one pattern matches. `dead`: the patterns that match none, in
    the order given.
    """

    matched: frozenset[str]
    dead: tuple[str, ...]


def is_fqn(text: str) -> bool:
    """Whether `text` can be the FQN of a module: segments of letters, digits, `_` and `-`, joined
    by single dots, at most 512 characters.
    """
    return len(text) <= MAX_LENGTH and re.fullmatch(FQN, text) is not None


def check_pattern(pattern: str) -> str:
    """Return `pattern` unchanged.

    Raises:
        PatternError: it is empty, too long, or holds what the dialect does not have.
    """
    if not pattern or len(pattern) > MAX_LENGTH:
        raise PatternError(
            f"found a pattern of {len(pattern)} characters; allowed are 1 to {MAX_LENGTH}; "
            "write one FQN or one shell glob, such as blocks.*.ff"
        )
    if not _GLOB.fullmatch(pattern):
        raise PatternError(
            f"found the pattern {pattern!r}; allowed are letters, digits, '_', '-', '.', and the"
            " globs '*', '?' and closed sets like '[0-3]' or '[!0]'; it is a shell glob on the"
            " FQN, not a regular expression: rewrite it, for instance as blocks.*.attn.to_q"
        )
    for low, high in (
        span for group in re.findall(r"\[!?([^\]]+)\]", pattern) for span in _RANGE.findall(group)
    ):
        if low > high:
            raise PatternError(
                f"found the range {low}-{high} in {pattern!r}; allowed are ranges that rise; write"
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
    return f"^{''.join('[^' + part[2:] if part.startswith('[!') else signs.get(part, part) for part in parts)}$"


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
        fqns: the universe.
        components: names that FQNs begin with, where Linears of several components are there: a
            pattern then may match a name with its component or without, and `proj_out` is that of
            each.

    Raises:
        PatternError: a pattern is malformed. A dead pattern is not an error here: the caller says
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
    """The entries of a skip file: one exact FQN or glob a line, `#` starts a comment, blank lines
    are nothing, repeats count once.

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


def format_indices(indices: Iterable[int]) -> str:
    """Indices in words for people: `{0, 1, 2, 7}` is `0-2, 7`."""
    return ", ".join(
        str(low) if low == high else f"{low}-{high}" for low, high in _runs(sorted(set(indices)))
    )


def _runs(ordered: list[int]) -> Iterator[tuple[int, int]]:
    start = previous = None
    for value in ordered:
        if start is None or previous is None or value != previous + 1:
            if start is not None and previous is not None:
                yield start, previous
            start = value
        previous = value
    if start is not None and previous is not None:
        yield start, previous
