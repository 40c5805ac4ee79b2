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

LOWER_BOUND = 1e-12
"""`activation_value_lb` of fp8-lb: what the largest value of a row counts as at least. The scale of
a row of zeros is then 2.2e-15, its codes are 0, and its outputs the bias."""


class FP8(Format):
    """Row-wise float8: e4m3 codes, one fp32 scale for each row of weight and activation, computed
    at run time for activations.

    Args:
        name: `fp8`, or `fp8-lb`.
        lower_bound: Of the largest value of an activation row; None divides 0 by 0 in a row of
            zeros. torchao bounds activations only, so a weight with a row of zeros is NaN in both.
    """

    k_multiple, n_multiple = 16, 16
    min_capability = (8, 9)

    def __init__(
        self, *, name: FormatName = FormatName.FP8, lower_bound: float | None = None
    ) -> None:
        self.name, self.lower_bound = name, lower_bound

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
            activation_value_lb=self.lower_bound,
            kernel_preference=KernelPreference.TORCH,
            set_inductor_config=False,
        )

    def quantize_weight(self, weight: Tensor) -> QuantizedOperand:
        return self._quantized(self._checked(weight), None)

    def quantize_activation(self, x: Tensor) -> QuantizedOperand:
        x = self._checked(x)
        if not is_eager_cpu(x):
            return self._quantized(x, self.lower_bound)
        values, scale = cpu_kernels.quantize_fp8_rows(x, self.lower_bound)
        return QuantizedOperand(values=values, scale=scale)

    def _quantized(self, x: Tensor, lower_bound: float | None) -> QuantizedOperand:
        """x: (rows, K) bf16."""
        if is_eager_cuda(x):
            values, scale = load_triton_kernels().quantize_fp8_rows(x, lower_bound=lower_bound)
            return QuantizedOperand(values=values, scale=scale)
        scale = _choose_scale_float8(x, block_size=[1, x.shape[-1]], hp_value_lb=lower_bound)
        codes = _quantize_affine_float8(x, scale)
        dtype = torch.float32 if is_eager_cpu(x) else torch.bfloat16
        return QuantizedOperand(values=codes.to(dtype), scale=scale)

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

    def quantize_activation(self, x: Tensor) -> QuantizedOperand:
        return self._quantized(self._checked(x), self.lower_bound)

    def _quantized(self, x: Tensor, lower_bound: float | None) -> QuantizedOperand:
        values, scale = load_triton_kernels().quantize_fp8_rows(
            x, codes=True, lower_bound=lower_bound
        )
        return QuantizedOperand(values=values, scale=scale)

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
