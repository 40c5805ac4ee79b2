"""Which few globs match exactly these names?

    >>> [p.pattern for p in compress({"a.0.q", "a.1.q"}, ["a.0.q", "a.1.q", "a.0.k", "a.1.k"])]
    ['a.*.q']

Method. A greedy set cover: the glob that adds most names comes first. The candidates, from the
plainest form to the least plain, are

    *                   the whole model
    blocks.1.*          a container: a module whose Linears are all selected
    blocks.*.ff         one path over all indices of a list
    blocks.1[0-4].ff    one path over a set of indices
    *.ff                every name that ends so
    blocks.3.ff         one Linear, for what is left over

Only candidates that match nothing outside the selection count, and a candidate that would add a
single name gives way to that name. The dialect is that of `core.patterns`.

What this module does not do: promise the shortest list. A greedy cover is within a logarithm of
it. The list is exact for the names given, not for those of another model.
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from sensitivity.core.patterns import Pattern, is_fqn, match
from sensitivity.core.words import consecutive, format_indices
from sensitivity.errors import PatternError


def compress(selected: Iterable[str], universe: Iterable[str]) -> tuple[Pattern, ...]:
    """A short, readable list of globs that matches exactly `selected` among `universe`.

    Args:
        selected: FQNs to match; each must be in `universe`.
        universe: all FQNs of the model; 1,400 of them take well under a second.

    Returns:
        Patterns in the order in which their first match stands in `universe`, each with a reason
        that says in words what it covers.

    Raises:
        PatternError: `selected` has an FQN that is not in `universe`, or `universe` has something
            that is not an FQN.
    """
    everything = tuple(dict.fromkeys(universe))
    for fqn in everything:
        if not is_fqn(fqn):
            raise PatternError(
                f"found {fqn!r} in the universe; expected dotted module names: pass the names of"
                " model.named_modules()"
            )
    wanted = frozenset(selected)
    unknown = sorted(wanted.difference(everything))
    if unknown:
        raise PatternError(
            f"found {len(unknown)} selected FQN(s) outside the universe, first {unknown[0]!r};"
            " expected FQNs of the model: `sensitivity profile` lists them"
        )
    chosen = _without_redundant(_cover(wanted, everything))
    position = {fqn: place for place, fqn in enumerate(everything)}
    chosen.sort(key=lambda c: (min(position[fqn] for fqn in c.covers), c.pattern))
    return tuple(Pattern(pattern=c.pattern, reason=c.reason) for c in chosen)


def index_globs(indices: Iterable[str]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Globs that together match exactly these numerals, each with the numerals that it matches.

    Numerals that share all digits but the last become one set, and equal sets are joined over the
    digit before: `8, 9, 10, ..., 19, 20, ..., 29` is `[89]` and `[12][0-9]`.
    """
    last_digits: dict[str, set[str]] = defaultdict(set)  # {digits before the last: last digits}
    for index in indices:
        last_digits[index[:-1]].add(index[-1])
    # {(digits before the last two, last digits): last digits but one}; "-" where there is one digit
    joined: dict[tuple[str, tuple[str, ...]], set[str]] = defaultdict(set)
    for head, digits in last_digits.items():
        joined[(head[:-1] if head else "-", tuple(sorted(digits)))].add(head[-1:])
    globs = []
    for (front, units), tens in joined.items():
        if front == "-":
            globs.append((_digit_set(units), units))
        else:
            numerals = tuple(front + ten + unit for ten in sorted(tens) for unit in units)
            globs.append((front + _digit_set(tens) + _digit_set(units), numerals))
    return tuple(globs)


def _digit_set(digits: Iterable[str]) -> str:
    """One glob for one digit of a set: `3`, `[02]`, `[0-37]`."""
    ordered = sorted({int(digit) for digit in digits})
    if len(ordered) == 1:
        return str(ordered[0])
    ranges = (
        f"{first}-{last}" if last - first > 1 else "".join(map(str, range(first, last + 1)))
        for first, last in consecutive(ordered)
    )
    return f"[{''.join(ranges)}]"


_EVERY_INDEX = 2
"""The rank of globs with a star in place of an index."""


class _Candidate(NamedTuple):
    """A glob that may become part of the cover; `rank` breaks ties, the plainest form is 0."""

    rank: int
    pattern: str
    covers: frozenset[str]
    reason: str


def _cover(selected: frozenset[str], universe: tuple[str, ...]) -> list[_Candidate]:
    """Candidates that together match exactly `selected`, chosen greedily."""
    heap = [
        (-len(c.covers), c.rank, len(c.pattern), c.pattern, c)
        for c in _candidates(selected, universe)
    ]
    heapq.heapify(heap)
    chosen: list[_Candidate] = []
    left = set(selected)
    while heap and left:
        _, rank, length, pattern, candidate = heapq.heappop(heap)
        gain = len(candidate.covers & left)
        if gain < 2:
            continue
        if heap and (-gain, rank, length) > heap[0][:3]:  # another may add more by now
            heapq.heappush(heap, (-gain, rank, length, pattern, candidate))
            continue
        # `*` crosses dots, so in the middle of a glob it may match more than the path that it was
        # made of. The other globs match what they were made of.
        is_open = rank == _EVERY_INDEX
        hits = frozenset(match(pattern, universe)) if is_open else candidate.covers
        if hits <= selected:
            chosen.append(candidate._replace(covers=hits))
            left -= hits
    chosen.extend(
        _Candidate(5, fqn, frozenset((fqn,)), "this Linear") for fqn in universe if fqn in left
    )
    return chosen


def _without_redundant(chosen: list[_Candidate]) -> list[_Candidate]:
    """The cover without candidates, smallest first, whose names the others match already."""
    times = Counter(fqn for candidate in chosen for fqn in candidate.covers)
    redundant = set[str]()
    for candidate in sorted(chosen, key=lambda c: len(c.covers)):
        if all(times[fqn] > 1 for fqn in candidate.covers):
            times.subtract(candidate.covers)
            redundant.add(candidate.pattern)
    return [candidate for candidate in chosen if candidate.pattern not in redundant]


def _candidates(selected: frozenset[str], universe: tuple[str, ...]) -> Iterator[_Candidate]:
    """All candidates that may match only what is selected; `_cover` checks that they do."""
    if len(selected) == len(universe):
        yield _Candidate(0, "*", selected, f"every Linear ({len(selected)})")
    full = _full_paths(selected, universe)
    leaves = frozenset(universe)
    for path, covers in full.items():
        if path not in leaves:
            yield _Candidate(1, f"{path}.*", covers, f"all of {path} ({_linears(covers)})")
    yield from _over_indices(full, leaves, universe)
    yield from _tails(selected, universe)


def _full_paths(selected: frozenset[str], universe: tuple[str, ...]) -> dict[str, frozenset[str]]:
    """{module path: its Linears} of every module whose Linears are all selected.

    A Linear is a path of its own; a container has two Linears or more.
    """
    below: dict[str, set[str]] = defaultdict(set)
    for fqn in universe:
        parts = fqn.split(".")
        for end in range(1, len(parts) + 1):
            below[".".join(parts[:end])].add(fqn)
    return {
        path: frozenset(fqns)
        for path, fqns in below.items()
        if fqns <= selected and (len(fqns) > 1 or path in fqns)
    }


def _over_indices(
    full: dict[str, frozenset[str]], leaves: frozenset[str], universe: tuple[str, ...]
) -> Iterator[_Candidate]:
    """Paths that differ in one index only, over all indices of the list and over sets of them."""
    # {(path before the index, path after it, whether it is a container): {index: path}}
    alike: dict[tuple[str, str, bool], dict[str, str]] = defaultdict(dict)
    for path in full:
        for before, index, after in _indices(path):
            alike[(before, after, path not in leaves)][index] = path
    listed: dict[str, set[str]] = defaultdict(set)  # {list: its indices in the universe}
    for fqn in universe:
        for before, index, _ in _indices(fqn):
            listed[before].add(index)
    for (before, after, container), paths in alike.items():
        if len(paths) < 2:
            continue
        tail = ("." + after if after else "") + (".*" if container else "")
        what = f"{after or 'all'}{' (all of it)' if container and after else ''}"
        everything = frozenset().union(*(full[path] for path in paths.values()))
        whole = len(paths) == len(listed[before])
        where = f"all {len(paths)} {before}" if whole else f"the {len(paths)} {before} that have it"
        yield _Candidate(_EVERY_INDEX, f"{before}.*{tail}", everything, f"{what} in {where}")
        for glob, matched in index_globs(paths):
            if len(matched) > 1:
                covers = frozenset().union(*(full[paths[index]] for index in matched))
                reason = f"{what} in {before} {format_indices(map(int, matched))}"
                yield _Candidate(3, f"{before}.{glob}{tail}", covers, reason)


def _indices(path: str) -> Iterator[tuple[str, str, str]]:
    """(path before it, index, path after it) of each index in a path."""
    parts = path.split(".")
    for place, part in enumerate(parts):
        if part.isdigit() and place:
            yield ".".join(parts[:place]), part, ".".join(parts[place + 1 :])


def _tails(selected: frozenset[str], universe: tuple[str, ...]) -> Iterator[_Candidate]:
    """Ends of names that only selected Linears have."""
    tails: dict[str, set[str]] = defaultdict(set)
    for fqn in universe:
        parts = fqn.split(".")
        for start in range(1, len(parts)):
            if not parts[start].isdigit():  # `*.2` would be short and say nothing
                tails[".".join(parts[start:])].add(fqn)
    for tail, fqns in tails.items():
        if len(fqns) > 1 and fqns <= selected:
            reason = f"every {tail}, wherever it stands ({_linears(fqns)})"
            yield _Candidate(4, f"*.{tail}", frozenset(fqns), reason)


def _linears(fqns: Iterable[str]) -> str:
    count = len(list(fqns))
    return f"{count} Linear" if count == 1 else f"{count} Linears"
