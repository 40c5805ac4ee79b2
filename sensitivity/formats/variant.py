"""What do the variants of a format share with it? All but what each of them says.

`Variant` is a format that stands on another one, the *inner* format: by itself it quantizes and
multiplies as that one does. The inner format may be in any arithmetic, emulated or by native
kernels, so a variant needs no second version for them.

    WeightOnly(get_format("nvfp4"))         # nvfp4-a16: the weights of nvfp4, activations in bf16
    Rotated(native_instance(FormatName.INT8, Arithmetic.EAGER))     # int8-rot by torchao's tensors

`Rotated` is here, since it is little more (`rotation` has the matrix). The others have files of
their own: `weight_only`, `four_over_six`.
"""

import functools
from collections.abc import Callable
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torchao.core.config import AOBaseConfig

from sensitivity.core.format_name import FormatName
from sensitivity.core.rotation_block import BLOCKS
from sensitivity.errors import FormatError
from sensitivity.formats._base import Format, QuantizedOperand
from sensitivity.formats.rotation import rotate, rotate_linear


class Variant(Format):
    """A format that computes as its inner format does.

    Args:
        name: Its own name.
        inner: The format that it stands on.
    """

    def __init__(self, name: FormatName, inner: Format) -> None:
        self.name, self.inner = name, inner
        self.arithmetic, self.kernels = inner.arithmetic, inner.kernels
        self.weight_kind = inner.weight_kind
        self.k_multiple, self.n_multiple = inner.k_multiple, inner.n_multiple
        self.min_capability = inner.min_capability

    def weight_bytes(self, *, k: int, n: int) -> int:
        return self.inner.weight_bytes(k=k, n=n)

    def native_config(self) -> AOBaseConfig:
        return self.inner.native_config()

    def native_refusal(self, device: torch.device) -> str | None:
        reason = self.inner.native_refusal(device)
        return None if reason is None else reason.replace(self.inner.name, self.name, 1)

    def quantize_weight(self, weight: Tensor) -> QuantizedOperand:
        return self.inner.quantize_weight(weight)

    def quantize_activation(self, x: Tensor) -> QuantizedOperand:
        return self.inner.quantize_activation(x)

    def linear(self, x: QuantizedOperand, weight: QuantizedOperand, bias: Tensor | None) -> Tensor:
        return self.inner.linear(x, weight, bias)

    def linear_a16(self, x: Tensor, weight: QuantizedOperand, bias: Tensor | None) -> Tensor:
        return self.inner.linear_a16(x, weight, bias)


class Rotated(Variant):
    """A format whose weight and activation are rotated along K before they are quantized."""

    def __init__(self, inner: Format) -> None:
        super().__init__(FormatName(f"{inner.name}-rot"), inner)
        self.k_multiple = max(inner.k_multiple, BLOCKS[-1])  # both are powers of two

    def native_config(self) -> AOBaseConfig:
        """Raises FormatError: torchao rotates nothing at run time."""
        raise FormatError(
            f"found no torchao config for {self.name}: torchao does not rotate activations at run"
            f" time; expected {self.inner.name}, or apply the recipe natively, which adds the"
            " rotation to each Linear"
        )

    def quantize_linear(self, linear: nn.Linear) -> None:
        rotate_linear(linear)
        self.inner.quantize_linear(linear)

    def quantize_weight(self, weight: Tensor) -> QuantizedOperand:
        return self.inner.quantize_weight(rotate(self._checked(weight, block=self.k_multiple)))

    def quantize_activation(self, x: Tensor) -> QuantizedOperand:
        return self.inner.quantize_activation(rotate(self._checked(x, block=self.k_multiple)))

    def linear_a16(self, x: Tensor, weight: QuantizedOperand, bias: Tensor | None) -> Tensor:
        rotated = rotate(self._checked(x, block=self.k_multiple))
        return self.inner.linear_a16(rotated, weight, bias)


V = TypeVar("V", bound=Variant)


def variant_of(kind: Callable[[Format], V], inner: Format) -> V:
    """The one variant of this kind on an inner format, so that equal formats are one object."""
    return cast(V, _made(kind, inner))


@functools.cache
def _made(kind: Callable[[Format], Variant], inner: Format) -> Variant:
    return kind(inner)
