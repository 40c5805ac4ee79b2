"""How do Optuna's own samplers propose skip-lists? One categorical parameter for each group.

`SamplerName` is how a user names what proposes: "knapsack", one of `STOCK`, or `module:Class` of
any other Optuna sampler. `OptunaProposer` seeds the sampler anew for each trial from (seed, index),
so that its proposals do not depend on when the process started. A sampler may repeat what was
tried; it is then asked again, up to `MAX_REPEATS` times.
"""

import warnings
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, ClassVar

import numpy as np
import optuna
from optuna.samplers import BaseSampler
from pydantic_core import CoreSchema, core_schema

from sensitivity.core.user_modules import import_user_module
from sensitivity.core.words import first_line
from sensitivity.errors import UserError
from sensitivity.search.candidates import Candidates, Choice
from sensitivity.search.proposers._base import Observation, Proposal, Proposer
from sensitivity.search.proposers._memory_study import MemoryStudy

MAX_REPEATS = 100
"""Proposals in a row that may repeat a choice before it is taken that none is left."""


def _tpe(seed: int, *, beside_others: bool = False) -> BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=10, constant_liar=beside_others
        )


STOCK: dict[str, Callable[[int], BaseSampler]] = {
    "tpe": lambda seed: _tpe(seed),
    "nsga2": lambda seed: optuna.samplers.NSGAIISampler(seed=seed, population_size=10),
    "nsga3": lambda seed: optuna.samplers.NSGAIIISampler(seed=seed, population_size=10),
    "gp": lambda seed: optuna.samplers.GPSampler(seed=seed),
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
}
"""Optuna's own samplers that take categories and two objectives, by name, made from a seed."""


class SamplerName(str):
    """What proposes skip-lists: "knapsack", a key of `STOCK`, or `module:Class`.

    Raises:
        UserError: none of these; the message lists them.
    """

    __slots__ = ()
    KNAPSACK: ClassVar["SamplerName"]

    def __new__(cls, name: str) -> "SamplerName":
        """See the class."""
        if name != "knapsack" and name not in STOCK and ":" not in name:
            raise UserError(
                f"`sampler` is {name!r}; expected one of knapsack, {', '.join(STOCK)}, or an Optuna"
                " sampler as module:Class, such as my_package.samplers:MySampler"
            )
        return super().__new__(cls, name)

    @property
    def value(self) -> str:
        """The plain name."""
        return str(self)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> CoreSchema:
        """Records that hold a name are read from JSON text."""
        return core_schema.no_info_after_validator_function(cls, core_schema.str_schema())


SamplerName.KNAPSACK = SamplerName("knapsack")


def stock_sampler(name: SamplerName, *, seed: int, beside_others: bool = False) -> BaseSampler:
    """One of Optuna's samplers, or a class of another package.

    Args:
        name: of the sampler.
        seed: of it.
        beside_others: whether other trials are running; TPE then takes them for bad ones, so that
            it looks elsewhere.

    Raises:
        UserError: there is no such module or class, it is no sampler, or it takes no seed.
    """
    if name in STOCK:
        sampler = STOCK[name](seed)
        if beside_others and isinstance(sampler, optuna.samplers.TPESampler):
            return _tpe(seed, beside_others=True)
        return sampler
    module, _, attribute = name.partition(":")
    try:
        made = getattr(import_user_module(module), attribute)(seed=seed)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise UserError(
            f"`sampler` {name} cannot be made ({type(error).__name__}: {first_line(error)});"
            " expected the class of an Optuna sampler that takes seed=: correct the name"
        ) from None
    if not isinstance(made, BaseSampler):
        raise UserError(
            f"`sampler` {name} is a {type(made).__name__}; expected a subclass of"
            " optuna.samplers.BaseSampler: name one"
        )
    return made


class OptunaProposer(Proposer):
    """One of Optuna's samplers. The parameter of a group has the group's name and the number of an
    option as its value.

    The study that the sampler sees is in memory, and has the trials of the history in their order;
    pending ones are running trials of it. It is kept while histories only grow.
    """

    def __init__(self, candidates: Candidates, *, name: SamplerName, seed: int) -> None:
        self.candidates, self.name, self.seed = candidates, name, seed
        self._study = MemoryStudy(candidates)

    def propose(
        self,
        history: Sequence[Observation],
        seen: AbstractSet[Choice],
        index: int,
        pending: Sequence[Proposal] = (),
    ) -> Proposal:
        self._study.follow(history, pending)
        for attempt in range(MAX_REPEATS):
            trial = [self.seed, index + attempt * 10_000]
            seed = int(np.random.default_rng(trial).integers(2**31))
            sampler = stock_sampler(self.name, seed=seed, beside_others=bool(pending))
            proposal = self._study.ask(sampler)
            if proposal.choice not in seen:
                break
        return proposal
