"""What is measured between what was drawn and its bf16 reference?

`Comparison`: LPIPS, and beside it motion, detail and sound.

    comparison = Comparison(distance=distance, device="cpu", stride=1)
    comparison.lpips(media, references)                 # (B,) and, for clips, (B, frames)
    comparison.beside(media, references)                # {"detail_db": (B,)}, for clips {"motion": ..., "detail_db": ...}

Conventions: `media` may be fewer than their references, which are then the first ones. Numbers of a
picture that is not finite are NaN.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sensitivity.errors import MeasurementError
from sensitivity.fidelity.audio import audio_distance
from sensitivity.fidelity.detail import detail_distance
from sensitivity.fidelity.frames import frame_distances, motion_difference
from sensitivity.fidelity.score import Distance
from sensitivity.models.media import Media


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """How a study compares. `stride`: every so-manieth frame of a clip is looked at."""

    distance: Distance
    device: str
    stride: int

    def lpips(self, media: Media, references: Media) -> tuple[Tensor, Tensor | None]:
        """(B,) distances, for clips the mean over their frames, and the (B, N) distances of these.

        Raises:
            MeasurementError: a picture or clip is blank and its reference is not.
        """
        references = references.first(len(media))
        check_not_blank(media, references)
        if not media.is_video:
            return (
                torch.where(
                    media.is_finite(), self.distance(media.pictures, references.pictures), torch.nan
                ),
                None,
            )
        frames = frame_distances(
            self.distance, media, references, stride=self.stride, device=self.device
        )
        return torch.where(media.is_finite(), frames.mean(1), torch.nan), frames

    def audio(self, media: Media, references: Media) -> Tensor | None:
        """(B,) distances of the sound; None where there is none."""
        if media.sound is None or references.sound is None or media.sample_rate is None:
            return None
        return audio_distance(
            media.sound, references.sound[: len(media)], sample_rate=media.sample_rate
        )

    def beside(self, media: Media, references: Media) -> dict[str, Tensor]:
        """{measure: (B,)} of what a verified recipe reports beside LPIPS and sound."""
        if not media.is_video:
            return {"detail_db": self._detail(media.pictures, references.pictures[: len(media)])}
        detail = frame_distances(
            self._detail, media, references, stride=self.stride, device=self.device
        ).mean(1)
        return {
            "motion": motion_difference(
                self.distance, media, references, stride=self.stride, device=self.device
            ),
            "detail_db": detail,
        }

    def _detail(self, pictures: Tensor, references: Tensor) -> Tensor:
        return detail_distance(pictures.to(self.device), references.to(self.device))


def check_not_blank(media: Media, references: Media) -> None:
    """Raise MeasurementError for a picture or clip of one single value, as black ones, where the
    reference is not so.
    """
    blank = (media.is_blank() & ~references.is_blank()).tolist()
    if any(blank):
        what = "clips" if media.is_video else "pictures"
        raise MeasurementError(
            f"{sum(blank)} of {len(blank)} {what} are blank (prompt {blank.index(True)} first)"
            " where bf16's are not"
        )
