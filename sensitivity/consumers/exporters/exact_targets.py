r"""Which targets of compressed-tensors match exactly these names, on any model?

    exact_targets(["blocks.0.to_q", "blocks.1.to_q", "proj_out"])
    # [(r"re:^blocks\.[01]\.to_q$", "to_q in blocks 0-1 (2 Linears)"), ("proj_out", "")]

A role in several blocks becomes one regular expression. It is anchored at both ends, and its block
indices are spelled out, so it matches these names and no others. Any other name is its own target.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping

from sensitivity.core.pattern_cover import index_globs
from sensitivity.core.words import format_indices


def exact_targets(fqns: Iterable[str]) -> list[tuple[str, str]]:
    """(target, reason) of targets that match exactly `fqns`; a plain name has no reason."""
    return [
        _regex_of(before, after, names) if len(names) > 1 else (next(iter(names.values())), "")
        for (before, after), names in _roles(fqns).items()
    ]


def counted_targets(fqns: Iterable[str]) -> list[tuple[str, int]]:
    """(target, how many Linears it matches) of the same targets."""
    counts = map(len, _roles(fqns := list(fqns)).values())
    return [(target, count) for (target, _), count in zip(exact_targets(fqns), counts, strict=True)]


def counted_regexes(fqns: Iterable[str]) -> list[tuple[str, int]]:
    """The same as regular expressions for `re.fullmatch`."""
    return [
        (target[4:-1] if target.startswith("re:") else re.escape(target), count)
        for target, count in counted_targets(fqns)
    ]


def _roles(fqns: Iterable[str]) -> dict[tuple[str, str], dict[str, str]]:
    """{(before the first index, after it): {index: FQN}}."""
    roles: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for fqn in fqns:
        before, index, after = _split(fqn)
        roles[before, after][index] = fqn
    return roles


def _split(fqn: str) -> tuple[str, str, str]:
    """(before the first index, the index, after it); the index is "" where there is none."""
    parts = fqn.split(".")
    place = next((place for place, part in enumerate(parts) if place and part.isdigit()), None)
    if place is None:
        return fqn, "", ""
    return ".".join(parts[:place]), parts[place], ".".join(parts[place + 1 :])


def _regex_of(before: str, after: str, names: Mapping[str, str]) -> tuple[str, str]:
    """The regular expression of a role in several blocks, and its reason; `names`: {index: FQN}."""
    globs = [glob for glob, _ in index_globs(names)]
    indices = globs[0] if len(globs) == 1 else f"(?:{'|'.join(globs)})"
    ending = rf"\.{re.escape(after)}" if after else ""
    where = f"{before} {format_indices(map(int, names))}"
    return (
        rf"re:^{re.escape(before)}\.{indices}{ending}$",
        f"{after or 'all'} in {where} ({len(names)} Linears)",
    )
