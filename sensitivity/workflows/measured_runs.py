"""What did skip-lists take, end to end, on one machine? The records that `measure_runs` gives."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sensitivity.core.format_name import CompileMode, FormatName
from sensitivity.latency.run_timing import RunTiming
from sensitivity.shapes.table import ShapeTable

WeightsChoice = Literal["pretrained", "random"]
"""Pretrained weights time the whole pipeline call, random ones the denoiser's calls."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredRun:
    """One skip-list, measured end to end.

    Attributes:
        name: the list's.
        formats: {FQN: format} of what it quantizes.
        timings: one for each distinct denoiser call, or one for the whole pipeline call.
    """

    name: str
    formats: Mapping[str, FormatName]
    timings: tuple[RunTiming, ...]

    @property
    def seconds(self) -> float:
        """The whole run: median x calls, summed."""
        return sum(timing.run_s for timing in self.timings)

    @property
    def peak_bytes(self) -> int:
        """The most memory that torch reserved on the GPU, CUDA graphs included."""
        return max(max(timing.peak_memory_bytes, timing.reserved_bytes) for timing in self.timings)


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredRuns:
    """Skip-lists measured on one machine; the first is bf16."""

    target: str
    batch_size: int
    compile_mode: CompileMode
    weights: WeightsChoice
    covers: str
    table: ShapeTable
    runs: tuple[MeasuredRun, ...]
    environment: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """The JSON object of `sensitivity latency`, with `source` "measured".

        The object is that of the second list, or of bf16 where there is no other. Linears have no
        times of their own. "runs" has all runs with their raw repetitions.
        """
        bf16, main = self.runs[0], self.runs[min(1, len(self.runs) - 1)]
        return {
            "target": self.target,
            "source": "measured",
            "batch_size": self.batch_size,
            "compile_mode": self.compile_mode,
            "bf16_s": bf16.seconds,
            "quantized_s": main.seconds,
            "speedup": bf16.seconds / main.seconds,
            "linears": [
                {
                    "fqn": x.fqn,
                    "m": x.m,
                    "k": x.k,
                    "n": x.n,
                    "calls": x.calls,
                    "format": main.formats.get(x.fqn, FormatName.BF16).value,
                }
                for x in self.table.linears
            ],
            "weights": self.weights,
            "covers": self.covers,
            "environment": dict(self.environment),
            "runs": [
                {
                    "name": run.name,
                    "seconds": run.seconds,
                    "speedup": bf16.seconds / run.seconds,
                    "peak_bytes": run.peak_bytes,
                }
                | {"timings": [timing.to_json() for timing in run.timings]}
                for run in self.runs
            ],
        }
