"""How long does each Linear shape of a model take on the GPU of this machine, in bf16 and quantized
natively?

Method. Every unique (M, K, N, bias) is one small experiment: bf16 `nn.Linear`s and, for each
format, the same Linears quantized natively by torchao, each compiled (`fullgraph`, static shapes)
and timed as `timing.py` says: inside a CUDA graph for "reduce-overhead", as plain launches for
"default". Inputs (random normal), weights and outputs rotate through more memory than two L2
caches. Each is timed on a rested GPU and under its own steady load.

A Linear of a compiled block never stands alone: what makes its input is a kernel that Inductor
fuses the quantizing into. So a producer stands before each compiled Linear, it is timed alone as
well, and the row is the difference: a GELU where K > N (the second Linear of a feed-forward), a
layer norm with modulation elsewhere. Without it FP8 comes out too slow (LOG.md).

Linears that stand outside the compiled blocks (`LinearShape.eager`) are not compiled here either:
of these it is the GPU's time that is measured, not Python's.

Finished rows go to the cache as each experiment ends, so an interruption loses one shape at most. A
shape that fails is a row with its reason, the memory is given back, and the others go on; failures
are not kept, the next run tries again. Where a format of a shape is new, all formats asked for are
timed again with it.

Linears that read one input (q, k and v) are quantized once where Inductor merges it: for these, two
Linears behind one producer are timed as well, and what the second adds is a row of its own
("sibling").

What it does not do: see what follows a Linear. "default" pays one Python call a Linear, which a
compiled block does not: there small shapes look slower than they are.

    times = measure_shapes(shapes_of(table, (FormatName.FP8,)), device="cuda", cache=cache)
    times.rows[str(shape)].price_us
"""

import dataclasses
import statistics
import time
import types
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from sensitivity.core.devices import free_memory, release_memory
from sensitivity.core.environment import describe_environment
from sensitivity.core.format_name import CompileMode, FormatName
from sensitivity.formats.native import describe_versions, quantize_native
from sensitivity.formats.registry import get_format
from sensitivity.latency.measured import (
    LinearShape,
    ShapeTime,
    ShapeTimeCache,
    ShapeTimes,
    attention_key,
    parse_linear,
)
from sensitivity.latency.stopwatch import (
    Run,
    Stopwatch,
    Times,
    copies_past_cache,
    device_of,
    failure_reason,
    preserved_settings,
    stopwatch_for,
    time_runs,
)
from sensitivity.shapes.census import AttentionShape

_MACHINE_KEYS = ("device", "capability", "driver", "cuda", "torch")
METHOD = "behind a norm or GELU, rested and steady"
"""How compiled Linears are timed; part of the machine's record, so that times of another method are
not reused.
"""
_PRODUCER = "producer"
_Name = TypeVar("_Name", bound=Hashable)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """How a measurement is made; tests replace parts.

    `stopwatch` None is the device's and the compile mode's own.
    """

    stopwatch: Stopwatch | None = None
    backend: Any = "inductor"
    quantize: Callable[[nn.Module, Mapping[str, FormatName]], None] = quantize_native
    native_refusal: Callable[[FormatName, torch.device], str | None] = lambda name, device: (
        get_format(name).native_refusal(device)
    )
    clock: Callable[[], float] = time.monotonic
    pause_s: float = 0.02
    settle_s: float = 0.5


def machine_of(device: str) -> dict[str, str]:
    """What decides a time besides the shape:

    GPU, driver, and the versions of CUDA, torch, torchao and mslk.
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

    @property
    def stopwatch(self) -> Stopwatch:
        return self.bench.stopwatch or stopwatch_for(self.device, self.compile_mode)

    def time(self, runs: Mapping[_Name, Run]) -> dict[_Name, Times]:
        """Rested and under steady load; a CPU knows no such difference."""
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
    """Measure shapes (bf16 is always among them) and attentions on `device`, or read them from
    `cache`.

    Args:
        shapes: Linears in formats; those of one (M, K, N, bias) are timed in turn.
        attention: attentions to measure as well.
        device: "cuda" or "cuda:N"; "cpu" runs, for tests.
        compile_mode: how the priced run is compiled.
        cache: where finished rows are read and kept.
        repetitions: timed runs of each row, 10 or more for numbers that are shown.
        time_limit_s: no new experiment begins after this long; what is left gets that as its
            reason.
        progress: called before each experiment and at the end: (done, total, what comes next or
            "").
        bench: replaces parts of the measurement.

    A KeyboardInterrupt passes through; rows that were finished are in the cache.
    """
    bench = bench or Bench()
    machine = machine_of(device)
    session = _Session(device_of(device), compile_mode, machine, cache, repetitions, bench)
    known = cache.find_shape_times(machine, compile_mode) if cache is not None else {}
    experiments: list[tuple[tuple[str, ...], Callable[[], None]]]
    experiments = [
        (tuple(map(str, group)), partial(_measure_linears, session, group))
        for group in _grouped(shapes)
    ]
    unique = {attention_key(shape): shape for shape in attention}
    experiments += [
        ((key,), partial(_measure_attention, session, shape)) for key, shape in unique.items()
    ]
    started = bench.clock()
    with torch.no_grad(), preserved_settings():
        for done, (keys, experiment) in enumerate(experiments):
            progress(done, len(experiments), keys[0])
            if all(_is_known(key, known, session) for key in keys):
                session.rows |= {key: _row_of(key, known, session) for key in keys}
            elif time_limit_s is not None and bench.clock() - started > time_limit_s:
                reason = f"not measured: the time limit of {time_limit_s:g} s was reached"
                session.rows |= {key: ShapeTime(key=key, reason=reason) for key in keys}
            else:
                experiment()
    progress(len(experiments), len(experiments), "")
    return ShapeTimes(machine=machine, compile_mode=compile_mode, rows=session.rows)


def _grouped(shapes: Iterable[LinearShape]) -> list[tuple[LinearShape, ...]]:
    """Shapes that are timed together: one (M, K, N, bias, eager), bf16 first, in the order in which
    they came.
    """
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


def _refusal(shape: LinearShape, session: _Session) -> str | None:
    if shape.format is FormatName.BF16:
        return None
    reason = get_format(shape.format).refusal(k=shape.k, n=shape.n, dtype=torch.bfloat16)
    return reason or session.bench.native_refusal(shape.format, session.device)


def _is_known(key: str, known: Mapping[str, Mapping[str, Any]], session: _Session) -> bool:
    shape = parse_linear(key)
    return key in known or (shape is not None and _refusal(shape, session) is not None)


def _row_of(key: str, known: Mapping[str, Mapping[str, Any]], session: _Session) -> ShapeTime:
    if key in known:
        return ShapeTime.from_json(known[key], reused=True)
    shape = parse_linear(key)
    assert shape is not None
    return ShapeTime(key=key, reason=_refusal(shape, session))


def _measure_linears(session: _Session, group: Sequence[LinearShape]) -> None:
    """Time one (M, K, N, bias) in all its formats.

    A format that fails is a row with its reason; without bf16 the others still have theirs.
    """
    runs: dict[LinearShape | str, Run] = {}
    copies: dict[LinearShape, int] = {}
    try:
        no_producer = (
            None
            if group[0].eager
            else _prepare(session, runs, _PRODUCER, lambda: _prepare_producer(session, group[0]))
        )
        for shape in group:
            copies[shape] = copies_past_cache(shape.call_bytes, session.device)
            make = partial(_prepare_linear, session, shape, copies[shape])
            reason = _refusal(shape, session) or no_producer or _prepare(session, runs, shape, make)
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
    """A shape's row: its times less those of its producer, or of the Linear that it is a sibling
    of.
    """
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


def _prepare(
    session: _Session,
    runs: dict[LinearShape | str, Run],
    name: LinearShape | str,
    make: Callable[[], Run],
) -> str | None:
    """Put what `make` gives into `runs`; or say why it gives nothing, and recover the memory."""
    try:
        runs[name] = make()
    except Exception as error:
        reason = failure_reason(error)
    else:
        return None
    free_memory(
        session.device
    )  # outside `except`, where the error's frames no longer hold the tensors
    return reason


def _prepare_linear(session: _Session, shape: LinearShape, copies: int) -> Run:
    generator = torch.Generator(session.device).manual_seed(0)
    linears = [
        _random_linear(shape, session.device, generator)
        for _ in range(2 * copies if shape.sibling else copies)
    ]
    if shape.format is not FormatName.BF16:
        session.bench.quantize(
            nn.ModuleList(linears), {str(i): shape.format for i in range(len(linears))}
        )
    inputs = _inputs(session, shape, copies)
    if shape.eager:
        return session.stopwatch.prepare(lambda i: linears[i](inputs[i][0]), copies)
    behind = _CALLS[_producer(shape), shape.sibling]
    call = torch.compile(
        _own_code(behind, shape.format.value),
        fullgraph=True,
        dynamic=False,
        backend=session.bench.backend,
    )
    return session.stopwatch.prepare(lambda i: call(*linears[i::copies], *inputs[i]), copies)


def _prepare_producer(session: _Session, shape: LinearShape) -> Run:
    """The producer alone, on as many inputs as the bf16 Linear has."""
    copies = copies_past_cache(shape.call_bytes, session.device)
    inputs = _inputs(session, shape, copies)
    call = torch.compile(
        _own_code(_producer(shape), "alone"),
        fullgraph=True,
        dynamic=False,
        backend=session.bench.backend,
    )
    return session.stopwatch.prepare(lambda i: call(*inputs[i]), copies)


def _inputs(
    session: _Session, shape: LinearShape, copies: int
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """(rows (M, K), scale (K,), shift (K,)) of each copy, random normal."""
    generator = torch.Generator(session.device).manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, device=session.device, dtype=torch.bfloat16, generator=generator)

    return [(normal(shape.m, shape.k), normal(shape.k), normal(shape.k)) for _ in range(copies)]


def _random_linear(
    shape: LinearShape, device: torch.device, generator: torch.Generator
) -> nn.Linear:
    """A bf16 Linear with normal weights of standard deviation 0.02."""
    linear = nn.Linear(
        shape.k, shape.n, bias=shape.bias, device="meta", dtype=torch.bfloat16
    ).to_empty(device=device)
    linear.requires_grad_(False)
    for parameter in linear.parameters():
        parameter.normal_(0, 0.02, generator=generator)
    return linear


def _norm(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return nn.functional.layer_norm(x, x.shape[-1:]) * (1 + scale) + shift


def _gelu(x: Tensor, _scale: Tensor, _shift: Tensor) -> Tensor:
    return nn.functional.gelu(x, approximate="tanh")


def _producer(shape: LinearShape) -> Callable[..., Tensor]:
    return _gelu if shape.k > shape.n else _norm


def _call_behind_norm(linear: nn.Linear, *inputs: Tensor) -> Tensor:
    return linear(_norm(*inputs))  # type: ignore[no-any-return]


def _call_behind_gelu(linear: nn.Linear, *inputs: Tensor) -> Tensor:
    return linear(_gelu(*inputs))  # type: ignore[no-any-return]


def _call_two_behind_norm(
    first: nn.Linear, second: nn.Linear, *inputs: Tensor
) -> tuple[Tensor, Tensor]:
    x = _norm(*inputs)
    return first(x), second(x)


def _call_two_behind_gelu(
    first: nn.Linear, second: nn.Linear, *inputs: Tensor
) -> tuple[Tensor, Tensor]:
    x = _gelu(*inputs)
    return first(x), second(x)


_CALLS: Mapping[tuple[Callable[..., Tensor], bool], Callable[..., Any]] = {
    (_norm, False): _call_behind_norm,
    (_gelu, False): _call_behind_gelu,
    (_norm, True): _call_two_behind_norm,
    (_gelu, True): _call_two_behind_gelu,
}
"""{(producer, whether two Linears read it): what is compiled}."""


def _own_code(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """The function with a code object of its own: torch keeps compiled graphs, and counts them
    against its limit, by code object.
    """
    assert isinstance(function, types.FunctionType)
    return types.FunctionType(
        function.__code__.replace(co_name=f"{function.__name__}_{name}"), globals()
    )


def _measure_attention(session: _Session, shape: AttentionShape) -> None:
    key = attention_key(shape)
    row_bytes = 2 * shape.batch * shape.heads * shape.head_dim
    times, reason, copies = Times(rested=(), steady=()), None, 0
    try:
        copies = copies_past_cache(row_bytes * 2 * (shape.q_len + shape.kv_len), session.device)
        times = session.time({key: _prepare_attention(session, shape, copies)})[key]
    except Exception as error:
        reason = failure_reason(error)
    release_memory(session.device)
    session.keep(
        ShapeTime(key=key, us=times.steady, rested_us=times.rested, reason=reason, copies=copies)
    )


def _prepare_attention(session: _Session, shape: AttentionShape, copies: int) -> Run:
    """Queries, keys and values as diffusers passes them:

    (batch, tokens, heads, dim) in memory, seen as (batch, heads, tokens, dim).
    """
    generator = torch.Generator(session.device).manual_seed(0)

    def normal(tokens: int) -> Tensor:
        size = (shape.batch, tokens, shape.heads, shape.head_dim)
        return torch.randn(
            size, device=session.device, dtype=torch.bfloat16, generator=generator
        ).transpose(1, 2)

    tensors = [
        (normal(shape.q_len), normal(shape.kv_len), normal(shape.kv_len)) for _ in range(copies)
    ]
    return session.stopwatch.prepare(
        lambda i: nn.functional.scaled_dot_product_attention(*tensors[i]), copies
    )
