"""Which Linears does a pattern name, and what is the shortest list of patterns that names exactly these Linears?

One dialect for the whole project: shell globs on FQNs (dotted module names such as `transformer_blocks.0.attn.to_q`).

    *       any run of characters, none included; it crosses dots: `*.to_q` finds `to_q` at any depth
    ?       exactly one character
    [0-3]   one character of a set or range; `[!0-3]` one that is not in it
    others  themselves; upper and lower case differ

A pattern must match the whole FQN, so `blocks.1.*` finds `blocks.1.ff` and not `blocks.10.ff`, and `proj_out` finds the top-level
layer only. Regular expressions and substrings are not part of it; a character that no FQN can hold is refused instead of matching
nothing in silence.

Method. A glob becomes a regular expression whose stars never backtrack into each other (`fnmatch.translate` writes them as atomic
groups), so no pattern is slow. `compress` is a greedy set cover: candidates are containers (`blocks.1.*`), roles over all indices
(`blocks.*.ff`), roles over sets of indices (`blocks.1[0-4].ff`) and tails (`*.ff`); only candidates that hit nothing outside the
selection survive, and what is left is named exactly.

It does not read models, and it does not promise the shortest list there is: greedy is within a logarithm of it. Exactness holds for the
universe given, not for another model.

    >>> [p.pattern for p in compress({"a.0.q", "a.1.q"}, ["a.0.q", "a.1.q", "a.0.k", "a.1.k"])]
    ['a.*.q']
"""

import fnmatch
import heapq
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from sensitivity.errors import PatternError
from sensitivity.fqns import within

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

    `matched`: the FQNs that at least one pattern matches. `dead`: the patterns that match none, in the order given.
    """

    matched: frozenset[str]
    dead: tuple[str, ...]


def is_fqn(text: str) -> bool:
    """Whether `text` can be the FQN of a module: segments of letters, digits, `_` and `-`, joined by single dots, at most 512 characters."""
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
            f"found the pattern {pattern!r}; allowed are letters, digits, '_', '-', '.', and the globs '*', '?' and closed sets like '[0-3]' or "
            "'[!0]'; it is a shell glob on the FQN, not a regular expression: rewrite it, for instance as blocks.*.attn.to_q"
        )
    for low, high in (span for group in re.findall(r"\[!?([^\]]+)\]", pattern) for span in _RANGE.findall(group)):
        if low > high:
            raise PatternError(f"found the range {low}-{high} in {pattern!r}; allowed are ranges that rise; write [{high}-{low}]")
    return pattern


@lru_cache(maxsize=4096)
def _compile(pattern: str) -> re.Pattern[str]:
    return re.compile(fnmatch.translate(check_pattern(pattern)))


def to_regex(pattern: str) -> str:
    """The glob as an anchored regular expression, for tools that use `re.match`, `re.fullmatch` or `re.search`: `a.*.[!0]` -> `^a\\..*\\.[^0]$`.

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


def expand(patterns: Iterable[str], fqns: Iterable[str], components: Collection[str] = ()) -> Expansion:
    """The union of what `patterns` match among `fqns`, and the patterns that match nothing.

    Args:
        patterns: globs, or exact names.
        fqns: the universe.
        components: names that FQNs begin with, where Linears of several components are there: a pattern then may match a name with its component or without, and
            `proj_out` is that of each.

    Raises:
        PatternError: a pattern is malformed. A dead pattern is not an error here: the caller says what it means.
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
    """The entries of a skip file: one exact FQN or glob a line, `#` starts a comment, blank lines are nothing, repeats count once.

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
    return ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in _runs(sorted(set(indices))))


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


def _digit_set(digits: Iterable[str]) -> str:
    """One glob for one digit of a set: `3`, `[02]`, `[0-37]`."""
    ordered = sorted({int(digit) for digit in digits})
    if len(ordered) == 1:
        return str(ordered[0])
    return "[" + "".join(f"{a}-{b}" if b - a > 1 else "".join(map(str, range(a, b + 1))) for a, b in _runs(ordered)) + "]"


def index_globs(indices: Iterable[str]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Globs that together match exactly these numerals, each with the numerals that it matches.

    Numerals that share all digits but the last become one set, and sets that agree are joined over the digit before:
    `8, 9, 10, ..., 19, 20, ..., 29` is `[89]` and `[12][0-9]`.
    """
    last: dict[str, set[str]] = defaultdict(set)
    for index in indices:
        last[index[:-1]].add(index[-1])
    joined: dict[tuple[str, tuple[str, ...]], set[str]] = defaultdict(set)  # (digits before the last two, last digits) -> last but one
    for head, digits in last.items():
        joined[(head[:-1] if head else "-", tuple(sorted(digits)))].add(head[-1:])
    globs = []
    for (front, units), tens in joined.items():
        if front == "-":
            globs.append((_digit_set(units), units))
        else:
            numerals = tuple(front + ten + unit for ten in sorted(tens) for unit in units)
            globs.append((front + _digit_set(tens) + _digit_set(units), numerals))
    return tuple(globs)


class _Candidate(NamedTuple):
    rank: int  # how plain the form is, lower is plainer: breaks ties
    pattern: str
    covers: frozenset[str]
    reason: str


def _plural(count: int) -> str:
    return f"{count} Linear" if count == 1 else f"{count} Linears"


def _containers(selected: frozenset[str], universe: tuple[str, ...]) -> dict[str, frozenset[str]]:
    """Every module path whose Linears are all selected -> those Linears. A Linear is its own path; a container has at least two."""
    below: dict[str, set[str]] = defaultdict(set)
    for fqn in universe:
        parts = fqn.split(".")
        for end in range(1, len(parts) + 1):
            below[".".join(parts[:end])].add(fqn)
    return {path: frozenset(fqns) for path, fqns in below.items() if fqns <= selected and (len(fqns) > 1 or path in fqns)}


def _indexed(full: dict[str, frozenset[str]], leaves: frozenset[str], universe: tuple[str, ...]) -> Iterator[_Candidate]:
    """Roles and containers over all, or over sets, of the numerals that stand at one place of the path."""
    holes: dict[tuple[str, str, bool], dict[str, str]] = defaultdict(dict)  # (before, after, container) -> numeral -> path
    for path in full:
        parts = path.split(".")
        for place, part in enumerate(parts):
            if part.isdigit() and place:
                holes[(".".join(parts[:place]), ".".join(parts[place + 1 :]), path not in leaves)][part] = path
    numerals: dict[str, set[str]] = defaultdict(set)  # container -> all numerals below it in the universe
    for fqn in universe:
        parts = fqn.split(".")
        for place, part in enumerate(parts):
            if part.isdigit() and place:
                numerals[".".join(parts[:place])].add(part)
    for (before, after, container), paths in holes.items():
        if len(paths) < 2:
            continue
        tail = ("." + after if after else "") + (".*" if container else "")
        what = f"{after or 'all'}{' (all of it)' if container and after else ''}"
        everything = frozenset().union(*(full[path] for path in paths.values()))
        whole = len(paths) == len(numerals[before])
        where = f"all {len(paths)} {before}" if whole else f"the {len(paths)} {before} that have it"
        yield _Candidate(2, f"{before}.*{tail}", everything, f"{what} in {where}")
        for glob, matched in index_globs(paths):
            if len(matched) > 1:
                covers = frozenset().union(*(full[paths[numeral]] for numeral in matched))
                yield _Candidate(3, f"{before}.{glob}{tail}", covers, f"{what} in {before} {format_indices(map(int, matched))}")


def _candidates(selected: frozenset[str], universe: tuple[str, ...]) -> Iterator[_Candidate]:
    if len(selected) == len(universe):
        yield _Candidate(0, "*", selected, f"every Linear ({len(selected)})")
    full = _containers(selected, universe)
    leaves = frozenset(universe)
    for path, covers in full.items():
        if path not in leaves:
            yield _Candidate(1, f"{path}.*", covers, f"all of {path} ({_plural(len(covers))})")
    yield from _indexed(full, leaves, universe)
    tails: dict[str, set[str]] = defaultdict(set)
    for fqn in universe:
        parts = fqn.split(".")
        for start in range(1, len(parts)):
            if not parts[start].isdigit():  # `*.2` would be short and say nothing
                tails[".".join(parts[start:])].add(fqn)
    for tail, fqns in tails.items():
        if len(fqns) > 1 and fqns <= selected:
            yield _Candidate(4, f"*.{tail}", frozenset(fqns), f"every {tail}, wherever it stands ({_plural(len(fqns))})")


def _cover(selected: frozenset[str], universe: tuple[str, ...]) -> list[_Candidate]:
    """Greedy cover of `selected`: the candidate that adds most first; a glob that would add one FQN gives way to that FQN."""
    heap = [(-len(c.covers), c.rank, len(c.pattern), c.pattern, c) for c in _candidates(selected, universe)]
    heapq.heapify(heap)
    chosen: list[_Candidate] = []
    left = set(selected)
    while heap and left:
        _, rank, length, pattern, candidate = heapq.heappop(heap)
        gain = len(candidate.covers & left)
        if gain < 2:
            continue
        if heap and (-gain, rank, length) > heap[0][:3]:  # stale: others may now add more
            heapq.heappush(heap, (-gain, rank, length, pattern, candidate))
            continue
        hits = frozenset(match(pattern, universe))
        if hits <= selected:  # `*` crosses dots, so only the matcher itself decides
            chosen.append(candidate._replace(covers=hits))
            left -= hits
    chosen.extend(_Candidate(5, fqn, frozenset((fqn,)), "this Linear") for fqn in universe if fqn in left)
    return chosen


def compress(selected: Iterable[str], universe: Iterable[str]) -> tuple[Pattern, ...]:
    """A short, readable list of globs that selects exactly `selected` among `universe`.

    Args:
        selected: FQNs to select; each must be in `universe`.
        universe: all FQNs of the model; 1,400 take well under a second.

    Returns:
        Patterns in the order in which their first match stands in `universe`, each with a reason that says in words what it covers.

    Raises:
        PatternError: `selected` names an FQN outside the universe, or the universe holds something that is no FQN.
    """
    everything = tuple(dict.fromkeys(universe))
    for fqn in everything:
        if not is_fqn(fqn):
            raise PatternError(f"found {fqn!r} in the universe; allowed are dotted module names; pass the names of model.named_modules()")
    wanted = frozenset(selected)
    unknown = sorted(wanted.difference(everything))
    if unknown:
        raise PatternError(
            f"found {len(unknown)} selected FQN(s) outside the universe, first {unknown[0]!r}; allowed are FQNs of the model; "
            "list them with `sensitivity profile`"
        )
    chosen = _cover(wanted, everything)
    kept = list(chosen)
    for candidate in sorted(chosen, key=lambda c: len(c.covers)):  # a late pattern can make an early one redundant
        others = frozenset().union(*(c.covers for c in kept if c is not candidate))
        if candidate.covers <= others:
            kept.remove(candidate)
    position = {fqn: place for place, fqn in enumerate(everything)}
    kept.sort(key=lambda c: (min(position[fqn] for fqn in c.covers), c.pattern))
    return tuple(Pattern(pattern=c.pattern, reason=c.reason) for c in kept)
