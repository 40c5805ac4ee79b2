"""Intervals and paired comparisons agree with closed forms, and hold as often as they say."""

import numpy as np
import pytest
from scipy import stats

from sensitivity.search.intervals import (
    critical_t,
    is_distinguishable,
    letters_of_alike,
    simultaneous_intervals,
)


def test_one_mean_has_students_interval_of_its_logarithm() -> None:
    """1, 2, 3, 4, 5: mean 3, standard error sqrt(2.5 / 5), t of 4 degrees of freedom 2.776: 3 / f
    and 3 f with f = exp(2.776 x 0.7071 / 3).
    """
    factor = np.exp(stats.t.ppf(0.975, 4) * np.sqrt(0.5) / 3)
    assert simultaneous_intervals([[1, 2, 3, 4, 5]])[0] == pytest.approx((3 / factor, 3 * factor))


def test_values_without_spread_are_known() -> None:
    """Equal values, zeros and a single prompt have an interval of no width, beside rows that have
    one.
    """
    assert simultaneous_intervals([[0.0] * 9, [0.2] * 9])[0] == (0.0, 0.0)
    assert simultaneous_intervals([[0.3]]) == [(0.3, 0.3)]
    rows = [[0.0, 0.0, 0.0], [1.0, 2.0, 3.0]]
    assert simultaneous_intervals(rows) == [(0.0, 0.0), simultaneous_intervals(rows[1:])[0]]


def test_independent_means_are_widened_to_the_exact_joint_quantile() -> None:
    """Of many rows' largest |t|, with many prompts: 2 and 6 independent normal means need 2.236 and
    2.631 instead of 1.960 (two-sided, Sidak).
    """
    orthogonal = (
        np.tile(np.array([[1, 1, -1, -1], [1, -1, 1, -1]]), (3, 500)).reshape(3, 2, 2000)[0] + 5.0
    )
    assert critical_t(orthogonal) == pytest.approx(stats.norm.ppf((1 + 0.95**0.5) / 2), abs=0.03)
    six = np.linalg.qr(np.random.default_rng(0).normal(size=(2000, 7)))[0].T
    six = six[1:] - six[1:].mean(axis=1, keepdims=True) + 5.0
    assert critical_t(six) == pytest.approx(stats.norm.ppf((1 + 0.95 ** (1 / 6)) / 2), abs=0.03)


def test_rows_that_move_together_are_not_widened() -> None:
    """Rows in proportion are one comparison: the critical value is Student's own."""
    row = np.random.default_rng(1).lognormal(size=24)
    assert critical_t(np.stack([row, 2 * row, 3 * row])) == pytest.approx(
        stats.t.ppf(0.975, 23), rel=0.02
    )


def test_pairs_are_compared_prompt_by_prompt() -> None:
    """Two skip-lists that differ by far less than prompts do are distinguishable if the difference
    is on every prompt; shuffled prompts hide it.
    """
    first = np.array([0.01, 0.05, 0.1, 0.2, 0.02, 0.08, 0.3, 0.15, 0.04, 0.06])
    second = first + np.array([1, 1.2, 0.8, 1.1, 0.9, 1, 1.3, 0.7, 1, 1.05]) * 0.005
    assert is_distinguishable(first, second)
    assert is_distinguishable(second, first)
    assert not is_distinguishable(first, np.roll(second, 3))
    assert not is_distinguishable(first, first)


def test_a_constant_difference_is_a_difference() -> None:
    """A difference without spread is significant, zero is not; one prompt counts as it is."""
    assert is_distinguishable([0.5, 0.75, 1.0], [0.25, 0.5, 0.75])
    assert not is_distinguishable([0.2], [0.2])
    assert is_distinguishable([0.2], [0.3])


def test_pairs_are_compared_by_students_t() -> None:
    """Differences 1, 2, 3 have a t of 3.46, below 4.30 for 2 degrees of freedom; 2, 2.5, 3 have
    8.66, which is significant.
    """
    assert not is_distinguishable([1.0, 2.0, 3.0], [0.0, 0.0, 0.0])
    assert is_distinguishable([2.0, 2.5, 3.0], [0.0, 0.0, 0.0])


def test_equal_skip_lists_are_distinguishable_in_one_case_of_twenty() -> None:
    """Ten prompts of skewed values with equal means: at most 8 % of 300 pairs are distinguishable,
    and with a doubling most are.
    """
    rng = np.random.default_rng(2)
    pairs = rng.lognormal(0, 0.5, size=(300, 1, 10)) * rng.lognormal(0, 0.4, size=(300, 2, 10))
    assert np.mean([is_distinguishable(a, b) for a, b in pairs]) < 0.08
    assert np.mean([is_distinguishable(a, 2 * b) for a, b in pairs]) > 0.7


def test_letters_are_shared_by_those_that_are_not_distinguishable() -> None:
    """A and B are alike, B and C too, A and C not, D like none: A has a, B has a and b, C has b, D
    has none.
    """
    tilt = 0.02 * np.array([1, -1, 2, -2, 3, -3, 1.5, -1.5, 0.5, -0.5])
    base = np.full(10, 1.0)
    rows = [base + 0.05 + tilt, base + 0.025 - tilt, base + 0.0 + tilt, base - 0.9]
    assert not is_distinguishable(rows[0], rows[1])
    assert not is_distinguishable(rows[1], rows[2])
    assert is_distinguishable(rows[0], rows[2])
    assert letters_of_alike(rows) == ["a", "ab", "b", ""]
    assert letters_of_alike([]) == []
    assert letters_of_alike([base, base, base]) == ["a", "a", "a"]
