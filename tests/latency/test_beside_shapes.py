"""A run beside the sum of its shapes: the words say where they differ, and why."""

import pytest

from sensitivity.latency.beside_shapes import beside_shapes
from sensitivity.latency.estimate import HostTime, LatencyEstimate
from sensitivity.latency.timing.run_timing import RunTiming
from sensitivity.latency.timing.timed_lists import TimedList


def timing(*seconds: float) -> RunTiming:
    """A whole call, timed."""
    return RunTiming(
        seconds=seconds,
        calls=1,
        compile_s=1.0,
        peak_memory_bytes=0,
        reserved_bytes=0,
        weight_bytes=0,
        compiled="blocks",
        compile_mode="default",
    )


def timed(bf16: tuple[float, ...], quantized: tuple[float, ...]) -> TimedList:
    """A list of two rounds or more."""
    return TimedList(name="a", timings=(timing(*quantized),), bf16=(timing(*bf16),))


def summed(bf16_s: float, quantized_s: float, host: HostTime | None = None) -> LatencyEstimate:
    """A sum of shapes."""
    return LatencyEstimate(
        target="h200",
        source="measured",
        batch_size=1,
        compile_mode="default",
        runtime="torchao-compiled",
        bf16_s=bf16_s,
        quantized_s=quantized_s,
        linears=(),
        note="",
        host=host,
    )


RUN = timed((3.0, 3.01, 2.99), (2.0, 2.0, 2.0))
HOST = HostTime(
    calls=28, regions=70, bf16_s=1.0, quantized_s=3.0, gpu_bf16_s=3.0, gpu_quantized_s=2.0
)


@pytest.mark.parametrize(
    ("estimate", "words"),
    [
        (summed(3.0, 2.0), ""),
        (
            summed(3.0, 2.3),
            "more than the repetitions explain (bf16 3 s and 3 s, saved 1 s and 0.7",
        ),
        (summed(3.0, 2.3), "The run saves more: torch fuses quantizing"),
        (summed(3.0, 1.8), "The run saves less than its shapes do"),
        (summed(2.8, 1.8), "the rest of the run takes 0.2 s more than is priced"),
        (summed(3.2, 2.2), "the rest of the run takes 0.2 s less than is priced"),
        (summed(3.0, 2.5, HOST), "limited by the host, which takes 3 s to launch what the GPU"),
    ],
)
def test_what_differs_is_said(estimate: LatencyEstimate, words: str) -> None:
    """Nothing within the repetitions; else both, and what is known of the reason."""
    found = beside_shapes(RUN, estimate)
    assert words in found
    assert bool(found) == bool(words)


def test_wide_repetitions_explain_much() -> None:
    """The same difference is nothing to say where rounds scatter."""
    assert beside_shapes(timed((3.0, 3.9, 2.4), (2.0, 2.0, 2.0)), summed(3.0, 2.3)) == ""
