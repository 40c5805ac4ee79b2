"""Criteria on pictures: intervals over prompts decide, and too few prompts decide nothing."""

import math
import statistics
from typing import Any

import numpy as np
import pytest
from scipy.stats import t as student

from sensitivity.fidelity.flips import FlipRule
from sensitivity.fidelity.mean_curve import MeanCurve
from sensitivity.fidelity.score import JudgeValues, MetricValues, Score
from sensitivity.fidelity.summary import SummaryRules
from sensitivity.search.front import Constraints
from sensitivity.workflows.criteria import Criterion, Decision
from sensitivity.workflows.picture_criteria import (
    MOST_PROMPTS,
    against_criterion,
    picture_criteria,
    prompts_to_decide,
)

PASSES, FAILS, UNDECIDED = Decision.PASSES, Decision.FAILS, Decision.UNDECIDED
OTHER_SEEDS = (0.31, 0.42, 0.37, 0.29, 0.45, 0.36, 0.40, 0.33)
"""LPIPS of pictures of another seed, as those of tiny-flux."""


def rules(error: float = 0.1) -> SummaryRules:
    """A curve with mean = 1.5 x typical everywhere, and flips from 0.15 on."""
    curve = MeanCurve(at=0.01, log_ratio=math.log(1.5), slope=0.0, error=error)
    return SummaryRules(
        curve=curve, damage_curve=curve, flip_rule=FlipRule(threshold=0.15, another_seed=0.375)
    )


def score(values: Any, **more: Any) -> Score:
    """A score of these LPIPS."""
    kept = tuple(float(value) for value in values)
    return Score(net="tiny", mean=statistics.fmean(kept), per_prompt=kept, noise_floor=None, **more)


def scattered(level: float, prompts: int, spread: float = 0.5) -> tuple[float, ...]:
    """LPIPS around a level: half of them a factor above, half as much below."""
    return tuple(level * math.exp(spread * (-1) ** i) for i in range(prompts))


def only(found: tuple[Criterion, ...]) -> Criterion:
    """The one criterion."""
    (criterion,) = found
    return criterion


def test_only_bounds_that_were_asked_are_criteria() -> None:
    """In the order of the constraints; bounds on time are none of pictures."""
    asked = Constraints(max_flips=2, max_lpips=0.1, max_typical=0.1, min_speedup=1.2)
    found = picture_criteria(score(scattered(0.01, 24)), rules(), asked)
    assert [one.field for one in found] == ["max_lpips", "max_typical", "max_flips"]
    assert picture_criteria(score((0.1,) * 9), rules(), Constraints(max_seconds=1)) == ()


@pytest.mark.parametrize(
    ("bound", "expected"), [(0.02, PASSES), (0.0105, UNDECIDED), (0.005, FAILS)]
)
def test_a_typical_lpips_is_decided_by_its_interval(bound: float, expected: Decision) -> None:
    """The interval is Student's t of the logarithms, and the number of prompts that is named is the
    least that makes it narrower than the way to the bound.
    """
    values = scattered(0.01, 24)
    found = only(picture_criteria(score(values), rules(), Constraints(max_typical=bound)))
    assert found.decision is expected
    logs = [math.log(value + 1e-6) for value in values]
    spread, middle = statistics.stdev(logs), statistics.fmean(logs)
    half = student.ppf(0.975, 23) * spread / math.sqrt(24)
    assert found.interval == pytest.approx(
        (math.exp(middle - half) - 1e-6, math.exp(middle + half) - 1e-6)
    )
    if expected is not UNDECIDED:
        assert (found.prompts_needed, found.why) == (None, "")
        return
    away, needed = abs(math.log(bound + 1e-6) - middle), found.prompts_needed
    assert needed is not None

    def width(n: int) -> float:
        return float(student.ppf(0.975, n - 1)) * spread / math.sqrt(n)

    assert width(needed) < away <= width(needed - 1)
    assert found.why == (
        f"not enough prompts to decide: found 24, about {needed:,} like them would be enough"
    )


def test_a_mean_is_decided_with_its_curve() -> None:
    """It is 1.5 times the typical LPIPS; where the curve alone is too uncertain for the bound, no
    number of prompts is named, and the next step is another bound.
    """
    values = scattered(0.01, 24)
    found = [
        only(picture_criteria(score(values), rules(), Constraints(max_lpips=bound)))
        for bound in (0.03, 0.0155, 0.005)
    ]
    assert [one.decision for one in found] == [PASSES, UNDECIDED, FAILS]
    assert found[0].value == pytest.approx(0.015, rel=1e-3)
    assert found[1].prompts_needed is None
    assert "an error of its own: bound the typical LPIPS, `max_typical`" in found[1].why
    surer = only(picture_criteria(score(values), rules(0.001), Constraints(max_lpips=0.0155)))
    assert surer.prompts_needed is not None


def test_a_few_prompts_that_rule_the_average() -> None:
    """Where the average of the prompts lies across the bound from the expected mean, it is open,
    and no number of prompts like them is named.
    """
    values = (*scattered(0.01, 23), 2.0)
    found = only(picture_criteria(score(values), rules(0.01), Constraints(max_lpips=0.05)))
    assert found.value < 0.05 < statistics.fmean(values)
    assert (found.decision, found.prompts_needed) == (UNDECIDED, None)
    assert f"a few of them rule their average, {statistics.fmean(values):.4f}" in found.why


def test_three_prompts_pass_nothing() -> None:
    """However small their LPIPS; the message says how many are expected."""
    asked = Constraints(max_lpips=0.5, max_typical=0.5, max_flips=2)
    found = picture_criteria(score((0.01, 0.0101, 0.0099)), rules(), asked)
    assert [one.decision for one in found] == [UNDECIDED] * 3
    assert all(one.why.startswith("not enough prompts to decide: found 3") for one in found)
    assert [one.prompts_needed for one in found] == [4, 4, 4]
    one = only(picture_criteria(score((0.9,)), rules(), Constraints(max_typical=0.1)))
    assert one.decision is UNDECIDED  # a single value has an interval of no width
    compared = against_criterion(score((0.1,) * 3), score((0.1, 0.2, 0.1)), "old")
    assert (compared.decision, compared.prompts_needed) == (UNDECIDED, 4)


def test_three_prompts_may_fail() -> None:
    """Where more of them flipped than may, nothing is guessed; and where the interval is beyond."""
    found = picture_criteria(
        score(OTHER_SEEDS[:3]), rules(), Constraints(max_typical=0.15, max_flips=2)
    )
    assert [one.decision for one in found] == [FAILS, FAILS]
    assert found[1].found == "3 of 3"


def test_another_seeds_pictures_fail() -> None:
    """All of them count as flips, and mean and typical LPIPS are beyond any useful bound."""
    asked = Constraints(max_lpips=0.15, max_typical=0.1, max_flips=2)
    found = picture_criteria(score(OTHER_SEEDS), rules(), asked)
    assert [one.decision for one in found] == [FAILS] * 3
    assert found[2].found == "8 of 8"
    assert against_criterion(score(OTHER_SEEDS), score(scattered(0.01, 8)), "old").decision is FAILS


@pytest.mark.parametrize(
    ("flipping", "most", "expected"),
    [(0, 2, PASSES), (2, 2, PASSES), (3, 2, FAILS), (0, 24, UNDECIDED)],
)
def test_flips_are_counted(flipping: int, most: int, expected: Decision) -> None:
    """At most so many pass; a bound that so few prompts cannot break decides nothing."""
    values = (0.2,) * flipping + (0.01,) * (24 - flipping)
    found = only(picture_criteria(score(values), rules(), Constraints(max_flips=most)))
    assert found.decision is expected


def test_bf16_passes_every_bound() -> None:
    """All LPIPS are 0: nothing is uncertain."""
    asked = Constraints(max_lpips=0.0, max_typical=0.0, max_flips=0)
    found = picture_criteria(score((0.0,) * 8), rules(), asked)
    assert {one.decision for one in found} == {PASSES}


@pytest.mark.parametrize(("bound", "expected"), [(0.5, PASSES), (0.31, UNDECIDED), (0.1, FAILS)])
def test_judges_and_sound_have_intervals_of_their_mean(bound: float, expected: Decision) -> None:
    """Student's t of the plain mean, with the sign of the side that is better."""
    values = (0.2, 0.4) * 6
    judges = {"flip": JudgeValues(per_prompt=values, noise_floor=None)}
    sound = MetricValues(per_prompt=values, noise_floor=None)
    judged = score((0.01,) * 12, judges=judges)
    found = only(picture_criteria(judged, rules(), Constraints(max_judge={"flip": bound})))
    heard = score((0.01,) * 12, audio=sound, audio_weight=1.0, max_audio_distance=bound)
    assert found.decision is expected
    assert only(picture_criteria(heard, rules(), Constraints())).decision is expected
    least = only(picture_criteria(judged, rules(), Constraints(min_judge={"flip": bound})))
    assert least.decision is {PASSES: FAILS, FAILS: PASSES}.get(expected, UNDECIDED)


def test_a_judge_that_did_not_look_is_open() -> None:
    """It neither passes nor fails."""
    found = only(picture_criteria(score((0.01,) * 8), rules(), Constraints(max_judge={"flip": 1})))
    assert (found.decision, found.why) == (UNDECIDED, "the judge did not look")
    assert found.to_json()["value"] is None


def test_against_fails_on_what_is_significant_only() -> None:
    """A tenth more on every prompt is seen at once, though both intervals overlap; a tenth more on
    average, with prompts that scatter, is not.
    """
    generator = np.random.default_rng(0)
    old = np.exp(generator.normal(-4, 1, 24))
    worse = old * np.exp(generator.normal(0.1, 0.05, 24))
    noisy = old * np.exp(generator.normal(0.0, 0.8, 24))
    failed = against_criterion(score(worse), score(old), "old")
    assert failed.decision is FAILS
    assert failed.value == pytest.approx(1.1, abs=0.03)
    assert "significantly worse" in failed.why
    assert score(worse).typical_ci95[0] < score(old).typical
    assert "significantly better" in against_criterion(score(old), score(worse), "new").why
    passed = against_criterion(score(noisy), score(old), "old")
    assert passed.decision is PASSES
    assert "no significant difference; 24 prompts would show a factor of" in passed.why
    assert against_criterion(score(old), score(old), "old").why == "the same on every prompt"


def test_against_bf16_itself_is_infinite() -> None:
    """What differs from a recipe without any difference fails, and JSON can hold it."""
    found = against_criterion(score((0.1,) * 8), score((0.0,) * 8), "none")
    assert found.decision is FAILS
    assert found.to_json()["interval"] == [None, None]


def test_prompts_that_would_be_enough() -> None:
    """None where the bound is too near, or where what more prompts do not change is too large."""
    values = scattered(1.0, 8)
    assert prompts_to_decide(values, 0.0) is None
    assert prompts_to_decide(values, 0.1, also=0.1) is None
    assert prompts_to_decide((1.0,) * 8, 0.1) == 9
    enough = prompts_to_decide(values, 0.2)
    assert enough is not None
    assert 8 < enough < MOST_PROMPTS
