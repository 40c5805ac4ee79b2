"""How does one Linear change its format in place?

`SwitchableLinear` is an `nn.Linear` with one more attribute: the format that is active. A plain
Linear becomes one by class assignment, so the module object, its parameters, FQN and hooks stay.

    make_switchable(linear)
    linear.active = Active(fmt, kept)               # None means bf16
    linear.calls.quantized                          # products of quantized numbers so far
    make_plain(linear)

**Edge steps.** All Linears of a `Switch` share one `AtEdge`. While it has a mode, what is quantized
computes in it instead: in bf16, the call is that of a plain Linear; in W x A16, the kept quantized
weight meets the activation as it is. Nothing is quantized, and nothing is set on a Linear.

**Patched Linears.** Offloading, casting and adapters put a `forward` of their own on the instance,
where it hides that of the class. Such a Linear becomes a `PatchedLinear`. The patch runs as it
stands, and inside it the product with the Linear's own weight is the quantized one. So it
quantizes where torchao would, whose quantized weights answer `F.linear` too.

**Compiled graphs.** Where torch compiles a model, each such Linear is one opaque operator. Its
argument is a number in a tensor, and the format is looked up when the graph runs. So one graph
serves all formats.
"""

import itertools
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sensitivity.core.step_policy import EdgeMode
from sensitivity.formats._base import Format
from sensitivity.formats.emulation import as_run_on, linear_with_a16
from sensitivity.formats.kept_weight import KeptWeight
from sensitivity.formats.refused_products import linear_of

_numbers = itertools.count()
_by_number: weakref.WeakValueDictionary[int, "SwitchableLinear"] = weakref.WeakValueDictionary()


@dataclass(slots=True)
class AtEdge:
    """Whether an edge step runs now, shared by many Linears.

    Attributes:
        mode: what a quantized Linear computes in; None: in its format.
    """

    mode: EdgeMode | None = None


ALWAYS_QUANTIZED = AtEdge()


class Active(NamedTuple):
    """The format of a Linear that is not bf16, and its weight in it. A weight of None is quantized
    in each call. `emulate` keeps to emulation wherever the weight moves.
    """

    format: Format
    weight: KeptWeight | None
    emulate: bool = False
    edge: AtEdge = ALWAYS_QUANTIZED

    @property
    def in_bf16(self) -> bool:
        """Whether an edge step runs now that computes in bf16."""
        return self.edge.mode is EdgeMode.BF16


@dataclass(slots=True)
class Calls:
    """What one Linear did since it got its format.

    Attributes:
        patched: calls of a Linear whose `forward` stands on the instance.
        quantized: products of quantized numbers.
        a16: products of a quantized weight and a bf16 activation, at edge steps.
        bf16: calls in bf16 at edge steps.
    """

    patched: int = 0
    quantized: int = 0
    a16: int = 0
    bf16: int = 0


class SwitchableLinear(nn.Linear):
    """An `nn.Linear` that computes in the active format. Made by `make_switchable`, never
    constructed.
    """

    active: Active | None
    """None is bf16."""
    calls: Calls
    _number: Tensor
    """() int64 on the CPU: a tensor, so that graphs of many blocks do not depend on its value."""

    def forward(self, input: Tensor) -> Tensor:
        """input: (..., K). Returns (..., N) in the active format; bf16 is `nn.Linear.forward`."""
        if not isinstance(self, SwitchableLinear):  # a patch kept this method, and it is plain now
            return nn.Linear.forward(self, input)
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
        if self.active.in_bf16:
            self.calls.bf16 += 1
            return super().forward(input)
        return self.product(input, self.weight, self.bias, remember=remember)

    def product(
        self, input: Tensor, weight: Tensor, bias: Tensor | None, *, remember: bool = True
    ) -> Tensor:
        """input: (..., K), weight: (N, K). Returns (..., N), the product in the active format, or
        of its quantized weight and the input as it is.
        """
        assert self.active is not None
        fmt, kept, emulate, edge = self.active
        if kept is not None and kept.is_of(weight):
            operand = kept.operand
        else:  # not kept, or moved or changed since
            fmt = as_run_on(fmt.name, weight.device, fmt.arithmetic, emulate=emulate)
            operand = fmt.quantize_weight(weight)
        if edge.mode is EdgeMode.A16:
            self.calls.a16 += 1
            return linear_with_a16(input, operand, bias, fmt)
        self.calls.quantized += 1
        return linear_of(input, operand, weight, bias, fmt, remember=remember)

    def run_opaquely(self, input: Tensor) -> Tensor:
        """What a compiled graph calls."""
        return self.compute(input, remember=False)


class PatchedLinear(SwitchableLinear):
    """A switchable Linear whose `forward` stands on the instance."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the patch; products with the Linear's own weight are in the active format."""
        if self.active is None:
            return super().__call__(*args, **kwargs)
        if torch.compiler.is_compiling() and len(args) == 1 and not kwargs:
            return torch.ops.sensitivity.switched_linear(args[0], self._number, self.out_features)
        if self.active.in_bf16:
            self.calls.bf16 += 1
            return super().__call__(*args, **kwargs)
        self.calls.patched += 1
        with _QuantizedProducts(self):
            return super().__call__(*args, **kwargs)

    def run_opaquely(self, input: Tensor) -> Tensor:
        return cast(Tensor, self(input))


class _QuantizedProducts(TorchFunctionMode):
    """Inside, `F.linear` with the weight of one Linear computes in its active format."""

    def __init__(self, linear: SwitchableLinear) -> None:
        super().__init__()
        self.linear = linear

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is nn.functional.linear:
            given = dict(zip(("input", "weight", "bias"), args, strict=False)) | kwargs
            if given["weight"] is self.linear.weight:
                return self.linear.product(
                    given["input"], given["weight"], given.get("bias"), remember=False
                )
        return func(*args, **kwargs)


@torch.library.custom_op("sensitivity::switched_linear", mutates_args=())
def _switched_linear(input: Tensor, number: Tensor, out_features: int) -> Tensor:  # noqa: ARG001
    """input: (..., K). The Linear with this number computes in the format that it has now."""
    return _by_number[int(number)].run_opaquely(input).contiguous()


@_switched_linear.register_fake
def _(input: Tensor, number: Tensor, out_features: int) -> Tensor:  # noqa: ARG001
    return input.new_empty((*input.shape[:-1], out_features))


def is_patched(linear: nn.Module) -> bool:
    """Whether a `forward` stands on the instance and hides that of the class."""
    return "forward" in vars(linear)


def make_switchable(linear: nn.Linear) -> None:
    """Turn a plain Linear into a `SwitchableLinear` in bf16; one that is switchable becomes bf16.

    All attributes are plain ones, no buffer and no parameter, so the state dict is unchanged.
    """
    linear.__class__ = PatchedLinear if is_patched(linear) else SwitchableLinear
    switchable = cast(SwitchableLinear, linear)
    number = next(_numbers)
    switchable.active, switchable._number = None, torch.tensor(number)
    switchable.calls = Calls()
    _by_number[number] = switchable


def activate(linear: SwitchableLinear, active: Active | None) -> None:
    """Give a switchable Linear its format, and count its calls from now on.

    A patch that came since it was made is seen.
    """
    if is_patched(linear) and type(linear) is SwitchableLinear:
        linear.__class__ = PatchedLinear
    linear.active, linear.calls = active, Calls()


def make_plain(linear: nn.Linear) -> None:
    """Turn a `SwitchableLinear` back into the plain Linear it was; others are left alone."""
    if isinstance(linear, SwitchableLinear):
        del linear.active, linear.calls, linear._number
        linear.__class__ = nn.Linear  # type: ignore[assignment]  # back to what it was
