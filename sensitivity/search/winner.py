"""Which skip-list wins? `choose_winner`: a first choice, tested on held-out prompts.

1. The search prompts give the first choice and a shortlist of what may be as good
   (`search.shortlist`).
2. The shortlist is scored on the held-out prompts. The first choice wins unless they contradict it:

   - With a bound on LPIPS or flips: if its held-out score breaks a bound, the fastest wins whose
     held-out score breaks none. If there is none, up to `FURTHER` slower members of the front are
     scored, from where the ratio of held-out to search LPIPS predicts that the bounds are met. If
     none of these keeps to them either, nothing wins.
   - With bounds on time only: a member with clearly less typical LPIPS over all prompts, search and
     held-out together, wins instead (paired ratio, 95 %).
   - Without bounds, at the knee: a member that lies clearly farther below the chord wins instead,
     in the same sense.

What the held-out value means. It took part in the choice, so it is slightly too low for the winner.
The interval makes up for that: it also holds for the skip-list that looked best
(`fidelity.typical`). It follows from the skip-list's own values and the study's curve, so it is the
same whatever else was verified. The alternative would be to choose on half of the held-out prompts
and report the other half, with intervals that are a third wider.

    winner = choose_winner(Contest.of(trials, constraints, bf16_s=2.1), score=held_out_score)
    winner.chosen, winner.said(winner.chosen).typical_ci95

A bound on the mean is one on the expected mean (`fidelity.summary`), not on the average of the
prompts at hand. What a bound on memory leaves out takes no part: neither the front nor its chord
has it. Where there is sound, "LPIPS" means damage (`fidelity.score`), and a trial whose sound
breaks the study's bound never wins. Scores are only read here: `search.held_out` computes them.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sensitivity.core.short_reprs import ShortRepr
from sensitivity.fidelity.score import Score
from sensitivity.fidelity.summary import ScoreSummary, SummaryRules
from sensitivity.fidelity.typical import Ratio, ratio, typical, typical_interval
from sensitivity.fidelity.words import lpips_words
from sensitivity.search.front import Constraints
from sensitivity.search.shortlist import Contest, describe_sound
from sensitivity.search.trials import ScoredTrial

FURTHER = 6
"""Slower skip-lists that are scored where nothing on the shortlist keeps to the bounds on LPIPS."""

HeldOut = Callable[[ScoredTrial], Score | None]
"""Gives a trial's held-out score; None where it is not known and may not be computed."""


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Winner(ShortRepr):
    """How one skip-list was chosen.

    Attributes:
        constraints: what was asked.
        rules: how scores are summarized.
        first: what the search prompts alone choose.
        shortlist: what could win and has a held-out score, fastest first.
        passed_over: what could have won, but has no held-out score.
        chosen: the winner; None where nothing on the shortlist keeps to the bounds on the held-out
            prompts.
        held_out: {trial index: held-out score} of the shortlist and of what it is compared with.
    """

    constraints: Constraints
    rules: SummaryRules
    first: ScoredTrial
    shortlist: tuple[ScoredTrial, ...]
    passed_over: tuple[ScoredTrial, ...]
    chosen: ScoredTrial | None
    held_out: Mapping[int, Score]

    def said(self, trial: ScoredTrial) -> ScoreSummary:
        """What the held-out score of a trial says. KeyError where it has none."""
        return self.rules.summarize(self.held_out[trial.index])

    def ratio_to(self, other: ScoredTrial) -> Ratio | None:
        """The winner's typical LPIPS as a multiple of another trial's, over the held-out prompts;
        None where one of them has no held-out score, or where the other is the winner.
        """
        if self.chosen is None or other.index == self.chosen.index:
            return None
        mine, others = (self.held_out.get(t.index) for t in (self.chosen, other))
        if mine is None or others is None:
            return None
        return ratio(mine.per_prompt, others.per_prompt, mine.noise_floor)


def choose_winner(contest: Contest, *, score: HeldOut) -> Winner:
    """Choose on the search prompts, then confirm or overrule on the held-out ones (see the module).

    Args:
        contest: the trials, and what is asked.
        score: gives a trial's held-out score; a trial without one is passed over.

    Raises:
        ConstraintError: no trial keeps to the constraints on the search prompts.
    """
    first = contest.first_choice()
    asked = contest.near(first)
    scores = {t.index: found for t in asked if (found := score(t)) is not None}
    asked += _score_slower(contest, [t for t in asked if t.index in scores], scores, score)
    scored = [t for t in asked if t.index in scores]
    keeping = [t for t in scored if _keeps(scores[t.index], contest)]
    if contest.constraints.bounds_damage:
        chosen = (
            first if first in keeping else min(keeping, key=lambda t: t.latency_s, default=None)
        )
    else:
        is_knee = contest.constraints.rule == "knee"
        price = _chord(contest, scored, scores) if is_knee else 0.0
        chosen = _unless_clearly_worse(keeping, scores, lpips_a_second=price)
    shortlist = tuple(sorted(scored, key=lambda t: t.latency_s))
    return Winner(
        constraints=contest.constraints,
        rules=contest.rules,
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


def _keeps(score: Score, contest: Contest) -> bool:
    """Whether a held-out score keeps to the bounds on damage, on sound and on judges."""
    asked = contest.constraints
    return (
        score.is_allowed
        and asked.is_good_enough(
            typical=score.typical,
            mean=contest.rules.mean_damage(score),
            flips=len(contest.rules.flips(score)),
        )
        and not asked.displeased(score.judges)
    )


def _score_slower(
    contest: Contest, scored: Sequence[ScoredTrial], scores: dict[int, Score], score: HeldOut
) -> list[ScoredTrial]:
    """Where no scored trial keeps to the bounds on the held-out prompts: slower ones that were
    asked, up to the first that does. Their scores are added to `scores`.

    Trials are asked from the fastest whose search LPIPS, times the scored ones' ratio of held-out
    to search LPIPS, is within the bounds.
    """
    if not scored or any(_keeps(scores[t.index], contest) for t in scored):
        return []
    held_out = sum(scores[t.index].typical for t in scored)
    factor = held_out / max(sum(t.typical for t in scored), 1e-300)
    slowest, asked = max(t.latency_s for t in scored), []
    for trial in contest.front():
        known = contest.offer(trial)
        is_expected = contest.constraints.is_good_enough(
            typical=factor * known.typical, mean=factor * known.mean, flips=known.flips
        )
        if trial.latency_s <= slowest or not (contest.is_fast_enough(trial) and is_expected):
            continue
        asked.append(trial)
        found = score(trial)
        if found is not None:
            scores[trial.index] = found
        if len(asked) == FURTHER or (found is not None and _keeps(found, contest)):
            break
    return asked


def _over_all_prompts(trial: ScoredTrial, held_out: Score) -> NDArray[np.float64]:
    """(search + held-out prompts,) damage of each prompt."""
    return np.array([*trial.score.damages, *held_out.damages])


def _chord(
    contest: Contest, scored: Sequence[ScoredTrial], scores: Mapping[int, Score]
) -> float | None:
    """Typical LPIPS that a second is worth along the chord of the front; None where there is no
    chord.

    It is the chord's slope on the search prompts, scaled to all prompts by the shortlist's ratio.
    """
    front, search = contest.front(), sum(t.typical for t in scored)
    if len(front) < 3 or not search:
        return None
    slope = (front[0].typical - front[-1].typical) / (front[-1].latency_s - front[0].latency_s)
    over_all = (
        typical(_over_all_prompts(t, scores[t.index]), t.score.damage_floor) for t in scored
    )
    return slope * sum(over_all) / search


def _unless_clearly_worse(
    scored: Sequence[ScoredTrial], scores: Mapping[int, Score], *, lpips_a_second: float | None
) -> ScoredTrial | None:
    """The first of `scored`, unless another has clearly less typical LPIPS over all prompts, its
    seconds counted as LPIPS; None where there are none.
    """
    if not scored or lpips_a_second is None:
        return next(iter(scored), None)
    first = scored[0]
    values = {t.index: _over_all_prompts(t, scores[t.index]) for t in scored}
    floor = max(score.damage_floor for score in (first.score, scores[first.index]))
    best, least = first, typical(values[first.index], floor) + lpips_a_second * first.latency_s
    for trial in scored[1:]:
        seconds = lpips_a_second * (trial.latency_s - first.latency_s)
        if _most_more(values[trial.index], values[first.index], floor) + seconds >= 0:
            continue
        cost = typical(values[trial.index], floor) + lpips_a_second * trial.latency_s
        if cost < least:
            best, least = trial, cost
    return best


def _most_more(first: NDArray[np.float64], second: NDArray[np.float64], floor: float) -> float:
    """The upper end of the 95 % interval of the first typical damage minus the second's."""
    if not np.any(second):
        return typical_interval(first, floor)[1]
    if not np.any(first):
        return -typical_interval(second, floor)[0]
    return (ratio(first, second, floor).high - 1) * typical(second, floor)


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
    allowed = [t for t in winner.shortlist if winner.held_out[t.index].is_allowed]
    nearest = min(allowed, key=lambda t: winner.held_out[t.index].typical)
    score = winner.held_out[nearest.index]
    unknown = (
        f" ({len(winner.passed_over)} others have no held-out score in the database)"
        if winner.passed_over
        else ""
    )
    sound = "" if score.audio is None else f", {lpips_words(score.damage)} with the sound"
    damage = [w for w in winner.constraints.words if "LPIPS" in w or "flips" in w]
    damage += winner.constraints.judge_words
    broken = broken_bounds(score, winner.constraints, winner.rules)
    relaxed = " and ".join(
        [
            *(f"`{field}` to {_rounded_up(value):g}" for field, value in broken.items()),
            *(f"the bound on {words}" for words in winner.constraints.displeased(score.judges)),
        ]
    )
    return (
        f"no skip-list near the choice has {' and '.join(damage)} on the held-out prompts too; of"
        f" the {len(winner.shortlist)} that were scored{unknown} {nearest.name} comes nearest,"
        f" {bf16_s / nearest.latency_s:.3f}x at held-out {winner.said(nearest).words}{sound}: relax"
        f" {relaxed} (`sensitivity select` chooses again from these trials), or raise"
        " `budget` (the study is kept)"
    )


def broken_bounds(score: Score, constraints: Constraints, rules: SummaryRules) -> dict[str, float]:
    """{field of `Constraints`: what the score has} of the bounds on damage that a score breaks."""
    found = (
        ("max_lpips", rules.mean_damage(score)),
        ("max_typical", score.typical),
        ("max_flips", len(rules.flips(score))),
    )
    return {
        field: value
        for field, value in found
        if (bound := getattr(constraints, field)) is not None and value > bound
    }


def _rounded_up(value: float) -> float:
    """The next number with four significant digits that is not smaller."""
    if value <= 0:
        return 0.0
    step = 10.0 ** (math.floor(math.log10(value)) - 3)
    return math.ceil(value / step - 1e-9) * step
