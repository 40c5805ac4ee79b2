"""The contract of `Proposer`, for the knapsack and each of Optuna's stock samplers.

A proposal is a choice that the candidates know, and a function of seed, index and history alone.
"""

from collections.abc import Sequence

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from sensitivity.core.format_name import FormatName
from sensitivity.search.candidates import Candidates, Choice, Group, baselines
from sensitivity.search.proposers import (
    STOCK,
    KnapsackProposer,
    Observation,
    OptunaProposer,
    Proposer,
    SamplerName,
    make_proposer,
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


def study_of(
    proposer: Proposer, candidates: Candidates, history: Sequence[Observation]
) -> optuna.Study:
    """An Optuna study that holds a history, as a search writes it."""
    study = optuna.create_study(directions=["minimize", "minimize"])
    for obs in history:
        trial = proposer.ask_for(study, obs.choice)
        if obs.share == 1:
            study.tell(trial, [candidates.latency_s(obs.choice), obs.typical])
        else:
            study.tell(trial, state=TrialState.PRUNED)
    return study


def propose(
    name: SamplerName,
    candidates: Candidates,
    history: Sequence[Observation],
    *,
    seed: int = 0,
    proposals: int = 2,
) -> list[Choice]:
    """Proposals after a history, each by a new proposer, as if the process had started again."""
    study = study_of(make_proposer(name, candidates, seed=seed, errors=None), candidates, history)
    played, found = list(history), []
    for index in range(proposals):
        proposer = make_proposer(name, candidates, seed=seed, errors=None)
        proposer.prepare(study, index)
        trial = study.ask()
        choice = proposer.propose(trial, played, {obs.choice for obs in played}, index)
        canonical = candidates.canonical(choice)
        study.tell(trial, [candidates.latency_s(canonical), lpips_of(canonical)])
        played.append(Observation(choice=canonical, typical=lpips_of(canonical)))
        found.append(choice)
    return found


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


@pytest.mark.parametrize("name", NAMES)
def test_a_proposal_is_one_option_for_each_group(
    name: SamplerName, candidates: Candidates, history: list[Observation]
) -> None:
    """Also without any history; `canonical` then takes out options that a group does not have."""
    for known in ([], history):
        for choice in propose(name, candidates, known, proposals=1):
            assert len(candidates.canonical(choice)) == GROUPS
            assert all(type(option) is int for option in choice)


@pytest.mark.parametrize("name", NAMES)
def test_a_given_choice_is_a_trial_that_the_proposer_learns_from(
    name: SamplerName, candidates: Candidates
) -> None:
    """A baseline gets a trial of its own; Optuna's samplers find its options as parameters."""
    proposer = make_proposer(name, candidates, seed=0, errors=None)
    study = optuna.create_study(directions=["minimize", "minimize"])
    given = candidates.rule_of_thumb
    trial = proposer.ask_for(study, given)
    assert [t.number for t in study.trials] == [trial.number]
    if isinstance(proposer, OptunaProposer):
        names = [group.name for group in candidates.groups]
        assert trial.params == dict(zip(names, given, strict=True))


@pytest.mark.parametrize("name", [name for name in NAMES if name == SamplerName.KNAPSACK])
def test_what_may_not_repeat_gives_new_choices_only(
    name: SamplerName, candidates: Candidates, history: list[Observation]
) -> None:
    """A proposer that says so never proposes what was tried; the others are asked again."""
    proposer = make_proposer(name, candidates, seed=0, errors=None)
    assert not proposer.may_repeat
    proposals = propose(name, candidates, history, proposals=8)
    tried = [obs.choice for obs in history]
    assert len({*tried, *proposals}) == len(tried) + len(proposals)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_makes_its_proposer(name: SamplerName, candidates: Candidates) -> None:
    """The knapsack's name gives the knapsack, all others Optuna's."""
    made = make_proposer(name, candidates, seed=0, errors=None)
    kind = KnapsackProposer if name == SamplerName.KNAPSACK else OptunaProposer
    assert type(made) is kind
    assert made.may_repeat is (kind is OptunaProposer)
