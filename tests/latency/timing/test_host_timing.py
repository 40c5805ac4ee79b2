"""The speed of a machine's host is kept with the rows of its shapes, and scales the costs."""

import dataclasses

import pytest
import torch

from sensitivity.latency.measured import MeasuredLatency
from sensitivity.latency.runtimes import REFERENCE_US, get_runtime
from sensitivity.latency.shape_times import ShapeTime
from sensitivity.latency.timing.host_timing import factor_of, host_rows, is_host_row

from support.latency import FP8, IN_AND_OUTSIDE_BLOCKS, Rest, measured_times

ROWS = {
    f"host {name}": ShapeTime(key=f"host {name}", us=(3 * us,)) for name, us in REFERENCE_US.items()
}


def test_kept_rows_are_not_timed_again() -> None:
    """Both are read as they were kept."""
    kept = {key: row.to_json() for key, row in ROWS.items()}
    assert host_rows(torch.device("cpu"), kept, backend="never used") == ROWS
    assert factor_of(ROWS) == pytest.approx(3)
    assert factor_of({}) is None


def test_a_machine_is_timed() -> None:
    """An eager kernel and a compiled region; here torch only traces."""
    rows = host_rows(torch.device("cpu"), {}, backend="eager")
    assert set(rows) == set(ROWS)
    assert all(is_host_row(key) and row.us[0] > 0 for key, row in rows.items())
    assert not is_host_row("linear m=1 k=2 n=3 bias=0 bf16")


def test_measured_prices_are_of_the_host_that_was_timed() -> None:
    """Its rows are no shapes: Linears cost what they did, and the host three times as much."""
    times = measured_times()
    timed = dataclasses.replace(times, rows={**times.rows, **ROWS})
    model, bare = (MeasuredLatency(x, target="toy", rest=Rest()) for x in (timed, times))
    shipped = get_runtime(model.runtime.name).host
    assert model.runtime.host.region_us == pytest.approx(3 * shipped.region_us)
    assert bare.runtime.host == shipped
    assert model.covers == bare.covers
    formats = {"blocks.0.a": FP8}
    assert model.estimate(IN_AND_OUTSIDE_BLOCKS, formats) == bare.estimate(
        IN_AND_OUTSIDE_BLOCKS, formats
    )
