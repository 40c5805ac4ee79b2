"""What is an estimator of layer sensitivities?

The contract, and the record of what a calibration costs.

A **job** is Linears in one format: all others stay bf16. An **estimator** gives a job a number that
grows with the damage it does, from cached bf16 states alone. Two kinds exist. One measures whole
jobs (`unit` "job": `output`, `preview`): one denoiser call a job and state. The other measures each
Linear of a job for itself (`unit` "linear": `local`, `gradient`): all Linears and formats in one
pass a state, and a job's error is the root of the sum of squares over its Linears, each with weight
1, as independent errors add up.

Several denoisers (`denoisers.joined`): each is measured at states of its own calls, at its own
output, and its jobs are those whose Linears are its own. How much its part of the run weighs is
left to what the search's trials say.

Conventions. Errors are at least 0 and finite: what is NaN or inf becomes `BROKEN`. Costs are
counted in picture calls, one picture through the denoiser once; quantizing a Linear's operands and
multiplying them for one more format is as good as one more call of that Linear.
"""

import abc
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from sensitivity.errors import CalibrationError
from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.search.calibration.jobs import BROKEN, EstimatorName, Job


@dataclass(frozen=True, kw_only=True)
class State:
    """One call of a bf16 denoiser in a run: the inputs, and the first tensor of its output.

    `index` counts its states, `call` the run's denoiser calls.

    `component` is which denoiser was called, "" the only one there is. `more` are the further
    tensors of the output, as LTX-2's denoiser gives one for the sound.
    """

    index: int
    call: int
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Tensor
    more: tuple[Tensor, ...] = ()
    component: str = ""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One number of an estimator. `state` is None where it already is the mean over all states."""

    job: Job
    state: int | None
    error: float


class Estimator(abc.ABC):
    """Stateless; `stored.get_estimator` gives the one instance of each.

    Attributes:
        name: what a user calls it.
        unit: whether it measures whole jobs or each Linear of a job for itself.
        measure: what the number is, with its version: part of the key under which it is kept.
    """

    name: EstimatorName
    unit: Literal["job", "linear"]
    measure: str

    @abc.abstractmethod
    def picture_calls(self, jobs: Sequence[Job], *, states: int) -> float:
        """Denoiser calls for each picture (prompt) that measuring these jobs, all of one denoiser,
        takes, without recording the states.
        """

    def decodes(self, jobs: Sequence[Job], *, states: int) -> int:  # noqa: ARG002 - the contract's signature
        """Pictures decoded for each prompt, for jobs of one denoiser; most estimators decode none."""
        return 0

    @abc.abstractmethod
    def run(
        self, evaluator: Evaluator, jobs: Sequence[Job], *, states: int, prompts: int
    ) -> Iterator[Measured]:
        """Measure the jobs on `states` states, of their denoiser, of the first `prompts` search
        prompts; what is yielded is kept, so that a stop loses little.

        Raises:
            CalibrationError: the denoiser gives no tensor, or cannot be measured in this way.
            MeasurementError: the bf16 denoiser gives NaN or inf.
            UserError: this estimator cannot measure this pipeline.
        """


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationCost:
    """What a calibration is about to take, before it starts.

    Attributes:
        estimator, states, prompts: what is measured, on what.
        jobs: sensitivities that are asked for; `known` of them are in the store.
        picture_calls: denoiser calls x pictures still to be made, the recording of the states
            included.
        decodes: pictures still to be decoded for it.
        trial_picture_calls: denoiser calls x pictures of one trial.
    """

    estimator: EstimatorName
    states: int
    prompts: int
    jobs: int
    known: int
    picture_calls: float
    decodes: int
    trial_picture_calls: int

    @property
    def trials(self) -> float:
        """The cost in trial equivalents."""
        return self.picture_calls / self.trial_picture_calls

    def describe(self) -> str:
        """One line for people."""
        what = (
            f"{self.jobs} layer sensitivities ({self.estimator}; {self.states} states x"
            f" {self.prompts} prompts)"
        )
        if self.known == self.jobs:
            return f"{what}: all known, costs nothing"
        known = f", {self.known} of them known" if self.known else ""
        decodes = f" and {self.decodes:,} decoded pictures" if self.decodes else ""
        return (
            f"{what}{known}: costs {self.trials:.2g} trial equivalents ({self.picture_calls:,.0f}"
            f" denoiser calls x pictures{decodes}; a trial takes {self.trial_picture_calls:,})"
        )


def first_tensor(output: Any) -> Tensor:
    """The tensor that a denoiser's output begins with; where that is a list with a tensor for each
    picture, as Z-Image's, they are stacked: (B, ...).

    Raises CalibrationError where it begins with neither.
    """
    first = (
        output[0] if isinstance(output, (tuple, list)) or hasattr(output, "to_tuple") else output
    )
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
    return (
        tuple(part for part in parts[1:] if isinstance(part, Tensor) and part.is_floating_point())
        if isinstance(parts, (tuple, list))
        else ()
    )


def finite(error: float) -> float:
    """The error itself, below BROKEN however large; BROKEN where it is NaN or inf."""
    return min(error, math.nextafter(BROKEN, 0)) if math.isfinite(error) else BROKEN


Progress = Callable[[int, int], None]
