"""How long does each Linear shape of a model take on the GPU of this machine, in bf16 and quantized
natively? `measure_shapes`.

Method. Every unique (M, K, N, bias) is one small experiment: its producer, bf16, and each format
are prepared (`shape_runs`) and timed (`stopwatch`), inside a CUDA graph for "reduce-overhead", as
plain launches for "default". Each is timed on a rested GPU and under its own steady load. The row
of a compiled Linear is its time less its producer's, and that of a sibling is what a second Linear
adds to the first.

On a GPU every shape is probed first, in a child process that may die (`probing`). What a kernel
refuses is not timed: it is a row with the reason, and does not stop the others.

Finished rows go to the cache as each experiment ends, so an interruption loses one shape at most. A
shape that fails is a row with its reason; its memory is given back, and the others go on. If it
broke the CUDA context, nothing can be timed any more, and the rows that are left say so. Failures
of timing are not kept, so the next run tries them again; what a probe found is. If one format of a
shape is new, all formats that are asked for are timed again with it.

What it does not do: "default" pays one Python call for each Linear, which a compiled block does
not. There small shapes look slower than they are.

    times = measure_shapes(shapes_of(table, (FormatName.FP8,)), device="cuda", cache=cache)
    times.rows[str(shape)].steady_us
"""

import dataclasses
import statistics
import time
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import torch

from sensitivity.core.devices import free_memory, release_memory
from sensitivity.core.environment import describe_environment
from sensitivity.core.format_name import CompileMode, FormatName
from sensitivity.formats.native import describe_versions, quantize_native
from sensitivity.formats.registry import get_format
from sensitivity.latency.refusals import is_about_a_shape, kernel_words, refused_words
from sensitivity.latency.shape_times import (
    PROBING,
    LinearShape,
    ShapeTime,
    ShapeTimeCache,
    ShapeTimes,
    attention_key,
    parse_linear,
)
from sensitivity.latency.timing.probe_child import context_error
from sensitivity.latency.timing.probing import (
    Probe,
    ProbeResult,
    Progress,
    keep_refusal,
    probe_on_gpu,
    probed_as,
)
from sensitivity.latency.timing.shape_runs import MakeLinear, Quantize, ShapeRuns, random_linear
from sensitivity.latency.timing.stopwatch import (
    Run,
    Stopwatch,
    Times,
    copies_past_cache,
    device_of,
    failure_reason,
    stopwatch_for,
    time_runs,
)
from sensitivity.latency.timing.torch_settings import preserved_settings
from sensitivity.shapes.census import AttentionShape

_MACHINE_KEYS = ("device", "capability", "driver", "cuda", "torch")
METHOD = "behind a norm or GELU, rested and steady"
"""How compiled Linears are timed. It is part of the machine's record, so that times of another
method are not reused.
"""
_PRODUCER = "producer"
_Name = TypeVar("_Name", bound=Hashable)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """The parts of a measurement. Tests replace some.

    Attributes:
        stopwatch: What times a run; None is the stopwatch of the device and the compile mode.
        backend: torch.compile's.
        quantize: Quantizes the Linears of a module in place.
        make_linear: Gives a bf16 Linear of a shape.
        native_refusal: Says why a format does not run natively on a device; None if it does.
        probe: Runs shapes before they are timed.
        context_error: Says what is wrong with a device after a failure; None if it still works.
        clock: Seconds, for the time limit.
        pause_s: Idle seconds before each repetition on a rested GPU.
        settle_s: Seconds of load before the repetitions under steady load.
    """

    stopwatch: Stopwatch | None = None
    backend: Any = "inductor"
    quantize: Quantize = quantize_native
    make_linear: MakeLinear = random_linear
    native_refusal: Callable[[FormatName, torch.device], str | None] = lambda name, device: (
        get_format(name).native_refusal(device)
    )
    probe: Probe = probe_on_gpu
    context_error: Callable[[torch.device], str | None] = context_error
    clock: Callable[[], float] = time.monotonic
    pause_s: float = 0.02
    settle_s: float = 0.5


def machine_of(device: str) -> dict[str, str]:
    """What decides a time besides the shape: GPU, driver, versions of CUDA, torch, torchao and
    mslk, and the method.
    """
    stamp = describe_environment(device)
    return (
        {key: stamp[key] for key in _MACHINE_KEYS if key in stamp}
        | describe_versions()
        | {"method": METHOD}
    )


@dataclass
class _Session:
    """One call of `measure_shapes`."""

    device: torch.device
    compile_mode: CompileMode
    machine: Mapping[str, str]
    cache: ShapeTimeCache | None
    repetitions: int
    bench: Bench
    rows: dict[str, ShapeTime] = field(default_factory=dict)
    reused: set[str] = field(default_factory=set)
    probed: Mapping[LinearShape, ProbeResult] = field(default_factory=dict)
    broken: str | None = None

    @property
    def runs(self) -> ShapeRuns:
        """What prepares the runs."""
        return ShapeRuns(
            device=self.device,
            stopwatch=self.bench.stopwatch or stopwatch_for(self.device, self.compile_mode),
            backend=self.bench.backend,
            quantize=self.bench.quantize,
            make_linear=self.bench.make_linear,
        )

    def time(self, runs: Mapping[_Name, Run]) -> dict[_Name, Times]:
        """Time rested and under steady load. A CPU has no such difference and does not wait."""
        waits = (
            {"pause_s": self.bench.pause_s, "settle_s": self.bench.settle_s}
            if self.device.type == "cuda"
            else {}
        )
        return time_runs(runs, repetitions=self.repetitions, **waits)

    def keep(self, row: ShapeTime) -> None:
        self.rows[row.key] = row
        if self.cache is not None and row.reason is None:
            self.cache.save_shape_time(self.machine, self.compile_mode, row.key, row.to_json())

    def reuse(self, keys: Iterable[str], known: Mapping[str, Mapping[str, Any]]) -> None:
        """Take rows from the cache; a shape that is refused gets its reason again."""
        for key in keys:
            if key in known:
                self.rows[key] = ShapeTime.from_json(known[key])
                self.reused.add(key)
            else:
                self.rows[key] = ShapeTime(key=key, reason=self.refusal(parse_linear(key)))

    def refusal(self, shape: LinearShape | None) -> str | None:
        """Why the format does not take a shape, does not run on the device, or its kernel refuses
        the shape; None if it runs.
        """
        if shape is None or not shape.format.is_quantized:
            return None
        reason = get_format(shape.format).refusal(k=shape.k, n=shape.n, dtype=torch.bfloat16)
        probed = self.probed.get(probed_as(shape))
        return (
            reason
            or self.bench.native_refusal(shape.format, self.device)
            or (probed.reason if probed is not None and probed.outcome == "refused" else None)
        )

    def probe(
        self, shapes: Iterable[LinearShape], known: Collection[str], progress: Progress
    ) -> None:
        """Run what is not known yet, and has a format that takes it, in a child process."""
        wanted = [
            shape
            for shape in shapes
            if shape.format.is_quantized and str(shape) not in known and not self.refusal(shape)
        ]
        if wanted:
            self.probed = self.bench.probe(
                wanted,
                device=str(self.device),
                machine=self.machine,
                cache=self.cache,
                progress=lambda done, total, key: progress(done, total, PROBING + key),
            )

    def look_after(self, keys: Sequence[str]) -> None:
        """After an experiment: if a failure broke the context, say so in `broken`.

        The shape is kept as refused, so that the next measurement gets past it.
        """
        failed = next((key for key in keys if self.rows[key].reason is not None), None)
        error = None if failed is None else self.bench.context_error(self.device)
        if failed is None or error is None:
            return
        self.broken = f"not measured: {failed} broke the CUDA context ({error}): measure again"
        shape = parse_linear(failed)
        if shape is not None and shape.format.is_quantized and self.cache is not None:
            keep_refusal(self.cache, self.machine, shape, error)


def measure_shapes(
    shapes: Iterable[LinearShape],
    *,
    attention: Iterable[AttentionShape] = (),
    device: str,
    compile_mode: CompileMode = "reduce-overhead",
    cache: ShapeTimeCache | None = None,
    repetitions: int = 10,
    time_limit_s: float | None = None,
    progress: Callable[[int, int, str], None] = lambda _done, _total, _key: None,
    bench: Bench | None = None,
) -> ShapeTimes:
    """Measure shapes and attentions on `device`, or read them from `cache`.

    Args:
        shapes: Linears in formats; bf16 is always measured beside them.
        attention: Attentions to measure as well.
        device: "cuda" or "cuda:N"; "cpu" runs too, for tests.
        compile_mode: How the priced run is compiled.
        cache: Where finished rows are read and kept.
        repetitions: Timed runs of each row; 10 or more for numbers that are shown.
        time_limit_s: No new experiment begins after this many seconds; the rows that are left get
            that as their reason.
        progress: Called before each experiment and at the end with (experiments done, experiments
            in all, key of the next or ""); before that for what is probed, with `PROBING` and key.
        bench: Replaces parts of the measurement.

    A KeyboardInterrupt passes through; the rows that were finished are in the cache.
    """
    bench = bench or Bench()
    machine = machine_of(device)
    session = _Session(device_of(device), compile_mode, machine, cache, repetitions, bench)
    known = cache.find_shape_times(machine, compile_mode) if cache is not None else {}
    groups = _grouped(shapes)
    experiments = _experiments(session, groups, attention)
    session.probe((shape for group in groups for shape in group), known, progress)
    started = bench.clock()
    with torch.no_grad(), preserved_settings():
        for done, (keys, experiment) in enumerate(experiments):
            progress(done, len(experiments), keys[0])
            late = time_limit_s is not None and bench.clock() - started > time_limit_s
            if all(key in known or session.refusal(parse_linear(key)) for key in keys):
                session.reuse(keys, known)
            elif late or session.broken:
                reason = session.broken or (
                    f"not measured: the time limit of {time_limit_s:g} s was reached"
                )
                session.rows |= {key: ShapeTime(key=key, reason=reason) for key in keys}
            else:
                experiment()
                session.look_after(keys)
    progress(len(experiments), len(experiments), "")
    return ShapeTimes(
        machine=machine,
        compile_mode=compile_mode,
        rows=session.rows,
        reused=frozenset(session.reused),
    )


def _experiments(
    session: _Session,
    groups: Iterable[tuple[LinearShape, ...]],
    attention: Iterable[AttentionShape],
) -> list[tuple[tuple[str, ...], Callable[[], None]]]:
    """(keys of the rows, what measures them) of every experiment."""
    unique = {attention_key(shape): shape for shape in attention}
    return [
        *((tuple(map(str, group)), partial(_measure_linears, session, group)) for group in groups),
        *(((key,), partial(_measure_attention, session, shape)) for key, shape in unique.items()),
    ]


def _grouped(shapes: Iterable[LinearShape]) -> list[tuple[LinearShape, ...]]:
    """Shapes that are timed together: one (M, K, N, bias, eager), bf16 first."""
    groups: dict[tuple[int, int, int, bool, bool], dict[LinearShape, None]] = {}
    for shape in shapes:
        if shape.m == 0:
            continue
        alone = dataclasses.replace(shape, sibling=False)
        group = groups.setdefault(
            (shape.m, shape.k, shape.n, shape.bias, shape.eager),
            {dataclasses.replace(alone, format=FormatName.BF16): None},
        )
        group |= {alone: None, shape: None}  # a sibling is timed against the first
    return [tuple(group) for group in groups.values()]


def _measure_linears(session: _Session, group: Sequence[LinearShape]) -> None:
    """Time one (M, K, N, bias) in all its formats.

    A format that fails is a row with its reason. If bf16 fails, the others still have their times.
    """
    runs: dict[LinearShape | str, Run] = {}
    copies: dict[LinearShape, int] = {}
    prepare = session.runs
    try:
        no_producer = (
            None
            if group[0].eager
            else _add_run(session, runs, _PRODUCER, partial(prepare.producer, group[0]))
        )
        for shape in group:
            copies[shape] = copies_past_cache(shape.call_bytes, session.device)
            make = partial(prepare.linear, shape, copies[shape])
            reason = session.refusal(shape) or no_producer or _add_run(session, runs, shape, make)
            if reason is not None:
                session.keep(ShapeTime(key=str(shape), reason=reason))
        times: Mapping[LinearShape | str, Times] = {}
        reason = None
        try:
            times = session.time(runs)
        except Exception as error:
            reason = failure_reason(error)
        for shape in (shape for shape in runs if isinstance(shape, LinearShape)):
            session.keep(_row(shape, copies[shape], times, reason))
    finally:
        runs.clear()
        release_memory(session.device)


def _row(
    shape: LinearShape, copies: int, times: Mapping[LinearShape | str, Times], reason: str | None
) -> ShapeTime:
    """A shape's row: its times less those of its producer, or of the first Linear for a sibling."""
    if shape not in times:
        return ShapeTime(key=str(shape), reason=reason, copies=copies)
    less = times.get(dataclasses.replace(shape, sibling=False) if shape.sibling else _PRODUCER)
    if shape.sibling and less is None:
        return ShapeTime(
            key=str(shape), reason="the Linear that it is a sibling of has no time", copies=copies
        )
    producer, found = times.get(_PRODUCER), times[shape]
    return ShapeTime(
        key=str(shape),
        copies=copies,
        producer_us=producer.steady if producer else (),
        us=_less(found.steady, less.steady) if less else found.steady,
        rested_us=_less(found.rested, less.rested) if less else found.rested,
    )


def _less(us: Sequence[float], other_us: Sequence[float]) -> tuple[float, ...]:
    return tuple(one - statistics.median(other_us) for one in us)


def _add_run(
    session: _Session,
    runs: dict[LinearShape | str, Run],
    name: LinearShape | str,
    make: Callable[[], Run],
) -> str | None:
    """Put what `make` gives into `runs`; on failure, free its memory and return the reason."""
    try:
        runs[name] = make()
    except Exception as error:
        reason = failure_reason(error)
        if isinstance(name, LinearShape) and is_about_a_shape(error):
            reason = refused_words(kernel_words(error), **name.sizes)
    else:
        return None
    # Outside `except`: inside, the error's frames would still hold the tensors.
    free_memory(session.device)
    return reason


def _measure_attention(session: _Session, shape: AttentionShape) -> None:
    key = attention_key(shape)
    row_bytes = 2 * shape.batch * shape.heads * shape.head_dim
    times, reason, copies = Times(rested=(), steady=()), None, 0
    try:
        copies = copies_past_cache(row_bytes * 2 * (shape.q_len + shape.kv_len), session.device)
        times = session.time({key: session.runs.attention(shape, copies)})[key]
    except Exception as error:
        reason = failure_reason(error)
    release_memory(session.device)
    session.keep(
        ShapeTime(key=key, us=times.steady, rested_us=times.rested, reason=reason, copies=copies)
    )
