"""How is a GPU measured within a few minutes, and what is kept? `measure_device`.

    target = measure_device(DeviceRequest(device="cuda", quick=True), save=write)

Method. The studies are run without weights for their shapes (`device_plan`), jobs are done in a
child process that a kernel may kill (`measuring_process`), shapes that kernels refuse are found by
trying them (`latency.timing.probing`), and the rows become one target file
(`latency.targets.target_file`). Each stage of the plan may take its part of the time; what is left
undone is done at the end if time remains. `save` gets the file again and again, so an interruption
loses a few rows. A file that is not complete says what is missing.

What it does not do: read weights, or send anything anywhere.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from sensitivity.core.devices import check_device
from sensitivity.core.format_name import DEFAULT_FORMATS, CompileMode, FormatName
from sensitivity.errors import FormatError, MeasurementError
from sensitivity.formats.registry import get_format
from sensitivity.latency.targets.target_file import TargetFile
from sensitivity.latency.timing.device_jobs import COMPLETE, QUICK, Job, JobRunner, Result
from sensitivity.latency.timing.probing import probe_shapes
from sensitivity.latency.timing.shape_timing import machine_of
from sensitivity.latency.timing.stopwatch import device_of
from sensitivity.workflows.device_plan import (
    Stage,
    first_stages,
    probed_shapes,
    study_stages,
)
from sensitivity.workflows.measuring_process import MeasuringProcess, ProcessLost
from sensitivity.workflows.progress import Say, silent
from sensitivity.workflows.study_shapes import StudyRun, StudyShapes, running_studies
from sensitivity.workflows.target_writing import Sections, describe_machine, is_of, target_of

Progress = Callable[[float, float, str], None]
"""(seconds gone, seconds in all, what is measured next or "")."""
Save = Callable[[TargetFile], object]
SAVE_EVERY_S = 20.0
"""Seconds after which the file is saved again."""
PATIENCE_S = 150.0
"""Seconds that one job may take, compiling included."""
PROBING_PART, PROBING_LEAST_S = 0.1, 25.0
"""The part of the time that is kept for finding refused shapes, and its least."""
FITTING_S = 10.0
"""Seconds that are kept for the fit."""
_SMALL: dict[str, Any] = {"copied_bytes": 2**20, "sizes": (64,)}
"""What a CPU, which stands for a GPU in tests, copies and multiplies."""
MINUTES = {True: 3.0, False: 10.0}
"""{whether it is quick: minutes}."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceRequest:
    """What is measured.

    Attributes:
        device: "cuda" or "cuda:N"; the library takes "cpu" too, for tests.
        quick: Whether it takes 3 minutes instead of 10.
        minutes: The time limit; None is that of `quick`.
        compile_mode: How the priced run is compiled.
        name: What the target is called; None is the chip's name.
        formats: The quantized formats that are measured; () are those of `DEFAULT_FORMATS` that
            run natively.
    """

    device: str = "cuda"
    quick: bool = False
    minutes: float | None = None
    compile_mode: CompileMode = "reduce-overhead"
    name: str | None = None
    formats: tuple[FormatName, ...] = ()

    @property
    def limit_s(self) -> float:
        """Seconds that it may take."""
        return 60 * (MINUTES[self.quick] if self.minutes is None else self.minutes)


@dataclass
class _Session:
    """One call of `measure_device`."""

    request: DeviceRequest
    formats: tuple[FormatName, ...]
    save: Save
    progress: Progress
    clock: Callable[[], float]
    machine: dict[str, Any]
    sections: Sections = field(default_factory=Sections)
    before_s: float = 0.0
    started: float = 0.0
    saved: float = 0.0
    undone: int = 0

    @property
    def gone_s(self) -> float:
        return self.clock() - self.started

    @property
    def left_s(self) -> float:
        return self.request.limit_s - FITTING_S - self.gone_s

    def keep(self, result: Result) -> None:
        """Keep a result, and save the file if the last time is long ago."""
        self.sections.add(result)
        if self.clock() - self.saved > SAVE_EVERY_S:
            self.write(complete=False, fit=False)

    def write(self, *, complete: bool, fit: bool) -> TargetFile:
        """Make the file of what there is, and save it."""
        target = target_of(
            self.machine,
            self.sections,
            minutes=(self.before_s + self.gone_s) / 60,
            complete=complete,
            fit=fit,
        )
        self.save(target)
        self.saved = self.clock()
        return target

    def tell(self, name: str) -> None:
        self.progress(self.gone_s, self.request.limit_s, name)


def measure_device(
    request: DeviceRequest,
    *,
    earlier: TargetFile | None = None,
    save: Save = lambda _target: None,
    progress: Progress = lambda _gone, _all, _name: None,
    say: Say = silent,
    studies: Callable[[], AbstractContextManager[StudyShapes]] = running_studies,
    process: Callable[[JobRunner], MeasuringProcess] = MeasuringProcess,
    probe: Callable[..., Any] = probe_shapes,
    clock: Callable[[], float] = time.monotonic,
) -> TargetFile:
    """Measure a GPU.

    Args:
        request: What is measured.
        earlier: A file of this GPU, versions and compile mode that is not complete; what it has is
            not measured again.
        save: Called with the file of what is there, every few seconds and at the end.
        progress: Called before each job.
        say: Called with what begins.
        studies, process, probe, clock: Give the studies' shapes, do jobs, try shapes and tell the
            time; tests replace them.

    Returns:
        The target file. After a KeyboardInterrupt it holds what was measured until then, and says
        so.

    Raises:
        UserError: There is no such GPU.
        FormatError: A format of the request does not run natively there.
        MeasurementError: Nothing could be measured.
    """
    check_device(request.device, gpu_only=request.device != "cpu")
    session = _begin(request, earlier, save, progress, clock, say)
    interrupted = False
    try:
        with studies() as shapes, process(_runner(session)) as worker:
            _run_stages(session, shapes, worker, say)
            runs = shapes.wait() if shapes.are_there() else ()
        _probe(session, runs, probe, say)
    except KeyboardInterrupt:
        interrupted = True
        session.sections.note("it was interrupted")
    if not session.sections.has_times:
        raise MeasurementError(
            f"nothing was measured on {session.machine['device']}"
            f" ({session.sections.first_reason}); expected times of some shapes: run `sensitivity"
            " doctor`, and try again with more time (`minutes`)"
        )
    say("fitting the kernel constants")
    session.tell("")
    return session.write(complete=not interrupted and not session.undone, fit=True)


def _begin(
    request: DeviceRequest,
    earlier: TargetFile | None,
    save: Save,
    progress: Progress,
    clock: Callable[[], float],
    say: Say,
) -> _Session:
    """A session, with what an earlier file of this machine has unless that is complete."""
    started = clock()
    formats = native_formats(request.device, request.formats)
    machine = describe_machine(request.device, formats, request.compile_mode, request.name)
    session = _Session(
        request=request,
        formats=formats,
        save=save,
        progress=progress,
        clock=clock,
        machine=machine,
        started=started,
        saved=started,
    )
    if earlier is not None and is_of(earlier, machine) and not earlier.complete:
        say(f"going on with the {earlier.minutes:.1f} minutes that were measured before")
        session.sections = Sections.of(earlier, cpu=machine.get("cpu", ""))
        session.before_s = 60 * earlier.minutes
    return session


def _runner(session: _Session) -> JobRunner:
    request = session.request
    return JobRunner(
        device=request.device,
        compile_mode=request.compile_mode,
        pace=QUICK if request.quick else COMPLETE,
        formats=session.formats,
        **(_SMALL if request.device == "cpu" else {}),
    )


def native_formats(device: str, wanted: Sequence[FormatName] = ()) -> tuple[FormatName, ...]:
    """The formats that are measured on a device: `wanted`, or those of `DEFAULT_FORMATS` that run
    natively.

    Raises:
        FormatError: One of `wanted` does not run natively.
    """
    where = device_of(device)
    reasons = {name: get_format(name).native_refusal(where) for name in wanted or DEFAULT_FORMATS}
    for reason in (reasons[name] for name in wanted):
        if reason is not None:
            raise FormatError(f"`format`: {reason}, or leave it out")
    return tuple(name for name, reason in reasons.items() if reason is None)


def _run_stages(session: _Session, shapes: StudyShapes, worker: MeasuringProcess, say: Say) -> None:
    """Every stage within its part of the time, then what is left of each."""
    request, formats = session.request, session.formats
    whole_s = max(0.0, session.left_s - max(PROBING_LEAST_S, PROBING_PART * request.limit_s))
    end_s = session.gone_s + whole_s
    left: list[tuple[Stage, tuple[Job, ...]]] = []

    def run(stages: tuple[Stage, ...], is_over: Callable[[], bool] = lambda: False) -> None:
        for stage in stages:
            say(f"measuring {stage.name}")
            until_s = min(end_s, session.gone_s + stage.part * whole_s)
            left.append((stage, _run_jobs(session, stage.jobs, worker, until_s, is_over)))

    first = first_stages(formats)
    run(first[:-1])
    run(first[-1:], shapes.are_there)
    say("waiting for the studies' shapes, which are run without weights")
    try:
        run(study_stages(shapes.wait(), formats, quick=request.quick))
    except MeasurementError as error:
        session.undone += 1
        session.sections.note(str(error))
    for stage, jobs in left:
        undone = _run_jobs(session, jobs, worker, end_s)
        if undone:
            session.undone += len(undone)
            session.sections.note(
                f"{len(undone)} of {len(stage.jobs)} measurements of the stage '{stage.name}' are"
                " missing: the time was over"
            )


def _run_jobs(
    session: _Session,
    jobs: tuple[Job, ...],
    worker: MeasuringProcess,
    until_s: float,
    is_over: Callable[[], bool] = lambda: False,
) -> tuple[Job, ...]:
    """Do jobs until a time, or until something else is over; the jobs that are left."""
    for done, job in enumerate(jobs):
        if session.sections.has(job):
            continue
        if session.gone_s >= until_s or is_over():
            return jobs[done:]
        session.tell(job.name)
        patience_s = max(5.0, min(PATIENCE_S, session.left_s))
        try:
            session.keep(worker.run(job, patience_s=patience_s))
        except ProcessLost as lost:
            session.keep(_lost(job, str(lost)))
    return ()


def _lost(job: Job, reason: str) -> Result:
    """The rows of a job whose process was lost."""
    section = {"linears": "rows", "gemms": "gemms", "quantizers": "quantizers"}.get(job.kind)
    if section is None:
        return {"failed": [f"{job.name}: {reason}"]}
    return {section: [{"key": str(shape), "reason": reason} for shape in job.shapes]}


def _probe(
    session: _Session, runs: Sequence[StudyRun], probe: Callable[..., Any], say: Say
) -> None:
    """Find refused shapes, as far as the time allows."""
    shapes = probed_shapes(runs, session.formats)
    if not shapes:
        return
    say(f"trying {len(shapes)} shapes that kernels may refuse")
    kept = _KeptProbes(session.sections.probes)

    def tell(_done: int, _total: int, key: str) -> None:
        session.tell(key)
        if key and session.left_s < 0:
            raise _TimeOver

    try:
        probe(
            shapes,
            device=session.request.device,
            machine=machine_of(session.request.device),
            cache=kept,
            progress=tell,
        )
    except _TimeOver:
        session.undone += 1
        session.sections.note(
            f"{len(kept.rows)} of {len(shapes)} shapes were tried for refusals: the time was over"
        )
    finally:
        session.sections.probes |= {
            key: (row["outcome"], row["reason"]) for key, row in kept.rows.items()
        }


class _TimeOver(Exception):  # noqa: N818 - it is no error
    """The time is over while shapes are tried."""


class _KeptProbes:
    """Keeps results of `probe_shapes` in memory. It is a `ShapeTimeCache`."""

    def __init__(self, known: Mapping[str, tuple[str, str | None]]) -> None:
        self.rows: dict[str, dict[str, Any]] = {
            key: {"outcome": outcome, "reason": reason} for key, (outcome, reason) in known.items()
        }

    def find_shape_times(
        self, _machine: Mapping[str, str], _compile_mode: str
    ) -> dict[str, dict[str, Any]]:
        """See `ShapeTimeCache`."""
        return self.rows

    def save_shape_time(
        self, _machine: Mapping[str, str], _compile_mode: str, key: str, row: Mapping[str, Any]
    ) -> None:
        """See `ShapeTimeCache`."""
        self.rows[key] = dict(row)
