"""The winner of a search in words: what it costs and gains, and how it was chosen."""

from sensitivity.cli.render.front import anchor_words
from sensitivity.cli.render.tables import at_scale
from sensitivity.core.words import and_more
from sensitivity.fidelity.score import Score
from sensitivity.fidelity.summary import ScoreSummary
from sensitivity.fidelity.typical import Ratio
from sensitivity.recipes.records import Latency
from sensitivity.search.front import Constraints
from sensitivity.search.trials import ScoredTrial
from sensitivity.search.winner import Winner
from sensitivity.workflows.conclude import SearchOutcome

THUMB = "rule of thumb"
"""The label of the baseline that people use today."""
MAX_PROMPTS = 3
"""Prompts that flipped which are named in a line."""
MAX_PROMPT = 60
"""Characters of a prompt in a line."""


def winner_lines(outcome: SearchOutcome) -> list[str]:
    """The winner, its pictures, what it is beside others, and how it was chosen; [] where there is
    none.
    """
    recipe, chosen, winner = outcome.recipe, outcome.chosen, outcome.winner
    if recipe is None or chosen is None or winner is None:
        return []
    held = outcome.held_out[chosen.index]
    said = outcome.rules.summarize(held)
    prompts = () if recipe.fidelity is None else recipe.fidelity.lpips.prompts
    return [
        f"chosen: {chosen.name}, {latency_words(recipe.latency)};"
        f" {len(recipe.skip)} of {len(recipe.layers)} Linears stay bf16",
        f"held-out {said.words} {outcome.prepared.evaluator.execution.words}"
        f"{_anchor(outcome)}{beside_lpips_words(held)}",
        *flip_lines(said, prompts),
        *_against(outcome, winner),
        _how(winner, chosen, prompts=len(held.per_prompt)),
        *_about_seconds(recipe.latency, outcome.untimed, winner.constraints),
        *_rule_of_thumb(outcome, winner, chosen),
    ]


def _anchor(outcome: SearchOutcome) -> str:
    """LPIPS of another seed, in brackets; "" where it is not known."""
    words = anchor_words(outcome.rules.flip_rule)
    return f" ({words})" if words else ""


def flip_lines(said: ScoreSummary, prompts: tuple[str, ...]) -> list[str]:
    """Which prompts became another picture, as a line; [] where none did."""
    if not said.flips or len(prompts) != said.prompts:
        return []
    named = [f'{i + 1} "{_cut(prompts[i])}"' for i in said.flips]
    which = "prompt" if len(named) == 1 else "prompts"
    return [f"another picture: {which} {and_more(named, most=MAX_PROMPTS)}"]


def _cut(text: str) -> str:
    return text if len(text) <= MAX_PROMPT else f"{text[: MAX_PROMPT - 3]}..."


def ratio_words(ratio: Ratio) -> str:
    """A ratio with its interval: "0.49 [0.39, 0.61]"."""
    return f"{ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"


def _against(outcome: SearchOutcome, winner: Winner) -> list[str]:
    """The winner's typical LPIPS as a multiple of each baseline's, as a line."""
    ratios = {
        trial.name: ratio
        for trial in outcome.result.trials
        if trial.label not in ("", "none") and (ratio := winner.ratio_to(trial)) is not None
    }
    if not ratios:
        return []
    names = sorted(ratios, key=lambda name: name != THUMB)
    words = [f"{ratio_words(ratios[name])} of {_whose(name)}" for name in names]
    return [f"its typical LPIPS, prompt by prompt: {', '.join(words)}"]


def _whose(name: str) -> str:
    """The LPIPS of a baseline: "the rule of thumb's", "that of all nvfp4"."""
    return f"the {name}'s" if name == THUMB else f"that of {name}"


def _rule_of_thumb(outcome: SearchOutcome, winner: Winner, chosen: ScoredTrial) -> list[str]:
    """What people do today, as a line; [] where it is the winner or has no held-out score."""
    thumb = next((t for t in outcome.result.trials if t.label == THUMB), None)
    if thumb is None or thumb.index == chosen.index or thumb.index not in winner.held_out:
        return []
    floor, ratio = outcome.native_rounding, winner.ratio_to(thumb)
    near = (
        floor is not None
        and ratio is not None
        and ratio.value > 0
        and max(ratio.value, 1 / ratio.value) - 1 < floor.change
    )
    return [
        f"rule of thumb: {_speedup_words(outcome, thumb)}, held-out {winner.said(thumb).words}"
        + (", which differs by less than native rounding" if near else "")
    ]


def _speedup_words(outcome: SearchOutcome, trial: ScoredTrial) -> str:
    """A trial's speedup: end to end if it was timed so, else by the sum of shapes; and of what."""
    runs = () if outcome.times is None else outcome.times.runs
    run = next((run for run in runs if run.name == trial.name and not run.failure), None)
    whole = f"{outcome.prepared.candidates.bf16_s / trial.latency_s:.3f}x of a whole run"
    if run is None or outcome.times is None:
        return whole
    if outcome.times.whole:
        return f"{run.ratio.value:.3f}x of a whole run"
    return f"{run.ratio.value:.3f}x of the denoiser's calls, {whole}"


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
