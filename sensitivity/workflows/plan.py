"""What will a search take, here or on another machine? `plan_search`, before anything is loaded.

    plan = plan_search(resolve_spec("flux1-dev"), SearchRequest(budget=50, device="cuda"))
    plan.sizes.peak.nbytes, plan.trial_s, plan.total_s, plan.disk_bytes
    plan.shapes                                     # what is measured first; None if predicted
    plan_search(spec, request, on="h100").total_s   # on a GPU that is not here

Memory comes from `workflows.sizing`, seconds of bf16 from `workflows.run_seconds`, what is done
already from `workflows.plan_done`. `source` says where the seconds come from. Where the model does
not fit, or would take longer than `LONG_S`, `machines` says what each GPU would take on which it
fits. Each number is an estimate of its own, and none is a promise.

Left out: reading weights, compiling, LPIPS (milliseconds a picture), and single scores that the
database knows. No weight is read and no file is written.
"""

import math
from dataclasses import dataclass, field
from typing import Any

from sensitivity.consumers.named_consumers import limits_of
from sensitivity.core.format_name import Source
from sensitivity.errors import FormatError, UserError
from sensitivity.fidelity.evaluator import OTHER_PROMPTS
from sensitivity.latency.devices import DEVICES, Device, get_device
from sensitivity.latency.pricer import at_priced_scale, latency_model
from sensitivity.latency.runtimes import choose_runtime
from sensitivity.search.calibration.by_step import PROMPTS, steps_of_runs
from sensitivity.search.calibration.choosing import RunSize, choose_estimator
from sensitivity.search.calibration.jobs import jobs_of
from sensitivity.search.candidates import Candidates
from sensitivity.search.grouping import make_candidates
from sensitivity.search.shortlist import ANSWERS, NEAR
from sensitivity.search.step_policies import policies_for
from sensitivity.shapes.run import run_shapes
from sensitivity.shapes.shape_run import ShapeRun
from sensitivity.spec.call_names import frames_in
from sensitivity.spec.prompts import PromptSource
from sensitivity.spec.study_spec import StudySpec
from sensitivity.workflows.latency_source import latency_source
from sensitivity.workflows.plan_done import Done, done_of
from sensitivity.workflows.prepare import check_memory
from sensitivity.workflows.requests import SearchRequest
from sensitivity.workflows.run_seconds import seconds_of_run, seconds_on, slower
from sensitivity.workflows.sizing import SizeEstimate, advice, estimate_sizes, largest_batch
from sensitivity.workflows.table_work import KnownTimes, TableWork, table_work, table_work_anew

DATABASE_BYTES, TRIAL_BYTES, LINEAR_BYTES = 200_000, 4_000, 100
"""Of an empty database with its tables; of each trial; of each trial for each Linear of the model.
"""
LONG_S = 2 * 86_400.0
"""Seconds from which on another machine is named."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MachineTime:
    """What a search would take on a GPU.

    Attributes:
        name: of the GPU.
        total_s: seconds of the whole search, predicted.
    """

    name: str
    total_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchPlan:
    """What a search is expected to take. Seconds are those of `machine`.

    Attributes:
        model: the study's name.
        machine: a GPU that need not be here, by its name; "" is this machine, on `sizes.device`.
        prompts: what was read of the file of prompts; None if the study states them.
        sizes: predicted memory.
        pictures: pictures (or clips) of one trial.
        held_out: pictures of one verified skip-list.
        budget: trials.
        picture_s: seconds of a picture in bf16: a pipeline call divided by its batch.
        trial_s: seconds of a trial whose Linears are all quantized.
        steps_s: {step: its seconds} of what is still to do.
        source: where `picture_s` comes from, in words.
        references_bytes, database_bytes: on disk.
        shapes: the table of shapes that prices are measured with; None where they are predicted.
        done: what the database has already; nothing for another machine.
        would_help: where it does not fit: what would help, each in words.
        machines: where it does not fit, or takes long: GPUs on which it fits, the quickest first.
    """

    model: str
    machine: str = ""
    prompts: PromptSource | None
    sizes: SizeEstimate
    pictures: int
    held_out: int
    budget: int = 0
    picture_s: float
    trial_s: float
    steps_s: dict[str, float]
    source: str
    references_bytes: int
    database_bytes: int
    shapes: TableWork | None = None
    done: Done = field(default_factory=Done)
    would_help: tuple[str, ...] = ()
    machines: tuple[MachineTime, ...] = ()

    @property
    def total_s(self) -> float:
        """All steps."""
        return sum(self.steps_s.values())

    @property
    def disk_bytes(self) -> int:
        """All that is written."""
        return self.references_bytes + self.database_bytes

    def to_json(self) -> dict[str, Any]:
        """The JSON object of a dry run of `sensitivity search`."""
        return {
            "model": self.model,
            "machine": self.machine or None,
            "memory": self.sizes.to_json(),
            "pictures_a_trial": self.pictures,
            "held_out_pictures": self.held_out,
            "prompts": None if self.prompts is None else self.prompts.to_json(),
            "budget": self.budget,
            "done": self.done.to_json(),
            "picture_s": self.picture_s,
            "trial_s": self.trial_s,
            "steps_s": self.steps_s,
            "total_s": self.total_s,
            "source": self.source,
            "latency": "predicted" if self.shapes is None else "measured",
            "shape_table": None if self.shapes is None else self.shapes.to_json(),
            "references_bytes": self.references_bytes,
            "database_bytes": self.database_bytes,
            "disk_bytes": self.disk_bytes,
            "would_help": list(self.would_help),
            "machines": {own.name: own.total_s for own in self.machines},
        }


def plan_search(spec: StudySpec, request: SearchRequest, *, on: str | None = None) -> SearchPlan:
    """Estimate what the search would take. A model that does not fit is no error here.

    Args:
        spec: the study.
        request: what is searched.
        on: a GPU that need not be here, as `get_device` takes it; None is the request's device.

    Raises:
        UserError: and its kinds, for a model that cannot be run, prices that cannot be measured, or
            a GPU that is not known.
        ConstraintError: no skip-list keeps to the request's bound on memory.
        MeasurementError: the pipeline cannot be run without weights.
    """
    if request.max_memory_bytes is not None:
        check_memory(spec, request, run_shapes(spec))
    machine = None if on is None else get_device(on)
    shapes = _shapes(spec, request, machine)
    done = Done()
    if machine is None:
        done = done_of(spec, request, latency="predicted" if shapes is None else "measured")
    batch = largest_batch(spec)
    run = run_shapes(spec, batch_size=batch)
    run_s, source = _seconds(spec, run, request, machine)
    work = _Work.of(spec, request, run, done, table_s=0.0 if shapes is None else shapes.seconds)
    sizes = _sizes(run, request, batch, machine)
    steps = work.steps(run_s / batch, slower(request, machine))
    is_enough = sizes.fits and sum(steps.values()) <= LONG_S
    return SearchPlan(
        model=spec.name,
        machine="" if machine is None else machine.name,
        prompts=spec.prompts.source,
        sizes=sizes,
        pictures=work.search,
        held_out=work.held_out,
        budget=request.budget,
        picture_s=run_s / batch,
        trial_s=work.search * run_s / batch * slower(request, machine),
        steps_s=steps,
        source=source,
        references_bytes=work.references * _media_bytes(run),
        database_bytes=DATABASE_BYTES
        + request.budget * (TRIAL_BYTES + LINEAR_BYTES * len(run.table.linears)),
        shapes=shapes,
        done=done,
        would_help=() if sizes.fits else tuple(advice(run, sizes)),
        machines=() if is_enough else tuple(_machines(spec, request, run, sizes.machine)),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Work:
    """What a search has to do, in pictures: the same on every machine.

    Attributes:
        search, held_out: prompts.
        references: bf16 pictures in all, and of the held-out prompts if the others are there.
        to_draw: those that are still to be drawn.
        sensitivities: what measuring layer sensitivities takes, in bf16 pictures.
        baselines, trials, lists: how many are still to be scored, or verified at most.
        table_s: seconds of the table of shapes.
    """

    search: int
    held_out: int
    references: int
    to_draw: int
    sensitivities: float
    baselines: int
    trials: int
    lists: int
    table_s: float

    @classmethod
    def of(
        cls, spec: StudySpec, request: SearchRequest, run: ShapeRun, done: Done, *, table_s: float
    ) -> "_Work":
        search, held_out = len(spec.prompts.search), len(spec.prompts.held_out)
        one_by_one = search if run.table.batch_size > 1 else 0  # for the noise floor
        others = min(OTHER_PROMPTS, search)
        references = search + one_by_one + held_out + others
        listed = 1 + len(request.formats) + len(spec.published)  # by hand, and the bounds but bf16
        known = done.has_begun
        return cls(
            search=search,
            held_out=held_out,
            references=references,
            to_draw=held_out + others if known else references,
            sensitivities=0.0 if known else _calibration_pictures(spec, request, run),
            baselines=max(0, 1 + listed - done.baselines),
            trials=max(0, request.budget - done.trials),
            lists=min(NEAR + ANSWERS, request.budget) + listed,
            table_s=table_s,
        )

    def steps(self, picture_s: float, factor: float) -> dict[str, float]:
        """{step: its seconds}.

        Args:
            picture_s: seconds of a bf16 picture.
            factor: a quantized picture's seconds over that.
        """
        table = {"shape table": self.table_s} if self.table_s else {}
        drawn = picture_s * factor
        baselines = f"up to {self.baselines} baselines" if self.baselines else "baselines"
        return table | {
            "bf16 references and noise floor": self.to_draw * picture_s,
            "layer sensitivities": self.sensitivities * picture_s,
            baselines: self.baselines * self.search * drawn,
            f"{self.trials} trials": self.trials * self.search * drawn,
            f"verification of up to {self.lists} skip-lists": self.lists * self.held_out * drawn,
        }


def _seconds(
    spec: StudySpec, run: ShapeRun, request: SearchRequest, machine: Device | None
) -> tuple[float, str]:
    """Seconds of one bf16 run, and where they come from."""
    if machine is not None:
        return seconds_on(run, machine)
    return seconds_of_run(spec, run, request.device)


def _sizes(
    run: ShapeRun, request: SearchRequest, batch: int, machine: Device | None
) -> SizeEstimate:
    if machine is None:
        return estimate_sizes(run, batch_size=batch, device=request.device)
    return estimate_sizes(
        run, batch_size=batch, device="cuda", free=machine.memory_bytes, machine=machine.name
    )


def _machines(
    spec: StudySpec, request: SearchRequest, run: ShapeRun, but: str
) -> list[MachineTime]:
    """What the search would take, from its beginning, on each GPU but one where it fits."""
    batch, found = run.table.batch_size, []
    work = _Work.of(spec, request, run, Done(), table_s=0.0)
    for machine in map(get_device, DEVICES):
        if machine.name == but or not _sizes(run, request, batch, machine).fits:
            continue
        picture_s = seconds_on(run, machine)[0] / batch
        steps = work.steps(picture_s, slower(request, machine))
        found.append(MachineTime(name=machine.name, total_s=sum(steps.values())))
    return sorted(found, key=lambda own: own.total_s)


def _shapes(spec: StudySpec, request: SearchRequest, machine: Device | None) -> TableWork | None:
    """What of the table of shapes is missing; None where prices are predicted.

    Raises:
        UserError: prices cannot be measured, and were to be.
    """
    runtime = choose_runtime(request.runtime)
    if machine is not None:
        if _source_on(spec, request, machine) == "predicted":
            return None
        run = run_shapes(spec)
        priced, classes = at_priced_scale(run.table, spec), tuple(run.classes)
        return table_work_anew(
            spec.name, priced, classes, request.formats, device=machine.name, runtime=runtime
        )
    source = latency_source(
        spec,
        request.latency,
        target=request.target,
        device=request.device,
        formats=request.priced_formats,
    )
    if source == "predicted":
        return None
    run = run_shapes(spec)
    return table_work(
        spec.name,
        at_priced_scale(run.table, spec),
        tuple(run.classes),
        request.formats,
        KnownTimes.of(device=request.device, mode=runtime.shapes_mode),
        device=request.device,
        runtime=runtime,
    )


def _source_on(spec: StudySpec, request: SearchRequest, machine: Device) -> Source:
    """Where prices come from on another machine, as `latency_source` says for this one."""
    target = get_device(request.target or spec.pricing.target).name
    lacking = [name for name in request.priced_formats if not machine.has(name)]
    can = target == machine.name and not lacking and spec.pricing.stands_for == 1
    if request.latency == "measured" and not can:
        raise UserError(
            f"`latency` is measured, and on the {machine.name} it cannot be: `target` is {target},"
            f" and {', '.join(lacking) or 'no format'} is not native there; expected the GPU that"
            " is priced, at its own size: plan for that, or set `latency` to predicted"
        )
    return "measured" if can and request.latency != "predicted" else "predicted"


def _calibration_pictures(spec: StudySpec, request: SearchRequest, run: ShapeRun) -> float:
    """What calibrating takes, in bf16 pictures: the recorded runs, and what each job takes."""
    if not request.calibrated:
        return 0.0
    calls = sum(call.calls for call in run.calls) or 1
    steps = spec.settings.get("num_inference_steps")
    steps = steps if isinstance(steps, int) and steps > 0 else calls
    candidates, denoisers = _candidates(spec, request, run), len(spec.model.denoisers)
    if candidates is None:
        return 0.0
    jobs = list(jobs_of(candidates).values())
    size = RunSize(steps=steps, denoisers=denoisers, prompts=len(spec.prompts.search))
    estimator = choose_estimator(jobs, run=size)
    if estimator.unit == "linear":
        jobs = [linear for job in jobs for linear in job.linears]
    own = estimator.picture_calls(jobs, states=estimator.default_states(steps))
    if estimator.inputs == "steps":
        own *= calls / steps / denoisers
    by_step = min(PROMPTS, size.prompts) * steps_of_runs(candidates) / steps
    return min(estimator.default_prompts, size.prompts) * (1 + own / calls) + by_step


def _candidates(spec: StudySpec, request: SearchRequest, run: ShapeRun) -> Candidates | None:
    """What is searched; None where no Linear takes a format."""
    limits = limits_of(request.consumers, request.formats, fqns=run.table.fqns, classes=run.classes)
    policies, steps = policies_for(
        request.steps_asked, run.table, request.consumers, request.formats, run.classes
    )
    try:
        return make_candidates(
            at_priced_scale(run.table, spec),
            spec,
            formats=request.formats,
            latency=latency_model(spec, request.target),
            granularity=request.granularity,
            limits=limits,
            policies=policies,
            steps=steps,
        )
    except FormatError:
        return None


def _media_bytes(run: ShapeRun) -> int:
    """Bytes of one picture (fp32) or clip (fp16), as references are kept."""
    settings = dict(run.table.settings)
    sides = [settings.get(key) for key in ("height", "width")]
    pixels = math.prod(side for side in sides if isinstance(side, int))
    frames = frames_in(settings)
    return 3 * pixels * (4 if frames is None else 2 * frames)
