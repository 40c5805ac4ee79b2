"""Skip-lists are told apart prompt by prompt, by the ratio of their typical damages."""

import numpy as np
from scipy import stats

from sensitivity.fidelity.alike import is_distinguishable, letters_of_alike


def test_skip_lists_are_told_apart_by_the_paired_t_test_of_logarithms() -> None:
    """For 200 pairs of skewed damages, far above the floor."""
    rng = np.random.default_rng(3)
    for a, b in rng.lognormal(0, 0.5, size=(200, 2, 8)):
        expected = stats.ttest_rel(np.log(a), np.log(b)).pvalue < 0.05
        assert is_distinguishable(a, b) == is_distinguishable(b, a) == expected


def test_nothing_is_like_bf16_but_what_is_at_the_noise_floor() -> None:
    """bf16 has 0 on every prompt, and that is known: anything else is told apart from it, on either
    side, unless its typical damage is at most the noise floor.
    """
    flip, bf16 = [0.01, 0.012, 0.02, 0.015, 0.2], [0.0] * 5
    assert letters_of_alike([flip, bf16]) == letters_of_alike([bf16, flip]) == ["", ""]
    assert is_distinguishable([0.0, 0.0, 0.0, 0.0, 1e-6], bf16)
    assert letters_of_alike([[4e-5, 4e-5, 4e-5], [0.0] * 3], noise_floor=4.1e-5) == ["a", "a"]
    assert letters_of_alike([[5e-5, 5e-5, 5e-5], [0.0] * 3], noise_floor=4.1e-5) == ["", ""]
    assert letters_of_alike([bf16, bf16]) == ["a", "a"]


def test_differences_below_the_noise_floor_are_not_claimed() -> None:
    """A ratio that is the same on every prompt counts only where the difference is above the noise
    floor, or the share that roundings change.
    """
    first = np.array([0.2, 0.3, 0.4])
    second = first * 1.001
    assert is_distinguishable(first, second)
    assert not is_distinguishable(first, second, noise_floor=1e-3)
    assert not is_distinguishable(first, second, rounding=0.002)


def test_pairs_are_compared_prompt_by_prompt() -> None:
    """Two skip-lists that differ by far less than prompts do are told apart if the difference is on
    every prompt; shuffled prompts hide it.
    """
    first = np.array([0.01, 0.05, 0.1, 0.2, 0.02, 0.08, 0.3, 0.15, 0.04, 0.06])
    second = first * np.array([1, 1.2, 1.1, 1.1, 1.05, 1, 1.3, 0.95, 1, 1.1])
    assert is_distinguishable(first, second)
    assert not is_distinguishable(first, np.roll(second, 3))
    assert not is_distinguishable(first, first)


def test_one_prompt_counts_as_it_is() -> None:
    """Without spread a difference is a difference."""
    assert not is_distinguishable([0.2], [0.2])
    assert is_distinguishable([0.2], [0.3])


def test_a_flip_does_not_hide_what_all_other_prompts_say() -> None:
    """With half the damage on every prompt but one that flips under both, two skip-lists are told
    apart; their means are not.
    """
    first = np.array([0.01, 0.05, 0.1, 0.2, 0.02, 0.08, 0.3, 0.15, 0.04, 0.06, 0.4])
    second = first * np.array([*[0.5] * 10, 1.9])
    assert stats.ttest_rel(first, second).pvalue > 0.05
    assert is_distinguishable(first, second)


def test_equal_skip_lists_are_told_apart_in_one_case_of_twenty() -> None:
    """Ten prompts of skewed damages that are equal but for chance: at most 8 % of 300 pairs are
    told apart, and with a doubling most are.
    """
    rng = np.random.default_rng(2)
    pairs = rng.lognormal(0, 0.5, size=(300, 1, 10)) * rng.lognormal(0, 0.4, size=(300, 2, 10))
    assert np.mean([is_distinguishable(a, b) for a, b in pairs]) < 0.08
    assert np.mean([is_distinguishable(a, 2 * b) for a, b in pairs]) > 0.8


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
