"""Which GPUs can be priced, and how well is each known? `list_targets`.

    [target.name for target in list_targets() if target.has_own_fit]

What it does not do: price (`predicted`).
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

from sensitivity.latency.devices import DEVICES, get_device
from sensitivity.latency.targets.target_file import shipped_targets


@dataclass(frozen=True, kw_only=True, slots=True)
class ListedTarget:
    """One GPU that can be priced.

    Attributes:
        name: The chip.
        peaks_flops_per_s: Dense peak of each format that it has.
        bandwidth_bytes_per_s: Memory bandwidth.
        memory_bytes: Memory that programs can use.
        sm_count: Streaming multiprocessors.
        capability: CUDA compute capability.
        has_own_fit: Whether its kernel constants were fitted on this very chip.
        measured_shapes: How many Linears and attentions were measured on it.
        sources: Where the numbers come from.
    """

    name: str
    peaks_flops_per_s: dict[str, float]
    bandwidth_bytes_per_s: float
    memory_bytes: int
    sm_count: int
    capability: str
    has_own_fit: bool
    measured_shapes: int
    sources: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """An entry of the JSON of `sensitivity device`."""
        return dataclasses.asdict(self) | {"sources": list(self.sources)}


def list_targets() -> tuple[ListedTarget, ...]:
    """Every GPU that comes with the package."""
    found = []
    for name in DEVICES:
        device = get_device(name)
        target = shipped_targets().get(name)
        found.append(
            ListedTarget(
                name=name,
                peaks_flops_per_s={
                    format.value: rate for format, rate in device.peaks_flops_per_s.items()
                },
                bandwidth_bytes_per_s=device.bandwidth_bytes_per_s,
                memory_bytes=device.memory_bytes,
                sm_count=device.sm_count,
                capability=device.capability,
                has_own_fit=device.calibrated,
                measured_shapes=sum(bool(row.us) for row in target.rows) if target else 0,
                sources=device.sources,
            )
        )
    return tuple(found)
