"""Where do layer sensitivities come from? From the store; what is missing there is computed.

`calibrate` gives the errors, `calibration_cost` says beforehand what that takes. The key of an
error holds all that decides it: weights, settings, versions, prompts, seeds, estimator, states, and
the assignment of formats. It holds no budget, constraint or target, no other format and no
granularity: a group of one Linear is the same row in "group" and in "layer". Errors are kept as
they become known, at most every `KEEP_S`, so an interrupted calibration continues where it stopped.

Several workers (`Evaluator.sharing`) each compute blocks of jobs. What the jobs share, the run in
bf16 of `rollout`, is computed by each worker once: W workers take W - 1 such runs more than one,
each as long as one job. The errors are those of one worker, bit by bit, since no job sees another.
Estimators that compute all Linears in one pass are one block: one worker computes, the others wait.

    cost = calibration_cost(evaluator, candidates, store)         # cost.describe() is one line
    errors = calibrate(evaluator, candidates, store)              # {(group index, option): error}
"""

import inspect
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

from sensitivity.core.arithmetic import Arithmetic
from sensitivity.errors import CalibrationError, UserError
from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.fidelity.sharing import Alone
from sensitivity.models.denoisers import parts_of
from sensitivity.models.generating import digest_of
from sensitivity.search.attempts import counting_deaths
from sensitivity.search.calibration._base import Estimator, JobError
from sensitivity.search.calibration.choosing import (
    FALLBACK,
    RunSize,
    choose_estimator,
    get_estimator,
)
from sensitivity.search.calibration.cost import CalibrationCost
from sensitivity.search.calibration.jobs import BROKEN, Errors, EstimatorName, Job, jobs_of
from sensitivity.search.candidates import Candidates
from sensitivity.search.store import Store

KEEP_S = 0.5
"""Seconds of errors that a process which is killed may lose. Many come at once, and to keep each by
itself takes longer than to compute it.
"""
BLOCKS = 96
"""Blocks that a calibration by jobs is cut into for several workers, at most: 1 % of it each. Of 8
workers each does about 12, and the last one to end keeps the others waiting for a twelfth of that.
"""
READ_S = 0.2
"""Seconds for which what other workers have kept may be out of date while one waits."""
Progress = Callable[[int, int], None]
log = logging.getLogger(__name__)


def calibrate(
    evaluator: Evaluator,
    candidates: Candidates,
    store: Store,
    *,
    estimator: EstimatorName | str | None = None,
    states: int | None = None,
    prompts: int | None = None,
    progress: Progress | None = None,
    noted: Callable[[str], Any] = lambda _text: None,
) -> Errors:
    """The error of each (group, option); option 0, bf16, is left out.

    Args:
        evaluator: its pipeline is run.
        candidates: whose groups and formats.
        store: errors are read from it and kept in it.
        estimator: which one; None is the default. Where that finds no way through this pipeline, a
            warning says so, and `FALLBACK` does it.
        states: recorded denoiser calls, or steps, whichever the estimator takes; at most the steps
            of a run are used. None is the estimator's own default.
        prompts: search prompts, from the first; at most all are used. None is the estimator's own
            default.
        progress: called as progress(done, total) after each number that was not known.
        noted: called with a text where other workers are waited for, or have died.

    Raises:
        RunError: several workers share this, and a block ended its process again and again.
        UserError: there is no such estimator, `states` or `prompts` is below 1, or the estimator
            does not work for this pipeline.
        CalibrationError: the denoiser gives no tensor, or the estimator cannot follow it.
        MeasurementError: the bf16 denoiser gives NaN or inf.
    """
    chosen = _chosen(evaluator, candidates, estimator)
    plan = _Plan(evaluator, candidates, store, chosen, states, prompts)
    progress = progress or (lambda _done, _total: None)
    try:
        return _completed(plan, evaluator, progress, noted)
    except CalibrationError as error:
        if estimator is not None or chosen.name is FALLBACK:
            raise
        log.warning("layer sensitivities by %s, not %s: %s", FALLBACK, chosen.name, error)
    plan = _Plan(evaluator, candidates, store, get_estimator(FALLBACK), None, None)
    return _completed(plan, evaluator, progress, noted)


def _chosen(
    evaluator: Evaluator, candidates: Candidates, name: EstimatorName | str | None
) -> Estimator:
    """The estimator of this name; None: the one that is taken for this pipeline and candidates."""
    if name is not None:
        return get_estimator(name)
    run = RunSize(
        steps=steps_of(evaluator),
        denoisers=len(parts_of(evaluator.loaded.denoiser)),
        prompts=len(evaluator.spec.prompts.search),
    )
    jobs = [*jobs_of(candidates).values()]
    return choose_estimator(jobs, run=run, pipe=evaluator.loaded.pipe)


def _completed(
    plan: "_Plan", evaluator: Evaluator, progress: Progress, noted: Callable[[str], Any]
) -> Errors:
    """The errors of a plan, after what is missing was computed and kept."""
    if not plan.missing:
        return plan.errors
    is_alone = isinstance(evaluator.sharing, Alone)
    blocks = plan.blocks(1 if is_alone else BLOCKS)
    measure = plan.estimator.begin(evaluator, states=plan.states, prompts=plan.prompts)
    evaluation = evaluator.evaluation_key("search")

    def do(name: str) -> None:
        plan.refresh()
        missing, known = plan.missing_of(blocks[name]), plan.known_rows
        if not missing:
            return
        attempt = digest_of({"of": plan.scope, "block": name, "known": known})
        counted = counting_deaths(plan.store, evaluation, attempt, noted)
        with nullcontext() if is_alone else counted:
            _measure(plan, evaluator, measure(missing), progress)

    evaluator.sharing.run(
        plan.scope,
        list(blocks),
        is_done=lambda name: plan.is_done(blocks[name]),
        do=do,
        noted=noted,
    )
    plan.refresh()
    return plan.errors


def _measure(
    plan: "_Plan", evaluator: Evaluator, found: Iterator[JobError], progress: Progress
) -> None:
    """Keep the errors of a block as they come."""
    rows = plan.total_rows
    done = rows - len(plan.missing) * (1 if plan.by_job else plan.states)
    try:
        for each in found:
            plan.keep(each.job, each.state, each.error)
            done += 1
            progress(min(done, rows), rows)
    finally:
        evaluator.switch.set({})
        plan.keep_all()


def calibration_cost(
    evaluator: Evaluator,
    candidates: Candidates,
    store: Store,
    *,
    estimator: EstimatorName | str | None = None,
    states: int | None = None,
    prompts: int | None = None,
    calls_a_run: int | None = None,
) -> CalibrationCost:
    """What `calibrate` with the same arguments would take now. Nothing is run.

    Args:
        calls_a_run: denoiser calls of one pipeline run (`ShapeTable`'s calls of a Linear). None
            assumes one for each step of the study or the pipeline; where guidance calls twice a
            step, the cost in trials is then overstated by up to 2.
    """
    chosen = _chosen(evaluator, candidates, estimator)
    plan = _Plan(evaluator, candidates, store, chosen, states, prompts)
    calls, missing = calls_a_run or steps_of(evaluator), plan.missing
    parts = parts_of(evaluator.loaded.denoiser)
    by_denoiser = [[job for job in missing if job.is_of(name)] for name in parts]
    # several denoisers share the steps of a run, each has about as many
    each = calls / steps_of(evaluator) / len(parts) if plan.estimator.inputs == "steps" else 1
    picture_calls = (calls if missing else 0) + each * sum(
        plan.estimator.picture_calls(jobs, states=plan.states) for jobs in by_denoiser
    )
    decodes = sum(plan.estimator.decodes(jobs, states=plan.states) for jobs in by_denoiser)
    return CalibrationCost(
        estimator=plan.estimator.name,
        states=plan.states,
        inputs=plan.estimator.inputs,
        prompts=plan.prompts,
        jobs=len(plan.jobs),
        known=sum(plan.is_known(job) for job in plan.jobs.values()),
        picture_calls=plan.prompts * picture_calls,
        decodes=plan.prompts * decodes,
        trial_picture_calls=calls * len(evaluator.spec.prompts.search),
        numbers=plan.known_rows,
    )


class _Plan:
    """What one calibration asks for, and what the store has of it.

    Rows of the store are jobs (`by_job`), or a Linear of a job at one state.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        candidates: Candidates,
        store: Store,
        estimator: Estimator,
        states: int | None,
        prompts: int | None,
    ) -> None:
        steps = steps_of(evaluator)
        states = estimator.default_states(steps) if states is None else states
        prompts = estimator.default_prompts if prompts is None else prompts
        if states < 1:
            raise UserError(f"`states` is {states}; expected 1 or more denoiser calls")
        if prompts < 1:
            raise UserError(f"a calibration on {prompts} prompts was asked for; expected 1 or more")
        self.store, self.estimator = store, estimator
        self.states = min(states, steps)
        self.prompts = min(prompts, len(evaluator.spec.prompts.search))
        self.by_job = estimator.unit == "job"
        self.jobs = jobs_of(candidates)
        key: dict[str, Any] = {
            "of": evaluator.key("search"),
            "states": self.states,
            "prompts": self.prompts,
            "measure": estimator.quantity,
        }
        if evaluator.arithmetic is not Arithmetic.EAGER:
            key["arithmetic"] = evaluator.arithmetic
        if estimator.runs_kernels and (changes := evaluator.execution.changes):
            key["kernels"] = changes
        self._keys = (
            [digest_of(key)]
            if self.by_job
            else [digest_of(key | {"state": i}) for i in range(self.states)]
        )
        self._known: list[dict[str, float]] = [{} for _ in self._keys]
        self._unkept: dict[tuple[str, str], float] = {}
        self._kept_at = -math.inf
        self.refresh()

    def refresh(self) -> None:
        """Read what the store has by now."""
        for known, key in zip(self._known, self._keys, strict=True):
            known.update(self.store.find_sensitivities(key))
        self._read_at = time.monotonic()

    @property
    def scope(self) -> str:
        """The name of this work for all workers: the same units under the same keys."""
        return f"calibration-{digest_of({'of': self._keys, 'units': [u.key for u in self.units]})}"

    def blocks(self, count: int) -> dict[str, list[Job]]:
        """{name: units} that one worker computes in one go, the same for all workers: at most
        `count`, and one where the estimator computes all units in one pass.
        """
        units = self.units
        size = -(-len(units) // count) if self.by_job else len(units)
        cut = [units[start : start + size] for start in range(0, len(units), size)]
        return {f"{i + 1} of {len(cut)}": block for i, block in enumerate(cut)}

    def is_done(self, block: Sequence[Job]) -> bool:
        """Whether all of a block is known; the store is asked at most every `READ_S`."""
        if self.missing_of(block) and time.monotonic() - self._read_at > READ_S:
            self.refresh()
        return not self.missing_of(block)

    def missing_of(self, units: Sequence[Job]) -> list[Job]:
        """Those that are not known at all states."""
        return [job for job in units if not all(job.key in known for known in self._known)]

    @property
    def units(self) -> list[Job]:
        """What is computed and kept: the jobs, or their Linears, each once."""
        jobs = (
            self.jobs.values()
            if self.by_job
            else (linear for job in self.jobs.values() for linear in job.linears)
        )
        return list({job.key: job for job in jobs}.values())

    @property
    def missing(self) -> list[Job]:
        """The units that are not known at all states."""
        return self.missing_of(self.units)

    @property
    def total_rows(self) -> int:
        return len(self.units) * len(self._keys)

    @property
    def known_rows(self) -> int:
        """How many rows of these units the store has."""
        keys = {unit.key for unit in self.units}
        return sum(len(keys.intersection(known)) for known in self._known)

    def is_known(self, job: Job) -> bool:
        """Whether nothing needs to be computed for this job."""
        parts = (job,) if self.by_job else job.linears
        return all(part.key in known for part in parts for known in self._known)

    def keep(self, job: Job, state: int | None, error: float) -> None:
        """Keep one number in the store, now or with those that follow within `KEEP_S`."""
        place = state or 0
        self._known[place][job.key] = error
        self._unkept[self._keys[place], job.key] = error
        if time.monotonic() - self._kept_at >= KEEP_S:
            self.keep_all()

    def keep_all(self) -> None:
        """Keep what is not in the store yet."""
        if self._unkept:
            self.store.save_sensitivities(self._unkept)
        self._unkept, self._kept_at = {}, time.monotonic()

    @property
    def errors(self) -> Errors:
        """The error of each job, all of whose rows are known."""
        return {place: self.error(job) for place, job in self.jobs.items()}

    def error(self, job: Job) -> float:
        """The job's error, all of whose rows are known.

        It is the row of the job, or the root of the sum over its Linears of the mean square over
        states; `BROKEN` where one of these is.
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


def steps_of(evaluator: Evaluator) -> int:
    """Denoising steps of one run: the study's setting, or the default of the pipeline's call."""
    steps = evaluator.spec.settings.get("num_inference_steps")
    if steps is None:
        parameters = inspect.signature(type(evaluator.loaded.pipe).__call__).parameters
        parameter = parameters.get("num_inference_steps")
        steps = parameter.default if parameter is not None else 1
    return steps if isinstance(steps, int) and steps > 0 else 1
