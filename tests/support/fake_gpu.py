"""A GPU that is not there: it has a name, runs FP8 natively, and takes a time that follows from a
Linear's shape.

gpu = FakeGpu(tmp_path / "times.db")
gpu.plug_in(monkeypatch)
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sensitivity.core.format_name import FormatName
from sensitivity.latency.shape_times import LinearShape
from sensitivity.latency.timing import shape_timing
from sensitivity.latency.timing.shape_timing import measure_shapes
from sensitivity.workflows import find, latency_source, shape_table, table_work

from support.latency import bench

NAME, TARGET = "NVIDIA H200", "h200"


def linear_us(shape: LinearShape) -> float:
    """What a Linear takes: FP8 is twice as fast, after 2 us that a sibling does not pay."""
    bf16_us = 1 + shape.m * shape.k * shape.n / 1e5
    if shape.format is FormatName.BF16:
        return bf16_us
    return bf16_us / 2 + (0 if shape.sibling else 2)


class FakeGpu:
    """Stands for the GPU at hand while shapes are measured, on the CPU.

    Attributes:
        times: the database of measured times.
        slower: a factor on all times.
        timed: the shapes that were timed, in order.
        fails: gives an error for a shape that cannot be made.
    """

    def __init__(self, times: Path) -> None:
        self.times = times
        self.slower = 1.0
        self.timed: list[LinearShape] = []
        self.fails: Callable[[LinearShape], BaseException | None] = lambda _shape: None
        self._at: LinearShape | None = None

    def plug_in(self, patch: Any) -> None:
        """Let workflows find it as the device "cpu"."""
        patch.setattr(latency_source, "gpu_name", lambda _device: NAME)
        patch.setattr(
            latency_source,
            "native_refusal",
            lambda name, _device: None if name is FormatName.FP8 else "it has no such kernel",
        )
        patch.setattr(table_work, "default_shape_times_path", lambda: self.times)
        for name in ("release_memory", "free_memory"):  # they collect garbage
            patch.setattr(shape_timing, name, lambda _device: None)
        patch.setattr(find, "time_winner", lambda outcome, **_how: outcome)  # no run to time
        own = bench(stopwatch=self, make_linear=self.make_linear)
        patch.setattr(shape_table, "measure_shapes", functools.partial(measure_shapes, bench=own))

    def make_linear(
        self, shape: LinearShape, _device: torch.device, _generator: torch.Generator
    ) -> nn.Module:
        """A Linear that nobody calls."""
        error = self.fails(shape)
        if error is not None:
            raise error
        self._at = shape
        return nn.Identity()

    def prepare(self, _call: Callable[[int], object], _copies: int) -> Callable[[], float]:
        """The time of what was made last: a Linear behind its producer, two of them for a sibling,
        or a producer or an attention alone.
        """
        shape, self._at = self._at, None
        if shape is None:
            return lambda: 1.0
        self.timed.append(shape)
        us = linear_us(shape)
        if shape.sibling:
            us += linear_us(LinearShape(**{**_fields(shape), "sibling": False}))
        producer_us = 0.0 if shape.eager else 1.0
        slower = self.slower
        return lambda: producer_us + us * slower


def _fields(shape: LinearShape) -> dict[str, Any]:
    return {name: getattr(shape, name) for name in LinearShape.__slots__}
