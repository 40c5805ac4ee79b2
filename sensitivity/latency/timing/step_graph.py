"""How does one CUDA graph replay a whole denoiser call? `StepGraph`.

Method. The first call with new shapes warms up and is captured, with inputs at fixed addresses.
Later calls copy their inputs there and replay: one launch, whatever the denoiser does in Python.
Outputs are cloned, since the next replay overwrites them. Graphs share one memory pool.

    denoiser._compiled_call_impl = StepGraph(denoiser._call_impl, device)

What is not a tensor is part of what is captured: another value is another graph. A denoiser that
reads values of its tensors on the host cannot be captured.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from sensitivity.core.words import first_line
from sensitivity.errors import MeasurementError

MAX_GRAPHS = 8
"""Graphs of one denoiser. A run has a few kinds of calls; more of them means that an argument
changes at every step.
"""
WARMUPS = 2
Work = Callable[[], object]
Replay = Callable[[], object]
"""Runs what was captured again, and gives its outputs: always the same tensors."""


@dataclass(frozen=True, slots=True)
class _Captured:
    inputs: list[Tensor]
    replay: Replay


class StepGraph:
    """A denoiser's call, captured once for each kind of arguments and replayed.

    Args:
        call: Runs the denoiser.
        device: Where it runs. On a CPU nothing is captured, and replaying calls it.
    """

    def __init__(self, call: Callable[..., object], device: torch.device) -> None:
        self._call, self._device = call, device
        self._captured: dict[object, _Captured] = {}
        self._pool: Any = None

    def __call__(self, *args: object, **kwargs: object) -> object:
        """One denoiser call.

        Raises:
            MeasurementError: The call cannot be captured, or there are too many kinds of calls.
        """
        leaves, spec = pytree.tree_flatten((args, kwargs))
        key = (spec, tuple(_kind(leaf) for leaf in leaves))
        found = self._captured.get(key)
        if found is None:
            found = self._captured[key] = self._capture(leaves, spec)
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        for own, given in zip(found.inputs, tensors, strict=True):
            own.copy_(given, non_blocking=True)
        return pytree.tree_map_only(Tensor, torch.clone, found.replay())

    def _capture(self, leaves: list[Any], spec: Any) -> _Captured:
        if len(self._captured) == MAX_GRAPHS:
            raise MeasurementError(
                f"the denoiser was called with more than {MAX_GRAPHS} kinds of arguments; expected"
                " shapes and values that repeat from step to step: choose another `runtime`"
            )
        own = [
            leaf.to(self._device, copy=True) if isinstance(leaf, Tensor) else leaf
            for leaf in leaves
        ]
        args, kwargs = pytree.tree_unflatten(own, spec)

        def work() -> object:
            return self._call(*args, **kwargs)

        inputs = [leaf for leaf in own if isinstance(leaf, Tensor)]
        if self._device.type != "cuda":
            return _Captured(inputs, work)
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        return _Captured(inputs, self._captured_on_gpu(work))

    def _captured_on_gpu(self, work: Work) -> Replay:
        with torch.cuda.device(self._device):
            stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARMUPS):
                    work()
            torch.cuda.current_stream().wait_stream(stream)
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(graph, pool=self._pool, stream=stream):
                    outputs = work()
            except RuntimeError as error:
                raise MeasurementError(
                    f"the denoiser's call cannot be captured in one CUDA graph"
                    f" ({first_line(error)}); expected one that reads no values on the host:"
                    " choose another `runtime`"
                ) from error
            torch.cuda.synchronize()

        def replay() -> object:
            graph.replay()
            return outputs

        return replay


def _kind(leaf: object) -> object:
    """What a graph is captured for: a tensor's shape and dtype, any other argument's value."""
    if isinstance(leaf, Tensor):
        return tuple(leaf.shape), leaf.dtype
    return type(leaf), repr(leaf)
