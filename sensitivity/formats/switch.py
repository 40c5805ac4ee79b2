"""How does a loaded denoiser change its skip-list?

`Switch` changes every Linear between bf16 and quantized formats, in place.

Method. Each plain `nn.Linear` becomes a `SwitchableLinear`: same module object, same parameters,
same FQN and hooks, so neither weights nor references to the module move. Setting a format is one
attribute. The quantized weight of a (Linear, format) pair is made the first time it is needed and
kept. bf16 is the original `nn.Linear.forward` on the original weight, so it is exact whatever was
set before.

Hooks and patches stay, and run as before: what they make of an input, a weight or an output, the
quantized product gets or gives (`switchable_linear`). A Linear whose arithmetic is not that of
`nn.Linear` and its own weight is refused with what stands on it (`patches`).

    with Switch(pipeline.transformer) as switch:
        switch.set({"proj_out": FormatName.NVFP4})      # all others bf16
        pictures = pipeline(prompt).images
    # here the Linears are plain nn.Linear again

**Precision by step.** `edge_mode` makes an edge step of what follows: while it is set, quantized
Linears run in bf16, or in W x A16 (`core.step_policy`). That costs one assignment; no weight is
quantized again, and nothing is compiled.

    switch.edge_mode = EdgeMode.BF16        # before an edge step
    switch.edge_mode = None                 # before a step that runs quantized

**Compiled graphs.** A change of formats compiles nothing again (`switchable_linear`).

**Memory.** Quantized weights are kept as long as they fit into `weight_cache_bytes`
(`weight_cache`).

**Kernels.** A format that the GPU has runs by the kernels that serve a model there, unless
`emulate` is on; what it lacks is emulated (`native_formats`). So is a product whose shape a native
kernel refuses (`refused_products`).

**What ran.** `unquantized` says which Linears did not run quantized since the last `set`, and
`check_ran` raises where one was called.

What it does not do: put torchao's weights into the module (`native.quantize_native`). Only modules
whose class is exactly `nn.Linear` are switched. Gradients pass in eager mode only, and not through
native kernels.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import cast

import torch
from torch import nn

from sensitivity.core.arithmetic import Arithmetic
from sensitivity.core.format_name import FormatName, parse_format, quantized
from sensitivity.core.step_policy import EdgeMode
from sensitivity.core.words import counted
from sensitivity.errors import FormatError
from sensitivity.formats.patches import (
    describe,
    foreign_arithmetic,
    has_passing_weight,
    moves_weights,
)
from sensitivity.formats.registry import get_format
from sensitivity.formats.switchable_linear import (
    PatchedLinear,
    SwitchableLinear,
    activate,
    is_patched,
    make_plain,
    make_switchable,
)
from sensitivity.formats.weight_cache import WeightCache


@dataclass(frozen=True, kw_only=True, slots=True)
class Unquantized:
    """Linears that have a format and did not run in it.

    Attributes:
        uncalled: no call reached them.
        bypassed: a patch ran and multiplied by something else than their own weight.
        replaced: they are no part of the module any more.
        at_edges: all their calls were at edge steps, where they run as they are told.
    """

    uncalled: tuple[str, ...]
    bypassed: tuple[str, ...]
    replaced: tuple[str, ...]
    at_edges: tuple[str, ...] = ()


class Switch:
    """Owns the formats of all Linears of one module.

    Making one changes nothing but the class of the module's Linears; `close` changes it back.

    Args:
        module: its Linears are switched.
        weight_cache_bytes: the most that kept quantized weights may take on the device; None keeps
            all.
        arithmetic: the runtime whose numbers are computed.
        emulate: whether formats are emulated that the device has natively.

    Attributes:
        linears: FQN -> Linear (first name of a shared module).
        others: FQN -> why a Linear changes no format. It stays bf16.
        weights: the kept quantized weights.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        weight_cache_bytes: int | None = None,
        arithmetic: Arithmetic = Arithmetic.EAGER,
        emulate: bool = False,
    ) -> None:
        self.module = module
        self.linears: dict[str, nn.Linear] = {}
        self.others: dict[str, str] = {}
        for fqn, child in module.named_modules():
            if not isinstance(child, nn.Linear):
                continue
            reason = foreign_arithmetic(child, plain=(nn.Linear, SwitchableLinear, PatchedLinear))
            if reason is None:
                self.linears[fqn] = child
            else:
                self.others[fqn] = reason
        self.weights = WeightCache(self.linears, weight_cache_bytes, arithmetic, emulate=emulate)
        self._formats: dict[str, FormatName] = {}
        self._closed = False
        for linear in self.linears.values():
            make_switchable(linear)

    @property
    def arithmetic(self) -> Arithmetic:
        """The runtime whose numbers are computed from the next `set` on."""
        return self.weights.arithmetic

    @arithmetic.setter
    def arithmetic(self, arithmetic: Arithmetic) -> None:
        self.weights.arithmetic = arithmetic

    @property
    def edge_mode(self) -> EdgeMode | None:
        """What quantized Linears compute in from the next call on; None: in their formats. `set`
        makes it None.
        """
        return self.weights.edge.mode

    @edge_mode.setter
    def edge_mode(self, mode: EdgeMode | None) -> None:
        self.weights.edge.mode = mode

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
                    refused[fqn] = self.others[fqn]
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
        reasons = dict(self.others)
        for fqn, linear in self.linears.items():
            weight = linear.weight
            if weight.is_meta:  # it is in memory during calls only
                continue
            if weight.is_floating_point() and bool((weight.abs().amax(dim=1) == 0).any()):
                reasons[fqn] = "its weight has a row of zeros, which torchao quantizes to NaN"
        return reasons

    def set(self, formats: Mapping[str, FormatName]) -> None:
        """Give each Linear its format; Linears that are not named become bf16.

        A format may be given as text.

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
        formats = {fqn: parse_format(name) for fqn, name in formats.items()}
        refused = self.refusals(formats)
        if refused:
            first, reason = next(iter(refused.items()))
            raise FormatError(
                f"{len(refused)} Linears are refused by their format, the first is {first}:"
                f" {reason}; leave them in bf16"
            )
        active = self.weights.prepare(formats, passing=self._passing())
        for fqn, linear in self.linears.items():
            activate(cast(SwitchableLinear, linear), active.get(fqn))
        self._formats = dict(formats)
        self.edge_mode = None

    def unquantized(self) -> "Unquantized":
        """Which Linears have a format since the last `set`, and have not run in it."""
        chosen = {
            fqn: cast(SwitchableLinear, self.linears[fqn]) for fqn in quantized(self._formats)
        }
        left = {fqn: linear for fqn, linear in chosen.items() if linear.calls.quantized == 0}
        modules = set(self.module.modules()) if left else set()
        uncalled, bypassed, replaced, at_edges = [list[str]() for _ in range(4)]
        for fqn, linear in left.items():
            calls = linear.calls
            if linear not in modules:
                replaced.append(fqn)
            elif calls.a16 > 0 or (calls.bf16 > 0 and calls.patched == 0):
                at_edges.append(fqn)
            elif calls.patched > 0 or is_patched(linear):
                bypassed.append(fqn)
            else:
                uncalled.append(fqn)
        return Unquantized(
            uncalled=tuple(uncalled),
            bypassed=tuple(bypassed),
            replaced=tuple(replaced),
            at_edges=tuple(at_edges),
        )

    def check_ran(self) -> tuple[str, ...]:
        """Check, after a call of the module, that Linears with a format ran in it.

        Returns:
            The Linears with a format that the call did not reach.

        Raises:
            FormatError: some ran in bf16.
        """
        found = self.unquantized()
        wrong = [*found.bypassed, *found.replaced]
        if wrong:
            on = describe(self.linears[wrong[0]]) or "another module"
            raise FormatError(
                f"found Linears that ran in bf16 although they have a format: {counted(wrong)};"
                f" expected each in its format. In place of the first stands {on}: take it off, and"
                " load the model again"
            )
        return found.uncalled

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

    def _passing(self) -> frozenset[str]:
        """The Linears whose weights are to be read in each call."""
        moving = tuple(f"{fqn}." for fqn, m in self.module.named_modules() if moves_weights(m))
        return frozenset(
            fqn
            for fqn, linear in self.linears.items()
            if has_passing_weight(linear) or fqn.startswith(moving) or "." in moving
        )

    def _linear(self, fqn: str) -> nn.Linear:
        try:
            return self.linears[fqn]
        except KeyError:
            raise FormatError(
                f"{fqn!r} is none of the {len(self.linears)} plain Linears of this model; take FQNs"
                " from `sensitivity profile`"
            ) from None
