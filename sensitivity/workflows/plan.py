"""What will a search take? `plan_search`: memory, seconds and disk, before anything is loaded.

    plan = plan_search(resolve_spec("flux1-dev"), SearchRequest(budget=50, device="cuda"))
    plan.sizes.peak.nbytes, plan.trial_s, plan.total_s, plan.disk_bytes
    plan.shapes                                     # what is measured first; None if predicted

Memory comes from `workflows.sizing`. Seconds of bf16 come from the first of these that is there:

1. On the CPU, for up to `TIMED_BYTES` of weights and `TIMED_S` of time: denoiser calls with random
   weights, timed here. The other components are taken to reach the same FLOP/s.
2. The price model, if it knows this GPU.
3. FLOPs over the rate of a plain GEMM that is timed here. This is a guess.

A quantized trial takes longer than bf16 by the factors in `EMULATED`. `source` says where the
seconds come from. Each number is an estimate of its own, and none is a promise.

Left out: reading weights, compiling, LPIPS (milliseconds a picture), and what a finished search
knows already. No weight is read and no file is written.
"""

import math
import time
from dataclasses import dataclass
from typing import Any

import torch

from sensitivity.core.environment import describe_environment
from sensitivity.core.format_name import FormatName
from sensitivity.errors import FormatError
from sensitivity.fidelity.evaluator import OTHER_PROMPTS
from sensitivity.latency.devices import find_device
from sensitivity.latency.predicted import PredictedLatency
from sensitivity.latency.pricer import at_priced_scale, latency_model
from sensitivity.latency.runtimes import choose_runtime
from sensitivity.latency.timing.tensors import materialize
from sensitivity.models.random_weights import random_component
from sensitivity.search.calibration.choosing import RunSize, choose_estimator
from sensitivity.search.calibration.jobs import Job, jobs_of
from sensitivity.search.grouping import make_candidates
from sensitivity.search.shortlist import ANSWERS, NEAR
from sensitivity.shapes.census import ComponentCounts
from sensitivity.shapes.run import run_shapes
from sensitivity.shapes.shape_run import ShapeRun
from sensitivity.spec.call_names import frames_in
from sensitivity.spec.prompts import PromptSource
from sensitivity.spec.study_spec import StudySpec
from sensitivity.workflows.latency_source import latency_source
from sensitivity.workflows.requests import SearchRequest
from sensitivity.workflows.sizing import SizeEstimate, estimate_sizes, largest_batch
from sensitivity.workflows.table_work import KnownTimes, TableWork, table_work

TIMED_BYTES = 2_000_000_000
"""Most bytes of denoiser weights that are timed on the CPU."""
TIMED_S = 10.0
"""Most seconds that these calls may take there, at the rate of a GEMM."""
CALLS = 3
"""Timed calls of each distinct denoiser call; the quickest counts."""
EMULATED = {FormatName.FP8: 1.0, FormatName.MXFP8: 1.24, FormatName.NVFP4: 1.58}
"""Seconds of a Linear in an emulated format over bf16. Measured on an H100, compiled, with M =
4608, K = 3072, N = 12288 (0.50 ms in bf16, 0.62, 0.79). FP8 is native there.
"""
EMULATED_ON_CPU = 1.8 / 1.34
"""The same for a whole trial of tiny-flux with everything in NVFP4, on two cores."""
GEMM = {"cpu": 1024, "cuda": 8192}
"""M = K = N of the GEMM that is timed."""
GEMM_S = 0.2
"""Seconds that the GEMM is repeated for."""
DATABASE_BYTES, TRIAL_BYTES, LINEAR_BYTES = 200_000, 4_000, 100
"""Of an empty database with its tables; of each trial; of each trial for each Linear of the model.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchPlan:
    """What a search is expected to take. Seconds are those of `sizes.device`.

    Attributes:
        model: the study's name.
        prompts: what was read of the file of prompts; None if the study states them.
        sizes: predicted memory.
        pictures: pictures (or clips) of one trial.
        held_out: pictures of one verified skip-list.
        picture_s: seconds of a picture in bf16: a pipeline call divided by its batch.
        trial_s: seconds of a trial whose Linears are all quantized.
        steps_s: {step: its seconds} of the whole search.
        source: where `picture_s` comes from, in words.
        references_bytes, database_bytes: on disk.
        shapes: the table of shapes that prices are measured with; None where they are predicted.
    """

    model: str
    prompts: PromptSource | None
    sizes: SizeEstimate
    pictures: int
    held_out: int
    picture_s: float
    trial_s: float
    steps_s: dict[str, float]
    source: str
    references_bytes: int
    database_bytes: int
    shapes: TableWork | None = None

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
            "memory": self.sizes.to_json(),
            "pictures_a_trial": self.pictures,
            "held_out_pictures": self.held_out,
            "prompts": None if self.prompts is None else self.prompts.to_json(),
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
        }


def plan_search(spec: StudySpec, request: SearchRequest) -> SearchPlan:
    """Estimate what the search would take. A model that does not fit is no error here.

    Raises:
        UserError: and its kinds, for a model that cannot be run, or prices that cannot be measured.
        MeasurementError: the pipeline cannot be run without weights.
    """
    shapes = _shapes(spec, request)
    batch = largest_batch(spec)
    run = run_shapes(spec, batch_size=batch)
    run_s, source = _seconds_of_run(spec, run, request.device)
    picture_s = run_s / batch
    trial_picture_s = picture_s * _slower(request)
    search, held_out = len(spec.prompts.search), len(spec.prompts.held_out)
    one_by_one = search if batch > 1 else 0  # for the noise floor
    references = search + one_by_one + held_out + min(OTHER_PROMPTS, search)
    listed = 1 + len(request.formats) + len(spec.published)  # by hand, and the bounds but bf16
    verified = NEAR + ANSWERS + listed
    table = {"shape table": shapes.seconds} if shapes is not None and shapes.missing else {}
    steps = table | {
        "bf16 references and noise floor": references * picture_s,
        "layer sensitivities": _calibration_pictures(spec, request, run) * picture_s,
        f"up to {1 + listed} baselines": (1 + listed) * search * trial_picture_s,
        f"{request.budget} trials": request.budget * search * trial_picture_s,
        f"verification of up to {verified} skip-lists": verified * held_out * trial_picture_s,
    }
    return SearchPlan(
        model=spec.name,
        prompts=spec.prompts.source,
        sizes=estimate_sizes(run, batch_size=batch, device=request.device),
        pictures=search,
        held_out=held_out,
        picture_s=picture_s,
        trial_s=search * trial_picture_s,
        steps_s=steps,
        source=source,
        references_bytes=references * _media_bytes(run),
        database_bytes=DATABASE_BYTES
        + request.budget * (TRIAL_BYTES + LINEAR_BYTES * len(run.table.linears)),
        shapes=shapes,
    )


def _shapes(spec: StudySpec, request: SearchRequest) -> TableWork | None:
    """What of the table of shapes is missing; None where prices are predicted.

    Raises:
        UserError: prices cannot be measured, and were to be.
    """
    source = latency_source(
        spec,
        request.latency,
        target=request.target,
        device=request.device,
        formats=request.formats,
    )
    if source == "predicted":
        return None
    run = run_shapes(spec)
    runtime = choose_runtime(request.runtime)
    known = KnownTimes.of(device=request.device, mode=runtime.shapes_mode)
    return table_work(
        spec.name,
        at_priced_scale(run.table, spec),
        tuple(run.classes),
        request.formats,
        known,
        device=request.device,
        runtime=runtime,
    )


def _calibration_pictures(spec: StudySpec, request: SearchRequest, run: ShapeRun) -> float:
    """What calibrating takes, in bf16 pictures: the recorded runs, and what each job takes."""
    if not request.calibrated:
        return 0.0
    calls = sum(call.calls for call in run.calls) or 1
    steps = spec.settings.get("num_inference_steps")
    steps = steps if isinstance(steps, int) and steps > 0 else calls
    jobs, denoisers = _jobs(spec, request, run), len(spec.model.denoisers)
    size = RunSize(steps=steps, denoisers=denoisers, prompts=len(spec.prompts.search))
    estimator = choose_estimator(jobs, run=size)
    if estimator.unit == "linear":
        jobs = [linear for job in jobs for linear in job.linears]
    own = estimator.picture_calls(jobs, states=estimator.default_states(steps))
    if estimator.inputs == "steps":
        own *= calls / steps / denoisers
    return min(estimator.default_prompts, size.prompts) * (1 + own / calls)


def _jobs(spec: StudySpec, request: SearchRequest, run: ShapeRun) -> list[Job]:
    """What is calibrated; nothing where no Linear takes a format."""
    try:
        candidates = make_candidates(
            at_priced_scale(run.table, spec),
            spec,
            formats=request.formats,
            latency=latency_model(spec, request.target),
            granularity=request.granularity,
        )
    except FormatError:
        return []
    return list(jobs_of(candidates).values())


def _seconds_of_run(spec: StudySpec, run: ShapeRun, device: str) -> tuple[float, str]:
    """Seconds of one bf16 pipeline call, and where they come from."""
    counts = list(run.table.run.components) if run.table.run is not None else []
    total = sum(_flops(part) for part in counts)
    denoisers = [part for part in counts if part.component in spec.model.denoisers]
    flops = sum(_flops(part) for part in denoisers)
    on_cpu = torch.device(device).type == "cpu"
    small = sum(part.weight_bytes for part in denoisers) <= TIMED_BYTES
    if on_cpu and flops and small and _is_quick(run, flops, device):
        spent = _seconds_of_calls(spec, run, device)
        return (
            spent * total / flops,
            (
                f"from {CALLS} denoiser calls with random weights, timed here; the rest at the same"
                " FLOP/s"
            ),
        )
    known = None if on_cpu else find_device(describe_environment(device)["device"])
    if known is not None:
        model = PredictedLatency(known, compile_mode="default")
        return model.estimate(run.table, {}).bf16_s, f"predicted for {known.name}, compiled"
    rate = _gemm_flops_per_s(device)
    return (
        total / rate,
        f"a guess: FLOPs at the {rate / 1e12:.2g} TFLOP/s of a bf16 GEMM that was timed here",
    )


def _is_quick(run: ShapeRun, flops: float, device: str) -> bool:
    """Whether `_seconds_of_calls` takes no more than `TIMED_S`; `flops` are those of a run."""
    each = flops / (sum(call.calls for call in run.calls) or 1)
    return each * CALLS * len(run.calls) <= TIMED_S * _gemm_flops_per_s(device)


@torch.no_grad()
def _seconds_of_calls(spec: StudySpec, run: ShapeRun, device: str) -> float:
    """Seconds of all denoiser calls of a run: the quickest of `CALLS` of each distinct one."""
    modules = {
        name: random_component(spec, component=name, device=device) for name in spec.model.denoisers
    }

    def once(name: str, args: Any, kwargs: Any) -> float:
        begun = time.perf_counter()
        modules[name](*args, **kwargs)
        return time.perf_counter() - begun

    return sum(
        min(
            once(call.component, *materialize((call.args, call.kwargs), torch.device(device)))
            for _ in range(CALLS)
        )
        * call.calls
        for call in run.calls
    )


def _gemm_flops_per_s(device: str) -> float:
    """FLOP/s of a bf16 GEMM, timed here for `GEMM_S` seconds."""
    kind = torch.device(device).type
    n = GEMM[kind]
    x = torch.ones(n, n, dtype=torch.bfloat16, device=device)

    def wait() -> None:
        if kind == "cuda":
            torch.cuda.synchronize(device)

    x @ x
    wait()
    begun, done = time.perf_counter(), 0
    while (spent := time.perf_counter() - begun) < GEMM_S:
        x @ x
        wait()
        done += 1
    return done * 2 * n**3 / spent


def _flops(part: ComponentCounts) -> int:
    """FLOPs of a component in one run."""
    return (
        part.linear_flops
        + part.conv_flops
        + part.matmul_flops
        + sum(shape.flops for shape in part.attention)
    )


def _slower(request: SearchRequest) -> float:
    """Seconds of a trial with everything in the slowest of the formats, over bf16."""
    if torch.device(request.device).type == "cpu":
        return EMULATED_ON_CPU
    return max(EMULATED.get(name, 1.0) for name in request.formats)


def _media_bytes(run: ShapeRun) -> int:
    """Bytes of one picture (fp32) or clip (fp16), as references are kept."""
    settings = dict(run.table.settings)
    sides = [settings.get(key) for key in ("height", "width")]
    pixels = math.prod(side for side in sides if isinstance(side, int))
    frames = frames_in(settings)
    return 3 * pixels * (4 if frames is None else 2 * frames)
