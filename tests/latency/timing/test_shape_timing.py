"""Every shape is a row with its raw times or its reason, whatever happens to the others; finished
rows survive, and are measured once.

On a CPU: the clock is the host's or a fake one, graphs are counted instead of optimised, and
"native" formats are stood in for.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter
from torchao.prototype.mx_formats import MXDynamicActivationMXWeightConfig
from torchao.quantization import quantize_
from torchao.quantization.quantize_.common.kernel_preference import KernelPreference

from sensitivity.core.format_name import FormatName
from sensitivity.latency.shape_times import LinearShape
from sensitivity.latency.timing.probing import ProbeResult
from sensitivity.latency.timing.shape_runs import random_linear
from sensitivity.latency.timing.shape_timing import Bench, machine_of, measure_shapes
from sensitivity.latency.timing.torch_settings import preserved_settings

from support.latency import ATTENTION, FP8, NVFP4, bench, shape

pytestmark = pytest.mark.usefixtures("small_heap")


@dataclass
class MemoryCache:
    """A ShapeTimeCache in a dictionary."""

    rows: dict[str, dict[str, Any]]

    def find_shape_times(
        self,
        machine: Mapping[str, str],  # noqa: ARG002  # one machine
        compile_mode: str,  # noqa: ARG002  # one mode
    ) -> dict[str, dict[str, Any]]:
        return dict(self.rows)

    def save_shape_time(
        self,
        machine: Mapping[str, str],  # noqa: ARG002
        compile_mode: str,  # noqa: ARG002
        key: str,
        row: Mapping[str, Any],
    ) -> None:
        self.rows[key] = dict(row)


def failing(where: Callable[[LinearShape], bool], error: BaseException) -> Any:
    """Makes Linears, and raises for some shapes."""

    def make(shape: LinearShape, device: torch.device, generator: torch.Generator) -> nn.Linear:
        if where(shape):
            raise error
        return random_linear(shape, device, generator)

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
    and one for the producer of each shape, also past torch's recompile limit.
    """
    graphs = CompileCounter()
    shapes = [shape(4, 32, 16, FP8), shape(4, 32, 16, NVFP4), shape(2, 32, 16, FP8)]
    with preserved_settings(recompile_limit=1):
        times = measure_shapes(shapes, device="cpu", repetitions=2, bench=bench(backend=graphs))
    assert times.failed == {}
    assert len(times.rows) == 3 + 2
    assert graphs.frame_count == len(times.rows) + 2


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


def test_linears_outside_blocks_are_measured_eagerly() -> None:
    """They are rows of their own, of which nothing is compiled."""
    graphs = CompileCounter()
    shapes = [shape(4, 32, 16), shape(4, 32, 16, FP8, eager=True)]
    times = measure_shapes(shapes, device="cpu", repetitions=2, bench=bench(backend=graphs))
    assert graphs.frame_count == 2
    assert len(times.rows) == 3


def test_a_refused_shape_is_a_row_with_the_reason() -> None:
    """What the format does not take is not tried; bf16 beside it has its times."""
    tried: list[object] = []
    times = measure_shapes(
        [shape(4, 24, 16, FP8, eager=True)],
        device="cpu",
        repetitions=1,
        bench=bench(quantize=lambda *args: tried.append(args)),
    )
    assert times.failed == {
        str(shape(4, 24, 16, FP8, eager=True)): "K = 24 is not a multiple of 16, as fp8 needs"
    }
    assert times.rows[str(shape(4, 24, 16, eager=True))].us
    assert tried == []


def test_a_device_without_the_format_is_a_row_with_the_reason() -> None:
    """A CPU refuses native formats, and says so in each row."""
    times = measure_shapes(
        [shape(4, 32, 16, FP8, eager=True)],
        device="cpu",
        repetitions=1,
        bench=Bench(backend="eager"),
    )
    assert (
        "fp8 runs natively on CUDA of compute capability 8.9"
        in times.failed[str(shape(4, 32, 16, FP8, eager=True))]
    )


def test_a_shape_that_fails_or_is_too_large_is_a_row() -> None:
    """An error and an out-of-memory are rows with their reasons; formats beside them and later
    shapes are measured.
    """
    error = RuntimeError("no kernel\nimage")
    times = measure_shapes(
        [shape(4, 48, 16, FP8), shape(4, 32, 16, FP8, eager=True)],
        device="cpu",
        repetitions=1,
        bench=bench(make_linear=failing(lambda s: s.k == 48 and s.format is FP8, error)),
    )
    assert times.failed == {str(shape(4, 48, 16, FP8)): "RuntimeError: no kernel"}
    assert times.rows[str(shape(4, 48, 16))].us
    assert times.rows[str(shape(4, 32, 16, FP8, eager=True))].us

    cache = MemoryCache({})
    out_of_memory = torch.OutOfMemoryError("CUDA out of memory")
    times = measure_shapes(
        [shape(4, 48, 16, FP8, eager=True), shape(4, 32, 16, eager=True)],
        device="cpu",
        repetitions=1,
        bench=bench(make_linear=failing(lambda s: s.k == 48, out_of_memory)),
        cache=cache,
    )
    assert set(times.failed.values()) == {"out of memory on this device"}
    assert len(times.failed) == 2
    assert list(cache.rows) == [str(shape(4, 32, 16, eager=True))], (
        "failures are tried again, so they are not kept"
    )


def test_a_run_that_fails_while_timed_is_a_row() -> None:
    """An error of the timed runs, not only of preparing them, becomes the reason of the shape."""

    class Breaking:
        def prepare(
            self,
            call: Callable[[int], object],
            copies: int,  # noqa: ARG002 - the contract's signature
        ) -> Callable[[], float]:
            call(0)
            return lambda: 1 / 0

    times = measure_shapes(
        [shape(4, 32, 16, eager=True)],
        attention=[ATTENTION],
        device="cpu",
        repetitions=1,
        bench=bench(stopwatch=Breaking()),
    )
    assert set(times.failed.values()) == {"ZeroDivisionError: division by zero"}
    assert len(times.failed) == 2


def test_an_interruption_keeps_finished_shapes() -> None:
    """Ctrl-C in the second shape leaves the first one's times in the cache, and passes on."""
    cache = MemoryCache({})
    with pytest.raises(KeyboardInterrupt):
        measure_shapes(
            [shape(4, 32, 16, eager=True), shape(4, 48, 16, eager=True)],
            device="cpu",
            repetitions=1,
            cache=cache,
            bench=bench(make_linear=failing(lambda s: s.k == 48, KeyboardInterrupt())),
        )
    assert list(cache.rows) == [str(shape(4, 32, 16, eager=True))]


def test_a_row_from_the_cache_is_the_row_that_was_measured() -> None:
    """Every field comes back, the rested repetitions included, so the price is the same."""
    cache = MemoryCache({})
    run: Any = {"device": "cpu", "repetitions": 3, "cache": cache, "bench": bench()}
    shapes = [shape(4, 32, 16), shape(4, 32, 16, FP8, eager=True)]
    first = measure_shapes(shapes, attention=[ATTENTION], **run)
    second = measure_shapes(shapes, attention=[ATTENTION], **run)
    assert second.rows == first.rows
    assert (second.reused, first.reused) == (frozenset(first.rows), frozenset())


def test_the_time_limit_stops_new_shapes_only() -> None:
    """Shapes that begin after the limit are rows that say so; the ones before have their times."""
    ticks = iter([0.0, 1.0, 11.0, 12.0])
    progress: list[tuple[int, int]] = []
    times = measure_shapes(
        [shape(4, k, 16, eager=True) for k in (32, 48, 64)],
        device="cpu",
        repetitions=1,
        time_limit_s=10,
        bench=bench(clock=lambda: next(ticks)),
        progress=lambda done, total, _key: progress.append((done, total)),
    )
    assert times.rows[str(shape(4, 32, 16, eager=True))].us
    assert times.failed == dict.fromkeys(
        (str(shape(4, k, 16, eager=True)) for k in (48, 64)),
        "not measured: the time limit of 10 s was reached",
    )
    assert progress == [(0, 3), (1, 3), (2, 3), (3, 3)]


def refusing(*refused: LinearShape, seen: list[LinearShape] | None = None) -> Any:
    """Stands for `probe_on_gpu`: kernels refuse these shapes."""

    def probe(shapes: Sequence[LinearShape], **_: object) -> dict[LinearShape, ProbeResult]:
        if seen is not None:
            seen.extend(shapes)
        return {s: ProbeResult(outcome="refused", reason=f"refused: {s}") for s in refused}

    return probe


def test_a_shape_that_the_kernel_refuses_is_a_row_among_the_others() -> None:
    """In the middle of a table one format of one shape is refused: it is not timed, it is a row
    with its reason, and bf16 beside it and all other shapes have their times.
    """
    bad = shape(4, 48, 16, FP8)
    times = measure_shapes(
        [shape(4, 32, 16, FP8), bad, shape(2, 32, 16, FP8)],
        device="cpu",
        repetitions=1,
        bench=bench(
            probe=refusing(bad),
            make_linear=failing(lambda s: s == bad, AssertionError("it was tried")),
        ),
    )
    assert times.failed == {str(bad): f"refused: {bad}"}
    assert sum(bool(row.us) for row in times.rows.values()) == 5


def test_only_what_is_new_is_probed() -> None:
    """Shapes with known times, bf16, and what the format itself refuses are not probed again."""
    cache, seen = MemoryCache({}), list[LinearShape]()
    run: Any = {
        "device": "cpu",
        "repetitions": 1,
        "cache": cache,
        "bench": bench(probe=refusing(seen=seen)),
    }
    first = shape(4, 32, 16, FP8, eager=True)
    measure_shapes([first, shape(4, 24, 16, FP8, eager=True)], **run)
    assert seen == [first]
    measure_shapes([first, shape(4, 48, 16, FP8, eager=True)], **run)
    assert seen[1:] == [shape(4, 48, 16, FP8, eager=True)]


def test_a_broken_context_ends_the_timing_and_keeps_the_culprit() -> None:
    """After a sticky CUDA error no shape can be timed: the rows that are left say which one did it,
    and it is kept as refused, so that the next measurement gets past it.
    """
    cache = MemoryCache({})
    bad = shape(4, 48, 16, FP8, eager=True)
    times = measure_shapes(
        [shape(4, 32, 16, FP8, eager=True), bad, shape(2, 32, 16, FP8, eager=True)],
        device="cpu",
        repetitions=1,
        cache=cache,
        bench=bench(
            make_linear=failing(lambda s: s == bad, RuntimeError("an illegal memory access")),
            context_error=lambda _: "CUDA error: an illegal memory access was encountered",
        ),
    )
    assert times.failed[str(bad)] == "RuntimeError: an illegal memory access"
    assert (
        f"not measured: {bad} broke the CUDA context"
        in times.failed[str(shape(2, 32, 16, FP8, eager=True))]
    )
    assert times.rows[str(shape(4, 32, 16, FP8, eager=True))].us
    kept = cache.rows[f"probed {shape(4, 48, 16, FP8)}"]
    assert kept["outcome"] == "refused"
    assert "illegal memory access was encountered for M=4 K=48" in kept["reason"]


def test_a_refusal_that_only_the_compiled_kernel_meets_is_named_as_one() -> None:
    """cuBLAS's own words and the shape are the reason of the row."""
    error = RuntimeError("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasLtMatmul")
    times = measure_shapes(
        [shape(4, 48, 16, FP8)],
        device="cpu",
        repetitions=1,
        bench=bench(make_linear=failing(lambda s: s.format is FP8, error)),
    )
    assert times.failed == {
        str(shape(4, 48, 16, FP8)): (
            "refused by the kernel: CUBLAS_STATUS_NOT_SUPPORTED for M=4 K=48 N=16 with a bias"
        )
    }
