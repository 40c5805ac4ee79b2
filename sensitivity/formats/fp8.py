"""FP8: e4m3 codes with one fp32 scale a row, emulated or by the GPU's own product."""

import torch
from torch import Tensor
from torchao.core.config import AOBaseConfig
from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, PerRow
from torchao.quantization.quant_primitives import _choose_scale_float8, _quantize_affine_float8
from torchao.quantization.quantize_.common.kernel_preference import KernelPreference

from sensitivity.core.format_name import FormatName
from sensitivity.core.kernels import Kernels
from sensitivity.formats import cpu_kernels
from sensitivity.formats._base import Format, QuantizedOperand
from sensitivity.formats.kernel_choice import is_eager_cpu, is_eager_cuda, load_triton_kernels
from sensitivity.formats.products import product_fp32, scale_and_round


class FP8(Format):
    """Row-wise float8: e4m3 codes, one fp32 scale for each row of weight and activation, computed
    at run time for activations.
    """

    name = FormatName.FP8
    k_multiple, n_multiple = 16, 16
    min_capability = (8, 9)

    def weight_bytes(self, *, k: int, n: int) -> int:
        return n * k + 4 * n

    def native_config(self) -> AOBaseConfig:
        """torchao's row-wise config with two choices of our own.

        `KernelPreference.TORCH`: AUTO would quantize with mslk's kernel where mslk is installed,
        and its scales differ from torch's. `set_inductor_config=False`: the default changes global
        inductor settings, and compiling takes minutes.
        """
        return Float8DynamicActivationFloat8WeightConfig(
            granularity=PerRow(),
            kernel_preference=KernelPreference.TORCH,
            set_inductor_config=False,
        )

    def quantize_weight(self, weight: Tensor) -> QuantizedOperand:
        weight = self._checked(weight)
        if is_eager_cuda(weight):
            values, scale = load_triton_kernels().quantize_fp8_rows(weight)
            return QuantizedOperand(values=values, scale=scale)
        scale = _choose_scale_float8(weight, block_size=[1, weight.shape[-1]])
        codes = _quantize_affine_float8(weight, scale)
        dtype = torch.float32 if is_eager_cpu(weight) else torch.bfloat16
        return QuantizedOperand(values=codes.to(dtype), scale=scale)

    def quantize_activation(self, x: Tensor) -> QuantizedOperand:
        x = self._checked(x)
        if not is_eager_cpu(x):
            return self.quantize_weight(x)
        values, scale = cpu_kernels.quantize_fp8_rows(x)
        return QuantizedOperand(values=values, scale=scale)

    def linear(self, x: QuantizedOperand, weight: QuantizedOperand, bias: Tensor | None) -> Tensor:
        assert x.scale is not None
        assert weight.scale is not None
        product = product_fp32(x.values, weight.values)
        if is_eager_cpu(product):
            # In place, since the product is as large as a picture's activations.
            product.mul_(x.scale).mul_(weight.scale.t())
            return (product if bias is None else product.add_(bias.float())).bfloat16()
        return scale_and_round(product, (x.scale, weight.scale.t()), bias)


class HardwareFP8(FP8):
    """FP8 by the GPU's own GEMM, the one that torchao calls when the model is served: e4m3 codes,
    scales in the epilogue, fast accumulation on.
    """

    kernels = Kernels.NATIVE
    weight_kind = "codes"

    def quantize_weight(self, weight: Tensor) -> QuantizedOperand:
        values, scale = load_triton_kernels().quantize_fp8_rows(self._checked(weight), codes=True)
        return QuantizedOperand(values=values, scale=scale)

    def quantize_activation(self, x: Tensor) -> QuantizedOperand:
        return self.quantize_weight(x)

    def linear(self, x: QuantizedOperand, weight: QuantizedOperand, bias: Tensor | None) -> Tensor:
        assert x.scale is not None
        assert weight.scale is not None
        return torch._scaled_mm(
            x.values,
            weight.values.t(),
            scale_a=x.scale,
            scale_b=weight.scale.t(),
            bias=bias,
            out_dtype=torch.bfloat16,
            use_fast_accum=True,
        )
