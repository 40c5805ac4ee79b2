"""Which skip-lists are alike, and which are told apart?

    is_distinguishable(a.damages, b.damages, noise_floor=4e-5)
    letters_of_alike([member.damages for member in front])        # ["a", "ab", "b", ""]

Two skip-lists are compared prompt by prompt, by the ratio of their typical damages (`typical`).
They are told apart where the 95 % interval of the ratio does not contain 1: the paired t test of
the logarithms. Prompts change much or little with every skip-list alike, so ratios vary far less
from prompt to prompt than damages do, and their logarithms are nearly symmetric.

bf16 itself has damage 0 on every prompt. That is known and no estimate, so any other skip-list is
told apart from it whose typical damage is above the noise floor.

This module computes with numbers only; `search.shortlist` and `search.winner` decide what is
compared.
"""

from collections.abc import Sequence
from functools import cache
from string import ascii_letters

from numpy.typing import ArrayLike

from sensitivity.fidelity.typical import ratio, typical


def is_distinguishable(
    first: ArrayLike, second: ArrayLike, *, noise_floor: float = 0.0, rounding: float = 0.0
) -> bool:
    """Whether two typical damages differ: by more than both floors, and the interval of their
    ratio does not contain 1.

    Args:
        first, second: (N,) damages of the same prompts, at least 0.
        noise_floor: the noise floor of damage; smaller differences mean nothing.
        rounding: the share of the smaller damage by which the roundings of another runtime change
            it (`search.native_rounding`); smaller differences may turn round there.
    """
    low, high = sorted(typical(values, noise_floor) for values in (first, second))
    if high - low <= max(noise_floor, rounding * low):
        return False
    found = ratio(first, second, noise_floor)
    return found.low > 1 or found.high < 1


def letters_of_alike(
    rows: Sequence[Sequence[float]], *, noise_floor: float = 0.0, rounding: float = 0.0
) -> list[str]:
    """Letters for each row, such that no two rows that share a letter are distinguishable.

    Source: the compact letter display of Piepho 2004, "An algorithm for a letter-based
    representation of all-pairwise comparisons". Only runs of neighbouring rows share letters.

    Args:
        rows: damages over the same prompts, similar rows next to each other, as on a front.
        noise_floor, rounding: as in `is_distinguishable`.
    """
    count = len(rows)
    apart = cache(
        lambda i, j: is_distinguishable(
            rows[i], rows[j], noise_floor=noise_floor, rounding=rounding
        )
    )
    ends, reach = [], 0
    for i in range(count):  # the run from i on ends before a row that differs from one of it
        j = max(i, reach)
        while j + 1 < count and not any(apart(k, j + 1) for k in range(i, j + 1)):
            j += 1
        ends.append(j)
        reach = j
    runs = [(i, j) for i, j in enumerate(ends) if j > i and (i == 0 or ends[i - 1] < j)]
    return [
        "".join(
            ascii_letters[run % len(ascii_letters)]
            for run, (i, j) in enumerate(runs)
            if i <= at <= j
        )
        for at in range(count)
    ]
