"""How much does each group matter? Error at the denoiser's output when only this group is quantized, on cached bf16 states.

Method. A bf16 run of a few search prompts is recorded: the denoiser's inputs and output at a few timesteps. Then each group is quantized alone, in each
format, and the denoiser is called on the recorded inputs. The error is the root of the mean squared difference over the mean squared output, averaged over the
states: no decoding and no compounding over steps, so it costs one denoiser call a group, format and state.

    errors = calibrate(evaluator, candidates, store)      # {(group index, option): error}

It is a prior, not a score: the search scales it to LPIPS and corrects it by what trials show. Kept in the store by all that decides it; an interrupted
calibration goes on where it stopped.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sensitivity.candidates import Candidates
from sensitivity.errors import MeasurementError
from sensitivity.pipelines import digest_of
from sensitivity.scoring import Evaluator
from sensitivity.store import Store, assignment_key

STATES, PROMPTS = 2, 4
BROKEN = 10.0  # the error of an output that is NaN or inf, as zeros give in nvfp4: ten times the output itself
State = tuple[tuple[Any, ...], dict[str, Any], Tensor]
Errors = dict[tuple[int, int], float]


@torch.no_grad()
def calibrate(
    evaluator: Evaluator,
    candidates: Candidates,
    store: Store,
    *,
    states: int = STATES,
    prompts: int = PROMPTS,
    progress: Callable[[int, int], None] | None = None,
) -> Errors:
    """Output error of each (group, option); option 0 is left out. `progress(done, total)` is called for each one that was not known.

    Raises:
        MeasurementError: the bf16 denoiser gives no tensor, or NaN.
    """
    key = digest_of({"of": evaluator.key("search"), "states": states, "prompts": prompts, "measure": "relative rmse"})
    known = store.find_sensitivities(key)
    jobs = [
        (g, option) for g, group in enumerate(candidates.groups) for option in range(1, len(candidates.formats)) if group.members[option]
    ]
    assignments = {job: dict.fromkeys(candidates.groups[job[0]].members[job[1]], candidates.formats[job[1]]) for job in jobs}
    recorded: list[State] = []
    errors: Errors = {}
    try:
        for done, job in enumerate(jobs, 1):
            name = assignment_key(assignments[job])
            if name not in known:
                recorded = recorded or record_states(evaluator, states=states, prompts=prompts)
                evaluator.switch.set(assignments[job])
                known[name] = sum(_relative_error(evaluator, state) for state in recorded) / len(recorded)
                store.save_sensitivity(key, name, known[name])
                if progress is not None:
                    progress(done, len(jobs))
            errors[job] = known[name]
    finally:
        evaluator.switch.set({})
    return errors


@torch.no_grad()
def record_states(evaluator: Evaluator, *, states: int, prompts: int) -> list[State]:
    """(args, kwargs, output) of the denoiser at `states` steps spread over the first half of a bf16 run of the first `prompts` search prompts."""
    evaluator.switch.set({})
    seen: list[State] = []

    def keep(_module: object, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        seen.append((_copy(args), _copy(kwargs), _first_tensor(output).clone()))

    handle = evaluator.loaded.denoiser.register_forward_hook(keep, with_kwargs=True)
    try:
        texts, seeds = evaluator.prompts("search")
        evaluator.painter.paint(texts[:prompts], seeds[:prompts], batch_size=prompts)
    finally:
        handle.remove()
    if not seen:
        raise MeasurementError("the pipeline never called its denoiser: nothing can be calibrated")
    states = min(states, len(seen))
    early = max(states, (len(seen) + 1) // 2)  # errors of early steps say more about the picture (LOG.md)
    picked = [seen[i * early // states] for i in range(states)]
    if not all(bool(output.isfinite().all()) for _, _, output in picked):
        raise MeasurementError("the bf16 denoiser gave NaN or inf: nothing can be measured against it")
    return picked


def _copy(value: Any) -> Any:
    """Tensors cloned, containers rebuilt, the rest as it is: a pipeline may reuse its buffers in the next step."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    return type(value)(_copy(item) for item in value) if type(value) in (list, tuple) else value


def _first_tensor(output: Any) -> Tensor:
    first = output[0] if isinstance(output, (tuple, list)) or hasattr(output, "to_tuple") else output
    if not isinstance(first, Tensor):
        raise MeasurementError(f"the denoiser gives a {type(output).__name__} that begins with no tensor: nothing can be calibrated")
    return first


def _relative_error(evaluator: Evaluator, state: State) -> float:
    args, kwargs, reference = state
    output = _first_tensor(evaluator.loaded.denoiser(*args, **kwargs))
    error = float(((output.float() - reference.float()).square().mean() / reference.float().square().mean()).sqrt())
    return error if math.isfinite(error) else BROKEN
