"""Would somebody see the difference who flips between the two pictures? FLIP, 0 to 1; lower is
better.

Source: Andersson et al. 2020, "FLIP: A Difference Evaluator for Alternating Images", by the
authors' package `flip-evaluator`, for pictures of low dynamic range and its default viewing
distance (67 pixels a degree). The value is the mean of the error map.

What it sees that LPIPS sees less: colour. FLIP filters colours as eyes do, compares them in a
uniform space, and adds what edges and points differ by. Of damage with the same LPIPS (0.05,
tiny-flux; `benchmarks/judges.py`), a blur has 0.03, noise 0.04, turned hues 0.09 and a tint 0.08.
FLIP compares place by place, so another composition, as good as the first, is bad for it: another
seed has 0.20.
"""

from importlib.metadata import version

import flip_evaluator
import torch
from torch import Tensor

from sensitivity.fidelity.judges._base import PictureJudge, as_arrays


class Flip(PictureJudge):
    """LDR-FLIP, by NVIDIA's own code. It runs on the CPU."""

    name = "flip"

    def __init__(self) -> None:
        self.made_by = f"flip-evaluator {version('flip-evaluator')}"

    def compare(self, pictures: Tensor, references: Tensor) -> Tensor:
        """See `PictureJudge`."""
        pairs = zip(as_arrays(references), as_arrays(pictures), strict=True)
        return torch.tensor(
            [float(flip_evaluator.evaluate(r, p, "LDR", applyMagma=False)[1]) for r, p in pairs]
        )
