"""How much does each Linear (or group) matter?

Layer sensitivities, by one of four estimators, measured once and kept.

`_base.py` holds the contract (`Estimator`: jobs and cached bf16 states in, errors out) and the
record of what one costs; `states.py` records the states. `output.py` quantizes one job at a time
and compares the denoiser's output; `local.py` compares each Linear's own output, all of them in one
pass; `gradient.py` carries those local errors to the denoiser's output by one backward pass;
`preview.py` compares the pictures that one step predicts. `stored.py` runs them and keeps what they
give; `ranking.py` turns errors into shares and the long tail.

    errors = calibrate(evaluator, candidates, store)      # {(group index, option): error}

It is a prior, not a score: the search scales it to LPIPS and corrects it by what trials show.
Errors of one estimator compare with one another only, and their squares add up over groups
(measured; see LOG.md).
"""

from sensitivity.search.calibration._base import (
    CalibrationCost,
    Estimator,
    State,
    finite,
    first_tensor,
)
from sensitivity.search.calibration.jobs import Errors, EstimatorName, Job, broken_options
from sensitivity.search.calibration.ranking import Sensitivity, long_tail, rank
from sensitivity.search.calibration.stored import (
    DEFAULT_ESTIMATOR,
    DEFAULT_PROMPTS,
    DEFAULT_STATES,
    calibrate,
    calibration_cost,
    get_estimator,
)

__all__ = [
    "DEFAULT_ESTIMATOR",
    "DEFAULT_PROMPTS",
    "DEFAULT_STATES",
    "CalibrationCost",
    "Errors",
    "Estimator",
    "EstimatorName",
    "Job",
    "Sensitivity",
    "State",
    "broken_options",
    "calibrate",
    "calibration_cost",
    "finite",
    "first_tensor",
    "get_estimator",
    "long_tail",
    "rank",
]
