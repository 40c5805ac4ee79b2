"""Which choice is tried next? `Proposer`s: ours, and Optuna's stock samplers for comparison.

**KnapsackProposer** (the default). LPIPS to a power is close to additive in the groups that are
quantized, and seconds are exactly additive. So a proposal answers two questions. Which saving is
worth a trial: the one where the present estimate of the front would add most hypervolume to what
has been tried (both by the same estimate, so that no lucky score blocks its place). And which
choice has that saving at least damage: a knapsack, solved exactly (`search.knapsack`). The damages
are the posterior means of `search.damage`: calibrated errors, corrected by every trial, and doubted
where trials contradict them. Samples of the posterior are drawn only where the mean's choices have
all been tried: in every simulation and in a real search exploring for its own sake cost more than
it brought (LOG.md).

**OptunaProposer**: any Optuna sampler by name, one categorical parameter a group.

Both are functions of (seed, trial index, history) alone, so that a study that was interrupted goes
on exactly as if it had not been.
"""

import abc
import importlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.samplers import BaseSampler

from sensitivity.core.format_name import FormatName
from sensitivity.errors import UserError
from sensitivity.search.block_patterns import RECOMPILE_LIMIT, BlockPatterns
from sensitivity.search.candidates import Candidates, Choice
from sensitivity.search.damage import Belief, Hypothesis, believe, kinship
from sensitivity.search.knapsack import Knapsack

Array = NDArray[np.float64]
SAVINGS = 96  # savings that a proposal weighs against each other
CURVE_PRICES = 128
MAX_TRIES = 24
TOLD = {
    FormatName.FP8: 0.5,
    FormatName.MXFP8: 0.5,
}  # part of the spread of calibrated errors that is believed; 1 where not listed
FORMAT_ERRORS = {FormatName.FP8: 0.037, FormatName.MXFP8: 0.037, FormatName.NVFP4: 0.134}
"""Relative error of a product of normal operands, both quantized (512 x 1024 x 512, by emulation):
what a format does before anything is known of a layer.
"""


class SamplerName(str):
    """What proposes skip-lists:

    "knapsack", a short name of one of Optuna's samplers, or `module:Class` of any other.

    Raises:
        UserError: neither; the message lists what there is.
    """

    __slots__ = ()
    KNAPSACK: ClassVar["SamplerName"]

    def __new__(cls, name: str) -> "SamplerName":
        """See the class."""
        if name != "knapsack" and name not in STOCK and ":" not in name:
            raise UserError(
                f"--sampler is {name!r}; allowed are knapsack, Optuna's {', '.join(STOCK)}, or any"
                " other as module:Class, such as my_package.samplers:MySampler"
            )
        return super().__new__(cls, name)

    @property
    def value(self) -> str:
        """The plain name."""
        return str(self)


STOCK: dict[str, Callable[[int], BaseSampler]] = {
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed, n_startup_trials=10),
    "nsga2": lambda seed: optuna.samplers.NSGAIISampler(seed=seed, population_size=10),
    "nsga3": lambda seed: optuna.samplers.NSGAIIISampler(seed=seed, population_size=10),
    "gp": lambda seed: optuna.samplers.GPSampler(seed=seed),
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
}
"""Optuna's own samplers that take categories and two objectives, seeded."""
SamplerName.KNAPSACK = SamplerName("knapsack")


def stock_sampler(name: SamplerName, *, seed: int) -> BaseSampler:
    """One of Optuna's samplers, or a class of another package.

    Raises:
        UserError: no such module or class, it is no sampler, or it does not take a seed.
    """
    if name in STOCK:
        return STOCK[name](seed)
    module, _, attribute = name.partition(":")
    try:
        made = getattr(importlib.import_module(module), attribute)(seed=seed)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise UserError(
            f"--sampler {name} cannot be made ({type(error).__name__}: {error}); allowed is the"
            " class of an Optuna sampler that takes seed=: correct it"
        ) from None
    if not isinstance(made, BaseSampler):
        raise UserError(
            f"--sampler {name} is a {type(made).__name__}; allowed is a subclass of"
            " optuna.samplers.BaseSampler: name one"
        )
    return made


@dataclass(frozen=True, kw_only=True, slots=True)
class Observation:
    """One finished trial, as far as proposing needs it."""

    choice: Choice
    lpips: float
    share: float = 1.0  # part of the prompts that were scored


class Proposer(abc.ABC):
    """Proposes the choice of trial `index`. `seen`: choices that were scored or failed."""

    def prepare(self, study: optuna.Study, index: int) -> None:  # noqa: B027 - most proposers have nothing to prepare
        """Called before Optuna's `ask`."""

    @abc.abstractmethod
    def propose(
        self,
        trial: optuna.Trial,
        history: Sequence[Observation],
        seen: AbstractSet[Choice],
        index: int,
    ) -> Choice:
        """The choice to score; one of `seen` where the proposer finds no other."""


class KnapsackProposer(Proposer):
    """See the module.

    Args:
        candidates: groups and gains.
        seed: of the savings that are weighed, and of posterior samples.
        errors: {(group, option): calibrated error}, None without calibration.
        limit: distinct patterns that the blocks of a stack may have (`search.block_patterns`).
    """

    def __init__(
        self,
        candidates: Candidates,
        *,
        seed: int,
        errors: dict[tuple[int, int], float] | None,
        limit: int = RECOMPILE_LIMIT,
    ) -> None:
        self.candidates, self.seed = candidates, seed
        groups, options = len(candidates.groups), len(candidates.formats)
        allowed = np.array(
            [
                [not o or bool(group.members[o]) for o in range(options)]
                for group in candidates.groups
            ]
        )
        self.gains = np.array([group.gains_s for group in candidates.groups])
        self.knapsack = Knapsack(self.gains, allowed)
        self.patterns = BlockPatterns(candidates, limit=limit)
        self.items = [(g, o) for g in range(groups) for o in range(1, options) if allowed[g, o]]
        self._group, self._option = np.array(self.items).T
        self.sizes = np.array(
            [
                len(candidates.groups[g].members[o])
                * FORMAT_ERRORS.get(candidates.formats[o], 0.1) ** 1.5
                for g, o in self.items
            ]
        )
        roles = [candidates.groups[g].name.partition("[")[0] for g, _ in self.items]
        self.kin = kinship(roles, [str(candidates.formats[o]) for _, o in self.items])
        self.errors = None if errors is None else self._comparable(errors)
        self._memory: dict[bytes, Hypothesis] = {}
        self._baseline_savings = [
            candidates.bf16_s - candidates.latency_s(choice) for choice in self._baselines()
        ]

    def _comparable(self, errors: Mapping[tuple[int, int], float]) -> Array:
        """(D,) calibrated errors, each format's brought to the geometric mean that the format alone
        lets expect.

        Errors of one format rank its groups; between formats they mislead, since rounding to bf16
        puts a floor under the small ones (LOG.md). Around that mean an eight-bit format's errors
        say half as much.
        """
        values = np.log(np.maximum([errors[item] for item in self.items], 1e-12))
        result = np.empty(len(values))
        for option, fmt in enumerate(self.candidates.formats):
            of_format = self._option == option
            if of_format.any():
                told = TOLD.get(fmt, 1.0) * (values[of_format] - values[of_format].mean())
                result[of_format] = np.log(FORMAT_ERRORS.get(fmt, 0.1)) + told
        return np.exp(result)

    def features(self, choices: Sequence[Choice]) -> Array:
        """(n, D) 1 where a choice takes the item's option."""
        table = np.asarray(choices, dtype=np.int64).reshape(
            len(choices), len(self.candidates.groups)
        )
        return np.asarray(table[:, self._group] == self._option, dtype=np.float64)

    def believe(self, history: Sequence[Observation]) -> Belief:
        """What the trials say about damages."""
        return believe(
            self.features([obs.choice for obs in history]),
            np.array([obs.lpips for obs in history]),
            self.errors,
            self.sizes,
            self.kin,
            shares=np.array([obs.share for obs in history]),
            memory=self._memory,
        )

    def propose(
        self,
        trial: optuna.Trial,
        history: Sequence[Observation],
        seen: AbstractSet[Choice],
        index: int,
    ) -> Choice:  # noqa: ARG002 - the contract
        return self.next_choice(history, seen, index)

    def next_choice(
        self, history: Sequence[Observation], seen: AbstractSet[Choice], index: int
    ) -> Choice:
        """The choice to score after these trials; one of `seen` only where every choice has been
        tried.
        """
        belief = self.believe(history)
        rng = np.random.default_rng([self.seed, index])
        choice = self.candidates.none_quantized
        for attempt in range(MAX_TRIES):
            sampled = attempt > 0
            damage = self._table(belief.sample(rng) if sampled else belief.mean)
            for wanted in self._savings(belief, damage, history, rng)[: 1 + 3 * (attempt == 0)]:
                choice = self._solve(damage, wanted * (1 - 1e-9))
                if choice not in seen:
                    return choice
        return self._nearest_new(choice, seen)

    def _table(self, damage: Array) -> Array:
        """(groups, options) of (D,) damages."""
        table = np.zeros(self.gains.shape)
        table[self._group, self._option] = damage
        return table

    def _savings(
        self,
        belief: Belief,
        damage: Array,
        history: Sequence[Observation],
        rng: np.random.Generator,
    ) -> Array:
        """Savings in seconds, the one that promises most hypervolume first."""
        power = belief.hypothesis.power
        curve = self.knapsack.curve(damage, points=CURVE_PRICES)
        most = self.knapsack.most_gain
        grid = most * (np.arange(SAVINGS) + rng.random()) / SAVINGS
        savings = np.unique(
            np.concatenate(
                [grid, [gain for gain in self._baseline_savings if 0 < gain <= most], [most]]
            )
        )
        expected = np.interp(savings, curve.gains, curve.damages) ** (1 / power)
        tried = self.features([obs.choice for obs in history])
        gains = (
            self.gains[
                np.arange(len(self.gains)),
                np.array([obs.choice for obs in history], dtype=np.int64).reshape(len(history), -1),
            ].sum(1)
            if history
            else np.zeros(0)
        )
        promised = _promised_area(
            savings,
            expected,
            gains,
            belief.lpips(tried),
            worst=float(curve.damages[-1] ** (1 / power)),
        )
        return np.asarray(savings[np.argsort(-promised, kind="stable")])

    def _baselines(self) -> list[Choice]:
        return [
            self.candidates.rule_of_thumb,
            *(self.candidates.all_quantized(o) for o in range(1, len(self.candidates.formats))),
        ]

    def _solve(self, damage: Array, wanted: float) -> Choice:
        """The knapsack's choice, or, where that has more block patterns than torch compiles, the
        best that was found within the limit.
        """
        choice = self._choice(self.knapsack.solve(damage, wanted))
        if self.patterns.fits(choice):
            return choice
        return self._choice(self.patterns.reduce(damage, self.gains, self.knapsack.useful, wanted))

    def _choice(self, options: NDArray[np.int64]) -> Choice:
        return tuple(int(option) for option in options)

    def _nearest_new(self, choice: Choice, seen: AbstractSet[Choice]) -> Choice:
        """The choice itself, or else one that was not seen and differs in the fewest groups; no
        option that costs time is added.
        """
        others: dict[int, list[int]] = {g: [0] if option else [] for g, option in enumerate(choice)}
        for group, option in self.items:
            if self.gains[group, option] > 0 and option != choice[group]:
                others[group].append(option)
        free = [group for group, options in others.items() if options]
        for changed in range(len(free) + 1):
            for groups in itertools.combinations(free, changed):
                for options in itertools.product(*(others[g] for g in groups)):
                    found = list(choice)
                    for group, option in zip(groups, options, strict=True):
                        found[group] = option
                    if tuple(found) not in seen and self.patterns.fits(tuple(found)):
                        return tuple(found)
        return choice


def _promised_area(
    savings: Array, expected: Array, tried_gains: Array, tried_lpips: Array, *, worst: float
) -> Array:
    """(S,) area (seconds x LPIPS) that a point of each saving and expected LPIPS would add to what
    the tried points dominate.

    A point dominates all smaller savings at larger LPIPS, up to `worst`. `savings` ascend; bf16 (no
    saving, LPIPS 0) is always there.
    """
    best = np.minimum(
        np.where(
            tried_gains[None, :] >= savings[:, None] * (1 - 1e-9), tried_lpips[None, :], worst
        ).min(1, initial=worst),
        worst,
    )
    widths = np.diff(savings, prepend=0.0)
    lower = np.maximum(best[None, :] - expected[:, None], 0.0) * (
        savings[None, :] <= savings[:, None]
    )
    return np.asarray(lower @ widths)


class OptunaProposer(Proposer):
    """One of Optuna's samplers, one categorical parameter a group, seeded anew for each trial."""

    def __init__(self, candidates: Candidates, *, name: SamplerName, seed: int) -> None:
        self.candidates, self.name, self.seed = candidates, name, seed

    def prepare(self, study: optuna.Study, index: int) -> None:
        study.sampler = stock_sampler(
            self.name, seed=int(np.random.default_rng([self.seed, index]).integers(2**31))
        )

    def propose(
        self,
        trial: optuna.Trial,
        history: Sequence[Observation],
        seen: AbstractSet[Choice],
        index: int,
    ) -> Choice:  # noqa: ARG002 - the contract
        return tuple(
            trial.suggest_categorical(g.name, list(range(len(self.candidates.formats))))
            for g in self.candidates.groups
        )

    def parameters(self, choice: Choice) -> dict[str, int]:
        """The parameters of a given choice, to enqueue a baseline."""
        return {
            group.name: option for group, option in zip(self.candidates.groups, choice, strict=True)
        }


def make_proposer(
    name: SamplerName,
    candidates: Candidates,
    *,
    seed: int,
    errors: dict[tuple[int, int], float] | None,
) -> Proposer:
    """The proposer of this name. `errors` matters to the knapsack only."""
    if name == SamplerName.KNAPSACK:
        return KnapsackProposer(candidates, seed=seed, errors=errors)
    return OptunaProposer(candidates, name=name, seed=seed)
