"""Which estimator is taken? `get_estimator` by name, `choose_estimator` where nobody names one.

The default is the one whose errors say most about damage (LOG.md). It takes a few steps for each
group and format. Where that is more than `MOST_TRIALS`, as it is for every layer of a large model,
or where the pipeline does not let it, it is `FALLBACK`, whose cost does not grow with the groups.

    choose_estimator(jobs, run=RunSize(steps=28, denoisers=1, prompts=16)).name
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sensitivity.errors import UserError
from sensitivity.search.calibration._base import Estimator
from sensitivity.search.calibration.gradient import GradientEstimator
from sensitivity.search.calibration.jobs import EstimatorName, Job
from sensitivity.search.calibration.local import LocalEstimator
from sensitivity.search.calibration.output import OutputEstimator
from sensitivity.search.calibration.preview import PreviewEstimator
from sensitivity.search.calibration.rollout import RolloutEstimator

DEFAULT, FALLBACK = EstimatorName.ROLLOUT, EstimatorName.GRADIENT
MOST_TRIALS = 12.5
"""What the default may cost: a quarter of the 50 trials of a usual search."""
_ESTIMATORS: dict[EstimatorName, Estimator] = {
    estimator.name: estimator
    for estimator in (
        RolloutEstimator(),
        OutputEstimator(),
        PreviewEstimator(),
        GradientEstimator(),
        LocalEstimator(),
    )
}


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSize:
    """What a trial of a study is.

    Attributes:
        steps: denoising steps of a run.
        denoisers: how many denoisers share them.
        prompts: search prompts.
    """

    steps: int
    denoisers: int
    prompts: int


def get_estimator(name: EstimatorName | str) -> Estimator:
    """The estimator of this name.

    Raises UserError, which lists the estimators, for any other name.
    """
    try:
        return _ESTIMATORS[EstimatorName(name)]
    except ValueError:
        raise UserError(
            f"`estimator` is {str(name)!r}; expected one of {', '.join(_ESTIMATORS)}: choose one"
        ) from None


def choose_estimator(jobs: Sequence[Job], *, run: RunSize, pipe: Any = None) -> Estimator:
    """The estimator that is taken where nobody names one.

    It does not depend on what is known already, so an interrupted calibration goes on with it.

    Args:
        jobs: all that is calibrated.
        run: what a trial is.
        pipe: the pipeline; None takes for granted that the default works for it.
    """
    default = get_estimator(DEFAULT)
    own = default.picture_calls(jobs, states=default.default_states(run.steps))
    prompts = min(default.default_prompts, run.prompts)
    trials = prompts * own / (run.steps * run.denoisers * run.prompts)
    refused = pipe is not None and default.refusal(pipe) is not None
    return get_estimator(FALLBACK) if refused or trials > MOST_TRIALS else default
