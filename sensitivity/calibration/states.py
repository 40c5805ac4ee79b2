"""On which inputs are sensitivities measured? On those that the denoiser got in a bf16 run: `record_states`.

A few steps, spread over the first half of the run: their errors say more about the picture than those of later steps (LOG.md). The run draws the first search
prompts with their own seeds in one batch, so the states lie on the trajectory that a trial's references took.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from sensitivity.calibration._base import State, first_tensor
from sensitivity.errors import MeasurementError
from sensitivity.scoring import Evaluator


def pick_calls(total: int, states: int) -> list[int]:
    """`states` of the first half of `total` calls, evenly spread from the first one; calls come twice where there are fewer of them."""
    early = max(min(states, total), (total + 1) // 2)
    return [i * early // states for i in range(states)]


@torch.no_grad()
def record_states(evaluator: Evaluator, *, states: int, prompts: int) -> list[State]:
    """The denoiser's inputs and output at `states` calls of one bf16 run of the first `prompts` search prompts.

    Raises:
        MeasurementError: the denoiser was never called, gives no tensor, or gives NaN or inf.
    """
    seen: list[State] = []

    def keep(_module: object, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        seen.append(State(index=0, call=len(seen), args=copied(args), kwargs=copied(kwargs), output=first_tensor(output).clone()))

    with _hooked(evaluator, keep):
        paint_first(evaluator, prompts)
    check_calls(len(seen))
    picked = [
        State(index=i, call=seen[call].call, args=seen[call].args, kwargs=seen[call].kwargs, output=seen[call].output)
        for i, call in enumerate(pick_calls(len(seen), states))
    ]
    check_finite([state.output for state in picked])
    return picked


def paint_first(evaluator: Evaluator, prompts: int) -> Tensor:
    """Pictures of the first search prompts, in one batch, with the formats that are set: (prompts, 3, H, W)."""
    texts, seeds = evaluator.prompts("search")
    return evaluator.painter.paint(texts[:prompts], seeds[:prompts], batch_size=prompts)


def check_calls(calls: int) -> None:
    """Raise MeasurementError where a run never called its denoiser."""
    if not calls:
        raise MeasurementError("the pipeline never called its denoiser: nothing can be calibrated")


def check_finite(outputs: list[Tensor]) -> None:
    """Raise MeasurementError unless all of these bf16 outputs are finite."""
    if not all(bool(output.isfinite().all()) for output in outputs):
        raise MeasurementError("the bf16 denoiser gave NaN or inf: nothing can be measured against it")


@contextmanager
def _hooked(evaluator: Evaluator, hook: Any) -> Iterator[None]:
    evaluator.switch.set({})
    handle = evaluator.loaded.denoiser.register_forward_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def copied(value: Any) -> Any:
    """Tensors cloned, containers rebuilt, the rest as it is: a pipeline may reuse its buffers in the next step."""
    if isinstance(value, Tensor):
        return value.clone()
    if type(value) is dict:
        return {key: copied(item) for key, item in value.items()}
    if hasattr(value, "to_tuple") and isinstance(value, dict):  # an output class of diffusers: an ordered dict with fields
        return type(value)(**{key: copied(item) for key, item in value.items()})
    return type(value)(copied(item) for item in value) if type(value) in (list, tuple) else value
