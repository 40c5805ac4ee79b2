"""The contract of `Proposer`, for the knapsack and each of Optuna's stock samplers.

A proposal is a choice that the candidates know, and a function of seed, index, history and what is
pending alone.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import FrozenTrial

from sensitivity.core.format_name import FormatName
from sensitivity.search.candidates import Candidates, Choice, Group, baselines
from sensitivity.search.proposers import (
    STOCK,
    KnapsackProposer,
    Observation,
    OptunaProposer,
    Proposal,
    SamplerName,
    State,
    make_proposer,
    stock_sampler,
)

optuna.logging.set_verbosity(optuna.logging.ERROR)
pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

GROUPS, FINISHED = 12, 11
NAMES = [SamplerName.KNAPSACK, *map(SamplerName, STOCK)]


@pytest.fixture(scope="module")
def candidates() -> Candidates:
    """Twelve groups in two formats; the first group does not take the second format."""
    rng = np.random.default_rng(0)
    groups = tuple(
        Group(
            name=f"x[{g}]",
            fqns=(f"x.{g}",),
            members=((), (f"x.{g}",), (f"x.{g}",) if g else ()),
            gains_s=(0.0, *(float(gain) for gain in rng.lognormal(0, 1, 2))),
        )
        for g in range(GROUPS)
    )
    return Candidates(
        formats=(FormatName.BF16, FormatName.MXFP8, FormatName.NVFP4),
        groups=groups,
        fixed={},
        refused={},
        fqns=tuple(f"x.{g}" for g in range(GROUPS)),
        rule_of_thumb=(1, 0) * (GROUPS // 2),
        bf16_s=50.0,
    )


@pytest.fixture(scope="module")
def history(candidates: Candidates) -> list[Observation]:
    """The baselines and random choices, scored in an additive world; the last was stopped."""
    rng = np.random.default_rng(1)
    choices = [choice for _, choice in baselines(candidates)]
    while len(choices) < FINISHED:
        choice = candidates.canonical([int(o) for o in rng.integers(0, 3, GROUPS)])
        if choice not in choices:
            choices.append(choice)
    scored = [Observation(choice=c, typical=lpips_of(c)) for c in choices]
    return [*scored[:-1], Observation(choice=choices[-1], typical=1.5, share=0.5)]


def lpips_of(choice: Choice) -> float:
    """The score of a choice: group g costs g + 1 in mxfp8, twice that in nvfp4."""
    return float(sum((g + 1) * option for g, option in enumerate(choice))) ** 0.5


def propose(
    name: SamplerName,
    candidates: Candidates,
    history: Sequence[Observation],
    *,
    seed: int = 0,
    proposals: int = 2,
    beside: int = 0,
    renewed: bool = True,
) -> list[Choice]:
    """Proposals after a history. Each is made by a new proposer, as if the process had started
    again, unless it is not `renewed`; while so many before it are being scored (`beside`).
    """
    proposer = make_proposer(name, candidates, seed=seed, errors=None)
    played, pending, found = list(history), list[Proposal](), list[Choice]()
    for index in range(proposals):
        if renewed:
            proposer = make_proposer(name, candidates, seed=seed, errors=None)
        seen = {known.choice for known in (*played, *pending)}
        proposal = proposer.propose(played, seen, index, pending)
        found.append(proposal.choice)
        pending.append(Proposal(choice=proposal.choice, state=as_kept(proposal.state)))
        while len(pending) > beside:
            done = pending.pop(0)
            typical = lpips_of(done.choice)
            played.append(Observation(choice=done.choice, typical=typical, state=done.state))
    return found


def as_kept(state: State) -> State:
    """A proposal's state as it comes back from the database."""
    kept: State = json.loads(json.dumps(dict(state)))
    return kept


@pytest.mark.parametrize("name", NAMES)
def test_a_proposal_is_a_function_of_seed_and_history(
    name: SamplerName, candidates: Candidates, history: list[Observation]
) -> None:
    """The same seed and history give the same proposals; another seed gives others."""
    late = propose(name, candidates, history, proposals=1)
    assert propose(name, candidates, history, proposals=1) == late
    early = propose(name, candidates, [], proposals=10)
    assert propose(name, candidates, [], proposals=10) == early
    assert any(propose(name, candidates, [], seed=seed, proposals=10) != early for seed in (1, 2))


@pytest.mark.parametrize("beside", [0, 3])
@pytest.mark.parametrize("name", [name for name in NAMES if name != "gp"])
def test_what_a_proposer_keeps_only_saves_time(
    name: SamplerName, beside: int, candidates: Candidates, history: list[Observation]
) -> None:
    """One proposer for all, or a new one for each proposal: the same proposals, also while others
    are being scored. NSGA-II's generations come back from what was kept of the trials.
    """
    how: dict[str, Any] = {"proposals": 14, "beside": beside}
    once = propose(name, candidates, history, renewed=False, **how)
    assert propose(name, candidates, history, **how) == once


@pytest.mark.parametrize("name", NAMES)
def test_pending_choices_are_not_proposed(
    name: SamplerName, candidates: Candidates, history: list[Observation]
) -> None:
    """While others are being scored each proposal is a new one."""
    count = 2 if name == "gp" else 8  # a proposal of it takes most of a second
    found = propose(name, candidates, history, proposals=count, beside=7)
    assert len({*found, *(obs.choice for obs in history)}) == count + len(history)


@pytest.mark.parametrize("name", ["tpe", "nsga2"])
def test_generations_and_pending_trials_reach_the_sampler(
    name: str, candidates: Candidates, history: list[Observation], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sampler sees the history as finished trials in order, pending choices as running ones, and
    what it noted of both.
    """
    seen: list[list[FrozenTrial]] = []
    kind = type(stock_sampler(SamplerName(name), seed=0))
    plain = kind.before_trial

    def before_trial(self: Any, study: optuna.Study, trial: FrozenTrial) -> None:
        seen.append(study.get_trials(deepcopy=False)[:-1])
        plain(self, study, trial)

    monkeypatch.setattr(kind, "before_trial", before_trial)
    proposer = make_proposer(SamplerName(name), candidates, seed=0, errors=None)
    first = proposer.propose(history, {obs.choice for obs in history}, 0)
    played = [*history[:-1], replace(history[-1], state={"noted": 1})]
    proposer.propose(played, {obs.choice for obs in history} | {first.choice}, 1, [first])
    trials = seen[-1]
    options = [tuple(trial.params.values()) for trial in trials]
    assert [candidates.canonical(found) for found in options] == [
        *(obs.choice for obs in history),
        first.choice,
    ]
    assert [t.state.name for t in trials] == ["COMPLETE"] * (FINISHED - 1) + ["PRUNED", "RUNNING"]
    assert [t.values for t in trials[:2]] == [
        [candidates.latency_s(obs.choice), obs.typical] for obs in history[:2]
    ]
    assert trials[-2].system_attrs == {"noted": 1}
    generation = {"NSGAIISampler:generation": 0} if name == "nsga2" else {}
    assert trials[-1].system_attrs == generation


@pytest.mark.parametrize("name", NAMES)
def test_a_proposal_is_one_option_for_each_group(
    name: SamplerName, candidates: Candidates, history: list[Observation]
) -> None:
    """Also without any history, and never one that a group does not have."""
    for known in ([], history):
        for choice in propose(name, candidates, known, proposals=1):
            assert len(choice) == GROUPS
            assert choice == candidates.canonical(choice)
            assert all(type(option) is int for option in choice)


@pytest.mark.parametrize("name", NAMES)
def test_a_proposer_gives_new_choices_while_there_are_any(name: SamplerName) -> None:
    """On two groups each gives the four choices, and then one that was tried. Options that a group
    does not have are none.
    """
    groups = tuple(
        Group(name=n, fqns=(n,), members=((), (n,)), gains_s=(0.0, 0.5)) for n in ("a", "b")
    )
    few = Candidates(
        formats=(FormatName.BF16, FormatName.NVFP4),
        groups=groups,
        fixed={},
        refused={},
        fqns=("a", "b"),
        rule_of_thumb=(1, 0),
        bf16_s=5.0,
    )
    found = propose(name, few, [], proposals=5)
    assert sorted(found[:4]) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert found[4] in found[:4]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_makes_its_proposer(name: SamplerName, candidates: Candidates) -> None:
    """The knapsack's name gives the knapsack, all others Optuna's."""
    made = make_proposer(name, candidates, seed=0, errors=None)
    kind = KnapsackProposer if name == SamplerName.KNAPSACK else OptunaProposer
    assert type(made) is kind
