"""Which shapes does a run save time in, and how much? `Savings`, what an interval is made of.

    savings = model.savings(table, formats)
    savings.fraction(model)                     # the part of the Linears' bf16 time that is saved

What it does not do: price a call (`LatencyModel`), or draw samples (`uncertainty`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from sensitivity.core.format_name import FormatName


class PricesCalls(Protocol):
    """What prices one call of a Linear, as `LatencyModel` does."""

    def call_us(
        self, *, m: int, k: int, n: int, format: FormatName, compiled: bool, readers: int
    ) -> float:
        """Microseconds of one call."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Savings:
    """What a model needs to know of a run for the interval of its speedup.

    Attributes:
        shapes: Calls by (M, K, N, format, whether it stands in a compiled block, how many Linears
            read its input). Where steps differ in precision, calls are parts of calls, and may
            count against each other (`step_mix.edge_terms`).
        linears_s: Seconds of all Linears in bf16, corrected if there is an anchor.
        rest_s: Seconds of everything else.
        anchored: Whether the sum of both was measured.
    """

    shapes: Mapping[tuple[int, int, int, FormatName, bool, int], float]
    linears_s: float
    rest_s: float
    anchored: bool

    def fraction(self, model: PricesCalls) -> float:
        """The part of the bf16 Linears' time that the formats save, as `model` prices them."""
        bf16_us = quantized_us = 0.0
        for (m, k, n, format, compiled, readers), calls in self.shapes.items():
            bf16_us += calls * model.call_us(
                m=m, k=k, n=n, format=FormatName.BF16, compiled=compiled, readers=readers
            )
            quantized_us += calls * model.call_us(
                m=m, k=k, n=n, format=format, compiled=compiled, readers=readers
            )
        return 1 - quantized_us / bf16_us
