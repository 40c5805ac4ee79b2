"""How certain is a mean over prompts, and which of two skip-lists is better?

    low, high = mean_interval(score.per_prompt)
    low, high = difference_interval(b.per_prompt, a.per_prompt)       # of B's mean minus A's
    is_distinguishable(a.per_prompt, b.per_prompt, noise_floor=4e-5)

Every interval that the program states is one of these two, and each follows from the values of its
own skip-lists alone. So a skip-list has one interval, whatever else was scored beside it, and
anyone can compute it again from the `per_prompt` of a recipe.

Means. LPIPS over prompts is skewed: most prompts change little, a few a lot. A percentile bootstrap
of 24 such prompts holds the true mean in 87 to 92 of 100 cases instead of 95. So the interval is
Student's t of the mean's logarithm, whose standard error is the relative standard error of the
mean: mean * exp(+- t * error / mean). A skip-list is stated because it looked best among some, and
the best of some is partly luck. So t is that of `AT_ONCE` skip-lists: their intervals hold all at
once (Bonferroni 1936), and so for the one that was chosen (Berk et al. 2013, "Valid post-selection
inference"). `simulate_coverage` in tests/search/test_winner.py simulates the coverage.

Real LPIPS has longer tails than simulated LPIPS. Now and then a prompt flips to another picture,
and a skip-list without a flip among its prompts looks both better and more certain than it is. No
interval of its own values can know that: on 6,082 real skip-lists of three models (24 prompts, the
mean of 72 others to check) intervals of own values, with a slightly smaller t, held in 91, 94 and
85 of 100 cases, for the best of six alike in 76, 82 and 65.

Differences. Two skip-lists are compared prompt by prompt with the paired t test, and the interval
of the difference is that of the test. Differences of skewed values are nearly symmetric. Simulated
with 10 to 34 prompts, the test calls equal skip-lists different in 4 of 100 cases (nominal: 5); a
bootstrap of the studentized difference does so in 7 to 8.

Zeros. A skip-list that gives 0 on every prompt is bf16, or gives its pictures bit for bit. Its
distance is known and no estimate, so the interval of a difference from it is that of the other
mean, and another one is not like it if its mean is above the noise floor.

This module computes with numbers only; `search.shortlist` and `search.winner` decide what is
compared.
"""

from collections.abc import Sequence
from functools import cache
from string import ascii_letters

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

LEVEL = 0.95
AT_ONCE = 6
"""Skip-lists whose intervals of a mean hold all at once: as many as a search compares."""

Interval = tuple[float, float]


def mean_interval(values: ArrayLike) -> Interval:
    """95 % interval of a mean (see the module).

    With one prompt, or values that are all equal, it is the mean itself.

    Args:
        values: (N,) one for each prompt, at least 0.
    """
    array = np.asarray(values, dtype=np.float64)  # (N,)
    n, mean = len(array), float(array.mean())
    error = float(array.std(ddof=1)) / np.sqrt(n) if n > 1 else 0.0
    if error <= 1e-12 * mean:
        return mean, mean
    t = float(stats.t.ppf(1 - (1 - LEVEL) / 2 / AT_ONCE, n - 1))
    factor = float(np.exp(t * error / mean))
    return mean / factor, mean * factor


def difference_interval(first: ArrayLike, second: ArrayLike) -> Interval:
    """95 % interval of the mean of `first - second`, by Student's t.

    With one prompt, or differences that are all equal, it is the mean difference itself. Where one
    of the two is 0 on every prompt, it is the `mean_interval` of the other.

    Args:
        first, second: (N,) values of the same prompts, at least 0.
    """
    if not np.any(second):
        return mean_interval(first)
    if not np.any(first):
        low, high = mean_interval(second)
        return -high, -low
    difference = _differences(first, second)
    n, mean = len(difference), float(difference.mean())
    error = float(difference.std(ddof=1)) / np.sqrt(n) if n > 1 else 0.0
    if error <= 1e-12 * abs(mean):
        return mean, mean
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * error
    return mean - half, mean + half


def is_distinguishable(
    first: ArrayLike, second: ArrayLike, *, noise_floor: float = 0.0, rounding: float = 0.0
) -> bool:
    """Whether two means differ: by more than both floors, and `difference_interval` does not
    contain 0.

    Args:
        first, second: (N,) values of the same prompts, at least 0.
        noise_floor: the mean distance of bf16 from itself; smaller differences mean nothing.
        rounding: the share of the smaller mean by which the roundings of another runtime change a
            mean (`search.native_rounding`); smaller differences may turn round there.
    """
    smaller = min(float(np.asarray(each, dtype=np.float64).mean()) for each in (first, second))
    if abs(float(_differences(first, second).mean())) <= max(noise_floor, rounding * smaller):
        return False
    low, high = difference_interval(first, second)
    return low > 0 or high < 0


def _differences(first: ArrayLike, second: ArrayLike) -> NDArray[np.float64]:
    """(N,) first - second."""
    return np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)


def letters_of_alike(
    rows: Sequence[Sequence[float]], *, noise_floor: float = 0.0, rounding: float = 0.0
) -> list[str]:
    """Letters for each row, such that no two rows that share a letter are distinguishable.

    Source: the compact letter display of Piepho 2004, "An algorithm for a letter-based
    representation of all-pairwise comparisons". Only runs of neighbouring rows share letters.

    Args:
        rows: values over the same prompts, similar rows next to each other, as on a front.
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
