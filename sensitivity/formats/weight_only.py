"""Weight-only quantization: the weight of a format, and activations that stay bf16 (W x A16).

    fmt = WeightOnly(get_format("nvfp4"))      # nvfp4-a16, "W4A16"

Weights are those of the plain format, bit for bit. The product is bf16 activations times the
quantized numbers, accumulated in fp32; scales of tensor or rows and the bias are applied in fp32,
and the result is rounded to bf16 once (`Format.linear_a16`). It saves memory, and time where a
Linear waits for its weights (few rows) and a kernel dequantizes on the way.

**torchao** has weight-only configs for FP8, INT8 and NVFP4, and none for MXFP8. They run anywhere,
and they round more often: FP8 and NVFP4 dequantize the weight to bf16 in each call and multiply
that (FP8 rounds before its bias too); INT8 multiplies the codes, and rounds the product, the scale
and the end. Outputs differ from those here by a few bf16 roundings, and no code differs. Since they
are no faster than emulation, pictures are drawn by emulation, in every arithmetic.

**INT8's own product is not used natively.** Compiled, it took 10.7 ms at M = 512, K = N = 3072, and
380 ms at M = 4608, K = 3072, N = 12288, where bf16 takes 0.02 and 0.55 ms (one H200, torch 2.11,
torchao 0.18, `benchmarks/format_variants.py`). `quantize_linear` puts torchao's tensor into an
`A16Weight`, which dequantizes it to bf16 in each call, as FP8's and NVFP4's do. `native_config` is
torchao's still, since it says what a consumer of an export runs.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torchao.core.config import AOBaseConfig
from torchao.prototype.mx_formats import NVFP4WeightOnlyConfig
from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig
from torchao.quantization.granularity import PerRow

from sensitivity.core.format_name import FormatName
from sensitivity.errors import FormatError
from sensitivity.formats._base import Format, QuantizedOperand
from sensitivity.formats.a16_weight import A16Weight
from sensitivity.formats.variant import Variant


class WeightOnly(Variant):
    """A format whose weight alone is quantized.

    Args:
        inner: The plain format that the weight is quantized in.
    """

    def __init__(self, inner: Format) -> None:
        super().__init__(inner.name.weight_only, inner)
        self.min_capability = (0, 0)

    def native_config(self) -> AOBaseConfig:
        """torchao's weight-only config. Raises FormatError for MXFP8, which has none."""
        match self.inner.name:
            case FormatName.FP8:
                config = Float8WeightOnlyConfig(granularity=PerRow(), set_inductor_config=False)
            case FormatName.INT8:
                config = Int8WeightOnlyConfig(granularity=PerRow(), set_inductor_config=False)
            case FormatName.NVFP4:
                config = NVFP4WeightOnlyConfig(use_dynamic_per_tensor_scale=True)
            case _:
                raise FormatError(self._no_config())
        return cast(AOBaseConfig, config)

    def quantize_linear(self, linear: nn.Linear) -> None:
        super().quantize_linear(linear)
        if self.inner.name is FormatName.INT8:
            weight = A16Weight(linear.weight.data)
            linear.weight = nn.Parameter(weight, requires_grad=False)

    def native_refusal(self, device: torch.device) -> str | None:  # noqa: ARG002
        if self.inner.name is FormatName.MXFP8:
            return self._no_config()
        return None

    def quantize_activation(self, x: Tensor) -> QuantizedOperand:
        """x as it is."""
        return QuantizedOperand(values=self._checked(x), scale=None)

    def linear(self, x: QuantizedOperand, weight: QuantizedOperand, bias: Tensor | None) -> Tensor:
        return self.inner.linear_a16(x.values, weight, bias)

    def _no_config(self) -> str:
        return (
            f"{self.name} has no native form: torchao 0.18 has no weight-only {self.inner.name}:"
            " emulate it instead (quality only)"
        )
