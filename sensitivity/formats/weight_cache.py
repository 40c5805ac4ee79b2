"""Which quantized weights are kept, so that a skip-list that comes back costs nothing?

`WeightCache` quantizes the weight of a (Linear, format) pair the first time it is needed. It keeps
the result as long as all kept weights fit into `most_bytes`; a weight that is not kept is None, and
is quantized again in each call.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sensitivity.core.format_name import FormatName, quantized
from sensitivity.errors import FormatError
from sensitivity.formats._base import Format, QuantizedOperand
from sensitivity.formats.emulation import as_run_on


class WeightCache:
    """Quantized weights of some Linears.

    Args:
        linears: {FQN: Linear}; their weights do not change.
        most_bytes: the most that kept weights may take on the device; None keeps all.
    """

    def __init__(self, linears: Mapping[str, nn.Linear], most_bytes: int | None) -> None:
        self.linears = linears
        self.most_bytes = most_bytes
        self.held_bytes = 0
        self._weights: dict[tuple[str, FormatName], QuantizedOperand | None] = {}

    def __len__(self) -> int:
        """How many (Linear, format) pairs were quantized so far, kept or not."""
        return len(self._weights)

    @torch.no_grad()
    def prepare(
        self, formats: Mapping[str, FormatName]
    ) -> dict[str, tuple[Format, QuantizedOperand | None]]:
        """{FQN: (format, quantized weight)} of the Linears that are not bf16; None for a weight
        that is not kept.

        Raises:
            FormatError: a weight quantizes to NaN or inf. The cache has not changed then.
        """
        chosen = quantized(formats)
        fresh: dict[tuple[str, FormatName], QuantizedOperand | None] = {}
        finite: dict[tuple[str, FormatName], Tensor] = {}
        for fqn, name in chosen.items():
            if (fqn, name) not in self._weights:
                operand = self._format(fqn, name).quantize_weight(self.linears[fqn].weight)
                finite[fqn, name] = _is_finite(operand)
                fresh[fqn, name] = operand if self._has_room(operand) else None
        # One synchronisation with the GPU for all Linears.
        if finite and not bool(torch.stack(list(finite.values())).all()):
            fqn, name = next(key for key, fine in finite.items() if not bool(fine))
            self.held_bytes -= sum(_bytes_of(x) for x in fresh.values() if x is not None)
            raise FormatError(
                f"{fqn} cannot be {name}: its weight quantizes to NaN or inf, as with an all-zero"
                " row or tensor; leave this Linear in bf16"
            )
        self._weights |= fresh
        return {
            fqn: (self._format(fqn, name), self._weights[fqn, name]) for fqn, name in chosen.items()
        }

    def clear(self) -> None:
        """Keep nothing."""
        self._weights.clear()
        self.held_bytes = 0

    def _format(self, fqn: str, name: FormatName) -> Format:
        return as_run_on(name, self.linears[fqn].weight.device)

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
