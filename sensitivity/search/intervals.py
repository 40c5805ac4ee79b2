"""How certain is a mean over prompts, and which of two skip-lists is better?

`simultaneous_intervals` of several means, and `is_distinguishable` for pairs.

Means. LPIPS over prompts is skewed: most prompts change little, a few a lot. A percentile bootstrap
of 24 such prompts holds the true mean in 87 to 92 of 100 cases instead of 95. So the interval is
Student's t of the mean's logarithm, whose standard error is the relative standard error of the
mean: mean * exp(+- t * error / mean).

Several means. Where skip-lists are compared on the same prompts and one is chosen for its score
there, its interval must hold whichever is chosen. So t is the quantile of the largest of all their
|t|, simulated from a multivariate t with their correlation over prompts (single-step simultaneous
intervals, Hothorn, Bretz and Westfall 2008, "Simultaneous inference in general parametric models").
The choice then costs no coverage (Berk et al. 2013, "Valid post-selection inference"). Scores of
skip-lists are correlated over prompts, so this widens less than Bonferroni would.
`simulate_coverage` in tests/search/test_winner.py simulates the coverage.

Real LPIPS has longer tails than simulated LPIPS. Now and then a prompt flips to another picture,
and a skip-list without a flip among its prompts looks both better and more certain than it is. So
the largest relative error of all compared skip-lists is taken for each. Measured on 6,082 real
skip-lists of three models with 96 prompts each, six similar ones compared on 24 prompts: the mean
of the other 72 (their own noise allowed for) lies in the interval of a given skip-list in 98, 98
and 95 of 100 cases, of the one with the least score in 94, 93 and 88. With each skip-list's own
error it was 91, 94 and 85, and 76, 82 and 65.

Differences. Two skip-lists are compared prompt by prompt with the paired t test. Differences of
skewed values are nearly symmetric. Simulated with 10 to 34 prompts, the test calls equal skip-lists
different in 4 of 100 cases (nominal: 5); a bootstrap of the studentized difference does so in 7
to 8.

    low, high = simultaneous_intervals([[0.1, 0.2, ...], [0.2, 0.2, ...]])[0]
    is_distinguishable(a.per_prompt, b.per_prompt)

This module computes with numbers only; `search.shortlist` and `search.winner` decide what is
compared.
"""

from collections.abc import Sequence
from functools import cache
from string import ascii_letters

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

SAMPLES = 20_000
"""Samples of the multivariate t."""
LEVEL = 0.95

Array = NDArray[np.float64]
Interval = tuple[float, float]


def simultaneous_intervals(values: ArrayLike) -> list[Interval]:
    """95 % intervals of K means that hold all at once.

    With one row it is the plain interval; with one prompt it is the value itself.

    Args:
        values: (K, N), at least 0: a row for each mean, a column for each prompt.

    Returns:
        K pairs (low, high).
    """
    rows = np.atleast_2d(np.asarray(values, dtype=np.float64))  # (K, N)
    n = rows.shape[1]
    means = rows.mean(axis=1)
    errors = rows.std(axis=1, ddof=1) / np.sqrt(n) if n > 1 else np.zeros(len(rows))
    spread = np.flatnonzero(errors > 1e-12 * means)  # without spread, as bf16's zeros: exact
    factors = np.ones(len(rows))
    if len(spread):
        factors[spread] = np.exp(critical_t(rows[spread]) * (errors[spread] / means[spread]).max())
    return [
        (float(mean / factor), float(mean * factor))
        for mean, factor in zip(means, factors, strict=True)
    ]


def critical_t(rows: Array) -> float:
    """The 95 % quantile of the largest |t| of K means over the same N prompts.

    Args:
        rows: (K, N), none of them constant.
    """
    count, n = rows.shape
    alone = float(stats.t.ppf((1 + LEVEL) / 2, n - 1))
    if count == 1:
        return alone
    correlation = np.corrcoef(rows) + 1e-9 * np.eye(count)
    values, vectors = np.linalg.eigh(correlation)
    rng = np.random.default_rng(0)
    root = vectors * np.sqrt(np.maximum(values, 0))  # (K, K)
    normal = rng.standard_normal((SAMPLES, count)) @ root.T  # (SAMPLES, K)
    t = normal / np.sqrt(rng.chisquare(n - 1, SAMPLES) / (n - 1))[:, None]
    bonferroni = float(stats.t.ppf(1 - (1 - LEVEL) / 2 / count, n - 1))
    # The exact quantile lies between that of one mean and Bonferroni's; sampling error may not.
    return float(np.clip(np.quantile(np.abs(t).max(axis=1), LEVEL), alone, bonferroni))


def is_distinguishable(first: ArrayLike, second: ArrayLike) -> bool:
    """Whether two means differ by a paired t test: the 95 % interval of the mean difference does
    not contain 0.

    Args:
        first, second: (N,) values of the same prompts.
    """
    difference = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)  # (N,)
    n, mean = len(difference), float(difference.mean())
    error = float(difference.std(ddof=1)) / np.sqrt(n) if n > 1 else 0.0
    if error <= 1e-12 * abs(mean):
        return mean != 0
    return abs(mean) > float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * error


def letters_of_alike(rows: Sequence[Sequence[float]]) -> list[str]:
    """Letters for each row, such that no two rows that share a letter are distinguishable.

    Source: the compact letter display of Piepho 2004, "An algorithm for a letter-based
    representation of all-pairwise comparisons". Only runs of neighbouring rows share letters.

    Args:
        rows: values over the same prompts, similar rows next to each other, as on a front.
    """
    count = len(rows)
    apart = cache(lambda i, j: is_distinguishable(rows[i], rows[j]))
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
