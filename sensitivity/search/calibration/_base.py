"""What is an estimator of layer sensitivities? The contract.

An **estimator** gives each job (`jobs.Job`) a number that grows with the damage that the job does,
from recorded bf16 states alone. There are two kinds.

- `unit` "job" (`rollout`, `output`, `preview`): the estimator runs the denoiser for each job.
- `unit` "linear" (`gradient`, `local`): it handles all Linears and formats in one pass for each
  state. The error of a job is then the root of the sum of squares over its Linears, each with
  weight 1, as independent errors add up. What a format changes at a Linear is emulated, whatever
  draws the pictures (`formats.execution`): kernels change its roundings alone.

Several denoisers (`models.denoisers`): each one's jobs are estimated at states of its own calls and
at its own output. How much its part of the run weighs is left to the search's trials.
"""

import abc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.search.calibration.jobs import EstimatorName, Job


@dataclass(frozen=True, kw_only=True)
class JobError:
    """The error of one job. `state` is None where it already is the mean over all states."""

    job: Job
    state: int | None
    error: float


class Estimator(abc.ABC):
    """Stateless; `choosing.get_estimator` gives the one instance of each.

    Attributes:
        name: what a user calls it.
        unit: whether it runs whole jobs or handles each Linear of a job on its own.
        quantity: what the error is, in words, with its version: part of the key under which errors
            are kept.
        inputs: what a "state" of a run is for it: a recorded denoiser call, or a step of the run.
        default_prompts: how many prompts it takes where nobody says.
    """

    name: EstimatorName
    unit: Literal["job", "linear"]
    quantity: str
    inputs: Literal["states", "steps"] = "states"
    default_prompts: int = 4

    @property
    def runs_kernels(self) -> bool:
        """Whether jobs run by the kernels that draw pictures, and not by emulation."""
        return self.unit == "job"

    def default_states(self, steps: int) -> int:
        """How many states it takes where nobody says; `steps` are those of a whole run."""
        return 2

    def refusal(self, pipe: Any) -> str | None:
        """Why it does not work for a pipeline; None where nothing is known against it."""
        return None

    @abc.abstractmethod
    def picture_calls(self, jobs: Sequence[Job], *, states: int) -> float:
        """Denoiser calls for each picture (prompt) that these jobs of one denoiser take, without
        those that record the states; where `inputs` is "steps", denoising steps.
        """

    def decodes(self, jobs: Sequence[Job], *, states: int) -> int:
        """Pictures that these jobs of one denoiser decode for each prompt."""
        return 0

    def begin(
        self, evaluator: Evaluator, *, states: int, prompts: int
    ) -> Callable[[Sequence[Job]], Iterator[JobError]]:
        """`run` for several lists of jobs, one after another.

        An estimator of jobs computes what they share, such as the run in bf16, with the first list
        and keeps it. Arguments and errors as those of `run`.
        """

        def run(jobs: Sequence[Job]) -> Iterator[JobError]:
            return self.run(evaluator, jobs, states=states, prompts=prompts)

        return run

    @abc.abstractmethod
    def run(
        self, evaluator: Evaluator, jobs: Sequence[Job], *, states: int, prompts: int
    ) -> Iterator[JobError]:
        """Yield the error of each job, or of each job and state.

        The caller keeps each error as it comes, so that an interruption loses little.

        Args:
            evaluator: its pipeline is run, on the first `prompts` search prompts.
            jobs: of any of the denoisers; one Linear each where `unit` is "linear".
            states: recorded calls of each denoiser, or steps of a run.
            prompts: how many search prompts.

        Raises:
            CalibrationError: the denoiser gives no tensor, or this estimator cannot follow it.
            MeasurementError: the bf16 denoiser gives NaN or inf.
            UserError: this estimator does not work for this pipeline.
        """
