"""Which entries of diffusers' `modules_to_not_convert` hit exactly these Linears?

An entry hits every parameter that has entry + "." in its name, or that is called as the entry
(`readers.diffusers`). So `attn.to_out.0` is short for a role, `proj_out` hits single blocks as
well, and `proj_out.weight` hits one Linear and nothing else. An exact list therefore always exists.

    exact_substrings({"proj_out"}, ["proj_out", "blocks.0.proj_out"])
    # {"proj_out.weight": "this Linear; 'proj_out' hits 2"}

Method: greedy set cover by runs of whole segments that hit nothing else. The Linears that are left
are named one by one, with `.weight` where the bare name would hit more.
"""

import heapq
from collections.abc import Collection, Iterator


def exact_substrings(selected: Collection[str], universe: Collection[str]) -> dict[str, str]:
    """{entry: what it hits, in words}; together the entries hit exactly `selected`.

    Those that hit most come first, then single names.

    Args:
        selected: the Linears to hit.
        universe: every Linear of the model.
    """
    wanted = frozenset(selected)
    hit: dict[str, set[str]] = {run: set() for name in wanted for run in (*_runs(name), name)}
    for name in universe:
        for run in _substrings(name):
            if run in hit:
                hit[run].add(name)
    exact = {run: names for run, names in hit.items() if names <= wanted}
    heap = [(-len(names), len(run), run) for run, names in exact.items() if len(names) > 1]
    heapq.heapify(heap)
    left, chosen = set(wanted), dict[str, str]()
    places = {name: place for place, name in enumerate(universe)}
    while heap and left:
        _, length, run = heapq.heappop(heap)
        gain = len(exact[run] & left)
        if heap and gain > 1 and (-gain, length, run) > heap[0]:
            heapq.heappush(heap, (-gain, length, run))  # another run may now add more
        elif gain > 1:
            first = min(exact[run], key=places.__getitem__)
            chosen[run] = f"{len(exact[run])} Linears, first {first}"
            left -= exact[run]
    for name in universe:
        if name in left and name in exact:
            chosen[name] = "this Linear"
        elif name in left:
            chosen[f"{name}.weight"] = f"this Linear; {name!r} hits {len(hit[name])}"
    return chosen


def _runs(name: str) -> Iterator[str]:
    """Whole segments in a row, not beginning with a number: entries that a person would write."""
    parts = name.split(".")
    for start, part in enumerate(parts):
        if not part.isdigit():
            yield from (".".join(parts[start:end]) for end in range(start + 1, len(parts) + 1))


def _substrings(name: str) -> Iterator[str]:
    """Every text that stands before a dot in the weight's name."""
    for end, sign in enumerate(f"{name}."):
        if sign == ".":
            yield from (name[start:end] for start in range(end))
