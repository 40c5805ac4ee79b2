"""Which skip-list is named?

A first choice on the search prompts, and what held-out prompts have to say about it.

The search ranks skip-lists by its own prompts, and the best of many is partly luck. So trials are
ranked by what all of them together say about each (`search.estimate`), and the choice is made in
two stages.

1. The search prompts choose first (`search.front.choose`), and with the choice those members of the
  front that may be as good: its two neighbours, and whatever the search prompts cannot tell from it
  (paired over prompts, 95 %); of those that keep to the constraints the 6 nearest on the front.
2. These are scored on the held-out prompts. The first choice stays unless they speak against it: -
  with --max-lpips: where its held-out LPIPS is above the bound, the fastest whose held-out LPIPS
  keeps to it is named. If none does, up to 6 slower members are scored, from where the ratio of
  held-out to search LPIPS says that the bound is met. If none of those does either, no skip-list is
  named. - with bounds on time only: one with clearly less LPIPS over all prompts, search and
  held-out (paired, 95 %), is named instead. - the knee: one that lies clearly farther below the
  chord, in the same sense.

What the held-out value means. It had a say, so it is no stranger's any more, and it is a little low
for the winner: in simulations by up to a third of a standard error with --max-lpips, by next to
nothing otherwise. The interval makes up for that: it holds at once for all skip-lists that could
have been named, and so for the one that was, whatever named it (`search.evidence`). The
alternative, half of the held-out prompts to choose and half to report, has intervals a third wider
with 24 prompts, and winners whose reported LPIPS breaks the bound that the user set.

Simulated with 10 search and 24 held-out prompts and lognormal LPIPS, the stated interval holds the
winner's true mean in 98 to 100 of 100 cases, a plain bootstrap of the winner in 84 to 92
(`simulate_coverage` in tests/test_naming.py); what it does with real LPIPS is told in
`search.evidence`.

    naming = name_winner(trials, constraints=Constraints(max_lpips=0.15), bf16_s=candidates.bf16_s, score=held_out_score)

Where there is sound, "LPIPS" is LPIPS with the sound's share (damage, `fidelity._base`), and what
breaks the study's bound on sound is neither on the front nor named.

It looks at scores only: `verify` draws them, and writes the recipe.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sensitivity.errors import ConstraintError
from sensitivity.fidelity.score import Score
from sensitivity.search.front import Constraints, choose, pareto_front
from sensitivity.search.intervals import is_distinguishable, simultaneous_intervals
from sensitivity.search.trials import ScoredTrial

# skip-lists that beat the rule of thumb on the search prompts and are scored beside the winner
ANSWERS = 2
NEAR = 6  # skip-lists that may be named, the first choice included
FURTHER = 6  # more of them where none of those keeps to --max-lpips on the held-out prompts

HeldOut = Callable[[ScoredTrial], Score | None]
"""Gives a trial's held-out score; None where it is not to be had."""


def points(trials: Sequence[ScoredTrial]) -> list[tuple[float, float]]:
    """(seconds, LPIPS estimated from the search prompts) of each trial."""
    return [(trial.latency_s, trial.lpips) for trial in trials]


def name_of(trial: ScoredTrial) -> str:
    """What tables and recipes call a trial: its label, or its number from 1, as the progress of a
    search counts.
    """
    return trial.label or f"trial {trial.index + 1}"


def allowed(trials: Sequence[ScoredTrial]) -> list[ScoredTrial]:
    """Those whose sound keeps to the study's bound; all where there is none.

    Raises:
        ConstraintError: there are trials, and none does.
    """
    kept = [t for t in trials if t.score.is_allowed]
    if trials and not kept:
        raise ConstraintError(_too_loud([t.score for t in trials]))
    return kept


def _too_loud(scores: Sequence[Score]) -> str:
    least = min(scores, key=lambda score: score.audio.mean if score.audio else 0.0)
    distance = least.audio.mean if least.audio else 0.0
    return (
        f"the sound of none of the {len(scores)} skip-lists is within"
        f" {least.max_audio_distance or 0:g} of bf16's, the nearest is at {distance:.4f}; allowed"
        " is what keeps to `fidelity.max_audio_distance`: raise it in the study TOML (no picture"
        " is drawn again), or raise --budget (the study is kept)"
    )


def front_of(trials: Sequence[ScoredTrial]) -> list[ScoredTrial]:
    """The non-dominated trials among those whose sound keeps to its bound, fastest first."""
    kept = [t for t in trials if t.score.is_allowed]
    return [kept[i] for i in pareto_front(points(kept))]


@dataclass(frozen=True, kw_only=True, slots=True)
class Naming:
    """How one skip-list was named.

    Attributes:
        constraints: what was asked.
        first: what the search prompts alone choose.
        shortlist: what could be named and has a held-out score, fastest first.
        passed_over: what could have been named, but has no held-out score and was not to be drawn.
        chosen: what is named; None where nothing on the shortlist keeps to `max_lpips` on the
            held-out prompts.
        held_out: {trial index: held-out score} of the shortlist and of what it is compared with.
            `ci95` holds for the whole shortlist at once.
    """

    constraints: Constraints
    first: ScoredTrial
    shortlist: tuple[ScoredTrial, ...]
    passed_over: tuple[ScoredTrial, ...]
    chosen: ScoredTrial | None
    held_out: Mapping[int, Score]


def near_choice(
    trials: Sequence[ScoredTrial], first: ScoredTrial, constraints: Constraints, *, bf16_s: float
) -> list[ScoredTrial]:
    """The front's members that may be as good as the first choice and keep to the constraints (see
    above), nearest to it first.
    """
    allowed = [
        t for t in front_of(trials) if constraints.is_met((t.latency_s, t.lpips), bf16_s=bf16_s)
    ]
    at = next(i for i, t in enumerate(allowed) if t.index == first.index)
    alike = [
        i
        for i, t in enumerate(allowed)
        if abs(i - at) <= 1 or not is_distinguishable(first.score.damages, t.score.damages)
    ]
    return [allowed[i] for i in sorted(alike, key=lambda i: (abs(i - at), -i))[:NEAR]]


def plan_scores(
    trials: Sequence[ScoredTrial], constraints: Constraints, *, bf16_s: float
) -> list[ScoredTrial]:
    """Every trial that will be asked for a held-out score as far as the search prompts say: what
    may be named, and what stands beside it.

    Raises:
        ConstraintError: no trial keeps to the constraints on the search prompts.
    """
    first = _first_choice(trials, constraints, bf16_s)
    planned = [*near_choice(trials, first, constraints, bf16_s=bf16_s), *trials_beside(trials)]
    return list({t.index: t for t in planned}.values())


def _first_choice(
    trials: Sequence[ScoredTrial], constraints: Constraints, bf16_s: float
) -> ScoredTrial:
    """What the search prompts choose."""
    kept = allowed(trials)
    return kept[choose(points(kept), bf16_s=bf16_s, constraints=constraints)]


def _keeps(score: Score, constraints: Constraints) -> bool:
    """Whether a held-out score keeps to the bounds on damage and on sound."""
    return score.is_allowed and (
        constraints.max_lpips is None or score.damage <= constraints.max_lpips
    )


def name_winner(
    trials: Sequence[ScoredTrial], *, constraints: Constraints, bf16_s: float, score: HeldOut
) -> Naming:
    """Choose on the search prompts, score what is near on the held-out ones, and name one (see
    above).

    Args:
        trials: all finished trials.
        constraints: what the winner must keep to.
        bf16_s: priced seconds of a run with nothing quantized.
        score: gives a trial's held-out score; None passes it over.

    Raises:
        ConstraintError: no trial keeps to the constraints on the search prompts.
    """
    first = _first_choice(trials, constraints, bf16_s)
    asked = near_choice(trials, first, constraints, bf16_s=bf16_s)
    scores = {t.index: found for t in asked if (found := score(t)) is not None}
    asked += _walk_on(
        trials, [t for t in asked if t.index in scores], constraints, bf16_s, scores, score
    )
    scored = [t for t in asked if t.index in scores]
    keeping = [t for t in scored if _keeps(scores[t.index], constraints)]
    if constraints.max_lpips is not None:
        chosen = (
            first if first in keeping else min(keeping, key=lambda t: t.latency_s, default=None)
        )
    else:
        chosen = _unless_clearly_worse(
            keeping,
            scores,
            lpips_a_second=_chord(trials, scored, scores) if constraints.rule == "knee" else 0.0,
        )
    shortlist = tuple(sorted(scored, key=lambda t: t.latency_s))
    return Naming(
        constraints=constraints,
        first=first,
        shortlist=shortlist,
        passed_over=tuple(t for t in asked if t.index not in scores),
        chosen=chosen,
        held_out=_joint(shortlist, scores),
    )


def _walk_on(
    trials: Sequence[ScoredTrial],
    scored: Sequence[ScoredTrial],
    constraints: Constraints,
    bf16_s: float,
    scores: dict[int, Score],
    score: HeldOut,
) -> list[ScoredTrial]:
    """Where no scored one keeps to the bounds on LPIPS and sound on the held-out prompts: slower
    ones, one by one, added to `scores`, until one does.

    The first of them is the fastest whose search LPIPS times the scored ones' ratio of held-out to
    search LPIPS keeps to the bound.
    """
    bound = math.inf if constraints.max_lpips is None else constraints.max_lpips
    if not scored or any(_keeps(scores[t.index], constraints) for t in scored):
        return []
    ratio = sum(scores[t.index].damage for t in scored) / max(sum(t.lpips for t in scored), 1e-300)
    slowest, asked = max(t.latency_s for t in scored), []
    slower = [
        t
        for t in front_of(trials)
        if t.latency_s > slowest and constraints.is_fast_enough(t.latency_s, bf16_s=bf16_s)
    ]
    for trial in [t for t in slower if t.lpips * ratio <= bound][:FURTHER]:
        asked.append(trial)
        found = score(trial)
        if found is not None:
            scores[trial.index] = found
            if _keeps(found, constraints):
                break
    return asked


def _over_all_prompts(trial: ScoredTrial, held_out: Score) -> NDArray[np.float64]:
    """Damage of each prompt, search ones first."""
    return np.array([*trial.score.damages, *held_out.damages])


def _chord(
    trials: Sequence[ScoredTrial], scored: Sequence[ScoredTrial], scores: Mapping[int, Score]
) -> float | None:
    """LPIPS that a second is worth along the chord of the front: its slope on the search prompts,
    brought to all prompts by the shortlist's ratio.
    """
    front, search = front_of(trials), sum(t.lpips for t in scored)
    if len(front) < 3 or not search:
        return None
    slope = (front[0].lpips - front[-1].lpips) / (front[-1].latency_s - front[0].latency_s)
    return slope * sum(float(_over_all_prompts(t, scores[t.index]).mean()) for t in scored) / search


def _unless_clearly_worse(
    scored: Sequence[ScoredTrial], scores: Mapping[int, Score], *, lpips_a_second: float | None
) -> ScoredTrial | None:
    """The first of `scored`, unless another has clearly less LPIPS over all prompts, its seconds
    counted as LPIPS; None of none.
    """
    if not scored or lpips_a_second is None:
        return next(iter(scored), None)
    costs = [_over_all_prompts(t, scores[t.index]) + lpips_a_second * t.latency_s for t in scored]
    means = [float(cost.mean()) for cost in costs]
    better = [
        i
        for i in range(1, len(scored))
        if means[i] < means[0] and is_distinguishable(costs[i], costs[0])
    ]
    return scored[min(better, key=lambda i: means[i], default=0)]


def _joint(shortlist: Sequence[ScoredTrial], scores: Mapping[int, Score]) -> dict[int, Score]:
    """The scores with intervals that hold for the whole shortlist at once."""
    if not shortlist:
        return {}
    found = [scores[t.index] for t in shortlist]
    intervals = simultaneous_intervals([score.per_prompt for score in found])
    return {
        t.index: replace(score, ci95=interval)
        for t, score, interval in zip(shortlist, found, intervals, strict=True)
    }


def trials_beside(trials: Sequence[ScoredTrial]) -> list[ScoredTrial]:
    """What the winner is compared with: the baselines, and the best answers to the rule of thumb
    (less LPIPS, no more seconds).
    """
    picked = [t for t in trials if t.label and t.label != "none"]
    thumb = next((t for t in trials if t.label == "rule of thumb"), None)
    if thumb is not None:
        as_fast = [
            t for t in front_of(trials) if t.latency_s <= thumb.latency_s and t.lpips < thumb.lpips
        ]
        picked += sorted(as_fast, key=lambda t: t.lpips)[:ANSWERS]
    return list({t.index: t for t in picked}.values())


def compare(naming: Naming, beside: Sequence[ScoredTrial], score: HeldOut) -> Naming:
    """The same naming with the held-out scores of other trials beside it, each with an interval of
    its own.
    """
    held_out = dict(naming.held_out)
    for trial in beside:
        if trial.index not in held_out and (found := score(trial)) is not None:
            held_out[trial.index] = replace(
                found, ci95=simultaneous_intervals([found.per_prompt])[0]
            )
    return replace(naming, held_out=held_out)


def describe_unmet(naming: Naming, *, bf16_s: float) -> str:
    """Why no skip-list was named: what the held-out prompts say of those that could have been, and
    the next step.
    """
    if not naming.shortlist:
        count = len(naming.passed_over)
        return (
            f"none of the {count} skip-lists near the choice has a held-out score in the database;"
            " allowed is a choice among those that have one: leave out --no-verify, and what is"
            " missing is drawn"
        )
    held_out = [naming.held_out[t.index] for t in naming.shortlist]
    if not any(score.is_allowed for score in held_out):
        return f"on the held-out prompts {_too_loud(held_out)}"
    nearest = min(
        (t for t in naming.shortlist if naming.held_out[t.index].is_allowed),
        key=lambda t: naming.held_out[t.index].damage,
    )
    score, bound = naming.held_out[nearest.index], naming.constraints.max_lpips
    more = (
        f" ({len(naming.passed_over)} others have no held-out score in the database)"
        if naming.passed_over
        else ""
    )
    return (
        f"no skip-list near the choice has LPIPS <= {bound:g} on the held-out prompts too; of the"
        f" {len(naming.shortlist)} that were scored{more} {name_of(nearest)} comes nearest,"
        f" {bf16_s / nearest.latency_s:.3f}x at held-out LPIPS {_in_words(score)}: relax it"
        f" (`sensitivity select --max-lpips {math.ceil(score.damage * 1e4) / 1e4:g}` draws no"
        " trial) or raise --budget (the study is kept)"
    )


def _in_words(score: Score) -> str:
    """LPIPS with its interval, and what it counts as with the sound."""
    lpips = f"{score.mean:.4f} [{score.ci95[0]:.4f}, {score.ci95[1]:.4f}]"
    return lpips if score.audio is None else f"{lpips}, {score.damage:.4f} with the sound"
