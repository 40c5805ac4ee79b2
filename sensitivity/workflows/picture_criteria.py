"""Do pictures keep to bounds? A criterion for each, decided by its interval over prompts.

    rows = picture_criteria(score, rules, Constraints(max_lpips=0.02))
    rows[0].decision, rows[0].prompts_needed            # Decision.UNDECIDED, 70
    against_criterion(score, other_score, "old").decision

- Mean and typical LPIPS: the 95 % intervals of `fidelity.summary`, over prompts. Where there is
  sound, LPIPS means damage (`fidelity.score`), as in a search.
- Flips are counted, not estimated: the bound is on the prompts of the gate.
- A judge's mean, and the distance of the sound: Student's t over the prompts, 95 %.
- Against another recipe: the ratio of the two typical LPIPS, prompt by prompt. It fails only where
  the whole 95 % interval is above 1. It passes otherwise, and says which ratio would be seen.

Where a criterion is open, `prompts_needed` says about how many prompts would decide it, if they
were like those at hand. With fewer than `FEWEST` prompts nothing passes.

This module computes with numbers only.
"""

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike

from sensitivity.fidelity.mean_curve import ERRORS
from sensitivity.fidelity.score import MetricValues, Score
from sensitivity.fidelity.summary import SummaryRules
from sensitivity.fidelity.typical import (
    Ratio,
    log_damages,
    ratio,
    student_half_width,
    student_interval,
    student_quantile,
)
from sensitivity.fidelity.words import Interval, interval_words, lpips_words
from sensitivity.search.front import Constraints
from sensitivity.spec.prompts import FEWEST
from sensitivity.workflows.criteria import Criterion, Decision, decide

MOST_PROMPTS = 10_000
"""Prompts beyond which no number is named."""
AGAINST = "against"
FEW = ", since a few of them rule their average, {average}: bound the typical LPIPS, `max_typical`"
CURVE = ", since the mean has an error of its own: bound the typical LPIPS, `max_typical`"
"""Why no number of prompts decides a mean, and the next step."""


def picture_criteria(
    score: Score, rules: SummaryRules, constraints: Constraints
) -> tuple[Criterion, ...]:
    """A criterion for each bound on pictures and sound that was asked for.

    Args:
        score: on the prompts of the gate.
        rules: how it is summarized.
        constraints: the bounds; those on time are not looked at.
    """
    found = [
        *_lpips_criteria(score, rules, constraints),
        *_judge_criteria(score, constraints),
    ]
    if score.audio is not None and score.max_audio_distance is not None:
        asked = f"distance of the sound <= {score.max_audio_distance:g}"
        found.append(
            _of_a_mean("max_audio_distance", asked, score.audio, most=score.max_audio_distance)
        )
    return tuple(found)


def _lpips_criteria(
    score: Score, rules: SummaryRules, constraints: Constraints
) -> Iterator[Criterion]:
    """The mean, the typical one, and flips."""
    logs = log_damages(score.damages, score.damage_floor)
    if constraints.max_lpips is not None:
        yield _mean(score, rules, constraints.max_lpips)
    if (most := constraints.max_typical) is not None:
        away = abs(float(logs.mean() - log_damages([most], score.damage_floor)[0]))
        yield _of_prompts(
            "max_typical",
            f"typical LPIPS <= {most:g}",
            (score.typical, *score.typical_ci95),
            prompts_to_decide(logs, away),
            len(logs),
            most=most,
        )
    if constraints.max_flips is not None:
        yield _flips(len(rules.flips(score)), len(logs), constraints.max_flips)


def _mean(score: Score, rules: SummaryRules, most: float) -> Criterion:
    """The expected mean. More prompts narrow its interval by as much as that of the typical LPIPS;
    not by the error of the curve, nor where the average of these prompts lies across the bound.
    """
    curve, logs = rules.damage_curve, log_damages(score.damages, score.damage_floor)
    mean, low, high = curve.mean_interval(score.damages, score.damage_floor)
    away = abs(math.log(mean / most)) if mean > 0 and most > 0 else 0.0
    needed = prompts_to_decide(logs, away, also=ERRORS * curve.error)
    why = CURVE
    if (mean <= most) != (score.damage <= most):
        needed, why = None, FEW.format(average=lpips_words(score.damage))
    return _of_prompts(
        "max_lpips",
        f"mean LPIPS <= {most:g}",
        (mean, low, high),
        needed,
        len(logs),
        most=most,
        otherwise=why,
    )


def _flips(flips: int, prompts: int, most: int) -> Criterion:
    """The count of flips. Where there are too few prompts to break the bound, it is open."""
    needed = max(FEWEST, most + 1)
    decision, why = Decision.PASSES, ""
    if flips > most:
        decision = Decision.FAILS
    elif prompts < needed:
        decision = Decision.UNDECIDED
        why = f"not enough prompts to decide: found {prompts}, expected {needed} at least"
    return Criterion(
        field="max_flips",
        asked=f"flips <= {most}",
        decision=decision,
        value=flips,
        found=f"{flips} of {prompts}",
        why=why,
        prompts=prompts,
        prompts_needed=needed if decision is Decision.UNDECIDED else None,
    )


def _judge_criteria(score: Score, constraints: Constraints) -> Iterator[Criterion]:
    """The mean of each judge that is bounded."""
    sides = (
        ("max_judge", constraints.max_judge, "<=", "most"),
        ("min_judge", constraints.min_judge, ">=", "least"),
    )
    for field, bounds, sign, side in sides:
        for name, bound in bounds.items():
            asked = f"{name} {sign} {bound:g}"
            values = score.judges.get(name)
            if values is None:
                yield Criterion(
                    field=field,
                    asked=asked,
                    decision=Decision.UNDECIDED,
                    value=math.nan,
                    found="nothing",
                    why="the judge did not look",
                )
            else:
                yield _of_a_mean(field, asked, values, **{side: bound})


def _of_a_mean(
    field: str,
    asked: str,
    metric: MetricValues,
    *,
    most: float | None = None,
    least: float | None = None,
) -> Criterion:
    """A criterion on the plain mean of a metric."""
    values = np.asarray(metric.per_prompt, dtype=np.float64)
    mean, (low, high) = float(values.mean()), student_interval(values)
    bound = most if most is not None else least
    away = 0.0 if bound is None else abs(mean - bound)
    needed = prompts_to_decide(values, away)
    return _of_prompts(
        field, asked, (mean, low, high), needed, len(values), most=most, least=least, digits=True
    )


def _of_prompts(
    field: str,
    asked: str,
    found: tuple[float, float, float],
    needed: int | None,
    prompts: int,
    *,
    most: float | None = None,
    least: float | None = None,
    digits: bool = False,
    otherwise: str = "",
) -> Criterion:
    """A criterion on a statistic over prompts.

    Args:
        field, asked: see `Criterion`.
        found: the value, and both ends of its interval.
        needed: about how many prompts would decide it; None: no number of them.
        prompts: how many there are.
        most, least: the bound.
        digits: write numbers as a judge's, not as LPIPS.
        otherwise: the next step where no number of prompts decides it.
    """
    value, interval = found[0], (found[1], found[2])
    decision = decide(interval, most=most, least=least)
    if prompts < 2 or (prompts < FEWEST and decision is Decision.PASSES):
        decision, needed = Decision.UNDECIDED, max(needed or 0, FEWEST)
    why = ""
    if decision is Decision.UNDECIDED:
        why = f"not enough prompts to decide: found {prompts}, {needed_words(needed)}"
        why += "" if needed else otherwise
    words = (
        f"{value:.4g} [{interval[0]:.4g}, {interval[1]:.4g}]"
        if digits
        else interval_words(value, interval)
    )
    return Criterion(
        field=field,
        asked=asked,
        decision=decision,
        value=value,
        interval=interval,
        found=words,
        why=why,
        prompts=prompts,
        prompts_needed=needed if decision is Decision.UNDECIDED else None,
    )


def needed_words(needed: int | None) -> str:
    """About how many prompts would be enough, as the end of a sentence."""
    if needed is None:
        return f"and not even {MOST_PROMPTS:,} like them would be enough"
    return f"about {needed:,} like them would be enough"


def prompts_to_decide(values: ArrayLike, away: float, *, also: float = 0.0) -> int | None:
    """How many prompts make an interval narrower than the way to its bound.

    Args:
        values: (N,) values of the prompts at hand, whose mean is the statistic.
        away: how far the bound lies from it.
        also: a half-width that more prompts do not make narrower, added in quadrature.

    Returns:
        More than N, and at least `FEWEST`; None where `MOST_PROMPTS` would not be enough.
    """
    own = np.asarray(values, dtype=np.float64)
    n, spread = len(own), float(own.std(ddof=1)) if len(own) > 1 else 0.0
    room = math.sqrt(max(away**2 - also**2, 0.0))
    least, most = max(n + 1, FEWEST), MOST_PROMPTS

    def is_enough(prompts: int) -> bool:
        return student_quantile(prompts) * spread / math.sqrt(prompts) < room

    if least > most or not is_enough(most):
        return None
    while least < most:
        middle = (least + most) // 2
        least, most = (least, middle) if is_enough(middle) else (middle + 1, most)
    return least


def against_criterion(score: Score, other: Score, name: str) -> Criterion:
    """Whether a score is clearly worse than another recipe's on the same prompts.

    Args:
        score: of the recipe.
        other: of the other one, whose name is `name`.
    """
    floor = max(score.damage_floor, other.damage_floor)
    found = ratio(score.damages, other.damages, floor)
    prompts = len(score.damages)
    decision, why = _compared(found, prompts, score, other, floor)
    interval = (found.low, found.high)
    return Criterion(
        field=AGAINST,
        asked=f"typical LPIPS not above that of {name}",
        decision=decision,
        value=found.value,
        interval=interval,
        found=f"{found.value:.3g} times as much{_bounds(interval)}",
        why=why,
        prompts=prompts,
        prompts_needed=FEWEST if decision is Decision.UNDECIDED else None,
    )


def _compared(
    found: Ratio, prompts: int, score: Score, other: Score, floor: float
) -> tuple[Decision, str]:
    """What a ratio says, and why."""
    if prompts < 2 or (prompts < FEWEST and found.low <= 1):
        return (
            Decision.UNDECIDED,
            f"not enough prompts to decide: found {prompts}, expected {FEWEST} at least",
        )
    if found.low > 1:
        return Decision.FAILS, "significantly worse, prompt by prompt"
    if found.high < 1:
        return Decision.PASSES, "significantly better, prompt by prompt"
    if score.damages == other.damages:
        return Decision.PASSES, "the same on every prompt"
    logs = log_damages(score.damages, floor) - log_damages(other.damages, floor)
    seen = math.exp(student_half_width(logs))
    return (
        Decision.PASSES,
        f"no significant difference; {prompts} prompts would show a factor of {seen:.3g}",
    )


def _bounds(interval: Interval) -> str:
    """A ratio's interval; "" where it is no number."""
    if not all(map(math.isfinite, interval)):
        return ""
    return f" [{interval[0]:.3g}, {interval[1]:.3g}]"
