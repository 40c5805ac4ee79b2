"""How much worse does a clip look to a viewer? ColorVideoVDP, in JOD; higher is better.

Source: Mantiuk et al. 2024, "ColorVideoVDP: A visual difference predictor for image, video and
display distortions", by the authors' package `cvvdp`. JOD are just-objectionable differences: 10 is
no visible difference, and of two clips that are one JOD apart, three viewers in four prefer the
better. The viewer sits before a 4K display of 30 inches at 0.75 m (`DISPLAY`).

What it sees that LPIPS does not: time. It models how eyes filter what changes. A still picture that
is 3 % too bright in all frames has 9.9 JOD, one that is too bright and too dark in turn, six times
a second, has 5.5; the LPIPS of their frames is 0.07 and 0.06. Noise that changes from frame to
frame (9.5 JOD) is less visible than noise that stays (9.1), with equal LPIPS
(`benchmarks/judges.py`).

It judges clips only, on the study's device.
"""

import contextlib
import logging
import sys
from collections.abc import Sequence
from importlib.metadata import version

import torch
from torch import Tensor

from sensitivity.fidelity.judges._base import Judge

with contextlib.redirect_stdout(sys.stderr):
    _log = logging.getLogger("torch.utils.cpp_extension")
    _level = _log.level
    _log.setLevel(logging.ERROR)  # it warns that there is no CUDA, where there is none
    import pycvvdp

    _log.setLevel(_level)

DISPLAY = "standard_4k"


class Cvvdp(Judge):
    """ColorVideoVDP of clips.

    Args:
        frames_per_second: Of the frames that are compared.
        device: Where it runs.
    """

    name = "cvvdp"
    higher_is_better = True
    unit = "JOD"

    def __init__(self, *, frames_per_second: float, device: str) -> None:
        self.made_by = f"cvvdp {version('cvvdp')}"
        self.frames_per_second = frames_per_second
        self.metric = pycvvdp.cvvdp(
            display_name=DISPLAY, heatmap=None, quiet=True, device=torch.device(device)
        )

    def __call__(
        self,
        pictures: Tensor,
        references: Tensor,
        prompts: Sequence[str],  # noqa: ARG002 - the contract has it
    ) -> Tensor:
        """See `Judge`; the arguments are clips."""
        rows = [
            self.metric.predict(
                clip, reference, dim_order="FCHW", frames_per_second=self.frames_per_second
            )[0]
            for clip, reference in zip(pictures, references, strict=True)
        ]
        return torch.stack([torch.as_tensor(row).flatten()[0].cpu() for row in rows])
