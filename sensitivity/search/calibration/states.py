"""On which inputs of the denoiser are sensitivities estimated? On those of a bf16 run.

`record_states` runs the first search prompts with their own seeds in one batch, so that the states
lie on the trajectory of a trial's references. It keeps a few calls, spread over the first half of
the run: errors there say more about the picture than errors later on (LOG.md). Where several
denoisers take turns, it keeps as many calls of each, spread over the first half of its own calls.

    states = record_states(evaluator, states=2, prompts=4)
    output = call_again(evaluator, states[0])     # with the formats that are set
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sensitivity.errors import CalibrationError, MeasurementError
from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.models.denoisers import parts_of
from sensitivity.models.media import Media


@dataclass(frozen=True, kw_only=True)
class State:
    """One call of a bf16 denoiser in a run.

    Attributes:
        index: its number among the kept calls of this denoiser.
        call: its number among all denoiser calls of the run.
        args, kwargs: the inputs.
        output: the first tensor of the output, (B, ...).
        more: further floating-point tensors of the output, as LTX-2 gives one for sound.
        component: which denoiser was called; "" where there is one only.
    """

    index: int
    call: int
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Tensor
    more: tuple[Tensor, ...] = ()
    component: str = ""


def pick_calls(total: int, states: int) -> list[int]:
    """The indices of `states` calls among the first half of `total`, evenly spread from the first.

    Indices repeat where there are fewer calls than states.
    """
    early = max(min(states, total), (total + 1) // 2)
    return [i * early // states for i in range(states)]


@torch.no_grad()
def record_states(evaluator: Evaluator, *, states: int, prompts: int) -> list[State]:
    """`states` calls of each denoiser in one bf16 run of the first `prompts` search prompts.

    Raises:
        CalibrationError: a denoiser gives no tensor, or nothing but zeros.
        MeasurementError: no denoiser was called, or one gives NaN or inf.
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

    with watching_denoisers(evaluator, keep):
        generate_first(evaluator, prompts)
    check_calls(len(seen))
    picked = []
    for component in dict.fromkeys(state.component for state in seen):
        own = [state for state in seen if state.component == component]
        picked += [
            replace(own[call], index=i) for i, call in enumerate(pick_calls(len(own), states))
        ]
    check_finite([tensor for state in picked for tensor in (state.output, *state.more)])
    _check_not_zero(picked)
    return picked


def _check_not_zero(states: list[State]) -> None:
    """Raise CalibrationError for an output of zeros, to which no error is relative."""
    for state in states:
        if not state.output.any():
            name = state.component or "the denoiser"
            raise CalibrationError(
                f"{name} gives only zeros (call {state.call}), to which no error is relative;"
                " expected a trained model: one whose last layer is still initialised with zeros"
                " has pictures that do not depend on it, so use its trained weights"
            )


def call_again(evaluator: Evaluator, state: State) -> Any:
    """What the state's denoiser gives for its inputs with the formats that are set."""
    return parts_of(evaluator.loaded.denoiser)[state.component](*state.args, **state.kwargs)


def generate_first(evaluator: Evaluator, prompts: int) -> Media:
    """Media of the first search prompts, in one batch, with the formats that are set."""
    texts, seeds = evaluator.prompts("search")
    return evaluator.media_generator.generate(texts[:prompts], seeds[:prompts], batch_size=prompts)


def first_tensor(output: Any) -> Tensor:
    """The tensor that a denoiser's output begins with, (B, ...).

    Where the output begins with a list of one tensor for each picture, as Z-Image's does, they are
    stacked. Raises CalibrationError where it begins with neither.
    """
    is_sequence = isinstance(output, (tuple, list)) or hasattr(output, "to_tuple")
    first = output[0] if is_sequence else output
    if (
        isinstance(first, (tuple, list))
        and first
        and all(isinstance(x, Tensor) and x.shape == first[0].shape for x in first)
    ):
        return torch.stack(list(first))
    if not isinstance(first, Tensor):
        raise CalibrationError(
            f"the denoiser gives a {type(output).__name__} that begins with no tensor: nothing can"
            " be calibrated"
        )
    return first


def more_tensors(output: Any) -> tuple[Tensor, ...]:
    """The floating-point tensors after the first one in a denoiser's output."""
    parts = output.to_tuple() if hasattr(output, "to_tuple") else output
    if not isinstance(parts, (tuple, list)):
        return ()
    return tuple(
        part for part in parts[1:] if isinstance(part, Tensor) and part.is_floating_point()
    )


def check_calls(calls: int) -> None:
    """Raise MeasurementError where a run never called its denoiser."""
    if not calls:
        raise MeasurementError("the pipeline never called its denoiser: nothing can be calibrated")


def check_finite(outputs: list[Tensor]) -> None:
    """Raise MeasurementError unless all of these bf16 outputs are finite."""
    if not all(bool(output.isfinite().all()) for output in outputs):
        raise MeasurementError(
            "the bf16 denoiser gave NaN or inf: no error can be computed against it"
        )


@contextmanager
def watching_denoisers(evaluator: Evaluator, hook: Any) -> Iterator[None]:
    """Inside, all Linears are bf16 and `hook(component, *what torch gives a forward hook)` is
    called after each denoiser call.
    """
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
    """The value with its tensors cloned: a pipeline may write into its buffers in the next step.

    Containers are rebuilt; everything else is the same object.
    """
    if isinstance(value, Tensor):
        return value.clone()
    if type(value) is dict:
        return {key: copied(item) for key, item in value.items()}
    if hasattr(value, "to_tuple") and isinstance(value, dict):  # an output class of diffusers
        return type(value)(**{key: copied(item) for key, item in value.items()})
    return type(value)(copied(item) for item in value) if type(value) in (list, tuple) else value
