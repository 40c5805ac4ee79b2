"""Trials correct the belief in the profile of the steps: a search over policies loses nothing to
one without where the profile is wrong, and nothing to blind faith where it is right.
"""

import dataclasses
import itertools
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pytest

from sensitivity.core.step_policy import StepPolicy
from sensitivity.search.candidates import Candidates, Choice, baselines
from sensitivity.search.estimate import estimate_all
from sensitivity.search.front import hypervolume
from sensitivity.search.proposers import KnapsackProposer, Observation, knapsack_proposer
from sensitivity.search.step_table import StepTable

from support.additive_world import Damage, world

GROUPS, TRIALS, PROMPTS = 10, 16, 6
SEEDS = (0, 1)
SAVINGS = (0.2, 0.35, 0.5, 0.62, 0.75)
POLICIES = tuple(
    StepPolicy(first_steps=a, last_steps=b) for a, b in itertools.product((0, 1, 3), (0, 2))
)


def profile(*shares: float) -> StepTable:
    """Of every group in a run of 8 steps: the first, two, three, and the last two."""
    parts = ((0, 1), (1, 3), (3, 6), (6, 8))
    return StepTable(
        steps=8, parts=parts, shares=dict.fromkeys([(g, 1) for g in range(GROUPS)], shares), a16={}
    )


EDGES = profile(0.4, 0.2, 0.1, 0.3)
UNIFORM = profile(1 / 8, 2 / 8, 3 / 8, 2 / 8)


@dataclass
class Search:
    """A search in an additive world with noise of its prompts; baselines first."""

    candidates: Candidates
    damage: Damage
    truth: StepTable
    proposer: KnapsackProposer
    history: list[Observation] = field(default_factory=list)
    logs: list[list[float]] = field(default_factory=list)

    def lpips(self, choice: Choice) -> float:
        """The true score."""
        policy, options = self.candidates.policy_of(choice), self.candidates.options_of(choice)
        taken = ((g, o) for g, o in enumerate(options) if o)
        return float(sum(self.damage[i] * self.truth.weight(i, policy) for i in taken))

    def score(self, choice: Choice) -> None:
        """One trial: the same luck for the same choice."""
        luck = 0.3 * np.random.default_rng(choice).standard_normal(PROMPTS)
        logs = np.log(max(self.lpips(choice), 1e-6)) + luck
        typical = float(np.exp(logs.mean())) if any(choice) else 0.0
        self.history.append(Observation(choice=choice, typical=typical))
        self.logs.append(logs.tolist())

    def play(self, trials: int = TRIALS) -> "Search":
        """So many more proposals, after the baselines."""
        for _, choice in baselines(self.candidates) if not self.history else ():
            self.score(choice)
        for _ in range(trials):
            seen = {obs.choice for obs in self.history}
            self.score(self.proposer.next_choice(self.history, seen, len(self.history)))
        return self

    @cached_property
    def area(self) -> float:
        """Hypervolume of the true scores of what was tried."""
        points = [(self.candidates.latency_s(o.choice), self.lpips(o.choice)) for o in self.history]
        worst = self.lpips(self.candidates.all_quantized())
        return hypervolume(points, reference=(self.candidates.bf16_s, worst))

    @cached_property
    def named(self) -> float:
        """Mean log of the true scores of the lists that trials say are best at some savings."""
        found = estimate_all(self.proposer, self.history, self.logs)
        saved = [self.candidates.bf16_s - self.candidates.latency_s(o.choice) for o in self.history]
        best = []
        for part in SAVINGS:
            fast = [i for i, own in enumerate(saved) if own >= part * max(saved)]
            best.append(self.lpips(self.history[min(fast, key=lambda i: found[i])].choice))
        return float(np.log(best).mean())


def search(seed: int, *, claimed: StepTable | None, truth: StepTable) -> Search:
    """A search that believes a profile; None: without policies."""
    candidates, damage = world(GROUPS, seed=seed)
    if claimed is not None:
        thumb = (*candidates.rule_of_thumb, 0)
        candidates = dataclasses.replace(
            candidates, policies=POLICIES, steps=8, rule_of_thumb=thumb
        )
    rng = np.random.default_rng(seed)
    errors = {i: own ** (2 / 3) * np.exp(rng.normal(0, 0.3)) for i, own in damage.items()}
    proposer = KnapsackProposer(candidates, seed=seed, errors=errors, steps=claimed)
    return Search(candidates, damage, truth, proposer)


def test_a_wrong_profile_costs_nothing() -> None:
    """Where the edges are said to matter and do not, the front of a search over policies and the
    lists that it names are as good as without policies; most of its last trials have no policy.
    """
    plain = [search(seed, claimed=None, truth=UNIFORM).play() for seed in SEEDS]
    found = [search(seed, claimed=EDGES, truth=UNIFORM).play() for seed in SEEDS]
    for own in found:
        assert own.proposer.believe(own.history).hypothesis.step_trust < 1.0
        assert sum(obs.choice[-1] > 0 for obs in own.history[-8:]) <= 4
    assert np.mean([own.area for own in found]) > 0.97 * np.mean([own.area for own in plain])
    worse = np.mean([own.named for own in found]) - np.mean([own.named for own in plain])
    assert worse < np.log(1.15)


def test_a_right_profile_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the profile is true, it is believed: fronts and lists are as good as those of a search
    that cannot doubt it, and better than without policies.
    """
    plain = [search(seed, claimed=None, truth=EDGES).play() for seed in SEEDS]
    found = [search(seed, claimed=EDGES, truth=EDGES).play() for seed in SEEDS]
    monkeypatch.setattr(knapsack_proposer, "STEP_TRUSTS", (1.0,))
    faithful = [search(seed, claimed=EDGES, truth=EDGES).play() for seed in SEEDS]
    areas = [np.mean([own.area for own in each]) for each in (found, faithful, plain)]
    named = [np.mean([own.named for own in each]) for each in (found, faithful, plain)]
    assert areas[0] > 0.99 * areas[1]
    assert areas[0] > 1.01 * areas[2]
    assert named[0] < named[1] + np.log(1.05)
    assert named[0] < named[2]


def test_a_continued_search_doubts_as_much() -> None:
    """A proposer that hears all trials at once goes on as the one that made them."""
    whole = search(0, claimed=EDGES, truth=UNIFORM).play(12)
    continued = search(0, claimed=EDGES, truth=UNIFORM)
    continued.history, continued.logs = whole.history[:-3], whole.logs[:-3]
    assert whole.proposer.believe(continued.history).hypothesis.step_trust < 1.0
    assert continued.play(3).history == whole.history
