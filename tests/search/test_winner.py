"""The winner: which skip-lists need a held-out score, when held-out prompts overrule the first
choice, and how often the stated interval is right.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sensitivity.errors import ConstraintError
from sensitivity.fidelity.score import JudgeValues, Score
from sensitivity.fidelity.summary import SummaryRules
from sensitivity.fidelity.typical import typical_interval
from sensitivity.search.front import Constraints
from sensitivity.search.shortlist import NEAR, Contest
from sensitivity.search.trials import ScoredTrial
from sensitivity.search.winner import FURTHER, Winner, choose_winner, compare, describe_unmet

BF16_S = 10.0
WAVE = np.array([0.75, 1 / 0.75] * 5)  # prompts: typically 1, and half of them other than the rest


def score_of_values(values: Sequence[float]) -> Score:
    """A score of these LPIPS, one a prompt."""
    return Score(
        net="tiny",
        mean=float(np.mean(values)),
        per_prompt=tuple(float(v) for v in values),
        noise_floor=None,
    )


def trial(index: int, seconds: float, values: Sequence[float], label: str = "") -> ScoredTrial:
    """A finished trial with these LPIPS on the search prompts."""
    return ScoredTrial(
        index=index,
        number=index + 1,
        choice=(index,),
        label=label,
        latency_s=seconds,
        score=score_of_values(values),
        seconds=0.0,
    )


def line(lpips: Sequence[float], noise: float = 0.0) -> list[ScoredTrial]:
    """A front of 1, 2, 3 ... seconds with these typical LPIPS over ten prompts; `noise` is how far
    neighbours differ from one another prompt by prompt, in logarithms.
    """
    tilt = noise * np.array([1.0, -1.0, 2.0, -2.0, 3.0, -3.0, 1.5, -1.5, 0.5, -0.5])
    return [
        trial(i, i + 1.0, typical * WAVE * np.exp(np.roll(tilt, i)))
        for i, typical in enumerate(lpips)
    ]


class Asked:
    """Gives held-out scores by trial index, a constant LPIPS a trial or a list, and remembers who
    was asked.
    """

    def __init__(self, values: dict[int, float | Sequence[float]]) -> None:
        self.values, self.asked = values, []  # type: ignore[var-annotated]

    def __call__(self, asked: ScoredTrial) -> Score | None:
        self.asked.append(asked.index)
        if asked.index not in self.values:
            return None
        value = self.values[asked.index]
        return score_of_values([value] * 12 if isinstance(value, int | float) else value)


def contest(trials: Sequence[ScoredTrial], **bounds: Any) -> Contest:
    """A contest with bounds as keywords; a picture of LPIPS 0.2 or more is another one."""
    rules = SummaryRules.of([t.score for t in trials], another_seed=0.4)
    return Contest.of(trials, Constraints(**bounds), bf16_s=BF16_S, rules=rules)


def named(
    trials: Sequence[ScoredTrial], held: Callable[[ScoredTrial], Score | None], **bounds: Any
) -> Winner:
    """`choose_winner` with bounds as keywords."""
    return choose_winner(contest(trials, **bounds), score=held)


def indices(trials: Sequence[ScoredTrial]) -> list[int]:
    """The trials' numbers."""
    return [t.index for t in trials]


def test_clear_fronts_ask_for_the_choice_and_its_neighbours() -> None:
    """Where every pair differs on every prompt in proportion, the shortlist is the choice and one
    on each side, nearest first, the better LPIPS before.
    """
    trials = line([0.5, 0.4, 0.3, 0.2, 0.1])
    assert indices(contest(trials).near(trials[2])) == [2, 3, 1]


def test_what_cannot_be_told_from_the_choice_is_asked_too_and_at_most_six() -> None:
    """Ten members that differ by less than the noise between prompts give the six nearest; with
    less noise none but the neighbours.
    """
    means = [0.30 - 0.001 * i for i in range(10)]
    blurred = line(means, noise=0.05)
    assert indices(contest(blurred).near(blurred[4])) == [4, 5, 3, 6, 2, 7]
    assert NEAR == 6


def test_the_shortlist_keeps_to_the_constraints() -> None:
    """With bounds on LPIPS and time nothing beyond them is asked, however alike it is. A bound on
    the mean is one on what the curve makes of the typical LPIPS.
    """
    trials = line([0.30, 0.299, 0.298, 0.297], noise=0.05)
    held = Asked(dict.fromkeys(range(4), 0.1))
    assert indices(named(trials, held, max_typical=0.2991).shortlist) == [1, 2, 3]
    assert indices(named(trials, held, max_typical=0.2991, max_seconds=3.0).shortlist) == [1, 2]
    mean = contest(trials).rules.curve.mean(0.2991)
    assert mean > 0.2991
    assert indices(named(trials, held, max_lpips=mean).shortlist) == [1, 2, 3]
    assert indices(named(trials, held, min_speedup=BF16_S / 3).shortlist) == [0, 1, 2]


def test_with_a_bound_the_first_choice_stays_while_its_held_out_value_keeps_to_it() -> None:
    """Within the bound it stays; above it the fastest of the shortlist that keeps to the bound
    wins.
    """
    trials, bound = line([0.5, 0.375, 0.25, 0.125]), 0.3755
    within = named(trials, Asked({1: 0.375, 2: 0.125, 3: 0.125}), max_typical=bound)
    assert within.chosen == trials[1]
    overruled = named(trials, Asked({1: 0.376, 2: 0.25, 3: 0.125}), max_typical=bound)
    assert (overruled.first, overruled.chosen) == (trials[1], trials[2])


def test_a_bound_on_the_mean_is_one_on_the_expected_mean() -> None:
    """One prompt that flips doubles the average of the held-out prompts and hardly changes what is
    expected of others: the first choice stays. Its flip breaks a bound on flips.
    """
    trials = line([0.05, 0.04, 0.03, 0.02])
    calm, flip = [0.04] * 12, [0.04] * 11 + [0.5]
    held = Asked({0: calm, 1: flip, 2: [0.03] * 12, 3: [0.02] * 12})
    rules = contest(trials).rules
    bound = 1.3 * rules.curve.mean(0.04)
    assert np.mean(flip) > bound
    assert named(trials, held, max_lpips=bound, max_typical=0.045).first == trials[1]
    assert named(trials, held, max_lpips=bound, max_typical=0.05).chosen == trials[1]
    steady = named(trials, held, max_flips=0, max_typical=0.045)
    assert (steady.first, steady.chosen) == (trials[1], trials[2])
    assert steady.said(trials[1]).flips == (11,)
    assert steady.said(trials[1]).average == pytest.approx(np.mean(flip))


def test_where_the_shortlist_breaks_the_bound_slower_members_are_scored_until_one_keeps_to_it() -> (
    None
):
    """Held-out LPIPS twice the search's: members from half the bound on are asked one by one, and
    no more after the first that keeps to it.
    """
    trials = line([1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2])
    held = Asked({0: 2.0, 1: 1.8, 6: 1.01, 7: 0.9, 8: 0.4})
    winner = named(trials, held, max_typical=1.001)
    assert held.asked == [0, 1, 5, 6, 7]
    assert winner.chosen == trials[7]
    assert indices(winner.shortlist) == [0, 1, 6, 7]
    assert indices(winner.passed_over) == [5]


def test_further_trials_keep_to_the_bounds_on_time_and_ends_after_six() -> None:
    """Slower members beyond `max_seconds` are not asked; six that break the bound are enough, and
    then nothing wins.
    """
    trials = line([1.0 - 0.05 * i for i in range(19)])
    worse = Asked(dict.fromkeys(range(19), 1.01))
    winner = named(trials, worse, max_typical=1.001)
    assert winner.chosen is None
    assert len(winner.shortlist) == 2 + FURTHER
    winner = named(trials, worse, max_typical=1.001, max_seconds=4.0)
    assert max(t.latency_s for t in winner.shortlist) == 4.0
    assert winner.chosen is None


def test_no_winner_is_said_with_the_nearest_and_a_bound_that_is_met() -> None:
    """The message has the bound, how many were scored, the nearest with its value, and a
    bound that it keeps to.
    """
    trials = line([0.4, 0.3])
    winner = named(trials, Asked({0: 0.55, 1: 0.51234}), max_typical=0.401, max_flips=10)
    text = describe_unmet(winner, bf16_s=BF16_S)
    for words in (
        "typical LPIPS <= 0.401 and flips <= 10 on the held-out prompts",
        "of the 2 that were scored",
        "trial 2 comes nearest, 5.000x at held-out typical LPIPS 0.5123 [0.5123, 0.5123], mean",
        "12 of 12 flipped: relax `max_typical` to 0.5124 and `max_flips` to 12 (",
    ):
        assert words in text
    bound = contest(trials).rules.curve.mean(0.45)
    winner = named(trials, Asked({0: 0.55, 1: 0.51234}), max_lpips=bound)
    relaxed = float(describe_unmet(winner, bf16_s=BF16_S).split("`max_lpips` to ")[1].split()[0])
    assert named(trials, Asked({0: 0.55, 1: 0.51234}), max_lpips=relaxed).chosen == trials[1]


def test_the_nearest_is_never_the_winner_in_silence() -> None:
    """A bound that nothing meets on the search prompts raises; that nothing meets on the held-out
    prompts names nothing.
    """
    with pytest.raises(ConstraintError, match=r"no scored skip-list has mean LPIPS <= 0\.01"):
        named(line([0.4, 0.3]), Asked({}), max_lpips=0.01)
    assert named(line([0.4, 0.3]), Asked({0: 0.5, 1: 0.5}), max_typical=0.41).chosen is None


def test_under_bounds_on_time_only_a_clear_difference_overrules() -> None:
    """A faster member with less LPIPS on all prompts, in proportion, wins; one that is better
    typically but not prompt by prompt does not.
    """
    trials = line([0.31, 0.30])
    held = 0.3 * np.array([0.8, 1.2] * 12)
    clear = Asked({0: 0.5 * held, 1: held})
    assert named(trials, clear, max_seconds=2.0).chosen == trials[0]
    noisy = held * np.exp(0.4 * np.array([1.0, -1.1] * 12))
    assert score_of_values(noisy).typical < 0.99 * score_of_values(held).typical
    assert named(trials, Asked({0: noisy, 1: held}), max_seconds=2.0).chosen == trials[1]


def test_the_knee_is_overruled_where_another_lies_clearly_farther_below_the_chord() -> None:
    """On the search prompts LPIPS is 1, 0.4, 0.1, 0 at 1 to 4 s, with the knee at 2 s. What the
    trial of 3 s saves on the held-out prompts must be clearly more than a second is worth, about
    0.35.
    """
    trials = line([1.0, 0.4, 0.1, 0.0])
    assert named(trials, Asked({0: 1.0, 1: 0.4, 2: 0.1, 3: 0.0})).chosen == trials[1]
    assert named(trials, Asked({0: 1.0, 1: 0.5, 2: 0.12, 3: 0.0})).chosen == trials[1]
    assert named(trials, Asked({0: 1.0, 1: 0.8, 2: 0.05, 3: 0.0})).chosen == trials[2]


def test_passed_over_trials_do_not_win() -> None:
    """Without a score for the first choice the nearest that has one wins; without any score nothing
    wins, and the message says how to get one.
    """
    trials = line([0.31, 0.305, 0.30], noise=0.05)
    winner = named(trials, Asked({1: 0.3, 0: 0.3}), min_speedup=1.0)
    assert (winner.first, winner.chosen, winner.passed_over) == (trials[2], trials[1], (trials[2],))
    nothing = named(trials, Asked({}), min_speedup=1.0)
    assert nothing.chosen is None
    assert "none of the 3 skip-lists near the choice has a held-out score" in describe_unmet(
        nothing, bf16_s=BF16_S
    )
    assert "choose with `verify` on" in describe_unmet(nothing, bf16_s=BF16_S)


def test_a_skip_list_is_summarized_alike_whatever_else_was_verified() -> None:
    """What is said follows from the skip-list's own held-out values and the curve of the trials: on
    a shortlist of two or of one, as the winner or beside it.
    """
    rng = np.random.default_rng(0)
    held = {i: rng.lognormal(-2, 0.8, 24) for i in range(4)}
    trials = [*line([0.5, 0.4, 0.3]), trial(3, 1.5, 0.9 * WAVE, label="rule of thumb")]
    for bounds in ({"max_typical": 0.45}, {"max_seconds": 1.0}, {}):
        asked = contest(trials, **bounds)
        winner = compare(choose_winner(asked, score=Asked(held)), asked.beside(), Asked(held))
        assert 3 in winner.held_out
        for index in winner.held_out:
            said = winner.said(trials[index])
            assert said.typical_ci95 == typical_interval(held[index], None)
            assert (said.mean, *said.mean_ci95) == asked.rules.curve.mean_interval(
                held[index], None
            )


def test_the_winner_is_compared_prompt_by_prompt() -> None:
    """Twice the LPIPS on every prompt is a ratio of exactly a half; there is none to itself."""
    trials = [*line([0.4, 0.2]), trial(2, 1.5, 0.9 * WAVE, label="rule of thumb")]
    values = np.random.default_rng(1).lognormal(-3, 0.8, 24)
    held = Asked({0: values, 1: values, 2: 2 * values})
    asked = contest(trials, max_seconds=1.0)
    winner = compare(choose_winner(asked, score=held), asked.beside(), held)
    ratio = winner.ratio_to(trials[2])
    assert ratio is not None
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((0.5, 0.5, 0.5), rel=1e-3)
    assert winner.ratio_to(trials[0]) is None


def test_bf16_is_not_as_good_as_a_skip_list_with_damage() -> None:
    """Of a front whose members few prompts tell apart, bf16 is not on the shortlist: it is known to
    be better. At the noise floor it is.
    """
    flips = [[0.01, 0.012, 0.02, 0.015, x] for x in (0.4, 0.35, 0.3, 0.25)]
    trials = [trial(i, i + 1.0, row) for i, row in enumerate([*flips, [0.0] * 5])]
    assert 4 not in indices(contest(trials).near(trials[0]))
    near = [
        replace(t, score=replace(t.score, noise_floor=0.2 if t.index < 4 else None)) for t in trials
    ]
    assert 4 in indices(contest(near).near(near[0]))


def test_the_plan_has_every_trial_that_will_be_asked() -> None:
    """Before any picture is generated the plan has the shortlist, the baselines and the two best
    answers to the rule of thumb, each once.
    """
    trials = [
        *line([0.5, 0.4, 0.3, 0.2, 0.1]),
        trial(5, 3.5, 0.9 * WAVE, label="rule of thumb"),
        trial(6, 9.0, 0.0 * WAVE, label="none"),
    ]
    asked = contest(trials, max_typical=0.101)
    assert sorted(indices(asked.planned())) == [1, 2, 4, 5, 6]
    held = Asked(dict.fromkeys(range(7), 0.05))
    winner = compare(choose_winner(asked, score=held), asked.beside(), held)
    assert sorted(winner.held_out) == sorted(indices(asked.planned()))


def simulate_coverage(
    bounds: Constraints, *, runs: int, spread: float = 0.8, shared: float = 0.6, seed: int = 0
) -> dict[str, float]:
    """How often the winner's true typical and mean LPIPS lie in the stated intervals, and how far
    the reported typical one is off, in its standard errors.

    50 skip-lists lie about a front of some 20; LPIPS over 10 search and 24 held-out prompts is
    lognormal with a relative spread of `spread` and correlated over skip-lists by `shared`, as
    tiny-flux's is (0.5 to 1.4, 0.4 to 0.9).
    """
    rng, sigma = np.random.default_rng(seed), math.sqrt(math.log(1 + spread**2))
    typical, mean, errors, missing = 0, 0, [], 0
    for _ in range(runs):
        seconds = 1 + np.sort(rng.uniform(size=50))
        truth = 0.03 * (2 - seconds) ** 1.5 * np.exp(rng.normal(0, 0.25, 50)) + 0.001
        noise = math.sqrt(shared) * rng.normal(size=34) + math.sqrt(1 - shared) * rng.normal(
            size=(50, 34)
        )
        values = truth[:, None] * np.exp(sigma * noise)  # (50, 34)
        trials = [trial(i, seconds[i], values[i, :10]) for i in range(50)]
        held = Asked({i: values[i, 10:] for i in range(50)})
        winner = choose_winner(Contest.of(trials, bounds, bf16_s=2.0), score=held)
        if winner.chosen is None:
            missing += 1
            continue
        at, said = winner.chosen.index, winner.said(winner.chosen)
        typical += said.typical_ci95[0] <= truth[at] <= said.typical_ci95[1]
        true_mean = truth[at] * math.exp(sigma**2 / 2)
        mean += said.mean_ci95[0] <= true_mean <= said.mean_ci95[1]
        errors.append(math.log(said.typical / truth[at]) * math.sqrt(24) / sigma)
    found = runs - missing
    return {
        "typical": typical / found,
        "mean": mean / found,
        "bias": float(np.mean(errors)),
        "unnamed": missing / runs,
    }


@pytest.mark.parametrize(
    "bounds",
    [Constraints(max_typical=0.008), Constraints(max_seconds=1.5), Constraints()],
    ids=lambda bounds: bounds.rule,
)
def test_what_is_true_of_the_winner_lies_in_its_stated_intervals(bounds: Constraints) -> None:
    """In 60 simulated searches 95 % are expected; 51 are within the chance of 60."""
    found = simulate_coverage(bounds, runs=60)
    assert found["typical"] >= 0.85
    assert found["mean"] >= 0.85
    assert abs(found["bias"]) < 0.7
    assert found["unnamed"] < 0.1


def test_a_bound_on_a_judge_is_a_test_on_held_out_pictures() -> None:
    """The first choice gives way where a judge's mean breaks its bound or the judge did not look;
    if all do, the message names the bound and what the judge says.
    """
    trials = line([0.1, 0.03, 0.01, 0.001])

    def judged(said: dict[int, float]) -> Callable[[ScoredTrial], Score]:
        def score(asked: ScoredTrial) -> Score:
            values = JudgeValues(per_prompt=(said.get(asked.index, 0.9),), noise_floor=None)
            return replace(asked.score, judges={"flip": values} if asked.index in said else {})

        return score

    bound = Constraints(max_judge={"flip": 0.05})
    contest = Contest.of(trials, bound, bf16_s=BF16_S)
    first = contest.first_choice()
    slower = [t.index for t in trials if t.latency_s > first.latency_s]
    found = choose_winner(contest, score=judged({first.index: 0.07, slower[0]: 0.04}))
    assert found.first == first
    assert found.chosen is not None
    assert found.chosen.index == slower[0]
    unmet = choose_winner(contest, score=judged({t.index: 0.07 for t in trials}))
    assert unmet.chosen is None
    assert "flip <= 0.05 on the held-out prompts" in describe_unmet(unmet, bf16_s=BF16_S)
    assert "the bound on flip (here 0.07)" in describe_unmet(unmet, bf16_s=BF16_S)
    assert bound.displeased({}) == ["flip (it did not look)"]
    assert bound.rule == "knee"


@pytest.mark.parametrize(
    "values",
    [
        [0.1],
        [0.1, 0.2, 0.1, 0.4],
        [0.0, 0.0, 0.0],
        [0.0, 0.0, 0.9],
        [0.9] * 5,
        [1e-300, 1e-12, 1e-7],
        list(np.linspace(0.01, 0.5, 200)),
    ],
    ids=["one", "four", "zero", "one flips", "all flip", "rounding", "two hundred"],
)
@pytest.mark.parametrize("bounds", [{}, {"max_lpips": 2.0}, {"max_seconds": 4.0}], ids=str)
def test_any_values_end_in_a_winner(values: list[float], bounds: dict[str, float]) -> None:
    """Few prompts or many, zeros, flips and rounding: something is named, and every number that is
    said of it is finite and in order.
    """
    scale = np.array(values)
    trials = [trial(i, i + 1.0, scale / (i + 1)) for i in range(4)]
    trials.append(trial(4, 2.5, 0.9 * scale, label="rule of thumb"))
    held = Asked({i: scale / (i + 1) for i in range(4)} | {4: 0.9 * scale})
    asked = contest(trials, **bounds)
    winner = compare(choose_winner(asked, score=held), asked.beside(), held)
    assert winner.chosen is not None
    said = winner.said(winner.chosen)
    for value, (low, high) in ((said.typical, said.typical_ci95), (said.mean, said.mean_ci95)):
        assert 0 <= low <= value * (1 + 1e-9) + 1e-15
        assert value <= high * (1 + 1e-9) + 1e-15 < math.inf
    if (ratio := winner.ratio_to(trials[4])) is not None:
        assert 0 <= ratio.low <= ratio.value * (1 + 1e-9)
        assert ratio.value <= ratio.high * (1 + 1e-9)


def test_what_does_not_fit_is_neither_chosen_nor_verified() -> None:
    """The fastest three need 25 GB and more: none of them gets a held-out score, whether memory is
    bounded alone, beside LPIPS or beside time. Without the bound one of them is the first choice.
    """
    gb = (27, 26, 25, 24, 23, 22)
    trials = [
        replace(own, memory_bytes=size * 10**9)
        for own, size in zip(line([0.6, 0.5, 0.4, 0.3, 0.2, 0.1]), gb, strict=True)
    ]
    held = {i: t.typical for i, t in enumerate(trials)}
    assert named(trials, Asked(held), max_typical=0.9).first.index == 0
    for bounds in ({}, {"max_typical": 0.9}, {"max_seconds": 4.0}):
        asked = Asked(held)
        winner = named(trials, asked, max_memory_bytes=24 * 10**9, **bounds)
        assert winner.chosen is not None
        assert winner.chosen.index >= 3
        assert set(asked.asked) <= {3, 4, 5}


def test_slower_lists_are_looked_for_on_the_front_of_what_fits() -> None:
    """Where the held-out prompts break a bound, the next slower list that fits is asked for, though
    one that does not fit is better in both.
    """
    trials = [
        replace(own, memory_bytes=size)
        for own, size in zip(line([0.40, 0.10, 0.20, 0.05]), (10, 99, 10, 10), strict=True)
    ]
    asked = Asked({0: 0.9, 1: 0.2, 2: 0.3, 3: 0.1})
    winner = named(trials, asked, max_typical=0.45, max_memory_bytes=20)
    assert winner.chosen is not None
    assert (winner.chosen.index, 1 in asked.asked) == (2, False)
