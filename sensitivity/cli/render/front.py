"""The front of a search as a table: which skip-lists are alike, and which one won.

console.print(front_table(outcome))
"""

from collections.abc import Sequence

from rich.console import Group as Lines
from rich.text import Text

from sensitivity.cli.render.judges import distance_words
from sensitivity.cli.render.priced import at_scale
from sensitivity.cli.render.tables import FittedTable, number, words
from sensitivity.core.format_name import quantized
from sensitivity.core.step_policy import EdgeMode
from sensitivity.fidelity.alike import letters_of_alike
from sensitivity.fidelity.flips import FlipRule
from sensitivity.fidelity.score import MetricValues, Score
from sensitivity.fidelity.words import bounds_words, lpips_words
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
    rows = FittedTable(
        words("", least=3),
        words("skip-list", least=14),
        number("quantized", drop=3),
        words("edge steps", least=4),
        number("ms a run", drop=2),
        number("speedup"),
        number("peak GB", drop=4, called="peak memory"),
        number("typical"),
        number("flips", drop=4, called="flips of the search prompts"),
        number("sound", drop=6),
        words("alike", drop=7),
        number("held-out typical"),
        number("[95 %]", drop=8, called="intervals of typical"),
        number("mean", drop=5),
        number("[95 %]", drop=1, called="intervals of mean"),
        number("flips"),
        number("sound", drop=6, called="held-out sound"),
        title=_title(outcome, net=shown[0].score.net if shown else ""),
        in_json=False,
    )
    for trial in shown:
        is_chosen = outcome.chosen is not None and trial.index == outcome.chosen.index
        marks = ("*", trial.index in alike), ("+", trial.index in shortlist), (">", is_chosen)
        rows.add_row(
            "".join(mark for mark, holds in marks if holds),
            *_cells(outcome, trial, alike.get(trial.index, "")),
            style="bold green" if is_chosen else ("" if trial.index in alike else "dim"),
        )
    return Lines(
        rows, *(Text(line, style="dim") for line in _legend(outcome, shown, len(shortlist)))
    )


def front_words(outcome: SearchOutcome) -> str:
    """How many skip-lists that quantize something are on the front, and its ends, as a line."""
    none = outcome.prepared.candidates.none_quantized
    members = [trial for trial in outcome.front if trial.choice != none]
    if not members:
        return "bf16 alone: no list that quantizes anything is faster"
    ends = [members[-1], *([members[0]] if len(members) > 1 else [])]
    reach = " to ".join(
        f"{outcome.prepared.candidates.bf16_s / trial.latency_s:.3f}x at"
        f" LPIPS {lpips_words(trial.typical)}"
        for trial in ends
    )
    lists = "list" if len(members) == 1 else "lists"
    return f"{len(members)} {lists}, {reach} on the search prompts"


def _shown(outcome: SearchOutcome) -> list[ScoredTrial]:
    """The front, the baselines, and whatever has a held-out score; the fastest first."""
    beside = [t for t in outcome.result.trials if t.label or t.index in outcome.held_out]
    trials = {trial.index: trial for trial in (*outcome.front, *beside)}
    return sorted(trials.values(), key=lambda trial: (trial.latency_s, trial.typical))


def _title(outcome: SearchOutcome, *, net: str) -> str:
    """How many skip-lists there are, and what the numbers below are."""
    latency, result = outcome.prepared.latency, outcome.result
    scale = at_scale(outcome.prepared.evaluator.spec.pricing.stands_for)
    early = f" and {len(result.stopped)} stopped early" if result.stopped else ""
    baselines = sum(bool(trial.label) for trial in result.trials)
    return (
        f"front of {len(outcome.front)} among {len(result.trials) - baselines} trials{early} and"
        f" {baselines} baselines; seconds of a whole pipeline run as the sum of shapes,"
        f" {latency.source} for {latency.target}{scale}; {distance_words(net)}"
        f" {outcome.prepared.evaluator.execution.words}"
    )


def _cells(outcome: SearchOutcome, trial: ScoredTrial, letters: str) -> list[str]:
    """The row of a skip-list, but for its marks."""
    candidates, held = outcome.prepared.candidates, outcome.held_out.get(trial.index)
    return [
        trial.name,
        f"{len(quantized(candidates.decode(trial.choice)))}/{len(candidates.fqns)}",
        _edges(trial),
        f"{trial.latency_s * 1e3:.2f}",
        f"{candidates.bf16_s / trial.latency_s:.3f}x",
        "" if trial.memory_bytes is None else f"{trial.memory_bytes / 1e9:.2f}",
        lpips_words(trial.typical),
        _share(outcome.rules.flips(trial.score), trial.score),
        _mean(trial.score.audio),
        letters,
        *_held_out(outcome, held),
        _mean(held.audio if held else None),
    ]


def _edges(trial: ScoredTrial) -> str:
    """How many first and last steps run at higher precision: "2 + 1"; "" where none does."""
    policy = trial.policy
    return "" if policy.is_plain else f"{policy.first_steps} + {policy.last_steps}"


def _held_out(outcome: SearchOutcome, held: Score | None) -> tuple[str, str, str, str, str]:
    """Typical and mean LPIPS with intervals, and flips; "" where there is no score."""
    if held is None:
        return "", "", "", "", ""
    said = outcome.rules.summarize(held)
    return (
        lpips_words(said.typical),
        bounds_words(said.typical_ci95),
        lpips_words(said.mean),
        bounds_words(said.mean_ci95),
        _share(said.flips, held),
    )


def _share(flips: Sequence[int], score: Score) -> str:
    """How many of the prompts flipped: "1/24"."""
    return f"{len(flips)}/{len(score.per_prompt)}"


def _mean(metric: MetricValues | None) -> str:
    """The mean of a metric; "" where there is none."""
    return "" if metric is None else lpips_words(metric.mean)


def _rounding_line(floor: NativeRounding | None) -> list[str]:
    """The second floor, in words; [] where it is not known."""
    if floor is None:
        return []
    return [
        f"native rounding {lpips_words(floor.lpips)}: LPIPS between the rule of thumb's pictures"
        f" and those in the arithmetic {floor.arithmetic} ({floor.prompts} prompts); its typical"
        f" LPIPS changes by {floor.change:.1%}, so skip-lists that differ by less are alike"
    ]


def _edges_line(shown: Sequence[ScoredTrial]) -> list[str]:
    """What the edge steps are; [] where there are none."""
    mode = next((t.policy.mode for t in shown if not t.policy.is_plain), None)
    if mode is None:
        return []
    how = "bf16" if mode is EdgeMode.BF16 else "W x A16"
    return [f"edge steps: first + last steps, in which what is quantized runs in {how}"]


def anchor_words(rule: FlipRule) -> str:
    """What LPIPS of another seed is here, to compare with; "" where it was not measured."""
    return "" if rule.another_seed is None else f"another seed is {rule.another_seed:.2f} here"


def _legend(outcome: SearchOutcome, shown: Sequence[ScoredTrial], near: int) -> list[str]:
    """What the marks and columns mean, and the two floors."""
    score = shown[0].score if shown else None
    prompts = len(score.per_prompt) if score is not None else 0
    noise = "not measured (batch of one)"
    if score is not None and score.noise_floor is not None:
        noise = f"{lpips_words(score.noise_floor)} (bf16 generated one by one)"
    rule = outcome.rules.flip_rule
    anchor = anchor_words(rule)
    lines = [
        f"* on the front   > chosen{f'   + could have been chosen ({near})' if near else ''}",
        f"LPIPS to compare with: noise floor {noise}{f', {anchor}' if anchor else ''}",
        *_rounding_line(outcome.native_rounding),
        *_edges_line(shown),
        f"typical: geometric mean of LPIPS over the {prompts} search prompts, as all trials"
        " together estimate it; the search ranks by it",
        "held-out: on prompts that proposed nothing; mean: LPIPS expected over other prompts, from"
        " the typical one by the curve of this study; each interval holds for the list that looked"
        " best",
        f"flips: prompts whose picture became another one, LPIPS {rule.threshold:.2g} or more"
        f" ({rule.rests_on if anchor else 'another seed was not measured'})",
        "alike: skip-lists that share a letter cannot be told apart on the search prompts (ratio of"
        " typical LPIPS, prompt by prompt, 95 %)",
    ]
    if any(trial.memory_bytes is not None for trial in shown):
        lines.append(
            "peak GB: GPU memory of a whole run with all components loaded, predicted, without what"
            " CUDA itself takes"
        )
    if score is not None and score.audio is not None:
        bound = score.max_audio_distance
        lines.append(
            "sound: spectral distance from bf16's (1.35: two noises of one spectrum)"
            f"{'' if bound is None else f', at most {bound:g} is accepted'}; the search ranks"
            f" and bounds LPIPS + {score.audio_weight:g} x sound"
        )
    return lines
