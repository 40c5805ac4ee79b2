"""How does one Linear change its format in place?

`SwitchableLinear` is an `nn.Linear` with one more attribute: the format that is active. A plain
Linear becomes one by class assignment, so the module object, its parameters, FQN and hooks stay.

    make_switchable(linear)
    linear.active = (fmt, fmt.quantize_weight(linear.weight))       # None means bf16
    make_plain(linear)

Where torch compiles a model, each such Linear is one opaque operator. Its argument is a number in a
tensor, and the format is looked up when the graph runs. So one graph serves all formats.
"""

import itertools
import weakref
from typing import cast

import torch
from torch import Tensor, nn

from sensitivity.formats._base import Format, QuantizedOperand
from sensitivity.formats.emulation import emulated_linear

_numbers = itertools.count()
_by_number: weakref.WeakValueDictionary[int, "SwitchableLinear"] = weakref.WeakValueDictionary()


class SwitchableLinear(nn.Linear):
    """An `nn.Linear` that computes in the active format. Made by `make_switchable`, never
    constructed.
    """

    active: tuple[Format, QuantizedOperand | None] | None
    """None is bf16. A weight of None is quantized in each call."""
    _number: Tensor
    """() int64 on the CPU: a tensor, so that graphs of many blocks do not depend on its value."""

    def forward(self, input: Tensor) -> Tensor:
        """input: (..., K). Returns (..., N) in the active format; bf16 is `nn.Linear.forward`."""
        if torch.compiler.is_compiling():
            return cast(
                Tensor,
                torch.ops.sensitivity.switched_linear(input, self._number, self.out_features),
            )
        return self.compute(input)

    def compute(self, input: Tensor, *, remember: bool = True) -> Tensor:
        """The same, always eagerly. `remember`: see `emulated_linear`."""
        if self.active is None:
            return super().forward(input)
        fmt, weight = self.active
        if weight is None:
            weight = fmt.quantize_weight(self.weight)
        return emulated_linear(input, weight, self.bias, fmt, remember=remember)


@torch.library.custom_op("sensitivity::switched_linear", mutates_args=())
def _switched_linear(input: Tensor, number: Tensor, out_features: int) -> Tensor:  # noqa: ARG001
    """input: (..., K). The Linear with this number computes in the format that it has now."""
    return _by_number[int(number)].compute(input, remember=False).contiguous()


@_switched_linear.register_fake
def _(input: Tensor, number: Tensor, out_features: int) -> Tensor:  # noqa: ARG001
    return input.new_empty((*input.shape[:-1], out_features))


def make_switchable(linear: nn.Linear) -> None:
    """Turn a plain Linear into a `SwitchableLinear` in bf16; one that is switchable becomes bf16.

    Both attributes are plain ones, no buffer and no parameter, so the state dict is unchanged.
    """
    linear.__class__ = SwitchableLinear
    switchable = cast(SwitchableLinear, linear)
    number = next(_numbers)
    switchable.active, switchable._number = None, torch.tensor(number)
    _by_number[number] = switchable


def make_plain(linear: nn.Linear) -> None:
    """Turn a `SwitchableLinear` back into the plain Linear it was; others are left alone."""
    if isinstance(linear, SwitchableLinear):
        del linear.active, linear._number
        linear.__class__ = nn.Linear  # type: ignore[assignment]  # back to what it was
