"""What does each group's format do to LPIPS? A posterior over additive damages.

Model. LPIPS to the power q is a sum over groups: LPIPS(choice)^q = sum of damage[g, option of g],
with q between 1 (errors that line up) and 2 (independent errors). Each damage has a normal prior.
Its mean is a weighted geometric mean of the calibrated error to the power q and of the group's
size. The weight of the error, `trust`, is 1/2 by default; it may become 1, 4/3 or 0 (in case the
calibration is misleading). Its standard deviation is `spread` times that mean. A trial observes its
sum with a relative error `noise`. The posterior is Bayesian linear regression (Bishop 2006,
"Pattern Recognition and Machine Learning", section 3.3), in the form of the trials' own n x n
matrix, since there are fewer trials than damages.

q, trust, spread and noise are the point of a small grid with the largest marginal likelihood (the
same book, section 3.5), times a mild preference for values that worked on tiny-flux (LOG.md). They
are chosen again at a few trial counts only (`REFITS`), from the trials up to there. So a continued
search has the same posterior as an uninterrupted one.

    belief = believe(features, lpips, errors, sizes, kin)
    belief.mean                   # (D,) damages
    belief.lpips(features)        # (n,) predicted

Shapes. n trials; D items, which are (group, option) pairs; m shared deviations. features (n, D) is
1 where a trial's choice takes the item; lpips (n,); errors (D,) or None; sizes (D,); kin (D, m).

What the additive part leaves over was uncorrelated between two sets of prompts on tiny-flux (2,149
skip-lists, correlation -0.02). It is noise of the prompts, and `belief.lpips` of a scored skip-list
predicts other prompts better than the score itself.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

REFITS = (0, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
"""Trial counts at which the hypothesis is chosen again."""
FLOOR = 0.01
"""Noise of a very small score, relative to the largest expected one."""
LEAST = 0.02
"""A damage is at least this part of its prior mean: no format is free."""
EVIDENCE_TRIALS = 128
"""Trials, at most, that the marginal likelihood is computed from."""
OWN, ROLE, FORMAT = 0.4, 0.4, 0.2
"""Parts of a damage's variance that are its own, and shared with its role and with its format."""


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One point of the grid.

    Attributes:
        power: q, the power to which LPIPS is additive.
        trust: weight of the calibrated errors in the prior mean; the rest is that of the sizes.
        spread: standard deviation of a damage, relative to its prior mean.
        noise: standard deviation of a score, relative to its expectation.
    """

    power: float = 1.5
    trust: float = 0.5
    spread: float = 1.0
    noise: float = 0.35

    @property
    def log_preference(self) -> float:
        """Log prior weight, largest at the defaults: other values need evidence from trials."""
        return (
            -1.0 * (self.power != 1.5)
            - 3.0 * abs(self.trust - 0.5)
            - 0.5 * (self.spread != 1.0)
            - 0.5 * (self.noise != 0.35)
        )


GRID = tuple(
    Hypothesis(*values)
    for values in itertools.product(
        (1.0, 1.5, 2.0), (4 / 3, 1.0, 0.5, 0.0), (0.4, 1.0, 2.5), (0.2, 0.35, 0.6)
    )
)
DEFAULT = Hypothesis()
FLAT = Hypothesis(trust=0.0, spread=1.5)


@dataclass(frozen=True)
class _Trials:
    """The informative trials, and what is known of the items beforehand."""

    features: Array  # (n, D)
    lpips: Array  # (n,)
    shares: Array  # (n,)
    errors: Array | None  # (D,)
    sizes: Array  # (D,)
    kin: Array  # (D, m)

    def first(self, count: int) -> "_Trials":
        """The first `count` trials, thinned evenly to at most `EVIDENCE_TRIALS`."""
        kept = (
            np.arange(count)
            if count <= EVIDENCE_TRIALS
            else np.linspace(0, count - 1, EVIDENCE_TRIALS).astype(int)
        )
        return _Trials(
            self.features[kept],
            self.lpips[kept],
            self.shares[kept],
            self.errors,
            self.sizes,
            self.kin,
        )


@dataclass(frozen=True)
class Belief:
    """Posterior over damages under one hypothesis.

    Attributes:
        hypothesis: the grid point.
        mean: (D,) expected damages, each above 0, in units of LPIPS to the power.
        prior: (D,) expected damages before any trial, in the same units.
    """

    hypothesis: Hypothesis
    mean: Array
    prior: Array
    _trials: _Trials = field(repr=False)
    _deviation: Array = field(repr=False)
    _noise: Array = field(repr=False)
    _chol: Array = field(repr=False)

    def lpips(self, features: Array) -> Array:
        """(n,) predicted LPIPS of choices, features (n, D)."""
        return np.asarray(np.maximum(features @ self.mean, 0.0) ** (1 / self.hypothesis.power))

    def left_out(self) -> tuple[Array, Array]:
        """Leave-one-out prediction of each informative trial from all others, in their order.

        Source: Rasmussen and Williams 2006, "Gaussian Processes for Machine Learning", equation
        5.12.

        Returns:
            (n,) predicted LPIPS, and (n,) the relative standard deviation of that prediction from
            uncertainty of the damages, noise not included.
        """
        inverse = np.linalg.inv(self._chol @ self._chol.T)
        power, precision = self.hypothesis.power, np.diag(inverse)
        target = self._trials.lpips**power
        wrong = inverse @ ((target - self._trials.features @ self.prior) / self._noise)
        predicted = np.maximum(target - self._noise * wrong / precision, 1e-3 * target)
        unsure = self._noise * np.sqrt(np.maximum(1 / precision - 1, 0.0))
        return np.asarray(predicted ** (1 / power)), np.asarray(unsure / (power * predicted))

    def sample(self, rng: np.random.Generator) -> Array:
        """(D,) one sample of the damages.

        By Matheron's rule: a sample of the prior, corrected by its error on the trials.
        """
        kin = self._trials.kin
        deviation = self._deviation * (
            (OWN if kin.shape[1] else 1.0) ** 0.5 * rng.standard_normal(len(self.mean))
            + kin @ rng.standard_normal(kin.shape[1])
        )
        if len(self._noise):
            wrong = self._trials.features @ deviation / self._noise + rng.standard_normal(
                len(self._noise)
            )
            deviation = deviation - _correction(
                self._trials, self._deviation, self._noise, self._chol, wrong
            )
        return np.asarray(np.maximum(self.mean + deviation, LEAST * self.prior))


def believe(
    features: Array,
    lpips: Array,
    errors: Array | None,
    sizes: Array,
    kin: Array | None = None,
    *,
    shares: Array | None = None,
    memory: dict[bytes, Hypothesis] | None = None,
) -> Belief:
    """The posterior after these trials.

    Trials with nothing quantized, or with a score of 0, are ignored.

    Args:
        features: (n, D) 1 where a trial's choice takes the item.
        lpips: (n,) scores; of stopped trials estimates, see `shares`.
        errors: (D,) calibrated errors, None without calibration.
        sizes: (D,) prior damages up to a factor, for items without calibration or without trust in
            it.
        kin: (D, m) loadings on shared deviations (`kinship`); None: there are none.
        shares: (n,) part of the prompts that each trial saw; None: all of them.
        memory: hypotheses that were chosen before, by a caller with the same items; filled here.
    """
    informative = features.any(1) & (lpips > 0)
    kin = np.zeros((len(sizes), 0)) if kin is None else kin
    shares = np.ones(len(lpips)) if shares is None else shares
    trials = _Trials(
        features[informative], lpips[informative], shares[informative], errors, sizes, kin
    )
    refit = max((count for count in REFITS if count <= len(trials.lpips)), default=0)
    first, memory = trials.first(refit), {} if memory is None else memory
    key = first.features.tobytes() + first.lpips.tobytes() + first.shares.tobytes()
    if key not in memory:
        memory[key] = _choose(first)
    return _posterior(memory[key], trials)


def kinship(roles: Sequence[str], formats: Sequence[str]) -> Array:
    """(D, m) loadings of items on the deviations that they share with their role and their format.

    Args:
        roles: (D,) the role of each item.
        formats: (D,) the format of each item.
    """
    columns = [
        [weight**0.5 * (name == other) for name in names]
        for names, weight in ((roles, ROLE), (formats, FORMAT))
        for other in dict.fromkeys(names)
    ]
    return np.array(columns, dtype=np.float64).T


def _choose(trials: _Trials) -> Hypothesis:
    """The hypothesis with the largest evidence (marginal likelihood) times preference."""
    if not len(trials.lpips):
        return DEFAULT if trials.errors is not None else FLAT
    grid = GRID if trials.errors is not None else tuple(h for h in GRID if h.trust == 0.0)
    return max(
        grid, key=lambda hypothesis: _log_evidence(hypothesis, trials) + hypothesis.log_preference
    )


def _prior(hypothesis: Hypothesis, trials: _Trials) -> tuple[Array, Array, Array]:
    """Prior mean (D,) and standard deviation (D,), and noise of each trial (n,).

    All are in units of LPIPS to the power.
    """
    weights = _weights(hypothesis, trials)
    scale = 1.0 / float(weights.sum())
    if len(trials.lpips):
        sums = trials.features @ weights
        scale = float(
            np.exp(np.average(np.log(trials.lpips**hypothesis.power / sums), weights=sums))
        )
    mean = weights * scale
    deviation = hypothesis.spread * mean + 1e-3 * float(mean.mean())
    expected = trials.features @ mean
    noise = hypothesis.noise * hypothesis.power / 1.5 * expected + FLOOR * float(
        expected.max(initial=0.0)
    )
    return mean, deviation, noise / np.sqrt(trials.shares)


def _weights(hypothesis: Hypothesis, trials: _Trials) -> Array:
    """(D,) prior damages up to a factor: the geometric mean of errors and sizes, weighted by
    `trust`.
    """
    if trials.errors is None or hypothesis.trust == 0.0:
        return trials.sizes
    logs = hypothesis.power * np.log(np.maximum(trials.errors, 1e-12))
    return np.asarray(
        np.exp(hypothesis.trust * logs + (1 - hypothesis.trust) * np.log(trials.sizes))
    )


def _factor(trials: _Trials, deviation: Array, noise: Array) -> Array:
    """Cholesky factor (n, n) of the trials' covariance in units of their noise."""
    scaled = trials.features * deviation / noise[:, None]
    shared = scaled @ trials.kin
    own = OWN if trials.kin.shape[1] else 1.0
    return np.asarray(
        np.linalg.cholesky(np.eye(len(noise)) + own * scaled @ scaled.T + shared @ shared.T)
    )


def _log_evidence(hypothesis: Hypothesis, trials: _Trials) -> float:
    """Log density of the scores, up to a constant that all hypotheses share."""
    target = trials.lpips**hypothesis.power
    mean, deviation, noise = _prior(hypothesis, trials)
    chol = _factor(trials, deviation, noise)
    residual = np.linalg.solve(chol, (target - trials.features @ mean) / noise)
    # The density is one of LPIPS, not of its power.
    jacobian = np.log(hypothesis.power * target / trials.lpips).sum()
    return float(
        -0.5 * residual @ residual - np.log(np.diag(chol)).sum() - np.log(noise).sum() + jacobian
    )


def _correction(
    trials: _Trials, deviation: Array, noise: Array, chol: Array, wrong: Array
) -> Array:
    """(D,) the posterior change of the damages for errors `wrong` (n,) of the trials, in units of
    their noise.
    """
    solved = np.linalg.solve(chol.T, np.linalg.solve(chol, wrong))
    pull = (trials.features * deviation).T @ (solved / noise)
    own = OWN if trials.kin.shape[1] else 1.0
    return np.asarray(deviation * (own * pull + trials.kin @ (trials.kin.T @ pull)))


def _posterior(hypothesis: Hypothesis, trials: _Trials) -> Belief:
    prior, deviation, noise = _prior(hypothesis, trials)
    if not len(trials.lpips):
        return Belief(hypothesis, prior, prior, trials, deviation, noise, np.zeros((0, 0)))
    chol = _factor(trials, deviation, noise)
    wrong = (trials.lpips**hypothesis.power - trials.features @ prior) / noise
    mean = prior + _correction(trials, deviation, noise, chol, wrong)
    return Belief(
        hypothesis, np.maximum(mean, LEAST * prior), prior, trials, deviation, noise, chol
    )
