"""The front and the winner for a terminal: which skip-lists are alike, which could be named, which
was, and what its numbers mean.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.console import Group as Lines
from rich.text import Text

from sensitivity.cli.outputs import write_json
from sensitivity.cli.render.tables import make_table
from sensitivity.core.format_name import FormatName
from sensitivity.errors import ConstraintError, MeasurementError
from sensitivity.fidelity.score import Measure, Score
from sensitivity.search.intervals import letters_of_alike
from sensitivity.search.trials import ScoredTrial
from sensitivity.search.winner import Naming, name_of
from sensitivity.spec.overrides import random_notice
from sensitivity.workflows.find import SearchOutcome


def front_table(outcome: SearchOutcome) -> Lines:
    """The front, fastest first, with the first trials in it or beside it, the winner marked,
    held-out values where they were measured.

    Members that share a letter cannot be told apart on the search prompts; a + marks the shortlist,
    whose held-out intervals hold all at once.
    """
    candidates, chosen, naming = outcome.prepared.candidates, outcome.chosen, outcome.naming
    latency, spec = outcome.prepared.latency, outcome.prepared.evaluator.spec
    alike = dict(
        zip(
            (t.index for t in outcome.front),
            letters_of_alike([t.score.damages for t in outcome.front]),
            strict=True,
        )
    )
    near = {t.index for t in naming.shortlist} if naming is not None else set()
    extra = [t for t in outcome.result.trials if t.label or t.index in outcome.held_out]
    shown = sorted(
        {t.index: t for t in (*outcome.front, *extra)}.values(),
        key=lambda t: (t.latency_s, t.lpips),
    )
    at_scale = (
        f" at {spec.pricing.stands_for} x its dimensions" if spec.pricing.stands_for > 1 else ""
    )
    early = f" and {len(outcome.result.stopped)} stopped early" if outcome.result.stopped else ""
    heard = any(t.score.audio is not None for t in shown)
    rows = make_table(
        ("", "left"),
        ("skip-list", "left"),
        ("quantized", "right"),
        ("ms a run", "right"),
        ("speedup", "right"),
        ("estimate", "right"),
        ("LPIPS", "right"),
        *[("sound", "right")] * heard,
        ("alike", "left"),
        ("held-out LPIPS [95 %]", "right"),
        *[("sound", "right")] * heard,
        ("detail dB", "right"),
        title=(
            f"front of {len(outcome.front)} among {len(outcome.result.trials)} trials{early};"
            f" latency {latency.source} for {latency.target}{at_scale}, LPIPS"
            f" {shown[0].score.net if shown else ''} by emulation"
        ),
    )
    for trial in shown:
        held = outcome.held_out.get(trial.index)
        is_chosen = chosen is not None and trial.index == chosen.index
        quantized = sum(
            name is not FormatName.BF16 for name in candidates.decode(trial.choice).values()
        )
        rows.add_row(
            ("*" if trial.index in alike else "")
            + ("+" if trial.index in near else "")
            + (">" if is_chosen else ""),
            name_of(trial),
            f"{quantized}/{len(candidates.fqns)}",
            f"{trial.latency_s * 1e3:.2f}",
            f"{candidates.bf16_s / trial.latency_s:.3f}x",
            f"{trial.lpips:.4f}",
            f"{trial.score.mean:.4f}",
            *[_mean(trial.score.audio)] * heard,
            alike.get(trial.index, ""),
            f"{held.mean:.4f} [{held.ci95[0]:.4f}, {held.ci95[1]:.4f}]" if held else "",
            *[_mean(held.audio) if held else ""] * heard,
            _mean(held.detail_db, digits=2) if held else "",
            style="bold green" if is_chosen else ("" if trial.index in alike else "dim"),
        )
    return Lines(rows, *(Text(line, style="dim") for line in _front_legend(shown, len(near))))


def _mean(measure: Measure | None, *, digits: int = 4) -> str:
    """Its mean, "" where it was not measured."""
    return "" if measure is None else f"{measure.mean:.{digits}f}"


def _front_legend(shown: Sequence[ScoredTrial], near: int) -> list[str]:
    """What the marks of the front mean, and the noise floor."""
    floor = shown[0].score.noise_floor if shown else None
    prompts = len(shown[0].score.per_prompt) if shown else 0
    noise = (
        "not measured (batch of one)" if floor is None else f"{floor:.4f} (bf16 drawn one by one)"
    )
    lines = [
        f"* on the front   > chosen   noise floor of LPIPS {noise}",
        (
            "estimate: LPIPS as all trials together say; LPIPS: of this one's own pictures on the"
            f" {prompts} search prompts, part of it luck"
        ),
        (
            f"alike: skip-lists that share a letter cannot be told apart on the {prompts} search"
            " prompts (paired, 95 %)"
        ),
    ]
    lines.append(
        "detail: decibels between the local energies of octaves, which noise and blur change and a"
        " drifted composition hardly does"
    )
    if shown and shown[0].score.audio is not None:
        score = shown[0].score
        bound = (
            ""
            if score.max_audio_distance is None
            else f", at most {score.max_audio_distance:g} is allowed"
        )
        lines.append(
            f"sound: spectral distance from bf16's (1.35: two noises of one spectrum){bound}; the"
            f" estimate is LPIPS + {score.audio_weight:g} x sound, and so is what --max-lpips"
            " bounds"
        )
    if near:
        lines.append(
            f"+ could be named ({near}): held-out intervals that hold all at once; each of the"
            " others holds by itself"
        )
    return lines


def winner_lines(outcome: SearchOutcome) -> list[str]:
    """The winner in words, how it was named, and the rule of thumb beside it; [] where none was
    named.
    """
    recipe, chosen, naming = outcome.recipe, outcome.chosen, outcome.naming
    if recipe is None or chosen is None or naming is None:
        return []
    latency, held = recipe.latency, outcome.held_out[chosen.index]
    scale = f" at {latency.stands_for} x its dimensions" if latency.stands_for > 1 else ""
    lines = [
        (
            f"chosen: {name_of(chosen)}, {latency.speedup:.3f}x, {latency.quantized_s:.4g} s a run"
            f" ({latency.source} for {latency.target}{scale}), held-out LPIPS {held.mean:.4f}"
            f" [{held.ci95[0]:.4f}, {held.ci95[1]:.4f}]{beside_lpips_words(held)},"
            f" {len(recipe.skip)} of {len(recipe.layers)} Linears stay bf16"
        ),
        _how(naming, chosen, prompts=len(held.per_prompt)),
    ]
    thumb = next((t for t in outcome.result.trials if t.label == "rule of thumb"), None)
    if thumb is not None and thumb.index in outcome.held_out and thumb.index != chosen.index:
        speedup = outcome.prepared.candidates.bf16_s / thumb.latency_s
        lines.append(
            f"rule of thumb: {speedup:.3f}x, held-out LPIPS"
            f" {outcome.held_out[thumb.index].mean:.4f}"
        )
    return lines


def beside_lpips_words(held: Score) -> str:
    """What a held-out score has beside LPIPS, in words."""
    words = (
        ("sound", held.audio, ""),
        ("motion", held.motion, ""),
        ("detail", held.detail_db, " dB"),
    )
    return "".join(
        f", {name} {measure.mean:.3g}{unit}"
        + ("" if measure.noise_floor is None else f" (noise floor {measure.noise_floor:.2g})")
        for name, measure, unit in words
        if measure is not None
    )


def _how(naming: Naming, chosen: ScoredTrial, *, prompts: int) -> str:
    """Rule, first choice, and what the held-out prompts changed."""
    asked = (
        f" with {' and '.join(naming.constraints.words)}"
        if naming.constraints.words
        else " of the front"
    )
    text = f"named as the {naming.constraints.rule}{asked}: "
    if chosen.index == naming.first.index:
        text += "the search prompts' choice, which the held-out prompts did not overrule"
    else:
        text += f"the search prompts chose {name_of(naming.first)}, "
        missing = naming.first.index in {t.index for t in naming.passed_over}
        text += "which has no held-out score" if missing else "the held-out prompts overruled it"
    count, passed = len(naming.shortlist), len(naming.passed_over)
    text += (
        f"; the interval over {prompts} held-out prompts holds at once for all that could be named"
        f" ({count})"
    )
    return text + (f"; passed over for want of a held-out score: {passed}" if passed else "")


@contextmanager
def showing_the_front(console: Console) -> Iterator[None]:
    """Where no skip-list keeps to the constraints, print the front before the message says so."""
    try:
        yield
    except ConstraintError as error:
        if error.outcome is not None:
            from sensitivity.cli.render.winner import front_table

            console.print(front_table(error.outcome))
        raise


def conclude(
    console: Console, outcome: Any, recipe_path: Path, json_path: str | None, *, budget: int
) -> None:
    """Print what was found and write the recipe, where there is one."""
    from sensitivity.cli.render.tables import dead_pattern_lines, fixed_table
    from sensitivity.cli.render.winner import front_table, winner_lines

    candidates = outcome.prepared.candidates
    console.print(fixed_table(candidates.fixed))
    for line in dead_pattern_lines(candidates.dead):
        console.print(line, style="yellow", highlight=False, markup=False, soft_wrap=True)
    console.print(front_table(outcome))
    if outcome.result.interrupted:
        raise KeyboardInterrupt
    if outcome.recipe is None:
        raise MeasurementError(
            f"none of the {outcome.result.failed} trials finished; the study's database has the"
            " reasons"
        )
    outcome.recipe.save(recipe_path)
    lines = winner_lines(outcome)
    if outcome.result.stopped:
        stopped, undrawn = len(outcome.result.stopped), outcome.result.undrawn
        lines.append(
            f"{stopped} of {outcome.result.tried} trials stopped early, {undrawn} pictures were not"
            " drawn"
        )
    if outcome.result.tried < budget:
        lines.append(
            f"{outcome.result.tried} of {budget} trials: no skip-list was found that had not been"
            " tried"
        )
    if outcome.result.failed:
        lines.append(f"{outcome.result.failed} trials failed; the study's database has the reasons")
    lines.append(f"recipe: {recipe_path}")
    if (spec := outcome.prepared.evaluator.spec).model.random_seed is not None:
        lines.append(random_notice(spec))
    console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)
    write_json(json.loads(outcome.recipe.to_json()), json_path)
