"""The belief about damages is Bayesian linear regression, follows the trials where errors mislead,
and changes its mind only when it should.
"""

import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray

from sensitivity.search import damage
from sensitivity.search.damage import GRID, LEAST, OWN, REFITS, Belief, Hypothesis, believe, kinship

Array = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class World:
    """Damages that add up exactly to LPIPS ** power, and trials of them."""

    damages: Array
    features: Array
    power: float = 1.5
    noise: float = 0.0

    @property
    def errors(self) -> Array:
        """A perfect calibration: each item's own LPIPS."""
        return self.damages ** (1 / self.power)

    @property
    def lpips(self) -> Array:
        luck = np.exp(self.noise * np.random.default_rng(9).standard_normal(len(self.features)))
        return np.asarray((self.features @ self.damages * luck) ** (1 / self.power))

    @property
    def sizes(self) -> Array:
        return np.ones(len(self.damages))


def world(
    items: int,
    trials: int,
    *,
    seed: int = 0,
    power: float = 1.5,
    noise: float = 0.0,
    spread: float = 1.0,
) -> World:
    """The first trial has everything, the others each item with a chance of their own."""
    rng = np.random.default_rng(seed)
    features = (rng.random((trials, items)) < rng.uniform(0.2, 0.8, (trials, 1))).astype(np.float64)
    features[:1] = 1.0
    features[~features.any(1), 0] = 1.0
    return World(rng.lognormal(-4, spread, items), features, power, noise)


def kin_of(items: int) -> Array:
    """Three roles in two formats."""
    return kinship([f"role{i % 3}" for i in range(items)], [f"format{i % 2}" for i in range(items)])


def only(monkeypatch: pytest.MonkeyPatch, hypothesis: Hypothesis) -> None:
    """No choice is left: this hypothesis is the whole grid."""
    monkeypatch.setattr(damage, "GRID", (hypothesis,))
    monkeypatch.setattr(damage, "DEFAULT", hypothesis)


def textbook(
    hypothesis: Hypothesis, seen: World, kin: Array | None, shares: Array | None = None
) -> tuple[Array, Array]:
    """Mean (D,) and covariance (D, D) by Bishop's equations 3.50 and 3.51, where S = (S0^-1 + X'
    N^-1 X)^-1 and m = S (S0^-1 m0 + X' N^-1 t).
    """
    weights = (
        seen.errors ** (hypothesis.power * hypothesis.trust) if hypothesis.trust else seen.sizes
    )
    target, sums = seen.lpips**hypothesis.power, seen.features @ weights
    prior = weights * np.exp((sums * np.log(target / sums)).sum() / sums.sum())
    deviation = hypothesis.spread * prior + 1e-3 * prior.mean()
    shape = np.eye(len(prior)) if kin is None else OWN * np.eye(len(prior)) + kin @ kin.T
    expected = seen.features @ prior
    noise = hypothesis.noise * hypothesis.power / 1.5 * expected + damage.FLOOR * expected.max()
    precision = np.diag((np.ones(len(target)) if shares is None else shares) / noise**2)
    before = np.linalg.inv(deviation[:, None] * shape * deviation)
    covariance = np.linalg.inv(before + seen.features.T @ precision @ seen.features)
    return np.asarray(
        covariance @ (before @ prior + seen.features.T @ precision @ target)
    ), np.asarray(covariance)


def miss(belief: Belief, truth: World) -> float:
    """How far predictions of trials that were not seen are off: root of the mean square, relative
    to their mean.
    """
    unseen = world(len(truth.damages), 60, seed=77).features
    wanted = (unseen @ truth.damages) ** (1 / truth.power)
    return float(np.sqrt(np.mean((belief.lpips(unseen) - wanted) ** 2)) / wanted.mean())


@pytest.mark.parametrize("trials", [1, 7, 40])
@pytest.mark.parametrize("with_kin", [False, True])
@pytest.mark.parametrize(
    "hypothesis",
    [Hypothesis(spread=0.4), Hypothesis(1.0, 0.5, 0.4, 0.2), Hypothesis(2.0, 0.0, 0.4, 0.6)],
)
def test_posterior_is_textbook_regression(
    monkeypatch: pytest.MonkeyPatch, hypothesis: Hypothesis, with_kin: bool, trials: int
) -> None:
    """The means are those of the D x D form, with fewer trials than items and with more, with kin
    and without; shares divide the noise.
    """
    only(monkeypatch, hypothesis)
    seen, kin = world(12, trials, noise=0.1), kin_of(12) if with_kin else None
    shares = np.random.default_rng(1).uniform(0.2, 1.0, trials)
    belief = believe(seen.features, seen.lpips, seen.errors, seen.sizes, kin, shares=shares)
    mean, _ = textbook(hypothesis, seen, kin, shares)
    np.testing.assert_allclose(belief.mean, np.maximum(mean, LEAST * belief.prior), rtol=1e-8)
    assert (mean > LEAST * belief.prior).mean() > 0.7  # the floor hides little
    np.testing.assert_allclose(
        belief.lpips(seen.features), (seen.features @ belief.mean) ** (1 / hypothesis.power)
    )


@pytest.mark.parametrize("with_kin", [False, True])
@pytest.mark.parametrize("trials", [0, 6, 30])
def test_samples_have_the_posteriors_mean_and_covariance(
    monkeypatch: pytest.MonkeyPatch, with_kin: bool, trials: int
) -> None:
    """10,000 samples under a narrow prior, where the floor cuts nothing, have means within 5
    standard errors and covariances within 6.
    """
    hypothesis, draws = Hypothesis(spread=0.15), 10_000
    only(monkeypatch, hypothesis)
    seen, kin = world(5, trials, spread=0.2, noise=0.05), kin_of(5) if with_kin else None
    belief = believe(seen.features, seen.lpips, seen.errors, seen.sizes, kin)
    if trials:
        mean, covariance = textbook(hypothesis, seen, kin)
    else:
        deviation = hypothesis.spread * belief.prior + 1e-3 * belief.prior.mean()
        mean = belief.prior
        covariance = np.outer(deviation, deviation) * (
            np.eye(5) if kin is None else OWN * np.eye(5) + kin @ kin.T
        )
    rng = np.random.default_rng(0)
    samples = np.array([belief.sample(rng) for _ in range(draws)])
    assert (samples > LEAST * belief.prior).all()
    variance = np.diag(covariance)
    assert (np.abs(samples.mean(0) - mean) < 5 * np.sqrt(variance / draws)).all()
    assert (
        np.abs(np.cov(samples.T) - covariance)
        < 6 * np.sqrt((np.outer(variance, variance) + covariance**2) / draws)
    ).all()


def test_samples_and_means_stay_above_nothing() -> None:
    """However surprising the trials, means and samples of a damage stay above a small part of its
    prior mean.
    """
    seen = world(8, 20)
    belief = believe(
        seen.features, seen.lpips * np.linspace(0.2, 3, 20), seen.errors[::-1], seen.sizes
    )
    rng = np.random.default_rng(0)
    assert all(
        (damages >= LEAST * belief.prior).all() and (damages > 0).all()
        for damages in (belief.mean, *(belief.sample(rng) for _ in range(200)))
    )


def test_samples_depend_on_the_generator_alone() -> None:
    """Equal generators give equal samples, also from a posterior that was computed again."""
    seen = world(9, 12)
    first, again = (
        believe(seen.features, seen.lpips, seen.errors, seen.sizes, kin_of(9)) for _ in range(2)
    )
    drawn = first.sample(np.random.default_rng(4))
    np.testing.assert_array_equal(drawn, again.sample(np.random.default_rng(4)))
    assert (drawn != first.sample(np.random.default_rng(5))).any()


@pytest.mark.parametrize("power", [1.0, 1.5, 2.0])
@pytest.mark.parametrize("calibrated", [True, False])
def test_trials_teach_an_additive_truth(power: float, calibrated: bool) -> None:
    """Errors off by a factor of 2, or none: predictions get better with trials, and come within a
    few percent of the truth.
    """
    truth = world(20, 120, power=power)
    errors = truth.errors * np.random.default_rng(3).lognormal(0, 0.7, 20) if calibrated else None
    misses = [
        miss(
            believe(truth.features[:count], truth.lpips[:count], errors, truth.sizes, kin_of(20)),
            truth,
        )
        for count in (1, 12, 40, 120)
    ]
    assert misses[3] < misses[2] < min(misses[:2])
    assert misses[3] < 0.06 < misses[0]


def test_trials_teach_single_damages() -> None:
    """120 trials with 3 % noise identify the damage of each item, though no trial has one item
    alone.
    """
    truth = world(12, 120, noise=0.03, spread=0.6)
    belief = believe(truth.features, truth.lpips, None, truth.sizes)
    in_power = truth.damages if belief.hypothesis.power == truth.power else np.nan
    np.testing.assert_allclose(belief.mean, in_power, atol=0.35 * truth.damages.mean())
    assert np.corrcoef(belief.mean, in_power)[0, 1] > 0.95


def test_good_errors_are_trusted() -> None:
    """Errors within 20 % of the truth are trusted at half at least, in full after enough trials,
    and with a few trials predict better than no errors do.
    """
    truth = world(30, 10, noise=0.1)
    errors = truth.errors * np.random.default_rng(2).lognormal(0, 0.2, 30)
    told, untold = (
        believe(truth.features, truth.lpips, given, truth.sizes, kin_of(30))
        for given in (errors, None)
    )
    assert told.hypothesis.trust >= 0.5
    many = world(30, 60, noise=0.1)
    assert (
        believe(many.features, many.lpips, many.errors, many.sizes, kin_of(30)).hypothesis.trust
        == 1.0
    )
    assert miss(told, truth) < miss(untold, truth)


@pytest.mark.parametrize("misled", ["permuted", "inverse"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_misleading_errors_lose_their_trust(misled: str, seed: int) -> None:
    """Errors of other items, or large ones where damages are small: trials lower the trust, and
    predict better than the errors do alone.
    """
    truth = world(24, 48, seed=seed, spread=1.2, noise=0.1)
    errors = (
        truth.errors[np.random.default_rng(seed).permutation(24)]
        if misled == "permuted"
        else 1 / truth.errors
    )
    belief = believe(truth.features, truth.lpips, errors, truth.sizes, kin_of(24))
    alone = believe(
        truth.features[:1], truth.lpips[:1], errors, truth.sizes, kin_of(24)
    )  # one trial gives the errors their unit
    assert alone.hypothesis.trust == 0.5
    assert belief.hypothesis.trust <= (0.0 if misled == "inverse" else 0.5)
    assert miss(belief, truth) < 0.7 * miss(alone, truth)


@pytest.mark.parametrize("unit", [1e-6, 1e3])
@pytest.mark.parametrize("calibrated", [True, False])
def test_units_of_lpips_do_not_matter(unit: float, calibrated: bool) -> None:
    """Another perceptual score, a constant times as large, has the same hypothesis and the same
    predictions times that; so have errors.
    """
    seen = world(15, 30, noise=0.2)
    errors = seen.errors if calibrated else None
    plain = believe(seen.features, seen.lpips, errors, seen.sizes, kin_of(15))
    scaled = believe(seen.features, seen.lpips * unit, errors, seen.sizes, kin_of(15))
    assert scaled.hypothesis == plain.hypothesis
    np.testing.assert_allclose(
        scaled.lpips(seen.features), unit * plain.lpips(seen.features), rtol=1e-8
    )
    drawn = plain.sample(np.random.default_rng(0)), scaled.sample(np.random.default_rng(0))
    np.testing.assert_allclose(drawn[1], drawn[0] * unit**plain.hypothesis.power, rtol=1e-6)
    if errors is not None:
        others = believe(seen.features, seen.lpips, errors * unit, seen.sizes, kin_of(15))
        assert others.hypothesis == plain.hypothesis
        np.testing.assert_allclose(others.mean, plain.mean, rtol=1e-8)


def test_stopped_trials_weigh_less(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial that contradicts the errors moves its items the less, the fewer prompts it saw."""
    only(monkeypatch, Hypothesis())
    seen = world(10, 9)
    lpips = seen.lpips.copy()
    lpips[-1] *= 2
    last = seen.features[-1:]
    predicted = [
        believe(
            seen.features, lpips, seen.errors, seen.sizes, shares=np.array([*[1.0] * 8, share])
        ).lpips(last)[0]
        for share in (1.0, 0.5, 0.1, 1e-6)
    ]
    assert predicted == sorted(predicted, reverse=True)
    assert predicted[0] < lpips[-1]
    whole = believe(seen.features, lpips, seen.errors, seen.sizes)
    assert whole.lpips(last)[0] == predicted[0]  # no shares: all saw everything


def test_the_hypothesis_is_that_of_the_last_refit() -> None:
    """Between refits further trials, whatever they score, leave the hypothesis as the refit's own
    trials chose it; refits do change it.
    """
    truth = world(16, 70, noise=0.3, power=2.0)
    rng = np.random.default_rng(0)
    errors = truth.errors[rng.permutation(16)]

    def chosen(count: int, lpips: Array) -> Hypothesis:
        return believe(
            truth.features[:count], lpips[:count], errors, truth.sizes, kin_of(16)
        ).hypothesis

    found = [chosen(count, truth.lpips) for count in range(71)]
    for count, hypothesis in enumerate(found):
        refit = max(r for r in REFITS if r <= count)
        assert hypothesis == found[refit]
        wild = np.concatenate([truth.lpips[:refit], rng.lognormal(0, 3, 70 - refit)])
        assert chosen(count, wild) == found[refit]
    assert len(set(found)) > 1


def test_the_hypothesis_has_the_largest_evidence() -> None:
    """The grid's point with the largest log N(t; X m0, N + X S0 X') + log |dt / dLPIPS| +
    preference, densities written out in full.
    """
    seen = world(9, 8, noise=0.3, power=2.0)
    kin = kin_of(9)

    def density(h: Hypothesis) -> float:
        weights = seen.errors ** (h.power * h.trust) if h.trust else seen.sizes
        target, sums = seen.lpips**h.power, seen.features @ weights
        prior = weights * np.exp((sums * np.log(target / sums)).sum() / sums.sum())
        deviation, expected = h.spread * prior + 1e-3 * prior.mean(), seen.features @ prior
        loads = seen.features * deviation
        noise = h.noise * h.power / 1.5 * expected + damage.FLOOR * expected.max()
        covariance = np.diag(noise**2) + loads @ (OWN * np.eye(9) + kin @ kin.T) @ loads.T
        wrong = target - expected
        normal = -0.5 * (
            wrong @ np.linalg.inv(covariance) @ wrong + np.linalg.slogdet(2 * np.pi * covariance)[1]
        )
        return float(
            normal + np.log(h.power * seen.lpips ** (h.power - 1)).sum() + h.log_preference
        )

    assert believe(seen.features, seen.lpips, seen.errors, seen.sizes, kin).hypothesis == max(
        GRID, key=density
    )


def test_without_trials_damages_lie_between_errors_and_sizes() -> None:
    """They are shares of the geometric mean of errors ** 1.5 and sizes, or of the sizes alone."""
    seen = world(7, 0)
    sizes = np.arange(1.0, 8.0)
    belief = believe(seen.features, seen.lpips, seen.errors, sizes, kin_of(7))
    between = np.sqrt(seen.errors**1.5 * sizes)
    np.testing.assert_allclose(belief.mean, between / between.sum())
    np.testing.assert_allclose(belief.lpips(np.eye(7)), belief.mean ** (1 / 1.5))
    np.testing.assert_allclose(
        believe(seen.features, seen.lpips, None, sizes, kin_of(7)).mean, sizes / sizes.sum()
    )


def test_one_trial_of_everything_gives_the_unit() -> None:
    """The prior explains the LPIPS of all quantized, so that its damages keep the prior's
    proportions.
    """
    seen = world(7, 1)
    belief = believe(seen.features, np.array([0.25]), seen.errors, seen.sizes, kin_of(7))
    np.testing.assert_allclose(belief.lpips(seen.features), 0.25)
    between = np.sqrt(seen.errors**1.5 * seen.sizes)
    np.testing.assert_allclose(belief.mean / belief.mean.sum(), between / between.sum())


def test_an_error_of_zero_is_a_small_damage_and_not_none() -> None:
    """A group whose calibrated error is 0 still takes part: trials can raise its damage above the
    others'.
    """
    truth = world(4, 64, spread=0.1)
    errors = np.array([0.0, *truth.errors[1:]])
    before = believe(np.zeros((0, 4)), np.zeros(0), errors, truth.sizes)
    after = believe(truth.features, truth.lpips, errors, truth.sizes)
    assert (before.mean > 0).all()
    assert after.mean[0] > 0.3 * after.mean.mean()
    assert np.isfinite(after.mean).all()


@pytest.mark.parametrize("calibrated", [True, False])
def test_what_says_nothing_is_not_heard(calibrated: bool) -> None:
    """A trial with nothing quantized, and one with score 0, change neither hypothesis nor damages,
    wherever they stand.
    """
    seen = world(8, 9, noise=0.2)
    errors = seen.errors if calibrated else None
    plain = believe(
        seen.features, seen.lpips, errors, seen.sizes, kin_of(8), shares=np.linspace(0.5, 1, 9)
    )
    features = np.insert(
        seen.features, [0, 4, 9], np.stack([np.zeros(8), np.ones(8), np.zeros(8)]), axis=0
    )
    lpips, shares = (
        np.insert(seen.lpips, [0, 4, 9], [0.0, 0.0, 0.3]),
        np.insert(np.linspace(0.5, 1, 9), [0, 4, 9], 1.0),
    )
    heard = believe(features, lpips, errors, seen.sizes, kin_of(8), shares=shares)
    assert heard.hypothesis == plain.hypothesis
    np.testing.assert_array_equal(heard.mean, plain.mean)
    nothing = believe(np.zeros((2, 8)), np.array([0.0, 0.3]), errors, seen.sizes)
    np.testing.assert_array_equal(
        nothing.mean, believe(np.zeros((0, 8)), np.zeros(0), errors, seen.sizes).mean
    )


def test_kin_learn_from_each_other() -> None:
    """A role that does more damage than its errors say is believed worse in bands that no trial
    had; other roles and no kin are not.
    """
    roles = ["a", "a", "a", "b", "b", "b"]
    features = np.array([[1.0, 1, 0, 0, 0, 0], [1, 0, 0, 1, 0, 0], [0, 0, 0, 1, 1, 0]])
    lpips = np.array([0.4, 0.25, 0.05])
    errors = np.full(6, 0.1)
    kin = believe(features, lpips, errors, np.ones(6), kinship(roles, ["f"] * 6)).mean
    alone = believe(features, lpips, errors, np.ones(6)).mean
    assert kin[2] > 1.2 * kin[5]
    assert alone[2] == pytest.approx(alone[5])


def test_kinship_shares_are_whole() -> None:
    """Each item's own, role's and format's parts sum to a variance of 1; items correlate by what
    they share.
    """
    kin = kinship(["a", "a", "b"], ["fp8", "nvfp4", "fp8"])
    np.testing.assert_allclose(
        OWN * np.eye(3) + kin @ kin.T,
        [[1.0, damage.ROLE, damage.FORMAT], [damage.ROLE, 1.0, 0.0], [damage.FORMAT, 0.0, 1.0]],
    )


def test_hundreds_of_trials_are_thinned() -> None:
    """The evidence of 300 trials is weighed by at most 128 of them; the posterior uses all."""
    truth = world(6, 300, noise=0.1)
    belief = believe(truth.features, truth.lpips, truth.errors, truth.sizes)
    first = belief._trials.first(256)
    assert len(first.lpips) == damage.EVIDENCE_TRIALS
    assert first.lpips[0] == truth.lpips[0]
    assert first.lpips[-1] == truth.lpips[255]
    assert len(belief._trials.lpips) == 300
    assert miss(belief, truth) < 0.05
