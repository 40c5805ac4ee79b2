"""The belief about damages is the mode of its posterior, follows the trials where errors mislead,
hears latents, and changes its mind only when it should.
"""

import dataclasses
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from sensitivity.search import damage
from sensitivity.search.damage import (
    GRID,
    LIMITS,
    OWN,
    REFITS,
    Belief,
    Hypothesis,
    believe,
    kinship,
)

Array = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class World:
    """Damages that add up exactly to typical damage, and trials of them."""

    damages: Array
    features: Array
    noise: float = 0.0
    limit: float = math.inf

    @property
    def errors(self) -> Array:
        """A perfect calibration."""
        return self.damages

    @property
    def typical(self) -> Array:
        luck = np.exp(self.noise * np.random.default_rng(9).standard_normal(len(self.features)))
        return self.of(self.features) * luck

    def of(self, features: Array) -> Array:
        """(n,) true typical damages."""
        sums = features @ self.damages
        return sums if self.limit == math.inf else -self.limit * np.expm1(-sums / self.limit)

    @property
    def sizes(self) -> Array:
        return np.ones(len(self.damages))


def world(
    items: int, trials: int, *, seed: int = 0, noise: float = 0.0, spread: float = 1.0
) -> World:
    """The first trial has everything, the others each item with a chance of their own."""
    rng = np.random.default_rng(seed)
    features = (rng.random((trials, items)) < rng.uniform(0.2, 0.8, (trials, 1))).astype(np.float64)
    features[:1] = 1.0
    features[~features.any(1), 0] = 1.0
    return World(rng.lognormal(-4, spread, items), features, noise)


def kin_of(items: int) -> Array:
    """Three roles in two formats."""
    return kinship([f"role{i % 3}" for i in range(items)], [f"format{i % 2}" for i in range(items)])


def only(monkeypatch: pytest.MonkeyPatch, hypothesis: Hypothesis) -> None:
    """No choice is left: this hypothesis is the whole grid."""
    monkeypatch.setattr(damage, "GRID", (hypothesis,))
    monkeypatch.setattr(damage, "LIMITS", (hypothesis.limit,))
    monkeypatch.setattr(damage, "DEFAULT", hypothesis)


def prior_of(hypothesis: Hypothesis, seen: World, kin: Array | None) -> tuple[Array, Array]:
    """Medians (D,) of the damages before the trials, and covariance (D, D) of their logarithms."""
    weights = seen.errors**hypothesis.trust * (seen.sizes**0.5 if hypothesis.trust else seen.sizes)
    sums = seen.features @ weights
    scale = np.exp((sums * np.log(seen.typical / sums)).sum() / sums.sum())
    shape = np.eye(len(weights)) if kin is None else OWN * np.eye(len(weights)) + kin @ kin.T
    return weights * scale, hypothesis.spread**2 * shape


def slopes_of(belief: Belief, features: Array) -> Array:
    """(n, D) derivatives of log typical damages by log damages, by central differences."""
    found = []
    for item in range(len(belief.damages)):
        moved = [
            dataclasses.replace(
                belief, damages=belief.damages * np.exp(step * np.eye(len(belief.damages))[item])
            )
            for step in (1e-5, -1e-5)
        ]
        up, down = (np.log(each.typical(features)) for each in moved)
        found.append((up - down) / 2e-5)
    return np.array(found).T


def miss(belief: Belief, truth: World) -> float:
    """How far predictions of trials that were not seen are off: root of the mean square of
    logarithms.
    """
    unseen = world(len(truth.damages), 60, seed=77).features
    return float(np.sqrt(np.mean(np.log(belief.typical(unseen) / truth.of(unseen)) ** 2)))


@pytest.mark.parametrize("trials", [1, 7, 40])
@pytest.mark.parametrize("with_kin", [False, True])
@pytest.mark.parametrize(
    "hypothesis", [Hypothesis(spread=0.4), Hypothesis(trust=0.0, noise=0.4, limit=1.1)]
)
def test_damages_are_at_the_mode_of_the_posterior(
    monkeypatch: pytest.MonkeyPatch, hypothesis: Hypothesis, with_kin: bool, trials: int
) -> None:
    """There the pull of prior and trials on the log damages is in balance, with fewer trials than
    items and with more, with kin and without; shares divide the squared noise.
    """
    only(monkeypatch, hypothesis)
    seen, kin = world(12, trials, noise=0.1), kin_of(12) if with_kin else None
    shares = np.random.default_rng(1).uniform(0.2, 1.0, trials)
    belief = believe(seen.features, seen.typical, seen.errors, seen.sizes, kin, shares=shares)
    prior, covariance = prior_of(hypothesis, seen, kin)
    np.testing.assert_allclose(belief.prior, prior)
    residual = np.log(seen.typical) - np.log(belief.typical(seen.features))
    pull = slopes_of(belief, seen.features).T @ (residual * shares / hypothesis.noise**2)
    np.testing.assert_allclose(np.log(belief.damages / prior), covariance @ pull, atol=5e-3)


@pytest.mark.parametrize("with_kin", [False, True])
@pytest.mark.parametrize("trials", [0, 6, 30])
def test_samples_have_the_posteriors_mode_and_covariance(
    monkeypatch: pytest.MonkeyPatch, with_kin: bool, trials: int
) -> None:
    """Logarithms of 10,000 samples have means within 5 standard errors of the mode, and covariances
    within 6 of the inverse of prior precision plus the trials'.
    """
    hypothesis, draws = Hypothesis(spread=0.3), 10_000
    only(monkeypatch, hypothesis)
    seen, kin = world(5, trials, spread=0.2, noise=0.05), kin_of(5) if with_kin else None
    belief = believe(seen.features, seen.typical, seen.errors, seen.sizes, kin)
    covariance = hypothesis.spread**2 * (
        np.eye(5) if kin is None else OWN * np.eye(5) + kin @ kin.T
    )
    if trials:
        slopes = slopes_of(belief, seen.features)
        covariance = np.linalg.inv(
            np.linalg.inv(covariance) + slopes.T @ slopes / hypothesis.noise**2
        )
    rng = np.random.default_rng(0)
    samples = np.log([belief.sample(rng) for _ in range(draws)])
    variance = np.diag(covariance)
    assert (np.abs(samples.mean(0) - np.log(belief.damages)) < 5 * np.sqrt(variance / draws)).all()
    tolerance = 6 * np.sqrt((np.outer(variance, variance) + covariance**2) / draws)
    assert (np.abs(np.cov(samples.T) - covariance) < tolerance).all()


def test_samples_depend_on_the_generator_alone() -> None:
    """Equal generators give equal samples, also from a posterior that was computed again."""
    seen = world(9, 12)
    first, again = (
        believe(seen.features, seen.typical, seen.errors, seen.sizes, kin_of(9)) for _ in range(2)
    )
    drawn = first.sample(np.random.default_rng(4))
    np.testing.assert_array_equal(drawn, again.sample(np.random.default_rng(4)))
    assert (drawn != first.sample(np.random.default_rng(5))).any()


def test_left_out_predictions_are_those_of_the_other_trials(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each is what the belief without that trial predicts, up to the curvature of sums."""
    only(monkeypatch, Hypothesis(spread=0.3, trust=1.0))
    seen = world(8, 12, noise=0.1, spread=0.3)
    errors = seen.errors
    predicted, unsure = believe(seen.features, seen.typical, errors, seen.sizes).left_out()
    for left in range(12):
        kept = np.arange(12) != left
        others = believe(seen.features[kept], seen.typical[kept], errors, seen.sizes)
        expected = np.log(others.typical(seen.features[[left]]))[0]
        assert predicted[left] == pytest.approx(expected, abs=0.03)
        assert 0 < unsure[left] < 0.3


@pytest.mark.parametrize("calibrated", [True, False])
def test_trials_teach_an_additive_truth(calibrated: bool) -> None:
    """Errors off by a factor of 2, or none: predictions get better with trials, and come within a
    few percent of the truth.
    """
    truth = world(20, 120)
    errors = truth.errors * np.random.default_rng(3).lognormal(0, 0.7, 20) if calibrated else None
    misses = [
        miss(
            believe(truth.features[:count], truth.typical[:count], errors, truth.sizes, kin_of(20)),
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
    belief = believe(truth.features, truth.typical, None, truth.sizes)
    np.testing.assert_allclose(belief.damages, truth.damages, atol=0.35 * truth.damages.mean())
    assert np.corrcoef(np.log(belief.damages), np.log(truth.damages))[0, 1] > 0.95


def test_trials_teach_a_limit() -> None:
    """Where no choice exceeds a limit the belief finds one, and predicts small sums better than it
    would without.
    """
    truth = dataclasses.replace(world(20, 48, noise=0.05), limit=0.15)
    errors = truth.errors * np.random.default_rng(3).lognormal(0, 0.5, 20)
    belief = believe(truth.features, truth.typical, errors, truth.sizes, kin_of(20))
    assert belief.hypothesis.limit < math.inf
    assert belief.typical(np.ones((1, 20)) * 100)[0] == pytest.approx(0.15, rel=0.2)
    assert miss(belief, truth) < 0.2
    plain = believe(world(20, 48).features, world(20, 48).typical, errors, truth.sizes, kin_of(20))
    assert plain.hypothesis.limit == math.inf


def test_good_errors_are_trusted() -> None:
    """Errors within 20 % of the truth are trusted in full, and with a few trials predict better
    than no errors do.
    """
    truth = world(30, 10, noise=0.1)
    errors = truth.errors * np.random.default_rng(2).lognormal(0, 0.2, 30)
    told, untold = (
        believe(truth.features, truth.typical, given, truth.sizes, kin_of(30))
        for given in (errors, None)
    )
    assert told.hypothesis.trust >= 1
    many = world(30, 60, noise=0.1)
    assert (
        believe(many.features, many.typical, many.errors, many.sizes, kin_of(30)).hypothesis.trust
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
    belief = believe(truth.features, truth.typical, errors, truth.sizes, kin_of(24))
    alone = believe(
        truth.features[:1], truth.typical[:1], errors, truth.sizes, kin_of(24)
    )  # one trial gives the errors their unit
    assert alone.hypothesis.trust == 1
    assert belief.hypothesis.trust <= (0.0 if misled == "inverse" else 0.5)
    assert miss(belief, truth) < 0.7 * miss(alone, truth)


@pytest.mark.parametrize("unit", [1e-6, 1e3])
@pytest.mark.parametrize("calibrated", [True, False])
def test_units_do_not_matter(unit: float, calibrated: bool) -> None:
    """Another perceptual score, a constant times as large, has the same hypothesis and the same
    damages times that; the units of errors and of latents change nothing.
    """
    seen = world(15, 30, noise=0.2)
    errors = seen.errors if calibrated else None
    latents = seen.typical**0.6
    plain = believe(seen.features, seen.typical, errors, seen.sizes, kin_of(15), latents=latents)
    scaled = believe(
        seen.features,
        seen.typical * unit,
        None if errors is None else errors * unit,
        seen.sizes,
        kin_of(15),
        latents=latents * unit,
    )
    assert scaled.hypothesis == plain.hypothesis
    np.testing.assert_allclose(scaled.damages, unit * plain.damages, rtol=1e-6)


def test_stopped_trials_weigh_less(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial that contradicts the errors moves its items the less, the fewer prompts it saw."""
    only(monkeypatch, Hypothesis())
    seen = world(10, 9)
    typical = seen.typical.copy()
    typical[-1] *= 2
    last = seen.features[-1:]
    predicted = [
        believe(
            seen.features, typical, seen.errors, seen.sizes, shares=np.array([*[1.0] * 8, share])
        ).typical(last)[0]
        for share in (1.0, 0.5, 0.1, 1e-6)
    ]
    assert predicted == sorted(predicted, reverse=True)
    assert predicted[0] < typical[-1]
    whole = believe(seen.features, typical, seen.errors, seen.sizes)
    assert whole.typical(last)[0] == predicted[0]  # no shares: all saw everything


def test_latents_steady_what_scores_say() -> None:
    """Latent errors that follow the true damages on a line of their own make noisy scores predict
    better; where they are noise they change little, and one that is not known is left out.
    """
    truth = world(16, 30, noise=0.5)
    rng = np.random.default_rng(1)
    latents = 3 * truth.of(truth.features) ** 0.6 * np.exp(0.02 * rng.standard_normal(30))

    def missed(given: Array | None) -> float:
        return miss(
            believe(truth.features, truth.typical, None, truth.sizes, kin_of(16), latents=given),
            truth,
        )

    alone = missed(None)
    assert missed(latents) < 0.9 * alone
    assert missed(rng.lognormal(0, 1, 30)) < 1.2 * alone
    assert missed(np.where(np.arange(30) < 26, np.nan, latents)) == alone  # too few for a line
    assert missed(np.where(np.arange(30) < 2, np.nan, latents)) < 0.95 * alone


def test_the_hypothesis_is_that_of_the_last_refit() -> None:
    """Between refits further trials, whatever they score, leave the hypothesis as the refit's own
    trials chose it; refits do change it.
    """
    truth = world(16, 34, noise=0.3)
    rng = np.random.default_rng(0)
    errors = truth.errors[rng.permutation(16)]

    def chosen(count: int, typical: Array) -> Hypothesis:
        return believe(
            truth.features[:count], typical[:count], errors, truth.sizes, kin_of(16)
        ).hypothesis

    found = {count: chosen(count, truth.typical) for count in (0, 3, 4, 5, 8, 11, 12, 24, 31)}
    for count in (3, 5, 11, 31):
        refit = max(r for r in REFITS if r <= count)
        assert found[count] == found[refit]
        wild = np.concatenate([truth.typical[:refit], rng.lognormal(0, 3, 34 - refit)])
        assert chosen(count, wild) == found[refit]
    assert len(set(found.values())) > 1


def test_the_hypothesis_has_the_largest_evidence() -> None:
    """The grid's point with the largest log N(scores; prior's mean, noise + spread) + preference,
    in the model that is linear at the mode, densities written out in full; then its best limit.
    """
    seen = world(9, 8, noise=0.3)
    kin = kin_of(9)

    def density(h: Hypothesis) -> float:
        with pytest.MonkeyPatch.context() as patch:
            only(patch, h)
            belief = believe(seen.features, seen.typical, seen.errors, seen.sizes, kin)
        prior, covariance = prior_of(h, seen, kin)
        slopes = slopes_of(belief, seen.features)
        at_prior = np.log(belief.typical(seen.features)) - slopes @ np.log(belief.damages / prior)
        wrong = np.log(seen.typical) - at_prior
        total = h.noise**2 * np.eye(8) + slopes @ covariance @ slopes.T
        normal = -0.5 * (wrong @ np.linalg.inv(total) @ wrong + np.linalg.slogdet(total)[1])
        return float(normal + h.log_preference)

    best = max(GRID, key=density)
    found = believe(seen.features, seen.typical, seen.errors, seen.sizes, kin).hypothesis
    assert found == max((dataclasses.replace(best, limit=limit) for limit in LIMITS), key=density)


def test_without_trials_damages_lie_between_errors_and_sizes() -> None:
    """They are shares of errors times the root of sizes, or of the sizes alone."""
    seen = world(7, 0)
    sizes = np.arange(1.0, 8.0)
    belief = believe(seen.features, seen.typical, seen.errors, sizes, kin_of(7))
    between = seen.errors * np.sqrt(sizes)
    np.testing.assert_allclose(belief.damages, between / between.sum())
    np.testing.assert_allclose(belief.typical(np.eye(7)), belief.damages)
    np.testing.assert_allclose(
        believe(seen.features, seen.typical, None, sizes, kin_of(7)).damages, sizes / sizes.sum()
    )


def test_one_trial_of_everything_gives_the_unit() -> None:
    """The prior explains the damage of all quantized, so that its damages keep the prior's
    proportions.
    """
    seen = world(7, 1)
    belief = believe(seen.features, np.array([0.25]), seen.errors, seen.sizes, kin_of(7))
    np.testing.assert_allclose(belief.typical(seen.features), 0.25)
    between = seen.errors * np.sqrt(seen.sizes)
    np.testing.assert_allclose(belief.damages / belief.damages.sum(), between / between.sum())


def test_an_error_of_zero_is_a_small_damage_and_not_none() -> None:
    """A group whose calibrated error is 0 still takes part: trials can raise its damage to the
    others'.
    """
    truth = world(4, 64, spread=0.1)
    errors = np.array([0.0, *truth.errors[1:]])
    before = believe(np.zeros((0, 4)), np.zeros(0), errors, truth.sizes)
    after = believe(truth.features, truth.typical, errors, truth.sizes)
    assert (before.damages > 0).all()
    assert after.damages[0] > 0.3 * after.damages.mean()
    assert np.isfinite(after.damages).all()


@pytest.mark.parametrize("calibrated", [True, False])
def test_what_says_nothing_is_not_heard(calibrated: bool) -> None:
    """A trial with nothing quantized, and one with score 0, change neither hypothesis nor damages,
    wherever they stand.
    """
    seen = world(8, 9, noise=0.2)
    errors = seen.errors if calibrated else None
    plain = believe(
        seen.features, seen.typical, errors, seen.sizes, kin_of(8), shares=np.linspace(0.5, 1, 9)
    )
    features = np.insert(
        seen.features, [0, 4, 9], np.stack([np.zeros(8), np.ones(8), np.zeros(8)]), axis=0
    )
    typical, shares = (
        np.insert(seen.typical, [0, 4, 9], [0.0, 0.0, 0.3]),
        np.insert(np.linspace(0.5, 1, 9), [0, 4, 9], 1.0),
    )
    heard = believe(features, typical, errors, seen.sizes, kin_of(8), shares=shares)
    assert heard.hypothesis == plain.hypothesis
    np.testing.assert_array_equal(heard.damages, plain.damages)
    nothing = believe(np.zeros((2, 8)), np.array([0.0, 0.3]), errors, seen.sizes)
    np.testing.assert_array_equal(
        nothing.damages, believe(np.zeros((0, 8)), np.zeros(0), errors, seen.sizes).damages
    )


def test_kin_learn_from_each_other() -> None:
    """A role that does more damage than its errors say is believed worse in bands that no trial
    had; other roles and no kin are not.
    """
    roles = ["a", "a", "a", "b", "b", "b"]
    features = np.array([[1.0, 1, 0, 0, 0, 0], [1, 0, 0, 1, 0, 0], [0, 0, 0, 1, 1, 0]])
    typical = np.array([0.4, 0.25, 0.05])
    errors = np.full(6, 0.1)
    kin = believe(features, typical, errors, np.ones(6), kinship(roles, ["f"] * 6)).damages
    alone = believe(features, typical, errors, np.ones(6)).damages
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


def test_hundreds_of_trials_are_all_heard() -> None:
    """The hypothesis of 300 trials is that of the last refit, the damages are those of all."""
    truth = world(6, 300, noise=0.1)
    known: dict[bytes, Hypothesis] = {}
    first, belief = (
        believe(seen.features, seen.typical, seen.errors, seen.sizes, memory=known)
        for seen in (dataclasses.replace(truth, features=truth.features[:128]), truth)
    )
    assert list(known.values()) == [belief.hypothesis] == [first.hypothesis]
    assert miss(belief, truth) < miss(first, truth) < 0.06
