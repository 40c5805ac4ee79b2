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
from sensitivity.formats.switchable_linear import Active


class WeightCache:
    """Quantized weights of some Linears.

    Args:
        linears: {FQN: Linear}.
        most_bytes: the most that kept weights may take on the device; None keeps all.
        arithmetic: the runtime that is emulated. Weights are the same in all of them.
    """

    def __init__(
        self,
        linears: Mapping[str, nn.Linear],
        most_bytes: int | None,
        arithmetic: Arithmetic = Arithmetic.EAGER,
    ) -> None:
        self.linears = linears
        self.most_bytes = most_bytes
        self.arithmetic = arithmetic
        self.held_bytes = 0
        self._weights: dict[tuple[str, FormatName], KeptWeight | None] = {}

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
        chosen = quantized(formats)
        held_before = self.held_bytes
        fresh: dict[tuple[str, FormatName], KeptWeight | None] = {}
        finite: dict[tuple[str, FormatName], Tensor] = {}
        for fqn, name in chosen.items():
            if fqn in passing or self._is_known(fqn, name):
                continue
            weight = self.linears[fqn].weight
            operand = self._format(fqn, name).quantize_weight(weight)
            finite[fqn, name] = _is_finite(operand)
            self._release(self._weights.get((fqn, name)))
            has_room = self._has_room(operand)
            fresh[fqn, name] = KeptWeight.of(weight, operand) if has_room else None
        # One synchronisation with the GPU for all Linears.
        if finite and not bool(torch.stack(list(finite.values())).all()):
            fqn, name = next(key for key, fine in finite.items() if not bool(fine))
            self.held_bytes = held_before
            raise FormatError(
                f"{fqn} cannot be {name}: its weight quantizes to NaN or inf, as with an all-zero"
                " row or tensor; leave this Linear in bf16"
            )
        self._weights |= fresh
        return {
            fqn: Active(
                self._format(fqn, name), None if fqn in passing else self._weights[fqn, name]
            )
            for fqn, name in chosen.items()
        }

    def clear(self) -> None:
        """Keep nothing."""
        self._weights.clear()
        self.held_bytes = 0

    def _is_known(self, fqn: str, name: FormatName) -> bool:
        """Whether the pair was quantized before, and what was kept is still right."""
        if (fqn, name) not in self._weights:
            return False
        kept = self._weights[fqn, name]
        return kept is None or kept.is_of(self.linears[fqn].weight)

    def _release(self, kept: KeptWeight | None) -> None:
        """Count a kept weight that is replaced no more."""
        if kept is not None:
            self.held_bytes -= _bytes_of(kept.operand)

    def _format(self, fqn: str, name: FormatName) -> Format:
        return as_run_on(name, self.linears[fqn].weight.device, self.arithmetic)

    def _has_room(self, operand: QuantizedOperand) -> bool:
        """Whether one more weight may be kept; if so, its bytes are counted."""
        needed = self.held_bytes + _bytes_of(operand)
        if self.most_bytes is not None and needed > self.most_bytes:
            return False
        self.held_bytes = needed
        return True


def _is_finite(operand: QuantizedOperand) -> Tensor:
    """() bool on the operand's device."""
    values = operand.values
    if values.dtype == torch.float8_e4m3fn:
        values = values.bfloat16()
    fine = values.isfinite().all()
    return fine if operand.scale is None else fine & operand.scale.isfinite().all()


def _bytes_of(operand: QuantizedOperand) -> int:
    return operand.values.nbytes + (0 if operand.scale is None else operand.scale.nbytes)
