"""How long does the denoiser, or the whole pipeline, really take with a recipe's formats, compiled
as it is served? Measured end to end.

Method. A fresh bf16 denoiser is quantized natively (`native.quantize_native`), its repeated blocks
are compiled one by one, as diffusers' `compile_repeated_blocks(fullgraph=True)` does (regional
compilation), warmed up, and timed. What is compiled: modules whose class `_repeated_blocks` names;
where a denoiser has no such list, the blocks that its FQNs count (`blocks.0`, `blocks.1`, ...);
where it has none, the denoiser as a whole. `RunTiming.compiled` says which.

Compile modes. "default": kernels are launched from Python. "reduce-overhead": each compiled region
replays CUDA graphs, its outputs are cloned, so that the next replay cannot overwrite what another
block still reads, and every denoiser call starts a new step of torch's graph trees.

Conventions. Seconds of one denoiser call (`measure_calls`) or of one whole pipeline call
(`measure_pipeline`). On CUDA, calls of the denoiser follow one another without waiting, as the
steps of a pipeline do, with an event between them; on a CPU the host's clock is read. Memory:
`peak_memory_bytes` is torch's allocated peak of the timed calls, `reserved_bytes` what the process
held from the GPU then; the memory of CUDA graphs counts in the second only. No gradients.

What it does not do: load models (the caller gives a factory), choose formats, or emulate: a format
that the device lacks raises FormatError.

    timing, = measure_calls(make_denoiser, calls, formats=recipe.layers, compile_mode="reduce-overhead", device="cuda")
    timing.median_s
"""

import itertools
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from sensitivity.core.devices import release_memory
from sensitivity.core.format_name import CompileMode, FormatName
from sensitivity.errors import MeasurementError, SensitivityError
from sensitivity.formats.native import quantize_native
from sensitivity.latency.stopwatch import device_of, failure_reason, preserved_settings
from sensitivity.models.compiled_regions import (
    begin_step,
    check_recompile_limit,
    compile_denoiser,
    count_block_patterns,
    default_recompile_limit,
    limit_error,
    regions_of,
    restore_denoiser,
)
from sensitivity.models.denoisers import parts_of

_Tree = TypeVar("_Tree")
_Timer = Callable[[Callable[[], object], int, torch.device], tuple[float, ...]]
_LIMIT_ERRORS = ("FailOnRecompileLimitHit", "RecompileLimitExceeded")


class CallLike(Protocol):
    """One distinct call of the denoiser, as `skeleton.DenoiserCall` describes it: its tensors are
    real CPU tensors or meta tensors.
    """

    @property
    def args(self) -> Any: ...
    @property
    def kwargs(self) -> Any: ...
    @property
    def calls(self) -> int: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class RunTiming:
    """One measured unit: a denoiser call, or a whole pipeline call.

    Attributes:
        seconds: every timed repetition.
        calls: how often the unit happens in the whole run.
        compile_s: seconds of the first call, compiling included.
        peak_memory_bytes: most that torch had allocated during the timed calls; 0 on a CPU.
        reserved_bytes: most that torch held from the GPU during them, CUDA graphs included; 0 on a
            CPU.
        weight_bytes: the denoiser's parameters and buffers as stored, scales included.
        compiled: what was compiled, for people.
        compile_mode: how.
    """

    seconds: tuple[float, ...]
    calls: int
    compile_s: float
    peak_memory_bytes: int
    reserved_bytes: int
    weight_bytes: int
    compiled: str
    compile_mode: CompileMode

    @property
    def median_s(self) -> float:
        """The median repetition."""
        return statistics.median(self.seconds)

    @property
    def run_s(self) -> float:
        """Median x calls: this unit's part of the whole run."""
        return self.median_s * self.calls

    def to_json(self) -> dict[str, Any]:
        """Every field, raw repetitions included, and the median."""
        names = (
            "calls",
            "compile_s",
            "peak_memory_bytes",
            "reserved_bytes",
            "weight_bytes",
            "compiled",
            "compile_mode",
        )
        return {"seconds": list(self.seconds), "median_s": self.median_s} | {
            name: getattr(self, name) for name in names
        }


@contextmanager
def _measuring(device: torch.device, recompile_limit: int | None) -> Iterator[None]:
    """What goes wrong inside becomes an error of ours; settings of torch are as before afterwards,
    and compiled graphs are forgotten.
    """
    limit = default_recompile_limit() if recompile_limit is None else recompile_limit
    torch._dynamo.reset()
    try:
        with preserved_settings(recompile_limit=limit), torch.no_grad():
            yield
    except SensitivityError:
        raise
    except torch.OutOfMemoryError as error:
        raise MeasurementError(
            "the run ran out of memory on this device; allowed is what fits: measure a smaller"
            " batch, or on a GPU with more memory"
        ) from error
    except Exception as error:
        if type(error).__name__ in _LIMIT_ERRORS:
            raise limit_error(
                "one class of blocks needs more graphs than its format patterns", limit, 2 * limit
            ) from error
        raise MeasurementError(
            f"the compiled denoiser failed ({failure_reason(error)}); make it run eagerly first"
        ) from error
    finally:
        release_memory(device)


@contextmanager
def _compiled(denoiser: nn.Module, *, compile_mode: CompileMode, backend: Any) -> Iterator[str]:
    """The denoiser compiled while the context is open, with a new step of torch's graph trees at
    each of its calls; then as it was.
    """
    regions = list(regions_of(denoiser)[1].values())
    marked = [
        part
        for part in parts_of(denoiser).values()
        if compile_mode == "reduce-overhead" and part not in regions
    ]
    handles = [part.register_forward_pre_hook(begin_step) for part in marked]
    try:
        yield compile_denoiser(denoiser, compile_mode=compile_mode, backend=backend)
    finally:
        for handle in handles:
            handle.remove()
        restore_denoiser(denoiser)
        torch._dynamo.reset()


def measure_calls(
    make_denoiser: Callable[[], nn.Module],
    calls: Sequence[CallLike],
    *,
    formats: Mapping[str, FormatName],
    compile_mode: CompileMode,
    device: str,
    warmups: int = 2,
    repetitions: int = 10,
    recompile_limit: int | None = None,
    backend: Any = "inductor",
) -> tuple[RunTiming, ...]:
    """Time each distinct call of a denoiser with `formats`, one after another; graphs of one call
    are forgotten before the next.

    Args:
        make_denoiser: gives a fresh bf16 denoiser on `device`, which is quantized in place and
            dropped.
        calls: what it is called with; real tensors move to the device as they are, meta tensors
            become random normal ones (zeros if integer).
        formats: FQN -> format; what is left out is bf16.
        compile_mode, recompile_limit: see the module's text.
        device: "cuda", "cuda:N" or "cpu".
        warmups: calls after the compiling one that are not timed; CUDA graphs need two.
        repetitions: timed calls.
        backend: torch.compile's.

    Raises:
        FormatError: the device lacks a format, or a format refuses a Linear.
        UserError: more format patterns than the recompile limit.
        MeasurementError: the denoiser failed; out of memory is said so.
    """
    where, timings = device_of(device), []
    with _measuring(where, recompile_limit):
        denoiser = make_denoiser().eval()
        check_recompile_limit(count_block_patterns(denoiser, formats), recompile_limit)
        quantize_native(denoiser, formats)
        held = weight_bytes(denoiser)
        for call in calls:
            args, kwargs = materialize(call.args, where), materialize(call.kwargs, where)
            work = partial(denoiser, *args, **kwargs)
            with _compiled(denoiser, compile_mode=compile_mode, backend=backend) as compiled:
                compile_s, seconds, (allocated, reserved) = _time_unit(
                    work, _time_calls, warmups, repetitions, where
                )
            timings.append(
                RunTiming(
                    seconds=seconds,
                    calls=call.calls,
                    compile_s=compile_s,
                    peak_memory_bytes=allocated,
                    reserved_bytes=reserved,
                    weight_bytes=held,
                    compiled=compiled,
                    compile_mode=compile_mode,
                )
            )
            del work, args, kwargs
        del denoiser  # so that its memory is given back here
    return tuple(timings)


def measure_pipeline(
    run: Callable[[], object],
    denoiser: nn.Module,
    *,
    formats: Mapping[str, FormatName],
    compile_mode: CompileMode,
    device: str,
    warmups: int = 2,
    repetitions: int = 3,
    recompile_limit: int | None = None,
    backend: Any = "inductor",
) -> RunTiming:
    """Time whole pipeline calls (text encoders, all steps, decoder).

    `run()` makes one; `denoiser` is the pipeline's own, bf16, and is quantized in place.

    The first call compiles. Seconds are the host's, from an idle GPU to an idle GPU. Raises as
    `measure_calls`.
    """
    where = device_of(device)
    with _measuring(where, recompile_limit):
        check_recompile_limit(count_block_patterns(denoiser, formats), recompile_limit)
        quantize_native(denoiser, formats)
        with _compiled(denoiser, compile_mode=compile_mode, backend=backend) as compiled:
            compile_s, seconds, (allocated, reserved) = _time_unit(
                run, _time_runs, warmups, repetitions, where
            )
    return RunTiming(
        seconds=seconds,
        calls=1,
        compile_s=compile_s,
        peak_memory_bytes=allocated,
        reserved_bytes=reserved,
        weight_bytes=weight_bytes(denoiser),
        compiled=compiled,
        compile_mode=compile_mode,
    )


def _time_unit(
    work: Callable[[], object], timer: _Timer, warmups: int, repetitions: int, device: torch.device
) -> tuple[float, tuple[float, ...], tuple[int, int]]:
    """(seconds of the compiling call, seconds of the timed ones, peak memory of the timed ones)."""
    compile_s = _host_seconds(work, device)
    for _ in range(warmups):
        work()
    _reset_peak(device)
    seconds = timer(work, repetitions, device)
    return compile_s, seconds, _peak(device)


def materialize(tree: _Tree, device: torch.device, *, seed: int = 0) -> _Tree:
    """The same tree on `device`: real tensors keep values and dtype; meta tensors become random
    normal (floating or complex) or zeros.
    """
    generator = torch.Generator(device).manual_seed(seed)

    def place(x: Tensor) -> Tensor:
        if x.device.type != "meta":
            return x.to(device)
        if x.dtype.is_floating_point or x.dtype.is_complex:
            return torch.randn(x.shape, dtype=x.dtype, device=device, generator=generator)
        return torch.zeros(x.shape, dtype=x.dtype, device=device)

    placed: _Tree = pytree.tree_map_only(Tensor, place, tree)
    return placed


def weight_bytes(module: nn.Module) -> int:
    """Bytes of all parameters and buffers as stored: of quantized ones the codes and the scales;
    shared storage counts once.
    """
    storages: dict[tuple[int, int], int] = {}
    for outer in [*module.parameters(), *module.buffers()]:
        for x in _inner_tensors(outer):
            storage = x.untyped_storage()
            address = storage.data_ptr()
            storages[address, 0 if address else len(storages)] = (
                storage.nbytes()
            )  # tensors without an address (meta) share nothing
    return sum(storages.values())


def _inner_tensors(x: Tensor) -> Iterable[Tensor]:
    plain = x.data if isinstance(x, nn.Parameter) else x
    flatten = getattr(plain, "__tensor_flatten__", None)
    if flatten is None:
        yield plain
        return
    for name in flatten()[0]:
        yield from _inner_tensors(getattr(plain, name))


def _host_seconds(work: Callable[[], object], device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - start


def _time_runs(
    work: Callable[[], object], repetitions: int, device: torch.device
) -> tuple[float, ...]:
    """Seconds of each run by the host's clock, from idle to idle."""
    return tuple(_host_seconds(work, device) for _ in range(repetitions))


def _time_calls(
    work: Callable[[], object], repetitions: int, device: torch.device
) -> tuple[float, ...]:
    """Seconds of each call: on CUDA back to back between events, elsewhere by the host's clock."""
    if device.type != "cuda":
        return _time_runs(work, repetitions, device)
    with torch.cuda.device(device):
        events = [torch.cuda.Event(enable_timing=True) for _ in range(repetitions + 1)]  # type: ignore[no-untyped-call]
        _wait(device)
        events[0].record()
        for after in events[1:]:
            work()
            after.record()
        _wait(device)
        return tuple(
            float(before.elapsed_time(after)) / 1e3 for before, after in itertools.pairwise(events)
        )


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)


def _peak(device: torch.device) -> tuple[int, int]:
    if device.type != "cuda":
        return 0, 0
    return torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)
