"""What did one unit of a run take: a denoiser call, or a whole pipeline call? Its seconds and
memory.

`time_unit` makes one call that compiles, some that warm up, and the timed ones. Where several
skip-lists are timed in turns, `warm_unit` does the first two and `burst_seconds` one repetition.
`RunTiming` is the record of a measured unit.

Conventions. Seconds; bytes. `peak_memory_bytes` is what torch had allocated, `reserved_bytes` what
the process held from the GPU; the memory of CUDA graphs counts in the second only.

    unit = time_unit(work, time_calls, warmups=2, repetitions=10, device=torch.device("cuda"))
    unit.seconds
"""

import itertools
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from sensitivity.core.format_name import CompileMode
from sensitivity.latency.timing.stopwatch import cuda_events

BURST_S = 0.5
"""Seconds that a repetition takes at least, if `MOST_CALLS` calls are enough for that: what ran
before it has set the GPU's clock and caches.
"""
MOST_CALLS = 64
Timer = Callable[[Callable[[], object], int, torch.device], tuple[float, ...]]
"""(work, repetitions, device) -> seconds of each repetition."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunTiming:
    """One measured unit: a denoiser call, or a whole pipeline call.

    Attributes:
        seconds: Every timed repetition.
        calls: How often the unit happens in the whole run.
        compile_s: Seconds of the first call, compiling included.
        peak_memory_bytes: The most that torch had allocated during the timed calls; 0 on a CPU.
        reserved_bytes: The most that torch held from the GPU during the timed calls, the memory of
            CUDA graphs included; 0 on a CPU.
        weight_bytes: The denoiser's parameters and buffers as stored, scales included.
        compiled: What was compiled, in words.
        compile_mode: How it was compiled.
        runtime: The name of the way of running; "" where only the mode is known.
    """

    seconds: tuple[float, ...]
    calls: int
    compile_s: float
    peak_memory_bytes: int
    reserved_bytes: int
    weight_bytes: int
    compiled: str
    compile_mode: CompileMode
    runtime: str = ""

    @property
    def median_s(self) -> float:
        """Seconds of the median repetition."""
        return statistics.median(self.seconds)

    @property
    def run_s(self) -> float:
        """Seconds of this unit in the whole run: median x calls."""
        return self.median_s * self.calls

    def to_json(self) -> dict[str, Any]:
        """Every field with all repetitions, and the median."""
        names = (
            "calls",
            "compile_s",
            "peak_memory_bytes",
            "reserved_bytes",
            "weight_bytes",
            "compiled",
            "compile_mode",
            "runtime",
        )
        return {"seconds": list(self.seconds), "median_s": self.median_s} | {
            name: getattr(self, name) for name in names
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class UnitTimes:
    """What `time_unit` found; `RunTiming` has the meanings."""

    compile_s: float
    seconds: tuple[float, ...]
    peak_memory_bytes: int
    reserved_bytes: int


def time_unit(
    work: Callable[[], object],
    timer: Timer,
    warmups: int,
    repetitions: int,
    device: torch.device,
) -> UnitTimes:
    """Time a unit of work after a call that compiles and `warmups` calls that are not timed."""
    compile_s = _host_seconds(work, device)
    for _ in range(warmups):
        work()
    _reset_peak(device)
    seconds = timer(work, repetitions, device)
    allocated, reserved = _peak(device)
    return UnitTimes(
        compile_s=compile_s,
        seconds=seconds,
        peak_memory_bytes=allocated,
        reserved_bytes=reserved,
    )


def warm_unit(work: Callable[[], object], warmups: int, device: torch.device) -> UnitTimes:
    """A call that compiles, then `warmups` calls; `seconds` has the last of all alone.

    Memory is that of the last call.
    """
    last_s = compile_s = _host_seconds(work, device)
    for _ in range(warmups):
        _reset_peak(device)
        last_s = _host_seconds(work, device)
    allocated, reserved = _peak(device)
    return UnitTimes(
        compile_s=compile_s,
        seconds=(last_s,),
        peak_memory_bytes=allocated,
        reserved_bytes=reserved,
    )


def burst_seconds(
    work: Callable[[], object], about_s: float, device: torch.device, *, whole: bool
) -> float:
    """Seconds of one call, timed once.

    Args:
        work: Makes the call.
        about_s: About how long it takes.
        device: Where it runs.
        whole: Time one call by the host's clock, from an idle GPU to an idle GPU. Otherwise the
            mean of calls that follow one another for `BURST_S`, after one that is not timed.
    """
    if whole:
        return _host_seconds(work, device)
    calls = max(1, min(MOST_CALLS, math.ceil(BURST_S / max(about_s, 1e-9))))
    work()
    return statistics.fmean(time_calls(work, calls, device))


def _host_seconds(work: Callable[[], object], device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - start


def time_whole_runs(
    work: Callable[[], object], repetitions: int, device: torch.device
) -> tuple[float, ...]:
    """Seconds of each run by the host's clock, from an idle GPU to an idle GPU."""
    return tuple(_host_seconds(work, device) for _ in range(repetitions))


def time_calls(
    work: Callable[[], object], repetitions: int, device: torch.device
) -> tuple[float, ...]:
    """Seconds of each call: on CUDA back to back between events, elsewhere by the host's clock."""
    if device.type != "cuda":
        return time_whole_runs(work, repetitions, device)
    with torch.cuda.device(device):
        events = cuda_events(repetitions + 1)
        _wait(device)
        events[0].record()
        for after in events[1:]:
            work()
            after.record()
        _wait(device)
        return tuple(
            float(before.elapsed_time(after)) / 1e3 for before, after in itertools.pairwise(events)
        )


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)


def _peak(device: torch.device) -> tuple[int, int]:
    if device.type != "cuda":
        return 0, 0
    return torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)
