"""What does a skip-list of a trained model do on the study's search prompts and on fresh ones?

`ScoredModel` loads a study of tiny-flux's scenes (`other_models.py` trains more of them), gives it
fresh prompts, which neither a search nor the study has used, and keeps every score in a file: a
scored skip-list is a fact, and is never computed again.

    model = ScoredModel("tiny-flux", Path("runs/quality"), device="cuda:0", fresh=96, rank=0)
    candidates = model.candidates(0)                        # of SETTINGS[0]
    found = model.score(candidates.decode(choice), "held_out")
    found.per_prompt, found.latent, found.id

The search prompts are the split "search", the fresh ones the split "held_out". Clips are decoded
together, since they are small; a score of a clip is the mean over its frames.
"""

import contextlib
import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scored_rows import rounded, rows_in

from sensitivity.core.assignment import Assignment
from sensitivity.core.format_name import FormatName, Granularity
from sensitivity.fidelity.splits import Split
from sensitivity.search.candidates import Candidates
from sensitivity.search.grouping import make_candidates
from sensitivity.search.step_policies import EdgeSteps, policies_for
from sensitivity.spec.loading import resolve_spec
from sensitivity.workflows.prepare import Prepared, prepare
from sensitivity.workflows.requests import SearchRequest

NVFP4, MXFP8, FP8 = FormatName.NVFP4, FormatName.MXFP8, FormatName.FP8
SETTINGS: list[tuple[tuple[FormatName, ...], Granularity]] = [
    ((NVFP4,), "group"),
    ((MXFP8, NVFP4), "group"),
    ((FP8, MXFP8, NVFP4), "group"),
    ((NVFP4,), "layer"),
    ((MXFP8, NVFP4), "layer"),
]
JUDGING_SEED, TABLE_SEED = 20261121, 20261129
"""Seeds of the fresh prompts that judge fronts, and of those of score tables."""
CLIPS_AT_ONCE = 48


@dataclass(frozen=True, slots=True)
class Found:
    """One score.

    Attributes:
        id: of the skip-list, the same in every file.
        per_prompt: LPIPS of each prompt.
        latent: relative errors of the final latents; () where they are not known.
    """

    id: str
    per_prompt: tuple[float, ...]
    latent: tuple[float, ...]


def fresh_prompts(count: int, seed: int) -> list[str]:
    """Captions of held-out scenes that the study does not use."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "studies" / "tiny-flux" / "training"))
    from gates import held_out_scenes
    from scenes import captions

    spec = resolve_spec("tiny-flux")
    used = {*spec.prompts.search, *spec.prompts.held_out}
    texts = captions(held_out_scenes(4 * count, seed))
    return list(dict.fromkeys(text for text in texts if text not in used))[:count]


class ScoredModel:
    """Scores of a model, computed once and kept.

    Args:
        model: a study of tiny-flux's scenes.
        folder: has `scores*.jsonl`; each process adds to a file of its own.
        device: where torch runs.
        fresh: fresh prompts.
        rank: of the process; each has a cache of references of its own.
        seed: of the fresh prompts.
        keep: whether new scores are written to the file.
    """

    def __init__(
        self,
        model: str,
        folder: Path,
        *,
        device: str,
        fresh: int,
        rank: int,
        seed: int = JUDGING_SEED,
        keep: bool = True,
    ) -> None:
        spec = resolve_spec(model)
        prompts = spec.prompts.model_copy(
            update={"held_out": tuple(fresh_prompts(fresh, seed)), "held_out_seed": 50_000}
        )
        at_once = CLIPS_AT_ONCE if "video_length" in spec.settings else fresh
        section = spec.search.model_copy(
            update={"batch_size": max(at_once, 1), "chunk": None, "order": ()}
        )
        self.spec = spec.model_copy(update={"prompts": prompts, "search": section})
        self.prepared: Prepared = prepare(
            self.spec,
            SearchRequest(formats=(NVFP4,), device=device, cache_folder=folder / f"cache{rank}"),
        )
        self.evaluator = self.prepared.evaluator
        with contextlib.suppress(AttributeError, NotImplementedError):
            self.evaluator.loaded.pipe.vae.disable_slicing()
        self.known: dict[tuple[str, str], Found] = {}
        for row in rows_in(folder, "scores"):
            self._learn(row)
        self._file = (folder / f"scores{rank}.jsonl").open("a", buffering=1) if keep else None

    def candidates(self, setting: int, steps: EdgeSteps | None = None) -> Candidates:
        """What may be chosen in a setting, by the step policies that are asked for."""
        formats, granularity = SETTINGS[setting]
        policies, count = policies_for(steps, self.prepared.priced, (), formats, {})
        return make_candidates(
            self.prepared.priced,
            self.spec,
            formats=formats,
            latency=self.prepared.latency,
            granularity=granularity,
            unfit=self.evaluator.switch.unfit(),
            policies=policies,
            steps=count,
        )

    @property
    def floor(self) -> float:
        """LPIPS of bf16 from itself."""
        return self.evaluator.noise_floor or 0.0

    def score(self, formats: Mapping[str, FormatName], split: Split) -> Found:
        """The score of a skip-list, from the file or computed now."""
        quantized = {fqn: fmt for fqn, fmt in sorted(formats.items()) if fmt is not FormatName.BF16}
        assignment = Assignment(quantized, Assignment.of(formats).policy)
        key = id_of(assignment)
        if (key, split) not in self.known:
            score = self.evaluator.score(assignment, split)
            latent = getattr(score, "latent", None)
            row = {
                "id": key,
                "split": split,
                "per_prompt": rounded(score.per_prompt),
                "latent": rounded(latent.per_prompt) if latent is not None else [],
            }
            self._learn(row)
            if self._file is not None:
                self._file.write(json.dumps(row) + "\n")
        return self.known[key, split]

    def _learn(self, row: Mapping[str, Any]) -> None:
        found = Found(row["id"], tuple(row["per_prompt"]), tuple(row["latent"]))
        self.known[row["id"], row["split"]] = found


def id_of(quantized: Mapping[str, FormatName]) -> str:
    """12 hexadecimal digits of a skip-list, {FQN: format} of what is quantized, and of its step
    policy where it has one.
    """
    text = json.dumps({fqn: str(fmt) for fqn, fmt in sorted(quantized.items())})
    text += Assignment.of(quantized).policy.key
    return hashlib.sha256(text.encode()).hexdigest()[:12]
