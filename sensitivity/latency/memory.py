"""How much GPU memory does a run need, in bf16 and quantized?

Weights. Every Linear of the table counts what its format stores (codes and padded scales), and
everything else counts as it is loaded.

Step policies. Where edge steps run in bf16, the bf16 weight of each quantized Linear is kept beside
the quantized one. Edge steps in A16 need no second copy: the weight that is dequantized in a call
is given back after it.

Peak. The weights of all components are on the GPU together. On top come the live activations of the
component that has the most, counted in eager order (`shapes.census`).

Not predicted: what CUDA itself, workspaces of convolutions, fragmentation and the private pools of
CUDA graphs take. Against the published peaks of FLUX.1-dev, 3 GB are missing at batch 1 and 6 GB at
batch 8. What quantizing saves is right within 0.1 GB.

Conventions: bytes; 1 GB is 1e9 bytes.

    memory = estimate_memory(table, formats, weight_bytes)      # an Assignment has a policy too
    memory.bf16_peak_bytes, memory.quantized_peak_bytes
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sensitivity.core.assignment import Assignment
from sensitivity.core.format_name import FormatName, quantized
from sensitivity.core.step_policy import EdgeMode
from sensitivity.shapes.table import ShapeTable

MISSING_BYTES = 6 * 10**9
"""What a predicted peak may lack: the most that it did beside published ones."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryEstimate:
    """Predicted bytes.

    Attributes:
        bf16_linear_bytes: Weights of the table's Linears in bf16.
        quantized_linear_bytes: The same weights in the given formats, and the bf16 weights that a
            step policy keeps beside them.
        other_weight_bytes: All other weights of the pipeline; None if the run was not counted.
        activation_bytes: The largest live activations of one component; None if the run was not
            counted.
        kept_bf16_bytes: The part of `quantized_linear_bytes` that are bf16 weights kept for edge
            steps; None without a step policy that keeps them.
    """

    bf16_linear_bytes: int
    quantized_linear_bytes: int
    other_weight_bytes: int | None = None
    activation_bytes: int | None = None
    kept_bf16_bytes: int | None = None

    @property
    def bf16_peak_bytes(self) -> int | None:
        """All weights and the activations with every Linear in bf16; None if not counted."""
        return self._peak(self.bf16_linear_bytes)

    @property
    def quantized_peak_bytes(self) -> int | None:
        """All weights and the activations in the given formats; None if not counted."""
        return self._peak(self.quantized_linear_bytes)

    def _peak(self, linear_bytes: int) -> int | None:
        if self.other_weight_bytes is None or self.activation_bytes is None:
            return None
        return linear_bytes + self.other_weight_bytes + self.activation_bytes

    def to_json(self) -> dict[str, Any]:
        """The object "memory" in the JSON of `sensitivity latency`, peaks included."""
        data = dataclasses.asdict(self) | {
            "bf16_peak_bytes": self.bf16_peak_bytes,
            "quantized_peak_bytes": self.quantized_peak_bytes,
        }
        return {key: value for key, value in data.items() if value is not None} | {
            "source": "predicted"
        }


def estimate_memory(
    table: ShapeTable,
    formats: Mapping[str, FormatName],
    weight_bytes: Callable[[FormatName, int, int], int],
) -> MemoryEstimate:
    """Add up a table's bytes.

    Args:
        table: The run's shapes. Peaks need its counts (`table.run`). Linears that were
            never called are not in it.
        formats: FQN -> format; Linears left out are bf16. An `Assignment` may have a step policy.
        weight_bytes: (format, K, N) -> bytes of the stored weight with its scales.
    """
    bf16 = sum(2 * linear.k * linear.n for linear in table.linears)
    stored = sum(
        weight_bytes(formats.get(linear.fqn, FormatName.BF16), linear.k, linear.n)
        for linear in table.linears
    )
    kept = _kept_bf16_bytes(table, Assignment.of(formats))
    weights = MemoryEstimate(
        bf16_linear_bytes=bf16,
        quantized_linear_bytes=stored + (kept or 0),
        kept_bf16_bytes=kept,
    )
    if table.run is None:
        return weights
    return dataclasses.replace(
        weights,
        other_weight_bytes=max(
            sum(counts.weight_bytes for counts in table.run.components) - bf16, 0
        ),
        activation_bytes=max(
            (counts.peak_activation_bytes for counts in table.run.components), default=0
        ),
    )


def _kept_bf16_bytes(table: ShapeTable, formats: Assignment) -> int | None:
    """Bytes of the bf16 weights that edge steps need beside quantized ones; None if none are."""
    if formats.policy.is_plain or formats.policy.mode is not EdgeMode.BF16:
        return None
    chosen = quantized(formats)
    return sum(2 * linear.k * linear.n for linear in table.linears if linear.fqn in chosen)
