"""A curve that all trials share says what mean goes with a typical damage."""

import math
from dataclasses import asdict

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from sensitivity.fidelity.mean_curve import AT, ERRORS, HALF, RATIO, SLOPE, MeanCurve
from sensitivity.fidelity.typical import typical, typical_interval


def lognormal(
    rng: np.random.Generator, *, lists: int, prompts: int, sigma: float
) -> NDArray[np.float64]:
    """(lists, prompts) damages whose mean is exp(sigma^2 / 2) times their typical one."""
    own = sigma * rng.normal(size=prompts)
    return np.exp(np.log(np.geomspace(0.002, 0.05, lists))[:, None] + own)


def test_without_trials_a_curve_is_what_is_known_before() -> None:
    """It has the usual ratio with its error; trials that are bf16 itself change nothing."""
    curve = MeanCurve.fit([], None)
    assert (curve.at, curve.log_ratio, curve.slope) == pytest.approx(
        (AT, RATIO * HALF, SLOPE * HALF)
    )
    assert 0.5 * HALF < curve.error < HALF
    assert MeanCurve.fit([[0.0, 0.0], [0.0, 0.0]], 1e-5) == curve
    assert curve.mean(AT) == pytest.approx(AT * math.exp(RATIO * HALF))


def test_a_curve_follows_its_trials() -> None:
    """With 4,000 prompts of lognormal damages of sigma 1.2 the mean is exp(0.72) times the typical
    damage, all along the curve, and the error is that of the prompts.
    """
    rows = lognormal(np.random.default_rng(0), lists=20, prompts=4000, sigma=1.2)
    curve = MeanCurve.fit(rows, None)
    for row in rows:
        assert curve.mean(typical(row, None)) == pytest.approx(row.mean(), rel=0.03)
        assert curve.mean(typical(row, None)) == pytest.approx(
            math.exp(0.72) * typical(row, None), rel=0.15
        )
    assert 0.01 < curve.error < 0.05


def test_what_is_unseen_is_expected_by_how_far_logarithms_scatter() -> None:
    """Ten prompts whose damages hardly differ leave no room for a mean far above the typical
    damage: sigma 0.15 gives a ratio within 5 % of exp(sigma^2 / 2) and a small error.
    """
    rows = lognormal(np.random.default_rng(4), lists=12, prompts=10, sigma=0.15)
    curve = MeanCurve.fit(rows, None)
    assert curve.log_ratio == pytest.approx(0.15**2 / 2, abs=0.05)
    assert curve.error < 0.05
    wide = MeanCurve.fit(lognormal(np.random.default_rng(4), lists=12, prompts=10, sigma=0.9), None)
    assert wide.error > 4 * curve.error


def test_trials_at_the_noise_floor_say_nothing_of_scatter() -> None:
    """Damages below three noise floors leave what is known before anything is seen."""
    rows = 2e-5 * np.ones((6, 10))
    assert MeanCurve.fit(rows, 1e-5).error > 3 * MeanCurve.fit(rows, 1e-7).error


def test_more_trials_of_the_same_prompts_are_no_more_certain() -> None:
    """Ten prompts leave the same error with five trials and with fifty; a hundred prompts less."""
    rng = np.random.default_rng(1)
    few, many = lognormal(rng, lists=5, prompts=10, sigma=0.9), None
    many = np.concatenate([few] * 10)
    assert MeanCurve.fit(many, None).error == pytest.approx(MeanCurve.fit(few, None).error)
    more = lognormal(rng, lists=5, prompts=100, sigma=0.9)
    assert MeanCurve.fit(more, None).error < 0.7 * MeanCurve.fit(few, None).error


def test_the_order_of_trials_and_prompts_does_not_matter() -> None:
    """A curve is a function of the table, as anyone can compute it again."""
    rng = np.random.default_rng(2)
    rows = lognormal(rng, lists=8, prompts=10, sigma=0.9) * rng.lognormal(0, 0.5, size=(8, 10))
    curve, other = MeanCurve.fit(rows, 3e-5), MeanCurve.fit(rows[::-1, ::-1], 3e-5)
    assert list(asdict(other).values()) == pytest.approx(list(asdict(curve).values()))
    assert MeanCurve(**asdict(curve)) == curve


def test_a_mean_is_at_least_the_typical_damage_and_rises_with_it() -> None:
    """Whatever the slope; 0 has 0."""
    curve = MeanCurve(at=0.01, log_ratio=0.3, slope=-0.2, error=0.1)
    means = [curve.mean(each) for each in np.geomspace(1e-6, 1, 50)]
    assert all(mean >= each for mean, each in zip(means, np.geomspace(1e-6, 1, 50), strict=True))
    assert means == sorted(means)
    assert curve.mean(0.0) == 0.0


def test_the_interval_of_a_mean_joins_those_of_typical_damage_and_curve() -> None:
    """As logarithms they add in quadrature; without spread the curve's is left, and bf16 has 0."""
    curve = MeanCurve(at=0.01, log_ratio=0.5, slope=0.0, error=0.15)
    values = [0.004, 0.01, 0.02, 0.03, 0.008]
    mean, low, high = curve.mean_interval(values, None)
    bounds = typical_interval(values, None)
    own = math.log(bounds[1] / bounds[0]) / 2
    assert mean == pytest.approx(math.exp(0.5) * typical(values, None))
    assert math.log(high / mean) == pytest.approx(math.hypot(own, ERRORS * 0.15), rel=1e-3)
    assert low * high == pytest.approx(mean**2)
    assert curve.mean_interval([0.02] * 4, None)[2] == pytest.approx(
        0.02 * math.exp(0.5 + ERRORS * 0.15)
    )
    assert curve.mean_interval([0.0] * 4, 1e-5) == (0.0, 0.0, 0.0)


def test_the_average_of_the_own_prompts_is_always_inside() -> None:
    """A flip that no trial led to expect moves the end of the interval, and nothing else."""
    curve = MeanCurve(at=0.01, log_ratio=0.3, slope=0.0, error=0.05)
    values = [0.01] * 11 + [0.6]
    mean, low, high = curve.mean_interval(values, None)
    assert high == pytest.approx(np.mean(values))
    assert mean == pytest.approx(math.exp(0.3) * typical(values, None))
    assert low < mean < high


def test_one_flip_under_a_list_that_does_nothing_else_is_no_catastrophe() -> None:
    """A trial of damages at 0 but for one flip has a mean of hundreds of times its typical damage.
    The curve of 20 other trials stays within its error.
    """
    rng = np.random.default_rng(3)
    rows = list(lognormal(rng, lists=20, prompts=10, sigma=0.9))
    curve = MeanCurve.fit(rows, 3e-5)
    other = MeanCurve.fit([*rows, [0.4] + [0.0] * 9], 3e-5)
    assert abs(math.log(other.mean(0.01) / curve.mean(0.01))) < ERRORS * curve.error


@pytest.mark.parametrize("flips", [0.0, 0.015])
def test_intervals_of_a_mean_hold_as_often_as_they_say(flips: float) -> None:
    """Of 120 simulated studies of 12 equal skip-lists, 10 search and 24 held-out prompts, at least
    93 of 100 intervals hold the true mean for a given skip-list, and 90 for the best of six; those
    of a list's own mean in fewer than 80 for the best where pictures flip.
    """
    rng = np.random.default_rng(5)
    truth = (1 - flips) * 0.01 * math.exp((0.85**2 + 0.5**2) / 2) + flips * 0.4
    held, best, before = [], [], []
    for _ in range(120):
        logs = 0.85 * rng.normal(size=34) + 0.5 * rng.normal(size=(12, 34)) + math.log(0.01)
        damages = np.where(rng.random(logs.shape) < flips, 0.4, np.exp(logs))
        curve = MeanCurve.fit(damages[:, :10], 4e-5)
        said = [curve.mean_interval(row, 4e-5) for row in damages[:6, 10:]]
        held.append(said[0][1] <= truth <= said[0][2])
        best.append(min(said)[1] <= truth <= min(said)[2])
        row = min(damages[:6, 10:], key=lambda row: float(row.mean()))
        half = stats.t.ppf(1 - 0.025 / 6, 23) * stats.sem(row) / row.mean()
        before.append(abs(math.log(truth / row.mean())) <= half)
    assert np.mean(held) >= 0.93
    assert np.mean(best) >= 0.9
    assert not flips or np.mean(before) < 0.8
