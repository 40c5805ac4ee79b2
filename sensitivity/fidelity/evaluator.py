"""What does one assignment of formats do to the pictures? `Evaluator`: skip-list in, `Score` out.

It owns the loaded pipeline, the switch that changes its Linears, the distance, and the references.
The references are bf16's pictures, or clips with their sound, for the same prompts, seeds and batch
size. They are generated once and cached. The noise floor is bf16 generated again, one by one.

    loaded = load_pipeline(spec, device="cpu")
    evaluator = Evaluator(loaded, cache_folder=default_cache_folder())
    evaluator.score({"proj_out": FormatName.NVFP4}, "search").mean

Search prompts are generated in chunks (`splits`). A caller that passes `keep_going` to `score` may
stop after a chunk, and gets a `PartialScore`. An `Assignment` is drawn by its step policy.

Formats run by the kernels that serve a model where the device has them, else by emulation
(`formats.execution`). A score is about quality, never about time.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import torch
from torch import Tensor

from sensitivity.core.arithmetic import Arithmetic
from sensitivity.core.assignment import Assignment
from sensitivity.core.devices import release_memory
from sensitivity.core.environment import describe_environment
from sensitivity.core.format_name import DEFAULT_FORMATS, FormatName
from sensitivity.core.words import counted
from sensitivity.fidelity.comparison import Comparison
from sensitivity.fidelity.compiled_blocks import CompiledBlocks
from sensitivity.fidelity.distance import Distance
from sensitivity.fidelity.judges.panel import Panel
from sensitivity.fidelity.keys import evaluation_digest
from sensitivity.fidelity.lpips import study_distance
from sensitivity.fidelity.references import ReferenceCache
from sensitivity.fidelity.score import PartialScore, Score, finite_values
from sensitivity.fidelity.scoring import (
    check_references,
    damages_of,
    judged,
    noise_floors_of,
    score_media,
)
from sensitivity.fidelity.sharing import Alone, Sharing
from sensitivity.fidelity.splits import Split, batch_size_of, interim_looks_of, prompts_of
from sensitivity.fidelity.step_precision import drawing_by
from sensitivity.fidelity.typical import typical
from sensitivity.formats.execution import Execution
from sensitivity.formats.switch import Switch
from sensitivity.models.generating import MediaGenerator, generation_key
from sensitivity.models.loading import LoadedPipeline
from sensitivity.models.media import Media
from sensitivity.shapes.recorder import profile_run
from sensitivity.shapes.table import ShapeTable

OTHER_SEED, OTHER_PROMPTS = 1_000_003, 10
"""What is added to a seed for another one, and how many search prompts are generated with it.
Prompts differ much: on tiny-flux the typical LPIPS of 4 was 0.24, of 10 0.37, of 24 0.36."""
Watch = Callable[[Mapping[str, FormatName], Split, Media, Media, Score], None]
log = logging.getLogger(__name__)


class Evaluator:
    """Scores skip-lists of one loaded pipeline.

    It is not thread-safe, since all scores switch the same Linears.

    Args:
        loaded: The pipeline.
        cache_folder: Where references are kept.
        distance: The perceptual distance; None loads the study's own when it is first needed.
        compiled: Whether pictures are generated with the denoiser's blocks compiled; None: where it
            pays (`compiled_blocks`).
        arithmetic: The runtime whose quantized numbers are computed.
        emulate: Whether formats are emulated that the device has natively.
        formats: The quantized formats that are scored. Of others, kernels are no part of the keys.

    Attributes:
        execution: By which kernels quantized Linears run.
        switch: Holds the Linears. It applies formats without scoring.
        media_generator: Generates with the pipeline.
        blocks: Whether the denoiser's blocks run compiled.
        panel: The judges of held-out pictures; None: none look.
        watch: Is shown the pictures of each score, bf16's and the score; None: nobody is.
        sharing: Who generates which of bf16's pictures, where several workers need them.
        environment: Versions and machine, stamped into results.
    """

    def __init__(
        self,
        loaded: LoadedPipeline,
        *,
        cache_folder: Path,
        distance: Distance | None = None,
        compiled: bool | None = None,
        arithmetic: Arithmetic = Arithmetic.EAGER,
        emulate: bool = False,
        formats: Sequence[FormatName] = DEFAULT_FORMATS,
    ) -> None:
        self.loaded, self.spec = loaded, loaded.spec
        self.environment = describe_environment(loaded.device)
        self.media_generator = MediaGenerator(loaded)
        self._distance = distance
        self.arithmetic = arithmetic
        self.execution = Execution(
            device=loaded.device, formats=tuple(formats), arithmetic=arithmetic, emulate=emulate
        )
        self.switch = Switch(loaded.denoiser, arithmetic=arithmetic, emulate=emulate)
        self.blocks = CompiledBlocks(loaded.denoiser, wanted=compiled, device=loaded.device)
        self._cache = ReferenceCache(cache_folder)
        self._references: dict[tuple[Split, int], Media] = {}
        self._uncalled: tuple[str, ...] = ()
        self.panel: Panel | None = None
        self.watch: Watch | None = None
        self.sharing: Sharing = Alone()

    @property
    def distance(self) -> Distance:
        """The perceptual distance.

        Raises:
            MissingWeightsError: Its weights are not on this machine.
        """
        if self._distance is None:
            self._distance = study_distance(self.spec, device=self.loaded.device)
        return self._distance

    @property
    def comparison(self) -> Comparison:
        """How the study compares."""
        stride = self.spec.fidelity.frame_stride
        return Comparison(distance=self.distance, device=self.loaded.device, stride=stride)

    def prompts(self, split: Split) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """The prompts of a split and their seeds, in the order in which they are generated."""
        return prompts_of(self.spec, split)

    def batch_size(self, split: Split) -> int:
        """The most pictures that are generated together."""
        return batch_size_of(self.spec, split)

    def interim_looks(self, split: Split) -> int:
        """How often `score` asks `keep_going` at most."""
        return interim_looks_of(self.spec, split)

    def profile(self) -> ShapeTable:
        """The shapes of one bf16 pipeline run at the priced batch size."""
        self.switch.set({})
        batch = self.spec.pricing.batch_size
        texts = [self.spec.prompts.search[i % len(self.spec.prompts.search)] for i in range(batch)]
        return profile_run(
            self.loaded.denoiser,
            lambda: self.media_generator.generate(texts, list(range(batch)), batch_size=batch),
            model=self.spec.name,
            batch_size=batch,
            settings=dict(self.spec.settings),
        )

    @property
    def compiled(self) -> bool:
        """Whether pictures are generated with the denoiser's blocks compiled."""
        return self.blocks.on

    def recover(self) -> None:
        """After a failure: forget all quantized weights, and give unused memory back."""
        self.switch.forget()
        release_memory(torch.device(self.loaded.device))

    def key(self, split: Split, *, batch_size: int | None = None) -> dict[str, Any]:
        """All that decides the bf16 pictures of a split."""
        texts, seeds = self.prompts(split)
        batch = batch_size or self.batch_size(split)
        own = {"prompts": list(texts), "seeds": list(seeds), "batch_size": batch}
        compiled = {"compiled": True} if self.compiled else {}
        return generation_key(self.loaded, self.environment) | own | compiled

    def evaluation_key(self, split: Split) -> str:
        """Digest of all that decides a score except the formats.

        Two scores with the same key are comparable, and a known score may stand for a new one.
        """
        return evaluation_digest(
            self.key(split),
            self.spec,
            split,
            distance=self.distance.key,
            execution=self.execution,
        )

    def undrawn(self, split: Split) -> int:
        """bf16 pictures that a split's references still take, with those of the noise floor."""
        pictures, size = len(self.prompts(split)[0]), self.batch_size(split)
        sizes = {size, 1} if split == "search" and min(size, pictures) > 1 else {size}
        return sum(self._cache.lacking(self.key(split, batch_size=n), pictures, n) for n in sizes)

    def references(self, split: Split, *, batch_size: int | None = None) -> Media:
        """bf16's pictures or clips of a split: from memory, from the disk, or generated now.

        Raises:
            PipelineError: bf16 generates NaN, inf, or nothing but blank pictures.
            SpecError: The study bounds the distance of a sound, and there is none.
        """
        batch = batch_size or self.batch_size(split)
        if (split, batch) not in self._references:
            own = split == "search" and batch == self.batch_size(split)  # a search learns from it
            media = self._bf16(split, {"batch_size": batch}, with_latents=own)
            check_references(media, self.spec, type(self.loaded.pipe).__name__)
            self._references[split, batch] = media
        return self._references[split, batch]

    def _bf16(self, split: Split, others: dict[str, Any], *, with_latents: bool = False) -> Media:
        """bf16's media from the disk, or generated now; `others` replace parts of a split's key."""
        self.switch.set({})

        def get() -> Media:
            key = self.key(split) | others
            texts, seeds, size = key["prompts"], key["seeds"], key["batch_size"]

            def draw(at: slice) -> Media:
                self.media_generator.encode(texts)  # in one order, whoever draws which batch
                return self._generate(texts[at], seeds[at], size)

            how: dict[str, Any] = {"sharing": self.sharing, "with_latents": with_latents}
            return self._cache.collect(key, draw, len(texts), size, **how)[0]

        return self.blocks.attempt(get, given_up=self._references.clear)

    @cached_property
    def other_seeds(self) -> tuple[float, ...]:
        """LPIPS of bf16 with another seed from bf16, of the first `OTHER_PROMPTS` search prompts.

        Of clips, the mean over their frames. Kept like references.
        """
        texts, seeds = self.prompts("search")
        texts, other = texts[:OTHER_PROMPTS], [seed + OTHER_SEED for seed in seeds[:OTHER_PROMPTS]]
        batch = min(len(texts), self.batch_size("search"))
        others = {"prompts": list(texts), "seeds": other, "batch_size": batch}
        media = self._bf16("search", others)
        references = self.references("search").first(len(texts))
        return finite_values(self.comparison.lpips(media, references)[0])

    def another_seed(self) -> float:
        """Geometric mean of `other_seeds`: the distance of pictures that share only a prompt."""
        return typical(self.other_seeds, None)

    @cached_property
    def noise_floors(self) -> dict[str, float]:
        """{"lpips", "audio", ...: mean distance of bf16 from bf16 on the search prompts}.

        One is generated in the study's batches, the other one by one. {} if the study's batches are
        of one picture anyway.
        """
        batch = min(self.batch_size("search"), len(self.spec.prompts.search))
        if batch < 2:
            return {}
        together, alone = self.references("search"), self.references("search", batch_size=1)
        self._references.pop(("search", 1))  # clips are large
        return noise_floors_of(self.comparison, alone, together)

    @property
    def noise_floor(self) -> float | None:
        """The noise floor of LPIPS; None if it is not measured."""
        return self.noise_floors.get("lpips")

    @property
    def damage_floor(self) -> float:
        """The noise floor of damage (`fidelity.score`); 0 if it is not measured."""
        floors, weight = self.noise_floors, self.spec.fidelity.audio_weight
        return floors.get("lpips", 0.0) + weight * floors.get("audio", 0.0)

    def generate_pictures(self, formats: Mapping[str, FormatName], split: Split) -> Tensor:
        """The pictures of `generate`, without sound."""
        return self.generate(formats, split).pictures

    def generate(
        self,
        formats: Mapping[str, FormatName],
        split: Split,
        *,
        after_batch: Callable[[int], None] | None = None,
        keep_going: Callable[[Media], bool] | None = None,
    ) -> Media:
        """Pictures or clips of a split with these formats.

        Args:
            formats: {FQN: format}; Linears left out are bf16. An `Assignment` has a step policy.
            split: Which prompts.
            after_batch: Called with the number of pictures done, after each pipeline call.
            keep_going: Called with all pictures so far, after each chunk but the last; False ends.

        Raises:
            FormatError: A format refuses a Linear or did not run in it, or an FQN is unknown.
            PipelineError: There is a step policy, and steps of the pipeline cannot be counted.
        """
        texts, seeds = self.prompts(split)
        size, parts = self.batch_size(split), list[Media]()
        self.switch.set(formats)
        try:
            with drawing_by(Assignment.of(formats).policy, self.loaded.pipe, self.switch):
                for start in range(0, len(texts), size):
                    if parts and keep_going is not None and not keep_going(Media.joined(parts)):
                        break
                    chunk = slice(start, start + size)
                    parts.append(self._generate(texts[chunk], seeds[chunk], size))
                    if start == 0:
                        self._check_that_it_ran()
                    if after_batch is not None:
                        after_batch(min(start + size, len(texts)))
        finally:
            self.switch.set({})
        return Media.joined(parts)

    def _check_that_it_ran(self) -> None:
        """Check, after a pipeline call, that Linears with a format ran in it."""
        uncalled = self.switch.check_ran()
        if uncalled and uncalled != self._uncalled:
            log.warning("a pipeline call did not reach Linears: %s", counted(uncalled))
            self._uncalled = uncalled

    def _generate(self, texts: Sequence[str], seeds: Sequence[int], size: int) -> Media:
        with self.blocks.running():
            return self.media_generator.generate(texts, seeds, batch_size=size)

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
            formats: {FQN: format}; Linears left out are bf16.
            split: Which prompts.
            after_batch: Called with the number of pictures done, after each pipeline call.
            keep_going: Called with the damages so far, after each chunk but the last. If it returns
                False, the result is a `PartialScore` of these.

        Raises:
            FormatError: A format refuses a Linear, or an FQN is unknown.
            MeasurementError: Pictures are not finite, or blank. With `keep_going` this is raised
                after the first chunk that has such a picture.
        """
        references = self.references(split)

        def damages(media: Media) -> tuple[float, ...]:
            weight = self.spec.fidelity.audio_weight
            return damages_of(self.comparison, media, references, audio_weight=weight)

        media = self.generate(
            formats,
            split,
            after_batch=after_batch,
            keep_going=None if keep_going is None else lambda media: keep_going(damages(media)),
        )
        if len(media) < len(references):
            return PartialScore(
                net=self.distance.name, per_prompt=damages(media), prompts=len(references)
            )
        floors, last = self.noise_floors, split == "held_out"
        score = score_media(self.comparison, media, references, noise_floors=floors, secondary=last)
        if last and self.panel is not None:
            score = self.panel.complete(score, media, self)
        if self.watch is not None:
            self.watch(formats, split, media, references, score)
        return self.judged(score)

    def judged(self, score: Score) -> Score:
        """The score with what the study says about sound today."""
        return judged(score, self.spec.fidelity)

    def close(self) -> None:
        """Give the denoiser its plain Linears back."""
        self.switch.close()
