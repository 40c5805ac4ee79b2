"""How large is the mean squared error? PSNR, in decibels; higher is better.

    PSNR = -10 log10(mean over places and channels of (picture - reference)^2)      values in [0, 1]

What it sees: every difference alike, wherever it is and whether or not anybody sees it. Of damage
with the same LPIPS (0.05, tiny-flux; `benchmarks/judges.py`), a shift of 0.9 pixels has 29 dB, a
blur, noise or a tint 36 to 39, and hues that turned by 7 degrees 41. Another seed has 20. It is
recorded since many papers state it.

Equal pictures have no finite PSNR. `MOST` stands for it: it is the error of a value that is off by
1e-5, far below a step of 8 bits (48 dB is one such step everywhere).
"""

from importlib.metadata import version

import torch
from skimage.metrics import mean_squared_error
from torch import Tensor

from sensitivity.fidelity.judges._base import PictureJudge, as_arrays

MOST = 100.0
"""Decibels of equal pictures."""


class Psnr(PictureJudge):
    """Peak signal-to-noise ratio by scikit-image's mean squared error."""

    name = "psnr"
    higher_is_better = True
    unit = "dB"

    def __init__(self) -> None:
        self.made_by = f"scikit-image {version('scikit-image')}"

    def compare(self, pictures: Tensor, references: Tensor) -> Tensor:
        """See `PictureJudge`."""
        pairs = zip(as_arrays(references), as_arrays(pictures), strict=True)
        errors = torch.tensor([float(mean_squared_error(r, p)) for r, p in pairs]).double()
        return (-10 * errors.log10()).clamp(max=MOST)
