"""What did a pipeline generate? `Media`: pictures, or clips of frames with their sound.

    media = Media.of_clips(frames, sound=sound, sample_rate=24000)  # frames: (B, F, 3, H, W)
    media.is_video, len(media)                                      # True, B
    media.frames(0, [0, 1, 2])                      # (3, 3, H, W) fp32 in [-1, 1], of one clip

Conventions. Pictures are (B, 3, H, W) fp32 in [-1, 1]. Frames are (B, F, 3, H, W) fp16 in [0, 1],
as the pipeline gave them. Sound is (B, channels, samples) fp32, with `sample_rate` samples per
second. All of it is on the CPU.

Why fp16. A clip of 121 frames of 768 x 512 takes 285 MB. Half precision holds every value that a
bf16 decoder gives (11 bits of precision against 8), and NaN, so nothing is lost: the LPIPS of
tiny-flux's pictures stays the same. Codes of 8 bits would be half as large, but they move the LPIPS
of its NVFP4 pictures from 0.04795 to 0.04801, about the noise floor there (0.00008).

`generating` makes media, and `fidelity` compares them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from sensitivity.errors import PipelineError

PIXELS_AT_ONCE = 2**22


@dataclass(frozen=True, kw_only=True, slots=True)
class Media:
    """B pictures or clips, one for each prompt.

    Attributes:
        pictures: (B, 3, H, W) fp32 in [-1, 1], or clips (B, F, 3, H, W) fp16 in [0, 1].
        sound: (B, channels, samples) fp32; None where the pipeline makes none.
        sample_rate: samples per second.
        latents: (B, ...) that each decoder was given, in the order of the decoders' names; () where
            they are not known (`decoded_latents`).
    """

    pictures: Tensor
    sound: Tensor | None = None
    sample_rate: int | None = None
    latents: tuple[Tensor, ...] = ()

    @classmethod
    def of_clips(
        cls, frames: Tensor, *, sound: Tensor | None = None, sample_rate: int | None = None
    ) -> Self:
        """Clips, moved to the CPU one by one.

        Args:
            frames: (B, F, 3, H, W) in [0, 1], of any float dtype, on any device.
            sound: (B, channels, samples) of any float dtype.
            sample_rate: of the sound.
        """
        kept = torch.empty(frames.shape, dtype=torch.float16)
        for b, clip in enumerate(frames):
            kept[b] = clip.to(torch.float16).cpu()
        return cls(
            pictures=kept,
            sound=None if sound is None else sound.float().cpu().contiguous(),
            sample_rate=sample_rate,
        )

    @classmethod
    def joined(cls, parts: Sequence["Media"]) -> Self:
        """Several media as one, in order.

        Raises:
            PipelineError: they differ in size; clips may each have a length of their own.
        """
        if len({part.shape for part in parts}) > 1:
            raise PipelineError(
                "the pipeline generates clips of different sizes"
                f" ({' and '.join(str(part.shape) for part in parts[:2])}); expected clips of one"
                " length in a study: set num_frames in its `[settings]`"
            )
        sounds = [part.sound for part in parts if part.sound is not None]
        # contiguous, because equal pictures in two memory layouts have two LPIPS
        return cls(
            pictures=torch.cat([part.pictures for part in parts]).contiguous(),
            sound=torch.cat(sounds) if sounds else None,
            sample_rate=parts[0].sample_rate,
            latents=_joined_latents([part.latents for part in parts]),
        )

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def is_video(self) -> bool:
        """Whether each of them is a clip."""
        return self.pictures.dim() == 5

    @property
    def shape(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of one picture or clip and of its sound, () where there is none."""
        return tuple(self.pictures.shape[1:]), (
            () if self.sound is None else tuple(self.sound.shape[1:])
        )

    def first(self, count: int) -> Self:
        """The first `count` of them."""
        sound = None if self.sound is None else self.sound[:count]
        return type(self)(
            pictures=self.pictures[:count],
            sound=sound,
            sample_rate=self.sample_rate,
            latents=tuple(latents[:count] for latents in self.latents),
        )

    def frames(self, clip: int, at: Sequence[int], device: str = "cpu") -> Tensor:
        """Frames of one clip as pictures on a device: (len(at), 3, H, W) fp32 in [-1, 1]."""
        return self.pictures[clip, list(at)].to(device).float() * 2 - 1  # moved in 16 bits

    def is_finite(self) -> Tensor:
        """(B,) bool: False where the model gave NaN or inf in a picture, a frame or the sound."""
        # aminmax is NaN where any value is
        seen = [torch.stack(picture.aminmax()).isfinite().all() for picture in self.pictures]
        heard = (
            [True] * len(self)
            if self.sound is None
            else [sound.isfinite().all() for sound in self.sound]
        )
        return torch.tensor([bool(a) and bool(b) for a, b in zip(seen, heard, strict=True)])

    def is_blank(self) -> Tensor:
        """(B,) bool: True where all values of a picture or clip are equal, as in a black one."""
        return torch.tensor([bool(torch.eq(*picture.aminmax())) for picture in self.pictures])


def _joined_latents(parts: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """Latents of several media; () where one has others than the rest, or none."""
    if len({tuple(latents.shape[1:] for latents in part) for part in parts}) > 1:
        return ()
    return tuple(torch.cat(same) for same in zip(*parts, strict=True))


def pictures_and_clips(output: Any) -> tuple[Any, Any]:
    """The pictures and the clips in a pipeline's output; None for what it does not have.

    diffusers' pipelines return pictures as `images` or `image`, clips as `frames` or `video`.
    """

    def first(*names: str) -> Any:
        return next(
            (found for name in names if (found := getattr(output, name, None)) is not None), None
        )

    return first("images", "image"), first("frames", "video")


def pictures_at_once(height: int, width: int) -> int:
    """How many pictures of this size to compare at once: at most 16, and 4 Mpixel if that is more
    than one picture.
    """
    return min(16, max(1, PIXELS_AT_ONCE // (height * width)))
