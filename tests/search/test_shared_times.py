"""Measured times of shapes lie in one database: they belong to a machine, are read back to the last
bit, and survive a kill.
"""

import multiprocessing
import os
import signal
from pathlib import Path

import pytest
from torch._dynamo.testing import CompileCounter

from sensitivity.errors import StoreError
from sensitivity.latency.timing.shape_timing import machine_of, measure_shapes
from sensitivity.search.shared_times import SharedShapeTimes, default_shape_times_path
from sensitivity.search.store import Store

from support.latency import ATTENTION, FP8, MACHINE, NVFP4, bench, shape


def test_times_belong_to_a_machine_and_its_versions(tmp_path: Path) -> None:
    """Another driver, version or compile mode finds nothing; a shape that is measured again
    replaces its row.
    """
    with Store.open(tmp_path / "times.db") as store:
        store.save_shape_time(MACHINE, "default", "a", {"us": [0.1 + 0.2]})
        store.save_shape_time(MACHINE, "default", "b", {"us": [1.0]})
        store.save_shape_time(MACHINE, "default", "b", {"us": [2.0]})
        assert store.find_shape_times(dict(reversed(MACHINE.items())), "default") == {
            "a": {"us": [0.1 + 0.2]},
            "b": {"us": [2.0]},
        }
        assert store.find_shape_times(MACHINE, "reduce-overhead") == {}
        assert store.find_shape_times({**MACHINE, "torch": "2.16.0"}, "default") == {}


def test_the_shared_database_is_free_between_accesses(tmp_path: Path) -> None:
    """Others may open it while a measurement is under way; one that keeps it is waited for, then
    named.
    """
    shared = SharedShapeTimes(tmp_path / "times.db")
    shared.save_shape_time(MACHINE, "default", "a", {"us": [1.0]})
    with Store.open(tmp_path / "times.db"), pytest.raises(StoreError, match="in use"):
        Store.open(tmp_path / "times.db", wait_s=0.1)
    assert set(shared.find_shape_times(MACHINE, "default")) == {"a"}
    assert default_shape_times_path().name == "shape-times.db"


def test_known_shapes_are_not_measured_again(tmp_path: Path) -> None:
    """A second measurement reads the first one's times from the database, to the last bit, and a
    new format measures its shape anew.
    """
    cache = SharedShapeTimes(tmp_path / "folder" / "shape-times.db")
    graphs = CompileCounter()
    run = {"device": "cpu", "repetitions": 2, "cache": cache, "bench": bench(backend=graphs)}
    first = measure_shapes([shape(4, 32, 16, FP8)], attention=[ATTENTION], **run)
    second = measure_shapes([shape(4, 32, 16, FP8)], attention=[ATTENTION], **run)
    assert graphs.frame_count == 3
    assert second.rows == first.rows
    assert (first.reused, second.reused) == (frozenset(), frozenset(first.rows))
    third = measure_shapes([shape(4, 32, 16, NVFP4)], **run)
    assert graphs.frame_count == 6
    assert third.reused == frozenset()
    other = measure_shapes([shape(4, 32, 16)], compile_mode="default", **run)
    assert other.reused == frozenset(), "times of one compile mode are no times of another"


@pytest.mark.parametrize("broken", ["garbage", "folder"])
def test_an_unusable_database_stops_no_measurement(
    broken: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A file that cannot be read or written is named once and left as it is; the times are kept
    for this process.
    """
    path = tmp_path / "times.db"
    path.write_text("garbage", encoding="utf-8") if broken == "garbage" else path.mkdir()
    shared = SharedShapeTimes(path)
    shared.save_shape_time(MACHINE, "default", "a", {"us": [1.0]})
    SharedShapeTimes(path).save_shape_time(MACHINE, "default", "b", {"us": [2.0]})
    assert SharedShapeTimes(path).find_shape_times(MACHINE, "default") == {
        "a": {"us": [1.0]},
        "b": {"us": [2.0]},
    }
    assert shared.find_shape_times(MACHINE, "reduce-overhead") == {}
    assert shared.find_machines("default") == []
    (warning,) = caplog.messages
    assert str(path) in warning
    assert "the measurement goes on" in warning
    assert path.is_dir() or path.read_text(encoding="utf-8") == "garbage"


def measure_until_killed(path: Path) -> None:
    """Measures two shapes, and kills its own process after the first."""

    def progress(done: int, _total: int, _key: str) -> None:
        if done == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    shapes = [shape(4, k, 16) for k in (32, 48)]
    cache = SharedShapeTimes(path)
    measure_shapes(
        shapes, device="cpu", repetitions=1, cache=cache, bench=bench(), progress=progress
    )


def test_a_killed_process_keeps_finished_shapes(tmp_path: Path) -> None:
    """kill -9 after the first shape: its times are in the database, which opens again."""
    path = tmp_path / "times.db"
    process = multiprocessing.get_context("fork").Process(target=measure_until_killed, args=[path])
    process.start()
    process.join(timeout=60)
    assert process.exitcode == -signal.SIGKILL
    assert list(SharedShapeTimes(path).find_shape_times(machine_of("cpu"), "reduce-overhead")) == [
        str(shape(4, 32, 16))
    ]
