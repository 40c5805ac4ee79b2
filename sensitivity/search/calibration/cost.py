"""What will a calibration take? `CalibrationCost`, in calls of the denoiser and in trials.

Costs are counted in picture calls: one picture through the denoiser once. Quantizing a Linear's
operands and multiplying them in one more format counts as one more call of that Linear.
`search.calibration.stored.calibration_cost` computes the record; nothing is run for it.
"""

from dataclasses import dataclass
from typing import Literal

from sensitivity.search.calibration.jobs import EstimatorName


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationCost:
    """What a calibration takes, known before it starts.

    Attributes:
        estimator, states, prompts: what is computed, and on how many inputs.
        inputs: whether `states` are denoiser calls or steps of a run.
        jobs: sensitivities that are asked for; `known` of them are in the store.
        picture_calls: denoiser calls x pictures still to be made, those that record the states
            included.
        decodes: pictures still to be decoded for it.
        numbers: how many numbers are in the store: parts of sensitivities count too.
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
    numbers: int
    inputs: Literal["states", "steps"] = "states"

    @property
    def trials(self) -> float:
        """The cost in trials: `picture_calls` over those of one trial."""
        return self.picture_calls / self.trial_picture_calls

    def describe(self) -> str:
        """The cost as one line of text."""
        what = (
            f"{self.jobs} layer sensitivities ({self.estimator}; {self.states} {self.inputs} x"
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
