"""How large is the damage of a typical prompt, how sure is that, and what is the ratio of two?

    typical(score.damages, floor)                       # 0.0088
    typical_interval(score.damages, floor)              # (0.0059, 0.0131)
    ratio(mine.damages, by_hand.damages, floor)         # Ratio(value=0.49, low=0.36, high=0.67)

LPIPS over prompts is skewed. Most pictures change little, some prompts change much with every
skip-list, and now and then a picture becomes another one. An arithmetic mean is ruled by those few.
So skip-lists are ranked by their **typical** damage, the geometric mean over prompts.

The model is a two-way table of logarithms: log damage = skip-list + prompt + rest. What a prompt
adds is common to all skip-lists. So it makes the typical damage of one skip-list uncertain, and
cancels in the ratio of two, which is computed prompt by prompt.

Near 0. A damage at the noise floor is rounding, and 0 has no logarithm. So logarithms are those of
damage + floor, and the geometric mean is shifted back, exp(mean log(damage + floor)) - floor: the
shifted geometric mean of comparisons of solvers (Achterberg 2007, "Constraint Integer Programming",
appendix A). Far above the floor it is the geometric mean, and where all damages are 0 it is exactly
0. A floor that is lower than `LEAST`, or was not measured, counts as `LEAST`.

Intervals are Student's t of the logarithms, 95 %. They are those of one skip-list. For the one that
looked best among some they are hardly worse: what the skip-lists differ by on the prompts at hand
is a small part of the uncertainty, the prompts themselves are most of it, and they are the same for
all (`benchmarks/interval_coverage.py` measures both cases on real scores). Values without spread
have an interval of no width.

This module computes with numbers only; `alike` says which skip-lists are alike.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

LEVEL = 0.95
LEAST = 1e-6
"""The least floor: LPIPS below it is the rounding of float32 in the net."""

Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Ratio:
    """One typical damage as a multiple of another, with its 95 % interval.

    It is 0 where the first is bf16 itself, infinite where the second is, and 1 where both are.
    """

    value: float
    low: float
    high: float


def log_damages(values: ArrayLike, floor: float | None) -> NDArray[np.float64]:
    """(N,) log(damage + floor) of each prompt.

    Args:
        values: (N,) damages, at least 0.
        floor: the noise floor of damage; None: not measured.
    """
    return np.log(np.asarray(values, dtype=np.float64) + max(floor or 0.0, LEAST))


def damage_of_log(log: float, floor: float | None) -> float:
    """The damage of which this is the logarithm; the inverse of `log_damages`, at least 0."""
    return max(math.exp(log) - max(floor or 0.0, LEAST), 0.0)


def typical(values: ArrayLike, floor: float | None) -> float:
    """The geometric mean of damages (see the module); 0 where all are 0.

    Args:
        values: (N,) damages, at least 0.
        floor: as in `log_damages`.
    """
    if not np.any(values):
        return 0.0
    return damage_of_log(float(log_damages(values, floor).mean()), floor)


def typical_interval(values: ArrayLike, floor: float | None) -> Interval:
    """95 % interval of `typical`, which also holds for the skip-list that looked best.

    With one prompt, or damages that are all equal, it is `typical` itself.

    Args:
        values, floor: as in `typical`.
    """
    if not np.any(values):
        return 0.0, 0.0
    low, high = student_interval(log_damages(values, floor))
    return damage_of_log(low, floor), damage_of_log(high, floor)


def ratio(first: ArrayLike, second: ArrayLike, floor: float | None) -> Ratio:
    """The typical damage of the first as a multiple of the second's, prompt by prompt.

    Args:
        first, second: (N,) damages of the same prompts, at least 0.
        floor: as in `log_damages`.
    """
    if not np.any(first) or not np.any(second):
        known = 1.0 if not np.any(first) and not np.any(second) else 0.0
        known = math.inf if np.any(first) else known
        return Ratio(value=known, low=known, high=known)
    logs = log_damages(first, floor) - log_damages(second, floor)
    low, high = student_interval(logs)
    return Ratio(value=math.exp(logs.mean()), low=math.exp(low), high=math.exp(high))


def student_interval(values: NDArray[np.float64]) -> Interval:
    """Student's t interval of the mean of (N,) values, `LEVEL`."""
    mean, half = float(values.mean()), student_half_width(values)
    return mean - half, mean + half


def student_half_width(values: NDArray[np.float64]) -> float:
    """Half the width of Student's t interval of the mean of (N,) values; 0 without spread."""
    n = len(values)
    error = float(values.std(ddof=1)) / math.sqrt(n) if n > 1 else 0.0
    if error <= 1e-12 * max(abs(float(values.mean())), 1.0):
        return 0.0
    return student_quantile(n) * error


def student_quantile(n: int) -> float:
    """How many standard errors Student's t interval of a mean of n values, 2 or more, has on each
    side.
    """
    return float(stats.t.ppf((1 + LEVEL) / 2, n - 1))
