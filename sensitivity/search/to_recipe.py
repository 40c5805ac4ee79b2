"""How does the winner of a search become a recipe? `build_recipe`.

The recipe's LPIPS is that of the held-out prompts: typical, mean and flips (`fidelity.summary`),
and its ratio to the rule of thumb's and other baselines'. The LPIPS of the search prompts stands
beside it, summarized alike. Detail, motion and sound of the held-out prompts are reported as far as
they were computed. The front has priced seconds and estimated LPIPS. Every skip-list that was
verified has the values of single prompts in the recipe, so that anybody can compute it all again.

    recipe = build_recipe(evaluator, candidates, estimate, settings, result, winner)

Parts that follow from formats and shapes alone are made by `recipes.parts`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sensitivity.core.arithmetic import Arithmetic, served_otherwise
from sensitivity.core.format_name import FormatName
from sensitivity.core.kernels import Kernels, summary
from sensitivity.errors import ConstraintError
from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.fidelity.score import METRICS, JudgeValues, MetricValues, Score
from sensitivity.fidelity.splits import Split
from sensitivity.fidelity.summary import SummaryRules
from sensitivity.formats import mslk
from sensitivity.formats.refused_products import refused_products
from sensitivity.latency import LatencyEstimate
from sensitivity.recipes.parts import latency_record, layer_records, made_record
from sensitivity.recipes.reasons import Worth
from sensitivity.recipes.recipe import Recipe
from sensitivity.search.candidates import Candidates, Choice
from sensitivity.search.loop import SearchResult
from sensitivity.search.native_rounding import SKIP_LIST, NativeRounding
from sensitivity.search.recipe_memory import peaks_record, policy_record, weights_record
from sensitivity.search.settings import SearchSettings, for_words
from sensitivity.search.shortlist import front_of
from sensitivity.search.trials import ScoredTrial
from sensitivity.search.winner import Winner, describe_unmet
from sensitivity.spec.study_spec import StudySpec


def build_recipe(
    evaluator: Evaluator,
    candidates: Candidates,
    estimate: LatencyEstimate,
    settings: SearchSettings,
    result: SearchResult,
    winner: Winner,
    floor: NativeRounding | None = None,
) -> Recipe:
    """The recipe of the winner.

    Args:
        evaluator: of the model.
        candidates: what the choices mean.
        estimate: the price of the winner's formats.
        settings: what the search was asked for.
        result: its trials.
        winner: how one was chosen, with held-out scores.
        floor: how far the roundings of a runtime move pictures; None is not known.

    Raises:
        ConstraintError: there is no winner.
    """
    chosen = winner.chosen
    if chosen is None:
        raise ConstraintError(describe_unmet(winner, bf16_s=candidates.bf16_s))
    spec = evaluator.spec
    formats = candidates.decode(chosen.choice)
    return Recipe.from_mapping(
        {
            "name": _name(spec, settings),
            "made": made_record(None),
            "model": _model(evaluator),
            **layer_records(
                formats,
                fixed=candidates.fixed,
                worth=worth_of(candidates, chosen.choice, result.damages),
            ),
            "step_policy": policy_record(candidates, chosen),
            "latency": latency_record(estimate),
            "fidelity": _fidelity(evaluator, winner, chosen, floor, formats)
            | {"against": against(winner, result.trials)},
            "memory": weights_record(evaluator, formats) | peaks_record(candidates, chosen),
            "search": _search(settings, result, chosen),
            "choice": _choice(winner),
            "verified": _verified(evaluator, candidates, result, winner),
            "environment": evaluator.environment,
            "refused": {
                fqn: why for fqn, why in candidates.refused.items() if not formats[fqn].is_quantized
            },
            "front": [
                {"latency": latency_record(estimate, t.latency_s)}
                | _member(candidates, t, winner.rules)
                for t in front_of(result.trials)
            ],
        }
    )


def _member(candidates: Candidates, trial: ScoredTrial, rules: SummaryRules) -> dict[str, Any]:
    """A member of the front, without its seconds."""
    return {
        "name": trial.name,
        **_estimated(trial, rules),
        "memory_bytes": trial.memory_bytes,
        "step_policy": policy_record(candidates, trial),
    }


def worth_of(
    candidates: Candidates, choice: Choice, damages: Mapping[tuple[int, int], float]
) -> dict[str, Worth]:
    """{FQN: what quantizing it would do} of the Linears that the choice leaves in bf16.

    Their group is taken in the last format that it has, and its damage and its seconds are divided
    equally among its Linears. Shares are of the damage of everything in that format.
    """
    last = [max(option for option, own in enumerate(g.members) if own) for g in candidates.groups]
    gains = candidates.gains_s(candidates.place_of_policy(choice))
    total = sum(damages.get(item, 0.0) for item in enumerate(last))
    found = {}
    for place, (group, option) in enumerate(zip(candidates.groups, last, strict=True)):
        if candidates.canonical(choice)[place]:
            continue
        share = damages.get((place, option), 0.0) / total if total else None
        count = len(group.members[option])
        for fqn in group.members[option]:
            part = None if share is None else share / count
            found[fqn] = Worth(share=part, saved_s=gains[place][option] / count)
    return found


def _name(spec: StudySpec, settings: SearchSettings) -> str:
    """Study, formats and target, the arithmetic where it is not eager torchao's, and for whom."""
    parts = (spec.name, "+".join(settings.formats), settings.target)
    return "-".join(
        (*parts, *served_otherwise(settings.arithmetic), *for_words(settings.consumers))
    )


def _model(evaluator: Evaluator) -> dict[str, Any]:
    """Which model: where it comes from, its classes and its weights.

    The revision is a commit: a branch such as main moves.
    """
    spec, loaded = evaluator.spec, evaluator.loaded
    return {
        "id": spec.model.hub or spec.name,
        "revision": loaded.commit or spec.model.revision or f"sha256:{loaded.weights_hash}",
        "pipeline_class": type(loaded.pipe).__name__,
        **_components(spec, loaded.classes),
        "weights": spec.model.weights,
    }


def _components(spec: StudySpec, kinds: Mapping[str, str]) -> dict[str, Any]:
    """The denoisers and their classes."""
    main = {"component": spec.model.component, "component_class": kinds[spec.model.component]}
    return main | ({"components": dict(kinds)} if len(kinds) > 1 else {})


def _fidelity(
    evaluator: Evaluator,
    winner: Winner,
    chosen: ScoredTrial,
    floor: NativeRounding | None,
    formats: Mapping[str, FormatName],
) -> dict[str, Any]:
    """Scores of the winner on both splits, and how its pictures were generated."""
    spec, held_out = evaluator.spec, winner.held_out[chosen.index]
    kernels = evaluator.execution.kernels_of(set(formats.values()))
    return {
        "lpips": _lpips(evaluator, held_out, "held_out", winner.rules) | _rounding(floor),
        "lpips_search": _lpips(evaluator, chosen.score, "search", winner.rules),
        **beside_lpips(held_out, spec),
        "objective": evaluator.distance.key.get("objective"),
        "pictures": {
            "settings": dict(spec.settings),
            "batch_size": spec.search.batch_size,
            "arithmetic": _arithmetic(evaluator),
            **_by_format(kernels, evaluator.execution.arithmetic),
        },
        "kernels": evaluator.execution.summary_of(formats).value,
    }


def _rounding(floor: NativeRounding | None) -> dict[str, Any]:
    """The second floor, as far as it is known."""
    if floor is None:
        return {}
    return {
        "native_rounding": {
            "lpips": floor.lpips,
            "change": floor.change,
            "arithmetic": floor.arithmetic.value,
            "skip_list": SKIP_LIST,
            "prompts": floor.prompts,
        }
    }


def _arithmetic(evaluator: Evaluator) -> str:
    """How pictures of the study were computed: "emulated" or "native" as eager torchao, or
    "emulated, mslk".
    """
    own = evaluator.execution
    return ", ".join((summary(own.kernels), *served_otherwise(own.arithmetic)))


def _by_format(kernels: Mapping[FormatName, Kernels], arithmetic: Arithmetic) -> dict[str, Any]:
    """What drew each format where they differ, the shapes that native kernels refused, and whose
    quantizer it was.
    """
    found: dict[str, Any] = {}
    if len(set(kernels.values())) > 1:
        found["kernels"] = {name.value: own.value for name, own in kernels.items()}
    if Kernels.NATIVE in kernels.values() and (refused := refused_products(kernels)):
        found["emulated_shapes"] = list(refused)
    if arithmetic is Arithmetic.MSLK and kernels.get(FormatName.NVFP4) is Kernels.NATIVE:
        found["mslk"] = mslk.version()
    return found


def _lpips(evaluator: Evaluator, score: Score, split: Split, rules: SummaryRules) -> dict[str, Any]:
    """LPIPS on one split, with its prompts and seeds."""
    texts, seeds = evaluator.prompts(split)
    return {
        **lpips_record(score, rules),
        "net": score.net,
        "noise_floor": score.noise_floor,
        "prompts": list(texts),
        "seeds": list(seeds),
    }


def lpips_record(score: Score, rules: SummaryRules) -> dict[str, Any]:
    """What a recipe says of the LPIPS of some prompts (`recipes.fidelity_records.Lpips`)."""
    said = rules.summarize(score)
    return {
        "mean": said.average,
        "ci95": list(said.mean_ci95),
        "typical": said.typical,
        "typical_ci95": list(said.typical_ci95),
        "expected_mean": said.mean,
        "curve": asdict(rules.curve),
        "flips": {
            "count": len(said.flips),
            "prompts": list(said.flips),
            "threshold": rules.flip_rule.threshold,
            "another_seed": rules.flip_rule.another_seed,
        },
        "per_prompt": list(score.per_prompt),
    }


def against(winner: Winner, trials: Sequence[ScoredTrial]) -> list[dict[str, Any]]:
    """The winner beside the baselines that were verified (`fidelity_records.Against`)."""
    rows = []
    for trial in trials:
        if trial.label in ("", "none") or (ratio := winner.ratio_to(trial)) is None:
            continue
        known = math.isfinite(ratio.value)
        rows.append(
            {
                "name": trial.name,
                "ratio": ratio.value if known else None,
                "ci95": [ratio.low, ratio.high] if known else None,
            }
        )
    return rows


def beside_lpips(score: Score, spec: StudySpec) -> dict[str, Any]:
    """What a recipe's `fidelity` says beside LPIPS: {metric: its values}, as far as computed."""
    found = {
        name: _values(value) for name in METRICS if (value := getattr(score, name)) is not None
    }
    if score.audio is not None:
        found["audio"] |= {"weight": score.audio_weight, "max_distance": score.max_audio_distance}
    if score.judges:
        found["judges"] = {name: _judged(values) for name, values in score.judges.items()}
    frames = {"stride": spec.fidelity.frame_stride, "lpips": [list(row) for row in score.per_frame]}
    return found | ({"frames": frames} if score.per_frame else {})


def _judged(values: JudgeValues) -> dict[str, Any]:
    """What a judge says (`recipes.fidelity_records.JudgeSummary`)."""
    return {"mean": values.mean, **asdict(values)}


def _values(metric: MetricValues) -> dict[str, Any]:
    return {
        "mean": metric.mean,
        "noise_floor": metric.noise_floor,
        "per_prompt": list(metric.per_prompt),
    }


def _search(settings: SearchSettings, result: SearchResult, chosen: ScoredTrial) -> dict[str, Any]:
    """The search that found it."""
    return {
        "study": result.study,
        "budget": settings.budget,
        "trials": result.tried,
        "stopped": len(result.stopped),
        "sampler": settings.sampler.value,
        "seed": settings.seed,
        "granularity": settings.granularity,
        "calibrated": settings.calibrated,
        "consumers": list(settings.consumers),
        "trial": chosen.number or None,
    }


def _choice(winner: Winner) -> dict[str, Any]:
    """How it was chosen."""
    return {
        "rule": winner.constraints.rule,
        **asdict(winner.constraints),
        "first": winner.first.name,
        "shortlist": [t.name for t in winner.shortlist],
        "passed_over": [t.name for t in winner.passed_over],
    }


def _verified(
    evaluator: Evaluator, candidates: Candidates, result: SearchResult, winner: Winner
) -> dict[str, Any]:
    """The trials that were scored on the held-out prompts."""
    return {
        "split": "held_out",
        "prompts": len(evaluator.prompts("held_out")[0]),
        "compared": [
            _compared(t, winner.held_out[t.index], candidates, winner.rules)
            for t in result.trials
            if t.index in winner.held_out
        ],
    }


def _compared(
    trial: ScoredTrial, held_out: Score, candidates: Candidates, rules: SummaryRules
) -> dict[str, Any]:
    """One verified trial: speedup, scores on both splits, and the values of held-out prompts."""
    said = rules.summarize(held_out)
    judges = {name: values.mean for name, values in held_out.judges.items()}
    return {
        "name": trial.name,
        "speedup": candidates.bf16_s / trial.latency_s,
        "lpips_search": trial.score.mean,
        "lpips_held_out": held_out.mean,
        "typical": said.typical,
        "typical_ci95": list(said.typical_ci95),
        "expected_mean": said.mean,
        "ci95": list(said.mean_ci95),
        "flips": list(said.flips),
        "per_prompt": list(held_out.per_prompt),
        **{name: value.mean for name in METRICS if (value := getattr(held_out, name)) is not None},
        **({"judges": judges} if judges else {}),
    }


def _estimated(trial: ScoredTrial, rules: SummaryRules) -> dict[str, float]:
    """A trial's estimated typical and mean LPIPS.

    Where there is sound, the estimate is of damage: LPIPS gets its part of it, and the distance of
    the sound is that of the search prompts.
    """
    score, part, sound = trial.score, 1.0, dict[str, float]()
    if score.audio is not None:
        part = score.mean / score.damage if score.damage else 1.0
        sound = {"audio": score.audio.mean}
    mean = rules.damage_curve.mean(trial.typical)
    return {"lpips": mean * part, "typical": trial.typical * part} | sound
