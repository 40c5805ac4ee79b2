"""Which trials need a held-out score? The first choice, what may be as good, and what it is
compared with.

The search ranks skip-lists by its own prompts, and the best of many is partly chance. So trials are
ranked by the estimates that all of them together give (`search.estimate`), and the first choice
alone is not enough. Held-out scores are needed for

- the first choice: what the search prompts choose (`search.front.choose`);
- what may be as good: its two neighbours on the front, and what a paired test over the search
  prompts (95 %) does not distinguish from it (`fidelity.intervals`). Of those that keep to the
  constraints, the `NEAR` nearest count, the first choice included;
- what the winner is compared with: the baselines, and the `ANSWERS` best skip-lists that beat the
  rule of thumb.

    plan_scores(trials, Constraints(max_lpips=0.15), bf16_s=candidates.bf16_s)

Where there is sound, "LPIPS" means damage (`fidelity.score`), and a trial whose sound breaks the
study's bound is not on the front. No score is computed here.
"""

from collections.abc import Sequence

from sensitivity.errors import ConstraintError
from sensitivity.fidelity.intervals import is_distinguishable
from sensitivity.fidelity.score import Score
from sensitivity.search.front import Constraints, Point, choose, pareto_front
from sensitivity.search.trials import ScoredTrial

NEAR = 6
"""Skip-lists that may be chosen, the first choice included."""
ANSWERS = 2
"""Skip-lists beside the winner that beat the rule of thumb on the search prompts."""


def points(trials: Sequence[ScoredTrial]) -> list[Point]:
    """(seconds, estimated LPIPS) of each trial."""
    return [(trial.latency_s, trial.lpips) for trial in trials]


def front_of(trials: Sequence[ScoredTrial]) -> list[ScoredTrial]:
    """The non-dominated trials among those whose sound keeps to its bound, fastest first."""
    kept = [t for t in trials if t.score.is_allowed]
    return [kept[i] for i in pareto_front(points(kept))]


def first_choice(
    trials: Sequence[ScoredTrial], constraints: Constraints, *, bf16_s: float
) -> ScoredTrial:
    """What the search prompts choose.

    Raises:
        ConstraintError: no trial keeps to the constraints, or to the study's bound on sound.
    """
    kept = [t for t in trials if t.score.is_allowed]
    if trials and not kept:
        raise ConstraintError(describe_sound([t.score for t in trials]))
    return kept[choose(points(kept), bf16_s=bf16_s, constraints=constraints)]


def near_choice(
    trials: Sequence[ScoredTrial], first: ScoredTrial, constraints: Constraints, *, bf16_s: float
) -> list[ScoredTrial]:
    """The members of the front that may be as good as the first choice and keep to the constraints
    (see the module), the nearest first, the first choice included.
    """
    members = [
        t for t in front_of(trials) if constraints.is_met((t.latency_s, t.lpips), bf16_s=bf16_s)
    ]
    at = next(i for i, t in enumerate(members) if t.index == first.index)
    floor, damages = first.score.damage_floor, first.score.damages
    alike = [
        i
        for i, t in enumerate(members)
        if abs(i - at) <= 1 or not is_distinguishable(damages, t.score.damages, noise_floor=floor)
    ]
    return [members[i] for i in sorted(alike, key=lambda i: (abs(i - at), -i))[:NEAR]]


def trials_beside(trials: Sequence[ScoredTrial]) -> list[ScoredTrial]:
    """What the winner is compared with: the baselines, and the best that beat the rule of thumb.

    A skip-list beats the rule of thumb with less LPIPS in no more seconds.
    """
    picked = [t for t in trials if t.label and t.label != "none"]
    thumb = next((t for t in trials if t.label == "rule of thumb"), None)
    if thumb is not None:
        better = [
            t for t in front_of(trials) if t.latency_s <= thumb.latency_s and t.lpips < thumb.lpips
        ]
        picked += sorted(better, key=lambda t: t.lpips)[:ANSWERS]
    return list({t.index: t for t in picked}.values())


def plan_scores(
    trials: Sequence[ScoredTrial], constraints: Constraints, *, bf16_s: float
) -> list[ScoredTrial]:
    """Every trial whose held-out score will be asked for, as far as the search prompts decide it.

    Raises:
        ConstraintError: no trial keeps to the constraints on the search prompts.
    """
    first = first_choice(trials, constraints, bf16_s=bf16_s)
    planned = [*near_choice(trials, first, constraints, bf16_s=bf16_s), *trials_beside(trials)]
    return list({t.index: t for t in planned}.values())


def describe_sound(scores: Sequence[Score]) -> str:
    """Why none of these scores is allowed: the bound on sound, the nearest, and the next step."""
    distances = [score.audio.mean if score.audio else 0.0 for score in scores]
    nearest = min(distances)
    bound = scores[distances.index(nearest)].max_audio_distance or 0.0
    return (
        f"the sound of none of the {len(scores)} skip-lists is within {bound:g} of bf16's, the"
        f" nearest is at {nearest:.4f}; expected one that keeps to `fidelity.max_audio_distance`:"
        " raise it in the study TOML (no picture is generated again), or raise `budget` (the study"
        " is kept)"
    )
