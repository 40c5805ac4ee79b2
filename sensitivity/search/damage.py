"""What does each group's format do to the pictures? A posterior over damages that add up.

Model. The typical damage of a choice (`fidelity.typical`) is a function of a sum over groups:
log typical = log g(S) + noise, where S = sum of damage[g, option of g]. The link g is the identity,
or g(S) = limit * (1 - exp(-S / limit)) where pictures cannot get much worse. Each damage is
lognormal. Its prior median is the calibrated error to the power of `trust`, times the root of the
group's size. `trust` is 1 by default; it may become 1.5, 1/2, or 0, where the size alone gives the
median (in case the calibration is misleading). The standard deviation of a damage's logarithm is
`spread`, that of a score's logarithm `noise`.

Latents. A trial's latents have an error of their own, whose logarithm is a line of that of the
typical damage. It is steadier, since latents do not flip to another picture. So what a trial tells
is the mean of its score and of what the line says, weighted by their precisions. The squared
distance of the trials from the line is the sum of both variances.

The posterior is computed by Gauss-Newton steps to its mode. Each step is Bayesian linear regression
(Bishop 2006, "Pattern Recognition and Machine Learning", section 3.3), in the form of the trials'
own n x n matrix, since there are fewer trials than damages. At the mode the same linear model gives
uncertainties (Laplace's approximation; the same book, section 4.4).

Steps. Under a step policy an item does a part of its damage (`search.step_table`), and features
have that part instead of 1. The measured profile of the steps may mislead, as errors may. So it has
a power of its own, `step_trust`: 1, 1/2, or 0, where each step does as much as any other. `believe`
takes the features with the other powers as `flatter`.

trust, spread, noise and limit are the point of a small grid with the largest marginal likelihood
(section 3.5), times a mild preference for values that worked in simulations and on tiny-flux
(LOG.md). Values of step_trust are compared at that point, with noise and spread weighed again. All
are chosen again at a few trial counts only (`REFITS`), from the trials up to there. So a continued
search has the same posterior as an uninterrupted one.

    belief = believe(features, typical, errors, sizes, kin)
    belief.damages                  # (D,)
    belief.typical(features)        # (n,) predicted

Shapes. n trials; D items, which are (group, option) pairs; m shared deviations. features (n, D) is
1 where a trial's choice takes the item, or the part that its step policy leaves; typical (n,);
errors (D,) or None; sizes (D,); kin (D, m).
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

REFITS = (0, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
"""Trial counts at which the hypothesis is chosen again. By the last it is well known."""
OWN, ROLE, FORMAT = 0.4, 0.4, 0.2
"""Parts of a log damage's variance that are its own, and shared with its role and its format."""
FEWEST_LATENTS = 10
"""Trials with a latent error that the line from it to the damage needs."""
STEPS = 12
"""Gauss-Newton steps, at most."""
LARGEST_STEP, DONE = 1.5, 1e-3
"""A step changes no log damage by more than the one; below the other the mode is reached."""


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One point of the grid.

    Attributes:
        trust: power of the calibrated errors in the prior median; 0: the sizes alone give it.
        spread: standard deviation of the logarithm of a damage.
        noise: standard deviation of the logarithm of a score.
        limit: typical damage that no choice exceeds, as a multiple of the largest score.
        step_trust: power of the measured shares of a run's steps; 0: all steps do the same.
    """

    trust: float = 1.0
    spread: float = 0.7
    noise: float = 0.2
    limit: float = math.inf
    step_trust: float = 1.0

    @property
    def log_preference(self) -> float:
        """Log prior weight, largest at the defaults: other values need evidence from trials."""
        return (
            -2.0 * abs(self.trust - 1.0)
            - 0.5 * (self.spread != 0.7)
            - 0.5 * (self.noise != 0.2)
            - 2.0 * (self.limit != math.inf)
            - 2.0 * abs(self.step_trust - 1.0)
        )


SPREADS, NOISES = (0.35, 0.7, 1.2), (0.1, 0.2, 0.4)
GRID = tuple(
    Hypothesis(*values) for values in itertools.product((1.5, 1.0, 0.5, 0.0), SPREADS, NOISES)
)
LIMITS = (math.inf, 1.1)
"""Weighed for the best point of the grid only."""
DEFAULT = Hypothesis()
FLAT = Hypothesis(trust=0.0, spread=1.2)


@dataclass(frozen=True)
class _Trials:
    """The informative trials, and what is known of the items beforehand."""

    features: Array  # (n, D) with the profile as measured
    flatter: Mapping[float, Array]  # {step_trust: (n, D) features}
    logs: Array  # (n,) of typical damages
    latents: Array  # (n,) logarithms of latent errors, NaN where unknown
    shares: Array  # (n,)
    errors: Array | None  # (D,)
    sizes: Array  # (D,)
    kin: Array  # (D, m)

    def first(self, count: int) -> "_Trials":
        """The first `count` trials."""
        rows = ("features", "logs", "latents", "shares")
        kept = {name: getattr(self, name)[:count] for name in rows}
        return replace(
            self, **kept, flatter={power: own[:count] for power, own in self.flatter.items()}
        )

    def under(self, step_trust: float) -> Array:
        """(n, D) features with this power of the measured profile."""
        return self.features if step_trust == 1.0 else self.flatter[step_trust]

    def heard(self, noise: float) -> tuple[Array, Array]:
        """(n,) logarithms of the damages that the trials tell, and (n,) their standard deviations.

        Each is the mean of two measurements, weighted by their precisions: the score, with this
        noise, and what the latents' error says of it (see the module).
        """
        own = noise / np.sqrt(self.shares)
        known = np.isfinite(self.latents) & (self.shares == 1.0)
        if known.sum() < FEWEST_LATENTS or np.ptp(self.latents[known]) < 1e-6:
            return self.logs, own
        x, y = self.latents[known], self.logs[known]
        slope, level = np.polyfit(x, y, 1)
        apart = float(((y - level - slope * x) ** 2).sum() / (known.sum() - 2))
        precision = np.zeros(len(own))
        precision[known] = 1 / max(apart - noise**2, apart / 4, 1e-6)
        second = np.where(known, level + slope * np.nan_to_num(self.latents), 0.0)
        total = own**-2 + precision
        return (self.logs * own**-2 + second * precision) / total, total**-0.5

    @property
    def own(self) -> float:
        """The part of a log damage's variance that is its own."""
        return OWN if self.kin.shape[1] else 1.0

    @property
    def key(self) -> bytes:
        """Tells trials of the same items apart."""
        return b"".join(
            each.tobytes() for each in (self.features, self.logs, self.latents, self.shares)
        )


@dataclass(frozen=True)
class Belief:
    """Posterior over damages under one hypothesis.

    The fields below `limit` are the linear model at the mode: scores as functions of the log
    damages' deviations from the prior.

    Attributes:
        hypothesis: the grid point.
        damages: (D,) at the posterior's mode, each above 0, in units of typical damage.
        prior: (D,) damages before any trial, in the same units.
        limit: typical damage that no choice exceeds.
    """

    hypothesis: Hypothesis
    damages: Array
    prior: Array
    limit: float
    _trials: _Trials = field(repr=False)
    _scores: Array = field(repr=False)  # (n,) logarithms that the trials tell
    _noise: Array = field(repr=False)  # (n,) their standard deviations
    _slopes: Array = field(repr=False)  # (n, D)
    _wrong: Array = field(repr=False)  # (n,) scores minus the prior's, in units of noise
    _chol: Array = field(repr=False)  # (n, n) factor of the scores' covariance, in units of noise

    def typical(self, features: Array) -> Array:
        """(n,) predicted typical damages of choices, features (n, D) with the
        `step_trust` of `hypothesis`.
        """
        return self.link(features @ self.damages)

    def link(self, sums: Array) -> Array:
        """(n,) typical damages of sums of damages."""
        return sums if self.limit == math.inf else -self.limit * np.expm1(-sums / self.limit)

    def left_out(self) -> tuple[Array, Array]:
        """Leave-one-out prediction of each informative trial from all others, in their order.

        Source: Rasmussen and Williams 2006, "Gaussian Processes for Machine Learning", equation
        5.12.

        Returns:
            (n,) logarithms of the predicted typical damages, and (n,) the standard deviation of
            that prediction from uncertainty of the damages, noise not included.
        """
        inverse = np.linalg.inv(self._chol @ self._chol.T)
        precision = np.diag(inverse)
        wrong = self._noise * (inverse @ self._wrong) / precision
        return self._scores - wrong, self._noise * np.sqrt(np.maximum(1 / precision - 1, 0.0))

    def sample(self, rng: np.random.Generator) -> Array:
        """(D,) one sample of the damages.

        By Matheron's rule: a sample of the prior, corrected by its error on the trials.
        """
        kin = self._trials.kin
        deviation = self.hypothesis.spread * (
            self._trials.own**0.5 * rng.standard_normal(len(self.damages))
            + kin @ rng.standard_normal(kin.shape[1])
        )
        if len(self._noise):
            wrong = self._slopes @ deviation / self._noise
            deviation -= self._correction(wrong + rng.standard_normal(len(wrong)))
        return np.asarray(self.damages * np.exp(deviation))

    def _correction(self, wrong: Array) -> Array:
        """(D,) the posterior change of the deviations for errors (n,) in units of noise."""
        solved = np.linalg.solve(self._chol.T, np.linalg.solve(self._chol, wrong))
        pull, kin = self._slopes.T @ (solved / self._noise), self._trials.kin
        return np.asarray(
            self.hypothesis.spread**2 * (self._trials.own * pull + kin @ (kin.T @ pull))
        )

    @property
    def _log_density(self) -> float:
        """Log density of the scores times the preference, up to a constant of all hypotheses."""
        errors = np.linalg.solve(self._chol, self._wrong)
        spread = np.log(np.diag(self._chol)).sum() + np.log(self._noise).sum()
        return float(-0.5 * errors @ errors - spread) + self.hypothesis.log_preference


def believe(
    features: Array,
    typical: Array,
    errors: Array | None,
    sizes: Array,
    kin: Array | None = None,
    *,
    shares: Array | None = None,
    latents: Array | None = None,
    flatter: Mapping[float, Array] | None = None,
    memory: dict[bytes, Hypothesis] | None = None,
) -> Belief:
    """The posterior after these trials.

    Trials with nothing quantized, or with a score of 0, are ignored.

    Args:
        features: (n, D) 1 where a trial's choice takes the item; what its step policy leaves, else.
        typical: (n,) typical damages; of stopped trials estimates, see `shares`.
        errors: (D,) calibrated errors, None without calibration.
        sizes: (D,) prior damages up to a factor, for items without calibration or without trust in
            it.
        kin: (D, m) loadings on shared deviations (`kinship`); None: there are none.
        shares: (n,) part of the prompts that each trial saw; None: all of them.
        latents: (n,) typical errors of the trials' latents, each above 0, NaN where unknown; None:
            none is known.
        flatter: {step_trust: (n, D) features}, for values other than 1; None: there are no step
            policies to tell apart.
        memory: hypotheses that were chosen before, by a caller with the same items; filled here.
    """
    informative = features.any(1) & (typical > 0)
    trials = _Trials(
        features[informative],
        {power: own[informative] for power, own in (flatter or {}).items()},
        np.log(typical[informative]),
        np.full(informative.sum(), np.nan) if latents is None else np.log(latents[informative]),
        np.ones(int(informative.sum())) if shares is None else shares[informative],
        errors,
        sizes,
        np.zeros((len(sizes), 0)) if kin is None else kin,
    )
    refit = max((count for count in REFITS if count <= len(trials.logs)), default=0)
    first, memory = trials.first(refit), {} if memory is None else memory
    if first.key not in memory:
        memory[first.key] = _choose(first)
    return _posterior(memory[first.key], trials)


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
    if not len(trials.logs):
        return DEFAULT if trials.errors is not None else FLAT

    def density(hypothesis: Hypothesis) -> float:
        return _posterior(hypothesis, trials)._log_density

    best = max((h for h in GRID if trials.errors is not None or not h.trust), key=density)
    if trials.flatter:
        best = max([best, *_flatter(best, trials)], key=density)
    return max((replace(best, limit=limit) for limit in LIMITS), key=density)


def _flatter(best: Hypothesis, trials: _Trials) -> list[Hypothesis]:
    """Hypotheses with other powers of the profile. A wrong profile looks like noise or like damages
    far from their prior, so noise and spread are weighed again.
    """
    return [
        replace(best, step_trust=trust, spread=spread, noise=noise)
        for trust, spread, noise in itertools.product(trials.flatter, SPREADS, NOISES)
    ]


def _prior(hypothesis: Hypothesis, trials: _Trials) -> Array:
    """(D,) prior medians of the damages: errors to the power of `trust` times the root of sizes, or
    sizes alone, in the unit that explains the scores best.
    """
    weights = trials.sizes
    if trials.errors is not None and hypothesis.trust:
        weights = np.maximum(trials.errors, 1e-12) ** hypothesis.trust * trials.sizes**0.5
    if not len(trials.logs):
        return np.asarray(weights / weights.sum())
    sums = trials.under(hypothesis.step_trust) @ weights
    return np.asarray(weights * np.exp(np.average(trials.logs - np.log(sums), weights=sums)))


def _posterior(hypothesis: Hypothesis, trials: _Trials) -> Belief:
    """The mode of the posterior, and the linear model there."""
    prior, spread = _prior(hypothesis, trials), hypothesis.spread
    scores, noise = trials.heard(hypothesis.noise)
    limit = hypothesis.limit * math.exp(trials.logs.max()) if len(trials.logs) else math.inf
    features = trials.under(hypothesis.step_trust)
    deviation = np.zeros(len(prior))  # of log damages
    for _ in range(STEPS):
        damages = prior * np.exp(deviation)
        sums = features @ damages
        logs, slope = np.log(sums), np.ones(len(sums))
        if limit < math.inf:
            logs = np.log(-limit * np.expm1(-sums / limit))
            slope = sums / limit / np.expm1(sums / limit)  # d log g / d log S
        slopes = features * damages * (slope / sums)[:, None]
        wrong = (scores - logs + slopes @ deviation) / noise
        scaled = slopes * spread / noise[:, None]
        shared = scaled @ trials.kin
        chol = np.linalg.cholesky(
            np.eye(len(noise)) + trials.own * scaled @ scaled.T + shared @ shared.T
        )
        belief = Belief(
            hypothesis,
            damages,
            prior,
            limit,
            trials,
            scores,
            noise,
            slopes,
            wrong,
            np.asarray(chol),
        )
        step = belief._correction(wrong) - deviation
        largest = float(np.abs(step).max(initial=0.0))
        deviation = deviation + step * min(1.0, LARGEST_STEP / max(largest, 1e-12))
        if largest < DONE:
            break
    return replace(belief, damages=prior * np.exp(deviation))
