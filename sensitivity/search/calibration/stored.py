"""Sensitivities measured once and kept: `calibrate`, and what it will cost, `calibration_cost`.

What is kept is keyed by all that decides it: weights, settings, versions, prompts, seeds,
estimator, states, and the assignment of formats. Neither budget nor constraint, target, formats
beside it or granularity: a group of one Linear is the same row in "group" and "layer". An
interrupted calibration goes on where it stopped.

    cost = calibration_cost(evaluator, candidates, store)         # say cost.describe() before it starts
    errors = calibrate(evaluator, candidates, store)              # {(group index, option): error}
"""

import inspect
import math
from typing import Any

from sensitivity.errors import UserError
from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.models.denoisers import parts_of
from sensitivity.models.generating import digest_of
from sensitivity.search.calibration._base import CalibrationCost, Estimator, Progress
from sensitivity.search.calibration.gradient import GradientError
from sensitivity.search.calibration.jobs import BROKEN, Errors, EstimatorName, Job, jobs_of
from sensitivity.search.calibration.local import LocalError
from sensitivity.search.calibration.output import OutputError
from sensitivity.search.calibration.preview import PreviewError
from sensitivity.search.candidates import Candidates
from sensitivity.search.store import Store

DEFAULT_ESTIMATOR = (
    EstimatorName.GRADIENT
)  # ranks skip-lists as leave-one-in does, for a twentieth of its cost (LOG.md)
DEFAULT_STATES, DEFAULT_PROMPTS = 2, 4
_ESTIMATORS: dict[EstimatorName, Estimator] = {
    e.name: e for e in (OutputError(), PreviewError(), GradientError(), LocalError())
}
Known = dict[str, float]


def get_estimator(name: EstimatorName | str) -> Estimator:
    """The estimator of this name. Raises UserError, naming those that exist, for another."""
    try:
        return _ESTIMATORS[EstimatorName(name)]
    except ValueError:
        raise UserError(
            f"--estimator is {str(name)!r}; allowed are {', '.join(_ESTIMATORS)}: choose one of"
            " them"
        ) from None


def calibrate(
    evaluator: Evaluator,
    candidates: Candidates,
    store: Store,
    *,
    estimator: EstimatorName | str = DEFAULT_ESTIMATOR,
    states: int = DEFAULT_STATES,
    prompts: int = DEFAULT_PROMPTS,
    progress: Progress | None = None,
) -> Errors:
    """The error of each (group, option); option 0 is left out.

    `progress(done, total)` is called after each number that was not known.

    Raises:
        UserError: no such estimator, states or prompts below 1, or the estimator cannot measure
            this pipeline.
        CalibrationError: the denoiser gives no tensor, or the estimator cannot measure it.
        MeasurementError: the bf16 denoiser gives NaN or inf.
    """
    plan = _Plan(evaluator, candidates, store, get_estimator(estimator), states, prompts)
    missing = plan.missing
    if missing:
        rows = plan.total_rows
        done = rows - len(missing) * (1 if plan.by_job else plan.states)
        try:
            for measured in plan.estimator.run(
                evaluator, missing, states=plan.states, prompts=plan.prompts
            ):
                done += plan.keep(measured.job, measured.state, measured.error)
                if progress is not None:
                    progress(min(done, rows), rows)
        finally:
            evaluator.switch.set({})
    return {place: plan.error(job) for place, job in plan.jobs.items()}


def calibration_cost(
    evaluator: Evaluator,
    candidates: Candidates,
    store: Store,
    *,
    estimator: EstimatorName | str = DEFAULT_ESTIMATOR,
    states: int = DEFAULT_STATES,
    prompts: int = DEFAULT_PROMPTS,
    calls_a_run: int | None = None,
) -> CalibrationCost:
    """What `calibrate` with the same arguments is about to take. Nothing is run.

    Args:
        calls_a_run: denoiser calls of one pipeline run (`ShapeTable`'s calls of a Linear). None:
            one a step, as the study or the pipeline says; where guidance calls twice a step the
            cost in trial equivalents is then overstated by up to 2.
    """
    plan = _Plan(evaluator, candidates, store, get_estimator(estimator), states, prompts)
    calls, missing = calls_a_run or _steps(evaluator), plan.missing
    recording = calls if missing else 0
    own = [
        [job for job in missing if job.is_of(name)] for name in parts_of(evaluator.loaded.denoiser)
    ]
    return CalibrationCost(
        estimator=plan.estimator.name,
        states=plan.states,
        prompts=plan.prompts,
        jobs=len(plan.jobs),
        known=sum(plan.is_known(job) for job in plan.jobs.values()),
        picture_calls=plan.prompts
        * (recording + sum(plan.estimator.picture_calls(jobs, states=plan.states) for jobs in own)),
        decodes=plan.prompts
        * sum(plan.estimator.decodes(jobs, states=plan.states) for jobs in own),
        trial_picture_calls=calls * len(evaluator.spec.prompts.search),
    )


class _Plan:
    """What one calibration asks for, and what the store has of it."""

    def __init__(
        self,
        evaluator: Evaluator,
        candidates: Candidates,
        store: Store,
        estimator: Estimator,
        states: int,
        prompts: int,
    ) -> None:
        for flag, value in (("--states", states), ("--prompts", prompts)):
            if value < 1:
                raise UserError(f"{flag} is {value}; allowed is 1 or more")
        self.store, self.estimator = store, estimator
        self.states, self.prompts = (
            min(states, _steps(evaluator)),
            min(prompts, len(evaluator.spec.prompts.search)),
        )
        self.by_job = estimator.unit == "job"
        self.jobs = jobs_of(candidates)
        of: dict[str, Any] = {
            "of": evaluator.key("search"),
            "states": self.states,
            "prompts": self.prompts,
            "measure": estimator.measure,
        }
        self._keys = (
            [digest_of(of)]
            if self.by_job
            else [digest_of(of | {"state": i}) for i in range(self.states)]
        )
        self._known: list[Known] = [store.find_sensitivities(key) for key in self._keys]

    @property
    def units(self) -> list[Job]:
        """What is measured and kept: the jobs, or their Linears, each once."""
        jobs = (
            self.jobs.values()
            if self.by_job
            else (linear for job in self.jobs.values() for linear in job.linears)
        )
        return list({job.key: job for job in jobs}.values())

    @property
    def missing(self) -> list[Job]:
        return [job for job in self.units if not all(job.key in known for known in self._known)]

    @property
    def total_rows(self) -> int:
        return len(self.units) * len(self._keys)

    def is_known(self, job: Job) -> bool:
        """Whether nothing needs to be measured for this job."""
        parts = (job,) if self.by_job else job.linears
        return all(part.key in known for part in parts for known in self._known)

    def keep(self, job: Job, state: int | None, error: float) -> int:
        """Keep one number; 1, a row done."""
        place = state or 0
        self.store.save_sensitivity(self._keys[place], job.key, error)
        self._known[place][job.key] = error
        return 1

    def error(self, job: Job) -> float:
        """The job's error: what is kept of it, or the root of the sum over its Linears of the mean
        square over states, `BROKEN` where one of these is.
        """
        if self.by_job:
            return self._known[0][job.key]
        if any(known[linear.key] >= BROKEN for known in self._known for linear in job.linears):
            return BROKEN
        squares = [
            sum(known[linear.key] ** 2 for known in self._known) / len(self._known)
            for linear in job.linears
        ]
        return math.sqrt(sum(squares))


def _steps(evaluator: Evaluator) -> int:
    """Denoising steps of one run: the study's setting, or the default of the pipeline's call."""
    steps = evaluator.spec.settings.get("num_inference_steps")
    if steps is None:
        parameter = inspect.signature(type(evaluator.loaded.pipe).__call__).parameters.get(
            "num_inference_steps"
        )
        steps = parameter.default if parameter is not None else 1
    return steps if isinstance(steps, int) and steps > 0 else 1
