"""Which Linears of a table does the GPU at hand refuse to run? `probe_shapes`.

Method. Every unique (M, K, N, bias, format) is run once, in a child process that may die
(`probe_child`). The child takes many shapes. If it crashes, the shape that it was at is tried once
more, as the first of a new child, and is refused if it kills that one too. If it hangs, it is
killed and the shape is refused. Either way the rest goes on in a new child. What breaks the CUDA
context of the child does not touch this process.

Results are kept beside the times of shapes (`ShapeTimeCache`), under the same machine, so a shape
is probed once. What says nothing about the kernel is not kept: too little memory, and a child that
did not answer in time or could not be started.

Conventions. Shapes are told apart by M, K, N, bias and format only. bf16 is not probed.

What it does not do: time a shape, or try it compiled. A kernel that only the compiler makes is
found when it is timed (`shape_timing`).

    results = probe_shapes(shapes_of(table, (FormatName.FP8,)), device="cuda:0", cache=cache)
    [result.reason for result in results.values() if result.outcome == "refused"]
"""

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import IO, Any, Protocol

from pydantic import TypeAdapter, ValidationError

from sensitivity.latency.refusals import refused_words
from sensitivity.latency.shape_times import LinearShape, ShapeTimeCache, parse_linear
from sensitivity.latency.timing.probe_child import MARK, Outcome

Progress = Callable[[int, int, str], None]
"""(done, in all, key of the next or "")"""
START_S = 180.0
"""Seconds that a child has to load torch and reach the GPU."""
SHAPE_S = 60.0
"""Seconds that one shape has; the GPU needs milliseconds."""
KILL_S = 10.0
"""Seconds that a killed child has to be gone; it is left to itself then."""
MOST_CHILDREN = 24
"""No more children than this are started; the shapes that are left are not tried."""
_PREFIX = "probed "
PROBED = "probed"
"""Stands for the compile mode where results are kept, since they do not depend on it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeResult:
    """What became of one shape.

    Attributes:
        outcome: "ran", "refused" by the kernel, or "untried".
        reason: One line, unless it ran.
    """

    outcome: Outcome
    reason: str | None = None


_RESULT = TypeAdapter(ProbeResult)


@dataclass(frozen=True, kw_only=True)
class Prober:
    """How children are started and how long they are waited for. Tests replace some.

    Attributes:
        command: Starts a child that speaks the protocol of `probe_child`.
        start_s: Seconds until it must be ready.
        shape_s: Seconds for each shape.
    """

    command: Sequence[str] = (sys.executable, "-P", "-m", "sensitivity.latency.timing.probe_child")
    start_s: float = START_S
    shape_s: float = SHAPE_S


def probe_shapes(
    shapes: Iterable[LinearShape],
    *,
    device: str,
    machine: Mapping[str, str],
    cache: ShapeTimeCache | None = None,
    prober: Prober | None = None,
    progress: Progress = lambda _done, _total, _key: None,
) -> dict[LinearShape, ProbeResult]:
    """Run each shape once in a child process, or read what is known from `cache`.

    Args:
        shapes: Linears in formats; bf16 is left out.
        device: "cuda" or "cuda:N".
        machine: Device, driver and versions, as `shape_timing.machine_of` gives them.
        cache: Where results are read and kept.
        prober: Replaces how children are started.
        progress: Called before each shape with (shapes done, shapes in all, key of the next), and
            at the end with the key "".

    Returns:
        A result for every shape, under its form in a compiled block (`probed_as`).

    A KeyboardInterrupt passes through; what was finished is in the cache.
    """
    wanted = tuple(dict.fromkeys(probed_as(s) for s in shapes if s.format.is_quantized and s.m))
    known = {} if cache is None else find_probed(wanted, machine=machine, cache=cache)
    probing = _Probing(
        left=[shape for shape in wanted if shape not in known],
        device=device,
        machine=machine,
        cache=cache,
        prober=prober or Prober(),
        progress=progress,
    )
    return known | probing.run()


def find_probed(
    shapes: Iterable[LinearShape], *, machine: Mapping[str, str], cache: ShapeTimeCache
) -> dict[LinearShape, ProbeResult]:
    """What is kept of earlier probes of these shapes, under `probed_as`. Nothing is run."""
    kept = cache.find_shape_times(machine, PROBED)
    wanted = dict.fromkeys(probed_as(s) for s in shapes if s.format.is_quantized and s.m)
    return {s: result for s in wanted if (result := _read(kept.get(_key(s)))) is not None}


@dataclass(kw_only=True)
class _Probing:
    """One call of `probe_shapes`: what is left to try, and what was found."""

    left: list[LinearShape]
    device: str
    machine: Mapping[str, str]
    cache: ShapeTimeCache | None
    prober: Prober
    progress: Progress
    found: dict[LinearShape, ProbeResult] = field(default_factory=dict)

    def run(self) -> dict[LinearShape, ProbeResult]:
        """Start children until nothing is left, or too many of them ended early."""
        suspect: LinearShape | None = None
        for _ in range(MOST_CHILDREN):
            before = len(self.left)
            if not before:
                break
            end = _run_child(tuple(self.left), self.device, self.prober, self.finish, self.begin)
            earlier, suspect = suspect, None if end is None else end.shape
            if end is None:
                continue
            if end.shape is None and len(self.left) == before:  # it came to no shape; none would
                self.give_up(f"not probed: {end.why}")
            elif end.shape is not None and (end.hung or end.shape == earlier):
                self.finish(end.shape, _refused(end.shape, end.why), keep=not end.hung)
            self.left.sort(key=lambda shape: shape != suspect)  # the suspect first, the order kept
        self.give_up(f"not probed: {MOST_CHILDREN} processes ended before it")
        if self.found:
            self.progress(len(self.found), len(self.found), "")
        return self.found

    def begin(self, shape: LinearShape) -> None:
        """Tell that a shape is tried now."""
        self.progress(len(self.found), len(self.found) + len(self.left), str(shape))

    def finish(self, shape: LinearShape, result: ProbeResult, *, keep: bool = True) -> None:
        """Note a result, and keep it if it says something about the kernel."""
        self.found[shape] = result
        self.left.remove(shape)
        if keep and result.outcome != "untried" and self.cache is not None:
            row = _RESULT.dump_python(result)
            self.cache.save_shape_time(self.machine, PROBED, _key(shape), row)

    def give_up(self, why: str) -> None:
        """Leave what is left untried."""
        for shape in tuple(self.left):
            self.finish(shape, ProbeResult(outcome="untried", reason=why))


def probed_as(shape: LinearShape) -> LinearShape:
    """The shape under which its result stands: neither eager nor a sibling."""
    return replace(shape, eager=False, sibling=False)


class Probe(Protocol):
    """`probe_shapes` with some arguments left out."""

    def __call__(
        self,
        shapes: Iterable[LinearShape],
        *,
        device: str,
        machine: Mapping[str, str],
        cache: ShapeTimeCache | None,
        progress: Progress,
    ) -> Mapping[LinearShape, ProbeResult]:
        """{shape as it was probed (`probed_as`): its result}."""
        ...


def probe_on_gpu(
    shapes: Iterable[LinearShape],
    *,
    device: str,
    machine: Mapping[str, str],
    cache: ShapeTimeCache | None,
    progress: Progress,
) -> Mapping[LinearShape, ProbeResult]:
    """`probe_shapes` on a GPU; nothing on a CPU, whose kernels are not those that are priced."""
    if not device.startswith("cuda"):
        return {}
    return probe_shapes(shapes, device=device, machine=machine, cache=cache, progress=progress)


def keep_refusal(
    cache: ShapeTimeCache, machine: Mapping[str, str], shape: LinearShape, why: str
) -> None:
    """Keep for later probes that a kernel refuses a shape, as was found when it was timed."""
    alone = probed_as(shape)
    cache.save_shape_time(machine, PROBED, _key(alone), _RESULT.dump_python(_refused(alone, why)))


def _key(shape: LinearShape) -> str:
    return f"{_PREFIX}{shape}"


def probed_key(shape: LinearShape) -> str:
    """The key that a shape's result is kept under."""
    return _key(probed_as(shape))


def probed_shape(key: str) -> LinearShape | None:
    """The shape that a kept result is of; None for another key."""
    return parse_linear(key.removeprefix(_PREFIX)) if key.startswith(_PREFIX) else None


def _refused(shape: LinearShape, why: str) -> ProbeResult:
    return ProbeResult(outcome="refused", reason=refused_words(why, **shape.sizes))


def _read(row: Mapping[str, Any] | None) -> ProbeResult | None:
    """A kept result; None if there is none, or it is malformed, so that the shape is tried."""
    try:
        return None if row is None else _RESULT.validate_python(row)
    except ValidationError:
        return None


@dataclass(frozen=True, kw_only=True, slots=True)
class _End:
    """How a child ended before it was done.

    Attributes:
        shape: The shape that it was at; None if it had not begun one.
        why: What happened to it.
        hung: Whether it was killed since it did not answer.
    """

    shape: LinearShape | None
    why: str
    hung: bool = False


def _run_child(
    shapes: Sequence[LinearShape],
    device: str,
    prober: Prober,
    finish: Callable[[LinearShape, ProbeResult], None],
    begin: Callable[[LinearShape], None],
) -> _End | None:
    """Hand shapes to one child until it is done or gone; None if it ended of its own accord."""
    at: LinearShape | None = None
    reached = 0
    request = json.dumps({"device": device, "shapes": [str(shape) for shape in shapes]})
    with tempfile.TemporaryFile("w+") as errors, _child(prober, request, errors) as child:
        while True:
            try:
                said = child.lines.get(timeout=prober.shape_s if reached else prober.start_s)
            except queue.Empty:
                return _End(shape=at, why=_silence(prober, reached), hung=True)
            if said is None:
                break
            reached += 1
            if "begin" in said:
                at = shapes[said["begin"]]
                begin(at)
            elif "end" in said:
                at = None
                result = ProbeResult(outcome=said["outcome"], reason=said["reason"])
                finish(shapes[said["end"]], result)
        status = child.process.wait()
        if status == 0 and at is None and reached:
            return None
        errors.seek(0)
        return _End(shape=at, why=_death(status, errors.read()))


def _silence(prober: Prober, reached: int) -> str:
    if not reached:
        return f"the process that probes was not ready within {prober.start_s:g} s"
    return f"no answer within {prober.shape_s:g} s"


def _death(status: int, errors: str) -> str:
    """What became of a process, in words."""
    if status < 0:
        with suppress(ValueError):
            return f"the process died ({signal.Signals(-status).name})"
        return f"the process died (signal {-status})"
    last = next((line.strip() for line in reversed(errors.splitlines()) if line.strip()), "")
    return f"the process ended with status {status}" + (f" ({last[:200]})" if last else "")


@dataclass(frozen=True, slots=True)
class _Child:
    process: subprocess.Popen[str]
    lines: "queue.Queue[dict[str, Any] | None]"
    """What it says; None once it has closed its output."""


@contextmanager
def _child(prober: Prober, request: str, errors: IO[str]) -> Iterator[_Child]:
    """A child with its request; it is killed when the context ends."""
    with tempfile.TemporaryFile("w+") as asked:
        asked.write(request)
        asked.flush()
        asked.seek(0)
        process = subprocess.Popen(
            prober.command,
            stdin=asked,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
    child = _Child(process, queue.Queue())
    reader = threading.Thread(target=_listen, args=(child,), daemon=True)
    reader.start()
    try:
        yield child
    finally:
        process.kill()
        with suppress(subprocess.TimeoutExpired):  # a driver may hold a hung process back
            process.wait(KILL_S)
        reader.join(KILL_S)


def _listen(child: _Child) -> None:
    """Put what the child says into its queue, other lines left out."""
    assert child.process.stdout is not None
    with child.process.stdout as output:
        for line in output:
            if line.startswith(MARK):
                with suppress(ValueError):
                    child.lines.put(json.loads(line.removeprefix(MARK)))
    child.lines.put(None)
