"""`local`: the relative error of each Linear's own output, for every format, from one pass of hooks
over the cached states.

The bf16 denoiser is called once a state; at each Linear a hook computes what the Linear would have
given in each format from the very same input, and adds up |quantized - bf16|^2 and |bf16|^2. The
error is the root of their ratio. It costs one call of each Linear for each format beside the pass
itself, and sees nothing of what the rest of the network makes of an error: a modulation Linear
counts no more than a projection.

A group's error is the root of the sum of squares over its Linears, weight 1 each (`stored.py`), and
over states the root of the mean square.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sensitivity.core.format_name import FormatName
from sensitivity.core.fqns import is_in
from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.formats.emulation import emulated_linear
from sensitivity.formats.registry import get_format
from sensitivity.search.calibration._base import Estimator, Measured, finite
from sensitivity.search.calibration.jobs import EstimatorName, Job
from sensitivity.search.calibration.states import call_again, record_states

Sums = dict[tuple[str, FormatName], list[float]]


class LocalError(Estimator):
    """See the module."""

    name = EstimatorName.LOCAL
    unit = "linear"
    measure = "local: relative rmse of a Linear's output"

    def picture_calls(self, jobs: Sequence[Job], *, states: int) -> float:
        return states * (1 + _formats_a_linear(jobs)) if jobs else 0.0

    @torch.no_grad()
    def run(
        self, evaluator: Evaluator, jobs: Sequence[Job], *, states: int, prompts: int
    ) -> Iterator[Measured]:
        all_names = jobs_by_linear(jobs)
        for state in record_states(evaluator, states=states, prompts=prompts):
            by_name = {
                fqn: names for fqn, names in all_names.items() if is_in(fqn, state.component)
            }
            own = [job for job in jobs if job.is_of(state.component)]
            sums: Sums = {(job.fqns[0], job.format): [0.0, 0.0] for job in own}

            def note(fqn: str, linear: nn.Linear, x: Tensor, y: Tensor, sums: Sums = sums) -> None:
                for name in all_names[fqn]:
                    pair = sums[fqn, name]
                    pair[0] += float(local_error(linear, x, y, name).square().sum())
                    pair[1] += float(y.float().square().sum())

            with watching(evaluator.switch.linears, by_name, note):
                call_again(evaluator, state)
            for job in own:
                wrong, whole = sums[job.fqns[0], job.format]
                yield Measured(
                    job=job,
                    state=state.index,
                    error=finite((wrong / whole) ** 0.5) if whole else 0.0,
                )


def jobs_by_linear(jobs: Sequence[Job]) -> dict[str, tuple[FormatName, ...]]:
    """{FQN: formats to measure} of jobs of one Linear each."""
    found: dict[str, list[FormatName]] = {}
    for job in jobs:
        found.setdefault(job.fqns[0], []).append(job.format)
    return {fqn: tuple(names) for fqn, names in found.items()}


def _formats_a_linear(jobs: Sequence[Job]) -> float:
    """Formats that are measured at a Linear, on average."""
    return len(jobs) / len({fqn for job in jobs for fqn in job.fqns})


def local_error(linear: nn.Linear, x: Tensor, y: Tensor, name: FormatName) -> Tensor:
    """What a format changes at one Linear: x (..., K) and y (..., N) are its bf16 input and output.

    Returns (..., N) fp32.

    The quantized weight is made and dropped: keeping all of them would hold the model once more for
    each format.
    """
    fmt = get_format(name)
    return (
        emulated_linear(x, fmt.quantize_weight(linear.weight), linear.bias, fmt).float() - y.float()
    )


@contextmanager
def watching(
    linears: Mapping[str, nn.Linear], wanted: Mapping[str, object], note: Any
) -> Iterator[None]:
    """Inside, `note(fqn, linear, x, y)` is called after each call of the wanted Linears; what it
    returns other than None replaces y.
    """

    def hook(fqn: str) -> Any:
        def after(
            module: nn.Linear, args: tuple[Any, ...], kwargs: dict[str, Any], y: Tensor
        ) -> Any:
            return note(fqn, module, args[0] if args else kwargs["input"], y)

        return after

    handles = [linears[fqn].register_forward_hook(hook(fqn), with_kwargs=True) for fqn in wanted]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
