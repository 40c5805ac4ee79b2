"""Did the pictures lose or gain detail? `detail_distance`, a second opinion beside LPIPS.

LPIPS, SSIM and PSNR compare place by place. So they call a picture bad that is as good as its
reference but composed a little differently: drift. Damage is something else: noise, blur, blocks,
banding, lost contrast.

Method. Each picture is described by itself, without the other: by how much energy it has in each
octave of a Laplacian pyramid (Burt and Adelson 1983), as the mean over places of the logarithm of
the local energy. Then the two descriptions are compared. This is the reduced-reference idea of RRED
(Soundararajan and Bovik 2012, "RRED indices", averaged log energies of subbands) in its plainest
form: luma, three octaves, decibels.

    E_k(x) = mean over places of 10 log10(e_k^2 + floor^2)
    detail(x, r) = mean over octaves of |E_k(x) - E_k(r)|     in dB

e_k^2 is the mean square of octave k in a window of 7 x 7, and `floor` is half a step of 8 bits. The
value does not change when a picture is flipped, and hardly when it is shifted. A contrast changed
by a factor a is at |20 log10 a|.

Evidence, measured on tiny-flux (24 pictures; `benchmarks/drift_or_damage.py`). Pictures of other
seeds, which are as good as their references, are at LPIPS 0.43, 1 - SSIM 0.44 and 0.35 dB. Noise of
1 % of the range is at LPIPS 0.011, 1 - SSIM 0.025 and 1.5 dB, a blur of 0.9 pixels at 0.10, 0.027
and 1.6 dB. On average, twenty kinds of damage lie 2.8 standard deviations above drift of the same
LPIPS; with SSIM 0.5 (blurs below it), with MS-SSIM -0.4. That is why this is the second metric, and
SSIM is not.

What it does not see: composition, prompt, colours, brightness. LPIPS sees those. It needs no
weights, and takes any size from 8 x 8 on.
"""

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, pad

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue (ITU-R BT.601)."""
OCTAVES = 3
WINDOW = 7
FLOOR = 1 / 510
"""Half a step of 8 bits."""
BLUR = (1.0, 4.0, 6.0, 4.0, 1.0)
"""The pyramid's binomial filter of 5 taps."""


def detail_distance(pictures: Tensor, references: Tensor) -> Tensor:
    """How far the detail of each picture is from that of its reference.

    Args:
        pictures: (B, 3, H, W) in [-1, 1].
        references: The same shape and range.

    Returns:
        (B,) decibels, fp32 on the CPU.
    """
    return (octave_energies(pictures) - octave_energies(references)).abs().mean(1).cpu()


def octave_energies(pictures: Tensor) -> Tensor:
    """Mean log energy of pictures (B, 3, H, W) in [-1, 1]: (B, octaves) dB, finest octave first."""
    weights = torch.tensor(LUMA, device=pictures.device)[:, None, None]
    level = ((pictures.float() + 1) / 2 * weights).sum(1, keepdim=True)  # (B, 1, H, W) in [0, 1]
    taps = torch.tensor(BLUR, device=pictures.device) / sum(BLUR)
    kernel = (taps[:, None] * taps)[None, None]
    energies = []
    for _ in range(OCTAVES):
        smooth = conv2d(pad(level, (2,) * 4, mode="replicate"), kernel)
        local = avg_pool2d((level - smooth).square(), min(WINDOW, *level.shape[-2:]), stride=1)
        energies.append(10 * torch.log10(local + FLOOR**2).mean((1, 2, 3)))
        level = smooth[..., ::2, ::2]
    return torch.stack(energies, 1)
