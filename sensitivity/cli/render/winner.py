"""The winner of a search in words: what it costs and gains, and how it was chosen."""

from sensitivity.cli.render.tables import at_scale
from sensitivity.fidelity.intervals import AT_ONCE
from sensitivity.fidelity.score import Score
from sensitivity.recipes.records import Latency
from sensitivity.search.front import Constraints
from sensitivity.search.trials import ScoredTrial
from sensitivity.search.winner import Winner
from sensitivity.workflows.conclude import SearchOutcome


def winner_lines(outcome: SearchOutcome) -> list[str]:
    """The winner, how it was chosen, and the rule of thumb beside it; [] where there is none."""
    recipe, chosen, winner = outcome.recipe, outcome.chosen, outcome.winner
    if recipe is None or chosen is None or winner is None:
        return []
    held = outcome.held_out[chosen.index]
    low, high = held.ci95
    lines = [
        f"chosen: {chosen.name}, {latency_words(recipe.latency)}, held-out LPIPS"
        f" {held.mean:.4f} [{low:.4f}, {high:.4f}] {outcome.prepared.evaluator.execution.words}"
        f"{beside_lpips_words(held)},"
        f" {len(recipe.skip)} of {len(recipe.layers)} Linears stay bf16",
        _how(winner, chosen, prompts=len(held.per_prompt)),
        *_about_seconds(recipe.latency, outcome.untimed, winner.constraints),
    ]
    thumb = next((t for t in outcome.result.trials if t.label == "rule of thumb"), None)
    if thumb is not None and thumb.index in outcome.held_out and thumb.index != chosen.index:
        speedup = _speedup(outcome, thumb)
        lpips = outcome.held_out[thumb.index].mean
        floor = outcome.native_rounding
        near = floor is not None and (abs(lpips - held.mean) < floor.change * min(lpips, held.mean))
        lines.append(
            f"rule of thumb: {speedup:.3f}x, held-out LPIPS {lpips:.4f}"
            + (", which differs by less than native rounding" if near else "")
        )
    return lines


def _speedup(outcome: SearchOutcome, trial: ScoredTrial) -> float:
    """A trial's speedup: end to end if it was timed so, else by the sum of shapes."""
    runs = () if outcome.times is None else outcome.times.runs
    run = next((run for run in runs if run.name == trial.name and not run.failure), None)
    return outcome.prepared.candidates.bf16_s / trial.latency_s if run is None else run.ratio.value


def latency_words(latency: Latency) -> str:
    """A recipe's speedup and seconds, and where they come from: end to end, or shape by shape."""
    shapes = latency.shapes
    if shapes is None:
        where = f"{latency.source} for {latency.target}{at_scale(latency.stands_for)}"
        return f"{latency.speedup:.3f}x, {latency.quantized_s:.4g} s a run ({where})"
    interval = latency.speedup_interval90
    bounds = "" if interval is None else f" [{interval[0]:.3f}, {interval[1]:.3f}]"
    return (
        f"{latency.speedup:.3f}x{bounds}, {latency.quantized_s:.4g} s a run ({latency.origin}"
        f" on {latency.target}; {shapes.speedup:.3f}x by the sum of its shapes)"
    )


def _about_seconds(latency: Latency, untimed: str, bounds: Constraints) -> list[str]:
    """Why its run was not timed, where it differs from its shapes, and a bound that it breaks."""
    lines = [f"its run was not timed end to end: {untimed}"] if untimed else []
    if latency.shapes is None:
        return lines
    lines += [latency.note] if latency.note else []
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
        text += "the search prompts' choice, which the held-out prompts did not overrule"
    else:
        missing = winner.first.index in {trial.index for trial in winner.passed_over}
        text += f"the search prompts chose {winner.first.name}, " + (
            "which has no held-out score" if missing else "the held-out prompts overruled it"
        )
    text += f"; the interval over {prompts} held-out prompts holds for {AT_ONCE} skip-lists at once"
    passed = len(winner.passed_over)
    return text + (f"; passed over for want of a held-out score: {passed}" if passed else "")
