"""The knapsack sampler in studies that are not ours: Optuna's own test suites, and what those do
not cover.
"""

from collections.abc import Callable

import numpy as np
import optuna
import pytest
from optuna.samplers import BaseSampler
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    MultiObjectiveSamplerTestCase,
    RelativeSamplerTestCase,
)

from sensitivity.core.format_name import FormatName
from sensitivity.search.candidates import Candidates, Choice, Group
from sensitivity.search.optuna_sampler import KnapsackSampler

optuna.logging.set_verbosity(optuna.logging.ERROR)


def candidates_of(groups: int, *, seed: int = 0, options: int = 2) -> Candidates:
    """Groups with random gains; the first has no last option."""
    rng = np.random.default_rng(seed)
    made = tuple(
        Group(
            name=f"x[{g}]",
            fqns=(f"x.{g}",),
            gains_s=(0.0, *(float(v) for v in rng.lognormal(0, 1, options))),
            members=((), *((f"x.{g}",) if g or o + 1 < options else () for o in range(options))),
        )
        for g in range(groups)
    )
    return Candidates(
        formats=(FormatName.BF16, FormatName.MXFP8, FormatName.NVFP4)[: options + 1],
        groups=made,
        fixed={},
        refused={},
        fqns=tuple(f"x.{g}" for g in range(groups)),
        rule_of_thumb=(1,) * groups,
        bf16_s=10.0 * groups,
    )


@pytest.fixture
def sampler() -> Callable[[], BaseSampler]:
    return lambda: KnapsackSampler(candidates_of(5), seed=1)


class TestBasic(BasicSamplerTestCase):
    """Optuna's suite: every kind of parameter, conditional and dynamic spaces, partially fixed, NaN
    values.
    """

    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: KnapsackSampler(candidates_of(5), seed=1)


class TestRelative(RelativeSamplerTestCase):
    """Optuna's suite: relative sampling of any space."""

    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: KnapsackSampler(candidates_of(5), seed=1)


class TestMultiObjective(MultiObjectiveSamplerTestCase):
    """Optuna's suite: several objectives."""

    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: KnapsackSampler(candidates_of(5), seed=1)


def play(
    sampler: KnapsackSampler, trials: int, *, study: optuna.Study | None = None
) -> tuple[optuna.Study, list[Choice]]:
    """A study of an additive world: each quantized group costs its index."""
    study = study or optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
    study.sampler = sampler
    choices = []

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        choice = sampler.suggest(trial)
        choices.append(choice)
        return (
            sampler.candidates.latency_s(choice),
            float(sum(g + 1 for g, option in enumerate(choice) if option)) ** 0.5,
        )

    study.optimize(objective, n_trials=trials)
    return study, choices


def test_a_study_never_repeats_a_choice_until_all_are_tried() -> None:
    """2 groups of 2 and 3 options have 6 choices: 6 trials try each once."""
    sampler = KnapsackSampler(candidates_of(2), seed=0)
    _, choices = play(sampler, 6)
    assert len(set(choices)) == 6


def test_only_options_that_a_group_takes_are_proposed() -> None:
    """The first group takes mxfp8, not nvfp4."""
    sampler = KnapsackSampler(candidates_of(6), seed=0)
    study, choices = play(sampler, 20)
    assert all(choice[0] != 2 for choice in choices)
    assert {trial.params["x[0]"] for trial in study.trials} <= {"bf16", "mxfp8"}


def test_given_choices_come_first() -> None:
    """The choices in `first` are proposed in their order; the next proposal is another."""
    candidates = candidates_of(4)
    sampler = KnapsackSampler(
        candidates, seed=0, first=[candidates.none_quantized, candidates.rule_of_thumb]
    )
    _, choices = play(sampler, 3)
    assert choices[:2] == [candidates.none_quantized, candidates.rule_of_thumb]
    assert choices[2] not in choices[:2]


def test_a_study_that_goes_on_is_the_study_that_never_stopped() -> None:
    """5 trials and then 7 by a new sampler are the 12 of one run; another seed gives others."""
    whole = play(KnapsackSampler(candidates_of(12), seed=3), 12)[1]
    study, first = play(KnapsackSampler(candidates_of(12), seed=3), 5)
    rest = play(KnapsackSampler(candidates_of(12), seed=3), 7, study=study)[1]
    assert first + rest == whole
    assert play(KnapsackSampler(candidates_of(12), seed=4), 12)[1] != whole


def test_running_trials_are_not_proposed_again() -> None:
    """Trials that are asked for before any has a score differ: parallel workers do not score one
    skip-list twice.
    """
    sampler = KnapsackSampler(candidates_of(8), seed=0, first=[(0,) * 8])
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
    asked = [sampler.suggest(study.ask()) for _ in range(4)]
    assert len(set(asked)) == 4
