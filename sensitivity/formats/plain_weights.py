"""How does a compiled module read quantized weights as plain tensors?

torchao's quantized weights are tensor subclasses. A compiled function unwraps each of them in
Python at every call, and checks its metadata. Inside `plain_weights` the codes and scales are
buffers of a module that stands in for the Linear, and the weight is put together while the compiler
traces: it computes the same kernels with the same values.

    with plain_weights(denoiser):
        denoiser.compile()
        denoiser(x)

What it does not do: change what is computed, or help a module that runs eagerly.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sensitivity.formats.rotation import BUFFER, RotatedLinear, rotated_input

_KINDS: dict[str, tuple[Any, Sequence[str], Any]] = {}
"""{description: (class, names of inner tensors, metadata) of a weight}."""


class PlainLinear(nn.Module):
    """A quantized Linear whose weight's inner tensors are its buffers."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight: Any = linear.weight.data
        names, metadata = weight.__tensor_flatten__()
        for name in names:
            self.register_buffer(name, getattr(weight, name), persistent=False)
        self.bias = linear.bias
        self.names = tuple(names)
        self.kind = repr((type(weight).__qualname__, self.names, metadata))
        _KINDS[self.kind] = (type(weight), self.names, metadata)

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., K) to (..., N)."""
        return _linear(x, self.bias, self.kind, *[getattr(self, name) for name in self.names])


class PlainRotatedLinear(PlainLinear):
    """The same of a Linear that rotates its input."""

    def __init__(self, linear: RotatedLinear) -> None:
        super().__init__(linear)
        self.register_buffer(BUFFER, linear.get_buffer(BUFFER), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(rotated_input(x, self.get_buffer(BUFFER)))


def _linear(x: Tensor, bias: Tensor | None, kind: str, *inner: Tensor) -> Tensor:
    """The Linear whose weight is of a kind in `_KINDS`, with these inner tensors."""
    cls, names, metadata = _KINDS[kind]
    weight = cls.__tensor_unflatten__(dict(zip(names, inner, strict=True)), metadata, None, None)
    return nn.functional.linear(x, weight, bias)


@contextmanager
def plain_weights(module: nn.Module) -> Iterator[None]:
    """Let quantized Linears of `module` have plain weights inside the context.

    Linears whose weights are plain anyway stay. Afterwards the module has its own Linears again.
    """
    torch._dynamo.allow_in_graph(_linear)  # type: ignore[no-untyped-call]
    replaced: list[tuple[nn.Module, str, nn.Linear]] = []
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.Linear) and hasattr(child.weight.data, "__tensor_flatten__"):
                replaced.append((parent, name, child))
    try:
        for parent, name, child in replaced:
            if isinstance(child, RotatedLinear):
                setattr(parent, name, PlainRotatedLinear(child))
            else:
                setattr(parent, name, PlainLinear(child))
        yield
    finally:
        for parent, name, child in replaced:
            setattr(parent, name, child)
