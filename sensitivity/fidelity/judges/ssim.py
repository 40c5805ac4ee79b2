"""Does each place have the same structure? SSIM, at most 1; higher is better.

Source: Wang et al. 2004, "Image quality assessment: from error visibility to structural
similarity", by scikit-image with the paper's settings: a Gaussian window of standard deviation 1.5,
population covariance, K1 = 0.01 and K2 = 0.03. Channels are averaged.

What it sees: noise, lost contrast and structure, place by place. What it does not see: colour. Of
damage with the same LPIPS (0.05, tiny-flux; `benchmarks/judges.py`), noise has 0.89, a shift of 0.9
pixels 0.94, a blur 0.98, and turned hues and a tint have 0.998. Like LPIPS it calls a picture bad
that is composed a little differently. Its windows need pictures of at least 11 x 11.
"""

from importlib.metadata import version

import torch
from skimage.metrics import structural_similarity
from torch import Tensor

from sensitivity.fidelity.judges._base import PictureJudge, as_arrays


class Ssim(PictureJudge):
    """Structural similarity by scikit-image."""

    name = "ssim"
    higher_is_better = True

    def __init__(self) -> None:
        self.made_by = f"scikit-image {version('scikit-image')}"

    def compare(self, pictures: Tensor, references: Tensor) -> Tensor:
        """See `PictureJudge`."""
        return torch.tensor(
            [
                float(
                    structural_similarity(
                        reference,
                        picture,
                        channel_axis=-1,
                        data_range=1.0,
                        gaussian_weights=True,
                        sigma=1.5,
                        use_sample_covariance=False,
                    )
                )
                for reference, picture in zip(
                    as_arrays(references), as_arrays(pictures), strict=True
                )
            ]
        )
