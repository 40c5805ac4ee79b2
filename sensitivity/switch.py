"""How does a loaded denoiser change its skip-list? `Switch`: every Linear flips between bf16 and emulated formats, in place.

Method. Each `nn.Linear` becomes a `SwitchableLinear` by class assignment: same module object, same parameters, same FQN and hooks, so neither weights
nor references to the module move. Setting a format is one attribute; the quantized weight of a (Linear, format) pair is made once, the first time it
is needed, and kept. bf16 is the original `nn.Linear.forward` on the original weight, hence exact in any order.

    with Switch(pipeline.transformer) as switch:
        switch.set({"proj_out": FormatName.NVFP4})      # all others bf16
        pictures = pipeline(prompt).images
    # here the Linears are plain nn.Linear again

What it does not do: native kernels (`formats.quantize_native`), or compiled graphs. Only modules whose class is exactly `nn.Linear` are switched.
"""

from collections.abc import Mapping
from types import TracebackType
from typing import cast

import torch
from torch import Tensor, nn

from sensitivity.errors import FormatError
from sensitivity.formats import Format, QuantizedOperand, emulated_linear, get_format
from sensitivity.spec import FormatName


class SwitchableLinear(nn.Linear):
    """An `nn.Linear` that computes in the format its `Switch` last set. Made by class assignment, never constructed."""

    _active: tuple[Format, QuantizedOperand] | None

    def forward(self, input: Tensor) -> Tensor:
        """input: (..., K). Returns (..., N) in the active format; bf16 is `nn.Linear.forward`."""
        if self._active is None:
            return super().forward(input)
        fmt, weight = self._active
        return emulated_linear(input, weight, self.bias, fmt)


class Switch:
    """Owns the formats of all Linears of one module. Making one changes nothing but the class of its Linears; `close` changes it back.

    Attributes:
        linears: FQN -> Linear (first name of a shared module).
        others: FQN -> class name of Linears of subclasses; they stay bf16, since their forward is their own.
    """

    def __init__(self, module: nn.Module) -> None:
        self.linears: dict[str, nn.Linear] = {
            fqn: child for fqn, child in module.named_modules() if type(child) in (nn.Linear, SwitchableLinear)
        }
        self.others = {
            fqn: type(child).__name__ for fqn, child in module.named_modules() if isinstance(child, nn.Linear) and fqn not in self.linears
        }
        self._weights: dict[tuple[str, FormatName], QuantizedOperand] = {}
        self._closed = False
        for linear in self.linears.values():
            linear.__class__ = SwitchableLinear
            cast(SwitchableLinear, linear)._active = None  # a plain attribute, no module and no parameter

    def refusals(self, formats: Mapping[str, FormatName]) -> dict[str, str]:
        """{FQN: reason} of the Linears whose shape or dtype their format does not take."""
        refused = {}
        for fqn, name in formats.items():
            if fqn in self.others:
                if name is not FormatName.BF16:
                    refused[fqn] = f"it is a {self.others[fqn]}, and only plain nn.Linear change format"
                continue
            linear = self._linear(fqn)
            reason = get_format(name).refusal(k=linear.in_features, n=linear.out_features, dtype=linear.weight.dtype)
            if reason is not None:
                refused[fqn] = reason
        return refused

    @torch.no_grad()
    def unfit(self) -> dict[str, str]:
        """{FQN: reason} of Linears that no format should take, whatever their shape: subclasses, and weights with a row of zeros.

        torchao divides by such a row's largest value: it quantizes to NaN in fp8, and an all-zero tensor does in nvfp4.
        """
        reasons = {fqn: f"it is a {kind}, and only plain nn.Linear change format" for fqn, kind in self.others.items()}
        for fqn, linear in self.linears.items():
            if linear.weight.is_floating_point() and bool((linear.weight.abs().amax(dim=1) == 0).any()):
                reasons[fqn] = "its weight has a row of zeros, which torchao quantizes to NaN"
        return reasons

    def set(self, formats: Mapping[str, FormatName]) -> None:
        """Give each Linear its format; those that are not named become bf16.

        Raises:
            FormatError: an FQN is no Linear of the module, a format refuses a Linear, or the switch is closed. Then nothing has changed.
        """
        if self._closed:
            if formats:
                raise FormatError("this Switch is closed and sets no format any more; make another one of the module")
            return
        refused = self.refusals(formats)
        if refused:
            first, reason = next(iter(refused.items()))
            raise FormatError(f"{len(refused)} Linears are refused by their format, the first is {first}: {reason}; leave them in bf16")
        active = {fqn: self._prepared(fqn, name) for fqn, name in formats.items() if name is not FormatName.BF16}
        for fqn, linear in self.linears.items():
            cast(SwitchableLinear, linear)._active = active.get(fqn)

    def close(self) -> None:
        """Make the Linears plain `nn.Linear` again and forget the quantized weights."""
        for linear in self.linears.values():
            if isinstance(linear, SwitchableLinear):
                del linear._active
                linear.__class__ = nn.Linear  # type: ignore[assignment]  # back to what it was
        self._weights.clear()
        self._closed = True

    def __enter__(self) -> "Switch":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _linear(self, fqn: str) -> nn.Linear:
        try:
            return self.linears[fqn]
        except KeyError:
            raise FormatError(
                f"{fqn!r} is none of the {len(self.linears)} plain Linears of this model; take FQNs from `sensitivity profile`"
            ) from None

    @torch.no_grad()
    def _prepared(self, fqn: str, name: FormatName) -> tuple[Format, QuantizedOperand]:
        fmt = get_format(name)
        if (fqn, name) not in self._weights:
            operand = fmt.quantize_weight(self.linears[fqn].weight)
            if not bool(operand.values.isfinite().all()):
                raise FormatError(
                    f"{fqn} cannot be {name}: its weight quantizes to NaN or inf, as with an all-zero row or tensor; leave this Linear in bf16"
                )
            self._weights[fqn, name] = operand
        return fmt, self._weights[fqn, name]
