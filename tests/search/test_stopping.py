"""Trials stop where a finished one is certainly or very likely better, and hardly ever where they
would be on the front.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sensitivity.errors import UserError
from sensitivity.search.stopping import (
    CARRY,
    Rival,
    StoppingRule,
    dominated_p_value,
    estimate_mean,
    order_prompts,
)

CERTAIN = StoppingRule(alpha=0.0)
VALUES = st.lists(st.floats(0, 1), min_size=5, max_size=5)


def rival(*per_prompt: float, latency_s: float = 1.0) -> Rival:
    return Rival(latency_s=latency_s, per_prompt=per_prompt)


def test_p_value_is_students_t_of_the_predicted_difference() -> None:
    """Ratios 1, 2, 0 above sizes 1, 2, 4, and 3, 1 unseen: the sums differ by 5 seen and 4
    predicted, with error sqrt(10 + 16 / 3); a floor of 0.2 takes 1 of 5.
    """
    sizes, seen = [1.0, 2.0, 4.0, 3.0, 1.0], [2.0, 6.0, 4.0]
    assert dominated_p_value(seen, sizes) == pytest.approx(stats.t.sf(9 / np.sqrt(10 + 16 / 3), 2))
    assert dominated_p_value(seen, sizes, noise_floor=0.2) == pytest.approx(
        stats.t.sf(8 / np.sqrt(10 + 16 / 3), 2)
    )


def test_p_value_of_equal_sizes_is_the_finite_populations_t() -> None:
    """With a rival that has 1 on each of 12 prompts it is the t test of 4 differences, its error
    smaller by sqrt(1 - 4 / 12).
    """
    seen = np.array([1.5, 0.9, 2.5, 1.7])
    t = (seen - 1).mean() / (seen.std(ddof=1) / 2 * np.sqrt(1 - 4 / 12))
    assert dominated_p_value(seen, np.ones(12)) == pytest.approx(stats.t.sf(t, 3))


def test_nothing_is_said_of_too_little() -> None:
    """Two prompts, sizes of 0, and differences without spread have p-value 1."""
    assert dominated_p_value([5.0, 6.0], [1.0] * 10) == 1
    assert dominated_p_value([5.0, 6.0, 7.0], [0.0] + [1.0] * 9) == 1
    assert dominated_p_value([2.0, 2.0, 2.0], [1.0] * 10) == 1
    assert dominated_p_value([5.0, 6.0, 7.0], [1.0, 1.0, 1.0, 0.0, 0.0]) == 1


def test_a_trial_above_its_rivals_whole_sum_stops() -> None:
    """One prompt of 2.5 against a sum of 2.4 is certain, with p-value 0; against 2.5, or with a
    noise floor of 0.1 over four prompts, it is not.
    """
    stop = CERTAIN.decide([2.5], 1.0, [rival(0.6, 0.6, 0.6, 0.6)])
    assert stop is not None
    assert (stop.prompts, stop.share, stop.rival, stop.p_value, stop.partial_mean) == (
        1,
        0.25,
        0,
        0.0,
        2.5,
    )
    assert CERTAIN.decide([2.5], 1.0, [rival(0.625, 0.625, 0.625, 0.625)]) is None
    assert (
        StoppingRule(alpha=0.0, noise_floor=0.1).decide([2.5], 1.0, [rival(0.6, 0.6, 0.6, 0.6)])
        is None
    )
    assert (
        StoppingRule(alpha=0.0, noise_floor=0.02).decide([2.5], 1.0, [rival(0.6, 0.6, 0.6, 0.6)])
        is not None
    )


@given(
    trial=VALUES,
    others=st.lists(st.tuples(VALUES, st.integers(1, 3)), min_size=1, max_size=4),
    seen=st.integers(1, 4),
)
def test_what_is_certain_is_never_false(
    trial: list[float], others: list[tuple[list[float], int]], seen: int
) -> None:
    """Whatever the values, a trial that stops without a test has a mean above that of a finished
    one that is at least as fast.
    """
    finished = [rival(*values, latency_s=float(latency)) for values, latency in others]
    stop = CERTAIN.decide(trial[:seen], 2.0, finished)
    if stop is not None:
        assert finished[stop.rival].latency_s <= 2
        assert np.mean(trial) > np.mean(finished[stop.rival].per_prompt) - 1e-12


def test_the_rival_is_the_best_of_those_at_least_as_fast() -> None:
    """A slower trial is no rival however good it is; of the others the one of least mean is,
    whether faster or equally fast.
    """
    good, fair, poor = ([level * x for x in (0.5, 1.0, 1.5, 0.8)] for level in (0.01, 0.1, 0.3))
    slower, equal, faster = (
        rival(*good, latency_s=1.01),
        rival(*fair, latency_s=1.0),
        rival(*poor, latency_s=0.5),
    )
    stop = CERTAIN.decide([0.2, 0.5], 1.0, [slower, faster, equal])
    assert stop is not None
    assert stop.rival == 2
    assert CERTAIN.decide([0.2, 0.5], 0.9, [slower, faster, equal]) is None
    assert CERTAIN.decide([0.2, 0.5], 0.4, [slower, faster, equal]) is None
    assert CERTAIN.decide([0.2, 0.5], 1.0, []) is None


def test_nothing_stops_before_the_first_prompt_or_after_the_last() -> None:
    """Without a prompt there is no evidence, and after the last there is nothing to save."""
    assert CERTAIN.decide([], 1.0, [rival(0.1, 0.1, 0.1)]) is None
    assert CERTAIN.decide([9.0, 9.0, 9.0], 1.0, [rival(0.1, 0.1, 0.1)]) is None
    assert CERTAIN.decide([9.0, 9.0], 1.0, [rival(0.1, 0.1, 0.1)]) is not None


def test_bf16_stops_what_is_slower_than_it() -> None:
    """A rival of LPIPS 0 everywhere stops a trial after its first prompts, and the estimate is
    their mean.
    """
    stop = StoppingRule().decide([0.1, 0.3], 1.2, [rival(0.0, 0.0, 0.0, 0.0, 0.0)])
    assert stop is not None
    assert stop.estimate == stop.partial_mean == pytest.approx(0.2)


def test_a_trial_that_is_worse_on_every_prompt_stops_by_the_test() -> None:
    """About twice its rival on 5 of 30 prompts: not certain, but the p-value is below 0.05. The
    stop has the rival's index and the share that was seen, and its JSON has every field.
    """
    other = rival(*np.linspace(0.5, 1.5, 30))
    seen = np.asarray(other.per_prompt[:5]) * (1.8, 2.2, 2.0, 1.9, 2.1)
    assert CERTAIN.decide(list(seen), 1.0, [other]) is None
    stop = StoppingRule(alpha=0.05, interim_tests=5).decide(
        list(seen), 1.0, [rival(*[9.0] * 30), other]
    )
    assert stop is not None
    assert 0 < stop.p_value < 0.01
    assert (stop.prompts, stop.rival, stop.share) == (5, 1, pytest.approx(1 / 6))
    assert set(stop.to_json()) == {
        "prompts",
        "share",
        "rival",
        "p_value",
        "partial_mean",
        "estimate",
    }


def test_interim_tests_share_the_error() -> None:
    """A p-value between alpha / 5 and alpha stops a trial with one interim test, but not one with
    five.
    """
    other = rival(*np.linspace(0.5, 1.5, 30))
    seen = list(np.asarray(other.per_prompt[:5]) * (1.2, 1.7, 1.3, 0.9, 1.5))
    assert 0.01 < dominated_p_value(seen, other.per_prompt) < 0.05
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

    Prompts differ in size by lognormal factors of sd 0.8, each trial swings around them by sd 0.5.
    All rivals are scaled to `worse` below the trial's mean, the first exactly: with `worse` a hair
    below 1 each trial would just be on the front.
    """
    rng = np.random.default_rng(seed)
    count = 0
    for _ in range(draws):
        sizes = rng.lognormal(0, 0.8, prompts)
        trial, *others = sizes * rng.lognormal(0, 0.5, (1 + rivals, prompts))
        finished = [
            rival(*(row * trial.mean() / row.mean() / worse * (1 + 0.02 * i)))
            for i, row in enumerate(others)
        ]
        count += any(rule.decide(list(trial[:k]), 1.0, finished) is not None for k in after)
    return count / draws


@pytest.mark.parametrize(
    ("prompts", "after"), [(10, (5,)), (10, (3, 6, 9)), (24, (4, 8, 12, 16, 20))]
)
def test_trials_of_the_front_are_rarely_stopped(prompts: int, after: tuple[int, ...]) -> None:
    """Trials that are better than each of six rivals by a hair, the hardest case, are stopped in at
    most 5 of 100 cases over all interim tests, and in some.
    """
    rule = StoppingRule(alpha=0.05, interim_tests=len(after))
    assert 0 < stopped_in(800, rule, after, prompts=prompts, worse=0.9999, rivals=6, seed=1) <= 0.05


def test_hopeless_trials_mostly_stop() -> None:
    """Trials of twice their rivals' LPIPS stop in 9 of 10 cases before 9 of 10 prompts; of 24
    prompts the test stops more trials than certainty does.
    """
    assert stopped_in(200, CERTAIN, (5, 8), prompts=10, worse=2.0, rivals=2, seed=2) > 0.9
    certain = stopped_in(200, CERTAIN, (8,), prompts=24, worse=2.0, rivals=1, seed=2)
    assert (
        stopped_in(200, StoppingRule(alpha=0.05), (8,), prompts=24, worse=2.0, rivals=1, seed=2)
        > certain + 0.1
    )


def test_an_estimate_adds_what_finished_trials_have_on_the_unseen_prompts() -> None:
    """Two finished trials of any size have 1/4 and 3/4 of their sums unseen: half on average.

    A trial of 8 seen, 4 times its rival's level, expects 4 ** CARRY.
    """
    finished = [[1.0, 2.0, 1.0], [1.0, 0.0, 3.0]]
    level = 4.0 * (16 / 4) ** CARRY
    assert estimate_mean([6.0, 2.0], finished, finished[0]) == pytest.approx((8 + level / 2) / 3)
    assert estimate_mean(
        [6.0, 2.0], [[100.0, 200.0, 100.0], [1.0, 0.0, 3.0]], finished[0]
    ) == pytest.approx((8 + level / 2) / 3)
    assert estimate_mean([6.0, 2.0], [*finished, [0.0] * 3], [0.0] * 3) == pytest.approx(16 / 3)
    assert estimate_mean([6.0, 2.0], [[0.0] * 3], [0.0] * 3) == pytest.approx(4)


def test_prompts_are_ordered_by_their_share_of_scores() -> None:
    """A trial of large scores counts no more than one of small ones, zeros count nothing, and equal
    prompts stay as they were.
    """
    assert order_prompts([[1.0, 3.0, 6.0]]) == (2, 1, 0)
    assert order_prompts([[600.0, 300.0, 100.0], [0.0, 0.4, 0.6], [0.0, 0.4, 0.6]]) == (2, 1, 0)
    assert order_prompts([[0.2, 0.3, 0.2, 0.3], [0.0] * 4]) == (1, 3, 0, 2)
    assert order_prompts([[0.0] * 4]) == ()


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
