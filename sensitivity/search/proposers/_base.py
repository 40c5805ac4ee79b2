"""What is a proposer? The contract, and what a proposer learns of a trial.

A proposer gives the choice of trial `index` from the trials before it. It keeps no state between
calls: the same seed, index and history give the same choice, also from a new instance.
"""

import abc
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import ClassVar

import optuna

from sensitivity.search.candidates import Choice


@dataclass(frozen=True, kw_only=True, slots=True)
class Observation:
    """What a proposer knows of one finished or stopped trial.

    Attributes:
        choice: one option for each group.
        typical: its typical damage; of a stopped trial an estimate.
        share: part of the search prompts that were scored; 1 for a finished trial.
        latent: the typical error of its latents; None where it is not known.
    """

    choice: Choice
    typical: float
    share: float = 1.0
    latent: float | None = None


class Proposer(abc.ABC):
    """Proposes the choice of a trial.

    Attributes:
        may_repeat: whether `propose` may give a choice that was tried while others are left. Then
            the caller asks again.
    """

    may_repeat: ClassVar[bool] = False

    def prepare(self, study: optuna.Study, index: int) -> None:  # noqa: B027 - most do nothing
        """Called before `study.ask()` for the trial of a proposal."""

    def ask_for(self, study: optuna.Study, choice: Choice) -> optuna.Trial:
        """A new trial of Optuna's study for a choice that is given, such as a baseline."""
        return study.ask()

    @abc.abstractmethod
    def propose(
        self,
        trial: optuna.Trial,
        history: Sequence[Observation],
        seen: AbstractSet[Choice],
        index: int,
    ) -> Choice:
        """The choice to score.

        Args:
            trial: Optuna's trial, from `study.ask()`.
            history: the trials with a score or an estimate, in order.
            seen: choices not to give again: those of `history` and those that failed. One of them
                comes back only where the proposer finds no other.
            index: the number of the proposal.
        """
