"""What does one assignment of formats do to the pictures? `Evaluator`: skip-list in, `Score` out.

It owns the loaded pipeline, the switch that flips its Linears, the distance and the references. The references are bf16's pictures of the same prompts,
seeds and batch size, drawn once and cached; the noise floor is bf16 drawn again one by one.

    evaluator = Evaluator(load_pipeline(spec, device="cpu"), cache_folder=default_cache_folder())
    evaluator.score({"proj_out": FormatName.NVFP4}, "search").mean

Formats are emulated: the score is about quality, never about time.
"""

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import platformdirs
import torch
from torch import Tensor

from sensitivity.environment import describe_environment
from sensitivity.fidelity._base import Score, score_of
from sensitivity.fidelity.lpips import LpipsDistance
from sensitivity.fidelity.references import ReferenceCache
from sensitivity.pipelines import LoadedPipeline, Painter, digest_of, painting_key
from sensitivity.profiler import profile_run
from sensitivity.shape_table import ShapeTable
from sensitivity.spec import FormatName, StudySpec
from sensitivity.switch import Switch

Split = Literal["search", "held_out"]


def default_cache_folder() -> Path:
    """Where references are kept: the user's cache folder, as the platform has it."""
    return Path(platformdirs.user_cache_dir("sensitivity")) / "references"


def study_distance(spec: StudySpec, *, device: str) -> LpipsDistance:
    """The perceptual distance that a study asks for. Raises MissingWeightsError where its weights are not to be had."""
    return LpipsDistance(spec.fidelity.net, weights=spec.fidelity.weights, device=device)


class Evaluator:
    """Scores skip-lists of one loaded pipeline. Not thread-safe: all scores flip the same Linears.

    Args:
        loaded: the pipeline.
        cache_folder: where references are kept.
        distance: None makes the study's own when it is first needed; profiling needs none.

    Attributes:
        switch: holds the Linears; use it to apply formats without scoring.
        environment: stamped into results.
    """

    def __init__(self, loaded: LoadedPipeline, *, cache_folder: Path, distance: LpipsDistance | None = None) -> None:
        self.loaded, self.spec = loaded, loaded.spec
        self.environment = describe_environment(loaded.device)
        self.painter = Painter(loaded)
        self._distance = distance
        self.switch = Switch(loaded.denoiser)
        self._cache = ReferenceCache(cache_folder)
        self._references: dict[tuple[Split, int], Tensor] = {}

    @property
    def distance(self) -> LpipsDistance:
        """The study's perceptual distance. Raises MissingWeightsError where its weights are not to be had."""
        if self._distance is None:
            self._distance = study_distance(self.spec, device=self.loaded.device)
        return self._distance

    def prompts(self, split: Split) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """The prompts of a split and their seeds, one a prompt."""
        section = self.spec.prompts
        texts, first = (section.search, section.seed) if split == "search" else (section.held_out, section.held_out_seed)
        return texts, tuple(range(first, first + len(texts)))

    def profile(self) -> ShapeTable:
        """One bf16 pipeline run at the priced batch size, under forward hooks."""
        self.switch.set({})
        batch = self.spec.pricing.batch_size
        texts = [self.spec.prompts.search[i % len(self.spec.prompts.search)] for i in range(batch)]
        return profile_run(
            self.loaded.denoiser, lambda: self.painter.paint(texts, list(range(batch)), batch_size=batch),
            model=self.spec.name, batch_size=batch, settings=dict(self.spec.settings),
        )  # fmt: skip

    def key(self, split: Split, *, batch_size: int | None = None) -> dict[str, Any]:
        """All that decides the bf16 pictures of a split."""
        texts, seeds = self.prompts(split)
        batch = batch_size or self.spec.search.batch_size
        return painting_key(self.loaded, self.environment) | {"prompts": list(texts), "seeds": list(seeds), "batch_size": batch}

    def evaluation_key(self, split: Split) -> str:
        """Digest of all that decides a score except the formats: two scores with one key are comparable, and one may stand for the other."""
        return digest_of(self.key(split) | {"distance": self.distance.key, "emulation": 1})

    def references(self, split: Split, *, batch_size: int | None = None) -> Tensor:
        """bf16's pictures of a split, (B, 3, H, W): from memory, from the disk, or drawn now."""
        batch = batch_size or self.spec.search.batch_size
        if (split, batch) not in self._references:
            self.switch.set({})
            texts, seeds = self.prompts(split)
            pictures, _ = self._cache.get(
                self.key(split, batch_size=batch), draw=lambda: self.painter.paint(texts, seeds, batch_size=batch)
            )
            self._references[split, batch] = pictures
        return self._references[split, batch]

    @cached_property
    def noise_floor(self) -> float | None:
        """Mean distance of bf16 from bf16 on the search prompts, drawn one by one; None where the study draws one by one anyway."""
        batch = min(self.spec.search.batch_size, len(self.spec.prompts.search))
        if batch < 2:
            return None
        return float(self.distance(self.references("search", batch_size=1), self.references("search")).mean())

    def paint(self, formats: Mapping[str, FormatName], split: Split, *, after_batch: Callable[[int], None] | None = None) -> Tensor:
        """Pictures of a split with these formats: (B, 3, H, W)."""
        texts, seeds = self.prompts(split)
        self.switch.set(formats)
        try:
            return self.painter.paint(texts, seeds, batch_size=self.spec.search.batch_size, after_batch=after_batch)
        finally:
            self.switch.set({})

    def score(self, formats: Mapping[str, FormatName], split: Split, *, after_batch: Callable[[int], None] | None = None) -> Score:
        """Distances of the pictures with these formats from bf16's.

        Raises:
            FormatError: a format refuses a Linear, or an FQN is unknown.
            MeasurementError: the pictures are not finite.
        """
        references = self.references(split)
        pictures = self.paint(formats, split, after_batch=after_batch)
        distances = self.distance(pictures, references)
        distances = torch.where(pictures.isfinite().flatten(1).all(1), distances, torch.nan)
        return score_of(distances, net=self.distance.name, noise_floor=self.noise_floor)

    def close(self) -> None:
        """Give the denoiser its plain Linears back."""
        self.switch.close()
