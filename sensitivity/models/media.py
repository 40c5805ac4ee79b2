"""What did a pipeline draw? `Media`: pictures, or clips of frames with their sound.

    media = Media.of_clips(frames, sound=sound, sample_rate=24000)      # frames (B, F, 3, H, W) in [0, 1], on any device
    media.is_video, len(media), media.frames(0, [0, 1, 2])              # the last: (3, 3, H, W) fp32 in [-1, 1]

Conventions. Pictures are (B, 3, H, W) fp32 in [-1, 1]. Frames are (B, F, 3, H, W) fp16 in [0, 1],
as the pipeline gave them: 285 MB for a clip of 121 frames of 768 x 512. Half precision holds every
value that a bf16 decoder gives (8 bits against 11) and NaN, so nothing is lost: the LPIPS of
tiny-flux's pictures stays the same. Codes of 8 bits would be half as large, and move the LPIPS of
its NVFP4 pictures from 0.04795 to 0.04801, as much as the noise floor there (0.00008). Sound is (B,
channels, samples) fp32, `sample_rate` a second. All of it lies on the CPU.

It holds what was drawn; `painting` draws, `fidelity` compares.
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
    """B pictures or clips, one a prompt.

    Attributes:
        pictures: (B, 3, H, W) fp32 in [-1, 1], or clips (B, F, 3, H, W) fp16 in [0, 1].
        sound: (B, channels, samples) fp32; None where the pipeline makes none.
        sample_rate: samples a second.
    """

    pictures: Tensor
    sound: Tensor | None = None
    sample_rate: int | None = None

    @classmethod
    def of_clips(
        cls, frames: Tensor, *, sound: Tensor | None = None, sample_rate: int | None = None
    ) -> Self:
        """Clips, brought to the CPU one by one.

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
        """All of several, in order.

        Raises:
            PipelineError: they differ in size, as clips of which each has a length of its own.
        """
        if len({part.shape for part in parts}) > 1:
            raise PipelineError(
                "the pipeline draws clips of different sizes"
                f" ({' and '.join(str(part.shape) for part in parts[:2])}); allowed are clips of"
                " one length in a study: set num_frames in its `[settings]`"
            )
        sounds = [part.sound for part in parts if part.sound is not None]
        return cls(
            pictures=torch.cat(
                [part.pictures for part in parts]
            ).contiguous(),  # equal pictures in two memory layouts have two LPIPS
            sound=torch.cat(sounds) if sounds else None,
            sample_rate=parts[0].sample_rate,
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
        return type(self)(pictures=self.pictures[:count], sound=sound, sample_rate=self.sample_rate)

    def frames(self, clip: int, at: Sequence[int], device: str = "cpu") -> Tensor:
        """Frames of one clip as pictures on a device: (len(at), 3, H, W) fp32 in [-1, 1]."""
        return self.pictures[clip, list(at)].to(device).float() * 2 - 1  # they travel in 16 bits

    def is_finite(self) -> Tensor:
        """(B,) bool: False where the model gave NaN or inf in a picture, a frame or the sound."""
        seen = [
            torch.stack(picture.aminmax()).isfinite().all() for picture in self.pictures
        ]  # NaN is the least and the greatest of all
        heard = (
            [True] * len(self)
            if self.sound is None
            else [sound.isfinite().all() for sound in self.sound]
        )
        return torch.tensor([bool(a) and bool(b) for a, b in zip(seen, heard, strict=True)])

    def is_blank(self) -> Tensor:
        """(B,) bool:

        True for a picture or clip in which every value is the same, as a black one.
        """
        return torch.tensor([bool(torch.eq(*picture.aminmax())) for picture in self.pictures])


def drawn_in(output: Any) -> tuple[Any, Any]:
    """The pictures and the clips in a pipeline's output, by the names that diffusers has for them;
    None for what there is none of.
    """

    def first(*names: str) -> Any:
        return next(
            (found for name in names if (found := getattr(output, name, None)) is not None), None
        )

    return first("images", "image"), first("frames", "video")


def pictures_at_once(height: int, width: int) -> int:
    """How many pictures of this size are compared together: 4 Mpixel of them, at least one and at
    most 16.
    """
    return min(16, max(1, PIXELS_AT_ONCE // (height * width)))
