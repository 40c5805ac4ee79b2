"""What is a judge? The base classes `Judge` and, for judges of single pictures, `PictureJudge`.

A judge is given pictures or clips, those of bf16 for the same prompts, and the prompts, and gives
one number for each. It is made once and called often.

    class Brightness(PictureJudge):
        name = "brightness"

        def compare(self, pictures, references):
            return (pictures - references).mean((1, 2, 3)).abs()

    Brightness()(media.pictures, references.pictures, ["a red door"])       # (1,)

Conventions. RGB values are fp32 in [0, 1], on the CPU. A picture is (3, H, W) and a clip
(F, 3, H, W). Lower is better, unless `higher_is_better` says otherwise. A value must not depend on
what else is in the batch.
"""

import abc
from collections.abc import Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from sensitivity.models.media import pictures_at_once


class Judge(abc.ABC):
    """Something that compares pictures or clips with bf16's.

    Attributes:
        name: What a recipe calls it.
        higher_is_better: Whether a larger value is better.
        unit: Such as "dB"; "" for none.
        made_by: What computes it, with its version: "flip-evaluator 1.7".
    """

    name: str
    higher_is_better: bool = False
    unit: str = ""
    made_by: str = ""

    @abc.abstractmethod
    def __call__(self, pictures: Tensor, references: Tensor, prompts: Sequence[str]) -> Tensor:
        """Compare pictures, or clips, with bf16's.

        Args:
            pictures: (B, 3, H, W) fp32 in [0, 1], or clips (B, F, 3, H, W).
            references: The same shape and range.
            prompts: Their B prompts.

        Returns:
            (B,) numbers.
        """


class PictureJudge(Judge):
    """A judge of single pictures. Of a clip it judges every frame; the clip has their mean."""

    @abc.abstractmethod
    def compare(self, pictures: Tensor, references: Tensor) -> Tensor:
        """(N,) values of pictures (N, 3, H, W) fp32 in [0, 1] and references like them."""

    def __call__(
        self,
        pictures: Tensor,
        references: Tensor,
        prompts: Sequence[str],
    ) -> Tensor:
        """See `Judge`."""
        if pictures.dim() == 5:
            rows = [
                self._in_chunks(*pair).mean() for pair in zip(pictures, references, strict=True)
            ]
            return torch.stack(rows)
        return self._in_chunks(pictures, references)

    def _in_chunks(self, pictures: Tensor, references: Tensor) -> Tensor:
        step = pictures_at_once(*pictures.shape[-2:])
        chunks = [slice(start, start + step) for start in range(0, len(pictures), step)]
        return torch.cat([self.compare(pictures[at], references[at]).double() for at in chunks])


def as_arrays(pictures: Tensor) -> list[NDArray[Any]]:
    """Pictures (N, 3, H, W) as N arrays (H, W, 3) fp32 in one block of memory each."""
    return [picture.permute(1, 2, 0).contiguous().float().cpu().numpy() for picture in pictures]
