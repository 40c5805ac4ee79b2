"""`output`: the error at the denoiser's output when only one job is quantized (leave-one-in).

For each state the denoiser is called on the recorded inputs with the job's Linears quantized. The
error is the root of the mean squared difference from the bf16 output over the mean squared bf16
output, averaged over the states. Where the denoiser gives several tensors, as LTX-2's for pictures
and sound, each has an error of its own, and the job's error is the root of the sum of their
squares.

It costs one denoiser call for each job and state. It decodes nothing and does not see how errors
grow over the steps of a run.
"""

from collections.abc import Callable, Iterator, Sequence

import torch

from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.search.calibration._base import Estimator, JobError
from sensitivity.search.calibration.jobs import EstimatorName, Job, finite
from sensitivity.search.calibration.states import (
    State,
    call_again,
    first_tensor,
    more_tensors,
    record_states,
)


class OutputEstimator(Estimator):
    """See the module."""

    name = EstimatorName.OUTPUT
    unit = "job"
    quantity = "relative rmse"

    def picture_calls(self, jobs: Sequence[Job], *, states: int) -> float:
        return len(jobs) * states

    def begin(
        self, evaluator: Evaluator, *, states: int, prompts: int
    ) -> Callable[[Sequence[Job]], Iterator[JobError]]:
        recorded: list[State] = []

        @torch.no_grad()
        def run(jobs: Sequence[Job]) -> Iterator[JobError]:
            if not recorded:
                recorded.extend(record_states(evaluator, states=states, prompts=prompts))
            for job in jobs:
                evaluator.switch.set(job.formats)
                errors = [
                    _relative_error(evaluator, state)
                    for state in recorded
                    if job.is_of(state.component)
                ]
                yield JobError(job=job, state=None, error=sum(errors) / len(errors))

        return run

    def run(
        self, evaluator: Evaluator, jobs: Sequence[Job], *, states: int, prompts: int
    ) -> Iterator[JobError]:
        return self.begin(evaluator, states=states, prompts=prompts)(jobs)


def _relative_error(evaluator: Evaluator, state: State) -> float:
    found = call_again(evaluator, state)
    pairs = zip(
        (first_tensor(found), *more_tensors(found)), (state.output, *state.more), strict=True
    )
    ratios = [
        (output.float() - reference.float()).square().mean() / reference.float().square().mean()
        for output, reference in pairs
        if reference.any()  # to zeros no error is relative
    ]
    return finite(float(torch.stack(ratios).sum().sqrt()))
