"""How does a loaded denoiser change its skip-list?

`Switch`: every Linear flips between bf16 and emulated formats, in place.

Method. Each `nn.Linear` becomes a `SwitchableLinear` by class assignment: same module object, same
parameters, same FQN and hooks, so neither weights nor references to the module move. Setting a
format is one attribute; the quantized weight of a (Linear, format) pair is made once, the first
time it is needed, and kept. bf16 is the original `nn.Linear.forward` on the original weight, hence
exact in any order.

    with Switch(pipeline.transformer) as switch:
        switch.set({"proj_out": FormatName.NVFP4})      # all others bf16
        pictures = pipeline(prompt).images
    # here the Linears are plain nn.Linear again

**Compiled graphs.** Where torch compiles a switched model, each Linear is one opaque operator whose
argument is a number in a tensor: which format it has is looked up when the graph runs. So one graph
serves all skip-lists, and nothing is ever compiled again for a change of formats.

**Memory.** Quantized weights are kept as long as they fit into `weight_cache_bytes`; what does not
fit is quantized again in each call.

What it does not do: native kernels (`native.quantize_native`). Only modules whose class is exactly
`nn.Linear` are switched. Gradients pass in eager mode only.
"""

import itertools
import weakref
from collections.abc import Mapping
from types import TracebackType
from typing import cast

import torch
from torch import Tensor, nn

from sensitivity.core.format_name import FormatName
from sensitivity.errors import FormatError
from sensitivity.formats._base import Format, QuantizedOperand
from sensitivity.formats.emulation import as_run_on, emulated_linear
from sensitivity.formats.registry import get_format

_numbers = itertools.count()
_by_number: weakref.WeakValueDictionary[int, "SwitchableLinear"] = weakref.WeakValueDictionary()


class SwitchableLinear(nn.Linear):
    """An `nn.Linear` that computes in the format its `Switch` last set.

    Made by class assignment, never constructed.
    """

    _active: tuple[Format, QuantizedOperand | None] | None
    """None is bf16; a weight of None is quantized in each call."""
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
        if self._active is None:
            return super().forward(input)
        fmt, weight = self._active
        return emulated_linear(
            input,
            fmt.quantize_weight(self.weight) if weight is None else weight,
            self.bias,
            fmt,
            remember=remember,
        )


@torch.library.custom_op("sensitivity::switched_linear", mutates_args=())
def _switched_linear(input: Tensor, number: Tensor, out_features: int) -> Tensor:  # noqa: ARG001 - the fake needs it
    """input: (..., K); the Linear with this number computes in whatever format it has now."""
    return _by_number[int(number)].compute(input, remember=False).contiguous()


@_switched_linear.register_fake
def _(input: Tensor, number: Tensor, out_features: int) -> Tensor:  # noqa: ARG001 - the operator's signature
    return input.new_empty((*input.shape[:-1], out_features))


class Switch:
    """Owns the formats of all Linears of one module.

    Making one changes nothing but the class of its Linears; `close` changes it back.

    Args:
        module: its Linears are switched.
        weight_cache_bytes: most that kept quantized weights may take on the device; None keeps all.

    Attributes:
        linears: FQN -> Linear (first name of a shared module).
        others: FQN -> class name of Linears of subclasses; they stay bf16, since their forward is
            their own.
    """

    def __init__(self, module: nn.Module, *, weight_cache_bytes: int | None = None) -> None:
        self.linears: dict[str, nn.Linear] = {
            fqn: child
            for fqn, child in module.named_modules()
            if type(child) in (nn.Linear, SwitchableLinear)
        }
        self.others = {
            fqn: type(child).__name__
            for fqn, child in module.named_modules()
            if isinstance(child, nn.Linear) and fqn not in self.linears
        }
        self.weight_cache_bytes = weight_cache_bytes
        self._weights: dict[tuple[str, FormatName], QuantizedOperand | None] = {}
        self._held_bytes = 0
        self._closed = False
        for linear in self.linears.values():
            linear.__class__ = SwitchableLinear
            _give_number(cast(SwitchableLinear, linear))

    def refusals(self, formats: Mapping[str, FormatName]) -> dict[str, str]:
        """{FQN: reason} of the Linears whose shape or dtype their format does not take."""
        refused = {}
        for fqn, name in formats.items():
            if fqn in self.others:
                if name is not FormatName.BF16:
                    refused[fqn] = (
                        f"it is a {self.others[fqn]}, and only plain nn.Linear change format"
                    )
                continue
            linear = self._linear(fqn)
            reason = get_format(name).refusal(
                k=linear.in_features, n=linear.out_features, dtype=linear.weight.dtype
            )
            if reason is not None:
                refused[fqn] = reason
        return refused

    @torch.no_grad()
    def unfit(self) -> dict[str, str]:
        """{FQN: reason} of Linears that no format should take, whatever their shape: subclasses,
        and weights with a row of zeros.

        torchao divides by such a row's largest value: it quantizes to NaN in fp8, and an all-zero
        tensor does in nvfp4.
        """
        reasons = {
            fqn: f"it is a {kind}, and only plain nn.Linear change format"
            for fqn, kind in self.others.items()
        }
        for fqn, linear in self.linears.items():
            if linear.weight.is_floating_point() and bool(
                (linear.weight.abs().amax(dim=1) == 0).any()
            ):
                reasons[fqn] = "its weight has a row of zeros, which torchao quantizes to NaN"
        return reasons

    def set(self, formats: Mapping[str, FormatName]) -> None:
        """Give each Linear its format; those that are not named become bf16.

        Raises:
            FormatError: an FQN is no Linear of the module, a format refuses a Linear, or the switch
                is closed. Then nothing has changed.
        """
        if self._closed:
            if formats:
                raise FormatError(
                    "this Switch is closed and sets no format any more; make another one of the"
                    " module"
                )
            return
        refused = self.refusals(formats)
        if refused:
            first, reason = next(iter(refused.items()))
            raise FormatError(
                f"{len(refused)} Linears are refused by their format, the first is {first}:"
                f" {reason}; leave them in bf16"
            )
        active = self._prepare(formats)
        for fqn, linear in self.linears.items():
            cast(SwitchableLinear, linear)._active = active.get(fqn)

    def forget(self) -> None:
        """All Linears become bf16, and no quantized weight is kept."""
        self.set({})
        self._weights.clear()
        self._held_bytes = 0

    def close(self) -> None:
        """Make the Linears plain `nn.Linear` again and forget the quantized weights."""
        for linear in self.linears.values():
            if isinstance(linear, SwitchableLinear):
                del linear._active, linear._number
                linear.__class__ = nn.Linear  # type: ignore[assignment]  # back to what it was
        self._weights.clear()
        self._held_bytes, self._closed = 0, True

    def __enter__(self) -> "Switch":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _linear(self, fqn: str) -> nn.Linear:
        try:
            return self.linears[fqn]
        except KeyError:
            raise FormatError(
                f"{fqn!r} is none of the {len(self.linears)} plain Linears of this model; take FQNs"
                " from `sensitivity profile`"
            ) from None

    @torch.no_grad()
    def _prepare(
        self, formats: Mapping[str, FormatName]
    ) -> dict[str, tuple[Format, QuantizedOperand | None]]:
        """Formats and quantized weights of the Linears that are not bf16; those that are new are
        made, looked at, and kept if there is room.
        """
        fresh, finite = (
            dict[tuple[str, FormatName], QuantizedOperand | None](),
            dict[tuple[str, FormatName], Tensor](),
        )
        for key in formats.items():
            if key not in self._weights and key[1] is not FormatName.BF16:
                weight = self.linears[key[0]].weight
                operand = as_run_on(key[1], weight.device).quantize_weight(weight)
                finite[key] = _is_finite(operand)
                fresh[key] = operand if self._has_room(operand) else None
        if finite and not bool(
            torch.stack(list(finite.values())).all()
        ):  # one wait for the GPU, not one a Linear
            fqn, name = next(key for key, fine in finite.items() if not bool(fine))
            self._held_bytes -= sum(_bytes_of(operand) for operand in fresh.values())
            raise FormatError(
                f"{fqn} cannot be {name}: its weight quantizes to NaN or inf, as with an all-zero"
                " row or tensor; leave this Linear in bf16"
            )
        self._weights |= fresh
        return {
            fqn: (as_run_on(name, self.linears[fqn].weight.device), self._weights[fqn, name])
            for fqn, name in formats.items()
            if name is not FormatName.BF16
        }

    def _has_room(self, operand: QuantizedOperand) -> bool:
        """Whether one more quantized weight may be kept; then it counts."""
        more = _bytes_of(operand)
        if (
            self.weight_cache_bytes is not None
            and self._held_bytes + more > self.weight_cache_bytes
        ):
            return False
        self._held_bytes += more
        return True


def _is_finite(operand: QuantizedOperand) -> Tensor:
    """() bool on the operand's device."""
    values = (
        operand.values.bfloat16() if operand.values.dtype == torch.float8_e4m3fn else operand.values
    )
    fine = values.isfinite().all()
    return fine if operand.scale is None else fine & operand.scale.isfinite().all()


def _bytes_of(operand: QuantizedOperand | None) -> int:
    return (
        0
        if operand is None
        else operand.values.nbytes + (0 if operand.scale is None else operand.scale.nbytes)
    )


def _give_number(linear: SwitchableLinear) -> None:
    """A plain attribute each, no buffer and no parameter: the model's state is as it was."""
    number = next(_numbers)
    linear._active, linear._number = None, torch.tensor(number)
    _by_number[number] = linear
