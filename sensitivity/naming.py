"""Which skip-list is named? A first choice on the search prompts, and what held-out prompts have to say about it.

The search ranks skip-lists by its own prompts, and the best of many is partly luck. So trials are ranked by what all of them together say
about each (`search.estimate`), and the choice is made in two stages.

1. The search prompts choose first (`search.front.choose`), and with the choice those members of the front that may be as good: its two neighbours, and
   whatever the search prompts cannot tell from it (paired over prompts, 95 %); of those that keep to the constraints the 6 nearest on the front.
2. These are scored on the held-out prompts. The first choice stays unless they speak against it:
   - with --max-lpips: where its held-out LPIPS is above the bound, the fastest whose held-out LPIPS keeps to it is named. If none does, up to 6 slower
     members are scored, from where the ratio of held-out to search LPIPS says that the bound is met. If none of those does either, no skip-list is named.
   - with bounds on time only: one with clearly less LPIPS over all prompts, search and held-out (paired, 95 %), is named instead.
   - the knee: one that lies clearly farther below the chord, in the same sense.

What the held-out value means. It had a say, so it is no stranger's any more, and it is a little low for the winner: in simulations by up to a third of
a standard error with --max-lpips, by next to nothing otherwise. The interval makes up for that: it holds at once for all skip-lists that could have been
named, and so for the one that was, whatever named it (`search.evidence`). The alternative, half of the held-out prompts to choose and half to report, has intervals
a third wider with 24 prompts, and winners whose reported LPIPS breaks the bound that the user set.

Simulated with 10 search and 24 held-out prompts, 1000 searches for each of the three rules under five spreads and correlations of LPIPS, the stated interval
holds the winner's true mean in 94.6 to 97.9 of 100 cases, a plain bootstrap of the winner in 84 to 92 (`simulate_coverage` in tests/test_naming.py).

    naming = name_winner(trials, constraints=Constraints(max_lpips=0.15), bf16_s=candidates.bf16_s, score=held_out_score)

It looks at scores only: `verify` draws them, and writes the recipe.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sensitivity.fidelity._base import Score
from sensitivity.search.evidence import is_distinguishable, simultaneous_intervals
from sensitivity.search.front import Constraints, choose, pareto_front
from sensitivity.search.trials import ScoredTrial

ANSWERS = 2  # skip-lists that beat the rule of thumb on the search prompts and are scored beside the winner
NEAR = 6  # skip-lists that may be named, the first choice included
FURTHER = 6  # more of them where none of those keeps to --max-lpips on the held-out prompts

HeldOut = Callable[[ScoredTrial], Score | None]
"""Gives a trial's held-out score; None where it is not to be had."""


def points(trials: Sequence[ScoredTrial]) -> list[tuple[float, float]]:
    """(seconds, LPIPS estimated from the search prompts) of each trial."""
    return [(trial.latency_s, trial.lpips) for trial in trials]


def name_of(trial: ScoredTrial) -> str:
    """What tables and recipes call a trial: its label, or its number."""
    return trial.label or f"trial {trial.index}"


def front_of(trials: Sequence[ScoredTrial]) -> list[ScoredTrial]:
    """The non-dominated trials, fastest first."""
    return [trials[i] for i in pareto_front(points(trials))]


@dataclass(frozen=True, kw_only=True, slots=True)
class Naming:
    """How one skip-list was named.

    Attributes:
        constraints: what was asked.
        first: what the search prompts alone choose.
        shortlist: what could be named and has a held-out score, fastest first.
        passed_over: what could have been named, but has no held-out score and was not to be drawn.
        chosen: what is named; None where nothing on the shortlist keeps to `max_lpips` on the held-out prompts.
        held_out: {trial index: held-out score} of the shortlist and of what it is compared with. `ci95` holds for the whole shortlist at once.
    """

    constraints: Constraints
    first: ScoredTrial
    shortlist: tuple[ScoredTrial, ...]
    passed_over: tuple[ScoredTrial, ...]
    chosen: ScoredTrial | None
    held_out: Mapping[int, Score]


def near_choice(trials: Sequence[ScoredTrial], first: ScoredTrial, constraints: Constraints, *, bf16_s: float) -> list[ScoredTrial]:
    """The front's members that may be as good as the first choice and keep to the constraints (see above), nearest to it first."""
    allowed = [t for t in front_of(trials) if constraints.is_met((t.latency_s, t.lpips), bf16_s=bf16_s)]
    at = next(i for i, t in enumerate(allowed) if t.index == first.index)
    alike = [i for i, t in enumerate(allowed) if abs(i - at) <= 1 or not is_distinguishable(first.score.per_prompt, t.score.per_prompt)]
    return [allowed[i] for i in sorted(alike, key=lambda i: (abs(i - at), -i))[:NEAR]]


def plan_scores(trials: Sequence[ScoredTrial], constraints: Constraints, *, bf16_s: float) -> list[ScoredTrial]:
    """Every trial that will be asked for a held-out score as far as the search prompts say: what may be named, and what stands beside it.

    Raises:
        ConstraintError: no trial keeps to the constraints on the search prompts.
    """
    first = trials[choose(points(trials), bf16_s=bf16_s, constraints=constraints)]
    planned = [*near_choice(trials, first, constraints, bf16_s=bf16_s), *trials_beside(trials)]
    return list({t.index: t for t in planned}.values())


def name_winner(trials: Sequence[ScoredTrial], *, constraints: Constraints, bf16_s: float, score: HeldOut) -> Naming:
    """Choose on the search prompts, score what is near on the held-out ones, and name one (see above).

    Args:
        trials: all finished trials.
        constraints: what the winner must keep to.
        bf16_s: priced seconds of a run with nothing quantized.
        score: gives a trial's held-out score; None passes it over.

    Raises:
        ConstraintError: no trial keeps to the constraints on the search prompts.
    """
    first = trials[choose(points(trials), bf16_s=bf16_s, constraints=constraints)]
    asked = near_choice(trials, first, constraints, bf16_s=bf16_s)
    scores = {t.index: found for t in asked if (found := score(t)) is not None}
    if constraints.max_lpips is not None:
        asked += _walk_on(trials, [t for t in asked if t.index in scores], constraints, bf16_s, scores, score)
    scored = [t for t in asked if t.index in scores]
    if constraints.max_lpips is not None:
        keeping = [t for t in scored if scores[t.index].mean <= constraints.max_lpips]
        chosen = first if first in keeping else min(keeping, key=lambda t: t.latency_s, default=None)
    else:
        chosen = _unless_clearly_worse(scored, scores, lpips_a_second=_chord(trials, scored, scores) if constraints.rule == "knee" else 0.0)
    shortlist = tuple(sorted(scored, key=lambda t: t.latency_s))
    return Naming(
        constraints=constraints, first=first, shortlist=shortlist, passed_over=tuple(t for t in asked if t.index not in scores), chosen=chosen,
        held_out=_joint(shortlist, scores),
    )  # fmt: skip


def _walk_on(
    trials: Sequence[ScoredTrial], scored: Sequence[ScoredTrial], constraints: Constraints, bf16_s: float, scores: dict[int, Score], score: HeldOut
) -> list[ScoredTrial]:  # fmt: skip
    """Where no scored one keeps to the LPIPS bound on the held-out prompts: slower ones, one by one, added to `scores`, until one does.

    The first of them is the fastest whose search LPIPS times the scored ones' ratio of held-out to search LPIPS keeps to the bound.
    """
    bound = constraints.max_lpips
    if bound is None or not scored or any(scores[t.index].mean <= bound for t in scored):
        return []
    ratio = sum(scores[t.index].mean for t in scored) / max(sum(t.lpips for t in scored), 1e-300)
    slowest, asked = max(t.latency_s for t in scored), []
    slower = [t for t in front_of(trials) if t.latency_s > slowest and constraints.is_fast_enough(t.latency_s, bf16_s=bf16_s)]
    for trial in [t for t in slower if t.lpips * ratio <= bound][:FURTHER]:
        asked.append(trial)
        found = score(trial)
        if found is not None:
            scores[trial.index] = found
            if found.mean <= bound:
                break
    return asked


def _over_all_prompts(trial: ScoredTrial, held_out: Score) -> NDArray[np.float64]:
    """LPIPS of each prompt, search ones first."""
    return np.array([*trial.score.per_prompt, *held_out.per_prompt])


def _chord(trials: Sequence[ScoredTrial], scored: Sequence[ScoredTrial], scores: Mapping[int, Score]) -> float | None:
    """LPIPS that a second is worth along the chord of the front: its slope on the search prompts, brought to all prompts by the shortlist's ratio."""
    front, search = front_of(trials), sum(t.lpips for t in scored)
    if len(front) < 3 or not search:
        return None
    slope = (front[0].lpips - front[-1].lpips) / (front[-1].latency_s - front[0].latency_s)
    return slope * sum(float(_over_all_prompts(t, scores[t.index]).mean()) for t in scored) / search


def _unless_clearly_worse(
    scored: Sequence[ScoredTrial], scores: Mapping[int, Score], *, lpips_a_second: float | None
) -> ScoredTrial | None:
    """The first of `scored`, unless another has clearly less LPIPS over all prompts, its seconds counted as LPIPS; None of none."""
    if not scored or lpips_a_second is None:
        return next(iter(scored), None)
    costs = [_over_all_prompts(t, scores[t.index]) + lpips_a_second * t.latency_s for t in scored]
    means = [float(cost.mean()) for cost in costs]
    better = [i for i in range(1, len(scored)) if means[i] < means[0] and is_distinguishable(costs[i], costs[0])]
    return scored[min(better, key=lambda i: means[i], default=0)]


def _joint(shortlist: Sequence[ScoredTrial], scores: Mapping[int, Score]) -> dict[int, Score]:
    """The scores with intervals that hold for the whole shortlist at once."""
    if not shortlist:
        return {}
    found = [scores[t.index] for t in shortlist]
    intervals = simultaneous_intervals([score.per_prompt for score in found])
    return {t.index: replace(score, ci95=interval) for t, score, interval in zip(shortlist, found, intervals, strict=True)}


def trials_beside(trials: Sequence[ScoredTrial]) -> list[ScoredTrial]:
    """What the winner is compared with: the baselines, and the best answers to the rule of thumb (less LPIPS, no more seconds)."""
    picked = [t for t in trials if t.label and t.label != "none"]
    thumb = next((t for t in trials if t.label == "rule of thumb"), None)
    if thumb is not None:
        as_fast = [t for t in front_of(trials) if t.latency_s <= thumb.latency_s and t.lpips < thumb.lpips]
        picked += sorted(as_fast, key=lambda t: t.lpips)[:ANSWERS]
    return list({t.index: t for t in picked}.values())


def compare(naming: Naming, beside: Sequence[ScoredTrial], score: HeldOut) -> Naming:
    """The same naming with the held-out scores of other trials beside it, each with an interval of its own."""
    held_out = dict(naming.held_out)
    for trial in beside:
        if trial.index not in held_out and (found := score(trial)) is not None:
            held_out[trial.index] = replace(found, ci95=simultaneous_intervals([found.per_prompt])[0])
    return replace(naming, held_out=held_out)


def describe_unmet(naming: Naming, *, bf16_s: float) -> str:
    """Why no skip-list was named: what the held-out prompts say of those that could have been, and the next step."""
    if not naming.shortlist:
        count = len(naming.passed_over)
        return (
            f"none of the {count} skip-lists near the choice has a held-out score in the database; allowed is a choice among those that have one: "
            "leave out --no-verify, and what is missing is drawn"
        )
    nearest = min(naming.shortlist, key=lambda t: naming.held_out[t.index].mean)
    score, bound = naming.held_out[nearest.index], naming.constraints.max_lpips
    more = f" ({len(naming.passed_over)} others have no held-out score in the database)" if naming.passed_over else ""
    return (
        f"no skip-list near the choice has LPIPS <= {bound:g} on the held-out prompts too; of the {len(naming.shortlist)} that were scored{more} "
        f"{name_of(nearest)} comes nearest, {bf16_s / nearest.latency_s:.3f}x at held-out LPIPS {score.mean:.4f} [{score.ci95[0]:.4f}, {score.ci95[1]:.4f}]: "
        f"relax it (`sensitivity select --max-lpips {math.ceil(score.mean * 1e4) / 1e4:g}` draws no trial) or raise --budget (the study is kept)"
    )
