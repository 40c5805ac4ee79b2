"""What does one assignment of formats do to the pictures? `Evaluator`: skip-list in, `Score` out.

It owns the loaded pipeline, the switch that flips its Linears, the distance and the references. The references are bf16's pictures of the same prompts,
seeds and batch size, drawn once and cached; the noise floor is bf16 drawn again one by one.

    evaluator = Evaluator(load_pipeline(spec, device="cpu"), cache_folder=default_cache_folder())
    evaluator.score({"proj_out": FormatName.NVFP4}, "search").mean

Search prompts are drawn in the study's order, `search.chunk` at a time, whether or not someone looks at the distances in between: which pictures share a batch is part of
a score (nvfp4 has one scale for all of them) and of its key. Who looks may end the drawing (`keep_going`), and has a `PartialScore` then.

Formats are emulated: the score is about quality, never about time.
"""

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, overload

import platformdirs
import torch
from torch import Tensor

from sensitivity.environment import describe_environment
from sensitivity.fidelity._base import PartialScore, Score, finite_values, score_of
from sensitivity.fidelity.lpips import LpipsDistance
from sensitivity.fidelity.references import ReferenceCache
from sensitivity.painting import Painter, digest_of, painting_key
from sensitivity.pipelines import LoadedPipeline
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
        """The prompts of a split and their seeds, one a prompt, in the order in which they are drawn."""
        section = self.spec.prompts
        texts, first = (section.search, section.seed) if split == "search" else (section.held_out, section.held_out_seed)
        order = self.spec.search.order if split == "search" and self.spec.search.order else range(len(texts))
        return tuple(texts[i] for i in order), tuple(first + i for i in order)

    def batch_size(self, split: Split) -> int:
        """Pictures that are drawn together, at most: a chunk of the search prompts, a batch of the held-out ones, where nobody looks."""
        section = self.spec.search
        return section.chunk if split == "search" and section.chunk is not None else section.batch_size

    def looks(self, split: Split) -> int:
        """How often `score` asks `keep_going`, at most: after each chunk but the last."""
        return (len(self.prompts(split)[0]) - 1) // self.batch_size(split)

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
        batch = batch_size or self.batch_size(split)
        return painting_key(self.loaded, self.environment) | {"prompts": list(texts), "seeds": list(seeds), "batch_size": batch}

    def evaluation_key(self, split: Split) -> str:
        """Digest of all that decides a score except the formats: two scores with one key are comparable, and one may stand for the other."""
        return digest_of(self.key(split) | {"distance": self.distance.key, "emulation": 1})

    def references(self, split: Split, *, batch_size: int | None = None) -> Tensor:
        """bf16's pictures of a split, (B, 3, H, W): from memory, from the disk, or drawn now."""
        batch = batch_size or self.batch_size(split)
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
        batch = min(self.batch_size("search"), len(self.spec.prompts.search))
        if batch < 2:
            return None
        return float(self.distance(self.references("search", batch_size=1), self.references("search")).mean())

    def paint(
        self,
        formats: Mapping[str, FormatName],
        split: Split,
        *,
        after_batch: Callable[[int], None] | None = None,
        keep_going: Callable[[Tensor], bool] | None = None,
    ) -> Tensor:
        """Pictures of a split with these formats: (B, 3, H, W); fewer where `keep_going`, called with all so far after each chunk but the last, says no."""
        texts, seeds = self.prompts(split)
        size, parts = self.batch_size(split), list[Tensor]()
        self.switch.set(formats)
        try:
            for start in range(0, len(texts), size):
                if parts and keep_going is not None and not keep_going(torch.cat(parts)):
                    break
                chunk = slice(start, start + size)
                parts.append(self.painter.paint(texts[chunk], seeds[chunk], batch_size=size))
                if after_batch is not None:
                    after_batch(min(start + size, len(texts)))
        finally:
            self.switch.set({})
        return torch.cat(parts).contiguous()

    @overload
    def score(
        self, formats: Mapping[str, FormatName], split: Split, *, after_batch: Callable[[int], None] | None = None, keep_going: None = None
    ) -> Score: ...

    @overload
    def score(
        self,
        formats: Mapping[str, FormatName],
        split: Split,
        *,
        after_batch: Callable[[int], None] | None = None,
        keep_going: Callable[[tuple[float, ...]], bool] | None,
    ) -> Score | PartialScore: ...

    def score(
        self,
        formats: Mapping[str, FormatName],
        split: Split,
        *,
        after_batch: Callable[[int], None] | None = None,
        keep_going: Callable[[tuple[float, ...]], bool] | None = None,
    ) -> Score | PartialScore:
        """Distances of the pictures with these formats from bf16's.

        Args:
            formats: {FQN: format}; what is not named stays bf16.
            split: which prompts.
            after_batch: called with the number of pictures done, after each pipeline call.
            keep_going: called with the distances so far after each chunk but the last; where it says no, the result is a `PartialScore` of these.

        Raises:
            FormatError: a format refuses a Linear, or an FQN is unknown.
            MeasurementError: the pictures are not finite; where someone looks, as soon as one is not.
        """
        references = self.references(split)

        def look(pictures: Tensor) -> bool:
            return keep_going is None or keep_going(finite_values(self._distances(pictures, references)))

        pictures = self.paint(formats, split, after_batch=after_batch, keep_going=look if keep_going else None)
        distances = self._distances(pictures, references)
        if len(pictures) < len(references):
            return PartialScore(net=self.distance.name, per_prompt=finite_values(distances), prompts=len(references))
        return score_of(distances, net=self.distance.name, noise_floor=self.noise_floor)

    def _distances(self, pictures: Tensor, references: Tensor) -> Tensor:
        """(B,) distances of the first B pictures of a split; NaN for a picture that is not finite."""
        distances = self.distance(pictures, references[: len(pictures)])
        return torch.where(pictures.isfinite().flatten(1).all(1), distances, torch.nan)

    def close(self) -> None:
        """Give the denoiser its plain Linears back."""
        self.switch.close()
