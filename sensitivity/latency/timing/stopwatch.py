"""How long does a call take on this machine once its work no longer fits the cache? Stopwatches.

A stopwatch prepares a cycle: copy 0, copy 1, ... of the same call, each with inputs and weights of
its own. It gives a function that runs the cycle and returns the microseconds of one call. There are
three of them:

    GraphStopwatch     many calls captured in one CUDA graph and replayed between two CUDA events:
                       no launch costs (compile mode "reduce-overhead")
    StreamStopwatch    the same calls launched one after another from Python, between two CUDA
                       events (compile mode "default")
    WallStopwatch      the host's clock, for a CPU: it exercises everything else, and its numbers
                       say nothing about a GPU

Method. Every copy is called once first, on the stream that is timed: this compiles, autotunes and
initialises libraries. A pilot run of one cycle says how many calls fill `MIN_RUN_US`; a run is a
whole number of cycles.

`time_runs` times each prepared cycle twice and keeps every repetition: on a rested GPU, and under
its own steady load, where the GPU is at its power limit and has lowered its clock. A real run mixes
kernels that draw more and less power, and its clock lies between. Formats are not timed in turn,
since bf16 would heat the others.

    with preserved_settings(), torch.no_grad():
        watch = stopwatch_for(device, "reduce-overhead")
        run = watch.prepare(lambda i: linear(inputs[i]), copies=4)
        times = time_runs({"linear": run}, repetitions=10, pause_s=0.02, settle_s=0.5)
"""

import math
import time
from collections import deque
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch

from sensitivity.core.format_name import CompileMode
from sensitivity.core.words import first_line

MIN_RUN_US = 2_000.0
"""Microseconds that a timed run takes at least, if `MAX_CALLS` calls are enough for that."""
MAX_CALLS = 4_096
SETTLING_ROUNDS = 2
_Name = TypeVar("_Name", bound=Hashable)

Cycle = Callable[[int], object]
"""call(i): run copy i. What it returns is kept until the copy's turn comes again, so that outputs
move through memory too.
"""
Run = Callable[[], float]
"""Run a prepared cycle once, and return the microseconds of one call."""


def device_of(name: str) -> torch.device:
    """The torch device of a name, with its index if it is a GPU."""
    device = torch.device(name)
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


class Stopwatch(Protocol):
    """Turns a cycle into something that can be timed again and again."""

    def prepare(self, call: Cycle, copies: int) -> Run:
        """Warm up every copy, and give a function that runs at least one whole cycle and returns
        the microseconds of one call.
        """
        ...


def stopwatch_for(device: torch.device, compile_mode: CompileMode) -> Stopwatch:
    """The stopwatch of a compile mode on a device."""
    if device.type != "cuda":
        return WallStopwatch()
    return GraphStopwatch(device) if compile_mode == "reduce-overhead" else StreamStopwatch(device)


def calls_to_fill(pilot_us: float, copies: int) -> int:
    """How many calls fill `MIN_RUN_US`: a multiple of `copies`, at least one cycle.

    Args:
        pilot_us: Microseconds of one call.
        copies: Calls in a cycle.
    """
    cycles = math.ceil(MIN_RUN_US / max(pilot_us * copies, 1e-3))
    return copies * max(1, min(cycles, MAX_CALLS // copies))


class GraphStopwatch:
    """Calls captured in a CUDA graph."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def prepare(self, call: Cycle, copies: int) -> Run:
        """See `Stopwatch`."""
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
            calls = calls_to_fill(min(pilot() for _ in range(3)), copies)
            return pilot if calls == copies else self._capture(call, copies, calls, stream)

    def _capture(self, call: Cycle, copies: int, calls: int, stream: torch.cuda.Stream) -> Run:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            kept = _run_calls(call, copies, calls)
        torch.cuda.synchronize()

        def run() -> float:
            # A graph reads and writes at fixed addresses. Naming `kept` and `call` here keeps the
            # tensors at these addresses alive as long as the graph.
            assert kept is not None
            assert call is not None
            return _between_events(self.device, graph.replay) / calls

        return run


class StreamStopwatch:
    """Calls launched into the current stream."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def prepare(self, call: Cycle, copies: int) -> Run:
        """See `Stopwatch`."""
        _run_calls(call, copies, copies)

        def pilot() -> float:
            return _between_events(self.device, lambda: _run_calls(call, copies, copies)) / copies

        pilot()
        calls = calls_to_fill(min(pilot() for _ in range(3)), copies)
        return lambda: _between_events(self.device, lambda: _run_calls(call, copies, calls)) / calls


class WallStopwatch:
    """Calls timed by the host's clock. `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock

    def prepare(self, call: Cycle, copies: int) -> Run:
        """See `Stopwatch`."""
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


def cuda_events(count: int) -> list[torch.cuda.Event]:
    """New events of the current CUDA stream that record times."""
    new: Callable[..., torch.cuda.Event] = torch.cuda.Event
    return [new(enable_timing=True) for _ in range(count)]


def _between_events(device: torch.device, work: Callable[[], object]) -> float:
    """Microseconds of GPU time that `work` took, from an idle GPU."""
    with torch.cuda.device(device):
        start, end = cuda_events(2)
        torch.cuda.synchronize()
        start.record()
        work()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) * 1e3


@dataclass(frozen=True, kw_only=True, slots=True)
class Times:
    """Microseconds a call of every repetition.

    Attributes:
        rested: On a GPU that was idle before each repetition.
        steady: Under the run's own steady load.
    """

    rested: tuple[float, ...]
    steady: tuple[float, ...]


def time_runs(
    runs: Mapping[_Name, Run], *, repetitions: int, pause_s: float = 0.0, settle_s: float = 0.0
) -> dict[_Name, Times]:
    """Time every run, one after the other, each rested first and then under load.

    Args:
        runs: Prepared cycles; each is run `SETTLING_ROUNDS` times before it is timed.
        repetitions: Timed runs of each kind.
        pause_s: Idle seconds before each rested repetition.
        settle_s: Seconds of load before the steady repetitions, which follow without a pause.
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
    """How many copies of a call's tensors make one cycle touch two L2 caches more than one call.

    Args:
        call_bytes: Bytes that one call reads and writes.
        device: On a CPU the answer is 2.
        memory_part: The part of the memory that is free now which the copies may fill.
        most: The most copies. There is always at least one.
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


OUT_OF_MEMORY = "out of memory on this device"


def failure_reason(error: BaseException) -> str:
    """One line for a table: `OUT_OF_MEMORY`, or the error's class and first line."""
    seen: BaseException | None = error
    # The compiler, or the end of a graph's capture, may raise an error of its own that hides the
    # out-of-memory error behind it.
    while seen is not None:
        if isinstance(seen, torch.OutOfMemoryError):
            return OUT_OF_MEMORY
        seen = seen.__cause__ or seen.__context__
    name, gist = type(error).__name__, first_line(error, most=300)
    return name if gist == name else f"{name}: {gist}"
