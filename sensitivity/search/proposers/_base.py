"""What is a proposer? The contract, and what a proposer learns of a trial.

A proposer gives the choice of trial `index` from the trials before it and from those that other
workers are at (`pending`). It is a function of these and of its seed: a new instance gives the same
choice. What an instance keeps between calls only saves time.
"""

import abc
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

from sensitivity.search.candidates import Choice

State = Mapping[str, Any]
"""What a sampler notes of its own trial, as JSON can hold it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Observation:
    """What a proposer knows of one finished or stopped trial.

    Attributes:
        choice: one option for each group.
        typical: its typical damage; of a stopped trial an estimate.
        share: part of the search prompts that were scored; 1 for a finished trial.
        latent: the typical error of its latents; None where it is not known.
        state: that of its proposal; empty for a choice that was given, such as a baseline.
    """

    choice: Choice
    typical: float
    share: float = 1.0
    latent: float | None = None
    state: State = field(default_factory=dict, hash=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Proposal:
    """A choice to score.

    Attributes:
        choice: one option for each group, as `Candidates.canonical` has it.
        state: what the proposer wants to find again in the trial's `Observation`.
    """

    choice: Choice
    state: State = field(default_factory=dict, hash=False)


class Proposer(abc.ABC):
    """Proposes the choice of a trial."""

    @abc.abstractmethod
    def propose(
        self,
        history: Sequence[Observation],
        seen: AbstractSet[Choice],
        index: int,
        pending: Sequence[Proposal] = (),
    ) -> Proposal:
        """The choice to score.

        Args:
            history: the trials with a score or an estimate, in order.
            seen: choices not to give again: those of `history`, those that failed, and those that
                are `pending`. One of them comes back only where the proposer finds no other.
            index: the number of the proposal.
            pending: what other workers are scoring now.
        """
