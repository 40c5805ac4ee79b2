"""MXFP8: e4m3 codes with one e8m0 scale for 32 values along K."""

import torch
from torch import Tensor, nn
from torchao.core.config import AOBaseConfig
from torchao.prototype.mx_formats import MXDynamicActivationMXWeightConfig
from torchao.prototype.mx_formats.config import ScaleCalculationMode
from torchao.prototype.mx_formats.mx_tensor import to_dtype, to_mx

from sensitivity.core.format_name import FormatName
from sensitivity.formats import cpu_kernels
from sensitivity.formats._base import Format, QuantizedOperand, padded_scale_bytes
from sensitivity.formats.kernel_choice import is_eager_cpu, is_eager_cuda, load_triton_kernels
from sensitivity.formats.products import (
    fits_fused_linear,
    full_precision_reductions,
    fused_linear,
    product_fp32,
    scale_and_round,
)

BLOCK = 32


class MXFP8(Format):
    """OCP Microscaling MXFP8 with NVIDIA's scale rule: e4m3 codes, and one e8m0 scale
    2^ceil(log2(amax / 448)) for 32 values along K.
    """

    name = FormatName.MXFP8
    k_multiple, n_multiple = BLOCK, 16
    min_capability = (10, 0)

    def weight_bytes(self, *, k: int, n: int) -> int:
        return n * k + padded_scale_bytes(n, k // BLOCK)

    def native_config(self) -> AOBaseConfig:
        return MXDynamicActivationMXWeightConfig(scaling_mode=ScaleCalculationMode.RCEIL)

    def quantize_weight(self, weight: Tensor) -> QuantizedOperand:
        weight = self._checked(weight, block=BLOCK)
        if is_eager_cuda(weight):
            values = load_triton_kernels().quantize_mxfp8(weight)
        else:
            scale, codes = to_mx(weight, torch.float8_e4m3fn, BLOCK, ScaleCalculationMode.RCEIL)
            values = to_dtype(codes, scale, torch.float8_e4m3fn, BLOCK, torch.bfloat16)
        return QuantizedOperand(values=values, scale=None)

    def quantize_activation(self, x: Tensor) -> QuantizedOperand:
        x = self._checked(x, block=BLOCK)
        values = cpu_kernels.quantize_mxfp8(x) if is_eager_cpu(x) else None
        if values is None:
            return self.quantize_weight(x)
        return QuantizedOperand(values=values, scale=None)

    def linear(self, x: QuantizedOperand, weight: QuantizedOperand, bias: Tensor | None) -> Tensor:
        if fits_fused_linear(x.values, weight.values, bias):
            return fused_linear(x.values, weight.values, bias)
        if is_eager_cuda(x.values) and (bias is None or bias.dtype == torch.bfloat16):
            with full_precision_reductions():
                return nn.functional.linear(x.values, weight.values, bias)
        return scale_and_round(product_fp32(x.values, weight.values), (), bias)
