"""How does a loaded pipeline draw? `Painter`: one generator a prompt, text encoded once for all trials.

    painter = Painter(load_pipeline(spec, device="cpu"))
    pictures = painter.paint(spec.prompts.search, seeds=[0, 1, ...], batch_size=8)      # (B, 3, H, W) in [-1, 1]

Conventions: noise is drawn on the CPU from `torch.Generator().manual_seed(seed)` of each picture, so it depends neither on the batch nor on the device. Pictures
of one `paint` call are drawn `batch_size` at a time, in order: formats with a scale for a whole call (nvfp4) see that batch, so the batch size is part of every
result.

What it does not do: video and sound.
"""

import hashlib
import inspect
import json
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sensitivity.errors import PipelineError, SpecError
from sensitivity.pipelines import LoadedPipeline


class Painter:
    """Draws pictures with a loaded pipeline. Text is encoded once for each prompt and kept on the CPU."""

    def __init__(self, loaded: LoadedPipeline) -> None:
        self.loaded = loaded
        self.settings = dict(loaded.spec.settings)
        parameters = inspect.signature(type(loaded.pipe).__call__).parameters
        unknown = [name for name in self.settings if name not in parameters]
        if unknown:
            raise SpecError(
                f"{loaded.spec.name}: settings {', '.join(unknown)} are no arguments of {type(loaded.pipe).__name__}; allowed are "
                f"{', '.join(n for n in parameters if n != 'self')}: correct `[settings]`"
            )
        self._encoded: dict[str, dict[str, Tensor]] = {}

    @torch.no_grad()
    def paint(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        batch_size: int,
        after_batch: Callable[[int], None] | None = None,
        **settings: Any,
    ) -> Tensor:
        """Pictures of the prompts, `batch_size` at a time: (B, 3, H, W) fp32 on the CPU, values in [-1, 1]; NaN where the model gave NaN.

        Args:
            prompts: B texts.
            seeds: B seeds, one a picture.
            batch_size: pictures in one pipeline call; the last call may be smaller.
            after_batch: called with the number of pictures done, after each pipeline call.
            settings: arguments of the pipeline call that replace the study's.
        """
        parts = []
        for start in range(0, len(prompts), batch_size):
            chunk = slice(start, start + batch_size)
            parts.append(self._draw(list(prompts[chunk]), seeds[chunk], self.settings | settings).float().cpu() * 2 - 1)
            if after_batch is not None:
                after_batch(min(start + batch_size, len(prompts)))
        return torch.cat(parts).contiguous()  # equal pictures in two memory layouts have two LPIPS

    def _draw(self, prompts: list[str], seeds: Sequence[int], settings: dict[str, Any]) -> Tensor:
        """One pipeline call: (B, 3, H, W) in [0, 1]. Raises PipelineError where the pipeline refuses its settings or draws no pictures."""
        pipe = self.loaded.pipe
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        try:
            images = pipe(**self._text(prompts), **settings, output_type="pt", generator=generators).images
        except (AttributeError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            reason = (str(error).strip().splitlines() or ["no reason given"])[0][:300]
            raise PipelineError(
                f"{type(pipe).__name__} does not draw pictures with the settings {settings} ({type(error).__name__}: {reason}); allowed is what its "
                "call accepts, for a pipeline of pictures: correct `[settings]` in a study TOML"
            ) from error
        if not isinstance(images, Tensor):
            raise PipelineError(
                f"{type(pipe).__name__} returns a {type(images).__name__}, no pictures; allowed are pipelines of pictures: name one"
            )
        return images

    def _text(self, prompts: list[str]) -> dict[str, Any]:
        """The pipeline's text arguments: embeddings where its `encode_prompt` has the form of FLUX's, the bare prompts elsewhere."""
        pipe = self.loaded.pipe
        accepted = inspect.signature(type(pipe).__call__).parameters
        if not ({"prompt_embeds", "pooled_prompt_embeds", "max_sequence_length"} <= set(accepted) and "Flux" in type(pipe).__name__):
            return {"prompt": prompts}
        length = {"max_sequence_length": self.settings["max_sequence_length"]} if "max_sequence_length" in self.settings else {}
        for prompt in prompts:
            if prompt not in self._encoded:
                embeds, pooled, _ = pipe.encode_prompt(prompt=prompt, prompt_2=None, **length)
                self._encoded[prompt] = {"prompt_embeds": embeds.cpu(), "pooled_prompt_embeds": pooled.cpu()}
        rows = [self._encoded[prompt] for prompt in prompts]
        return {key: torch.cat([row[key] for row in rows]).to(self.loaded.device) for key in rows[0]}


def painting_key(loaded: LoadedPipeline, environment: dict[str, str]) -> dict[str, Any]:
    """All that decides a picture except prompt, seed and batch: weights, settings, dtype, device type and versions. For cache keys."""
    versions = {name: environment[name] for name in ("torch", "torchao", "diffusers", "transformers", "device_type")}
    machine = {} if loaded.device.startswith("cpu") else {"device": environment["device"]}
    tiling = {"vae_tiling": True} if loaded.spec.model.vae_tiling else {}  # left out where it is off, as it was before there was the key
    return {
        "weights": loaded.weights_hash, "component": loaded.spec.model.component, "settings": dict(loaded.spec.settings), "dtype": "bfloat16",
        "pipeline": type(loaded.pipe).__name__, "threads": torch.get_num_threads() if loaded.device == "cpu" else 0, **versions, **machine, **tiling,
    }  # fmt: skip


def digest_of(key: dict[str, Any]) -> str:
    """sha256 of a JSON object with sorted keys."""
    return hashlib.sha256(json.dumps(key, sort_keys=True, ensure_ascii=True, allow_nan=False).encode()).hexdigest()
