"""Does the choice hold on prompts that chose nothing? Held-out scores, and the recipe that reports them.

The search ranks skip-lists by its own prompts, and the best of many is partly luck. So the winner, its neighbours on the front, the bounds and the rule of
thumb are scored again on held-out prompts; the recipe's LPIPS is the held-out one, and the search's own stands beside it.

    chosen = choose_trial(result.trials, candidates, max_lpips=None, min_speedup=None)
    held_out = verify_trials(evaluator, store, candidates, result.trials, chosen)
    recipe = build_recipe(evaluator, candidates, estimate, settings, result, chosen, held_out)
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from sensitivity.candidates import Candidates
from sensitivity.fidelity._base import Score
from sensitivity.formats import get_format
from sensitivity.latency import LatencyEstimate
from sensitivity.patterns import compress
from sensitivity.recipe import Recipe
from sensitivity.scoring import Evaluator
from sensitivity.search.front import choose, pareto_front
from sensitivity.search.study import ScoredTrial, SearchResult, SearchSettings, known_or_scored
from sensitivity.shape_table import block_of, role_of
from sensitivity.spec import FormatName
from sensitivity.store import Store

ANSWERS = 2  # skip-lists that beat the rule of thumb on the search prompts and are verified beside it


def points(trials: Sequence[ScoredTrial]) -> list[tuple[float, float]]:
    """(seconds, LPIPS on the search prompts) of each trial."""
    return [(trial.latency_s, trial.score.mean) for trial in trials]


def front_of(trials: Sequence[ScoredTrial]) -> list[ScoredTrial]:
    """The non-dominated trials, fastest first."""
    return [trials[i] for i in pareto_front(points(trials))]


def choose_trial(
    trials: Sequence[ScoredTrial], candidates: Candidates, *, max_lpips: float | None, min_speedup: float | None
) -> ScoredTrial:
    """The winner by constraint, else the knee (see `search.front.choose`). Raises UserError where nothing meets the constraints."""
    return trials[choose(points(trials), bf16_s=candidates.bf16_s, max_lpips=max_lpips, min_speedup=min_speedup)]


def trials_to_verify(trials: Sequence[ScoredTrial], chosen: ScoredTrial) -> list[ScoredTrial]:
    """The winner, its neighbours on the front, the baselines, and the best answers to the rule of thumb (less LPIPS, no more seconds)."""
    front = front_of(trials)
    at = front.index(chosen) if chosen in front else 0
    picked = [chosen, *front[max(0, at - 1) : at + 2], *(t for t in trials if t.label and t.label != "none")]
    thumb = next((t for t in trials if t.label == "rule of thumb"), None)
    if thumb is not None:
        as_fast = [t for t in front if t.latency_s <= thumb.latency_s and t.score.mean < thumb.score.mean]
        picked += sorted(as_fast, key=lambda t: t.score.mean)[:ANSWERS]
    return list({t.index: t for t in picked}.values())


def verify_trials(
    evaluator: Evaluator,
    store: Store,
    candidates: Candidates,
    trials: Sequence[ScoredTrial],
    *,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> dict[int, Score]:
    """{trial index: score on the held-out prompts}; known scores are read from the store. `progress(pictures done, pictures in all)`."""
    per_trial = len(evaluator.prompts("held_out")[0])
    scores = {}
    for i, trial in enumerate(trials):
        before = i * per_trial
        pictures = lambda done, before=before: progress(before + done, per_trial * len(trials))  # noqa: E731 - bound here, called there
        scores[trial.index] = known_or_scored(evaluator, store, candidates.decode(trial.choice), "held_out", pictures)
        progress(before + per_trial, per_trial * len(trials))
    return scores


def count_stack_patterns(formats: Mapping[str, FormatName]) -> dict[str, int]:
    """{stack of blocks, as in "transformer_blocks": number of distinct format patterns among its blocks}, from names alone.

    Regional compilation makes one graph for each where a stack has a class of its own; `latency.end_to_end.count_block_patterns` counts by class.
    """
    patterns: dict[str, dict[str, list[tuple[str, str]]]] = {}
    for fqn, name in formats.items():
        block = block_of(fqn)
        if block:
            patterns.setdefault(block.rsplit(".", 1)[0], {}).setdefault(block, []).append((role_of(fqn), name.value))
    return {kind: len({tuple(sorted(rows)) for rows in blocks.values()}) for kind, blocks in patterns.items()}


def weight_bytes(denoiser: nn.Module, formats: Mapping[str, FormatName]) -> tuple[int, int]:
    """Bytes of the denoiser's parameters in bf16, and with these formats (codes and scales as torchao stores them)."""
    bf16 = sum(2 * p.numel() for p in denoiser.parameters())
    quantized = bf16
    for fqn, name in formats.items():
        n, k = denoiser.get_parameter(f"{fqn}.weight").shape
        quantized += get_format(name).weight_bytes(k=k, n=n) - 2 * n * k
    return bf16, quantized


def build_recipe(
    evaluator: Evaluator, candidates: Candidates, estimate: LatencyEstimate, settings: SearchSettings, result: SearchResult, chosen: ScoredTrial,
    held_out: Mapping[int, Score],
) -> Recipe:  # fmt: skip
    """The recipe of the chosen trial. `estimate` prices its formats; `held_out` holds the winner's score and those it is compared with."""
    formats = candidates.decode(chosen.choice)
    spec, loaded = evaluator.spec, evaluator.loaded
    skip = [fqn for fqn, name in formats.items() if name is FormatName.BF16]
    bf16_bytes, quantized_bytes = weight_bytes(loaded.denoiser, formats)
    names = {t.index: t.label or f"trial {t.index}" for t in result.trials}
    return Recipe.from_mapping(
        {
            "name": f"{spec.name}-{'+'.join(settings.formats)}-{settings.target}",
            "model": {
                "id": spec.model.hub or spec.name, "revision": spec.model.revision or f"sha256:{loaded.weights_hash}", "pipeline_class": type(loaded.pipe).__name__,
                "component": spec.model.component, "component_class": type(loaded.denoiser).__name__, "weights": spec.model.weights,
            },
            "layers": formats, "skip": skip, "patterns": [p.model_dump() for p in compress(skip, formats)],
            "latency": _latency(estimate, estimate.quantized_s),
            "fidelity": {
                "lpips": _lpips(evaluator, held_out[chosen.index], "held_out"), "lpips_search": _lpips(evaluator, chosen.score, "search"),
                "pictures": {"settings": dict(spec.settings), "batch_size": spec.search.batch_size, "arithmetic": "emulated"},
            },
            "memory": {"bf16_bytes": bf16_bytes, "quantized_bytes": quantized_bytes, "source": "predicted"},
            "block_patterns": count_stack_patterns(formats),
            "search": {
                "study": result.study, "budget": settings.budget, "trials": len(result.trials), "sampler": settings.sampler.value, "seed": settings.seed,
                "granularity": settings.granularity, "calibrated": settings.calibrated, "trial": chosen.index,
            },
            "verified": {
                "split": "held_out", "prompts": len(evaluator.prompts("held_out")[0]),
                "compared": [_compared(names[t.index], t, held_out[t.index], candidates) for t in result.trials if t.index in held_out],
            },
            "environment": evaluator.environment,
            "front": [{"name": names[t.index], "latency": _latency(estimate, t.latency_s), "lpips": t.score.mean} for t in front_of(result.trials)],
        }
    )  # fmt: skip


def _compared(name: str, trial: ScoredTrial, held_out: Score, candidates: Candidates) -> dict[str, Any]:
    return {
        "name": name,
        "speedup": candidates.bf16_s / trial.latency_s,
        "lpips_search": trial.score.mean,
        "lpips_held_out": held_out.mean,
        "ci95": list(held_out.ci95),
    }


def _latency(estimate: LatencyEstimate, quantized_s: float) -> dict[str, Any]:
    scale = {} if estimate.scale is None else {"stands_for": estimate.scale.factor, "note": estimate.note}
    return {
        "bf16_s": estimate.bf16_s, "quantized_s": quantized_s, "speedup": estimate.bf16_s / quantized_s, "source": estimate.source,
        "target": estimate.target, "batch_size": estimate.batch_size, "compile_mode": estimate.compile_mode, **scale,
    }  # fmt: skip


def _lpips(evaluator: Evaluator, score: Score, split: Any) -> dict[str, Any]:
    texts, seeds = evaluator.prompts(split)
    return score.to_json() | {"prompts": list(texts), "seeds": list(seeds)}
