"""A search over skip-lists and step policies together: choices, seconds, keys and proposals."""

import dataclasses
import hashlib
import itertools
from pathlib import Path

import numpy as np
import pytest

from sensitivity.core.assignment import Assignment
from sensitivity.core.format_name import FormatName
from sensitivity.core.step_policy import PLAIN, EdgeMode, StepPolicy
from sensitivity.errors import FormatError
from sensitivity.fidelity.score import Score
from sensitivity.search.candidates import Candidates, Choice, Group, HostLimit, baselines
from sensitivity.search.front import hypervolume, pareto_front
from sensitivity.search.log import open_log
from sensitivity.search.optuna_sampler import KnapsackSampler
from sensitivity.search.proposers import (
    STEP_POLICY,
    KnapsackProposer,
    Observation,
    SamplerName,
    make_proposer,
)
from sensitivity.search.settings import study_name
from sensitivity.search.step_table import StepTable
from sensitivity.search.store import Store, assignment_key
from sensitivity.search.trials import ScoredTrial

from support import fake_search
from support.additive_world import Damage, world

BF16, NVFP4 = FormatName.BF16, FormatName.NVFP4
FIRST, BOTH = StepPolicy(first_steps=2), StepPolicy(first_steps=1, last_steps=2)
A16 = dataclasses.replace(BOTH, mode=EdgeMode.A16)
TWO = Candidates(
    formats=(BF16, NVFP4),
    groups=(
        Group(
            name="a",
            fqns=("a.0", "a.1"),
            members=((), ("a.0",)),
            gains_s=(0.0, 4.0),
            edge_gains_s=(0.0, 1.0),
        ),
        Group(
            name="b",
            fqns=("b",),
            members=((), ("b",)),
            gains_s=(0.0, 2.0),
            edge_gains_s=(0.0, -0.5),
        ),
    ),
    fixed={},
    refused={},
    fqns=("a.0", "a.1", "b"),
    rule_of_thumb=(1, 0, 0),
    bf16_s=20.0,
    policies=(PLAIN, FIRST, BOTH, A16),
    steps=10,
)


@pytest.mark.parametrize(
    ("choice", "seconds", "policy"),
    [
        ((0, 0, 0), 20.0, PLAIN),
        ((1, 1, 0), 14.0, PLAIN),
        ((1, 1, 1), 20 - 0.8 * 6, FIRST),
        ((0, 1, 2), 20 - 0.7 * 2, BOTH),
        ((1, 1, 3), 20 - 0.7 * 6 - 0.3 * 0.5, A16),
    ],
)
def test_seconds_and_assignment_of_a_choice(
    choice: Choice, seconds: float, policy: StepPolicy
) -> None:
    """Quantized steps save what the format does, A16 edge steps what weights alone do, by their
    shares; the assignment has the formats and the policy.
    """
    assert TWO.latency_s(choice) == pytest.approx(seconds)
    found = TWO.decode(choice)
    taken = {"a.0": choice[0], "a.1": 0, "b": choice[1]}
    formats = {fqn: NVFP4 if option else BF16 for fqn, option in taken.items()}
    assert found == Assignment(formats, policy)
    assert found.policy == policy


def test_host_and_gpu_are_compared_in_each_kind_of_step() -> None:
    """Where the host limits quantized steps and the GPU the others, a run takes the sum of both."""
    groups = tuple(
        dataclasses.replace(group, host_s=(0.0, 3.0), edge_gains_s=()) for group in TWO.groups
    )
    limited = dataclasses.replace(
        TWO, groups=groups, host=HostLimit(gpu_s=20.0, host_s=11.0), policies=(PLAIN, FIRST)
    )
    assert limited.latency_s((1, 1, 0)) == pytest.approx(17.0)  # 11 + 2 x 3 of the host, 14 of GPU
    assert limited.latency_s((1, 1, 1)) == pytest.approx(0.8 * 17 + 0.2 * 20)


def test_a_policy_of_nothing_is_the_first() -> None:
    """Where nothing is quantized a policy changes nothing, so equal assignments are one choice; a
    choice of another length, or a policy that is not there, is refused.
    """
    assert TWO.canonical((0, 0, 2)) == TWO.none_quantized == (0, 0, 0)
    for wrong in ((1, 1), (1, 1, 4), (1, 1, -1), (1, 1, 0, 0)):
        with pytest.raises(FormatError, match="4 step policies"):
            TWO.canonical(wrong)


def test_a_single_policy_is_no_part_of_a_choice() -> None:
    """It holds for every choice, baselines too, and choices are as long as the groups."""
    fixed = dataclasses.replace(TWO, policies=(FIRST,), rule_of_thumb=(1, 0))
    assert baselines(fixed) == [
        ("none", (0, 0)),
        ("all nvfp4", (1, 1)),
        ("rule of thumb", (1, 0)),
    ]
    assert fixed.decode((1, 0)).policy == FIRST
    assert fixed.latency_s((1, 0)) == pytest.approx(20 - 0.8 * 4)


def test_keys_of_assignments() -> None:
    """A plain policy's key is that of the formats alone, as before there were policies; another
    policy's differs, and a policy of nothing is none.
    """
    formats = {"a": NVFP4, "b": BF16}
    plain = assignment_key(formats)
    assert plain == hashlib.sha256(b'{"a": "nvfp4"}').hexdigest()
    assert plain == assignment_key(Assignment(formats, PLAIN))
    keys = {plain, *(assignment_key(Assignment(formats, own)) for own in (FIRST, BOTH, A16))}
    assert len(keys) == 4
    assert assignment_key(Assignment({"b": BF16}, FIRST)) == assignment_key({})


def test_studies_without_policies_keep_their_names() -> None:
    """A study is the one that it was before there were policies; with policies it is another, and
    with other prices of edge steps too.
    """

    def name(candidates: Candidates) -> str:
        asked = fake_search.settings()
        return study_name(fake_search.FakeEvaluator(), candidates, asked)

    plain = fake_search.CANDIDATES
    assert name(plain) == "fake-nvfp4-b200-cc05cca2"
    stepped = dataclasses.replace(plain, policies=(PLAIN, FIRST), steps=8)
    longer = dataclasses.replace(stepped, steps=9)
    edges = dataclasses.replace(
        stepped,
        policies=(PLAIN, A16),
        groups=tuple(dataclasses.replace(g, edge_gains_s=(0.0, 0.1)) for g in plain.groups),
    )
    dearer = dataclasses.replace(
        edges,
        groups=tuple(dataclasses.replace(g, edge_gains_s=(0.0, 0.2)) for g in plain.groups),
    )
    assert len({name(own) for own in (plain, stepped, longer, edges, dearer)}) == 5


def stepped(groups: int, *, seed: int) -> tuple[Candidates, Damage, StepTable]:
    """An additive world whose damage is done early by some groups and late by others."""
    candidates, damage = world(groups, seed=seed)
    policies = tuple(
        StepPolicy(first_steps=a, last_steps=b) for a, b in itertools.product((0, 1, 3), (0, 2))
    )
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet((2.0, 1.0, 1.0, 1.0), groups)
    table = StepTable(
        steps=8,
        parts=((0, 1), (1, 3), (3, 6), (6, 8)),
        shares={(g, 1): tuple(map(float, row)) for g, row in enumerate(shares)},
        a16={},
    )
    found = dataclasses.replace(
        candidates,
        policies=policies,
        steps=8,
        rule_of_thumb=(*candidates.rule_of_thumb, 0),
    )
    return found, damage, table


def lpips_under(
    choice: Choice,
    candidates: Candidates,
    damage: Damage,
    table: StepTable,
) -> float:
    """The true score: the damages of quantized steps add up."""
    policy = candidates.policy_of(choice)
    taken = ((g, o) for g, o in enumerate(candidates.options_of(choice)) if o)
    return float(sum(damage[item] * table.weight(item, policy) for item in taken))


@pytest.mark.parametrize("seed", [0, 1])
def test_proposals_find_the_front_over_lists_and_policies(seed: int) -> None:
    """With true damages, 24 proposals have the hypervolume of all choices under all policies, but
    for 3 %; no list under the plain policy comes near.
    """
    candidates, damage, table = stepped(8, seed=seed)

    def point(choice: Choice) -> tuple[float, float]:
        return candidates.latency_s(choice), lpips_under(choice, candidates, damage, table)

    every = [
        candidates.with_policy(options, place)
        for options in itertools.product((0, 1), repeat=8)
        for place in range(len(candidates.policies))
    ]
    proposer = KnapsackProposer(candidates, seed=0, errors=damage, steps=table)
    history = [
        Observation(choice=choice, typical=point(choice)[1]) for _, choice in baselines(candidates)
    ]
    for index in range(24):
        seen = {obs.choice for obs in history}
        choice = proposer.next_choice(history, seen, index)
        assert choice not in seen
        assert candidates.canonical(choice) == choice
        history.append(Observation(choice=choice, typical=point(choice)[1]))

    def volume(choices: list[Choice]) -> float:
        worst = max(point(own)[1] for own in every)
        return hypervolume([point(own) for own in choices], reference=(candidates.bf16_s, worst))

    best = volume(every)
    assert volume([obs.choice for obs in history]) > 0.97 * best
    assert volume([own for own in every if not own[-1]]) < 0.95 * best


def test_the_first_proposal_is_on_the_true_front() -> None:
    """Brute force over every list and policy finds nothing that beats it on both."""
    candidates, damage, table = stepped(7, seed=3)
    choice = KnapsackProposer(candidates, seed=0, errors=damage, steps=table).next_choice(
        [], set(), 0
    )
    every = [
        candidates.with_policy(options, place)
        for options in itertools.product((0, 1), repeat=7)
        for place in range(len(candidates.policies))
    ]
    points = [
        (candidates.latency_s(own), lpips_under(own, candidates, damage, table)) for own in every
    ]
    front = {points[i] for i in pareto_front(points)}
    own = candidates.latency_s(choice), lpips_under(choice, candidates, damage, table)
    assert any(np.allclose(own, member, rtol=2e-3) for member in front)


def test_features_are_what_policies_leave() -> None:
    """An item that a choice takes counts with its weight under the choice's policy."""
    candidates, damage, table = stepped(5, seed=0)
    proposer = KnapsackProposer(candidates, seed=0, errors=damage, steps=table)
    choice = (1, 0, 1, 1, 0, 3)
    expected = [
        table.weight((g, 1), candidates.policies[3]) * option for g, option in enumerate(choice[:5])
    ]
    assert proposer.features([choice])[0] == pytest.approx(expected)
    plain = KnapsackProposer(candidates, seed=0, errors=damage).features([choice])[0]
    share = candidates.policies[3].share(steps=8)
    assert plain == pytest.approx([share * option for option in choice[:5]])


def test_a_small_world_is_tried_completely_under_all_policies() -> None:
    """Each list that saves time is tried under each policy before any choice comes twice."""
    candidates, damage, table = stepped(2, seed=0)
    saving = [[0, 1] if group.gains_s[1] > 0 else [0] for group in candidates.groups]
    every = {
        candidates.with_policy(options, place)
        for options in itertools.product(*saving)
        for place in range(len(candidates.policies))
    }
    proposer = KnapsackProposer(candidates, seed=0, errors=damage, steps=table)
    history: list[Observation] = []
    for index in range(len(every)):
        choice = proposer.next_choice(history, {obs.choice for obs in history}, index)
        lpips = lpips_under(choice, candidates, damage, table)
        history.append(Observation(choice=choice, typical=lpips))
    assert {obs.choice for obs in history} == every


@pytest.mark.parametrize("name", ["random", "tpe"])
def test_stock_samplers_choose_policies_too(name: str) -> None:
    """One of Optuna's own proposes choices with a policy, and several of them."""
    candidates, damage, table = stepped(4, seed=0)
    proposer = make_proposer(SamplerName(name), candidates, seed=0, errors=None)
    history: list[Observation] = []
    for index in range(14):
        proposal = proposer.propose(history, {obs.choice for obs in history}, index)
        assert candidates.canonical(proposal.choice) == proposal.choice
        lpips = lpips_under(proposal.choice, candidates, damage, table)
        history.append(Observation(choice=proposal.choice, typical=lpips, state=proposal.state))
    assert len({obs.choice[-1] for obs in history}) > 2


def test_a_study_of_ones_own_has_the_policy_as_a_parameter() -> None:
    """`KnapsackSampler` gives the groups' formats and the key of a policy, and reads them again."""
    candidates, damage, table = stepped(3, seed=0)
    sampler = KnapsackSampler(candidates, errors=damage, steps=table)
    assert list(sampler.space) == ["x[0]", "x[1]", "x[2]", STEP_POLICY]
    found = sampler.parameters((1, 0, 1, 3))
    assert found[STEP_POLICY] == "first1-last2-bf16"
    assert sampler.parameters((1, 0, 1, 0))[STEP_POLICY] == "plain"


def test_databases_take_no_notice(tmp_path: Path) -> None:
    """A choice with a policy is one more integer in a study, and its trial has the policy."""

    score = Score(net="tiny", mean=0.1, per_prompt=(0.1, 0.1), noise_floor=None)
    choice = (1, 1, 2)
    trial = ScoredTrial(
        index=0,
        number=1,
        choice=choice,
        label="",
        latency_s=TWO.latency_s(choice),
        score=score,
        seconds=1.0,
    )
    table = StepTable.uniform([(0, 1), (1, 1)], steps=10)
    with Store.open(tmp_path / "s.db") as store:
        log = open_log(store, "toy-nvfp4-b200-0123abcd", TWO, {"model": "toy", "budget": 1})
        log.keep_steps(table)
        log.finish(trial)
    with Store.open(tmp_path / "s.db") as store:
        log = open_log(store, "toy-nvfp4-b200-0123abcd", TWO, {"model": "toy", "budget": 1})
        (found,) = log.history()
        assert (found.choice, found.policy) == (choice, BOTH)
        assert log.step_table() == table
