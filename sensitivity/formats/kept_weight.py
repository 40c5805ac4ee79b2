"""Is a quantized weight that was kept still that of the Linear's weight?

Offloading moves weights, a checkpoint is loaded into them, hooks compute them anew. `KeptWeight`
remembers which memory it was made from.

    kept = KeptWeight.of(linear.weight, fmt.quantize_weight(linear.weight))
    kept.is_of(linear.weight)       # False after linear.weight.data was set, moved or written to

What it does not see: a write into the same memory through `.data`, as PEFT fuses a LoRA, through
numpy, or into a weight that was made in inference mode.
"""

from dataclasses import dataclass
from typing import Self

from torch import Tensor

from sensitivity.formats._base import QuantizedOperand


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptWeight:
    """A quantized weight and the weight that it was made from.

    Attributes:
        operand: the quantized weight.
        source: an alias of the weight. While it is held, no other tensor gets its memory.
        version: the weight's version counter; None where it has none.
    """

    operand: QuantizedOperand
    source: Tensor
    version: int | None

    @classmethod
    def of(cls, weight: Tensor, operand: QuantizedOperand) -> Self:
        """The operand, with the weight (N, K) that it was just made from."""
        return cls(operand=operand, source=weight.detach(), version=_version(weight))

    def is_of(self, weight: Tensor) -> bool:
        """Whether `weight` lies in the same memory in the same order, and was not written to."""
        return (
            weight.data_ptr() == self.source.data_ptr()
            and weight.device == self.source.device
            and weight.shape == self.source.shape
            and weight.stride() == self.source.stride()
            and _version(weight) == self.version
        )


def _version(weight: Tensor) -> int | None:
    return None if weight.is_inference() else weight._version
