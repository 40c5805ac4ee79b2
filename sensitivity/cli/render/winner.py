"""The winner of a search in words: its seconds, how it was chosen, and what to know of it.

The verdict itself is `render.verdict`.
"""

import math

from sensitivity.cli.render.priced import at_scale
from sensitivity.core.words import and_more, gigabytes
from sensitivity.fidelity.score import Score
from sensitivity.fidelity.summary import ScoreSummary
from sensitivity.recipes.records import Latency, Memory
from sensitivity.search.front import Constraints
from sensitivity.search.trials import ScoredTrial
from sensitivity.search.winner import Winner
from sensitivity.workflows.conclude import SearchOutcome

PREDICTED = "(predicted, without what CUDA itself takes, which was 3 to 6 GB of FLUX.1-dev)"
"""What a predicted peak is (`latency.memory`)."""
MAX_PROMPTS = 3
"""Prompts that flipped which are named in a line."""
MAX_PROMPT = 60
"""Characters of a prompt in a line."""


def note_lines(outcome: SearchOutcome) -> list[str]:
    """What to know of the winner's seconds, and which lists could not be timed."""
    recipe, winner = outcome.recipe, outcome.winner
    if recipe is None or winner is None:
        return []
    runs = () if outcome.times is None else outcome.times.runs
    return [
        *_about_seconds(recipe.latency, outcome.untimed, winner.constraints),
        *_about_memory(outcome, recipe.memory, winner.constraints),
        *(f"{run.name} was not timed: {run.failure}" for run in runs if run.failure),
    ]


def how_chosen(outcome: SearchOutcome) -> str:
    """The rule, what the search prompts chose, and what the held-out prompts changed; "" where
    there is no winner.
    """
    winner, chosen = outcome.winner, outcome.chosen
    if winner is None or chosen is None:
        return ""
    return _how(winner, chosen, prompts=len(outcome.held_out[chosen.index].per_prompt))


def flip_lines(said: ScoreSummary, prompts: tuple[str, ...]) -> list[str]:
    """Which prompts became another picture, as a line; [] where none did."""
    if not said.flips or len(prompts) != said.prompts:
        return []
    named = [f'{i + 1} "{_cut(prompts[i])}"' for i in said.flips]
    which = "prompt" if len(named) == 1 else "prompts"
    return [f"another picture: {which} {and_more(named, most=MAX_PROMPTS)}"]


def _cut(text: str) -> str:
    return text if len(text) <= MAX_PROMPT else f"{text[: MAX_PROMPT - 3]}..."


def latency_words(latency: Latency) -> str:
    """A recipe's speedup and seconds, of what they are, and where they come from: end to end, or
    shape by shape.

    Where the denoiser's calls alone were timed, the speedup of a whole run stands beside theirs.
    """
    shapes, whole = latency.shapes, latency.whole_run
    if shapes is None:
        where = f"{latency.source} for {latency.target}{at_scale(latency.stands_for)}"
        return f"{latency.speedup:.3f}x of a whole run, {latency.quantized_s:.4g} s ({where})"
    interval = latency.speedup_interval90
    bounds = "" if interval is None else f" [{interval[0]:.3f}, {interval[1]:.3f}]"
    part = "a whole run" if whole is None else "the denoiser's calls"
    text = (
        f"{latency.speedup:.3f}x{bounds} of {part}, {latency.quantized_s:.4g} s ({latency.origin}"
        f" on {latency.target}; {shapes.speedup:.3f}x by the sum of shapes)"
    )
    if whole is None:
        return text
    return (
        f"{text}, {whole.speedup:.3f}x of a whole run with the pipeline's other"
        f" {others_s(latency):.2g} s (by the sum of shapes)"
    )


def others_s(latency: Latency) -> float:
    """Seconds of a whole run that are not in a recipe's seconds, by the sum of shapes: those of the
    other parts of the pipeline, where the denoiser's calls alone were timed. Else 0.
    """
    if latency.whole_run is None or latency.shapes is None:
        return 0.0
    return latency.whole_run.quantized_s - latency.shapes.quantized_s


def _about_seconds(latency: Latency, untimed: str, bounds: Constraints) -> list[str]:
    """Why its run was not timed, where it differs from its shapes, and a bound that it breaks."""
    lines = [f"its run was not timed end to end: {untimed}"] if untimed else []
    if latency.shapes is None:
        return lines
    lines += [latency.note] if latency.note else []
    if latency.whole_run is not None:
        return lines  # bounds are on a whole run, which was not timed
    broken = []
    if bounds.min_speedup is not None and latency.speedup < bounds.min_speedup:
        broken.append(f"the speedup is below the {bounds.min_speedup:g} that was asked for")
    if bounds.max_seconds is not None and latency.quantized_s > bounds.max_seconds:
        broken.append(f"a run takes more than the {bounds.max_seconds:g} s that were asked for")
    return lines + [
        f"end to end {text}; by the sum of shapes, which the search ranks by, it is within it"
        for text in broken
    ]


def _about_memory(outcome: SearchOutcome, memory: Memory, bounds: Constraints) -> list[str]:
    """What a bound on memory was compared with, and whether a measured peak breaks it."""
    most, peak = bounds.max_memory_bytes, memory.peak_bytes
    if most is None or peak is None:
        return []
    if memory.peak_source == "predicted":
        return [f"peak memory {gigabytes(peak)} {PREDICTED}: the bound was compared with that"]
    text = f"peak memory {gigabytes(peak)}, measured end to end"
    predicted = None if outcome.chosen is None else outcome.chosen.memory_bytes
    if peak <= most or predicted is None:
        return [text]
    text += (
        f": more than the {gigabytes(most)} that were asked for; {gigabytes(predicted)} were"
        " predicted, which is within it"
    )
    within = math.floor((most - (peak - predicted)) / 1e8) / 10  # GB, by what the prediction lacks
    return [text + (f": choose again with --max-memory {within:g}GB" if within > 0 else "")]


def beside_lpips_words(held: Score) -> str:
    """The metrics that a held-out score has beside LPIPS, with their noise floors."""
    metrics = (
        ("sound", held.audio, ""),
        ("motion", held.motion, ""),
        ("detail", held.detail_db, " dB"),
    )
    return "".join(
        f", {name} {metric.mean:.3g}{unit}"
        + ("" if metric.noise_floor is None else f" (noise floor {metric.noise_floor:.2g})")
        for name, metric, unit in metrics
        if metric is not None
    )


def _how(winner: Winner, chosen: ScoredTrial, *, prompts: int) -> str:
    """The rule, what the search prompts chose, and what the held-out prompts changed."""
    rule, asked = winner.constraints.rule, winner.constraints.words
    bounds = f"with {' and '.join(asked)}" if asked else "of the front"
    text = f"chosen as the {rule} {bounds}: "
    if chosen.index == winner.first.index:
        text += f"the search prompts' choice, which the {prompts} held-out prompts did not overrule"
    else:
        missing = winner.first.index in {trial.index for trial in winner.passed_over}
        text += f"the search prompts chose {winner.first.name}, " + (
            "which has no held-out score"
            if missing
            else f"the {prompts} held-out prompts overruled it"
        )
    passed = len(winner.passed_over)
    return text + (f"; passed over for want of a held-out score: {passed}" if passed else "")
