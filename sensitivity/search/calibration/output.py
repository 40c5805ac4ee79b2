"""`output`: the error at the denoiser's output when only one job is quantized (leave-one-in).

For each state the denoiser is called on the recorded inputs with the job's Linears quantized; the
error is the root of the mean squared difference from the bf16 output over the mean squared bf16
output, averaged over the states. Where the denoiser gives several tensors, as LTX-2's for pictures
and sound, each is a whole of its own, and the error is the root of the sum of their squares. No
decoding, no compounding over steps: one denoiser call a job and state.
"""

from collections.abc import Iterator, Sequence

import torch

from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.search.calibration._base import (
    Estimator,
    Measured,
    State,
    finite,
    first_tensor,
    more_tensors,
)
from sensitivity.search.calibration.jobs import EstimatorName, Job
from sensitivity.search.calibration.states import call_again, record_states


class OutputError(Estimator):
    """See the module."""

    name = EstimatorName.OUTPUT
    unit = "job"
    measure = "relative rmse"

    def picture_calls(self, jobs: Sequence[Job], *, states: int) -> float:
        return len(jobs) * states

    @torch.no_grad()
    def run(
        self, evaluator: Evaluator, jobs: Sequence[Job], *, states: int, prompts: int
    ) -> Iterator[Measured]:
        recorded = record_states(evaluator, states=states, prompts=prompts)
        for job in jobs:
            evaluator.switch.set(job.formats)
            errors = [
                _relative_error(evaluator, state)
                for state in recorded
                if job.is_of(state.component)
            ]
            yield Measured(job=job, state=None, error=sum(errors) / len(errors))


def _relative_error(evaluator: Evaluator, state: State) -> float:
    found = call_again(evaluator, state)
    pairs = zip(
        (first_tensor(found), *more_tensors(found)), (state.output, *state.more), strict=True
    )
    ratios = [
        (output.float() - reference.float()).square().mean() / reference.float().square().mean()
        for output, reference in pairs
    ]
    return finite(float(torch.stack(ratios).sum().sqrt()))
