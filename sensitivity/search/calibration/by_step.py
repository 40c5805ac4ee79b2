"""In which part of a run is damage done? Rollouts with everything quantized in one part of it.

Method. A run is cut into parts where step policies cut it (`search.step_table`). Everything is
quantized in one format in one part of the run, and is bf16 in all others. The error is that of the
latents at the end of the run, as of a rollout (`calibration.rollout`). A part's share of the damage
is its error to the power of `POWER`, over the sum of these:

    share(part) = error(part) ** POWER / sum of error(other) ** POWER

So errors of parts add up much as independent errors do (TMPDiff, arXiv 2603.14062, finds that they
add over steps). One profile stands for all groups: on tiny-flux it foresaw 67 lists under policies
as well as a profile of each group did, which costs 50 times as much (LOG.md).

For edge steps in A16, everything is also run weight-only, and quantized, in every step: the ratio
of the errors, to the same power, is what remains of a part there.

    cost = step_cost(evaluator, candidates, store)           # denoising steps x pictures
    table = calibrate_steps(evaluator, candidates, store)    # a StepTable

Numbers are kept in the store as they come, like other sensitivities: an interrupted calibration
continues where it stopped. Where several workers share a database, one of them computes these.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sensitivity.core.arithmetic import Arithmetic
from sensitivity.core.step_policy import EdgeMode
from sensitivity.errors import CalibrationError
from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.fidelity.step_precision import window_of
from sensitivity.models.generating import digest_of
from sensitivity.search.calibration.jobs import BROKEN, Job, jobs_of
from sensitivity.search.calibration.rollout import ALL_STEPS, Bf16Path
from sensitivity.search.candidates import Candidates
from sensitivity.search.step_table import StepTable, parts_of_run
from sensitivity.search.store import Store

QUANTITY = "rollout of a part of the steps: relative error of latents, geometric mean"
"""Part of the key under which errors are kept."""
PROMPTS = 4
"""Search prompts that are run. Of one prompt the ratio of two parts may be twice another's."""
POWER = 1.8
"""Typical LPIPS grows with the latents' error to this power (tiny-flux in NVFP4, everything
quantized in 9 windows of the steps, 48 prompts). With 1.5 and 2 shares foresee lists less well.
"""


@dataclass(frozen=True, slots=True)
class Run:
    """One rollout: a job that is quantized in the steps from `start` on and before `stop`."""

    job: Job
    start: int
    stop: int


def runs_of(candidates: Candidates) -> list[Run]:
    """The rollouts that the policies of these candidates ask for; none for the plain policy."""
    edged = [policy for policy in candidates.policies if not policy.is_plain]
    steps = candidates.steps
    if not edged or steps is None:
        return []
    whole = {option: _whole(candidates, option) for option in range(1, len(candidates.formats))}
    job = whole[_last_option(candidates)]
    if job is None:
        return []
    found = [Run(job, start, stop) for start, stop in parts_of_run(edged, steps=steps)]
    if any(own.mode is EdgeMode.A16 for own in edged):
        for own in filter(None, whole.values()):
            found += [Run(own, 0, steps), Run(_weight_only(own), 0, steps)]
    return list(dict.fromkeys(found))


def _last_option(candidates: Candidates) -> int:
    """The last format that any group takes: as a rule the one that does most damage."""
    return max(option for _, option in jobs_of(candidates))


def _whole(candidates: Candidates, option: int) -> Job | None:
    """Everything in one format; None where nothing takes it."""
    fqns = tuple(fqn for group in candidates.groups for fqn in group.members[option])
    return Job(fqns=fqns, format=candidates.formats[option]) if fqns else None


def _weight_only(job: Job) -> Job:
    return Job(fqns=job.fqns, format=job.format.weight_only)


def steps_of_runs(candidates: Candidates) -> int:
    """Denoising steps of one prompt that all rollouts of these candidates take, that in bf16
    included; 0 where none is needed.
    """
    return _steps_of(runs_of(candidates), candidates.steps or 0)


def _steps_of(runs: Sequence[Run], steps: int) -> int:
    return steps + sum(steps - run.start for run in runs) if runs else 0


def step_cost(evaluator: Evaluator, candidates: Candidates, store: Store) -> int:
    """Denoising steps x pictures that `calibrate_steps` would take now; 0 where all is known."""
    if not runs_of(candidates):
        return 0
    plan = _Plan(evaluator, candidates, store)
    return plan.prompts * _steps_of(plan.missing, plan.steps)


def calibrate_steps(
    evaluator: Evaluator,
    candidates: Candidates,
    store: Store,
    *,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
    noted: Callable[[str], Any] = lambda _text: None,
) -> StepTable | None:
    """The table of these candidates; None where no policy has edge steps.

    Args:
        evaluator: its pipeline is run, on the first `PROMPTS` search prompts.
        candidates: groups, formats and policies.
        store: errors are read from it and kept in it.
        progress: called as progress(done, total) after each rollout.
        noted: called with a text where other workers are waited for.

    Raises:
        CalibrationError: steps of the pipeline cannot be seen, are not as many as a run should
            have, or give NaN or inf.
        MeasurementError: the bf16 denoiser gives NaN or inf.
    """
    if not runs_of(candidates):
        return None
    plan = _Plan(evaluator, candidates, store)
    if plan.missing:
        evaluator.sharing.run(
            plan.scope,
            ["all parts"],
            is_done=lambda _name: plan.is_done(),
            do=lambda _name: plan.compute(progress),
            noted=noted,
        )
    plan.refresh()
    return table_of(candidates, plan.errors)


def table_of(candidates: Candidates, errors: Mapping[Run, float]) -> StepTable:
    """The table that errors of `runs_of` make.

    Raises CalibrationError where a part gives NaN or inf, or no part gives an error.
    """
    steps = candidates.steps or 1
    parts = parts_of_run([own for own in candidates.policies if not own.is_plain], steps=steps)
    job = next(iter(errors)).job
    found = [errors[Run(job, *part)] for part in parts]
    total = sum(error**POWER for error in found)
    if not total or max(found) >= BROKEN:
        what = "NaN or inf" if total else "nothing"
        raise CalibrationError(
            f"everything in {job.format} changes latents by {what} in some part of a run: parts"
            " cannot be compared"
        )
    shares = tuple(error**POWER / total for error in found)
    return StepTable(
        steps=steps,
        parts=parts,
        shares=dict.fromkeys(jobs_of(candidates), shares),
        a16=_a16(candidates, errors, steps),
    )


def _a16(candidates: Candidates, errors: Mapping[Run, float], steps: int) -> dict[int, float]:
    """{option: damage of its weight-only form over that of its format}."""
    found = {}
    for option in range(1, len(candidates.formats)):
        job = _whole(candidates, option)
        if job is None or (part := Run(_weight_only(job), 0, steps)) not in errors:
            continue
        ratio = errors[part] / max(errors[Run(job, 0, steps)], 1e-12)
        found[option] = min(ratio, 1.0) ** POWER
    return found


class _Plan:
    """What one calibration asks for, and what the store has of it."""

    def __init__(self, evaluator: Evaluator, candidates: Candidates, store: Store) -> None:
        self.evaluator, self.store = evaluator, store
        self.steps = candidates.steps or 0
        self.runs = runs_of(candidates)
        self.prompts = min(PROMPTS, len(evaluator.spec.prompts.search))
        self.errors: dict[Run, float] = {}
        self.refresh()

    def _key(self, run: Run) -> str:
        """The calibration that an error belongs to."""
        evaluator = self.evaluator
        key: dict[str, Any] = {
            "of": evaluator.key("search"),
            "prompts": self.prompts,
            "measure": QUANTITY,
            "quantized": [run.start, run.stop, self.steps],
        }
        if evaluator.arithmetic is not Arithmetic.EAGER:
            key["arithmetic"] = evaluator.arithmetic
        if changes := evaluator.execution.changes:
            key["kernels"] = changes
        return digest_of(key)

    @property
    def scope(self) -> str:
        """The name of this work for all workers."""
        return f"steps-{digest_of({'of': [[self._key(r), r.job.key] for r in self.runs]})}"

    def refresh(self) -> None:
        """Read what the store has by now."""
        known = {key: self.store.find_sensitivities(key) for key in set(map(self._key, self.runs))}
        for run in self.runs:
            error = known[self._key(run)].get(run.job.key)
            if error is not None:
                self.errors[run] = error

    @property
    def missing(self) -> list[Run]:
        """The rollouts that are not known."""
        return [run for run in self.runs if run not in self.errors]

    def is_done(self) -> bool:
        """Whether all are known, by the store."""
        self.refresh()
        return not self.missing

    @torch.no_grad()
    def compute(self, progress: Callable[[int, int], None]) -> None:
        """Run what is missing."""
        self.refresh()
        if not self.missing:
            return
        evaluator = self.evaluator
        path = evaluator.blocks.attempt(
            lambda: Bf16Path(evaluator, steps=ALL_STEPS, prompts=self.prompts, replays=True),
            given_up=lambda: None,
        )
        if path.steps != self.steps:
            raise CalibrationError(
                f"a run has {path.steps} steps that can be seen, not {self.steps}: what each part"
                " of it does cannot be measured"
            )
        try:
            for run in self.missing:
                evaluator.switch.set(run.job.formats)
                at = window_of(evaluator.switch, run.start, run.stop)
                latents = path.run_again(run.start, self.steps, before_step=at)
                error = path.error(latents, self.steps)
                self.errors[run] = error
                self.store.save_sensitivity(self._key(run), run.job.key, error)
                progress(len(self.runs) - len(self.missing), len(self.runs))
        finally:
            evaluator.switch.set({})
