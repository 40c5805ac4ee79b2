"""What is one step of measuring a GPU? `Job`, and `JobRunner`, which does it.

A job is small data that another process can be sent: a kind and the shapes that it is about. Its
result is rows by section, as a target file has them ({"gemms": [...]}).

    runner = JobRunner(device="cuda", compile_mode="reduce-overhead", pace=QUICK)
    runner.run(Job(kind="gemms", shapes=(GemmShape(...),)))

Conventions. Rows are `ShapeTime`s in JSON. A shape that fails is a row with its reason; the
job goes on.

What it does not do: choose jobs, or keep their results (`workflows.device_measure`).
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import torch

from sensitivity.core.devices import free_memory, release_memory
from sensitivity.core.format_name import CompileMode, FormatName
from sensitivity.errors import FormatError
from sensitivity.formats.native_check import CheckedShape, compare_native
from sensitivity.latency.kernel_shapes import GemmShape, QuantizerShape
from sensitivity.latency.shape_times import LinearShape, ShapeTime, attention_key
from sensitivity.latency.timing.kernel_runs import KernelRuns
from sensitivity.latency.timing.machine_limits import (
    COPIED_BYTES,
    PEAK_SIZES,
    launch_costs,
    measure_limits,
)
from sensitivity.latency.timing.shape_timing import Bench, measure_shapes
from sensitivity.latency.timing.stopwatch import (
    Run,
    copies_past_cache,
    device_of,
    failure_reason,
    stopwatch_for,
    time_runs,
)
from sensitivity.latency.timing.torch_settings import preserved_settings
from sensitivity.shapes.census import AttentionShape

Kind = Literal["limits", "launches", "gemms", "quantizers", "linears", "attention", "ulps"]
HEAVY_FLOPS, LIGHT_SETTLE_S = 2e10, 0.02
"""A GEMM of fewer FLOPs needs no long load before it is timed under load."""
Result = dict[str, Any]
"""{section of the target file: its rows, or its values}."""


def _is_heavy(shape: GemmShape | QuantizerShape) -> bool:
    """Whether a kernel draws so much power that the GPU lowers its clock."""
    return isinstance(shape, GemmShape) and 2 * shape.m * shape.k * shape.n >= HEAVY_FLOPS


def _probe_nothing(*_shapes: object, **_options: object) -> dict[Any, Any]:
    return {}


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One step.

    Attributes:
        kind: What is measured.
        shapes: What it is about: of GEMMs, quantizers or Linears, those of one (M, K, N) in all
            formats; () for limits and launches.
        name: What progress calls it.
    """

    kind: Kind
    shapes: tuple[Any, ...] = ()
    name: str = ""

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of its rows."""
        return tuple(
            attention_key(shape) if isinstance(shape, AttentionShape) else str(shape)
            for shape in self.shapes
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """How much care each row gets.

    Attributes:
        repetitions: Timed runs, rested and again under load.
        pause_s: Idle seconds before each repetition on a rested GPU.
        settle_s: Seconds of load before the repetitions under steady load.
    """

    repetitions: int
    pause_s: float
    settle_s: float


QUICK = Pace(repetitions=5, pause_s=0.005, settle_s=0.1)
COMPLETE = Pace(repetitions=7, pause_s=0.01, settle_s=0.2)


@dataclass(frozen=True, kw_only=True)
class JobRunner:
    """Does jobs on one device.

    Attributes:
        device: "cuda" or "cuda:N"; "cpu" runs too, for tests.
        compile_mode: How the priced run is compiled.
        pace: How much care each row gets.
        formats: The quantized formats that are measured.
        bench: Replaces parts of measuring Linears, in tests.
        kernels: Replaces the kernels that are timed alone, in tests.
        copied_bytes, sizes: See `measure_limits`.
    """

    device: str
    compile_mode: CompileMode
    pace: Pace
    formats: tuple[FormatName, ...]
    bench: Bench | None = None
    kernels: KernelRuns | None = None
    copied_bytes: int = COPIED_BYTES
    sizes: tuple[int, ...] = PEAK_SIZES

    def run(self, job: Job) -> Result:
        """Do one job. What fails is a row with its reason, where the job has rows."""
        with torch.no_grad(), preserved_settings():
            try:
                return self._run(job)
            finally:
                release_memory(self._device)

    def _run(self, job: Job) -> Result:
        match job.kind:
            case "limits":
                return {
                    "limits": measure_limits(
                        self._device,
                        repetitions=self.pace.repetitions,
                        copied_bytes=self.copied_bytes,
                        sizes=self.sizes,
                        settle_s=2.5 * self.pace.settle_s,
                    )
                }
            case "launches":
                return {
                    "host": launch_costs(
                        self._device,
                        self.formats,
                        quantize=self._bench.quantize,
                        backend=self._bench.backend,
                    )
                }
            case "gemms" | "quantizers":
                return {job.kind: self._time_kernels(job.shapes)}
            case "linears":
                return {"rows": self._time_linears(job.shapes)}
            case "attention":
                return {"rows": self._time_linears((), job.shapes)}
            case "ulps":
                return {"ulps": self._compare(job.shapes)}

    def _compare(self, shapes: tuple[GemmShape, ...]) -> list[dict[str, Any]]:
        """Native kernels against emulation; a format without native kernels has no rows."""
        rows: list[dict[str, Any]] = []
        for shape in shapes:
            product = CheckedShape(shape.m, shape.k, shape.n, bias=shape.bias)
            with suppress(FormatError):
                found = compare_native(shape.format, self._device, shapes=(product,))
                rows += [row.to_json() for row in found]
        return rows

    @property
    def _device(self) -> torch.device:
        return device_of(self.device)

    @property
    def _bench(self) -> Bench:
        """Parts of the measurement, with this runner's pace; no further process probes.

        A `Bench` cannot be sent to a child, so a runner that is sent has none.
        """
        return self.bench or Bench(
            pause_s=self.pace.pause_s, settle_s=self.pace.settle_s, probe=_probe_nothing
        )

    @property
    def _pauses(self) -> Mapping[str, float]:
        if self._device.type != "cuda":
            return {}
        return {"pause_s": self.pace.pause_s, "settle_s": self.pace.settle_s}

    def _time_linears(
        self, shapes: tuple[LinearShape, ...], attention: tuple[AttentionShape, ...] = ()
    ) -> list[dict[str, Any]]:
        times = measure_shapes(
            shapes,
            attention=attention,
            device=self.device,
            compile_mode=self.compile_mode,
            repetitions=self.pace.repetitions,
            bench=self._bench,
        )
        return [row.to_json() for row in times.rows.values()]

    def _time_kernels(self, shapes: tuple[GemmShape | QuantizerShape, ...]) -> list[dict[str, Any]]:
        kernels = self.kernels or KernelRuns(
            device=self._device,
            stopwatch=self._bench.stopwatch or stopwatch_for(self._device, self.compile_mode),
            backend=self._bench.backend,
        )
        rows = []
        for shape in shapes:
            row = self._time_kernel(kernels, shape)
            rows.append(row.to_json())
            free_memory(self._device)
        return rows

    def _time_kernel(self, kernels: KernelRuns, shape: GemmShape | QuantizerShape) -> ShapeTime:
        try:
            copies = copies_past_cache(shape.call_bytes, self._device)
            run: Run = (
                kernels.gemm(shape, copies)
                if isinstance(shape, GemmShape)
                else kernels.quantizer(shape, copies)
            )
            pauses = dict(self._pauses)
            if pauses and not _is_heavy(shape):
                pauses |= {"settle_s": LIGHT_SETTLE_S}
            times = time_runs({0: run}, repetitions=self.pace.repetitions, **pauses)[0]
        except Exception as error:
            return ShapeTime(key=str(shape), reason=failure_reason(error))
        return ShapeTime(key=str(shape), us=times.steady, rested_us=times.rested, copies=copies)
