"""A GPU is measured within its time, most valuable shapes first; what is there is kept whatever
happens, and says what is missing.

No process is started and nothing is timed here: a fake does the jobs and moves the clock.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from sensitivity.core.format_name import FormatName
from sensitivity.errors import FormatError, MeasurementError, UserError
from sensitivity.latency.targets.target_file import KernelFitRecord, TargetFile
from sensitivity.latency.timing.device_jobs import Job, JobRunner, Result
from sensitivity.workflows import device_measure, target_writing
from sensitivity.workflows.device_measure import DeviceRequest, measure_device, native_formats
from sensitivity.workflows.device_plan import first_stages, probed_shapes, study_stages
from sensitivity.workflows.measuring_process import ProcessLost
from sensitivity.workflows.study_shapes import StudyRun, StudyShapes

from support.latency import BF16, FP8, NVFP4, flux

FLUX = StudyRun(name="flux", table=flux(1), components=())
US = {"bf16": 20.0, "fp8": 12.0}


@dataclass
class Clock:
    """Seconds that only jobs move."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class FakeProcess:
    """Does each job at once, and lets some seconds pass."""

    clock: Clock
    job_s: float = 1.0
    before: Callable[[Job], None] = lambda _: None
    jobs: list[Job] = field(default_factory=list)
    runner: JobRunner | None = None

    def __call__(self, runner: JobRunner) -> "FakeProcess":
        self.runner = runner
        return self

    def __enter__(self) -> "FakeProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped = True

    def run(self, job: Job, *, patience_s: float) -> Result:
        assert patience_s > 0
        self.clock.now += self.job_s
        self.jobs.append(job)
        self.before(job)
        section = {"linears": "rows", "attention": "rows"}.get(job.kind, job.kind)
        if job.kind == "limits":
            return {"limits": {"copy_bytes_per_s": 4e12, "bf16_flops_per_s": 7e14}}
        if job.kind == "launches":
            return {"host": {"eager_kernel_us": 3.0, "region_fp8_us": "Error: at /home/ann/x.py"}}
        if job.kind == "ulps":
            return {"ulps": []}
        rows = [
            {"key": str(shape), "us": [US.get(str(shape).split()[-1], 5.0)] * 2}
            for shape in job.shapes
        ]
        return {section: rows}


def probe(shapes: Any, *, cache: Any, progress: Any, **_: object) -> None:
    """Every shape with a bias and K = 12288 is refused."""
    for i, shape in enumerate(shapes):
        progress(i, len(shapes), str(shape))
        refused = shape.bias and shape.k == 12288
        row = {
            "outcome": "refused" if refused else "ran",
            "reason": "no kernel" if refused else None,
        }
        cache.save_shape_time({}, "probed", f"probed {shape}", row)
    progress(len(shapes), len(shapes), "")


@dataclass(frozen=True)
class KnownShapes:
    """Shapes of studies that are there already; a `StudyShapes`."""

    runs: Sequence[StudyRun]

    def are_there(self) -> bool:
        return True

    def wait(self) -> Sequence[StudyRun]:
        return self.runs


@contextmanager
def known() -> Iterator[StudyShapes]:
    yield KnownShapes((FLUX,))


@pytest.fixture(autouse=True)
def _an_h200(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU stands for an H200 with FP8."""

    def machine(_device: str, formats: Any, compile_mode: str, name: str | None) -> dict[str, Any]:
        return {
            "name": name or "h200",
            "device": "NVIDIA H200",
            "capability": "9.0",
            "sm_count": 132,
            "memory_bytes": 10**11,
            "versions": {"torch": "2.11.0"},
            "compile_mode": compile_mode,
            "formats": [one.value for one in formats],
            "driver": "580.1",
            "cpu": "toy CPU",
        }

    monkeypatch.setattr(device_measure, "describe_machine", machine)
    monkeypatch.setattr(device_measure, "native_formats", lambda *_: (FP8,))
    monkeypatch.setattr(target_writing, "fit_target", lambda _: KernelFitRecord())


def measure(
    process: FakeProcess, minutes: float = 60, **options: Any
) -> tuple[TargetFile, list[TargetFile]]:
    saved: list[TargetFile] = []
    found = measure_device(
        DeviceRequest(device="cpu", minutes=minutes),
        **{
            "save": saved.append,
            "studies": known,
            "process": process,
            "probe": probe,
            "clock": process.clock,
        }
        | options,
    )
    return found, saved


def test_everything_is_measured_if_there_is_time() -> None:
    """A complete file has Linears, GEMMs and quantizers, limits, host costs, refusals and a fit; it
    is saved on the way, and holds no path of this machine.
    """
    process = FakeProcess(Clock())
    target, saved = measure(process)
    assert target.complete
    assert target.notes == ()
    keys = {row.key for row in target.rows}
    assert {
        "linear m=512 k=3072 n=3072 bias=1 fp8",
        "linear m=1 k=3072 n=18432 bias=1 bf16",
        "eager-linear m=1 k=3072 n=6144 bias=1 bf16",
    } <= keys
    assert len(target.gemms) > 200
    assert len(target.quantizers) == 12
    assert {r.k for r in target.refusals} == {12288}
    assert target.kernels == KernelFitRecord()
    assert target.host["region_fp8_us"] == "Error: at <path>"
    assert saved[-1] == target
    assert len(saved) > 5
    assert not any(one.complete for one in saved[:-1])
    assert process.runner is not None
    assert process.runner.formats == (FP8,)


def test_the_time_limit_is_kept_and_what_is_missing_is_said() -> None:
    """No job begins after the time; stages get their parts, and the notes count what is missing."""
    process = FakeProcess(Clock(), job_s=2.0)
    target, _ = measure(process, minutes=3)
    assert process.clock.now <= 180
    assert not target.complete
    kinds = [job.kind for job in process.jobs]
    assert kinds[:2] == ["limits", "launches"]
    assert {"gemms", "linears", "quantizers"} <= set(kinds)
    assert "of the stage 'kernels of the grid' are missing" in target.notes[0]


def test_a_process_that_is_lost_is_a_reason() -> None:
    """The rows of the job that killed it have the reason, and the next job goes on."""

    def kill(job: Job) -> None:
        if job.kind == "linears" and job.shapes[0].k == 15360:
            raise ProcessLost("the process died (SIGABRT)")

    target, _ = measure(FakeProcess(Clock(), before=kill))
    lost = [row for row in target.rows if row.reason is not None]
    assert {row.key.split()[2] for row in lost} == {"k=15360"}
    assert lost[0].reason == "the process died (SIGABRT)"
    assert any(row.us for row in target.rows)


def test_an_interruption_keeps_what_is_there() -> None:
    """Ctrl-C ends the measurement; the file holds the rows so far, and says so."""

    def interrupt(job: Job) -> None:
        if job.kind == "linears":
            raise KeyboardInterrupt

    target, saved = measure(FakeProcess(Clock(), before=interrupt))
    assert not target.complete
    assert "it was interrupted" in target.notes
    assert target.gemms
    assert saved[-1] == target


def test_the_same_measurement_goes_on() -> None:
    """What an incomplete file of this machine has is not measured again, and its minutes count; a
    file of other versions, or a complete one, is measured anew.
    """
    first = FakeProcess(Clock(), job_s=2.0)
    part, _ = measure(first, minutes=3)
    second = FakeProcess(Clock(), job_s=2.0)
    whole, _ = measure(second, earlier=part)
    assert whole.complete
    twice = {job.kind for job in set(first.jobs) & set(second.jobs)}
    assert twice <= {"ulps"}  # the fake finds none
    assert whole.minutes > part.minutes
    kept = {row.key for row in part.gemms} | {row.key for row in part.rows}
    assert kept <= {row.key for row in whole.gemms} | {row.key for row in whole.rows}
    elsewhere = FakeProcess(Clock(), job_s=2.0)
    measure(elsewhere, minutes=3, earlier=part.model_copy(update={"cpu": "another"}))
    assert [job.kind for job in elsewhere.jobs][:2] == ["launches", "gemms"]
    for other in (part.model_copy(update={"driver": "1.2"}), whole):
        again = FakeProcess(Clock(), job_s=2.0)
        measure(again, minutes=3, earlier=other)
        assert again.jobs[0].kind == "limits"


def test_studies_that_cannot_be_run_leave_the_rest() -> None:
    """Without the studies' shapes the grid is measured all the same."""

    class Broken(KnownShapes):
        def are_there(self) -> bool:
            return False

        def wait(self) -> Any:
            raise MeasurementError("the process that runs the studies died")

    @contextmanager
    def broken() -> Iterator[StudyShapes]:
        yield Broken(())

    target, _ = measure(FakeProcess(Clock()), studies=broken)
    assert not target.complete
    assert "the process that runs the studies died" in target.notes
    assert target.gemms
    assert target.rows == ()


def test_nothing_measured_is_an_error() -> None:
    """A GPU on which every job fails gives no file."""

    def lose(_job: Job) -> None:
        raise ProcessLost("CUDA error: no kernel image")

    with pytest.raises(MeasurementError, match="nothing was measured on NVIDIA H200"):
        measure(FakeProcess(Clock(), before=lose))
    with pytest.raises(UserError, match="torch sees 0 CUDA devices"):
        measure_device(DeviceRequest(device="cuda"))


def test_valuable_shapes_come_first() -> None:
    """Of FLUX, the largest part of the run's time is first; bf16 stands beside each format; the
    first of the grid hold every kind of shape.
    """
    stages = {stage.name: stage for stage in study_stages([FLUX], (FP8,), quick=False)}
    linears = stages["Linears of the studies"].jobs
    first = [job.shapes[0] for job in linears[:3]]
    assert {(shape.m, shape.k, shape.n) for shape in first} == {
        (4608, 3072, 3072),
        (4608, 3072, 12288),
        (4608, 15360, 3072),
    }
    assert {shape.format for shape in linears[0].shapes} == {BF16, FP8}
    grid = first_stages((FP8, NVFP4))[-1].jobs
    assert len({job.shapes[0].m for job in grid[:11]}) > 6
    assert len({job.shapes[0].k for job in grid[:11]}) > 6
    assert {shape.format for shape in grid[0].shapes} == {BF16, FP8, NVFP4}
    parts = [stage.part for stage in (*first_stages((FP8,)), *stages.values())]
    assert sum(parts) < 1.5


def test_small_rows_are_probed_for_every_weight() -> None:
    """Every weight that the format takes is tried with its own M and with small and odd ones."""
    shapes = probed_shapes([FLUX], (FormatName.FP8, FormatName.NVFP4))
    of_one = {s.m for s in shapes if (s.k, s.n, s.format) == (12288, 3072, FP8)}
    assert {1, 14, 32, 33, 512, 4096} <= of_one
    assert all(s.format.is_quantized for s in shapes)


def test_formats_that_are_named_must_run_natively() -> None:
    """The usual formats are measured as far as they are native, which none is on a CPU; one that is
    asked for and is not native is an error with its reason.
    """
    assert native_formats("cpu") == ()
    expected = "`format`: int8 .* cpu device: .*, or leave it out"
    with pytest.raises(FormatError, match=expected):
        native_formats("cpu", (FormatName.INT8,))
