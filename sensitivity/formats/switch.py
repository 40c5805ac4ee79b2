"""How does a loaded denoiser change its skip-list?

`Switch` changes every Linear between bf16 and emulated formats, in place.

Method. Each plain `nn.Linear` becomes a `SwitchableLinear`: same module object, same parameters,
same FQN and hooks, so neither weights nor references to the module move. Setting a format is one
attribute. The quantized weight of a (Linear, format) pair is made the first time it is needed and
kept. bf16 is the original `nn.Linear.forward` on the original weight, so it is exact whatever was
set before.

    with Switch(pipeline.transformer) as switch:
        switch.set({"proj_out": FormatName.NVFP4})      # all others bf16
        pictures = pipeline(prompt).images
    # here the Linears are plain nn.Linear again

**Compiled graphs.** A change of formats compiles nothing again (`switchable_linear`).

**Memory.** Quantized weights are kept as long as they fit into `weight_cache_bytes`
(`weight_cache`).

What it does not do: native kernels (`native.quantize_native`). Only modules whose class is exactly
`nn.Linear` are switched. Gradients pass in eager mode only.
"""

from collections.abc import Mapping
from types import TracebackType
from typing import cast

import torch
from torch import nn

from sensitivity.core.format_name import FormatName
from sensitivity.errors import FormatError
from sensitivity.formats.registry import get_format
from sensitivity.formats.switchable_linear import SwitchableLinear, make_plain, make_switchable
from sensitivity.formats.weight_cache import WeightCache


class Switch:
    """Owns the formats of all Linears of one module.

    Making one changes nothing but the class of the module's Linears; `close` changes it back.

    Args:
        module: its Linears are switched.
        weight_cache_bytes: the most that kept quantized weights may take on the device; None keeps
            all.

    Attributes:
        linears: FQN -> Linear (first name of a shared module).
        others: FQN -> class name of Linears of subclasses. They stay bf16, since their forward is
            their own.
        weights: the kept quantized weights.
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
        self.weights = WeightCache(self.linears, weight_cache_bytes)
        self._closed = False
        for linear in self.linears.values():
            make_switchable(linear)

    @property
    def weight_cache_bytes(self) -> int | None:
        """The most that kept quantized weights may take; None keeps all."""
        return self.weights.most_bytes

    @weight_cache_bytes.setter
    def weight_cache_bytes(self, most: int | None) -> None:
        self.weights.most_bytes = most

    def refusals(self, formats: Mapping[str, FormatName]) -> dict[str, str]:
        """{FQN: reason} of the Linears whose shape or dtype their format does not take.

        Raises:
            FormatError: an FQN is no Linear of the module.
        """
        refused = {}
        for fqn, name in formats.items():
            if fqn in self.others:
                if name.is_quantized:
                    refused[fqn] = _not_plain(self.others[fqn])
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

        torchao divides by the largest value of a row or tensor. A row of zeros quantizes to NaN in
        fp8, an all-zero tensor in nvfp4.
        """
        reasons = {fqn: _not_plain(kind) for fqn, kind in self.others.items()}
        for fqn, linear in self.linears.items():
            weight = linear.weight
            if weight.is_floating_point() and bool((weight.abs().amax(dim=1) == 0).any()):
                reasons[fqn] = "its weight has a row of zeros, which torchao quantizes to NaN"
        return reasons

    def set(self, formats: Mapping[str, FormatName]) -> None:
        """Give each Linear its format; Linears that are not named become bf16.

        Raises:
            FormatError: an FQN is no Linear of the module, a format refuses a Linear, or the switch
                is closed. Nothing has changed then.
        """
        if self._closed:
            if formats:
                raise FormatError(
                    "this Switch is closed and can set no format; make a new Switch of the module"
                )
            return
        refused = self.refusals(formats)
        if refused:
            first, reason = next(iter(refused.items()))
            raise FormatError(
                f"{len(refused)} Linears are refused by their format, the first is {first}:"
                f" {reason}; leave them in bf16"
            )
        active = self.weights.prepare(formats)
        for fqn, linear in self.linears.items():
            cast(SwitchableLinear, linear).active = active.get(fqn)

    def forget(self) -> None:
        """Set all Linears to bf16, and keep no quantized weight."""
        self.set({})
        self.weights.clear()

    def close(self) -> None:
        """Make the Linears plain `nn.Linear` again, and keep no quantized weight."""
        for linear in self.linears.values():
            make_plain(linear)
        self.weights.clear()
        self._closed = True

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


def _not_plain(kind: str) -> str:
    return f"it is a {kind}, and only plain nn.Linear change format"
