"""What do runtimes compute that serve a model otherwise than eager torchao does?

`format_in` gives a format in the arithmetic of one of them:

    format_in(FormatName.FP8, Arithmetic.COMPILED)        # fp8 as torch.compile computes it

Weights are the same in all of them: torchao quantizes them eagerly, before anything is compiled,
and never by MSLK (`_nvfp4_inference_linear_transform`). What differs is the activation and what
follows the product (the epilogue).

| | activation | epilogue |
|---|---|---|
| fp8, eager | row scale amax / 448 rounded to bf16 | fp32, one rounding |
| fp8, compiled | row scale in fp32: the compiler keeps no bf16 between its operations | the same |
| nvfp4, eager | torchao's primitives | one rounding: the ideal, which no runtime has |
| nvfp4, compiled | the same | product to bf16; times the fp32 scale, plus bias; to bf16 |
| nvfp4, mslk | MSLK's kernel, see below | product, scale, their product and the sum, each to bf16 |
| mxfp8, all three | the same, bit for bit | one rounding |
| int8, eager and mslk | row scale amax / 127.5 rounded to bf16 | one rounding, see `int8` |
| int8, compiled | row scale in fp32 | the same |

Variants follow their plain format: `int8-rot` and `nvfp4-4o6` in all three, `fp8-lb` as fp8, with
the bound in bf16 (eager) or fp32 (compiled). Weight-only formats are the ideal in all three
(`weight_only` says how torchao differs).

**MSLK's NVFP4 quantizer** (`triton_quantize_nvfp4_kernel` of mslk 1.1.0, with precise math, as
torchao 0.18 calls it). With g = 1 / T, T = amax * fp32(1 / 2688), as CUDA divides by a constant, it
computes s = e4m3(clamp(bmax / 6 * g, 2^-16, 448)) and code = e2m1(x * (g / s)), each step in fp32
and rounded to nearest. torchao has bmax / 6 / T and a least scale of 2^-6. e4m3 has nothing between
0 and 2^-9: a scale up to 2^-10 becomes 0, and its block with it. A tensor of zeros gives zeros,
where torchao's primitives give NaN.

**How it is known.** `compiled` is held to `torch.compile` of torchao's own functions on the CPU,
bit for bit (`tests/formats/test_served.py`). On a GPU the compiler may divide by a multiplication,
and a few codes differ. `mslk` follows its source; the tests hold it to a second reading of the
source, in NumPy. fp8, fp8-lb and fp8-a16 with MSLK are not known: torchao then calls MSLK's own
GEMM, or its quantizer, or both.

What it does not do: latencies, weights.
"""

import torch
from torch import Tensor

from sensitivity.core.arithmetic import Arithmetic
from sensitivity.core.format_name import FormatName
from sensitivity.core.kernels import Kernels
from sensitivity.errors import FormatError
from sensitivity.formats._base import Format, QuantizedOperand
from sensitivity.formats.cpu_kernels import (
    INT8_HALF_RANGE,
    INT8_LEAST_SCALE,
    INT8_MAX,
    INT8_MIN,
)
from sensitivity.formats.four_over_six import FourOverSix
from sensitivity.formats.fp8 import FP8, LOWER_BOUND, HardwareFP8
from sensitivity.formats.int8 import INT8
from sensitivity.formats.kernel_choice import is_eager_cpu
from sensitivity.formats.nvfp4 import BLOCK, NVFP4
from sensitivity.formats.products import fits_fused_linear, fused_linear, product_fp32
from sensitivity.formats.registry import get_format
from sensitivity.formats.variant import Rotated, variant_of

E4M3_MAX, E2M1_MAX = 448.0, 6.0
MSLK_LEAST_SCALE = 2.0**-16
"""`E4M3_EPS` of MSLK's kernel."""
ROUND_E2M1 = 1.5 * 2.0**22
"""See `cpu_kernels`: adding and subtracting it times a power of two rounds to e2m1."""


class CompiledFP8(FP8):
    """fp8 whose activations have row scales in fp32."""

    arithmetic = Arithmetic.COMPILED

    def quantize_activation(self, x: Tensor) -> QuantizedOperand:
        codes, scale = _fp8_rows(self._checked(x), self.lower_bound)
        dtype = torch.float32 if is_eager_cpu(x) else torch.bfloat16
        return QuantizedOperand(values=codes.to(dtype), scale=scale)


class CompiledHardwareFP8(HardwareFP8):
    """The same, multiplied by the GPU's own GEMM."""

    arithmetic = Arithmetic.COMPILED

    def quantize_activation(self, x: Tensor) -> QuantizedOperand:
        codes, scale = _fp8_rows(self._checked(x), self.lower_bound)
        return QuantizedOperand(values=codes, scale=scale)


class CompiledINT8(INT8):
    """int8 whose activations have row scales in fp32."""

    arithmetic = Arithmetic.COMPILED

    def quantize_activation(self, x: Tensor) -> QuantizedOperand:
        codes, scale = _int8_rows(self._checked(x))
        return QuantizedOperand(values=codes, scale=scale)


class CompiledHardwareINT8(CompiledINT8):
    """The same on a GPU, where `torch._int_mm` is the GPU's own GEMM."""

    kernels = Kernels.NATIVE


class CompiledNVFP4(NVFP4):
    """nvfp4 whose product is rounded to bf16 before it is scaled."""

    arithmetic = Arithmetic.COMPILED

    def linear(self, x: QuantizedOperand, weight: QuantizedOperand, bias: Tensor | None) -> Tensor:
        assert x.scale is not None
        assert weight.scale is not None
        scaled = _product_bf16(x.values, weight.values).float() * (x.scale * weight.scale)
        return (scaled if bias is None else scaled + bias.float()).bfloat16()


class MslkNVFP4(NVFP4):
    """nvfp4 with MSLK's quantizer of activations and torchao's native epilogue
    (`_addmm_nvfp4_dispatch`).
    """

    arithmetic = Arithmetic.MSLK

    def quantize_activation(self, x: Tensor) -> QuantizedOperand:
        values, scale = _mslk_nvfp4(self._checked(x, block=BLOCK))
        return QuantizedOperand(values=values, scale=scale)

    def linear(self, x: QuantizedOperand, weight: QuantizedOperand, bias: Tensor | None) -> Tensor:
        assert x.scale is not None
        assert weight.scale is not None
        scaled = _product_bf16(x.values, weight.values) * (x.scale * weight.scale).bfloat16()
        return scaled if bias is None else scaled + bias.bfloat16()


_SERVED: dict[tuple[FormatName, Arithmetic], Format] = {
    (FormatName.FP8, Arithmetic.COMPILED): CompiledFP8(),
    (FormatName.FP8_LB, Arithmetic.COMPILED): CompiledFP8(
        name=FormatName.FP8_LB, lower_bound=LOWER_BOUND
    ),
    (FormatName.INT8, Arithmetic.COMPILED): CompiledINT8(),
    (FormatName.NVFP4, Arithmetic.COMPILED): CompiledNVFP4(),
    (FormatName.NVFP4, Arithmetic.MSLK): MslkNVFP4(),
}
_UNKNOWN = {
    (name, Arithmetic.MSLK) for name in (FormatName.FP8, FormatName.FP8_LB, FormatName.FP8_A16)
}


def format_in(name: FormatName, arithmetic: Arithmetic) -> Format:
    """The format in the arithmetic of a runtime.

    Raises:
        FormatError: what the runtime computes in this format is not known exactly.
    """
    if not is_known(name, arithmetic):
        raise FormatError(
            f"found `format` {name} with `arithmetic` {arithmetic}; expected a pair whose numbers"
            f" are known exactly: MSLK has kernels of its own for {name.plain}, and they are not"
            " emulated. Choose `arithmetic` eager or compiled, or `format` nvfp4"
        )
    if name.is_rotated:
        return variant_of(Rotated, format_in(name.plain, arithmetic))
    if name is FormatName.NVFP4_4O6:
        return variant_of(FourOverSix, format_in(name.plain, arithmetic))
    return _SERVED.get((name, arithmetic), get_format(name))


def is_known(name: FormatName, arithmetic: Arithmetic) -> bool:
    """Whether what the runtime computes in this format is known exactly."""
    return (name, arithmetic) not in _UNKNOWN


def _fp8_rows(x: Tensor, lower_bound: float | None) -> tuple[Tensor, Tensor]:
    """x: (rows, K) bf16. Returns e4m3 codes (rows, K) and fp32 scales (rows, 1).

    torchao's `_choose_scale_float8` and `_quantize_affine_float8`, with nothing rounded to bf16. A
    row of zeros has codes 0 / 0 = NaN, unless amax has a lower bound.
    """
    amax = x.abs().amax(dim=-1, keepdim=True).float()
    if lower_bound is not None:
        amax = amax.clamp(min=lower_bound)
    scale = amax / torch.full_like(amax, E4M3_MAX)  # CUDA multiplies by 1 / a Python number
    codes = (x.float() / scale).clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn)
    return codes, scale


def _int8_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """x: (rows, K) bf16. Returns int8 codes (rows, K) and fp32 scales (rows, 1).

    torchao's `Int8Tensor.from_hp`, with nothing rounded to bf16.
    """
    amax = x.abs().amax(dim=-1, keepdim=True).float()
    scale = (amax / torch.full_like(amax, INT8_HALF_RANGE)).clamp(min=INT8_LEAST_SCALE)
    codes = (x.float() * (1.0 / scale)).round().nan_to_num(0.0).clamp(INT8_MIN, INT8_MAX)
    return codes.to(torch.int8), scale


def _mslk_nvfp4(x: Tensor) -> tuple[Tensor, Tensor]:
    """x: (rows, K) bf16, K % 16 == 0. Returns values (rows, K) bf16 and the tensor's scale, ()
    fp32.
    """
    blocks = x.float().view(x.shape[0], -1, BLOCK)
    block_amax = blocks.abs().amax(dim=-1, keepdim=True)
    amax = block_amax.amax()
    tensor_scale = amax * torch.full_like(amax, 1 / (E4M3_MAX * E2M1_MAX))
    encode = tensor_scale.reciprocal()
    scale = block_amax / torch.full_like(block_amax, E2M1_MAX) * encode
    # tl.clamp takes the bound for a NaN, which 0 * inf is in a tensor of zeros
    scale = scale.nan_to_num(nan=0.0, posinf=torch.inf).clamp(MSLK_LEAST_SCALE, E4M3_MAX)
    scale = scale.to(torch.float8_e4m3fn).float()
    codes = (blocks * (encode / scale)).clamp(-E2M1_MAX, E2M1_MAX)
    magic = ((codes.view(torch.int32) & 0x7F800000).view(torch.float32).clamp(min=1.0)) * ROUND_E2M1
    rounded = (codes + magic) - magic
    values = torch.where(scale == 0, 0.0, rounded * scale)
    return values.view(x.shape).bfloat16(), tensor_scale


def _product_bf16(a: Tensor, b: Tensor) -> Tensor:
    """bf16(a @ b.T), accumulated in fp32. a: (rows, K), b: (N, K)."""
    if fits_fused_linear(a, b, None):
        return fused_linear(a, b, None)
    return product_fp32(a, b).bfloat16()
