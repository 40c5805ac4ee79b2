"""How does the winner of a search become a recipe?"""

from dataclasses import asdict
from typing import Any

from torch import nn

from sensitivity.errors import ConstraintError
from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.fidelity.score import MEASURES, Measure, Score
from sensitivity.latency import LatencyEstimate
from sensitivity.models.denoisers import parts_of
from sensitivity.recipes.parts import latency_record, layer_records, weight_bytes
from sensitivity.recipes.recipe import Recipe
from sensitivity.search.candidates import Candidates
from sensitivity.search.loop import SearchResult, SearchSettings
from sensitivity.search.trials import ScoredTrial
from sensitivity.search.winner import Naming, describe_unmet, front_of, name_of
from sensitivity.spec.study_spec import StudySpec


def build_recipe(
    evaluator: Evaluator,
    candidates: Candidates,
    estimate: LatencyEstimate,
    settings: SearchSettings,
    result: SearchResult,
    naming: Naming,
) -> Recipe:
    """The recipe of the trial that was named; `estimate` prices its formats.

    Raises:
        ConstraintError: none was named.
    """
    chosen, held_out = naming.chosen, naming.held_out
    if chosen is None:
        raise ConstraintError(describe_unmet(naming, bf16_s=candidates.bf16_s))
    formats = candidates.decode(chosen.choice)
    spec, loaded = evaluator.spec, evaluator.loaded
    bf16_bytes, quantized_bytes = weight_bytes(loaded.denoiser, formats)
    return Recipe.from_mapping(
        {
            "name": f"{spec.name}-{'+'.join(settings.formats)}-{settings.target}",
            "model": {
                "id": spec.model.hub or spec.name,
                "revision": spec.model.revision or f"sha256:{loaded.weights_hash}",
                "pipeline_class": type(loaded.pipe).__name__,
                **_components(spec, loaded.denoiser),
                "weights": spec.model.weights,
            },
            **layer_records(formats),
            "latency": latency_record(estimate, estimate.quantized_s),
            "fidelity": {
                "lpips": (
                    _lpips(evaluator, held_out[chosen.index], "held_out")
                    | {"simultaneous": len(naming.shortlist)}
                ),
                "lpips_search": _lpips(evaluator, chosen.score, "search"),
                **beside_lpips(held_out[chosen.index], evaluator.spec),
                "pictures": {
                    "settings": dict(spec.settings),
                    "batch_size": spec.search.batch_size,
                    "arithmetic": "emulated",
                },
            },
            "memory": {
                "bf16_bytes": bf16_bytes,
                "quantized_bytes": quantized_bytes,
                "source": "predicted",
            },
            "search": {
                "study": result.study,
                "budget": settings.budget,
                "trials": result.tried,
                "stopped": len(result.stopped),
                "sampler": settings.sampler.value,
                "seed": settings.seed,
                "granularity": settings.granularity,
                "calibrated": settings.calibrated,
                "trial": chosen.index,
            },
            "choice": {
                "rule": naming.constraints.rule,
                **asdict(naming.constraints),
                "first": name_of(naming.first),
                "shortlist": [name_of(t) for t in naming.shortlist],
                "passed_over": [name_of(t) for t in naming.passed_over],
            },
            "verified": {
                "split": "held_out",
                "prompts": len(evaluator.prompts("held_out")[0]),
                "compared": [
                    _compared(name_of(t), t, held_out[t.index], candidates)
                    for t in result.trials
                    if t.index in held_out
                ],
            },
            "environment": evaluator.environment,
            "front": [
                {
                    "name": name_of(t),
                    "latency": latency_record(estimate, t.latency_s),
                    **_estimated(t),
                }
                for t in front_of(result.trials)
            ],
        }
    )


def _components(spec: StudySpec, denoiser: nn.Module) -> dict[str, Any]:
    """What a recipe's `model` says of the denoisers."""
    kinds = {
        name or spec.model.component: type(part).__name__
        for name, part in parts_of(denoiser).items()
    }
    main = {"component": spec.model.component, "component_class": kinds[spec.model.component]}
    return main | ({"components": kinds} if len(kinds) > 1 else {})


def beside_lpips(score: Score, spec: StudySpec) -> dict[str, Any]:
    """What a recipe's `fidelity`, and `verify`, say beside LPIPS:

    {measure: its values}, as far as it was measured.
    """
    found = {
        name: _measure(value) for name in MEASURES if (value := getattr(score, name)) is not None
    }
    if score.audio is not None:
        found["audio"] |= {"weight": score.audio_weight, "max_distance": score.max_audio_distance}
    frames = {"stride": spec.fidelity.frame_stride, "lpips": [list(row) for row in score.per_frame]}
    return found | ({"frames": frames} if score.per_frame else {})


def _measure(value: Measure) -> dict[str, Any]:
    return {
        "mean": value.mean,
        "noise_floor": value.noise_floor,
        "per_prompt": list(value.per_prompt),
    }


def _estimated(trial: ScoredTrial) -> dict[str, float]:
    """A trial's estimate; where there is sound, LPIPS's part of it beside the distance of the sound
    as it was drawn.
    """
    score = trial.score
    if score.audio is None:
        return {"lpips": trial.lpips}
    part = score.mean / score.damage if score.damage else 1.0
    return {"lpips": trial.lpips * part, "audio": score.audio.mean}


def _compared(
    name: str, trial: ScoredTrial, held_out: Score, candidates: Candidates
) -> dict[str, Any]:
    return {
        "name": name,
        "speedup": candidates.bf16_s / trial.latency_s,
        "lpips_search": trial.score.mean,
        "lpips_held_out": held_out.mean,
        "ci95": list(held_out.ci95),
        **{name: value.mean for name in MEASURES if (value := getattr(held_out, name)) is not None},
    }


def _lpips(evaluator: Evaluator, score: Score, split: Any) -> dict[str, Any]:
    texts, seeds = evaluator.prompts(split)
    return {
        "mean": score.mean,
        "ci95": list(score.ci95),
        "net": score.net,
        "noise_floor": score.noise_floor,
        "prompts": list(texts),
        "seeds": list(seeds),
        "per_prompt": list(score.per_prompt),
    }
