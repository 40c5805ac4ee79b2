"""MXFP8: e4m3 codes with one e8m0 scale for 32 values along K."""

import torch
from torch import Tensor, nn
from torchao.core.config import AOBaseConfig
from torchao.prototype.mx_formats import MXDynamicActivationMXWeightConfig
from torchao.prototype.mx_formats.config import ScaleCalculationMode
from torchao.prototype.mx_formats.mx_tensor import to_dtype, to_mx

from sensitivity.core.format_name import FormatName
from sensitivity.formats import cpu_kernels as kernels
from sensitivity.formats._base import (
    Format,
    QuantizedOperand,
    _fits_fused,
    _is_eager_cuda,
    _padded_scales,
    _product_fp32,
    _scale_and_round,
    _triton,
    is_eager_cpu,
)


class MXFP8(Format):
    """OCP Microscaling MXFP8 with NVIDIA's scale rule: e4m3 codes, one e8m0 scale 2^ceil(log2(amax
    / 448)) for 32 values along K.
    """

    name = FormatName.MXFP8
    k_multiple, n_multiple = 32, 16
    min_capability = (10, 0)

    def weight_bytes(self, *, k: int, n: int) -> int:
        return n * k + _padded_scales(n, k // 32)

    def native_config(self) -> AOBaseConfig:
        return MXDynamicActivationMXWeightConfig(scaling_mode=ScaleCalculationMode.RCEIL)

    def quantize_weight(self, weight: Tensor) -> QuantizedOperand:
        weight = self._checked(weight, 32)
        if _is_eager_cuda(weight):
            return QuantizedOperand(values=_triton().quantize_mxfp8(weight), scale=None)
        scale, codes = to_mx(weight, torch.float8_e4m3fn, 32, ScaleCalculationMode.RCEIL)
        return QuantizedOperand(
            values=to_dtype(codes, scale, torch.float8_e4m3fn, 32, torch.bfloat16), scale=None
        )

    def quantize_activation(self, x: Tensor) -> QuantizedOperand:
        x = self._checked(x, 32)
        values = kernels.quantize_mxfp8(x) if is_eager_cpu(x) else None
        return (
            self.quantize_weight(x)
            if values is None
            else QuantizedOperand(values=values, scale=None)
        )

    def linear(self, x: QuantizedOperand, weight: QuantizedOperand, bias: Tensor | None) -> Tensor:
        if _fits_fused(x, weight, bias):
            return kernels.fused_linear(x.values, weight.values, bias)
        if _is_eager_cuda(x.values) and (bias is None or bias.dtype == torch.bfloat16):
            with kernels.full_precision_reductions():
                return nn.functional.linear(x.values, weight.values, bias)
        return _scale_and_round(_product_fp32(x.values, weight.values), (), bias)
