"""NVFP4: e2m1 codes with one e4m3 scale for 16 values along K, and one fp32 scale a tensor."""

import torch
from torch import Tensor
from torchao.core.config import AOBaseConfig
from torchao.prototype.mx_formats import NVFP4DynamicActivationNVFP4WeightConfig
from torchao.prototype.mx_formats.kernels import f4_unpacked_to_f32, unpack_uint4
from torchao.prototype.mx_formats.nvfp4_tensor import nvfp4_quantize, per_tensor_amax_to_scale

from sensitivity.core.format_name import FormatName
from sensitivity.formats import cpu_kernels, mslk
from sensitivity.formats._base import Format, QuantizedOperand, padded_scale_bytes
from sensitivity.formats.kernel_choice import is_eager_cpu, is_eager_cuda, load_triton_kernels
from sensitivity.formats.products import (
    fits_fused_linear,
    fused_linear,
    product_fp32,
    scale_and_round,
)

BLOCK = 16


class NVFP4(Format):
    """NVFP4: e2m1 codes, one e4m3 scale for 16 values along K, and one fp32 scale amax / (448 * 6)
    for the tensor, computed at run time for activations.
    """

    name = FormatName.NVFP4
    k_multiple, n_multiple = 32, 16
    min_capability = (10, 0)

    def weight_bytes(self, *, k: int, n: int) -> int:
        return n * k // 2 + padded_scale_bytes(n, k // BLOCK) + 4

    def native_config(self) -> AOBaseConfig:
        return NVFP4DynamicActivationNVFP4WeightConfig(
            use_triton_kernel=mslk.is_available(), use_dynamic_per_tensor_scale=True
        )

    def quantize_weight(self, weight: Tensor) -> QuantizedOperand:
        weight = self._checked(weight, block=BLOCK)
        if is_eager_cuda(weight):
            values, tensor_scale = load_triton_kernels().quantize_nvfp4(weight)
            return QuantizedOperand(values=values, scale=tensor_scale)
        tensor_scale = per_tensor_amax_to_scale(torch.max(torch.abs(weight)))
        block_scale, packed = nvfp4_quantize(weight, BLOCK, tensor_scale)
        codes = f4_unpacked_to_f32(unpack_uint4(packed)).view(weight.shape[0], -1, BLOCK)
        values = (codes * block_scale.float().unsqueeze(-1)).view(weight.shape)
        return QuantizedOperand(values=values.bfloat16(), scale=tensor_scale)

    def quantize_activation(self, x: Tensor) -> QuantizedOperand:
        x = self._checked(x, block=BLOCK)
        fast = cpu_kernels.quantize_nvfp4(x) if is_eager_cpu(x) else None
        if fast is None:
            return self.quantize_weight(x)
        values, tensor_scale = fast
        return QuantizedOperand(values=values, scale=tensor_scale)

    def linear(self, x: QuantizedOperand, weight: QuantizedOperand, bias: Tensor | None) -> Tensor:
        assert x.scale is not None
        assert weight.scale is not None
        scale = x.scale * weight.scale
        if (
            fits_fused_linear(x.values, weight.values, bias)
            and cpu_kernels.SAFE_MIN <= (alpha := scale.item()) <= cpu_kernels.SAFE_MAX
        ):
            return fused_linear(x.values, weight.values, bias, alpha=alpha)
        return scale_and_round(product_fp32(x.values, weight.values), (scale,), bias)
