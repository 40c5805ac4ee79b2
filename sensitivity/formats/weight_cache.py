"""Which quantized weights are kept, so that a skip-list that comes back costs nothing?

`WeightCache` quantizes the weight of a (Linear, format) pair the first time it is needed. It keeps
the result as long as all kept weights fit into `most_bytes`; a weight that is not kept is None, and
is quantized again in each call. So is a weight that is not in memory between calls, or that a hook
may change before each (`patches.has_passing_weight`). One that was changed or moved since it was
kept is quantized anew (`kept_weight`).
"""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from sensitivity.core.arithmetic import Arithmetic
from sensitivity.core.format_name import FormatName, quantized
from sensitivity.errors import FormatError
from sensitivity.formats._base import Format, QuantizedOperand
from sensitivity.formats.emulation import as_run_on
from sensitivity.formats.kept_weight import KeptWeight
from sensitivity.formats.switchable_linear import Active, AtEdge

_Key = tuple[str, FormatName, str]
"""FQN, format, and what its weight is (`Format.weight_kind`)"""


class WeightCache:
    """Quantized weights of some Linears.

    Args:
        linears: {FQN: Linear}.
        most_bytes: the most that kept weights may take on the device; None keeps all.
        arithmetic: the runtime whose numbers are computed. Emulated weights are the same in all.
        emulate: whether formats are emulated that the device has natively.

    Attributes:
        edge: whether an edge step runs now, for all that `prepare` gives.
    """

    def __init__(
        self,
        linears: Mapping[str, nn.Linear],
        most_bytes: int | None,
        arithmetic: Arithmetic = Arithmetic.EAGER,
        *,
        emulate: bool = False,
    ) -> None:
        self.linears = linears
        self.most_bytes = most_bytes
        self.arithmetic = arithmetic
        self.emulate = emulate
        self.edge = AtEdge()
        self.held_bytes = 0
        self._weights: dict[_Key, KeptWeight | None] = {}

    def __len__(self) -> int:
        """How many (Linear, format) pairs were quantized so far, kept or not."""
        return len(self._weights)

    @torch.no_grad()
    def prepare(
        self, formats: Mapping[str, FormatName], *, passing: Collection[str] = ()
    ) -> dict[str, Active]:
        """{FQN: format and quantized weight} of the Linears that are not bf16. The weight is None
        where it is not kept.

        Args:
            formats: {FQN: format}.
            passing: FQNs of Linears whose weights are read in each call, and not now.

        Raises:
            FormatError: a weight quantizes to NaN or inf. The cache has not changed then.
        """
        chosen = {fqn: self._format(fqn, name) for fqn, name in quantized(formats).items()}
        held_before = self.held_bytes
        fresh: dict[_Key, KeptWeight | None] = {}
        finite: dict[_Key, Tensor] = {}
        for fqn, fmt in chosen.items():
            if fqn in passing or self._is_known(fqn, fmt):
                continue
            weight, key = self.linears[fqn].weight, _key(fqn, fmt)
            operand = fmt.quantize_weight(weight)
            finite[key] = operand.is_finite()
            self._release(self._weights.get(key))
            fresh[key] = KeptWeight.of(weight, operand) if self._has_room(operand) else None
        # One synchronisation with the GPU for all Linears.
        if finite and not bool(torch.stack(list(finite.values())).all()):
            fqn, name, _ = next(key for key, fine in finite.items() if not bool(fine))
            self.held_bytes = held_before
            raise FormatError(
                f"{fqn} cannot be {name}: its weight quantizes to NaN or inf, as with an all-zero"
                " row or tensor; leave this Linear in bf16"
            )
        self._weights |= fresh
        return {
            fqn: Active(
                format=fmt,
                weight=None if fqn in passing else self._weights[_key(fqn, fmt)],
                emulate=self.emulate,
                edge=self.edge,
            )
            for fqn, fmt in chosen.items()
        }

    def clear(self) -> None:
        """Keep nothing."""
        self._weights.clear()
        self.held_bytes = 0

    def _is_known(self, fqn: str, fmt: Format) -> bool:
        """Whether the pair was quantized before, and what was kept is still right."""
        key = _key(fqn, fmt)
        if key not in self._weights:
            return False
        kept = self._weights[key]
        return kept is None or kept.is_of(self.linears[fqn].weight)

    def _release(self, kept: KeptWeight | None) -> None:
        """Count a kept weight that is replaced no more."""
        if kept is not None:
            self.held_bytes -= kept.operand.nbytes

    def _format(self, fqn: str, name: FormatName) -> Format:
        device = self.linears[fqn].weight.device
        return as_run_on(name, device, self.arithmetic, emulate=self.emulate)

    def _has_room(self, operand: QuantizedOperand) -> bool:
        """Whether one more weight may be kept; if so, its bytes are counted."""
        needed = self.held_bytes + operand.nbytes
        if self.most_bytes is not None and needed > self.most_bytes:
            return False
        self.held_bytes = needed
        return True


def _key(fqn: str, fmt: Format) -> _Key:
    return fqn, fmt.name, fmt.weight_kind
