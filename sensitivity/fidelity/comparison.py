"""Which metrics compare a study's pictures or clips with their bf16 references? `Comparison`.

LPIPS and the distance of the sound decide in a search, and the error of the latents informs it.
Detail and, for clips, motion are secondary: a recipe reports them, and they decide nothing.

    comparison = Comparison(distance=distance, device="cpu", stride=1)
    comparison.lpips(media, references)          # (B,) and, for clips, (B, frames)
    comparison.secondary(media, references)      # {"detail_db": (B,)}; for clips "motion" as well

Conventions. `media` may be fewer than their references; they are then compared with the first ones.
The values of a picture that is not finite are NaN.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sensitivity.errors import MeasurementError
from sensitivity.fidelity.audio import audio_distance
from sensitivity.fidelity.detail import detail_distance
from sensitivity.fidelity.distance import Distance
from sensitivity.fidelity.frames import frame_distances, motion_difference
from sensitivity.fidelity.latents import relative_errors
from sensitivity.models.media import Media


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """How a study compares.

    Attributes:
        distance: The study's LPIPS.
        device: Where pictures are compared.
        stride: Of a clip, frames 0, stride, 2 stride, ... are compared.
    """

    distance: Distance
    device: str
    stride: int

    def lpips(self, media: Media, references: Media) -> tuple[Tensor, Tensor | None]:
        """LPIPS of each picture or clip.

        Returns:
            (B,) distances, for clips the mean over their frames; and for clips the (B, N) distances
            of the N frames that were compared, else None. A distance of whole clips has no frames.

        Raises:
            MeasurementError: A picture or clip is blank and its reference is not.
        """
        references = references.first(len(media))
        check_not_blank(media, references)
        if self.distance.whole_clips and media.is_video:
            at = range(0, media.pictures.shape[1], self.stride)
            rows = [
                self.distance(media.frames(b, at)[None], references.frames(b, at)[None])
                for b in range(len(media))
            ]
            return torch.where(media.is_finite(), torch.cat(rows), torch.nan), None
        if not media.is_video:
            distances = self.distance(media.pictures, references.pictures)
            return torch.where(media.is_finite(), distances, torch.nan), None
        frames = frame_distances(
            self.distance, media, references, stride=self.stride, device=self.device
        )
        return torch.where(media.is_finite(), frames.mean(1), torch.nan), frames

    def audio(self, media: Media, references: Media) -> Tensor | None:
        """(B,) distances of the sound; None if there is none."""
        if media.sound is None or references.sound is None or media.sample_rate is None:
            return None
        return audio_distance(
            media.sound, references.sound[: len(media)], sample_rate=media.sample_rate
        )

    def latent(self, media: Media, references: Media) -> Tensor | None:
        """(B,) relative errors of the latents; None if they are not known of both."""
        if not media.latents or len(media.latents) != len(references.latents):
            return None
        return relative_errors(media.latents, references.first(len(media)).latents)

    def secondary(self, media: Media, references: Media) -> dict[str, Tensor]:
        """{metric: (B,)} of what a recipe reports beside LPIPS and sound."""
        if not media.is_video:
            return {"detail_db": self._detail(media.pictures, references.pictures[: len(media)])}
        detail = frame_distances(
            self._detail, media, references, stride=self.stride, device=self.device
        ).mean(1)
        if self.distance.whole_clips:
            return {"detail_db": detail}
        motion = motion_difference(
            self.distance, media, references, stride=self.stride, device=self.device
        )
        return {"motion": motion, "detail_db": detail}

    def _detail(self, pictures: Tensor, references: Tensor) -> Tensor:
        return detail_distance(pictures.to(self.device), references.to(self.device))


def check_not_blank(media: Media, references: Media) -> None:
    """Raise MeasurementError for a picture or clip of one single value whose reference is not
    blank.

    Black pictures are the usual case.
    """
    blank = (media.is_blank() & ~references.is_blank()).tolist()
    if any(blank):
        what = "clips" if media.is_video else "pictures"
        raise MeasurementError(
            f"{sum(blank)} of {len(blank)} {what} are blank (prompt {blank.index(True)} first)"
            " where bf16's are not"
        )
