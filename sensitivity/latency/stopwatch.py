"""How long does a call take on this machine, once its work no longer fits the cache and nothing
else is in the way? Stopwatches, and order afterwards.

A stopwatch prepares a cycle (copy 0, copy 1, ... of the same call, each with its own inputs and
weights) and gives a function that runs it once and returns the microseconds of one call. Three of
them:

    GraphStopwatch     many calls captured in one CUDA graph, replayed between two CUDA events: no launch costs (compile mode "reduce-overhead")
    StreamStopwatch    the same calls launched one after another from Python, between two CUDA events (compile mode "default")
    WallStopwatch      the host's clock, for a CPU: it exercises everything else, its numbers say nothing about a GPU

Method. Every copy is called once first, on the stream that is timed (compiles, autotunes,
initialises libraries). A pilot run of one cycle says how many calls fill `MIN_RUN_US`; a run is a
whole number of cycles. `time_runs` times each prepared cycle twice and keeps every repetition: on a
rested GPU, and under its own steady load, where the GPU is at its power limit and has lowered its
clock. A real run mixes kernels that draw more and less, and its clock lies between. Formats are not
timed in turn: bf16 would heat the others.

`preserved_settings` puts back what torch.compile and torchao change for the whole process:
inductor's and dynamo's settings and the fp32 matmul precision.

    with preserved_settings(), torch.no_grad():
        run = stopwatch_for(device, "reduce-overhead").prepare(lambda i: linear(inputs[i]), copies=4)
        times = time_runs({"linear": run}, repetitions=10, pause_s=0.02, settle_s=0.5)
"""

import math
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch

from sensitivity.core.format_name import CompileMode

MIN_RUN_US = 2_000.0
MAX_CALLS = 4_096
SETTLING_ROUNDS = 2
_Name = TypeVar("_Name", bound=Hashable)

Cycle = Callable[[int], object]
"""call(i): run copy i.

What it returns is kept until the copy's turn comes again, so that outputs move through memory too.
"""
Run = Callable[[], float]
"""Run a prepared cycle once: microseconds of one call."""


def device_of(name: str) -> torch.device:
    """The device, with its index where it is a GPU."""
    device = torch.device(name)
    return (
        torch.device("cuda", torch.cuda.current_device())
        if device.type == "cuda" and device.index is None
        else device
    )


class Stopwatch(Protocol):
    """Turns a cycle into something that can be timed again and again."""

    def prepare(self, call: Cycle, copies: int) -> Run:
        """Warm up every copy, and give a function that runs at least one whole cycle and returns
        the microseconds of one call.
        """
        ...


def stopwatch_for(device: torch.device, compile_mode: CompileMode) -> Stopwatch:
    """The stopwatch that stands for a compile mode on a device."""
    if device.type != "cuda":
        return WallStopwatch()
    return GraphStopwatch(device) if compile_mode == "reduce-overhead" else StreamStopwatch(device)


def calls_a_run(pilot_us: float, copies: int) -> int:
    """How many calls fill MIN_RUN_US, as a multiple of `copies`; at most MAX_CALLS, at least one
    cycle.
    """
    cycles = math.ceil(MIN_RUN_US / max(pilot_us * copies, 1e-3))
    return copies * max(1, min(cycles, MAX_CALLS // copies))


class GraphStopwatch:
    """Calls captured in a CUDA graph."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def prepare(self, call: Cycle, copies: int) -> Run:
        with torch.cuda.device(self.device):
            stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                _run_calls(call, copies, copies)
                _run_calls(call, copies, copies)
            torch.cuda.current_stream().wait_stream(stream)
            torch.cuda.synchronize()
            pilot = self._capture(call, copies, copies, stream)
            pilot()
            calls = calls_a_run(min(pilot() for _ in range(3)), copies)
            return pilot if calls == copies else self._capture(call, copies, calls, stream)

    def _capture(self, call: Cycle, copies: int, calls: int, stream: torch.cuda.Stream) -> Run:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            kept = _run_calls(call, copies, calls)
        torch.cuda.synchronize()

        def run() -> float:
            assert (
                kept is not None
                # a graph reads and writes at fixed addresses: what lies there must live as long as it
                # does
            )
            assert call is not None
            return _between_events(self.device, graph.replay) / calls

        return run


class StreamStopwatch:
    """Calls launched into the current stream."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def prepare(self, call: Cycle, copies: int) -> Run:
        _run_calls(call, copies, copies)

        def pilot() -> float:
            return _between_events(self.device, lambda: _run_calls(call, copies, copies)) / copies

        pilot()
        calls = calls_a_run(min(pilot() for _ in range(3)), copies)
        return lambda: _between_events(self.device, lambda: _run_calls(call, copies, calls)) / calls


class WallStopwatch:
    """Calls timed by the host's clock. `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock

    def prepare(self, call: Cycle, copies: int) -> Run:
        _run_calls(call, copies, copies)

        def run() -> float:
            start = self.clock()
            _run_calls(call, copies, copies)
            return (self.clock() - start) * 1e6 / copies

        return run


def _run_calls(call: Cycle, copies: int, calls: int) -> deque[object]:
    """Call copy 0, 1, ... in turn; the last output of every copy stays alive."""
    kept: deque[object] = deque(maxlen=copies)
    for i in range(calls):
        kept.append(call(i % copies))
    return kept


def _between_events(device: torch.device, work: Callable[[], object]) -> float:
    """Microseconds of GPU time that `work` took, from an idle GPU."""
    with torch.cuda.device(device):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
        start.record()
        work()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) * 1e3


@dataclass(frozen=True, kw_only=True, slots=True)
class Times:
    """Microseconds a call of every repetition: of a rested GPU, and of one under the run's own
    steady load.
    """

    rested: tuple[float, ...]
    steady: tuple[float, ...]


def time_runs(
    runs: Mapping[_Name, Run], *, repetitions: int, pause_s: float = 0.0, settle_s: float = 0.0
) -> dict[_Name, Times]:
    """Time every run, one after the other: with `pause_s` of idleness before each repetition, then
    without any after `settle_s` of the same load.

    Each is run `SETTLING_ROUNDS` times first.
    """
    times: dict[_Name, Times] = {}
    for name, run in runs.items():
        for _ in range(SETTLING_ROUNDS):
            run()
        rested = []
        for _ in range(repetitions):
            time.sleep(pause_s)
            rested.append(run())
        begun = time.monotonic()
        while time.monotonic() - begun < settle_s:
            run()
        times[name] = Times(rested=tuple(rested), steady=tuple(run() for _ in range(repetitions)))
    return times


def copies_past_cache(
    call_bytes: int, device: torch.device, *, memory_part: float = 0.2, most: int = 256
) -> int:
    """How many copies of a call's tensors make one cycle touch two L2 caches more than the call
    itself.

    At most `most` copies, and at most `memory_part` of the memory that is free now; at least one. 2
    on a CPU.
    """
    if device.type != "cuda":
        return 2
    cache_bytes = int(torch.cuda.get_device_properties(device).L2_cache_size)
    free_bytes = torch.cuda.mem_get_info(device)[0]
    return copies_for(
        call_bytes, cache_bytes=cache_bytes, spare_bytes=int(free_bytes * memory_part), most=most
    )


def copies_for(call_bytes: int, *, cache_bytes: int, spare_bytes: int, most: int = 256) -> int:
    """The arithmetic of `copies_past_cache`."""
    wanted = math.ceil(2 * cache_bytes / call_bytes) + 1
    return max(1, min(wanted, spare_bytes // call_bytes, most))


@contextmanager
def preserved_settings(*, recompile_limit: int | None = None) -> Iterator[None]:
    """Put inductor's, dynamo's and functorch's settings and the fp32 matmul precision back as they
    were, whatever happens inside.

    `recompile_limit` sets dynamo's limits inside: graphs a code object, and 64 times that for all
    of them together (if that is more than they have).
    """
    modules = _setting_modules()
    before = [module.get_config_copy() for module in modules]
    precision = torch.get_float32_matmul_precision()
    try:
        if recompile_limit is not None:
            dynamo: Any = torch._dynamo.config
            dynamo.recompile_limit = recompile_limit
            dynamo.accumulated_recompile_limit = max(
                dynamo.accumulated_recompile_limit, 64 * recompile_limit
            )
        yield
    finally:
        for module, values in zip(modules, before, strict=True):
            after = module.get_config_copy()
            for name, value in values.items():
                if name in after and after[name] != value:
                    setattr(module, name, value)
        torch.set_float32_matmul_precision(precision)


def _setting_modules() -> tuple[Any, ...]:
    import torch._dynamo.config
    import torch._functorch.config
    import torch._inductor.config

    return torch._dynamo.config, torch._functorch.config, torch._inductor.config


def failure_reason(error: BaseException) -> str:
    """One line for a table: "out of memory", or the error's class and first line."""
    seen: BaseException | None = error
    while (
        seen is not None
    ):  # an error of the compiler, or of ending a capture, may stand before the one that caused it
        if isinstance(seen, torch.OutOfMemoryError):
            return "out of memory on this device"
        seen = seen.__cause__ or seen.__context__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300] if lines else 'no reason given'}"
