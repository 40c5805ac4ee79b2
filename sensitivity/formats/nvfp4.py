"""NVFP4: e2m1 codes with one e4m3 scale for 16 values along K, and one fp32 scale a tensor."""

import importlib.util

import torch
from torch import Tensor
from torchao.core.config import AOBaseConfig
from torchao.prototype.mx_formats import NVFP4DynamicActivationNVFP4WeightConfig
from torchao.prototype.mx_formats.kernels import f4_unpacked_to_f32, unpack_uint4
from torchao.prototype.mx_formats.nvfp4_tensor import nvfp4_quantize, per_tensor_amax_to_scale

from sensitivity.core.format_name import FormatName
from sensitivity.formats import cpu_kernels as kernels
from sensitivity.formats._base import (
    Format,
    QuantizedOperand,
    _fits_fused,
    _is_eager_cuda,
    _operand,
    _padded_scales,
    _product_fp32,
    _scale_and_round,
    _triton,
    is_eager_cpu,
)


class NVFP4(Format):
    """NVFP4: e2m1 codes, one e4m3 scale for 16 values along K, one fp32 scale amax / (448 * 6) for
    the tensor, dynamic for activations.
    """

    name = FormatName.NVFP4
    k_multiple, n_multiple = 32, 16
    min_capability = (10, 0)

    def weight_bytes(self, *, k: int, n: int) -> int:
        return n * k // 2 + _padded_scales(n, k // 16) + 4

    def native_config(self) -> AOBaseConfig:
        return NVFP4DynamicActivationNVFP4WeightConfig(
            use_triton_kernel=mslk_is_available(), use_dynamic_per_tensor_scale=True
        )

    def quantize_weight(self, weight: Tensor) -> QuantizedOperand:
        weight = self._checked(weight, 16)
        if _is_eager_cuda(weight):
            return _operand(*_triton().quantize_nvfp4(weight))
        tensor_scale = per_tensor_amax_to_scale(torch.max(torch.abs(weight)))
        block_scale, packed = nvfp4_quantize(weight, 16, tensor_scale)
        codes = f4_unpacked_to_f32(unpack_uint4(packed)).view(weight.shape[0], -1, 16)
        values = (codes * block_scale.float().unsqueeze(-1)).view(weight.shape)
        return QuantizedOperand(values=values.bfloat16(), scale=tensor_scale)

    def quantize_activation(self, x: Tensor) -> QuantizedOperand:
        x = self._checked(x, 16)
        fast = kernels.quantize_nvfp4(x) if is_eager_cpu(x) else None
        return (
            self.quantize_weight(x)
            if fast is None
            else QuantizedOperand(values=fast[0], scale=fast[1])
        )

    def linear(self, x: QuantizedOperand, weight: QuantizedOperand, bias: Tensor | None) -> Tensor:
        assert x.scale is not None
        assert weight.scale is not None
        scale = x.scale * weight.scale
        if (
            _fits_fused(x, weight, bias)
            and kernels.SAFE_MIN <= (alpha := scale.item()) <= kernels.SAFE_MAX
        ):
            return kernels.fused_linear(x.values, weight.values, bias, alpha=alpha)
        return _scale_and_round(_product_fp32(x.values, weight.values), (scale,), bias)


def mslk_is_available() -> bool:
    """Whether mslk's NVFP4 quantizer can be imported.

    Not just the name: `mslk` 0.0.0 on PyPI is an empty placeholder.
    """
    try:
        return importlib.util.find_spec("mslk.quantize.triton.fp4_quantize") is not None
    except (ImportError, OSError, ValueError):
        return False
