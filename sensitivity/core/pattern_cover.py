"""Which few globs match exactly these names? `compress`: a list of FQNs in, patterns out.

The dialect is that of `core.patterns`.
"""

import heapq
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from sensitivity.core.patterns import Pattern, _runs, format_indices, is_fqn, match
from sensitivity.errors import PatternError


def _digit_set(digits: Iterable[str]) -> str:
    """One glob for one digit of a set: `3`, `[02]`, `[0-37]`."""
    ordered = sorted({int(digit) for digit in digits})
    if len(ordered) == 1:
        return str(ordered[0])
    return (
        "["
        + "".join(
            f"{a}-{b}" if b - a > 1 else "".join(map(str, range(a, b + 1)))
            for a, b in _runs(ordered)
        )
        + "]"
    )


def index_globs(indices: Iterable[str]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Globs that together match exactly these numerals, each with the numerals that it matches.

    Numerals that share all digits but the last become one set, and sets that agree are joined over
    the digit before: `8, 9, 10, ..., 19, 20, ..., 29` is `[89]` and `[12][0-9]`.
    """
    last: dict[str, set[str]] = defaultdict(set)
    for index in indices:
        last[index[:-1]].add(index[-1])
    joined: dict[tuple[str, tuple[str, ...]], set[str]] = defaultdict(
        set
    )  # (digits before the last two, last digits) -> last but one
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
    """Every module path whose Linears are all selected -> those Linears.

    A Linear is its own path; a container has at least two.
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


def _indexed(
    full: dict[str, frozenset[str]], leaves: frozenset[str], universe: tuple[str, ...]
) -> Iterator[_Candidate]:
    """Roles and containers over all, or over sets, of the numerals that stand at one place of the
    path.
    """
    holes: dict[tuple[str, str, bool], dict[str, str]] = defaultdict(
        dict
    )  # (before, after, container) -> numeral -> path
    for path in full:
        parts = path.split(".")
        for place, part in enumerate(parts):
            if part.isdigit() and place:
                holes[(".".join(parts[:place]), ".".join(parts[place + 1 :]), path not in leaves)][
                    part
                ] = path
    numerals: dict[str, set[str]] = defaultdict(
        set
    )  # container -> all numerals below it in the universe
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
                yield _Candidate(
                    3,
                    f"{before}.{glob}{tail}",
                    covers,
                    f"{what} in {before} {format_indices(map(int, matched))}",
                )


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
            yield _Candidate(
                4,
                f"*.{tail}",
                frozenset(fqns),
                f"every {tail}, wherever it stands ({_plural(len(fqns))})",
            )


def _cover(selected: frozenset[str], universe: tuple[str, ...]) -> list[_Candidate]:
    """Greedy cover of `selected`: the candidate that adds most first; a glob that would add one FQN
    gives way to that FQN.
    """
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
        if heap and (-gain, rank, length) > heap[0][:3]:  # stale: others may now add more
            heapq.heappush(heap, (-gain, rank, length, pattern, candidate))
            continue
        hits = frozenset(match(pattern, universe))
        if hits <= selected:  # `*` crosses dots, so only the matcher itself decides
            chosen.append(candidate._replace(covers=hits))
            left -= hits
    chosen.extend(
        _Candidate(5, fqn, frozenset((fqn,)), "this Linear") for fqn in universe if fqn in left
    )
    return chosen


def compress(selected: Iterable[str], universe: Iterable[str]) -> tuple[Pattern, ...]:
    """A short, readable list of globs that selects exactly `selected` among `universe`.

    Args:
        selected: FQNs to select; each must be in `universe`.
        universe: all FQNs of the model; 1,400 take well under a second.

    Returns:
        Patterns in the order in which their first match stands in `universe`, each with a reason
        that says in words what it covers.

    Raises:
        PatternError: `selected` names an FQN outside the universe, or the universe holds something
            that is no FQN.
    """
    everything = tuple(dict.fromkeys(universe))
    for fqn in everything:
        if not is_fqn(fqn):
            raise PatternError(
                f"found {fqn!r} in the universe; allowed are dotted module names; pass the names of"
                " model.named_modules()"
            )
    wanted = frozenset(selected)
    unknown = sorted(wanted.difference(everything))
    if unknown:
        raise PatternError(
            f"found {len(unknown)} selected FQN(s) outside the universe, first {unknown[0]!r};"
            " allowed are FQNs of the model; list them with `sensitivity profile`"
        )
    chosen = _cover(wanted, everything)
    kept = list(chosen)
    for candidate in sorted(
        chosen, key=lambda c: len(c.covers)
    ):  # a late pattern can make an early one redundant
        others = frozenset().union(*(c.covers for c in kept if c is not candidate))
        if candidate.covers <= others:
            kept.remove(candidate)
    position = {fqn: place for place, fqn in enumerate(everything)}
    kept.sort(key=lambda c: (min(position[fqn] for fqn in c.covers), c.pattern))
    return tuple(Pattern(pattern=c.pattern, reason=c.reason) for c in kept)
