"""How do the winner and its rivals do on held-out prompts? Their scores, and the recipe that reports them.

Held-out scores are facts of the database like all others: what is known is read, what is missing is drawn and kept. `naming` says which skip-lists need one and
which is named; beside the winner the bounds, the rule of thumb and the front's answers to it are scored. The recipe's LPIPS is the held-out one, with the
interval that holds whichever of the shortlist was named, and the search's own stands beside it.

    scores = HeldOutScores(evaluator=evaluator, store=store, candidates=candidates)
    naming = name_winner(result.trials, constraints=constraints, bf16_s=candidates.bf16_s, score=scores)
    recipe = build_recipe(evaluator, candidates, estimate, settings, result, naming)
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn

from sensitivity.candidates import Candidates
from sensitivity.errors import ConstraintError
from sensitivity.fidelity._base import Score
from sensitivity.formats import get_format
from sensitivity.latency import LatencyEstimate
from sensitivity.naming import Naming, describe_unmet, front_of, name_of
from sensitivity.patterns import compress
from sensitivity.recipe import Recipe
from sensitivity.scoring import Evaluator
from sensitivity.search.study import SearchResult, SearchSettings, known_or_scored
from sensitivity.search.trials import ScoredTrial
from sensitivity.shape_table import block_of, role_of
from sensitivity.spec import FormatName
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
        return self.store.find_score(self.evaluator.evaluation_key("held_out"), assignment_key(self.candidates.decode(trial.choice)))

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
    skip = [fqn for fqn, name in formats.items() if name is FormatName.BF16]
    bf16_bytes, quantized_bytes = weight_bytes(loaded.denoiser, formats)
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
                "lpips": _lpips(evaluator, held_out[chosen.index], "held_out") | {"simultaneous": len(naming.shortlist)},
                "lpips_search": _lpips(evaluator, chosen.score, "search"),
                "pictures": {"settings": dict(spec.settings), "batch_size": spec.search.batch_size, "arithmetic": "emulated"},
            },
            "memory": {"bf16_bytes": bf16_bytes, "quantized_bytes": quantized_bytes, "source": "predicted"},
            "block_patterns": count_stack_patterns(formats),
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
            "front": [{"name": name_of(t), "latency": _latency(estimate, t.latency_s), "lpips": t.lpips} for t in front_of(result.trials)],
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
