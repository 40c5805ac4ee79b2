"""What would LPIPS say, where something else is the objective? `Lpips`, a judge of the study's net.

Lpips(study_distance(spec, device="cpu"))(pictures, references, prompts)
"""

from torch import Tensor

from sensitivity.fidelity.distance import Distance
from sensitivity.fidelity.judges._base import PictureJudge


class Lpips(PictureJudge):
    """LPIPS beside an objective; lower is better."""

    name = "lpips"

    def __init__(self, distance: Distance) -> None:
        self.distance, self.made_by = distance, f"LPIPS {distance.name}"

    def compare(self, pictures: Tensor, references: Tensor) -> Tensor:
        """See `PictureJudge`."""
        return self.distance(pictures * 2 - 1, references * 2 - 1)
