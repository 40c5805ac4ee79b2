"""How much faster is one skip-list than another, if both were run in turns? `PairedRatio`.

Method. A GPU's clock drifts with its temperature and its load, and a host gets busy. Runs that were
made in the same round share much of that, so the ratio is taken round by round: the logarithm of
bf16's seconds over the list's. The ratio is the geometric mean over rounds, and its interval is
Student's t of the mean logarithm, with one degree of freedom less than there are rounds.

Conventions. Above 1 is faster than bf16. `geometric_mean(bf16) / geometric_mean(other)` is the same
ratio, so seconds that are stated as geometric means have the ratio that is stated.

    ratio = paired_ratio(bf16_s, quantized_s)      # two sequences of seconds, round by round
    ratio.value, ratio.interval90, ratio.spread

What it does not do: find rounds that went wrong. One that did widens the interval.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import stdtrit

LEVEL = 0.90
"""Of the intervals."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedRatio:
    """A ratio of seconds over rounds.

    Attributes:
        value: The geometric mean of the rounds' ratios.
        interval90: Its 5 % and 95 % bounds; None if there is one round.
        spread: The relative standard deviation of one round's ratio; 0 if there is one round.
    """

    value: float
    interval90: tuple[float, float] | None
    spread: float


def paired_ratio(bf16: Sequence[float], other: Sequence[float]) -> PairedRatio:
    """The ratio of bf16's seconds to another list's.

    Args:
        bf16, other: (rounds,) seconds, above 0; entry i of both is of round i.

    Raises:
        ValueError: They have no rounds, or not as many.
    """
    logs = [math.log(a / b) for a, b in zip(bf16, other, strict=True)]
    if not logs:
        raise ValueError("found no rounds; expected at least one: time both lists first")
    mean = statistics.fmean(logs)
    if len(logs) == 1:
        return PairedRatio(value=math.exp(mean), interval90=None, spread=0.0)
    deviation = statistics.stdev(logs)
    half = float(stdtrit(len(logs) - 1, (1 + LEVEL) / 2)) * deviation / math.sqrt(len(logs))
    return PairedRatio(
        value=math.exp(mean),
        interval90=(math.exp(mean - half), math.exp(mean + half)),
        spread=deviation,
    )


def typical_seconds(seconds: Sequence[float]) -> float:
    """The geometric mean of repetitions."""
    return statistics.geometric_mean(seconds)
