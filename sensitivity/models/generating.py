"""How are pictures and clips generated with a loaded pipeline?

`MediaGenerator` calls the pipeline with one seed for each prompt, and encodes each text only once.

    generator = MediaGenerator(load_pipeline(spec, device="cpu"))
    media = generator.generate(spec.prompts.search, seeds=range(16), batch_size=8)
    pictures = generator.generate_pictures(["a red ring"], seeds=[0], batch_size=1)

Conventions. The noise of each picture comes from its own `torch.Generator().manual_seed(seed)` on
the CPU, so it depends neither on the batch nor on the device. The pictures of one call are
generated `batch_size` at a time, in order. Formats with one scale for a whole call (nvfp4) see
that batch, so the batch size is part of every result. Clips are decoded one by one where the VAE
can, and are moved to the CPU after each pipeline call.

What it does not do: sound without pictures.
"""

import hashlib
import inspect
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sensitivity.core.words import first_line
from sensitivity.errors import PipelineError
from sensitivity.models.decoded_latents import recording_latents
from sensitivity.models.loading import LoadedPipeline, check_settings
from sensitivity.models.media import Media, pictures_and_clips
from sensitivity.models.missing_packages import lacks_package
from sensitivity.models.vae import enable_vae_slicing
from sensitivity.spec.call_names import argument_of

RATE_KEYS = ("output_sampling_rate", "sampling_rate", "sample_rate")
"""Names of the sampling rate in configs of vocoders and audio VAEs."""


class MediaGenerator:
    """Generates pictures, or clips, with a loaded pipeline.

    Each text is encoded once and kept on the CPU.

    Attributes:
        drawn: called with the number of pictures of each pipeline call that has ended; see
            `counting`.

    Raises:
        SpecError: the study's settings have what the pipeline's call does not take.
    """

    def __init__(self, loaded: LoadedPipeline) -> None:
        self.loaded = loaded
        self.settings = dict(loaded.spec.settings)
        self.drawn: Callable[[int], None] = lambda _pictures: None
        check_settings(loaded.spec, loaded.pipe)
        if argument_of("frames", inspect.signature(type(loaded.pipe).__call__).parameters):
            enable_vae_slicing(getattr(loaded.pipe, "vae", None))

    def generate_pictures(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        batch_size: int,
        after_batch: Callable[[int], None] | None = None,
        **settings: Any,
    ) -> Tensor:
        """The pictures of `generate`, without sound.

        Returns:
            (B, 3, H, W) fp32 in [-1, 1] on the CPU, or clips as `Media` has them.
        """
        return self.generate(
            prompts, seeds, batch_size=batch_size, after_batch=after_batch, **settings
        ).pictures

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        batch_size: int,
        after_batch: Callable[[int], None] | None = None,
        **settings: Any,
    ) -> Media:
        """What the pipeline makes of the prompts. Values are NaN where the model gave NaN.

        Args:
            prompts: B texts.
            seeds: B seeds, one for each picture.
            batch_size: pictures in one pipeline call; the last call may be smaller.
            after_batch: called with the number of pictures done, after each pipeline call.
            settings: arguments of the pipeline's call that replace the study's.

        Raises:
            PipelineError: the pipeline refuses its settings, needs a package that is not installed,
                or returns neither pictures nor clips of one size.
        """
        parts = []
        for start in range(0, len(prompts), batch_size):
            chunk = slice(start, start + batch_size)
            parts.append(self._call(list(prompts[chunk]), seeds[chunk], self.settings | settings))
            self.drawn(len(prompts[chunk]))
            if after_batch is not None:
                after_batch(min(start + batch_size, len(prompts)))
        return Media.joined(parts)

    @contextmanager
    def counting(self, told: Callable[[int], None]) -> Iterator[None]:
        """Inside, `told` is called with the number of all pictures so far, whatever draws them."""
        before, total = self.drawn, 0

        def drawn(pictures: int) -> None:
            nonlocal total
            total += pictures
            told(total)

        self.drawn = drawn
        try:
            yield
        finally:
            self.drawn = before

    def _call(self, prompts: list[str], seeds: Sequence[int], settings: dict[str, Any]) -> Media:
        """One pipeline call."""
        pipe = self.loaded.pipe
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        with self._explained(settings):
            call = settings | self._text(prompts)
            with recording_latents(pipe) as decoded:
                output = pipe(**call, output_type="pt", generator=generators)
        return replace(self._media_in(output), latents=decoded.of_each(len(prompts)))

    def encode(self, prompts: Sequence[str]) -> None:
        """Encode texts that are new, one at a time. What is padded to its neighbour may depend on
        the order in which texts come (`text_memory`), so workers that draw different batches all
        begin here.

        Raises:
            PipelineError: as `generate`.
        """
        with self._explained(self.settings):
            self.loaded.remember(prompts)

    @contextmanager
    def _explained(self, settings: dict[str, Any]) -> Iterator[None]:
        """Inside, errors of the pipeline's call become PipelineErrors."""
        pipe = self.loaded.pipe
        try:
            yield
        # diffusers calls some packages, such as ftfy, without checking that they are installed
        except (ImportError, NameError) as error:
            raise lacks_package(type(pipe).__name__, error) from error
        except (
            AttributeError,
            ArithmeticError,
            LookupError,
            NotImplementedError,
            TypeError,
            ValueError,
        ) as error:
            raise PipelineError(
                f"{type(pipe).__name__} generates no pictures with the settings {settings}"
                f" ({type(error).__name__}: {first_line(error, most=300)}); expected settings that"
                " its call accepts, of a pipeline of pictures or videos: correct `[settings]` in a"
                " study TOML"
            ) from error

    def _media_in(self, output: Any) -> Media:
        """The media in what a pipeline returned. Raises PipelineError where there are none."""
        pipe, (images, frames) = self.loaded.pipe, pictures_and_clips(output)
        if isinstance(images, Tensor) and images.dim() == 4:
            return Media(pictures=images.float().cpu() * 2 - 1)
        if isinstance(frames, Tensor) and frames.dim() == 5:
            sound = getattr(output, "audio", None)
            if not isinstance(sound, Tensor):
                return Media.of_clips(frames)
            sound = sound.unsqueeze(1) if sound.dim() == 2 else sound  # (B, channels, samples)
            return Media.of_clips(frames, sound=sound, sample_rate=sample_rate_of(pipe))
        found = next((x for x in (images, frames) if x is not None), output)
        shape = f" of shape {tuple(found.shape)}" if isinstance(found, Tensor) else ""
        raise PipelineError(
            f"{type(pipe).__name__} returns a {type(found).__name__}{shape}, no pictures; expected"
            " a pipeline of pictures or videos: name one"
        )

    def _text(self, prompts: list[str]) -> dict[str, Any]:
        """The pipeline's text arguments, with a negative prompt for each prompt.

        Texts that are new are encoded first, one at a time.
        """
        self.loaded.remember(prompts)
        negative = self.settings.get("negative_prompt")
        if not isinstance(negative, str):
            return {"prompt": prompts}
        return {"prompt": prompts, "negative_prompt": [negative] * len(prompts)}


def sample_rate_of(pipe: Any) -> int:
    """Samples per second of a pipeline's sound, from the config of its vocoder or audio VAE.

    Raises:
        PipelineError: neither config has a rate.
    """
    for part in ("vocoder", "audio_vae"):
        config = getattr(getattr(pipe, part, None), "config", None)
        for key in RATE_KEYS:
            rate = getattr(config, key, None)
            if isinstance(rate, int) and rate > 0:
                return rate
    raise PipelineError(
        f"{type(pipe).__name__} makes sound, and none of its configs has a sampling rate; expected"
        f" one of {', '.join(RATE_KEYS)} in the config of its vocoder or audio_vae: add it there"
    )


def generation_key(loaded: LoadedPipeline, environment: dict[str, str]) -> dict[str, Any]:
    """Everything that decides a picture except prompt, seed and batch, for keys of caches.

    Args:
        loaded: the pipeline.
        environment: as `core.environment.describe_environment` gives it.

    Returns:
        Weights, settings, dtype, kind of device and versions. On a GPU also its name; on the CPU
        also the number of threads. `vae_tiling` is in the key only where it is on, so that older
        keys stay valid.
    """
    versions = {
        name: environment[name]
        for name in ("torch", "torchao", "diffusers", "transformers", "device_type")
    }
    machine = {} if loaded.device.startswith("cpu") else {"device": environment["device"]}
    tiling = {"vae_tiling": True} if loaded.spec.model.vae_tiling else {}
    return {
        "weights": loaded.weights_hash,
        "component": loaded.spec.model.component,
        "settings": dict(loaded.spec.settings),
        "dtype": "bfloat16",
        "pipeline": type(loaded.pipe).__name__,
        "threads": torch.get_num_threads() if loaded.device == "cpu" else 0,
        **versions,
        **machine,
        **tiling,
    }


def digest_of(key: dict[str, Any]) -> str:
    """sha256 of a JSON object with sorted keys."""
    return hashlib.sha256(
        json.dumps(key, sort_keys=True, ensure_ascii=True, allow_nan=False).encode()
    ).hexdigest()
