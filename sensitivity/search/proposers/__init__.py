"""Which choice is tried next? `make_proposer` gives the proposer of a name.

`KnapsackProposer` is the default. `OptunaProposer` wraps any Optuna sampler, for comparison. Both
are functions of (seed, trial index, history, pending choices) alone, so a search that was
interrupted continues exactly as one that was not.

    proposer = make_proposer(SamplerName("tpe"), candidates, seed=0, errors=None)
    proposer.propose(history, seen, index).choice
"""

from sensitivity.search.calibration.jobs import Errors
from sensitivity.search.candidates import Candidates
from sensitivity.search.proposers._base import Observation, Proposal, Proposer, State
from sensitivity.search.proposers._memory_study import ASKED, STEP_POLICY
from sensitivity.search.proposers.knapsack_proposer import KnapsackProposer
from sensitivity.search.proposers.optuna_proposer import (
    STOCK,
    OptunaProposer,
    SamplerName,
    stock_sampler,
)
from sensitivity.search.step_table import StepTable

__all__ = [
    "ASKED",
    "STEP_POLICY",
    "STOCK",
    "KnapsackProposer",
    "Observation",
    "OptunaProposer",
    "Proposal",
    "Proposer",
    "SamplerName",
    "State",
    "make_proposer",
    "stock_sampler",
]


def make_proposer(
    name: SamplerName,
    candidates: Candidates,
    *,
    seed: int,
    errors: Errors | None,
    steps: StepTable | None = None,
) -> Proposer:
    """The proposer of this name. Only the knapsack uses what was calibrated: `errors`, `steps`."""
    if name == SamplerName.KNAPSACK:
        return KnapsackProposer(candidates, seed=seed, errors=errors, steps=steps)
    return OptunaProposer(candidates, name=name, seed=seed)
