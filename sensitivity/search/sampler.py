"""Which choice is tried next? `Proposer`s: ours, and Optuna's stock samplers for comparison.

**KnapsackProposer** (the default). The square of LPIPS is close to additive in the groups that are quantized (independent errors add in
quadrature), and seconds are exactly additive. So each proposal is the exact answer to a small question: of all choices that save at least
so many seconds, which one does the present estimate of damage like best? The damage of each (group, option) has a normal prior (mean: the
square of its calibrated error, scaled so that the largest trial's LPIPS comes out right; or equal shares without calibration) and a
posterior after each trial, by Bayesian linear regression. The seconds asked for run through the front: the saving of each hand-made
baseline first, and again every sixth time, else a low-discrepancy sequence (van der Corput, base 2). With calibration the posterior mean
is used; without, a Thompson sample of it, since then there is something to explore. The multiple-choice knapsack is solved by HiGHS
(`scipy.optimize.milp`).

**OptunaProposer**: TPE, NSGA-II or random on one categorical parameter a group.

Both are functions of (seed, trial index, history) alone, so that a study that was interrupted goes on exactly as if it had not been.
"""

import abc
import ctypes
import itertools
import os
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from sensitivity.candidates import Candidates, Choice

Array = NDArray[np.float64]
MAX_TRIES = 40
PRIOR_SPREAD = 1.0  # sd of a group's damage, relative to its prior mean
FLAT_SPREAD = 1.5  # the same without calibration
POWER = 2.0  # LPIPS to this power adds up over groups: independent errors add in quadrature; measured in LOG.md
NOISE = 0.15  # sd of a trial's LPIPS ** POWER around the additive model, relative
RETURN = 6  # every so many proposals answer a baseline's saving again, with what was learnt since
NOISE_FLOOR = 0.01  # the same, relative to the largest seen


class SamplerName(StrEnum):
    """What proposes skip-lists."""

    KNAPSACK = "knapsack"
    TPE = "tpe"
    NSGA2 = "nsga2"
    RANDOM = "random"


@dataclass(frozen=True, kw_only=True, slots=True)
class Observation:
    """One finished trial, as far as proposing needs it."""

    choice: Choice
    lpips: float


class Proposer(abc.ABC):
    """Proposes the choice of trial `index`. `seen`: choices that were scored or failed."""

    def prepare(self, study: optuna.Study, index: int) -> None:  # noqa: B027 - most proposers have nothing to prepare
        """Called before Optuna's `ask`."""

    @abc.abstractmethod
    def propose(self, trial: optuna.Trial, history: Sequence[Observation], seen: AbstractSet[Choice], index: int) -> Choice:
        """The choice to score; one of `seen` where the proposer finds no other."""


class KnapsackProposer(Proposer):
    """See the module.

    Args:
        candidates: groups and gains.
        seed: of Thompson sampling and of tie-breaking.
        errors: {(group, option): calibrated error}, None without calibration.
    """

    def __init__(self, candidates: Candidates, *, seed: int, errors: dict[tuple[int, int], float] | None) -> None:
        self.candidates, self.seed, self.calibrated = candidates, seed, errors is not None
        self.items = [(g, o) for g, group in enumerate(candidates.groups) for o in range(1, len(candidates.formats)) if group.members[o]]
        self.gains = np.array([candidates.groups[g].gains_s[o] for g, o in self.items])
        sizes = np.array([float(len(candidates.groups[g].members[o])) for g, o in self.items])
        self.weights = sizes if errors is None else np.array([errors[item] for item in self.items]) ** POWER
        columns = np.arange(len(self.items))
        groups = np.array([g for g, _ in self.items])
        self.one_each = csr_array((np.ones(len(columns)), (groups, columns)), shape=(len(candidates.groups), len(columns)))

    def propose(self, trial: optuna.Trial, history: Sequence[Observation], seen: AbstractSet[Choice], index: int) -> Choice:  # noqa: ARG002 - the contract
        mean, root = self.posterior(history)
        choice = self.candidates.none_quantized
        for attempt in range(MAX_TRIES):
            rng = np.random.default_rng([self.seed, index, attempt])
            damage = (
                mean
                if self.calibrated and attempt == 0
                else mean + root @ rng.standard_normal(len(mean)) * min(1.0, 0.25 * max(1, attempt))
            )
            choice = self.solve(np.maximum(damage, 1e-9), self.wanted_gain(index, attempt, rng))
            if choice not in seen:
                return choice
        return self._nearest_new(choice, seen)

    def _nearest_new(self, choice: Choice, seen: AbstractSet[Choice]) -> Choice:
        """The choice itself, or else one that was not seen and differs in the fewest groups; no option that costs time is added."""
        others: dict[int, list[int]] = {g: [0] if option else [] for g, option in enumerate(choice)}
        for (group, option), gain in zip(self.items, self.gains, strict=True):
            if gain > 0 and option != choice[group]:
                others[group].append(option)
        free = [group for group, options in others.items() if options]
        for changed in range(len(free) + 1):
            for groups in itertools.combinations(free, changed):
                for options in itertools.product(*(others[g] for g in groups)):
                    found = list(choice)
                    for group, option in zip(groups, options, strict=True):
                        found[group] = option
                    if tuple(found) not in seen:
                        return tuple(found)
        return choice

    def wanted_gain(self, index: int, attempt: int, rng: np.random.Generator) -> float:
        """Seconds that the choice of this trial must save: a baseline's saving first, then a point of the low-discrepancy sequence."""
        most = float(np.maximum.reduceat(np.maximum(self.gains, 0), self._starts()).sum())
        baselines = [self.candidates.rule_of_thumb, *(self.candidates.all_quantized(o) for o in range(1, len(self.candidates.formats)))]
        gains = sorted({self.candidates.bf16_s - self.candidates.latency_s(b) for b in baselines})
        gains = [g for g in gains if 0 < g <= most]
        turn = index if index < len(gains) else index // RETURN
        if attempt == 0 and gains and (index < len(gains) or index % RETURN == RETURN - 1):
            return gains[turn % len(gains)] * (1 - 1e-9)
        share = (
            _van_der_corput(index + 1) if attempt == 0 else (_van_der_corput(index + 1) + rng.normal(0, 0.02 * (1 + attempt / 10))) % 1.0
        )
        return float(most * (0.02 + 0.98 * share))

    def _starts(self) -> list[int]:
        groups = [g for g, _ in self.items]
        return [i for i, g in enumerate(groups) if i == 0 or groups[i - 1] != g]

    def posterior(self, history: Sequence[Observation]) -> tuple[Array, Array]:
        """Mean (D,) of each item's damage and a square root (D, D) of its covariance, given the trials."""
        mean = self.weights * self._scale(history)
        spread = (PRIOR_SPREAD if self.calibrated else FLAT_SPREAD) * mean + 1e-3 * mean.mean()
        if not history:
            return mean, np.diag(spread)
        x = np.array([[float(obs.choice[g] == o) for g, o in self.items] for obs in history])
        y = np.array([obs.lpips for obs in history]) ** POWER
        noise = NOISE * y + NOISE_FLOOR * max(float(y.max()), 1e-9)
        scaled = x * spread / noise[:, None]  # (trials, D)
        precision = np.eye(len(mean)) + scaled.T @ scaled
        chol = np.linalg.cholesky(precision)
        shift = np.linalg.solve(precision, scaled.T @ ((y - x @ mean) / noise))
        return mean + spread * shift, spread[:, None] * np.linalg.inv(chol).T

    def _scale(self, history: Sequence[Observation]) -> float:
        """LPIPS for one unit of prior weight: from the trials with anything quantized, 1 / total before there are any."""
        totals = [
            (sum(w for (g, o), w in zip(self.items, self.weights, strict=True) if obs.choice[g] == o), obs.lpips**POWER) for obs in history
        ]
        totals = [(total, lpips) for total, lpips in totals if total > 0]
        if not totals:
            return 1.0 / float(self.weights.sum())
        weight, lpips = max(totals)
        return float(max(lpips, 1e-6) / weight)

    def solve(self, damage: Array, wanted_gain: float) -> Choice:
        """The choice of least damage that saves at least `wanted_gain` seconds; the one that saves most where none does."""
        unit = float(np.abs(self.gains).max()) or 1.0  # the solver's tolerances are absolute, and a gain may be microseconds
        cover = LinearConstraint(self.gains[None, :] / unit, lb=wanted_gain / unit)
        single = LinearConstraint(self.one_each, ub=1)
        with _quiet_stdout():
            found = milp(
                damage / damage.sum(),
                integrality=np.ones(len(damage)),
                bounds=Bounds(0, 1),
                constraints=[cover, single],
                options={"mip_rel_gap": 1e-4, "time_limit": 2.0},
            )
        picked = np.flatnonzero(found.x > 0.5) if found.x is not None else self._most_gain()
        choice = [0] * len(self.candidates.groups)
        for i in picked:
            group, option = self.items[i]
            choice[group] = option
        return tuple(choice)

    def _most_gain(self) -> list[int]:
        best: dict[int, int] = {}
        for i, (group, _) in enumerate(self.items):
            if self.gains[i] > max(0.0, self.gains[best[group]] if group in best else 0.0):
                best[group] = i
        return list(best.values())


class OptunaProposer(Proposer):
    """One of Optuna's samplers, one categorical parameter a group, seeded anew for each trial."""

    def __init__(self, candidates: Candidates, *, name: SamplerName, seed: int) -> None:
        self.candidates, self.name, self.seed = candidates, name, seed

    def prepare(self, study: optuna.Study, index: int) -> None:
        seed = int(np.random.default_rng([self.seed, index]).integers(2**31))
        samplers: dict[SamplerName, Any] = {
            SamplerName.TPE: lambda: optuna.samplers.TPESampler(seed=seed, n_startup_trials=10),
            SamplerName.NSGA2: lambda: optuna.samplers.NSGAIISampler(seed=seed, population_size=10),
            SamplerName.RANDOM: lambda: optuna.samplers.RandomSampler(seed=seed),
        }
        study.sampler = samplers[self.name]()

    def propose(self, trial: optuna.Trial, history: Sequence[Observation], seen: AbstractSet[Choice], index: int) -> Choice:  # noqa: ARG002 - the contract
        return tuple(trial.suggest_categorical(g.name, list(range(len(self.candidates.formats)))) for g in self.candidates.groups)

    def parameters(self, choice: Choice) -> dict[str, int]:
        """The parameters of a given choice, to enqueue a baseline."""
        return {group.name: option for group, option in zip(self.candidates.groups, choice, strict=True)}


def make_proposer(name: SamplerName, candidates: Candidates, *, seed: int, errors: dict[tuple[int, int], float] | None) -> Proposer:
    """The proposer of this name. `errors` matters to the knapsack only."""
    if name is SamplerName.KNAPSACK:
        return KnapsackProposer(candidates, seed=seed, errors=errors)
    return OptunaProposer(candidates, name=name, seed=seed)


@contextmanager
def _quiet_stdout() -> Iterator[None]:
    """The process's stdout leads nowhere inside: HiGHS (scipy 1.17) now and then prints a line of debugging, and stdout may be our JSON."""
    try:
        flush, kept = ctypes.CDLL(None).fflush, os.dup(1)
    except (OSError, TypeError, AttributeError):  # no stdout, or no C library to ask (Windows)
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    flush(None)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        flush(None)
        os.dup2(kept, 1)
        os.close(nowhere)
        os.close(kept)


def _van_der_corput(n: int) -> float:
    """The n-th number of the base-2 van der Corput sequence, in (0, 1)."""
    value, base = 0.0, 0.5
    while n:
        value += base * (n & 1)
        n, base = n >> 1, base / 2
    return value
