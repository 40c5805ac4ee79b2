"""What does torchao launch for a quantized Linear, taken apart? `quantizers`, `GEMMS`.

`quantizers()` are torchao's own quantizers of activations as functions of plain tensors, `GEMMS`
the products of quantized operands that torchao then calls (`torch._scaled_mm`, `torch._int_mm`).
Variants are made of the parts of their plain format, and of `rotation.rotate`.

    codes, scales = quantizers()[FormatName.FP8](x)
    y = GEMMS[FormatName.FP8](codes, scales, *quantizers()[FormatName.FP8](weight), bias)

What it does not do: NVFP4's scale and bias after the product, which torchao applies with kernels of
their own and Inductor fuses into the next. `native` quantizes whole Linears.
"""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor
from torchao.prototype.mx_formats.config import ScaleCalculationMode
from torchao.prototype.mx_formats.mx_tensor import to_mx
from torchao.prototype.mx_formats.nvfp4_tensor import NVFP4Tensor, per_tensor_amax_to_scale
from torchao.quantization import Int8Tensor
from torchao.quantization.granularity import PerRow
from torchao.quantization.quant_primitives import _choose_scale_float8, _quantize_affine_float8

from sensitivity.core.format_name import FormatName
from sensitivity.formats import mslk

Quantizer = Callable[[Tensor], tuple[Tensor, Tensor]]
"""An activation (M, K) bf16 -> (codes, scales), as the GEMM takes them."""
Gemm = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""(codes and scales of the input, codes and scales of the weight (N, K), bias) -> (M, N) bf16."""


def quantize_fp8(x: Tensor) -> tuple[Tensor, Tensor]:
    """e4m3 codes (M, K) and one fp32 scale a row (M, 1)."""
    scale = _choose_scale_float8(x, block_size=[1, x.shape[-1]])
    return _quantize_affine_float8(x, scale), scale


def quantize_mxfp8(x: Tensor) -> tuple[Tensor, Tensor]:
    """e4m3 codes (M, K) and e8m0 block scales in the GEMM's layout."""
    scale, codes = to_mx(
        x, torch.float8_e4m3fn, 32, ScaleCalculationMode.RCEIL, is_swizzled_scales=True
    )
    return codes, scale


def quantize_nvfp4(x: Tensor, *, use_mslk: bool = False) -> tuple[Tensor, Tensor]:
    """e2m1 codes, two a byte, and e4m3 block scales in the GEMM's layout.

    The scale of the tensor is computed on the way and dropped, since the GEMM does not take it.
    """
    quantized = NVFP4Tensor.to_nvfp4(
        x,
        per_tensor_scale=per_tensor_amax_to_scale(torch.max(torch.abs(x))),
        is_swizzled_scales=True,
        use_triton_kernel=use_mslk,
    )
    return quantized.qdata, quantized.scale


def quantize_int8(x: Tensor) -> tuple[Tensor, Tensor]:
    """int8 codes (M, K) and one fp32 scale a row (M, 1)."""
    quantized = Int8Tensor.from_hp(x, granularity=PerRow())
    return quantized.qdata, quantized.scale


def gemm_fp8(x: Tensor, x_scale: Tensor, w: Tensor, w_scale: Tensor, bias: Tensor | None) -> Tensor:
    """torchao's row-wise product, fast accumulation on."""
    return torch._scaled_mm(
        x,
        w.t(),
        scale_a=x_scale,
        scale_b=w_scale.t(),
        bias=bias,
        out_dtype=torch.bfloat16,
        use_fast_accum=True,
    )


def gemm_mxfp8(
    x: Tensor, x_scale: Tensor, w: Tensor, w_scale: Tensor, bias: Tensor | None
) -> Tensor:
    """torchao's MX product (`_addmm_mx_dispatch`)."""
    return torch._scaled_mm(
        x,
        w.t(),
        x_scale.view(torch.float8_e8m0fnu),
        w_scale.view(torch.float8_e8m0fnu),
        bias=bias,
        out_dtype=torch.bfloat16,
    )


def gemm_nvfp4(
    x: Tensor, x_scale: Tensor, w: Tensor, w_scale: Tensor, _bias: Tensor | None
) -> Tensor:
    """torchao's NVFP4 product (`_addmm_nvfp4_dispatch`), which never takes the bias."""
    return torch._scaled_mm(
        x.view(torch.float4_e2m1fn_x2),
        w.t().view(torch.float4_e2m1fn_x2),
        x_scale.view(torch.float8_e4m3fn),
        w_scale.view(torch.float8_e4m3fn),
        out_dtype=torch.bfloat16,
    )


def gemm_int8(
    x: Tensor, x_scale: Tensor, w: Tensor, w_scale: Tensor, bias: Tensor | None
) -> Tensor:
    """torchao's INT8 product (`int_scaled_matmul`), with both scales and the bias. On CUDA it
    refuses M <= 16.
    """
    product = torch._int_mm(x, w.t()) * x_scale * w_scale.t()
    return (product if bias is None else product + bias).to(torch.bfloat16)


def quantizers() -> dict[FormatName, Quantizer]:
    """torchao's quantizers, as `Format.native_config` chooses among them: NVFP4 by mslk if it is
    there.
    """
    return {
        FormatName.FP8: quantize_fp8,
        FormatName.MXFP8: quantize_mxfp8,
        FormatName.NVFP4: partial(quantize_nvfp4, use_mslk=mslk.is_available()),
        FormatName.INT8: quantize_int8,
    }


GEMMS: Mapping[FormatName, Gemm] = {
    FormatName.FP8: gemm_fp8,
    FormatName.MXFP8: gemm_mxfp8,
    FormatName.NVFP4: gemm_nvfp4,
    FormatName.INT8: gemm_int8,
}
