"""The front of a search as a table: which skip-lists are alike, and which one won.

console.print(front_table(outcome))
"""

from collections.abc import Sequence

from rich.console import Group as Lines
from rich.text import Text

from sensitivity.cli.render.tables import at_scale, make_table
from sensitivity.core.format_name import quantized
from sensitivity.fidelity.intervals import AT_ONCE, letters_of_alike
from sensitivity.fidelity.score import MetricValues, Score
from sensitivity.search.native_rounding import NativeRounding
from sensitivity.search.trials import ScoredTrial
from sensitivity.workflows.conclude import SearchOutcome


def front_table(outcome: SearchOutcome) -> Lines:
    """The front and the baselines, fastest first, with held-out values where they were measured.

    Members of the front that share a letter cannot be told apart on the search prompts. A + marks
    the shortlist, a > the winner.
    """
    front, shown = outcome.front, _shown(outcome)
    letters = letters_of_alike(
        [trial.score.damages for trial in front],
        noise_floor=front[0].score.damage_floor if front else 0.0,
        rounding=0.0 if outcome.native_rounding is None else outcome.native_rounding.change,
    )
    alike = dict(zip((trial.index for trial in front), letters, strict=True))
    shortlist = {t.index for t in outcome.winner.shortlist} if outcome.winner is not None else set()
    has_sound = any(trial.score.audio is not None for trial in shown)
    rows = make_table(
        ("", "left"),
        ("skip-list", "left"),
        ("quantized", "right"),
        ("ms a run", "right"),
        ("speedup", "right"),
        ("estimate", "right"),
        ("LPIPS", "right"),
        *[("sound", "right")] * has_sound,
        ("alike", "left"),
        ("held-out LPIPS [95 %]", "right"),
        *[("sound", "right")] * has_sound,
        ("detail dB", "right"),
        title=_title(outcome, net=shown[0].score.net if shown else ""),
    )
    for trial in shown:
        is_chosen = outcome.chosen is not None and trial.index == outcome.chosen.index
        marks = ("*", trial.index in alike), ("+", trial.index in shortlist), (">", is_chosen)
        rows.add_row(
            "".join(mark for mark, holds in marks if holds),
            *_cells(outcome, trial, alike.get(trial.index, ""), has_sound=has_sound),
            style="bold green" if is_chosen else ("" if trial.index in alike else "dim"),
        )
    return Lines(
        rows,
        *(
            Text(line, style="dim")
            for line in _legend(shown, len(shortlist), outcome.native_rounding)
        ),
    )


def _shown(outcome: SearchOutcome) -> list[ScoredTrial]:
    """The front, the baselines, and whatever has a held-out score; the fastest first."""
    beside = [t for t in outcome.result.trials if t.label or t.index in outcome.held_out]
    trials = {trial.index: trial for trial in (*outcome.front, *beside)}
    return sorted(trials.values(), key=lambda trial: (trial.latency_s, trial.lpips))


def _title(outcome: SearchOutcome, *, net: str) -> str:
    """How many skip-lists there are, and what the numbers below are."""
    latency, result = outcome.prepared.latency, outcome.result
    scale = at_scale(outcome.prepared.evaluator.spec.pricing.stands_for)
    early = f" and {len(result.stopped)} stopped early" if result.stopped else ""
    return (
        f"front of {len(outcome.front)} among {len(result.trials)} trials{early}; latency"
        f" {latency.source} for {latency.target}{scale}, LPIPS {net}"
        f" {outcome.prepared.evaluator.execution.words}"
    )


def _cells(
    outcome: SearchOutcome, trial: ScoredTrial, letters: str, *, has_sound: bool
) -> list[str]:
    """The row of a skip-list, but for its marks."""
    candidates, held = outcome.prepared.candidates, outcome.held_out.get(trial.index)
    return [
        trial.name,
        f"{len(quantized(candidates.decode(trial.choice)))}/{len(candidates.fqns)}",
        f"{trial.latency_s * 1e3:.2f}",
        f"{candidates.bf16_s / trial.latency_s:.3f}x",
        f"{trial.lpips:.4f}",
        f"{trial.score.mean:.4f}",
        *[_mean(trial.score.audio)] * has_sound,
        letters,
        _with_interval(held),
        *[_mean(held.audio if held else None)] * has_sound,
        _mean(held.detail_db if held else None, digits=2),
    ]


def _with_interval(held: Score | None) -> str:
    """A held-out LPIPS with its interval; "" where there is none."""
    if held is None:
        return ""
    low, high = held.ci95
    return f"{held.mean:.4f} [{low:.4f}, {high:.4f}]"


def _mean(metric: MetricValues | None, *, digits: int = 4) -> str:
    """The mean of a metric; "" where there is none."""
    return "" if metric is None else f"{metric.mean:.{digits}f}"


def _rounding_line(floor: NativeRounding | None) -> list[str]:
    """The second floor, in words; [] where it is not known."""
    if floor is None:
        return []
    return [
        f"native rounding {floor.lpips:.4f}: LPIPS between the rule of thumb's pictures and those"
        f" in the arithmetic {floor.arithmetic} ({floor.prompts} prompts); its typical LPIPS"
        f" changes by {floor.change:.1%}, so skip-lists that differ by less are alike"
    ]


def _legend(
    shown: Sequence[ScoredTrial], near: int, floor: NativeRounding | None = None
) -> list[str]:
    """What the marks and columns mean, and the two floors."""
    score = shown[0].score if shown else None
    prompts = len(score.per_prompt) if score is not None else 0
    noise = "not measured (batch of one)"
    if score is not None and score.noise_floor is not None:
        noise = f"{score.noise_floor:.2g} (bf16 generated one by one)"
    lines = [
        f"* on the front   > chosen   noise floor of LPIPS {noise}",
        *_rounding_line(floor),
        "estimate: LPIPS as all trials together predict it; LPIPS: of this one's own pictures on"
        f" the {prompts} search prompts, part of it luck",
        "alike: skip-lists that share a letter cannot be told apart on the"
        f" {prompts} search prompts (paired, 95 %)",
        "detail: decibels between the local energies of octaves, which noise and blur change and a"
        " drifted composition hardly does",
    ]
    if score is not None and score.audio is not None:
        bound = score.max_audio_distance
        lines.append(
            "sound: spectral distance from bf16's (1.35: two noises of one spectrum)"
            f"{'' if bound is None else f', at most {bound:g} is accepted'}; the estimate is LPIPS"
            f" + {score.audio_weight:g} x sound, and so is what --max-lpips bounds"
        )
    if near:
        lines.append(
            f"+ could have been chosen ({near}); the held-out intervals hold for {AT_ONCE}"
            " skip-lists at once"
        )
    return lines
