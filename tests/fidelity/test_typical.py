"""Typical damages are shifted geometric means, with Student's interval of the logarithms."""

import math

import numpy as np
import pytest
from scipy import stats

from sensitivity.fidelity.typical import (
    LEAST,
    Ratio,
    damage_of_log,
    log_damages,
    ratio,
    typical,
    typical_interval,
)


def test_typical_damage_is_the_geometric_mean_shifted_by_the_floor() -> None:
    """0.01 and 0.04 have 0.02; with a floor of 0.02, sqrt(0.03 x 0.06) - 0.02."""
    assert typical([0.01, 0.04], None) == pytest.approx(0.02, rel=1e-4)
    assert typical([0.01, 0.04], 0.02) == pytest.approx(math.sqrt(0.0018) - 0.02)
    assert stats.gmean(np.array([0.3, 0.1, 0.02]) + 1e-4) - 1e-4 == pytest.approx(
        typical([0.3, 0.1, 0.02], 1e-4)
    )


def test_bf16_itself_is_exactly_0() -> None:
    """Damages of 0 are 0 with an interval of no width; one that is not 0 counts."""
    assert typical([0.0] * 5, 3e-5) == 0.0
    assert typical_interval([0.0] * 5, 3e-5) == (0.0, 0.0)
    assert 0 < typical([0.0] * 4 + [0.1], 3e-5) < 0.1 / 5


def test_rounding_below_the_floor_does_not_matter() -> None:
    """A damage of 1e-9 instead of 1e-5 on one prompt of five changes the typical damage by less
    than the floor; plain logarithms would make it a sixth.
    """
    low, high = [0.01] * 4 + [1e-9], [0.01] * 4 + [1e-5]
    assert abs(typical(low, 4e-5) - typical(high, 4e-5)) < 4e-4
    assert stats.gmean(low) < stats.gmean(high) / 6


def test_a_floor_that_is_not_measured_is_the_least() -> None:
    """None, 0 and anything below count as `LEAST`, and logarithms can be taken back."""
    logs = log_damages([0.0, 0.2], None)
    assert logs == pytest.approx([math.log(LEAST), math.log(0.2 + LEAST)])
    assert list(log_damages([0.0, 0.2], 0.0)) == list(logs)
    assert [damage_of_log(log, None) for log in logs] == pytest.approx([0.0, 0.2])


def test_a_typical_damage_has_students_interval_of_the_logarithms() -> None:
    """Logarithms -5, -4, -3: mean -4, standard error 1 / sqrt(3), t of 2 degrees 4.303."""
    values, half = np.exp([-5.0, -4.0, -3.0]) - LEAST, 4.303 / math.sqrt(3)
    expected = (math.exp(-4 - half), math.exp(-4 + half))
    assert typical_interval(values, None) == pytest.approx(expected, rel=1e-3)
    assert typical_interval([0.25] * 3, None) == pytest.approx((0.25, 0.25))
    assert typical_interval([0.3], None) == pytest.approx((0.3, 0.3))


def test_an_interval_never_reaches_below_0() -> None:
    """At the noise floor its lower end is 0, since damages are not negative."""
    low, high = typical_interval([0.0, 1e-6, 8e-5, 0.0, 3e-5], 4e-5)
    assert low == 0.0 < high


def test_a_ratio_is_taken_prompt_by_prompt() -> None:
    """Half the damage on every prompt is a ratio of 0.5 without uncertainty, however much prompts
    differ; log ratios 0, 1, 2 have Student's interval.
    """
    prompts = np.array([0.001, 0.01, 0.1, 0.4])
    found = ratio(prompts / 2, prompts, None)
    assert (found.low, found.value, found.high) == pytest.approx((0.5, 0.5, 0.5), rel=3e-3)
    second = np.array([0.001, 0.02, 0.05])
    found, half = ratio(second * np.exp([0, 1, 2]), second, None), 4.303 / math.sqrt(3)
    expected = [math.exp(1 - half), math.exp(1), math.exp(1 + half)]
    assert [found.low, found.value, found.high] == pytest.approx(expected, rel=3e-3)


def test_ratios_with_bf16_are_known() -> None:
    """bf16 is 0 of anything, anything is infinitely more than bf16, and bf16 is once itself."""
    some, bf16 = [0.1, 0.2], [0.0, 0.0]
    assert ratio(bf16, some, 1e-5) == Ratio(value=0.0, low=0.0, high=0.0)
    assert ratio(some, bf16, 1e-5) == Ratio(value=math.inf, low=math.inf, high=math.inf)
    assert ratio(bf16, bf16, 1e-5) == Ratio(value=1.0, low=1.0, high=1.0)


@pytest.mark.parametrize("flips", [0.0, 0.02])
def test_intervals_hold_as_often_as_they_say(flips: float) -> None:
    """Of 400 simulated studies with 24 prompts, with and without flips, 93 to 98 of 100 intervals
    hold the truth for a given skip-list, and at least 90 for the best of six equal ones.
    """
    rng, studies, lists, prompts = np.random.default_rng(4), 400, 6, 24
    logs = 0.85 * rng.normal(size=(studies, 1, prompts)) - 4.6
    logs = logs + 0.5 * rng.normal(size=(studies, lists, prompts))
    flip = rng.random(logs.shape) < flips
    logs = np.where(flip, math.log(0.4), logs)
    truth = math.exp((1 - flips) * -4.6 + flips * math.log(0.4))
    held, best = [], []
    for study in np.exp(logs):
        low, high = typical_interval(study[0], None)
        held.append(low <= truth <= high)
        low, high = typical_interval(min(study, key=lambda row: typical(row, None)), None)
        best.append(low <= truth <= high)
    assert 0.93 <= np.mean(held) <= 0.98
    assert np.mean(best) >= 0.9
