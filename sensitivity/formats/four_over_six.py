"""NVFP4 whose blocks choose between two scales: "four over six".

e2m1 has the numbers 0, 0.5, 1, 1.5, 2, 3, 4 and 6: nothing between 4 and 6. NVFP4 maps the largest
value of a block to 6, so a value at 5/6 of it errs by a sixth. If the largest is mapped to 4, the
grid below is finer and the block's scale 1.5 times as large. Four over six (Cook et al., "Four Over
Six: More Accurate NVFP4 Quantization with Adaptive Block Scaling", arXiv 2512.02010) tries both and
keeps, block by block, the one with the smaller squared error; 6 where they are equal.

    T    = amax / (6 * 256)                 # one fp32 scale a tensor; NVFP4 has 6 * 448
    s_6  = e4m3(bmax / 6 / T)
    s_4  = e4m3(1.5 * bmax / 6 / T)         # at most 384: why T has 256, and not 448
    code = e2m1(x / (s T))

Order and rounding are those of the authors' reference in PyTorch (mit-han-lab/fouroversix dadfad69,
`quantize/pytorch/reference.py`), which quantizes with 1 / (6 * 256 / amax) in the place of T. One
thing differs: a code never exceeds 6 where a scale underflows; there the reference has 8, and their
CUDA kernel saturates. NVIDIA ModelOpt's `NVFP4_FOUR_OVER_SIX_CFG`
(0.46) has the same two candidates, the same T and the same criterion.

**Weights only.** Activations are plain NVFP4's, as in ModelOpt, so kernels and seconds are NVFP4's
own. The result is codes, e4m3 block scales and T in NVFP4's layout: every NVFP4 GEMM takes it.
Natively the codes go into torchao's `NVFP4Tensor` (`with_blocks`); torchao's config cannot ask for
it.

A tensor of zeros stays zeros, where torchao's NVFP4 has NaN. A NaN or inf makes the whole weight
NaN. Errors are squared in fp32: where squares underflow or overflow, 6 is kept, as in the
reference.

    fmt = get_format("nvfp4-4o6")
    weight = fmt.quantize_weight(linear.weight)
"""

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torchao.core.config import AOBaseConfig
from torchao.prototype.mx_formats.kernels import f32_to_f4_unpacked, pack_uint4
from torchao.prototype.mx_formats.nvfp4_tensor import NVFP4Tensor
from torchao.prototype.mx_formats.utils import to_blocked

from sensitivity.core.format_name import FormatName
from sensitivity.core.kernels import Kernels
from sensitivity.errors import FormatError
from sensitivity.formats._base import Format, QuantizedOperand
from sensitivity.formats.cpu_kernels import CHUNK_ELEMENTS, round_to_e2m1_
from sensitivity.formats.nvfp4 import BLOCK
from sensitivity.formats.variant import Variant

LARGEST_SCALE, LARGEST_CODE = 256.0, 6.0
FOUR = 1.5
"""By how much larger the scale is that maps the largest value to 4."""


class Blocks(NamedTuple):
    """A weight (N, K) in NVFP4: values are codes * scales * tensor_scale.

    Attributes:
        codes: (N, K / 16, 16) fp32, numbers of e2m1.
        scales: (N, K / 16) e4m3.
        tensor_scale: () fp32.
    """

    codes: Tensor
    scales: Tensor
    tensor_scale: Tensor


class FourOverSix(Variant):
    """NVFP4 with four-over-six scales for the weight, and plain NVFP4 for activations."""

    def __init__(self, inner: Format) -> None:
        super().__init__(FormatName.NVFP4_4O6, inner)

    def native_config(self) -> AOBaseConfig:
        """Raises FormatError: torchao's config has no such scales."""
        raise FormatError(
            f"found no torchao config for {self.name}: torchao's chooses no block scales by their"
            " error; expected nvfp4, or apply the recipe natively, which puts these codes and"
            " scales into torchao's tensors"
        )

    def quantize_linear(self, linear: nn.Linear) -> None:
        blocks = quantize_blocks(self._checked(linear.weight, block=BLOCK))
        self.inner.quantize_linear(linear)
        kept = with_blocks(cast(NVFP4Tensor, linear.weight.data), blocks)
        linear.weight = nn.Parameter(kept, requires_grad=False)

    def quantize_weight(self, weight: Tensor) -> QuantizedOperand:
        blocks = quantize_blocks(self._checked(weight, block=BLOCK))
        if self.kernels is Kernels.NATIVE:
            kept = cast(NVFP4Tensor, self.inner.quantize_weight(weight).values)
            return QuantizedOperand(values=with_blocks(kept, blocks), scale=None)
        values = (blocks.codes * blocks.scales.float().unsqueeze(-1)).view(weight.shape)
        return QuantizedOperand(values=values.bfloat16(), scale=blocks.tensor_scale)


def with_blocks(kept: NVFP4Tensor, blocks: Blocks) -> NVFP4Tensor:
    """torchao's tensor of a weight, with other codes and scales of the same shape (N, K)."""
    n, k = kept.shape
    return NVFP4Tensor(
        pack_uint4(f32_to_f4_unpacked(blocks.codes.view(n, k))),
        to_blocked(blocks.scales).view(kept.scale.shape),
        kept.block_size,
        kept.orig_dtype,
        blocks.tensor_scale,
        is_swizzled_scales=True,
        use_triton_kernel=kept.use_triton_kernel,
        act_quant_kwargs=kept.act_quant_kwargs,
    )


def quantize_blocks(weight: Tensor) -> Blocks:
    """Codes and scales of a weight, (N, K) bf16 with K % 16 == 0."""
    amax = weight.abs().amax().float()
    largest = torch.full_like(amax, LARGEST_CODE * LARGEST_SCALE)
    encode = torch.where(amax == 0, 0.0, largest / amax)
    rows = max(1, CHUNK_ELEMENTS // weight.shape[1])
    parts = [_better(part, encode, amax) for part in torch.split(weight, rows)]
    return Blocks(
        codes=torch.cat([codes for codes, _ in parts]),
        scales=torch.cat([scales for _, scales in parts]),
        tensor_scale=amax / largest,
    )


def _better(weight: Tensor, encode: Tensor, amax: Tensor) -> tuple[Tensor, Tensor]:
    """Codes (rows, K / 16, 16) and scales (rows, K / 16) of some rows, each block by the scale of
    smaller error.

    Args:
        weight: (rows, K) bf16.
        encode: () fp32, 6 * 256 / amax.
        amax: () fp32, the largest magnitude of the whole weight.
    """
    blocks = weight.float().view(weight.shape[0], -1, BLOCK)
    # Divisors are tensors: CUDA would multiply by the reciprocal of a Python number.
    wanted = blocks.abs().amax(dim=-1) / torch.full_like(amax, LARGEST_CODE) * encode
    codes_6, scales_6, error_6 = _by(wanted, blocks, encode, amax)
    codes_4, scales_4, error_4 = _by(wanted * FOUR, blocks, encode, amax)
    takes_four = error_4 < error_6
    scales = torch.where(takes_four, scales_4.float(), scales_6.float())
    return torch.where(takes_four.unsqueeze(-1), codes_4, codes_6), scales.to(scales_6.dtype)


def _by(
    wanted: Tensor, blocks: Tensor, encode: Tensor, amax: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Codes, scales and squared errors of blocks whose scales should be `wanted`."""
    scales = wanted.to(torch.float8_e4m3fn)
    scale = scales.float().unsqueeze(-1)
    quotient = torch.where(scale == 0, 0.0, blocks * (1 / (1 / encode * scale)))
    codes = round_to_e2m1_(quotient.clamp_(-LARGEST_CODE, LARGEST_CODE))
    dequantized = codes * scale * amax / torch.full_like(amax, LARGEST_CODE * LARGEST_SCALE)
    return codes, scales, (dequantized - blocks).square().sum(dim=-1)
