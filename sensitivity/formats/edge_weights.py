"""How do Linears that torchao has quantized run at higher precision for a step, and come back?

`EdgeWeights` puts another weight into each of them: the bf16 weight that was kept beside, or the
quantized one without quantized activations (`a16_weight`).

    keep_weights(linears)                                   # only for EdgeMode.BF16
    quantize_native(denoiser, formats)
    edges = EdgeWeights(linears, EdgeMode.BF16)
    edges.enter()                                           # an edge step may run
    edges.leave()                                           # quantized again

Method. A Linear's `weight` is one entry of a dict, and changing it is all that a switch costs: some
microseconds for hundreds of Linears. No module, hook, compiled call or parameter name changes, and
nothing is copied or quantized.

**Compiled graphs.** torch keeps one graph of a block for each kind of weights, and looks which fits
before each call. So both kinds compile once, when each runs for the first time. Graphs of CUDA are
recorded for each of them; the addresses of both weights stay. A CUDA graph that is captured by hand
holds the weights that were there, and needs to be captured once for each kind.

**Memory.** `EdgeMode.BF16` keeps the bf16 weights beside the quantized ones. `EdgeMode.A16` shares
codes and scales, and needs room for one dequantized weight at a time.

What it does not do: know of steps (`recipes.step_switching`); Linears that a `Switch` emulates
(`Switch.edge_mode`).
"""

import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from sensitivity.core.step_policy import EdgeMode
from sensitivity.core.words import counted
from sensitivity.errors import FormatError
from sensitivity.formats.a16_weight import A16Weight

Weight = nn.Parameter | None
_kept: "weakref.WeakKeyDictionary[nn.Linear, nn.Parameter]" = weakref.WeakKeyDictionary()
"""bf16 weights beside, of Linears that are alive."""
_places: "weakref.WeakKeyDictionary[nn.Linear, tuple[_State, int]]" = weakref.WeakKeyDictionary()
"""The state of the `EdgeWeights` that a Linear belongs to, and its place there."""


@dataclass(slots=True)
class _State:
    """`own`: the quantized weights, while others are in their places."""

    own: list[Weight] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Source:
    """The data of a torchao tensor: where a module moves its weights, they are others.

    Asking a tensor subclass for its device or its data takes microseconds, and there are hundreds.
    """

    weight: Tensor
    parts: tuple[tuple[str, Tensor], ...]
    device: torch.device

    @classmethod
    def of(cls, weight: Tensor) -> Self:
        names, _ = cast(Any, weight).__tensor_flatten__()
        return cls(weight, tuple((name, getattr(weight, name)) for name in names), weight.device)

    def is_of(self, weight: Tensor) -> bool:
        return weight is self.weight and all(
            getattr(weight, name) is part for name, part in self.parts
        )


def keep_weights(linears: Iterable[nn.Linear]) -> None:
    """Keep the bf16 weights of Linears that are about to be quantized, as long as these live."""
    for linear in linears:
        _kept[linear] = cast(nn.Parameter, linear.weight)


def forget_weights(linears: Iterable[nn.Linear]) -> None:
    """Keep the bf16 weights of these no more."""
    for linear in linears:
        _kept.pop(linear, None)


def kept_bytes(linears: Iterable[nn.Linear]) -> int:
    """Bytes of the bf16 weights that are kept beside those of these Linears."""
    return sum(_kept[linear].nbytes for linear in linears if linear in _kept)


def is_at_edge(linear: nn.Linear) -> bool:
    """Whether a Linear holds the weight of edge steps now."""
    return linear in _places and bool(_places[linear][0].own)


def quantized_weight(linear: nn.Linear) -> Tensor:
    """A Linear's own weight, (N, K), also while it holds that of edge steps."""
    if not is_at_edge(linear):
        return linear.weight
    state, place = _places[linear]
    return cast(Tensor, state.own[place])


class EdgeWeights:
    """Puts other weights into quantized Linears, and takes them out.

    Args:
        linears: {FQN: Linear that torchao has quantized}.
        mode: which weights.

    Raises:
        FormatError: weights are not quantized, or the bf16 ones were not kept.
    """

    def __init__(self, linears: Mapping[str, nn.Linear], mode: EdgeMode) -> None:
        self.mode = mode
        self._linears = list(linears.values())
        self._put([quantized_weight(linear) for linear in self._linears])  # others may have entered
        plain = [fqn for fqn, linear in linears.items() if type(linear.weight.data) is Tensor]
        if plain:
            raise FormatError(
                f"found Linears that are not quantized: {counted(plain)}; expected torchao's"
                " weights: apply the recipe first"
            )
        lost = [fqn for fqn, linear in linears.items() if linear not in _kept]
        if mode is EdgeMode.BF16 and lost:
            raise FormatError(
                f"found no bf16 weights beside the quantized ones of {counted(lost)}; expected them"
                " for edge steps in bf16: load the model in bf16 and apply a recipe with this step"
                " policy, which keeps them, or choose a16 as its `mode`, which needs none"
            )
        self._beside: list[Weight] = [None] * len(self._linears)
        self._sources: list[_Source | None] = [None] * len(self._linears)
        self._state = _State()
        _places.update({linear: (self._state, i) for i, linear in enumerate(self._linears)})
        self.refresh()

    @property
    def entered(self) -> bool:
        """Whether the Linears run as in edge steps now."""
        return bool(self._state.own)

    def refresh(self) -> None:
        """Leave the edge step, and follow weights that were moved or set anew since."""
        self.leave()
        for i, linear in enumerate(self._linears):
            own, source = cast(Tensor, linear._parameters["weight"]), self._sources[i]
            if source is None or not source.is_of(own):
                source = self._sources[i] = _Source.of(own)
                self._beside[i] = self._weight_beside(linear)
            if self.mode is EdgeMode.BF16:
                kept = cast(nn.Parameter, self._beside[i])
                if kept.device != source.device:
                    kept.data = kept.data.to(source.device)

    def enter(self) -> None:
        """Let the Linears run as in edge steps from their next call on."""
        if not self._state.own:
            self._state.own = [linear._parameters["weight"] for linear in self._linears]
            self._put(self._beside)

    def leave(self) -> None:
        """Let them run quantized again."""
        if self._state.own:
            self._put(self._state.own)
            self._state.own = []

    def _weight_beside(self, linear: nn.Linear) -> nn.Parameter:
        if self.mode is EdgeMode.BF16:
            return _kept[linear]
        return nn.Parameter(A16Weight(linear.weight.detach()), requires_grad=False)

    def _put(self, weights: Sequence[Tensor | None]) -> None:
        for linear, weight in zip(self._linears, weights, strict=True):
            linear._parameters["weight"] = cast(Weight, weight)
