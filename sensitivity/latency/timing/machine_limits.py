"""What does this GPU reach at best, and what does a launch cost? `measure_limits`, `launch_costs`.

`measure_limits`: the bandwidth of a large copy and of a large read, and the rate of large bf16
GEMMs, rested and under steady load. `launch_costs`: microseconds of the host's time for one eager
kernel, for calling a compiled region with a bf16 or a quantized Linear, and for replaying a CUDA
graph of it, and the GPU's shortest time for a kernel inside a graph.

Method. Bandwidth and rates are medians between CUDA events. For launches the host's clock is read
around many calls that the GPU finishes faster than the host makes them; the queue never fills,
since the GPU is drained before each repetition.

    measure_limits(torch.device("cuda"), repetitions=5)["copy_bytes_per_s"]

What it does not do: the host's cost of a whole denoiser (`host`).
"""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sensitivity.core.format_name import FormatName
from sensitivity.latency.timing.stopwatch import Stopwatch, failure_reason, stopwatch_for, time_runs

COPIED_BYTES = 2**30
PEAK_SIZES = (8192, 12288)
LAUNCHES = 100
"""Launches in one timed repetition."""


def measure_limits(
    device: torch.device,
    *,
    repetitions: int,
    copied_bytes: int = COPIED_BYTES,
    sizes: tuple[int, ...] = PEAK_SIZES,
    settle_s: float = 0.5,
) -> dict[str, float]:
    """The best rates of one GPU.

    Args:
        device: Where it is measured.
        repetitions: Timed runs of each.
        copied_bytes: The size of the tensor that is copied and read; it should be far larger than
            the cache.
        sizes: M = K = N of the bf16 GEMMs; the fastest counts.
        settle_s: Seconds of load before the GEMMs under steady load.

    Returns:
        "copy_bytes_per_s" (read and written), "read_bytes_per_s", "bf16_flops_per_s" (rested) and
        "bf16_steady_flops_per_s"; what fails is left out.
    """
    watch = stopwatch_for(device, "reduce-overhead")
    limits = _bandwidths(watch, device, repetitions, copied_bytes, settle_s)
    for size in sizes:
        pair = [torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2)]
        run = watch.prepare(lambda _, pair=pair: pair[0] @ pair[1], 1)  # type: ignore[misc]
        times = time_runs({"gemm": run}, repetitions=repetitions, pause_s=0.05, settle_s=settle_s)
        for name, us_all in (
            ("bf16_flops_per_s", times["gemm"].rested),
            ("bf16_steady_flops_per_s", times["gemm"].steady),
        ):
            rate = 2 * size**3 / statistics.median(us_all) * 1e6
            limits[name] = max(rate, limits.get(name, 0.0))
    return limits


def _bandwidths(
    watch: Stopwatch,
    device: torch.device,
    repetitions: int,
    copied_bytes: int,
    settle_s: float,
) -> dict[str, float]:
    """Bytes/s of a large copy and of a large read, once the GPU has left its idle clocks."""
    source = torch.ones(copied_bytes // 2, device=device, dtype=torch.bfloat16)
    copy = torch.empty_like(source)
    runs = {
        "copy_bytes_per_s": (2, watch.prepare(lambda _: copy.copy_(source), 1)),
        "read_bytes_per_s": (1, watch.prepare(lambda _: source.amax(), 1)),
    }
    times = time_runs(
        {name: run for name, (_, run) in runs.items()}, repetitions=repetitions, settle_s=settle_s
    )
    return {
        name: passes * copied_bytes / statistics.median(times[name].steady) * 1e6
        for name, (passes, _) in runs.items()
    }


def launch_costs(
    device: torch.device,
    formats: tuple[FormatName, ...],
    *,
    quantize: Callable[[nn.Module, Mapping[str, FormatName]], None],
    backend: Any = "inductor",
    repetitions: int = 5,
    size: int = 256,
) -> dict[str, float | str]:
    """Microseconds of the host's time for single launches; a text is the reason of a failure.

    Args:
        device: Where it is measured.
        formats: Quantized formats of the Linear in a compiled region, beside bf16.
        quantize: Quantizes the Linears of a module in place.
        backend: torch.compile's.
        repetitions: Medians are of so many.
        size: M = K = N of the Linear, so small that the GPU waits.

    Returns:
        "eager_kernel_us"; "region_<format>_us" (calling a compiled region of one Linear),
        "eager_linear_<format>_us", and on CUDA "graph_replay_us" and "graph_kernel_us" (the GPU's
        time for one small kernel in a graph).
    """
    x = torch.ones(size, size, device=device, dtype=torch.bfloat16)
    costs: dict[str, float | str] = {}

    def note(name: str, make: Callable[[], Callable[[], object]]) -> None:
        try:
            costs[name] = _host_us(make(), device, repetitions)
        except Exception as error:
            costs[name] = failure_reason(error)

    note("eager_kernel_us", lambda: lambda: x.neg())
    for name in (FormatName.BF16, *formats):

        def linear(name: FormatName = name) -> nn.Module:
            layer = nn.Sequential(
                nn.Linear(size, size, device=device, dtype=torch.bfloat16).requires_grad_(False)
            )
            if name.is_quantized:
                quantize(layer, {"0": name})
            return layer

        def region(name: FormatName = name) -> Callable[[], object]:
            layer = torch.compile(linear(name), fullgraph=True, dynamic=False, backend=backend)
            return lambda: layer(x)

        def eager(name: FormatName = name) -> Callable[[], object]:
            layer = linear(name)
            return lambda: layer(x)

        note(f"region_{name.value}_us", region)
        note(f"eager_linear_{name.value}_us", eager)
        torch._dynamo.reset()
    if device.type == "cuda":
        costs |= _graph_costs(x, device, repetitions)
    return costs


def _graph_costs(x: Tensor, device: torch.device, repetitions: int) -> dict[str, float | str]:
    try:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            kept = x.neg()
        replay_us = _host_us(graph.replay, device, repetitions)
        run = stopwatch_for(device, "reduce-overhead").prepare(lambda _: x.neg(), 1)
        kernel_us = statistics.median(run() for _ in range(repetitions))
        del kept
    except Exception as error:
        return {"graph_replay_us": failure_reason(error)}
    return {"graph_replay_us": replay_us, "graph_kernel_us": kernel_us}


def _host_us(call: Callable[[], object], device: torch.device, repetitions: int) -> float:
    """Median microseconds of the host for one call."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    for _ in range(3):
        call()
    found = []
    for _ in range(repetitions):
        wait()
        start = time.perf_counter()
        for _ in range(LAUNCHES):
            call()
        found.append((time.perf_counter() - start) / LAUNCHES * 1e6)
    wait()
    return statistics.median(found)
