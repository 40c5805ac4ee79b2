"""How do the winner and its rivals do on held-out prompts? Their scores, and the recipe that reports them.

Held-out scores are facts of the database like all others: what is known is read, what is missing is drawn and kept. `naming` says which skip-lists need one and
which is named; beside the winner the bounds, the rule of thumb and the front's answers to it are scored. The recipe's LPIPS is the held-out one, with the
interval that holds whichever of the shortlist was named, and the search's own stands beside it; so do detail, motion and sound on the held-out prompts.

    scores = HeldOutScores(evaluator=evaluator, store=store, candidates=candidates)
    naming = name_winner(result.trials, constraints=constraints, bf16_s=candidates.bf16_s, score=scores)
    recipe = build_recipe(evaluator, candidates, estimate, settings, result, naming)
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn

from sensitivity.candidates import Candidates
from sensitivity.denoisers import parts_of
from sensitivity.errors import ConstraintError
from sensitivity.fidelity._base import MEASURES, Measure, Score
from sensitivity.formats import get_format
from sensitivity.fqns import block_of, list_of
from sensitivity.latency import LatencyEstimate
from sensitivity.naming import Naming, describe_unmet, front_of, name_of
from sensitivity.patterns import compress
from sensitivity.recipe import Recipe
from sensitivity.scoring import Evaluator
from sensitivity.search.study import SearchResult, SearchSettings, known_or_scored
from sensitivity.search.trials import ScoredTrial
from sensitivity.spec import FormatName, StudySpec
from sensitivity.store import Store, assignment_key


@dataclass(kw_only=True)
class HeldOutScores:
    """Held-out scores of trials: read from the store where they are known, drawn and kept there where not and `draw` allows it.

    `progress(pictures done, pictures in all)`; `expected` is how many pictures are to be drawn as far as is known.
    """

    evaluator: Evaluator
    store: Store
    candidates: Candidates
    draw: bool = True
    progress: Callable[[int, int], None] = lambda _done, _total: None
    drawn: int = field(default=0, init=False)
    expected: int = field(default=0, init=False)

    def find(self, trial: ScoredTrial) -> Score | None:
        """The score if it is known."""
        known = self.store.find_score(self.evaluator.evaluation_key("held_out"), assignment_key(self.candidates.decode(trial.choice)))
        return None if known is None else self.evaluator.judged(known)

    def announce(self, trials: Sequence[ScoredTrial]) -> str:
        """How many of these are known and how many pictures the others take, in words; progress counts these from now on."""
        prompts, missing = len(self.evaluator.prompts("held_out")[0]), sum(self.find(t) is None for t in trials)
        self.expected = missing * prompts
        text = f"verifying {len(trials)} skip-lists on {prompts} held-out prompts: {len(trials) - missing} scores are known"
        if self.draw:
            return f"{text}, {missing} to draw ({self.expected} pictures)"
        return f"{text}, {missing} are passed over (--no-verify draws none)"

    def __call__(self, trial: ScoredTrial) -> Score | None:
        """The score, drawn if need be; None where it is not known and nothing is to be drawn."""
        known = self.find(trial)
        if known is not None or not self.draw:
            return known
        before, each = self.drawn, len(self.evaluator.prompts("held_out")[0])
        total = max(self.expected, before + each)
        score = known_or_scored(
            self.evaluator, self.store, self.candidates.decode(trial.choice), "held_out", lambda done: self.progress(before + done, total)
        )
        self.drawn = before + each
        self.progress(self.drawn, total)
        return score


def count_stack_patterns(formats: Mapping[str, FormatName]) -> dict[str, int]:
    """{list of blocks, as in "transformer_blocks": number of distinct format patterns among its blocks}, from names alone.

    Regional compilation makes one graph for each where lists that are called alike, as in two denoisers, have a class of their own;
    `latency.regions.count_block_patterns` counts by class.
    """
    patterns: dict[str, dict[str, list[tuple[str, str]]]] = {}
    for fqn, name in formats.items():
        block = block_of(fqn)
        if block:
            patterns.setdefault(list_of(block), {}).setdefault(block, []).append((fqn.removeprefix(f"{block}."), name.value))
    return {kind: len({tuple(sorted(rows)) for rows in blocks.values()}) for kind, blocks in patterns.items()}


def weight_bytes(denoiser: nn.Module, formats: Mapping[str, FormatName]) -> tuple[int, int]:
    """Bytes of the denoisers' parameters in bf16, and with these formats (codes and scales as torchao stores them)."""
    bf16 = sum(2 * p.numel() for p in denoiser.parameters())
    quantized = bf16
    for fqn, name in formats.items():
        n, k = denoiser.get_parameter(f"{fqn}.weight").shape
        quantized += get_format(name).weight_bytes(k=k, n=n) - 2 * n * k
    return bf16, quantized


def build_recipe(
    evaluator: Evaluator, candidates: Candidates, estimate: LatencyEstimate, settings: SearchSettings, result: SearchResult, naming: Naming,
) -> Recipe:  # fmt: skip
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
                "id": spec.model.hub or spec.name, "revision": spec.model.revision or f"sha256:{loaded.weights_hash}", "pipeline_class": type(loaded.pipe).__name__,
                **_components(spec, loaded.denoiser), "weights": spec.model.weights,
            },
            **layer_records(formats), "latency": latency_record(estimate, estimate.quantized_s),
            "fidelity": {
                "lpips": _lpips(evaluator, held_out[chosen.index], "held_out") | {"simultaneous": len(naming.shortlist)},
                "lpips_search": _lpips(evaluator, chosen.score, "search"), **beside_lpips(held_out[chosen.index], evaluator.spec),
                "pictures": {"settings": dict(spec.settings), "batch_size": spec.search.batch_size, "arithmetic": "emulated"},
            },
            "memory": {"bf16_bytes": bf16_bytes, "quantized_bytes": quantized_bytes, "source": "predicted"},
            "search": {
                "study": result.study, "budget": settings.budget, "trials": result.tried, "stopped": len(result.stopped), "sampler": settings.sampler.value,
                "seed": settings.seed, "granularity": settings.granularity, "calibrated": settings.calibrated, "trial": chosen.index,
            },
            "choice": {
                "rule": naming.constraints.rule, **asdict(naming.constraints), "first": name_of(naming.first),
                "shortlist": [name_of(t) for t in naming.shortlist], "passed_over": [name_of(t) for t in naming.passed_over],
            },
            "verified": {
                "split": "held_out", "prompts": len(evaluator.prompts("held_out")[0]),
                "compared": [_compared(name_of(t), t, held_out[t.index], candidates) for t in result.trials if t.index in held_out],
            },
            "environment": evaluator.environment,
            "front": [{"name": name_of(t), "latency": latency_record(estimate, t.latency_s), **_estimated(t)} for t in front_of(result.trials)],
        }
    )  # fmt: skip


def _components(spec: StudySpec, denoiser: nn.Module) -> dict[str, Any]:
    """What a recipe's `model` says of the denoisers."""
    kinds = {name or spec.model.component: type(part).__name__ for name, part in parts_of(denoiser).items()}
    main = {"component": spec.model.component, "component_class": kinds[spec.model.component]}
    return main | ({"components": kinds} if len(kinds) > 1 else {})


def beside_lpips(score: Score, spec: StudySpec) -> dict[str, Any]:
    """What a recipe's `fidelity`, and `verify`, say beside LPIPS: {measure: its values}, as far as it was measured."""
    found = {name: _measure(value) for name in MEASURES if (value := getattr(score, name)) is not None}
    if score.audio is not None:
        found["audio"] |= {"weight": score.audio_weight, "max_distance": score.max_audio_distance}
    frames = {"stride": spec.fidelity.frame_stride, "lpips": [list(row) for row in score.per_frame]}
    return found | ({"frames": frames} if score.per_frame else {})


def _measure(value: Measure) -> dict[str, Any]:
    return {"mean": value.mean, "noise_floor": value.noise_floor, "per_prompt": list(value.per_prompt)}


def _estimated(trial: ScoredTrial) -> dict[str, float]:
    """A trial's estimate; where there is sound, LPIPS's part of it beside the distance of the sound as it was drawn."""
    score = trial.score
    if score.audio is None:
        return {"lpips": trial.lpips}
    part = score.mean / score.damage if score.damage else 1.0
    return {"lpips": trial.lpips * part, "audio": score.audio.mean}


def _compared(name: str, trial: ScoredTrial, held_out: Score, candidates: Candidates) -> dict[str, Any]:
    return {
        "name": name,
        "speedup": candidates.bf16_s / trial.latency_s,
        "lpips_search": trial.score.mean,
        "lpips_held_out": held_out.mean,
        "ci95": list(held_out.ci95),
        **{name: value.mean for name in MEASURES if (value := getattr(held_out, name)) is not None},
    }


def layer_records(formats: Mapping[str, FormatName]) -> dict[str, Any]:
    """What a recipe says of its Linears: `layers`, `skip`, `patterns` and `block_patterns`."""
    skip = [fqn for fqn, name in formats.items() if name is FormatName.BF16]
    patterns = [pattern.model_dump() for pattern in compress(skip, formats)]
    return {"layers": dict(formats), "skip": skip, "patterns": patterns, "block_patterns": count_stack_patterns(formats)}


def latency_record(estimate: LatencyEstimate, quantized_s: float) -> dict[str, Any]:
    """What a recipe says of seconds: `quantized_s` beside the bf16 run that was priced or measured with it."""
    scale = {} if estimate.scale is None else {"stands_for": estimate.scale.factor, "note": estimate.note}
    return {
        "bf16_s": estimate.bf16_s, "quantized_s": quantized_s, "speedup": estimate.bf16_s / quantized_s, "source": estimate.source,
        "target": estimate.target, "batch_size": estimate.batch_size, "compile_mode": estimate.compile_mode, **scale,
    }  # fmt: skip


def _lpips(evaluator: Evaluator, score: Score, split: Any) -> dict[str, Any]:
    texts, seeds = evaluator.prompts(split)
    return {
        "mean": score.mean, "ci95": list(score.ci95), "net": score.net, "noise_floor": score.noise_floor, "prompts": list(texts), "seeds": list(seeds),
        "per_prompt": list(score.per_prompt),
    }  # fmt: skip
