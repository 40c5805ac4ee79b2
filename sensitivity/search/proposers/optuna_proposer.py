"""How do Optuna's own samplers propose skip-lists? One categorical parameter for each group.

`SamplerName` is how a user names what proposes: "knapsack", one of `STOCK`, or `module:Class` of
any other Optuna sampler. `OptunaProposer` seeds the sampler anew for each trial from (seed, index),
so that its proposals do not depend on when the process started.
"""

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
from sensitivity.search.proposers._base import Observation, Proposer

STOCK: dict[str, Callable[[int], BaseSampler]] = {
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed, n_startup_trials=10),
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


def stock_sampler(name: SamplerName, *, seed: int) -> BaseSampler:
    """One of Optuna's samplers, or a class of another package.

    Raises:
        UserError: there is no such module or class, it is no sampler, or it takes no seed.
    """
    if name in STOCK:
        return STOCK[name](seed)
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
    """

    may_repeat = True

    def __init__(self, candidates: Candidates, *, name: SamplerName, seed: int) -> None:
        self.candidates, self.name, self.seed = candidates, name, seed

    def prepare(self, study: optuna.Study, index: int) -> None:
        seed = int(np.random.default_rng([self.seed, index]).integers(2**31))
        study.sampler = stock_sampler(self.name, seed=seed)

    def ask_for(self, study: optuna.Study, choice: Choice) -> optuna.Trial:
        names = (group.name for group in self.candidates.groups)
        study.enqueue_trial(dict(zip(names, choice, strict=True)))
        trial = study.ask()
        self._suggest(trial)  # samplers learn from parameters, so a baseline has them too
        return trial

    def propose(
        self,
        trial: optuna.Trial,
        history: Sequence[Observation],  # noqa: ARG002 - the study has it
        seen: AbstractSet[Choice],  # noqa: ARG002 - a sampler takes no such set
        index: int,  # noqa: ARG002 - `prepare` has seeded the sampler with it
    ) -> Choice:
        return self._suggest(trial)

    def _suggest(self, trial: optuna.Trial) -> Choice:
        options = list(range(len(self.candidates.formats)))
        return tuple(
            trial.suggest_categorical(group.name, options) for group in self.candidates.groups
        )
