"""How does a Linear multiply by torchao's quantized weight without quantizing its input?

`A16Weight` holds one of torchao's tensors. A product with it dequantizes the weight and leaves the
input as it is (W x A16: W8A16, W4A16). It holds the tensor itself, so codes and scales are not
there twice, and dequantizes in each call.

    linear.weight = nn.Parameter(A16Weight(linear.weight.data), requires_grad=False)
    linear(x)                           # F.linear(x, weight.dequantize(), bias)

The weight is rounded to bf16 when it is dequantized, as torchao's weight-only configs do; the
emulated `Format.linear_a16` applies scales of rows and tensors after the product instead.

torchao's own way, a weight without `act_quant_kwargs`, is not taken: its MX tensor does not know it
(`prototype/mx_formats/mx_tensor.py`, 0.18: "weight-only quant not yet supported").
"""

from typing import Any

import torch
from torch import Tensor, nn
from torchao.utils import TorchAOBaseTensor


class A16Weight(TorchAOBaseTensor):  # type: ignore[misc]  # torchao is not typed
    """A quantized weight (N, K) that answers `F.linear` by its dequantized values.

    Args:
        quantized: torchao's tensor.
    """

    tensor_data_names = ["quantized"]  # noqa: RUF012  # torchao copies it as a list
    tensor_attribute_names: list[str] = []  # noqa: RUF012

    quantized: Tensor

    def __new__(cls, quantized: Tensor) -> "A16Weight":
        """A tensor of the same shape; its data are those of `quantized`."""
        return torch.Tensor._make_wrapper_subclass(
            cls,
            quantized.shape,
            strides=quantized.stride(),
            dtype=quantized.dtype,
            device=quantized.device,
            requires_grad=False,
        )

    def __init__(self, quantized: Tensor) -> None:
        self.quantized = quantized

    def dequantize(self) -> Tensor:
        """(N, K) in the dtype of the weight that was quantized."""
        return self.quantized.dequantize()


@A16Weight.implements_torch_function(nn.functional.linear)  # type: ignore[untyped-decorator]
def _linear(
    _func: object, _types: object, args: tuple[Any, ...], kwargs: dict[str, Any] | None
) -> Tensor:
    given = dict(zip(("input", "weight", "bias"), args, strict=False)) | (kwargs or {})
    return nn.functional.linear(given["input"], given["weight"].dequantize(), given.get("bias"))
