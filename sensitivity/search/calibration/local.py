"""`local`: the relative error of each Linear's own output, for all Linears and formats in one pass.

The bf16 denoiser is called once for each state. At each Linear a hook computes from the same input
what the Linear would give in each format, and adds up |quantized - bf16|^2 and |bf16|^2. The error
is the root of their ratio; over states it is the root of the mean square. The error of a group is
the root of the sum of squares over its Linears, weight 1 each (`stored.py`).

It costs the pass itself and one call of each Linear for each format. It does not see what the rest
of the network makes of an error: a modulation Linear counts as much as a projection.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sensitivity.core.arithmetic import Arithmetic
from sensitivity.core.format_name import FormatName
from sensitivity.core.fqns import is_in
from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.formats.emulation import emulated_linear
from sensitivity.formats.served import format_in
from sensitivity.search.calibration._base import Estimator, JobError
from sensitivity.search.calibration.jobs import EstimatorName, Job, finite
from sensitivity.search.calibration.states import call_again, record_states

Sums = dict[tuple[str, FormatName], list[float]]
"""{(FQN, format): sums over a state}, of jobs of one Linear each"""


class LocalEstimator(Estimator):
    """See the module."""

    name = EstimatorName.LOCAL
    unit = "linear"
    quantity = "local: relative rmse of a Linear's output"

    def picture_calls(self, jobs: Sequence[Job], *, states: int) -> float:
        return states * (1 + formats_per_linear(jobs)) if jobs else 0.0

    @torch.no_grad()
    def run(
        self, evaluator: Evaluator, jobs: Sequence[Job], *, states: int, prompts: int
    ) -> Iterator[JobError]:
        formats = formats_by_linear(jobs)
        for state in record_states(evaluator, states=states, prompts=prompts):
            own = [job for job in jobs if job.is_of(state.component)]
            sums: Sums = {(job.fqns[0], job.format): [0.0, 0.0] for job in own}

            def add(fqn: str, linear: nn.Linear, x: Tensor, y: Tensor, sums: Sums = sums) -> None:
                for name in formats[fqn]:
                    pair = sums[fqn, name]
                    error = local_error(linear, x, y, name, evaluator.arithmetic)
                    pair[0] += float(error.square().sum())
                    pair[1] += float(y.float().square().sum())

            watched = [fqn for fqn in formats if is_in(fqn, state.component)]
            with watching(evaluator.switch.linears, watched, add):
                call_again(evaluator, state)
            for job in own:
                wrong, whole = sums[job.fqns[0], job.format]
                error = finite((wrong / whole) ** 0.5) if whole else 0.0
                yield JobError(job=job, state=state.index, error=error)


def formats_by_linear(jobs: Sequence[Job]) -> dict[str, tuple[FormatName, ...]]:
    """{FQN: the formats that are asked for} of jobs of one Linear each."""
    found: dict[str, list[FormatName]] = {}
    for job in jobs:
        found.setdefault(job.fqns[0], []).append(job.format)
    return {fqn: tuple(names) for fqn, names in found.items()}


def formats_per_linear(jobs: Sequence[Job]) -> float:
    """How many formats are asked for at a Linear, on average."""
    return len(jobs) / len({fqn for job in jobs for fqn in job.fqns})


def local_error(
    linear: nn.Linear,
    x: Tensor,
    y: Tensor,
    name: FormatName,
    arithmetic: Arithmetic = Arithmetic.EAGER,
) -> Tensor:
    """What a format changes at one Linear, in fp32.

    The quantized weight is not kept: all of them would take as much memory as the model, once for
    each format.

    Args:
        linear: in bf16.
        x: (..., K) its input.
        y: (..., N) its bf16 output.
        name: the format.
        arithmetic: the runtime whose numbers are computed, by emulation.

    Returns:
        (..., N) the quantized output minus y.
    """
    fmt = format_in(name, arithmetic)
    quantized = emulated_linear(x, fmt.quantize_weight(linear.weight), linear.bias, fmt)
    return quantized.float() - y.float()


@contextmanager
def watching(linears: Mapping[str, nn.Linear], watched: Sequence[str], note: Any) -> Iterator[None]:
    """Inside, `note(fqn, linear, x, y)` is called after each call of a watched Linear.

    If it returns a tensor, that replaces y.
    """

    def hook(fqn: str) -> Any:
        def after(
            module: nn.Linear, args: tuple[Any, ...], kwargs: dict[str, Any], y: Tensor
        ) -> Any:
            return note(fqn, module, args[0] if args else kwargs["input"], y)

        return after

    handles = [linears[fqn].register_forward_hook(hook(fqn), with_kwargs=True) for fqn in watched]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
