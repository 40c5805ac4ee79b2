"""Runs are long enough, copies pass the cache, and a failure has its reason."""

from itertools import count

import pytest
import torch

from sensitivity.latency.timing.stopwatch import (
    MIN_RUN_US,
    Times,
    WallStopwatch,
    calls_to_fill,
    copies_for,
    failure_reason,
    time_runs,
)


def test_runs_are_timed_rested_and_under_load() -> None:
    """Each run is warmed, timed with pauses, loaded without one, and timed again, before the next
    run begins.
    """
    order: list[str] = []
    runs = {name: lambda name=name: (order.append(name), float(len(order)))[1] for name in "ab"}
    assert time_runs(runs, repetitions=2) == {
        "a": Times(rested=(3.0, 4.0), steady=(5.0, 6.0)),
        "b": Times(rested=(9.0, 10.0), steady=(11.0, 12.0)),
    }
    assert "".join(order) == "a" * 6 + "b" * 6
    loaded = len(order)
    time_runs({"a": runs["a"]}, repetitions=1, settle_s=0.01)
    assert len(order) - loaded > 2 + 1 + 1


def test_the_wall_clock_is_divided_by_the_calls() -> None:
    """A cycle that takes 3 s for 3 copies takes 1e6 us a call; each copy is called in its turn."""
    ticks, called = count(0, 3), []
    run = WallStopwatch(clock=lambda: float(next(ticks))).prepare(called.append, copies=3)
    assert run() == 1e6
    assert called == [0, 1, 2] * 2


@pytest.mark.parametrize(
    ("pilot_us", "copies"), [(1.0, 3), (1.0, 100), (5e3, 3), (1e-9, 7), (40.0, 256)]
)
def test_a_run_is_whole_cycles_and_long_enough(pilot_us: float, copies: int) -> None:
    """A run has every copy equally often, takes at least MIN_RUN_US where a bounded number of calls
    can, and is never empty.
    """
    calls = calls_to_fill(pilot_us, copies)
    assert calls % copies == 0
    assert calls >= copies
    assert calls * pilot_us >= MIN_RUN_US or calls > 4096 - copies


def test_copies_pass_the_cache_twice_and_stay_within_memory() -> None:
    """Tensors other than the call's own cover two caches; memory and the limit cap them; there is
    always one.
    """
    assert (copies_for(10, cache_bytes=50, spare_bytes=10_000) - 1) * 10 >= 2 * 50
    assert copies_for(10, cache_bytes=50, spare_bytes=35) == 3
    assert copies_for(10, cache_bytes=50, spare_bytes=0) == 1
    assert copies_for(1, cache_bytes=50_000_000, spare_bytes=10**12, most=256) == 256


def test_out_of_memory_is_found_behind_other_errors() -> None:
    """A compiler's or a capture's error that was caused by running out of memory is called so."""

    def fail() -> None:
        try:
            raise torch.OutOfMemoryError("CUDA out of memory")
        except RuntimeError:
            raise RuntimeError("capture failed") from None

    with pytest.raises(RuntimeError) as caught:
        fail()
    assert failure_reason(caught.value) == "out of memory on this device"
    assert failure_reason(ValueError()) == "ValueError"
    assert failure_reason(ValueError("first\nsecond")) == "ValueError: first"
