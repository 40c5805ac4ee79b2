"""What does one assignment of formats do to the pictures? `Evaluator`: skip-list in, `Score` out.

It owns the loaded pipeline, the switch that flips its Linears, the distance and the references. The
references are bf16's pictures, or clips with their sound, of the same prompts, seeds and batch
size, drawn once and cached; the noise floor is bf16 drawn again one by one.

    evaluator = Evaluator(load_pipeline(spec, device="cpu"), cache_folder=default_cache_folder())
    evaluator.score({"proj_out": FormatName.NVFP4}, "search").mean

Search prompts are drawn in the study's order, `search.chunk` at a time, whether or not someone
looks at the distances in between: which pictures share a batch is part of a score (nvfp4 has one
scale for all of them) and of its key. Who looks may end the drawing (`keep_going`), and has a
`PartialScore` then.

What a score holds. LPIPS, and the distance of the sound where there is one, since a search decides
by both (`fidelity._base`: damage). On held-out prompts also detail and, of clips, motion: they
decide nothing, and a recipe reports them. What a study says about sound (`fidelity.audio_weight`
and `max_audio_distance`) is no part of the key, so another weight or bound draws nothing again;
`judged` puts it into a score.

Formats are emulated: the score is about quality, never about time.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, overload

import platformdirs
import torch
from torch import Tensor

from sensitivity.core.devices import release_memory
from sensitivity.core.environment import describe_environment
from sensitivity.core.format_name import FormatName
from sensitivity.errors import PipelineError, SpecError
from sensitivity.fidelity.comparison import Comparison
from sensitivity.fidelity.lpips import LpipsDistance
from sensitivity.fidelity.references import ReferenceCache
from sensitivity.fidelity.score import Measure, PartialScore, Score, finite_values, score_of
from sensitivity.formats.emulation import arithmetic_on
from sensitivity.formats.switch import Switch
from sensitivity.models.compiled_regions import CompiledRegions, is_compile_error
from sensitivity.models.generating import Painter, digest_of, painting_key
from sensitivity.models.loading import LoadedPipeline
from sensitivity.models.media import Media
from sensitivity.shapes.recorder import profile_run
from sensitivity.shapes.table import ShapeTable
from sensitivity.spec.study_spec import StudySpec

Split = Literal["search", "held_out"]
WORTH_COMPILING = 10**9
log = logging.getLogger(__name__)


def default_cache_folder() -> Path:
    """Where references are kept: the user's cache folder, as the platform has it."""
    return Path(platformdirs.user_cache_dir("sensitivity")) / "references"


def study_distance(spec: StudySpec, *, device: str) -> LpipsDistance:
    """The perceptual distance that a study asks for.

    Raises MissingWeightsError where its weights are not to be had.
    """
    return LpipsDistance(spec.fidelity.net, weights=spec.fidelity.weights, device=device)


class Evaluator:
    """Scores skip-lists of one loaded pipeline. Not thread-safe: all scores flip the same Linears.

    Args:
        loaded: the pipeline.
        cache_folder: where references are kept.
        distance: None makes the study's own when it is first needed; profiling needs none.
        compiled: whether pictures are drawn with the denoiser's blocks compiled
            (`latency.regions`); None is on a GPU, for denoisers of `WORTH_COMPILING` parameters or
            more: smaller ones are done before the compiler is. Where torch cannot compile a block,
            they are drawn eagerly, with a word.

    Attributes:
        switch: holds the Linears; use it to apply formats without scoring.
        environment: stamped into results.
    """

    def __init__(
        self,
        loaded: LoadedPipeline,
        *,
        cache_folder: Path,
        distance: LpipsDistance | None = None,
        compiled: bool | None = None,
    ) -> None:
        self.loaded, self.spec = loaded, loaded.spec
        self.environment = describe_environment(loaded.device)
        self.painter = Painter(loaded)
        self._distance = distance
        self.switch = Switch(loaded.denoiser)
        large = (
            sum(parameter.numel() for parameter in loaded.denoiser.parameters()) >= WORTH_COMPILING
        )
        self.compiled = large and loaded.device.startswith("cuda") if compiled is None else compiled
        self._regions: CompiledRegions | None = None
        self._cache = ReferenceCache(cache_folder)
        self._references: dict[tuple[Split, int], Media] = {}

    @property
    def distance(self) -> LpipsDistance:
        """The study's perceptual distance.

        Raises MissingWeightsError where its weights are not to be had.
        """
        if self._distance is None:
            self._distance = study_distance(self.spec, device=self.loaded.device)
        return self._distance

    @property
    def comparison(self) -> Comparison:
        """How the study compares."""
        return Comparison(
            distance=self.distance,
            device=self.loaded.device,
            stride=self.spec.fidelity.frame_stride,
        )

    def prompts(self, split: Split) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """The prompts of a split and their seeds, one a prompt, in the order in which they are
        drawn.
        """
        section = self.spec.prompts
        texts, first = (
            (section.search, section.seed)
            if split == "search"
            else (section.held_out, section.held_out_seed)
        )
        order = (
            self.spec.search.order
            if split == "search" and self.spec.search.order
            else range(len(texts))
        )
        return tuple(texts[i] for i in order), tuple(first + i for i in order)

    def batch_size(self, split: Split) -> int:
        """Pictures that are drawn together, at most: a chunk of the search prompts, a batch of the
        held-out ones, where nobody looks.
        """
        section = self.spec.search
        return (
            section.chunk if split == "search" and section.chunk is not None else section.batch_size
        )

    def looks(self, split: Split) -> int:
        """How often `score` asks `keep_going`, at most: after each chunk but the last."""
        return (len(self.prompts(split)[0]) - 1) // self.batch_size(split)

    def profile(self) -> ShapeTable:
        """One bf16 pipeline run at the priced batch size, under forward hooks."""
        self.switch.set({})
        batch = self.spec.pricing.batch_size
        texts = [self.spec.prompts.search[i % len(self.spec.prompts.search)] for i in range(batch)]
        return profile_run(
            self.loaded.denoiser,
            lambda: self.painter.paint(texts, list(range(batch)), batch_size=batch),
            model=self.spec.name,
            batch_size=batch,
            settings=dict(self.spec.settings),
        )

    @contextmanager
    def running(self) -> Iterator[None]:
        """Inside, the denoiser's blocks run compiled where `compiled` says so; graphs stay for the
        next time.
        """
        if not self.compiled:
            yield
            return
        if self._regions is None:
            self._regions = CompiledRegions(self.loaded.denoiser)
        with self._regions:
            yield

    def recover(self) -> None:
        """After a failure: no quantized weight is kept, and the device's unused memory is given
        back.
        """
        self.switch.forget()
        release_memory(torch.device(self.loaded.device))

    def key(self, split: Split, *, batch_size: int | None = None) -> dict[str, Any]:
        """All that decides the bf16 pictures of a split."""
        texts, seeds = self.prompts(split)
        batch = batch_size or self.batch_size(split)
        how = {"compiled": True} if self.compiled else {}
        return (
            painting_key(self.loaded, self.environment)
            | {"prompts": list(texts), "seeds": list(seeds), "batch_size": batch}
            | how
        )

    def evaluation_key(self, split: Split) -> str:
        """Digest of all that decides a score except the formats: two scores with one key are
        comparable, and one may stand for the other.
        """
        stride = self.spec.fidelity.frame_stride
        frames = {} if stride == 1 else {"frame_stride": stride}
        beside = (
            {"beside": 1} if split == "held_out" else {}
        )  # version of what is measured on held-out prompts alone
        return digest_of(
            self.key(split)
            | {"distance": self.distance.key, "emulation": arithmetic_on(self.loaded.device)}
            | frames
            | beside
        )

    def references(self, split: Split, *, batch_size: int | None = None) -> Media:
        """bf16's pictures or clips of a split: from memory, from the disk, or drawn now.

        Raises:
            PipelineError: bf16 draws NaN, inf, or nothing but blank pictures.
            SpecError: the study bounds the distance of a sound, and there is none.
        """
        batch = batch_size or self.batch_size(split)
        if (split, batch) not in self._references:
            self.switch.set({})
            try:
                media = self._cached(split, batch)
            except Exception as error:
                if not (self.compiled and is_compile_error(error)):
                    raise
                self._run_eagerly(error)
                media = self._cached(split, batch)
            self._check_references(media)
            self._references[split, batch] = media
        return self._references[split, batch]

    def _cached(self, split: Split, batch: int) -> Media:
        texts, seeds = self.prompts(split)
        return self._cache.get(
            self.key(split, batch_size=batch), draw=lambda: self._drawn(texts, seeds, batch)
        )[0]

    def _run_eagerly(self, error: Exception) -> None:
        """From now on nothing is compiled; what was drawn so far is forgotten."""
        reason = (str(error).strip().splitlines() or ["no reason given"])[0][:200]
        log.warning(
            "the denoiser's blocks are not compiled, since torch cannot (%s: %s): pictures take"
            " longer",
            type(error).__name__,
            reason,
        )
        self.compiled, self._regions = False, None
        self._references.clear()

    def _check_references(self, media: Media) -> None:
        """Raise PipelineError for bf16 media to which nothing can be compared, SpecError for a
        bound on a sound that is not there.
        """
        broken = (~media.is_finite()).tolist()
        what = "clips" if media.is_video else "pictures"
        found = (
            f"{sum(broken)} of {len(media)} {what} with NaN or inf"
            if any(broken)
            else f"nothing but blank {what}"
            if media.is_blank().all()
            else ""
        )
        if found:
            raise PipelineError(
                f"{self.spec.name}: the {type(self.loaded.pipe).__name__} in bf16, with nothing"
                f" quantized, draws {found} at the settings {dict(self.spec.settings)}; allowed are"
                " settings and weights that draw something: correct `[settings]` in a study TOML"
                " (or --set), or look at what plain diffusers draws in bf16"
            )
        if media.sound is None and self.spec.fidelity.max_audio_distance is not None:
            raise SpecError(
                f"{self.spec.name}: `fidelity.max_audio_distance` is"
                f" {self.spec.fidelity.max_audio_distance:g}, and the"
                f" {type(self.loaded.pipe).__name__} makes no sound; allowed is a bound where there"
                " is sound: take the line out of the study TOML"
            )

    @cached_property
    def noise_floors(self) -> dict[str, float]:
        """{"lpips", "audio", ...: mean distance of bf16 from bf16 on the search prompts, drawn one
        by one}; {} where the study draws one by one anyway.
        """
        batch = min(self.batch_size("search"), len(self.spec.prompts.search))
        if batch < 2:
            return {}
        together, alone = self.references("search"), self.references("search", batch_size=1)
        self._references.pop(("search", 1))  # clips are large
        audio = self.comparison.audio(alone, together)
        found = self.comparison.beside(alone, together) | (
            {} if audio is None else {"audio": audio}
        )
        return {"lpips": float(self.comparison.lpips(alone, together)[0].mean())} | {
            name: float(value.mean()) for name, value in found.items()
        }

    @property
    def noise_floor(self) -> float | None:
        """That of LPIPS; None where it is not measured."""
        return self.noise_floors.get("lpips")

    @property
    def damage_floor(self) -> float:
        """That of damage (`fidelity._base`); 0 where it is not measured."""
        return self.noise_floors.get(
            "lpips", 0.0
        ) + self.spec.fidelity.audio_weight * self.noise_floors.get("audio", 0.0)

    def paint(self, formats: Mapping[str, FormatName], split: Split) -> Tensor:
        """The pictures of `draw` alone, (B, 3, H, W)."""
        return self.draw(formats, split).pictures

    def draw(
        self,
        formats: Mapping[str, FormatName],
        split: Split,
        *,
        after_batch: Callable[[int], None] | None = None,
        keep_going: Callable[[Media], bool] | None = None,
    ) -> Media:
        """Pictures or clips of a split with these formats; fewer where `keep_going`, called with
        all so far after each chunk but the last, says no.
        """
        texts, seeds = self.prompts(split)
        size, parts = self.batch_size(split), list[Media]()
        self.switch.set(formats)
        try:
            for start in range(0, len(texts), size):
                if parts and keep_going is not None and not keep_going(Media.joined(parts)):
                    break
                chunk = slice(start, start + size)
                parts.append(self._drawn(texts[chunk], seeds[chunk], size))
                if after_batch is not None:
                    after_batch(min(start + size, len(texts)))
        finally:
            self.switch.set({})
        return Media.joined(parts)

    def _drawn(self, texts: Sequence[str], seeds: Sequence[int], size: int) -> Media:
        with self.running():
            return self.painter.draw(texts, seeds, batch_size=size)

    @overload
    def score(
        self,
        formats: Mapping[str, FormatName],
        split: Split,
        *,
        after_batch: Callable[[int], None] | None = None,
        keep_going: None = None,
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
            keep_going: called with the damages so far after each chunk but the last; where it says
                no, the result is a `PartialScore` of these.

        Raises:
            FormatError: a format refuses a Linear, or an FQN is unknown.
            MeasurementError: the pictures are not finite, or blank; where someone looks, as soon as
                one is.
        """
        references = self.references(split)

        def look(media: Media) -> bool:
            return keep_going is None or keep_going(self._damages(media, references))

        media = self.draw(
            formats, split, after_batch=after_batch, keep_going=look if keep_going else None
        )
        if len(media) < len(references):
            return PartialScore(
                net=self.distance.name,
                per_prompt=self._damages(media, references),
                prompts=len(references),
            )
        return self._whole(media, references, split)

    def _damages(self, media: Media, references: Media) -> tuple[float, ...]:
        """Damages of the first prompts of a split."""
        distances, audio = (
            self.comparison.lpips(media, references)[0],
            self.comparison.audio(media, references),
        )
        return finite_values(
            distances if audio is None else distances + self.spec.fidelity.audio_weight * audio
        )

    def _whole(self, media: Media, references: Media, split: Split) -> Score:
        """The score of a split that was drawn to its end."""
        distances, frames = self.comparison.lpips(media, references)
        score = score_of(distances, net=self.distance.name, noise_floor=self.noise_floor)
        found = self.comparison.beside(media, references) if split == "held_out" else {}
        audio = self.comparison.audio(media, references)
        found |= {} if audio is None else {"audio": audio}
        measures = {
            name: Measure(per_prompt=finite_values(value), noise_floor=self.noise_floors.get(name))
            for name, value in found.items()
        }
        rows = () if frames is None else tuple(tuple(row) for row in frames.tolist())
        get = measures.get
        return self.judged(
            replace(
                score,
                per_frame=rows,
                motion=get("motion"),
                detail_db=get("detail_db"),
                audio=get("audio"),
            )
        )

    def judged(self, score: Score) -> Score:
        """The score with what the study says about sound today."""
        if score.audio is None:
            return score
        section = self.spec.fidelity
        return replace(
            score, audio_weight=section.audio_weight, max_audio_distance=section.max_audio_distance
        )

    def close(self) -> None:
        """Give the denoiser its plain Linears back."""
        self.switch.close()
