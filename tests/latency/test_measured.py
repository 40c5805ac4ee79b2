"""Every shape is a row with its raw times or its reason, whatever happens to the others; finished
rows survive, and are measured once.

On a CPU: the clock is the host's or a fake one, graphs are counted instead of optimised, and
"native" formats are stood in for.
"""

import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo.config
import torch._inductor.config
from torch import nn
from torch._dynamo.testing import CompileCounter
from torchao.prototype.mx_formats import MXDynamicActivationMXWeightConfig
from torchao.quantization import quantize_
from torchao.quantization.quantize_.common.kernel_preference import KernelPreference

from sensitivity.core import environment
from sensitivity.core.format_name import FormatName
from sensitivity.errors import MeasurementError, StoreError
from sensitivity.latency import LatencyModel
from sensitivity.latency import shape_timing as measure
from sensitivity.latency.devices import get_device
from sensitivity.latency.measured import (
    LinearShape,
    ShapeTime,
    ShapeTimes,
    TableLatency,
    attention_key,
    attentions_of,
    shapes_of,
)
from sensitivity.latency.predicted import PredictedLatency
from sensitivity.latency.shape_timing import Bench, machine_of, measure_shapes
from sensitivity.latency.stopwatch import (
    MIN_RUN_US,
    Times,
    WallStopwatch,
    calls_a_run,
    copies_for,
    failure_reason,
    preserved_settings,
    time_runs,
)
from sensitivity.search.store import SharedShapeTimes, Store, default_shape_times_path
from sensitivity.shapes.census import AttentionShape, ComponentCounts, RunCounts
from sensitivity.shapes.recorder import profile_module
from sensitivity.shapes.table import LinearProfile, ShapeTable

BF16, FP8, NVFP4 = FormatName.BF16, FormatName.FP8, FormatName.NVFP4
MACHINE = {"device": "toy GPU", "torch": "2.15.0"}
ATTENTION = AttentionShape(batch=1, heads=2, q_len=8, kv_len=12, head_dim=4, calls=7)


def shape(
    m: int, k: int, n: int, format: FormatName = BF16, *, bias: bool = True, eager: bool = False
) -> LinearShape:
    return LinearShape(m=m, k=k, n=n, bias=bias, format=format, eager=eager)


def bench(**changed: Any) -> Bench:
    """A bench on which every format is native and quantizing changes nothing; torch traces, and
    compiles nothing.
    """
    parts: dict[str, Any] = {
        "backend": "eager",
        "quantize": lambda *_: None,
        "native_refusal": lambda *_: None,
    }
    return Bench(**{**parts, **changed})


@dataclass
class MemoryCache:
    """A ShapeTimeCache in a dictionary."""

    rows: dict[str, dict[str, Any]]

    def find_shape_times(
        self, machine: Mapping[str, str], compile_mode: str
    ) -> dict[str, dict[str, Any]]:  # noqa: ARG002
        return dict(self.rows)

    def save_shape_time(
        self, machine: Mapping[str, str], compile_mode: str, key: str, row: Mapping[str, Any]
    ) -> None:  # noqa: ARG002
        self.rows[key] = dict(row)


def failing(where: Callable[[LinearShape], bool], error: BaseException) -> Any:
    """The Linears of some shapes raise when they are made."""
    plain = measure._random_linear

    def make(shape: LinearShape, *rest: Any) -> nn.Linear:
        if where(shape):
            raise error
        return plain(shape, *rest)

    return make


def test_every_shape_gets_raw_times_in_every_format() -> None:
    """bf16 and each format have all repetitions, rested and under load; bf16 is measured though it
    was not asked for.
    """
    times = measure_shapes([shape(4, 32, 16, FP8)], device="cpu", repetitions=5, bench=bench())
    assert list(times.rows) == [str(shape(4, 32, 16)), str(shape(4, 32, 16, FP8))]
    for row in times.rows.values():
        assert len(row.us) == len(row.rested_us) == len(row.producer_us) == 5
        assert min(row.producer_us) > 0
        assert row.copies == 2
    assert times.failed == {}
    assert times.machine == machine_of("cpu")


def test_copies_of_a_shape_compile_once() -> None:
    """Other weights and inputs of one shape and format use the same graph: as many graphs as rows,
    and one for the producer of each shape.
    """
    graphs = CompileCounter()
    shapes = [
        shape(4, 32, 16, FP8),
        shape(4, 32, 16, NVFP4),
        shape(2, 32, 16, FP8),
        *(shape(m, 48, 16) for m in range(1, 12)),
    ]
    times = measure_shapes(shapes, device="cpu", repetitions=2, bench=bench(backend=graphs))
    assert times.failed == {}
    assert len(times.rows) == 3 + 2 + 11
    assert graphs.frame_count == len(times.rows) + 2 + 11


def test_copies_with_quantized_weights_compile_once() -> None:
    """torchao's wrapped weights are no reason for another graph: one for bf16, one for the format,
    one for the producer, however many copies there are.
    """

    def emulated(module: nn.Module, formats: Mapping[str, FormatName]) -> None:
        config = MXDynamicActivationMXWeightConfig(kernel_preference=KernelPreference.EMULATED)
        quantize_(module, config, filter_fn=lambda _, fqn: fqn in formats)

    graphs = CompileCounter()
    wanted = shape(4, 64, 32, FormatName.MXFP8)
    times = measure_shapes(
        [wanted], device="cpu", repetitions=2, bench=bench(backend=graphs, quantize=emulated)
    )
    assert times.failed == {}
    assert graphs.frame_count == 3


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


def test_a_price_lies_between_rested_and_steady() -> None:
    """The price of a row is the geometric mean of both medians; a row that was timed one way has
    that median.
    """
    assert ShapeTime(
        key="x", us=(16.0, 18.0, 99.0), rested_us=(8.0, 1.0, 9.0)
    ).price_us == pytest.approx(12.0)
    assert ShapeTime(key="x", us=(16.0, 18.0, 99.0)).price_us == 18.0


def test_the_producer_s_time_is_not_the_linear_s() -> None:
    """A compiled Linear is timed behind a norm, or a GELU where K > N, and its row is what it adds;
    an eager one stands alone.
    """
    seen: list[int] = []

    class Counting:
        """A stopwatch for which each call takes 10 us, and the third kind of run 7 us more."""

        def prepare(self, call: Any, copies: int) -> Any:
            call(0)
            seen.append(copies)
            us = 10.0 * len(seen)
            return lambda: us

    rows = measure_shapes(
        [shape(4, 32, 64, FP8)], device="cpu", repetitions=2, bench=bench(stopwatch=Counting())
    ).rows
    assert [row.us for row in rows.values()] == [
        (10.0, 10.0),
        (20.0, 20.0),
    ]  # 20 and 30 less the producer's 10
    assert {row.producer_us for row in rows.values()} == {(10.0, 10.0)}
    seen.clear()
    rows = measure_shapes(
        [shape(4, 32, 64, FP8, eager=True)],
        device="cpu",
        repetitions=2,
        bench=bench(stopwatch=Counting()),
    ).rows
    assert [row.us for row in rows.values()] == [(10.0, 10.0), (20.0, 20.0)]
    assert {row.producer_us for row in rows.values()} == {()}


def test_siblings_are_priced_by_what_they_add() -> None:
    """Of three Linears on one input in a compiled block, the first pays the quantizing and two what
    a second one was seen to add, never more than a first.
    """
    linears = tuple(
        LinearProfile.observed(
            fqn=f"blocks.0.to_{name}", k=32, n=64, m_values={4: 1}, dtype="bfloat16", bias=True
        )
        for name in "qkv"
    )
    table = ShapeTable(
        model="toy",
        batch_size=1,
        settings={},
        linears=linears,
        uncalled=(),
        shared_inputs=(tuple(linear.fqn for linear in linears),),
    )
    shapes = shapes_of(table, (FP8,))
    assert [(s.format, s.sibling) for s in shapes] == [(BF16, False), (FP8, False), (FP8, True)]
    us = dict(zip(map(str, shapes), (100.0, 70.0, 40.0), strict=True))
    rows = {key: ShapeTime(key=key, us=(value,)) for key, value in us.items()}
    times = ShapeTimes(machine=MACHINE, compile_mode="default", rows=rows)
    model = TableLatency(times, target="toy", rest=PredictedLatency(get_device("h100")))
    assert model.mean_us(linears[0], FP8, readers=3) == pytest.approx((70 + 40 + 40) / 3)
    assert model.mean_us(linears[0], BF16, readers=3) == 100
    rows[str(shapes[2])] = ShapeTime(key=str(shapes[2]), us=(90.0,))
    assert (
        TableLatency(times, target="toy", rest=PredictedLatency(get_device("h100"))).mean_us(
            linears[0], FP8, readers=3
        )
        == 70
    )


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
    calls = calls_a_run(pilot_us, copies)
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


def test_a_refused_shape_is_a_row_with_the_reason() -> None:
    """What the format does not take is not tried; bf16 beside it has its times."""
    tried: list[object] = []
    times = measure_shapes(
        [shape(4, 24, 16, FP8)],
        device="cpu",
        repetitions=1,
        bench=bench(quantize=lambda *args: tried.append(args)),
    )
    assert times.failed == {
        str(shape(4, 24, 16, FP8)): "K = 24 is not a multiple of 16, as fp8 needs"
    }
    assert times.rows[str(shape(4, 24, 16))].us
    assert tried == []


def test_a_device_without_the_format_is_a_row_with_the_reason() -> None:
    """A CPU refuses native formats, and says so in each row."""
    times = measure_shapes(
        [shape(4, 32, 16, FP8)], device="cpu", repetitions=1, bench=Bench(backend="eager")
    )
    assert (
        "fp8 runs natively on CUDA of compute capability 8.9"
        in times.failed[str(shape(4, 32, 16, FP8))]
    )


def test_a_shape_that_fails_or_is_too_large_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error and an out-of-memory are rows with their reasons; formats beside them and later
    shapes are measured.
    """
    error = RuntimeError("no kernel\nimage")
    monkeypatch.setattr(
        measure, "_random_linear", failing(lambda s: s.k == 48 and s.format is FP8, error)
    )
    times = measure_shapes(
        [shape(4, 48, 16, FP8), shape(4, 32, 16, FP8)], device="cpu", repetitions=1, bench=bench()
    )
    assert times.failed == {str(shape(4, 48, 16, FP8)): "RuntimeError: no kernel"}
    assert times.rows[str(shape(4, 48, 16))].us
    assert times.rows[str(shape(4, 32, 16, FP8))].us

    monkeypatch.setattr(
        measure,
        "_random_linear",
        failing(lambda s: s.k == 48, torch.OutOfMemoryError("CUDA out of memory")),
    )
    cache = MemoryCache({})
    times = measure_shapes(
        [shape(4, 48, 16, FP8), shape(4, 32, 16)],
        device="cpu",
        repetitions=1,
        bench=bench(),
        cache=cache,
    )
    assert set(times.failed.values()) == {"out of memory on this device"}
    assert len(times.failed) == 2
    assert list(cache.rows) == [str(shape(4, 32, 16))], (
        "failures are tried again, so they are not kept"
    )


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
    assert failure_reason(ValueError()) == "ValueError: no reason given"


def test_a_run_that_fails_while_timed_is_a_row() -> None:
    """An error of the timed runs, not only of preparing them, becomes the reason of the shape."""

    class Breaking:
        def prepare(self, call: Callable[[int], object], copies: int) -> Callable[[], float]:  # noqa: ARG002
            call(0)
            return lambda: 1 / 0

    times = measure_shapes(
        [shape(4, 32, 16)],
        attention=[ATTENTION],
        device="cpu",
        repetitions=1,
        bench=bench(stopwatch=Breaking()),
    )
    assert set(times.failed.values()) == {"ZeroDivisionError: division by zero"}
    assert len(times.failed) == 2


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
    assert {key: row.us for key, row in second.rows.items()} == {
        key: row.us for key, row in first.rows.items()
    }
    assert {row.reused for row in second.rows.values()} == {True}
    assert {row.reused for row in first.rows.values()} == {False}
    third = measure_shapes([shape(4, 32, 16, NVFP4)], **run)
    assert graphs.frame_count == 6
    assert not third.rows[str(shape(4, 32, 16))].reused
    other = measure_shapes([shape(4, 32, 16)], compile_mode="default", **run)
    assert not other.rows[str(shape(4, 32, 16))].reused, (
        "times of one compile mode are no times of another"
    )


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


def test_an_interruption_keeps_finished_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the second shape leaves the first one's times in the cache, and passes on."""
    cache = MemoryCache({})
    monkeypatch.setattr(
        measure, "_random_linear", failing(lambda s: s.k == 48, KeyboardInterrupt())
    )
    with pytest.raises(KeyboardInterrupt):
        measure_shapes(
            [shape(4, 32, 16), shape(4, 48, 16)],
            device="cpu",
            repetitions=1,
            cache=cache,
            bench=bench(),
        )
    assert list(cache.rows) == [str(shape(4, 32, 16))]


KILLED = """
import os, signal, sys
from pathlib import Path
from sensitivity.latency.measure import Bench, measure_shapes
from sensitivity.latency.table import LinearShape
from sensitivity.spec import FormatName
from sensitivity.store import SharedShapeTimes
shapes = [LinearShape(m=4, k=k, n=16, bias=True, format=FormatName.BF16) for k in (32, 48)]
def progress(done, total, key):
    if done == 1:
        os.kill(os.getpid(), signal.SIGKILL)
measure_shapes(shapes, device="cpu", repetitions=1, cache=SharedShapeTimes(Path(sys.argv[1])), bench=Bench(backend="eager"), progress=progress)
"""


def test_a_killed_process_keeps_finished_shapes(tmp_path: Path) -> None:
    """kill -9 after the first shape: its times are in the database, which opens again."""
    path = tmp_path / "times.db"
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(path)],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert list(SharedShapeTimes(path).find_shape_times(machine_of("cpu"), "reduce-overhead")) == [
        str(shape(4, 32, 16))
    ]


def test_the_time_limit_stops_new_shapes_only() -> None:
    """Shapes that begin after the limit are rows that say so; the ones before have their times."""
    ticks = iter([0.0, 1.0, 11.0, 12.0])
    progress: list[tuple[int, int]] = []
    times = measure_shapes(
        [shape(4, k, 16) for k in (32, 48, 64)],
        device="cpu",
        repetitions=1,
        time_limit_s=10,
        bench=bench(clock=lambda: next(ticks)),
        progress=lambda done, total, _key: progress.append((done, total)),
    )
    assert times.rows[str(shape(4, 32, 16))].us
    assert times.failed == dict.fromkeys(
        (str(shape(4, k, 16)) for k in (48, 64)), "not measured: the time limit of 10 s was reached"
    )
    assert progress == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_settings_of_torch_are_left_as_found() -> None:
    """What a quantizer or a test changes in inductor's and dynamo's settings is undone, also after
    an error.
    """

    def meddle(*_: object) -> None:
        torch._inductor.config.coordinate_descent_tuning = True
        torch._inductor.config.triton.unique_kernel_names = (
            not torch._inductor.config.triton.unique_kernel_names
        )
        torch._dynamo.config.recompile_limit = 99
        torch.set_float32_matmul_precision("medium")
        raise RuntimeError

    def settings() -> tuple[object, ...]:
        return (
            torch._inductor.config.get_config_copy(),
            torch._dynamo.config.get_config_copy(),
            torch.get_float32_matmul_precision(),
            torch.is_grad_enabled(),
        )

    before = settings()
    times = measure_shapes(
        [shape(4, 32, 16, FP8)], device="cpu", repetitions=1, bench=bench(quantize=meddle)
    )
    assert len(times.failed) == 1
    assert settings() == before
    with preserved_settings(recompile_limit=20):
        assert torch._dynamo.config.recompile_limit == 20
        assert torch._dynamo.config.accumulated_recompile_limit >= 20
    assert settings() == before


def linear(
    fqn: str, m_values: dict[int, int], k: int, n: int, *, bias: bool = True
) -> LinearProfile:
    return LinearProfile.observed(fqn=fqn, k=k, n=n, m_values=m_values, dtype="bfloat16", bias=bias)


TABLE = ShapeTable(
    model="two",
    batch_size=1,
    settings={},
    uncalled=(),
    linears=(
        linear("blocks.0.a", {4: 10}, 32, 16),
        linear("blocks.1.b", {4: 1, 8: 2}, 32, 16),
        linear("c", {4: 5, 0: 1}, 16, 16, bias=False),
    ),
)


def test_shapes_of_a_table_are_unique_and_complete() -> None:
    """Each (M, K, N, bias) that is called stands once in bf16 and each format; M = 0 is nothing to
    measure.
    """
    found = shapes_of(TABLE, (FP8, FP8))
    assert set(found) == {
        s
        for f in (BF16, FP8)
        for s in (
            shape(4, 32, 16, f),
            shape(8, 32, 16, f),
            shape(4, 16, 16, f, bias=False, eager=True),
        )
    }
    assert len(found) == 6
    assert shapes_of(profile_module(nn.Linear(32, 16), torch.zeros(2, 32)), ()) == (
        shape(2, 32, 16, eager=True),
    )


class Rest(LatencyModel):
    """Predicts 1 s of rest, and 0.25 s for each call of an attention in the census."""

    target, source, compile_mode, covers = "toy", "predicted", "default", "everything else"

    def linear_us(self, *, m: int, k: int, n: int, format: FormatName) -> float:  # noqa: ARG002
        raise AssertionError("a measured table must not ask for predicted Linears")

    def rest_s(self, table: ShapeTable) -> float:
        counts = table.run.components if table.run else ()
        return 1.0 + sum(
            0.25 * shape.calls for component in counts for shape in component.attention
        )


def measured(**us: float) -> ShapeTimes:
    rows = [
        ShapeTime(key=str(s), us=(t * 9, t, t / 9))
        for s, t in zip(shapes_of(TABLE, (FP8,)), (80e3, 40e3, 60e3, 30e3, 20e3, 10e3), strict=True)
    ]
    rows += [ShapeTime(key=attention_key(ATTENTION), us=(us["attention"],))] if us else []
    return ShapeTimes(
        machine=MACHINE, compile_mode="reduce-overhead", rows={row.key: row for row in rows}
    )


def test_a_measured_table_prices_a_run() -> None:
    """Medians x calls, and the rest as predicted: the estimate says both words."""
    model = TableLatency(measured(), target="toy", rest=Rest())
    found = model.estimate(TABLE, {"blocks.0.a": FP8, "blocks.1.b": FP8})
    assert found.source == "measured"
    assert found.compile_mode == "reduce-overhead"
    assert found.bf16_s == pytest.approx(1 + (10 * 60e3 + 60e3 + 2 * 80e3 + 5 * 20e3) / 1e6)
    assert found.quantized_s == pytest.approx(1 + (10 * 30e3 + 30e3 + 2 * 40e3 + 5 * 20e3) / 1e6)
    assert "measured for toy" in found.note
    assert "toy GPU, the rest predicted (everything else)" in found.note
    assert model.linear_us(m=0, k=1, n=1, format=FP8) == 0


def test_measured_attention_takes_the_place_of_the_predicted() -> None:
    """Attentions of the census that were measured cost calls x that; the others stay predicted, and
    the table's census is not changed.
    """
    other = ATTENTION.model_copy(update={"q_len": 9, "calls": 3})
    table = dataclasses.replace(
        TABLE,
        run=RunCounts(
            components=(ComponentCounts(component="d", calls=1, attention=(ATTENTION, other)),)
        ),
    )
    model = TableLatency(measured(attention=1e4), target="toy", rest=Rest())
    assert model.rest_s(table) == pytest.approx(1 + 3 * 0.25 + 7 * 0.01)
    assert model.rest_s(TABLE) == 1.0
    assert TableLatency(measured(), target="toy", rest=Rest()).rest_s(table) == pytest.approx(
        1 + 10 * 0.25
    )
    assert "Linears and attention measured" in model.covers
    assert "attention" not in TableLatency(measured(), target="toy", rest=Rest()).covers
    assert attentions_of(table) == attentions_of(table, components=("d",)) == (ATTENTION, other)
    assert attentions_of(table, components=("e",)) == attentions_of(TABLE) == ()


def test_linears_outside_blocks_are_measured_eagerly() -> None:
    """They are rows of their own, of which nothing is compiled; a model prices each Linear by where
    it stands.
    """
    graphs = CompileCounter()
    shapes = [shape(4, 32, 16, FP8), shape(4, 32, 16, FP8, eager=True)]
    times = measure_shapes(shapes, device="cpu", repetitions=2, bench=bench(backend=graphs))
    assert graphs.frame_count == 3
    assert len(times.rows) == 4
    rows = {str(shape(4, 32, 16)): 10.0, str(shape(4, 32, 16, eager=True)): 30.0}
    machine = ShapeTimes(
        machine=MACHINE,
        compile_mode="default",
        rows={key: ShapeTime(key=key, us=(us,)) for key, us in rows.items()},
    )
    model = TableLatency(machine, target="toy", rest=Rest())
    assert model.linear_us(m=4, k=32, n=16, format=BF16) == 10
    assert model.eager_us(m=4, k=32, n=16, format=BF16) == 30


def test_a_shape_without_a_time_is_named_when_it_is_priced() -> None:
    """Missing and failed shapes raise with their numbers; formats that the map does not use need
    none.
    """
    times = measured()
    broken = str(shape(4, 16, 16, FP8, bias=False, eager=True))
    times = ShapeTimes(
        machine=MACHINE,
        compile_mode="default",
        rows={**times.rows, broken: ShapeTime(key=broken, reason="out of memory")},
    )
    model = TableLatency(times, target="toy", rest=Rest())
    assert model.estimate(TABLE, {"blocks.0.a": FP8}).speedup > 1
    with pytest.raises(
        MeasurementError,
        match=r"eager-linear m=4 k=16 n=16 bias=0 fp8 has no time \(out of memory\)",
    ):
        model.estimate(TABLE, {"c": FP8})
    with pytest.raises(
        MeasurementError,
        match=(
            "M=4 K=32 N=16 in nvfp4 was not measured on toy GPU; 6 shapes were: measure this"
            " one too"
        ),
    ):
        model.estimate(TABLE, {"blocks.0.a": NVFP4})


def test_rows_read_back_equal() -> None:
    """A row's JSON is the row, and the JSON of all rows holds the machine and every repetition."""
    row = ShapeTime(key="k", us=(0.1 + 0.2, 1e-9), copies=3)
    assert ShapeTime.from_json(row.to_json()) == row
    data = measured().to_json()
    assert data["machine"] == MACHINE
    assert [len(r["us"]) for r in data["rows"]] == [3] * 6


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Writes a fake nvidia-smi, alone on the path."""
    environment.driver_version.cache_clear()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(environment, "DRIVER_TIMEOUT_S", 0.5)

    def write(script: str) -> None:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)

    yield write
    environment.driver_version.cache_clear()


@pytest.mark.parametrize(
    ("script", "version"),
    [
        ("echo 580.95.05; echo 580.95.05", "580.95.05"),
        ("echo NVIDIA-SMI has failed", "unknown"),
        ("exit 9", "unknown"),
        ("exec /bin/sleep 20", "unknown"),
        (None, "unknown"),
    ],
)
def test_the_drivers_version_is_a_version_or_unknown(
    smi: Callable[[str], None], script: str | None, version: str
) -> None:
    """Whatever nvidia-smi does, the stamp holds a version number or "unknown", soon."""
    if script is not None:
        smi(script)
    assert environment.driver_version() == version
