"""How does a loaded pipeline draw?

`Painter`: one generator a prompt, text encoded once for all trials.

    painter = Painter(load_pipeline(spec, device="cpu"))
    media = painter.draw(spec.prompts.search, seeds=[0, 1, ...], batch_size=8)          # pictures, or clips with their sound
    pictures = painter.paint(spec.prompts.search, seeds=[0, 1, ...], batch_size=8)      # what there is to see of them: (B, 3, H, W) in [-1, 1]

Conventions: noise is drawn on the CPU from `torch.Generator().manual_seed(seed)` of each picture,
so it depends neither on the batch nor on the device. Pictures of one `draw` call are drawn
`batch_size` at a time, in order: formats with a scale for a whole call (nvfp4) see that batch, so
the batch size is part of every result. Clips are decoded one by one where the VAE can, and leave
the device after each pipeline call.

What it does not do: sound without pictures.
"""

import hashlib
import inspect
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from sensitivity.errors import PipelineError, SpecError
from sensitivity.models.loading import LoadedPipeline
from sensitivity.models.media import Media, drawn_in

RATE_KEYS = ("output_sampling_rate", "sampling_rate", "sample_rate")


class Painter:
    """Draws pictures, or clips, with a loaded pipeline.

    Text is encoded once for each prompt and kept on the CPU.

    Raises:
        SpecError: the study's settings have what the pipeline's call does not take.
    """

    def __init__(self, loaded: LoadedPipeline) -> None:
        self.loaded = loaded
        self.settings = dict(loaded.spec.settings)
        parameters = inspect.signature(type(loaded.pipe).__call__).parameters
        unknown = [name for name in self.settings if name not in parameters]
        if unknown:
            raise SpecError(
                f"{loaded.spec.name}: settings {', '.join(unknown)} are no arguments of"
                f" {type(loaded.pipe).__name__}; allowed are"
                f" {', '.join(n for n in parameters if n != 'self')}: correct `[settings]`"
            )
        if "num_frames" in parameters:
            _decode_one_by_one(getattr(loaded.pipe, "vae", None))

    def paint(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        batch_size: int,
        after_batch: Callable[[int], None] | None = None,
        **settings: Any,
    ) -> Tensor:
        """The pictures of `draw` alone:

        (B, 3, H, W) fp32 on the CPU, values in [-1, 1], or clips as `Media` has them.
        """
        return self.draw(
            prompts, seeds, batch_size=batch_size, after_batch=after_batch, **settings
        ).pictures

    @torch.no_grad()
    def draw(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        batch_size: int,
        after_batch: Callable[[int], None] | None = None,
        **settings: Any,
    ) -> Media:
        """What the pipeline makes of the prompts, `batch_size` at a time; NaN where the model gave
        NaN.

        Args:
            prompts: B texts.
            seeds: B seeds, one a picture.
            batch_size: pictures in one pipeline call; the last call may be smaller.
            after_batch: called with the number of pictures done, after each pipeline call.
            settings: arguments of the pipeline call that replace the study's.

        Raises:
            PipelineError: the pipeline refuses its settings, or draws neither pictures nor clips of
                one size.
        """
        parts = []
        for start in range(0, len(prompts), batch_size):
            chunk = slice(start, start + batch_size)
            parts.append(self._draw(list(prompts[chunk]), seeds[chunk], self.settings | settings))
            if after_batch is not None:
                after_batch(min(start + batch_size, len(prompts)))
        return Media.joined(parts)

    def _draw(self, prompts: list[str], seeds: Sequence[int], settings: dict[str, Any]) -> Media:
        """One pipeline call."""
        pipe = self.loaded.pipe
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        try:
            output = pipe(**settings | self._text(prompts), output_type="pt", generator=generators)
        except (
            ImportError,
            NameError,
        ) as error:  # diffusers uses what it could not import, as ftfy, without a look
            raise PipelineError(
                f"{type(pipe).__name__} does not run here ({type(error).__name__}: {error}); it"
                " seems to use a package that is not installed: install the one that is named, or"
                " pass a pipeline that does without"
            ) from error
        except (
            AttributeError,
            ArithmeticError,
            LookupError,
            NotImplementedError,
            TypeError,
            ValueError,
        ) as error:
            reason = (str(error).strip().splitlines() or ["no reason given"])[0][:300]
            raise PipelineError(
                f"{type(pipe).__name__} does not draw pictures with the settings {settings}"
                f" ({type(error).__name__}: {reason}); allowed is what its call accepts, for a"
                " pipeline of pictures or videos: correct `[settings]` in a study TOML"
            ) from error
        return self._taken(output)

    def _taken(self, output: Any) -> Media:
        """The media in what a pipeline returned. Raises PipelineError where there are none."""
        pipe, (images, frames) = self.loaded.pipe, drawn_in(output)
        if isinstance(images, Tensor) and images.dim() == 4:
            return Media(pictures=images.float().cpu() * 2 - 1)
        if isinstance(frames, Tensor) and frames.dim() == 5:
            sound = getattr(output, "audio", None)
            if not isinstance(sound, Tensor):
                return Media.of_clips(frames)
            sound = sound.unsqueeze(1) if sound.dim() == 2 else sound  # (B, channels, samples)
            return Media.of_clips(frames, sound=sound, sample_rate=sample_rate_of(pipe))
        what = next((x for x in (images, frames) if x is not None), output)
        shape = f" of shape {tuple(what.shape)}" if isinstance(what, Tensor) else ""
        raise PipelineError(
            f"{type(pipe).__name__} returns a {type(what).__name__}{shape}, no pictures; allowed"
            " are pipelines of pictures or videos: name one"
        )

    def _text(self, prompts: list[str]) -> dict[str, Any]:
        """The pipeline's text arguments, a negative prompt for each prompt; what they say is
        encoded one prompt at a time, and only once.
        """
        self.loaded.remember(prompts)
        negative = self.settings.get("negative_prompt")
        return {"prompt": prompts} | (
            {"negative_prompt": [negative] * len(prompts)} if isinstance(negative, str) else {}
        )


def sample_rate_of(pipe: Any) -> int:
    """Samples a second of a pipeline's sound, as the config of its vocoder or audio VAE says.

    Raises PipelineError where neither does.
    """
    for part in ("vocoder", "audio_vae"):
        config = getattr(getattr(pipe, part, None), "config", None)
        for key in RATE_KEYS:
            rate = getattr(config, key, None)
            if isinstance(rate, int) and rate > 0:
                return rate
    raise PipelineError(
        f"{type(pipe).__name__} makes sound, and no config of its says at which rate; allowed is a"
        f" vocoder or audio_vae whose config has one of {', '.join(RATE_KEYS)}: add it to that"
        " config"
    )


def _decode_one_by_one(vae: Any) -> None:
    """Let a video VAE decode one clip of a batch after the other, which bounds its memory."""
    if getattr(getattr(vae, "config", None), "timestep_conditioning", False):
        # diffusers 0.42 takes the slices of LTX's latents and of its decode timesteps for pairs,
        # which they are not
        return
    with suppress(
        AttributeError, NotImplementedError
    ):  # diffusers' classes lack the method, or have one that raises
        vae.enable_slicing()


def painting_key(loaded: LoadedPipeline, environment: dict[str, str]) -> dict[str, Any]:
    """All that decides a picture except prompt, seed and batch: weights, settings, dtype, device
    type and versions. For cache keys.
    """
    versions = {
        name: environment[name]
        for name in ("torch", "torchao", "diffusers", "transformers", "device_type")
    }
    machine = {} if loaded.device.startswith("cpu") else {"device": environment["device"]}
    tiling = (
        {"vae_tiling": True} if loaded.spec.model.vae_tiling else {}
    )  # left out where it is off, as it was before there was the key
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
