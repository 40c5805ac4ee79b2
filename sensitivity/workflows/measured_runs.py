"""What did skip-lists take, end to end, on one machine? The records that `measure_runs` gives.

    runs.runs[1].ratio.interval90       # of the speedup over bf16, round by round
    runs.to_json()                      # every repetition

Conventions. Seconds of a whole run are geometric means over rounds
(`latency.timing.timed_lists`). Nothing is measured here (`workflows.measure`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sensitivity.core.format_name import FormatName
from sensitivity.errors import MeasurementError
from sensitivity.latency.timing.paired import PairedRatio
from sensitivity.latency.timing.timed_lists import TimedList
from sensitivity.shapes.table import ShapeTable

WeightsChoice = Literal["pretrained", "random"]
"""Pretrained weights time the whole pipeline call, random ones the denoiser's calls."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredRun:
    """One skip-list, measured end to end.

    Attributes:
        formats: {FQN: format} of what it quantizes.
        timed: its seconds, round by round, and those of bf16 beside it.
    """

    formats: Mapping[str, FormatName]
    timed: TimedList

    @property
    def name(self) -> str:
        """The list's."""
        return self.timed.name

    @property
    def failure(self) -> str:
        """Why it did not run; "" if it did."""
        return self.timed.failure

    @property
    def seconds(self) -> float:
        """Typical seconds of the whole run."""
        return self.timed.seconds

    @property
    def ratio(self) -> PairedRatio:
        """Its speedup over bf16, round by round."""
        return self.timed.ratio

    @property
    def spread(self) -> float:
        """The slowest repetition over the fastest, minus 1; of its units the largest."""
        return max(max(t.seconds) / min(t.seconds) - 1 for t in self.timed.timings)

    @property
    def peak_bytes(self) -> int:
        """The most memory that it holds on the GPU by itself, CUDA graphs included."""
        return max(max(t.peak_memory_bytes, t.reserved_bytes) for t in self.timed.timings)

    @property
    def compile_s(self) -> float:
        """Seconds of its first calls, compiling included."""
        return sum(timing.compile_s for timing in self.timed.timings)

    def to_json(self) -> dict[str, Any]:
        """An entry of "runs" in the JSON of `sensitivity latency`."""
        if self.failure:
            return {"name": self.name, "failure": self.failure}
        return {
            "name": self.name,
            "seconds": self.seconds,
            **speedup_json(self.timed),
            "group": self.timed.group,
            "rounds_s": list(self.timed.rounds_s),
            "bf16_rounds_s": list(self.timed.bf16_rounds_s),
            "peak_bytes": self.peak_bytes,
            "timings": [timing.to_json() for timing in self.timed.timings],
        }


def speedup_json(timed: TimedList) -> dict[str, Any]:
    """Its speedup over bf16, the 90 % interval of that (null: one round), and the spread of a round
    (a relative standard deviation).
    """
    ratio = timed.ratio
    interval = ratio.interval90
    return {
        "speedup": ratio.value,
        "speedup_interval90": None if interval is None else list(interval),
        "speedup_spread": ratio.spread,
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredRuns:
    """Skip-lists measured on one machine; the first is bf16.

    Attributes:
        target: the GPU.
        runtime: the way of running.
        compile_mode: its mode of `torch.compile`.
        weights: pretrained or random.
        covers: what is timed, in words.
        table: the Linears of a run.
        runs: one for each list.
        environment: versions and machine.
    """

    target: str
    runtime: str
    compile_mode: str
    weights: WeightsChoice
    covers: str
    table: ShapeTable
    runs: tuple[MeasuredRun, ...]
    environment: Mapping[str, str]

    @property
    def batch_size(self) -> int:
        """Samples in a run."""
        return self.table.batch_size

    def check_ran(self) -> None:
        """Raise MeasurementError if every list but bf16 failed."""
        failed = [run for run in self.runs[1:] if run.failure]
        if failed and len(failed) == len(self.runs) - 1:
            raise MeasurementError(
                f"all {len(failed)} lists failed, the first is {failed[0].name}:"
                f" {failed[0].failure}; expected at least one that runs: mend the cause, or leave"
                " in bf16 what does not run"
            )

    def to_json(self) -> dict[str, Any]:
        """The JSON object of `sensitivity latency`, with `source` "measured".

        The object is that of the second list, or of bf16 where there is no other. Its seconds are
        null, and "failure" is there, if that list did not run. Linears have no times of their own.
        "runs" has all runs with their raw repetitions.
        """
        main = self.runs[min(1, len(self.runs) - 1)]
        timed = main.timed
        if main.failure:
            totals = dict.fromkeys(("quantized_s", "speedup")) | {"failure": main.failure}
            totals = {"bf16_s": self.runs[0].seconds} | totals
        else:
            totals = {"bf16_s": timed.bf16_s, "quantized_s": timed.seconds} | speedup_json(timed)
        return {
            "target": self.target,
            "source": "measured",
            "batch_size": self.batch_size,
            "runtime": self.runtime,
            "compile_mode": self.compile_mode,
            **totals,
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
            "runs": [run.to_json() for run in self.runs],
        }
