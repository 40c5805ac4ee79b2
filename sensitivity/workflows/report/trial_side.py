"""What did the search try? One record a list, with the front and how it grew.

    trials = trial_records(result, candidates)
    [trial.name for trial in trials if trial.on_front]

Seconds and damages are those that the search ranks by: priced seconds, and the typical damage as
all trials together estimate it. The area that the front dominates (hypervolume, up to bf16's
seconds and the largest damage) is stated as a part of the last one, so it ends at 1.
"""

import string
from collections.abc import Sequence

from sensitivity.core.format_name import quantized
from sensitivity.search.candidates import Candidates, Choice
from sensitivity.search.front import Point, hypervolume
from sensitivity.search.loop import SearchResult
from sensitivity.search.shortlist import front_of
from sensitivity.search.trials import ScoredTrial, StoppedTrial, Tried
from sensitivity.workflows.report.records import Trial

_DIGITS = string.digits + string.ascii_lowercase


def trial_records(result: SearchResult, candidates: Candidates) -> tuple[Trial, ...]:
    """Baselines, trials and trials that were stopped early, in the order in which they were tried.

    Args:
        result: what the study holds.
        candidates: what the choices mean.
    """
    scored = result.trials
    front = {id(trial) for trial in front_of(scored)}
    tried: list[Tried] = [*scored, *result.stopped]
    tried.sort(key=lambda trial: trial.index)
    return tuple(
        _scored(trial, candidates, id(trial) in front, part)
        if isinstance(trial, ScoredTrial)
        else _stopped(trial, candidates, part)
        for trial, part in zip(tried, _growth(tried, candidates.bf16_s), strict=True)
    )


def _scored(
    trial: ScoredTrial, candidates: Candidates, on_front: bool, part: float | None
) -> Trial:
    score = trial.score
    return Trial(
        name=trial.name,
        number=trial.number or None,
        kind="baseline" if trial.label else "proposal",
        seconds=trial.latency_s,
        speedup=candidates.bf16_s / trial.latency_s,
        typical=trial.typical,
        mean=trial.mean,
        own_typical=score.typical,
        own_ci95=score.typical_ci95,
        quantized=_count(candidates, trial.choice),
        took_s=trial.seconds,
        memory_bytes=trial.memory_bytes,
        on_front=on_front,
        choice=_text(candidates.options_of(trial.choice)),
        policy=_policy(trial),
        hypervolume=part,
    )


def _stopped(trial: StoppedTrial, candidates: Candidates, part: float | None) -> Trial:
    return Trial(
        name=trial.name,
        number=trial.number or None,
        kind="stopped early",
        seconds=trial.latency_s,
        speedup=candidates.bf16_s / trial.latency_s,
        typical=trial.stop.estimate,
        mean=trial.stop.estimate,
        quantized=_count(candidates, trial.choice),
        took_s=trial.seconds,
        choice=_text(candidates.options_of(trial.choice)),
        policy=_policy(trial),
        hypervolume=part,
    )


def _growth(tried: Sequence[Tried], bf16_s: float) -> list[float | None]:
    """The area after each list, as a part of the last; None for each where there is no area."""
    points: list[Point] = []
    areas: list[float] = []
    most = max((trial.typical for trial in tried if isinstance(trial, ScoredTrial)), default=0.0)
    for trial in tried:
        if isinstance(trial, ScoredTrial) and trial.score.is_allowed:
            points.append((trial.latency_s, trial.typical))
        areas.append(hypervolume(points, reference=(bf16_s, most)))
    whole = areas[-1] if areas else 0.0
    return [area / whole if whole > 0 else None for area in areas]


def _count(candidates: Candidates, choice: Choice) -> int:
    return len(quantized(candidates.decode(choice)))


def _text(options: Choice) -> str:
    """Options as one character a group: digits, then letters, as `int(character, 36)` reads."""
    return "".join(_DIGITS[option] for option in options)


def _policy(trial: Tried) -> str:
    """The step policy in words; "" where every step runs as the skip-list says."""
    return "" if trial.policy.is_plain else trial.policy.words
