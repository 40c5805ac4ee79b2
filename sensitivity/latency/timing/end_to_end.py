"""How long do the calls of a denoiser really take in given formats, compiled as it is served?
Measured end to end, for one skip-list.

Method. A fresh bf16 denoiser is quantized natively, its repeated blocks are compiled one by one, it
is warmed up, and timed. This is what diffusers' `compile_repeated_blocks(fullgraph=True)` does
(regional compilation). What is compiled: modules whose class `_repeated_blocks` names; if a
denoiser has no such list, the blocks that its FQNs count (`blocks.0`, `blocks.1`, ...); if it has
none of these, the denoiser as a whole. `RunTiming.compiled` says which.

Compile modes. "default" launches kernels from Python. "reduce-overhead" replays CUDA graphs in each
compiled region. There the outputs are cloned, so that the next replay cannot overwrite what another
block still reads, and every denoiser call begins a new step of torch's graph trees.

Conventions. Seconds of one denoiser call. On CUDA, calls follow one another without waiting, as the
steps of a pipeline do, with an event between them; on a CPU the host's clock is read. No gradients.

What it does not do: compare lists (`interleaved` times several in turns), load models (the caller
passes a function that makes one), choose formats, or emulate. A format that the device lacks raises
FormatError.

    (timing,) = measure_calls(
        make_denoiser, calls, formats=recipe.layers, compile_mode="default", device="cuda"
    )
    timing.median_s
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import Any, Protocol

import torch
from torch import nn

from sensitivity.core.devices import release_memory
from sensitivity.core.format_name import CompileMode, FormatName
from sensitivity.errors import MeasurementError, SensitivityError
from sensitivity.formats.native import quantize_native
from sensitivity.latency.refusals import is_about_a_shape
from sensitivity.latency.runtimes import runtime_of
from sensitivity.latency.timing.refused_linears import naming_refusals
from sensitivity.latency.timing.run_timing import RunTiming, time_calls, time_unit
from sensitivity.latency.timing.running import running
from sensitivity.latency.timing.stopwatch import OUT_OF_MEMORY, device_of, failure_reason
from sensitivity.latency.timing.tensors import materialize, stored_bytes
from sensitivity.latency.timing.torch_settings import preserved_settings
from sensitivity.models.compiled_regions import (
    check_recompile_limit,
    count_block_patterns,
    default_recompile_limit,
    limit_error,
    regions_of,
)

_LIMIT_ERRORS = ("FailOnRecompileLimitHit", "RecompileLimitExceeded")


class CallLike(Protocol):
    """One distinct call of the denoiser, as `DenoiserCall` of `shapes.run` describes it.

    Its tensors are real CPU tensors or meta tensors; `calls` is how often a run makes it.
    """

    @property
    def args(self) -> Any: ...
    @property
    def kwargs(self) -> Any: ...
    @property
    def calls(self) -> int: ...


@contextmanager
def measuring(device: torch.device, recompile_limit: int | None) -> Iterator[None]:
    """Turn what goes wrong inside into an error of this library, and clean up.

    Afterwards torch's settings are as they were, compiled graphs are forgotten, and unused memory
    is given back. `recompile_limit` None is torch's own limit.

    Raises:
        UserError: torch reached its recompile limit.
        MeasurementError: Anything else that is not an error of this library.
    """
    limit = default_recompile_limit() if recompile_limit is None else recompile_limit
    torch._dynamo.reset()
    try:
        with preserved_settings(recompile_limit=limit), torch.no_grad():
            yield
    except Exception as error:
        raise explained(error, limit) from error.__cause__
    finally:
        release_memory(device)


def explained(error: Exception, limit: int) -> SensitivityError:
    """What went wrong in a run, as an error of this library; one of its own stays as it is.

    Args:
        error: What was raised.
        limit: torch's recompile limit then.
    """
    if isinstance(error, SensitivityError):
        return error
    made: SensitivityError
    if is_out_of_memory(error):
        made = MeasurementError(
            "The run ran out of memory on this device; expected one that fits. Measure a smaller"
            " batch, or on a GPU with more memory."
        )
    elif type(error).__name__ in _LIMIT_ERRORS:
        made = limit_error(
            "one class of blocks needs more graphs than its format patterns", limit, 2 * limit
        )
    elif is_about_a_shape(error):
        made = MeasurementError(
            f"A kernel refused the shape of a Linear ({failure_reason(error)}); expected shapes"
            " that it takes. Measure shape by shape, which names the shape, and leave its Linears"
            " in bf16."
        )
    else:
        made = MeasurementError(
            f"The compiled denoiser failed ({failure_reason(error)}); expected it to run. Make it"
            " run eagerly first."
        )
    made.__cause__ = error
    return made


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device ran out of memory, whatever was raised because of that."""
    return failure_reason(error) == OUT_OF_MEMORY


@contextmanager
def compiled_denoiser(
    denoiser: nn.Module, *, compile_mode: CompileMode, backend: Any
) -> Iterator[str]:
    """Compile the denoiser's blocks inside the context, and give what was compiled, in words.

    Afterwards it is as it was, and its compiled graphs are forgotten.
    """
    try:
        with running(denoiser, runtime_of(compile_mode), backend=backend):
            yield regions_of(denoiser)[0]
    finally:
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
    """Time each distinct call of a denoiser with `formats`, one after another.

    Graphs of one call are forgotten before the next.

    Args:
        make_denoiser: Gives a fresh bf16 denoiser on `device`, which is quantized in place.
        calls: What it is called with; see `materialize`.
        formats: {FQN: format}; Linears left out are bf16.
        compile_mode: See the module.
        device: "cuda", "cuda:N" or "cpu".
        warmups: Calls after the compiling one that are not timed; CUDA graphs need two.
        repetitions: Timed calls.
        recompile_limit: Graphs that torch may compile for a class of blocks; None is its own.
        backend: torch.compile's.

    Raises:
        FormatError: The device lacks a format, or a format refuses a Linear.
        UserError: There are more format patterns than the recompile limit.
        MeasurementError: The denoiser failed, or ran out of memory.
    """
    where, timings = device_of(device), list[RunTiming]()
    with measuring(where, recompile_limit):
        denoiser = make_denoiser().eval()
        check_recompile_limit(count_block_patterns(denoiser, formats), recompile_limit)
        quantize_native(denoiser, formats)
        held = stored_bytes(denoiser)
        for call in calls:
            args, kwargs = materialize(call.args, where), materialize(call.kwargs, where)
            work = partial(denoiser, *args, **kwargs)
            with (
                compiled_denoiser(denoiser, compile_mode=compile_mode, backend=backend) as compiled,
                naming_refusals(denoiser, [work], formats),
            ):
                unit = time_unit(work, time_calls, warmups, repetitions, where)
            timings.append(
                RunTiming(
                    **asdict(unit),
                    calls=call.calls,
                    weight_bytes=held,
                    compiled=compiled,
                    compile_mode=compile_mode,
                )
            )
            del work, args, kwargs
        del denoiser  # so that its memory is given back here
    return tuple(timings)
