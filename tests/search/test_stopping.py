"""Trials stop where a finished one is very likely better, and hardly ever where they would be on
the front.
"""

import numpy as np
import pytest
from scipy import stats

from sensitivity.errors import UserError
from sensitivity.fidelity.typical import typical
from sensitivity.search.stopping import Rival, StoppingRule, dominated_p_value


def rival(*per_prompt: float, latency_s: float = 1.0) -> Rival:
    return Rival(latency_s=latency_s, per_prompt=per_prompt)


def test_p_value_is_students_t_of_a_finite_sample() -> None:
    """Of 12 log ratios 4 are seen: the t test of their mean, its error smaller by sqrt(1 - 4 / 12);
    a margin is taken off the mean.
    """
    seen = np.array([0.5, -0.1, 1.5, 0.7])
    error = seen.std(ddof=1) / 2 * np.sqrt(1 - 4 / 12)
    assert dominated_p_value(seen, 12) == pytest.approx(stats.t.sf(seen.mean() / error, 3))
    assert dominated_p_value(seen, 12, margin=0.2) == pytest.approx(
        stats.t.sf((seen.mean() - 0.2) / error, 3)
    )


def test_nothing_is_said_of_too_little() -> None:
    """Two prompts have p-value 1. Ratios without spread are above the margin, or not."""
    assert dominated_p_value(np.array([5.0, 6.0]), 10) == 1
    assert dominated_p_value(np.full(3, 0.7), 10) == 0
    assert dominated_p_value(np.full(3, 0.7), 10, margin=0.8) == 1


def test_the_rival_is_the_best_of_those_at_least_as_fast() -> None:
    """A slower trial is no rival however good it is; of the others the one of least typical damage
    is, whether faster or equally fast, also where a flip makes its mean the largest.
    """
    shape = np.array([0.5, 1.0, 1.5, 0.8])
    slower = rival(*(0.01 * shape), latency_s=1.01)
    equal = rival(0.05, 0.1, 0.15, 2.0, latency_s=1.0)
    faster = rival(*(0.3 * shape), latency_s=0.5)
    seen = [0.5, 1.1, 1.4]
    stop = StoppingRule().decide(seen, 1.0, [slower, faster, equal])
    assert stop is not None
    assert stop.rival == 2
    assert StoppingRule().decide(seen, 0.4, [slower, faster, equal]) is None
    assert StoppingRule().decide(seen, 1.0, []) is None
    assert StoppingRule(alpha=0.0).decide(seen, 1.0, [slower, faster, equal]) is None


def test_nothing_stops_before_the_first_prompt_or_after_the_last() -> None:
    """Without a prompt there is no evidence, and after the last there is nothing to save."""
    other = rival(0.1, 0.1, 0.1, 0.1)
    assert StoppingRule().decide([], 1.0, [other]) is None
    assert StoppingRule().decide([9.0, 9.1, 9.0, 9.1], 1.0, [other]) is None
    assert StoppingRule().decide([9.0, 9.1, 9.0], 1.0, [other]) is not None


def test_bf16_stops_what_is_slower_than_it() -> None:
    """A rival of damage 0 everywhere stops a trial after three prompts, with an estimate of a
    finite size.
    """
    stop = StoppingRule(noise_floor=1e-4).decide([0.1, 0.3, 0.2], 1.2, [rival(*[0.0] * 5)])
    assert stop is not None
    assert 0 < stop.estimate < 0.3


def test_a_trial_that_is_worse_on_every_prompt_stops_by_the_test() -> None:
    """About twice its rival on 5 of 30 prompts: the stop has the rival's index, the share that was
    seen, and an estimate between the rival's and what was seen; its JSON has every field.
    """
    other = rival(*np.linspace(0.5, 1.5, 30))
    factors = np.array([1.8, 2.2, 2.0, 1.9, 2.1])
    stop = StoppingRule(alpha=0.05, interim_tests=5).decide(
        list(np.asarray(other.per_prompt[:5]) * factors), 1.0, [rival(*[9.0] * 30), other]
    )
    assert stop is not None
    assert 0 < stop.p_value < 0.01
    assert (stop.prompts, stop.rival, stop.share) == (5, 1, pytest.approx(1 / 6))
    ratios = np.log(factors)
    shrunk = 1 - ratios.var(ddof=1) / 5 / ratios.mean() ** 2
    carried = np.exp(ratios.mean() * (5 + shrunk * 25) / 30)
    assert stop.estimate == pytest.approx(typical(other.per_prompt, 0.0) * carried, rel=1e-4)
    assert set(stop.to_json()) == {"prompts", "share", "rival", "p_value", "estimate"}


def test_interim_tests_share_the_error() -> None:
    """A p-value between alpha / 5 and alpha stops a trial with one interim test, but not one with
    five.
    """
    other = rival(*np.linspace(0.5, 1.5, 30))
    seen = list(np.asarray(other.per_prompt[:5]) * (1.2, 1.7, 1.3, 0.9, 1.5))
    ratios = np.log(seen) - np.log(other.per_prompt[:5])
    assert 0.01 < dominated_p_value(ratios, 30) < 0.05
    assert StoppingRule(alpha=0.05, interim_tests=1).decide(seen, 1.0, [other]) is not None
    assert StoppingRule(alpha=0.05, interim_tests=5).decide(seen, 1.0, [other]) is None


def test_differences_below_the_noise_floor_never_stop() -> None:
    """A trial that is worse by 0.01 on every prompt, nearly without spread, goes on under a floor
    of 0.02 and stops under one of 0.002.
    """
    other = rival(*np.linspace(0.5, 1.5, 20))
    seen = list(np.asarray(other.per_prompt[:10]) + 0.01 + 1e-4 * np.tile([1.0, -1.0], 5))
    assert StoppingRule(noise_floor=0.02).decide(seen, 1.0, [other]) is None
    assert StoppingRule(noise_floor=0.002).decide(seen, 1.0, [other]) is not None


def stopped_in(
    draws: int,
    rule: StoppingRule,
    after: tuple[int, ...],
    *,
    prompts: int,
    worse: float,
    rivals: int,
    seed: int,
) -> float:
    """Share of simulated trials that are stopped.

    Prompts differ in size by lognormal factors of sd 0.8, each trial swings around them by sd 0.5,
    and one picture in 20 flips. All rivals are scaled to `worse` below the trial's typical damage,
    the first exactly: with `worse` a hair below 1 each trial would just be on the front.
    """
    rng = np.random.default_rng(seed)
    count = 0
    for _ in range(draws):
        sizes = rng.lognormal(0, 0.8, prompts)
        flips = np.where(rng.random((1 + rivals, prompts)) < 0.05, 6.0, 1.0)
        trial, *others = sizes * rng.lognormal(0, 0.5, (1 + rivals, prompts)) * flips
        level = typical(trial, 0.0) / worse
        finished = [
            rival(*(row * level / typical(row, 0.0) * (1 + 0.02 * i)))
            for i, row in enumerate(others)
        ]
        count += any(rule.decide(list(trial[:k]), 1.0, finished) is not None for k in after)
    return count / draws


@pytest.mark.parametrize(
    ("prompts", "after"), [(10, (5,)), (10, (3, 6, 9)), (24, (4, 8, 12, 16, 20))]
)
def test_trials_of_the_front_are_rarely_stopped(prompts: int, after: tuple[int, ...]) -> None:
    """Trials that are better than each of six rivals by a hair, the hardest case, are stopped in
    about 5 of 100 cases at most over all interim tests, and in some.
    """
    rule = StoppingRule(alpha=0.05, interim_tests=len(after))
    found = stopped_in(400, rule, after, prompts=prompts, worse=0.9999, rivals=6, seed=1)
    assert 0 < found <= 0.075  # 2.3 standard errors above 0.05


def test_hopeless_trials_mostly_stop() -> None:
    """Trials of twice their rival's damage stop in more than half the cases after 5 of 10 prompts,
    and nearly always before the last of 24.
    """
    rule = StoppingRule(alpha=0.05)
    assert stopped_in(200, rule, (5,), prompts=10, worse=2.0, rivals=1, seed=2) > 0.5
    assert stopped_in(100, rule, (20,), prompts=24, worse=2.0, rivals=1, seed=2) > 0.95


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("alpha", -0.1),
        ("alpha", 0.5),
        ("alpha", float("nan")),
        ("interim_tests", 0),
        ("noise_floor", -1.0),
    ],
)
def test_a_rule_out_of_range_is_refused(field: str, value: float) -> None:
    """The message has the value and what was expected."""
    with pytest.raises(UserError, match=rf"`{field}` of early stopping is {value}; expected"):
        StoppingRule(**{field: value})
