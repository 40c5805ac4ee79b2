"""Which skip-list wins? `choose_winner`: a first choice, tested on held-out prompts.

1. The search prompts give the first choice and a shortlist of what may be as good
   (`search.shortlist`).
2. The shortlist is scored on the held-out prompts. The first choice wins unless they contradict it:

   - With a bound on LPIPS: if its held-out LPIPS is above the bound, the fastest wins whose
     held-out LPIPS is not. If there is none, up to `FURTHER` slower members of the front are
     scored, from where the ratio of held-out to search LPIPS predicts that the bound is met. If
     none of these is within the bound either, nothing wins.
   - With bounds on time only: a member with clearly less LPIPS over all prompts, search and
     held-out together, wins instead (paired test, 95 %).
   - Without bounds, at the knee: a member that lies clearly farther below the chord wins instead,
     in the same sense.

What the held-out value means. It took part in the choice, so it is slightly too low for the winner:
in simulations by up to 0.4 standard errors with a bound on LPIPS, by less than 0.1 otherwise. The
interval makes up for that: it is as wide as it must be for several skip-lists at once, and so it
holds for the one that won (`fidelity.intervals`). It follows from the skip-list's own values, so it
is the same whatever else was verified. The alternative would be to choose on half of the held-out
prompts and report the other half. With 24 prompts its intervals are a third wider, and its winners
report an LPIPS that breaks the user's bound.

Simulated with 10 search and 24 held-out prompts and lognormal LPIPS, the stated interval holds the
winner's true mean in 97 to 99 of 100 cases where the relative spread over prompts is 0.5 to 0.8,
and in 94 to 97 where it is 1.4; a plain bootstrap does in 87 to 93 and 78 to 86
(`simulate_coverage` in tests/search/test_winner.py: the three rules, skip-lists correlated by 0.4
to 0.9, 1,000 searches each). `fidelity.intervals` says how often it does with real LPIPS.

    winner = choose_winner(trials, constraints=constraints, bf16_s=2.1, score=held_out_score)
    winner.chosen, winner.held_out[winner.chosen.index].ci95

Where there is sound, "LPIPS" means damage (`fidelity.score`), and a trial whose sound breaks the
study's bound never wins. Scores are only read here: `search.held_out` computes them.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sensitivity.fidelity.intervals import is_distinguishable
from sensitivity.fidelity.score import Score
from sensitivity.search.front import Constraints
from sensitivity.search.shortlist import describe_sound, first_choice, front_of, near_choice
from sensitivity.search.trials import ScoredTrial

FURTHER = 6
"""Slower skip-lists that are scored where nothing on the shortlist keeps to the bound on LPIPS."""

HeldOut = Callable[[ScoredTrial], Score | None]
"""Gives a trial's held-out score; None where it is not known and may not be computed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Winner:
    """How one skip-list was chosen.

    Attributes:
        constraints: what was asked.
        first: what the search prompts alone choose.
        shortlist: what could win and has a held-out score, fastest first.
        passed_over: what could have won, but has no held-out score.
        chosen: the winner; None where nothing on the shortlist keeps to the bounds on the held-out
            prompts.
        held_out: {trial index: held-out score} of the shortlist and of what it is compared with.
    """

    constraints: Constraints
    first: ScoredTrial
    shortlist: tuple[ScoredTrial, ...]
    passed_over: tuple[ScoredTrial, ...]
    chosen: ScoredTrial | None
    held_out: Mapping[int, Score]


def choose_winner(
    trials: Sequence[ScoredTrial], *, constraints: Constraints, bf16_s: float, score: HeldOut
) -> Winner:
    """Choose on the search prompts, then confirm or overrule on the held-out ones (see the module).

    Args:
        trials: all finished trials.
        constraints: what the winner must keep to.
        bf16_s: priced seconds of a run with nothing quantized.
        score: gives a trial's held-out score; a trial without one is passed over.

    Raises:
        ConstraintError: no trial keeps to the constraints on the search prompts.
    """
    first = first_choice(trials, constraints, bf16_s=bf16_s)
    asked = near_choice(trials, first, constraints, bf16_s=bf16_s)
    scores = {t.index: found for t in asked if (found := score(t)) is not None}
    asked += _score_slower(
        trials, [t for t in asked if t.index in scores], constraints, bf16_s, scores, score
    )
    scored = [t for t in asked if t.index in scores]
    keeping = [t for t in scored if _keeps(scores[t.index], constraints)]
    if constraints.max_lpips is not None:
        chosen = (
            first if first in keeping else min(keeping, key=lambda t: t.latency_s, default=None)
        )
    else:
        price = _chord(trials, scored, scores) if constraints.rule == "knee" else 0.0
        chosen = _unless_clearly_worse(keeping, scores, lpips_a_second=price)
    shortlist = tuple(sorted(scored, key=lambda t: t.latency_s))
    return Winner(
        constraints=constraints,
        first=first,
        shortlist=shortlist,
        passed_over=tuple(t for t in asked if t.index not in scores),
        chosen=chosen,
        held_out={t.index: scores[t.index] for t in shortlist},
    )


def compare(winner: Winner, beside: Sequence[ScoredTrial], score: HeldOut) -> Winner:
    """The same winner with the held-out scores of other trials beside it."""
    held_out = dict(winner.held_out)
    for trial in beside:
        if trial.index not in held_out and (found := score(trial)) is not None:
            held_out[trial.index] = found
    return replace(winner, held_out=held_out)


def _keeps(score: Score, constraints: Constraints) -> bool:
    """Whether a held-out score keeps to the bounds on damage and on sound."""
    return score.is_allowed and (
        constraints.max_lpips is None or score.damage <= constraints.max_lpips
    )


def _score_slower(
    trials: Sequence[ScoredTrial],
    scored: Sequence[ScoredTrial],
    constraints: Constraints,
    bf16_s: float,
    scores: dict[int, Score],
    score: HeldOut,
) -> list[ScoredTrial]:
    """Where no scored trial keeps to the bounds on the held-out prompts: slower ones that were
    asked, up to the first that does. Their scores are added to `scores`.

    Trials are asked from the fastest whose search LPIPS, times the scored ones' ratio of held-out
    to search LPIPS, is within the bound.
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
    """(search + held-out prompts,) damage of each prompt."""
    return np.array([*trial.score.damages, *held_out.damages])


def _chord(
    trials: Sequence[ScoredTrial], scored: Sequence[ScoredTrial], scores: Mapping[int, Score]
) -> float | None:
    """LPIPS that a second is worth along the chord of the front; None where there is no chord.

    It is the chord's slope on the search prompts, scaled to all prompts by the shortlist's ratio.
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
    counted as LPIPS; None where there are none.
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


def describe_unmet(winner: Winner, *, bf16_s: float) -> str:
    """Why nothing won: the held-out scores of what could have won, and the next step."""
    if not winner.shortlist:
        return (
            f"none of the {len(winner.passed_over)} skip-lists near the choice has a held-out score"
            " in the database; expected at least one: choose with `verify` on, which generates the"
            " pictures that are missing"
        )
    held_out = [winner.held_out[t.index] for t in winner.shortlist]
    if not any(score.is_allowed for score in held_out):
        return f"on the held-out prompts {describe_sound(held_out)}"
    nearest = min(
        (t for t in winner.shortlist if winner.held_out[t.index].is_allowed),
        key=lambda t: winner.held_out[t.index].damage,
    )
    score, bound = winner.held_out[nearest.index], winner.constraints.max_lpips
    unknown = (
        f" ({len(winner.passed_over)} others have no held-out score in the database)"
        if winner.passed_over
        else ""
    )
    return (
        f"no skip-list near the choice has LPIPS <= {bound:g} on the held-out prompts too; of the"
        f" {len(winner.shortlist)} that were scored{unknown} {nearest.name} comes nearest,"
        f" {bf16_s / nearest.latency_s:.3f}x at held-out LPIPS {_in_words(score)}: relax"
        f" `max_lpips` to {math.ceil(score.damage * 1e4) / 1e4:g} (`sensitivity select` chooses"
        " again without a trial), or raise `budget` (the study is kept)"
    )


def _in_words(score: Score) -> str:
    """LPIPS with its interval, and what it counts as with the sound."""
    lpips = f"{score.mean:.4f} [{score.ci95[0]:.4f}, {score.ci95[1]:.4f}]"
    return lpips if score.audio is None else f"{lpips}, {score.damage:.4f} with the sound"
