"""Skip-lists as if they had been timed end to end."""

from collections.abc import Mapping, Sequence

from sensitivity.core.format_name import FormatName, quantized
from sensitivity.latency.timing.run_timing import RunTiming
from sensitivity.latency.timing.timed_lists import TimedList
from sensitivity.workflows.end_timing import EndTimes
from sensitivity.workflows.measured_runs import MeasuredRun

BF16_S = (3.0, 3.03, 2.97)


def timing(seconds: Sequence[float]) -> RunTiming:
    """A whole call with these repetitions."""
    return RunTiming(
        seconds=tuple(seconds),
        calls=1,
        compile_s=20.0,
        peak_memory_bytes=10**9,
        reserved_bytes=2 * 10**9,
        weight_bytes=10**9,
        compiled="repeated blocks (Block)",
        compile_mode="default",
        runtime="torchao-graphs",
    )


def timed(name: str, seconds: Sequence[float] = BF16_S, *, failure: str = "") -> TimedList:
    """A list of three rounds beside bf16 of `BF16_S`; or one that failed."""
    if failure:
        return TimedList(name=name, failure=failure)
    return TimedList(name=name, timings=(timing(seconds),), bf16=(timing(BF16_S),))


def end_times(
    lists: Mapping[str, Mapping[str, FormatName]], failures: Mapping[str, str]
) -> EndTimes:
    """bf16, and lists that are 1.5 times as fast as it in every round; some failed."""
    rows = [timed("none")] + [
        timed(name, [s / 1.5 for s in BF16_S], failure=failures.get(name, "")) for name in lists
    ]
    return EndTimes(
        runs=tuple(
            MeasuredRun(formats=quantized(lists.get(row.name, {})), timed=row) for row in rows
        ),
        covers="the whole pipeline call",
        whole=True,
        runtime="torchao-graphs",
        device="NVIDIA H200",
    )
