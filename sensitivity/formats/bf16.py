"""bf16, the format that is not quantized."""

import torch
from torch import Tensor, nn
from torchao.core.config import AOBaseConfig

from sensitivity.core.format_name import FormatName
from sensitivity.errors import FormatError
from sensitivity.formats._base import Format, QuantizedOperand


class BF16(Format):
    """The Linear as it is. It is a format like the others, so that callers need no special case."""

    name = FormatName.BF16

    def refusal(self, *, k: int, n: int, dtype: torch.dtype) -> str | None:  # noqa: ARG002
        return None

    def weight_bytes(self, *, k: int, n: int) -> int:
        return 2 * n * k

    def native_config(self) -> AOBaseConfig:
        raise FormatError(
            "bf16 has no torchao config, since it leaves a Linear as it is: leave it out, or choose"
            " mxfp8, nvfp4 or fp8"
        )

    def native_refusal(self, device: torch.device) -> str | None:  # noqa: ARG002
        return None

    def quantize_weight(self, weight: Tensor) -> QuantizedOperand:
        return QuantizedOperand(values=weight, scale=None)

    def quantize_activation(self, x: Tensor) -> QuantizedOperand:
        return QuantizedOperand(values=x, scale=None)

    def linear(self, x: QuantizedOperand, weight: QuantizedOperand, bias: Tensor | None) -> Tensor:
        return nn.functional.linear(x.values, weight.values, bias)

    def linear_a16(self, x: Tensor, weight: QuantizedOperand, bias: Tensor | None) -> Tensor:
        return nn.functional.linear(x, weight.values, bias)
