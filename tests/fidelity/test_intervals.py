"""Intervals and paired comparisons agree with closed forms, and hold as often as they say."""

import numpy as np
import pytest
from scipy import stats

from sensitivity.fidelity.intervals import (
    AT_ONCE,
    difference_interval,
    is_distinguishable,
    letters_of_alike,
    mean_interval,
)


def test_a_mean_has_students_interval_of_its_logarithm() -> None:
    """1, 2, 3, 4, 5: mean 3, standard error sqrt(2.5 / 5), t of 4 degrees of freedom at 1 - 0.025 /
    6 is 4.851: 3 / f and 3 f with f = exp(4.851 x 0.7071 / 3).
    """
    factor = np.exp(4.851 * np.sqrt(0.5) / 3)
    assert AT_ONCE == 6
    assert mean_interval([1, 2, 3, 4, 5]) == pytest.approx((3 / factor, 3 * factor), rel=1e-3)


def test_values_without_spread_are_known() -> None:
    """Equal values, zeros and a single prompt have an interval of no width."""
    assert mean_interval([0.0] * 9) == (0.0, 0.0)
    assert mean_interval([0.3]) == (0.3, 0.3)
    assert mean_interval([0.25] * 3) == (0.25, 0.25)
    assert difference_interval([0.5, 0.75], [0.25, 0.5]) == (0.25, 0.25)


def test_a_difference_has_students_interval() -> None:
    """Differences 1, 2, 3: mean 2, standard error 1 / sqrt(3), t of 2 degrees of freedom 4.303; the
    other way round it is mirrored.
    """
    half = 4.303 / np.sqrt(3)
    found = difference_interval([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    assert found == pytest.approx((2 - half, 2 + half), rel=1e-3)
    assert difference_interval([1.0, 2.0, 3.0], [2.0, 4.0, 6.0]) == pytest.approx(
        (-2 - half, -2 + half), rel=1e-3
    )


def test_the_interval_of_a_difference_says_what_the_test_says() -> None:
    """For 200 pairs of skewed values, two are distinguishable where 0 lies outside."""
    rng = np.random.default_rng(3)
    for a, b in rng.lognormal(0, 0.5, size=(200, 2, 8)):
        low, high = difference_interval(a, b)
        t = stats.ttest_rel(a, b)
        assert (t.pvalue < 0.05) == (low > 0 or high < 0) == is_distinguishable(a, b)


def test_nothing_is_like_bf16_but_what_is_at_the_noise_floor() -> None:
    """bf16 is 0 from itself on every prompt, and that is known: one prompt of damage is a
    difference from it, on either side, unless the mean is at most the noise floor.
    """
    flip, bf16 = [0.01, 0.012, 0.02, 0.015, 0.2], [0.0] * 5
    assert stats.ttest_rel(flip, bf16).pvalue > 0.05
    assert letters_of_alike([flip, bf16]) == letters_of_alike([bf16, flip]) == ["", ""]
    assert is_distinguishable([0.0, 0.0, 0.0, 0.0, 1e-6], bf16)
    assert difference_interval(flip, bf16) == mean_interval(flip)
    low, high = mean_interval(flip)
    assert difference_interval(bf16, flip) == (-high, -low)
    assert letters_of_alike([[3e-5, 5e-5, 4e-5], [0.0] * 3], noise_floor=4.1e-5) == ["a", "a"]
    assert letters_of_alike([[3e-5, 5e-5, 5e-5], [0.0] * 3], noise_floor=4.1e-5) == ["", ""]
    assert letters_of_alike([flip, [2 * x for x in flip], bf16]) == ["a", "a", ""]
    assert letters_of_alike([bf16, bf16]) == ["a", "a"]


def test_differences_below_the_noise_floor_are_not_claimed() -> None:
    """A difference that is the same on every prompt counts only above the noise floor."""
    first, second = np.array([0.2, 0.3, 0.4]), np.array([0.2, 0.3, 0.4]) + 1e-5
    assert is_distinguishable(first, second)
    assert not is_distinguishable(first, second, noise_floor=2e-5)


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
    assert not is_distinguishable([2.0, 3.0, 4.0], [1.0, 1.0, 1.0])
    assert is_distinguishable([3.0, 3.5, 4.0], [1.0, 1.0, 1.0])


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
