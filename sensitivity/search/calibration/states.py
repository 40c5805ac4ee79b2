"""On which inputs are sensitivities measured?

On those that the denoiser got in a bf16 run: `record_states`.

A few steps, spread over the first half of the run: their errors say more about the picture than
those of later steps (LOG.md). Where several denoisers take turns, as many states of each, spread
over the first half of its own calls. The run draws the first search prompts with their own seeds in
one batch, so the states lie on the trajectory that a trial's references took.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sensitivity.errors import MeasurementError
from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.models.denoisers import parts_of
from sensitivity.models.media import Media
from sensitivity.search.calibration._base import State, first_tensor, more_tensors


def pick_calls(total: int, states: int) -> list[int]:
    """`states` of the first half of `total` calls, evenly spread from the first one; calls come
    twice where there are fewer of them.
    """
    early = max(min(states, total), (total + 1) // 2)
    return [i * early // states for i in range(states)]


@torch.no_grad()
def record_states(evaluator: Evaluator, *, states: int, prompts: int) -> list[State]:
    """The denoiser's inputs and output at `states` calls of one bf16 run of the first `prompts`
    search prompts; of each denoiser that the run calls.

    Raises:
        CalibrationError: a denoiser gives no tensor.
        MeasurementError: no denoiser was ever called, or one gives NaN or inf.
    """
    seen: list[State] = []

    def keep(
        component: str, _module: object, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        more = tuple(tensor.clone() for tensor in more_tensors(output))
        first = first_tensor(output).clone()
        seen.append(
            State(
                index=0,
                call=len(seen),
                args=copied(args),
                kwargs=copied(kwargs),
                output=first,
                more=more,
                component=component,
            )
        )

    with _hooked(evaluator, keep):
        paint_first(evaluator, prompts)
    check_calls(len(seen))
    picked = []
    for component in dict.fromkeys(state.component for state in seen):
        own = [state for state in seen if state.component == component]
        picked += [
            replace(own[call], index=i) for i, call in enumerate(pick_calls(len(own), states))
        ]
    check_finite([tensor for state in picked for tensor in (state.output, *state.more)])
    return picked


def call_again(evaluator: Evaluator, state: State) -> Any:
    """What the state's denoiser gives for its inputs with the formats that are set."""
    return parts_of(evaluator.loaded.denoiser)[state.component](*state.args, **state.kwargs)


def paint_first(evaluator: Evaluator, prompts: int) -> Media:
    """Pictures or clips of the first search prompts, in one batch, with the formats that are set."""
    texts, seeds = evaluator.prompts("search")
    return evaluator.painter.draw(texts[:prompts], seeds[:prompts], batch_size=prompts)


def check_calls(calls: int) -> None:
    """Raise MeasurementError where a run never called its denoiser."""
    if not calls:
        raise MeasurementError("the pipeline never called its denoiser: nothing can be calibrated")


def check_finite(outputs: list[Tensor]) -> None:
    """Raise MeasurementError unless all of these bf16 outputs are finite."""
    if not all(bool(output.isfinite().all()) for output in outputs):
        raise MeasurementError(
            "the bf16 denoiser gave NaN or inf: nothing can be measured against it"
        )


@contextmanager
def _hooked(evaluator: Evaluator, hook: Any) -> Iterator[None]:
    """`hook` gets the component's name before what torch gives it."""
    evaluator.switch.set({})
    parts = parts_of(evaluator.loaded.denoiser)
    handles = [
        part.register_forward_hook(partial(hook, name), with_kwargs=True)
        for name, part in parts.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def copied(value: Any) -> Any:
    """Tensors cloned, containers rebuilt, the rest as it is: a pipeline may reuse its buffers in
    the next step.
    """
    if isinstance(value, Tensor):
        return value.clone()
    if type(value) is dict:
        return {key: copied(item) for key, item in value.items()}
    if hasattr(value, "to_tuple") and isinstance(
        value, dict
    ):  # an output class of diffusers: an ordered dict with fields
        return type(value)(**{key: copied(item) for key, item in value.items()})
    return type(value)(copied(item) for item in value) if type(value) in (list, tuple) else value
