"""How far are latents from those of bf16? `relative_errors`.

    relative_errors((video, sound), (bf16_video, bf16_sound))       # (B,)

Latents do not flip to another picture as pictures do, so their error is a steady signal beside
LPIPS. It says how far a run went from bf16's, not what eyes see of it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def relative_errors(latents: Sequence[Tensor], references: Sequence[Tensor]) -> Tensor:
    """|latents - reference| / |reference| of each prompt, with Euclidean norms.

    Where there are several, as of video and sound, the root of the sum of their squares. One whose
    reference is 0 throughout has no relative error, and is passed over.

    Args:
        latents: (B, ...) of each kind, of any float dtype.
        references: (B, ...) those of bf16.

    Returns:
        (B,) fp32 on their device.
    """
    squares = []
    for found, reference in zip(latents, references, strict=True):
        whole = reference.float().flatten(1).square().sum(1)
        wrong = (found.float() - reference.float()).flatten(1).square().sum(1)
        squares.append(torch.where(whole > 0, wrong / whole, 0.0))
    return torch.stack(squares).sum(0).sqrt()
