"""How is a denoiser run in the way of a runtime? `running`.

    with running(denoiser, get_runtime("torchao-step-graph")) as call:
        call(**inputs)                      # compiles and captures
        call(**inputs)                      # replays

Inside the context the denoiser itself runs that way, so that a pipeline which holds it does too.
Outside it runs eagerly again. Several denoisers may be open at once. The caller sets torch's
recompile limit, turns gradients off, and forgets compiled graphs (`end_to_end.measuring`).

What it does not do: quantize (`formats.native`), or time anything.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from sensitivity.formats.plain_weights import plain_weights
from sensitivity.latency.runtimes import Runtime, runnable
from sensitivity.latency.timing.step_graph import StepGraph
from sensitivity.models.compiled_regions import (
    begin_step,
    compile_denoiser,
    compile_whole,
    regions_of,
    restore_denoiser,
)
from sensitivity.models.denoisers import parts_of


@contextmanager
def running(
    denoiser: nn.Module, runtime: Runtime, *, backend: Any = "inductor"
) -> Iterator[Callable[..., Any]]:
    """Run the denoiser as `runtime` does, inside the context.

    Args:
        denoiser: One denoiser, or several that are joined; quantized already.
        runtime: The way of running.
        backend: torch.compile's.

    Yields:
        What runs one denoiser call: it takes the denoiser's arguments.

    Raises:
        UserError: The runtime can only be priced.
    """
    runnable(runtime)
    with ExitStack() as stack:
        if runtime.plain_weights:
            stack.enter_context(plain_weights(denoiser))
        stack.callback(restore_denoiser, denoiser)
        mode = runtime.compile_mode
        if runtime.compiled == "blocks":
            compile_denoiser(denoiser, compile_mode=mode, backend=backend)
            if runtime.graphs == "blocks":
                _begin_steps(denoiser, stack)
        elif runtime.compiled == "denoiser":
            compile_whole(denoiser, compile_mode=mode, backend=backend)
        if runtime.graphs == "step":
            for part in parts_of(denoiser).values():
                call = part._compiled_call_impl or part._call_impl
                part._compiled_call_impl = StepGraph(call, next(part.parameters()).device)
        yield denoiser


def _begin_steps(denoiser: nn.Module, stack: ExitStack) -> None:
    """Let each call of the denoiser begin a new step of torch's graph trees."""
    regions = list(regions_of(denoiser)[1].values())
    for part in parts_of(denoiser).values():
        if part not in regions:
            stack.callback(part.register_forward_pre_hook(begin_step).remove)
