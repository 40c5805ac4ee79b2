"""The ratio of runs that were made in turns, and its interval."""

import math
import random
import statistics

import pytest

from sensitivity.latency.timing.paired import paired_ratio, typical_seconds


def test_the_interval_is_students_t_of_the_rounds() -> None:
    """Three rounds whose logarithms are m - d, m, m + d: the half width is t d / sqrt(3), with the
    tabulated t of 2 degrees of freedom.
    """
    m, d = math.log(1.5), 0.01
    bf16 = [2.0, 2.4, 2.2]
    other = [b / math.exp(m + k * d) for b, k in zip(bf16, (-1, 0, 1), strict=True)]
    ratio = paired_ratio(bf16, other)
    half = 2.919986 * d / math.sqrt(3)
    assert ratio.value == pytest.approx(1.5)
    assert ratio.spread == pytest.approx(d)
    assert ratio.interval90 == pytest.approx((1.5 * math.exp(-half), 1.5 * math.exp(half)))
    assert typical_seconds(bf16) / typical_seconds(other) == pytest.approx(ratio.value)


def test_what_drifts_alike_is_no_spread() -> None:
    """A clock that slows both lists down by half has no part in the ratio."""
    drift = [1.0, 1.1, 1.3, 1.5]
    ratio = paired_ratio([3.0 * x for x in drift], [2.0 * x for x in drift])
    assert ratio.value == pytest.approx(1.5)
    assert ratio.spread == pytest.approx(0, abs=1e-12)


def test_one_round_has_no_interval() -> None:
    """One round gives a ratio alone; none gives nothing."""
    alone = paired_ratio([3.0], [2.0])
    assert (alone.value, alone.interval90) == (pytest.approx(1.5), None)
    with pytest.raises(ValueError, match="no rounds"):
        paired_ratio([], [])


def test_the_interval_holds_nine_times_of_ten() -> None:
    """Of simulated lists with a known ratio, five rounds each, 90 % hold it."""
    draw = random.Random(1)
    held = []
    for _ in range(2000):
        pairs = [(1.2 * math.exp(draw.gauss(0, 0.02)), 1.0) for _ in range(5)]
        low, high = paired_ratio(*zip(*pairs, strict=True)).interval90 or (0.0, 0.0)
        held.append(low <= 1.2 <= high)
    assert statistics.fmean(held) == pytest.approx(0.9, abs=0.02)
