"""What is an estimator of layer sensitivities? The contract.

An **estimator** gives each job (`jobs.Job`) a number that grows with the damage that the job does,
from recorded bf16 states alone. There are two kinds.

- `unit` "job" (`output`, `preview`): the estimator runs the denoiser once for each job and state.
- `unit` "linear" (`gradient`, `local`): it handles all Linears and formats in one pass for each
  state. The error of a job is then the root of the sum of squares over its Linears, each with
  weight 1, as independent errors add up. What a format changes at a Linear is emulated, whatever
  draws the pictures (`formats.execution`): kernels change its roundings alone.

Several denoisers (`models.denoisers`): each one's jobs are estimated at states of its own calls and
at its own output. How much its part of the run weighs is left to the search's trials.
"""

import abc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.search.calibration.jobs import EstimatorName, Job


@dataclass(frozen=True, kw_only=True)
class JobError:
    """The error of one job. `state` is None where it already is the mean over all states."""

    job: Job
    state: int | None
    error: float


class Estimator(abc.ABC):
    """Stateless; `stored.get_estimator` gives the one instance of each.

    Attributes:
        name: what a user calls it.
        unit: whether it runs whole jobs or handles each Linear of a job on its own.
        quantity: what the error is, in words, with its version: part of the key under which errors
            are kept.
    """

    name: EstimatorName
    unit: Literal["job", "linear"]
    quantity: str

    @property
    def runs_kernels(self) -> bool:
        """Whether jobs run by the kernels that draw pictures, and not by emulation."""
        return self.unit == "job"

    @abc.abstractmethod
    def picture_calls(self, jobs: Sequence[Job], *, states: int) -> float:
        """Denoiser calls for each picture (prompt) that these jobs of one denoiser take, without
        those that record the states.
        """

    def decodes(self, jobs: Sequence[Job], *, states: int) -> int:
        """Pictures that these jobs of one denoiser decode for each prompt."""
        return 0

    @abc.abstractmethod
    def run(
        self, evaluator: Evaluator, jobs: Sequence[Job], *, states: int, prompts: int
    ) -> Iterator[JobError]:
        """Yield the error of each job, or of each job and state.

        The caller keeps each error as it comes, so that an interruption loses little.

        Args:
            evaluator: its pipeline is run, on the first `prompts` search prompts.
            jobs: of any of the denoisers; one Linear each where `unit` is "linear".
            states: recorded calls of each denoiser.
            prompts: how many search prompts.

        Raises:
            CalibrationError: the denoiser gives no tensor, or this estimator cannot follow it.
            MeasurementError: the bf16 denoiser gives NaN or inf.
            UserError: this estimator does not work for this pipeline.
        """
