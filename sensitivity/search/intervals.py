"""How sure is a mean over prompts, and which of two skip-lists is better?

Intervals of means, several at once, and paired comparisons.

Means. LPIPS over prompts is skewed: most prompts change little, a few a lot. A percentile bootstrap
of 24 such prompts holds the true mean in 87 to 92 of 100 cases instead of 95. So the interval is
Student's t of the mean's logarithm, whose standard error is the mean's relative one: mean * exp(+-
t * error / mean). Where several skip-lists are compared on the same prompts and one is named for
what it scored there, its interval must hold whichever is named: t is then the quantile of the
largest of all their t values, which is simulated from a multivariate t with the correlation that
they have over prompts (single-step simultaneous intervals, Hothorn, Bretz and Westfall 2008; naming
one of them costs no coverage then: Berk et al. 2013, "Valid post-selection inference"). Skip-lists
react to the same prompts alike, so this widens less than Bonferroni would. Simulated coverage:
`simulate_coverage` in tests/test_naming.py. Real LPIPS has longer tails than simulated ones: now
and then a prompt flips to another picture, and a skip-list whose prompts happen to hold no flip
looks both better and surer than it is. So of skip-lists that are compared the largest relative
error is taken for all. Measured on 6,082 real skip-lists of three models with 96 prompts each, six
alike ones compared on 24 prompts: the mean of the other 72 (their own noise allowed for) lies in
the interval of a given one in 98, 98 and 95 of 100 cases, of the one that scored least in 94, 93
and 88; with each one's own error it was 91, 94, 85 and 76, 82, 65.

Differences. Two skip-lists are compared prompt by prompt, by the paired t test: differences of
skewed values are nearly symmetric, and simulated with 10 to 34 prompts it calls equal ones
different in 4 of 100 cases, where a bootstrap of the studentized difference does so in 7 to 8
(nominal: 5).

    low, high = simultaneous_intervals([[0.1, 0.2, ...], [0.2, 0.2, ...]])[0]
    is_distinguishable(a.per_prompt, b.per_prompt)

It looks at numbers only: which skip-lists are compared, and what follows, is decided in `naming`.
"""

from collections.abc import Sequence
from functools import cache
from string import ascii_letters

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

DRAWS = 20_000
LEVEL = 0.95

Array = NDArray[np.float64]
Interval = tuple[float, float]


def simultaneous_intervals(values: ArrayLike) -> list[Interval]:
    """95 % intervals of several means that hold all at once; for one row it is the plain interval,
    for one prompt the value itself.

    Args:
        values: (K, N), all at least 0: a row for each mean, a column for each prompt, the same in
            every row.
    """
    rows = np.atleast_2d(np.asarray(values, dtype=np.float64))  # (K, N)
    n = rows.shape[1]
    means = rows.mean(axis=1)
    errors = rows.std(axis=1, ddof=1) / np.sqrt(n) if n > 1 else np.zeros(len(rows))
    spread = np.flatnonzero(
        errors > 1e-12 * means
    )  # a row without spread, as bf16's zeros, is known
    factors = np.ones(len(rows))
    if len(spread):
        factors[spread] = np.exp(critical_t(rows[spread]) * (errors[spread] / means[spread]).max())
    return [
        (float(mean / factor), float(mean * factor))
        for mean, factor in zip(means, factors, strict=True)
    ]


def critical_t(rows: Array) -> float:
    """The value that the largest |t| of K means over the same N prompts stays below in 95 % of
    cases; rows: (K, N), each with spread.
    """
    count, n = rows.shape
    alone = float(stats.t.ppf((1 + LEVEL) / 2, n - 1))
    if count == 1:
        return alone
    correlation = np.corrcoef(rows) + 1e-9 * np.eye(count)
    values, vectors = np.linalg.eigh(correlation)
    rng = np.random.default_rng(0)
    normal = (
        rng.standard_normal((DRAWS, count)) @ (vectors * np.sqrt(np.maximum(values, 0))).T
    )  # (DRAWS, K)
    t = normal / np.sqrt(rng.chisquare(n - 1, DRAWS) / (n - 1))[:, None]
    bonferroni = float(stats.t.ppf(1 - (1 - LEVEL) / 2 / count, n - 1))
    return float(
        np.clip(np.quantile(np.abs(t).max(axis=1), LEVEL), alone, bonferroni)
    )  # between these it lies, and so shall the draws


def is_distinguishable(first: ArrayLike, second: ArrayLike) -> bool:
    """Whether the mean of one is other than that of the other, prompt by prompt: the 95 % interval
    of the mean difference leaves out 0.
    """
    difference = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)  # (N,)
    n, mean = len(difference), float(difference.mean())
    error = float(difference.std(ddof=1)) / np.sqrt(n) if n > 1 else 0.0
    if error <= 1e-12 * abs(mean):
        return mean != 0
    return abs(mean) > float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * error


def letters_of_alike(rows: Sequence[Sequence[float]]) -> list[str]:
    """A text of letters for each row: no two rows that share a letter are distinguishable (a
    compact letter display, Piepho 2004).

    Args:
        rows: values over the same prompts, in an order such that alike rows are neighbours (a
            front's). Only runs of neighbours share letters.
    """
    count = len(rows)
    apart = cache(lambda i, j: is_distinguishable(rows[i], rows[j]))
    ends, reach = [], 0
    for i in range(
        count
    ):  # the run from i on: its last row is the last before one that differs from a row of the run
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
