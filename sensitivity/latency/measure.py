"""How long does each Linear shape of a model take on the GPU of this machine, in bf16 and quantized natively?

Method. Every unique (M, K, N, bias) is one small experiment: bf16 `nn.Linear`s and, for each format, the same Linears quantized natively by torchao, each
compiled (`fullgraph`, static shapes) and timed as `timing.py` says: inside a CUDA graph for "reduce-overhead", as plain launches for "default". Inputs (random
normal), weights and outputs rotate through more memory than two L2 caches. bf16 and the formats are timed in turn, so a drifting clock hits all alike.

Linears that stand outside the compiled blocks (`LinearShape.eager`) are not compiled here either: of these it is the GPU's time that is measured, not Python's.

Finished rows go to the cache as each experiment ends, so an interruption loses one shape at most. A shape that fails is a row with its reason, the memory is
given back, and the others go on; failures are not kept, the next run tries again. Where a format of a shape is new, all formats asked for are timed again with it.

What it does not do: it times a Linear alone. In a compiled block a quantize may fuse with the operation before it, and an input may still lie in the cache.
"default" pays one Python call a Linear, which a compiled block does not: there small shapes look slower than they are.

    times = measure_shapes(shapes_of(table, (FormatName.FP8,)), device="cuda", cache=cache)
    times.rows[str(shape)].median_us
"""

import dataclasses
import time
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sensitivity.census import AttentionShape
from sensitivity.environment import describe_environment
from sensitivity.formats import describe_versions, get_format, quantize_native
from sensitivity.latency._base import CompileMode
from sensitivity.latency.table import LinearShape, ShapeTime, ShapeTimeCache, ShapeTimes, attention_key, parse_linear
from sensitivity.latency.timing import (
    Run,
    Stopwatch,
    copies_past_cache,
    device_of,
    failure_reason,
    free_memory,
    preserved_settings,
    release_memory,
    stopwatch_for,
    time_interleaved,
)
from sensitivity.spec import FormatName

_MACHINE_KEYS = ("device", "capability", "driver", "cuda", "torch")


@dataclass(frozen=True, kw_only=True)
class Bench:
    """How a measurement is made; tests replace parts. `stopwatch` None is the device's and the compile mode's own."""

    stopwatch: Stopwatch | None = None
    backend: Any = "inductor"
    quantize: Callable[[nn.Module, Mapping[str, FormatName]], None] = quantize_native
    native_refusal: Callable[[FormatName, torch.device], str | None] = lambda name, device: get_format(name).native_refusal(device)
    clock: Callable[[], float] = time.monotonic


def machine_of(device: str) -> dict[str, str]:
    """What decides a time besides the shape: GPU, driver, and the versions of CUDA, torch, torchao and mslk."""
    stamp = describe_environment(device)
    return {key: stamp[key] for key in _MACHINE_KEYS if key in stamp} | describe_versions()


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

    def keep(self, row: ShapeTime) -> None:
        self.rows[row.key] = row
        if self.cache is not None and row.reason is None:
            self.cache.save_shape_time(self.machine, self.compile_mode, row.key, row.to_json())


def measure_shapes(
    shapes: Iterable[LinearShape], *, attention: Iterable[AttentionShape] = (), device: str, compile_mode: CompileMode = "reduce-overhead",
    cache: ShapeTimeCache | None = None, repetitions: int = 10, time_limit_s: float | None = None,
    progress: Callable[[int, int, str], None] = lambda _done, _total, _key: None, bench: Bench | None = None,
) -> ShapeTimes:  # fmt: skip
    """Measure shapes (bf16 is always among them) and attentions on `device`, or read them from `cache`.

    Args:
        shapes: Linears in formats; those of one (M, K, N, bias) are timed in turn.
        attention: attentions to measure as well.
        device: "cuda" or "cuda:N"; "cpu" runs, for tests.
        compile_mode: how the priced run is compiled.
        cache: where finished rows are read and kept.
        repetitions: timed runs of each row, 10 or more for numbers that are shown.
        time_limit_s: no new experiment begins after this long; what is left gets that as its reason.
        progress: called before each experiment and at the end: (done, total, what comes next or "").
        bench: replaces parts of the measurement.

    A KeyboardInterrupt passes through; rows that were finished are in the cache.
    """
    bench = bench or Bench()
    machine = machine_of(device)
    session = _Session(device_of(device), compile_mode, machine, cache, repetitions, bench)
    known = cache.find_shape_times(machine, compile_mode) if cache is not None else {}
    experiments: list[tuple[tuple[str, ...], Callable[[], None]]]
    experiments = [(tuple(map(str, group)), partial(_measure_linears, session, group)) for group in _grouped(shapes)]
    unique = {attention_key(shape): shape for shape in attention}
    experiments += [((key,), partial(_measure_attention, session, shape)) for key, shape in unique.items()]
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
    """Shapes that are timed together: one (M, K, N, bias, eager), bf16 first, in the order in which they came."""
    groups: dict[tuple[int, int, int, bool, bool], dict[FormatName, LinearShape]] = {}
    for shape in shapes:
        if shape.m == 0:
            continue
        group = groups.setdefault(
            (shape.m, shape.k, shape.n, shape.bias, shape.eager), {FormatName.BF16: dataclasses.replace(shape, format=FormatName.BF16)}
        )
        group[shape.format] = shape
    return [tuple(group.values()) for group in groups.values()]


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
    """Time one (M, K, N, bias) in all its formats. A format that fails is a row with its reason; without bf16 the others still have theirs."""
    runs: dict[LinearShape, Run] = {}
    copies: dict[LinearShape, int] = {}
    try:
        for shape in group:
            reason = _refusal(shape, session)
            if reason is None:
                try:
                    copies[shape] = copies_past_cache(shape.call_bytes, session.device)
                    runs[shape] = _prepare_linear(session, shape, copies[shape])
                except Exception as error:
                    reason = failure_reason(error)
                if reason is not None:  # outside `except`, where the error's frames no longer hold the tensors
                    free_memory(session.device)
            if reason is not None:
                session.keep(ShapeTime(key=str(shape), reason=reason))
        times: Mapping[LinearShape, tuple[float, ...]] = {}
        reason = None
        try:
            times = time_interleaved(runs, repetitions=session.repetitions)
        except Exception as error:
            reason = failure_reason(error)
        for shape in runs:
            session.keep(ShapeTime(key=str(shape), us=times.get(shape, ()), reason=reason, copies=copies[shape]))
    finally:
        runs.clear()
        release_memory(session.device)


def _prepare_linear(session: _Session, shape: LinearShape, copies: int) -> Run:
    generator = torch.Generator(session.device).manual_seed(0)
    linears = [_random_linear(shape, session.device, generator) for _ in range(copies)]
    if shape.format is not FormatName.BF16:
        session.bench.quantize(nn.ModuleList(linears), {str(i): shape.format for i in range(copies)})
    inputs = [torch.randn(shape.m, shape.k, device=session.device, dtype=torch.bfloat16, generator=generator) for _ in range(copies)]
    call: Callable[[nn.Linear, Tensor], Tensor] = _call_linear
    if not shape.eager:
        call = torch.compile(_own_code(shape.format.value), fullgraph=True, dynamic=False, backend=session.bench.backend)
    return session.stopwatch.prepare(lambda i: call(linears[i], inputs[i]), copies)


def _random_linear(shape: LinearShape, device: torch.device, generator: torch.Generator) -> nn.Linear:
    """A bf16 Linear with normal weights of standard deviation 0.02."""
    linear = nn.Linear(shape.k, shape.n, bias=shape.bias, device="meta", dtype=torch.bfloat16).to_empty(device=device)
    linear.requires_grad_(False)
    for parameter in linear.parameters():
        parameter.normal_(0, 0.02, generator=generator)
    return linear


def _call_linear(linear: nn.Linear, x: Tensor) -> Tensor:
    return linear(x)  # type: ignore[no-any-return]


def _own_code(name: str) -> Callable[[nn.Linear, Tensor], Tensor]:
    """`_call_linear` with a code object of its own: torch keeps compiled graphs, and counts them against its limit, by code object."""
    code = _call_linear.__code__.replace(co_name=f"call_{name}_linear")
    return types.FunctionType(code, globals())


def _measure_attention(session: _Session, shape: AttentionShape) -> None:
    key = attention_key(shape)
    row_bytes = 2 * shape.batch * shape.heads * shape.head_dim
    us, reason, copies = (), None, 0  # type: tuple[float, ...], str | None, int
    try:
        copies = copies_past_cache(row_bytes * 2 * (shape.q_len + shape.kv_len), session.device)
        us = time_interleaved({key: _prepare_attention(session, shape, copies)}, repetitions=session.repetitions)[key]
    except Exception as error:
        reason = failure_reason(error)
    release_memory(session.device)
    session.keep(ShapeTime(key=key, us=us, reason=reason, copies=copies))


def _prepare_attention(session: _Session, shape: AttentionShape, copies: int) -> Run:
    """Queries, keys and values as diffusers passes them: (batch, tokens, heads, dim) in memory, seen as (batch, heads, tokens, dim)."""
    generator = torch.Generator(session.device).manual_seed(0)

    def normal(tokens: int) -> Tensor:
        size = (shape.batch, tokens, shape.heads, shape.head_dim)
        return torch.randn(size, device=session.device, dtype=torch.bfloat16, generator=generator).transpose(1, 2)

    tensors = [(normal(shape.q_len), normal(shape.kv_len), normal(shape.kv_len)) for _ in range(copies)]
    return session.stopwatch.prepare(lambda i: nn.functional.scaled_dot_product_attention(*tensors[i]), copies)
