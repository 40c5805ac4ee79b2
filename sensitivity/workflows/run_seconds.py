"""How long does a picture take, before one is drawn? `seconds_of_run`, on this machine or another.

    seconds_of_run(spec, run, "cpu")             # (12.3, "from 3 denoiser calls ... timed here")
    seconds_on(run, get_device("h100"))          # (1.9, "predicted for h100, compiled")
    slower(request)                              # 1.34: a quantized picture's seconds over bf16's

Seconds of bf16 come from the first of these that is there:

1. On the CPU, for up to `TIMED_BYTES` of weights and `TIMED_S` of time: denoiser calls with random
   weights, timed here. The other components are taken to reach the same FLOP/s.
2. The price model, if it knows this GPU.
3. FLOPs over the rate of a plain GEMM that is timed here. This is a guess.

A quantized trial takes longer than bf16 by the factors in `EMULATED`; formats that a GPU has are
taken to be no quicker than bf16. Each number is an estimate, and none is a promise. Nothing is
loaded or written here.
"""

import time
from typing import Any

import torch

from sensitivity.core.environment import describe_environment
from sensitivity.core.format_name import FormatName
from sensitivity.latency.devices import Device, find_device
from sensitivity.latency.predicted import PredictedLatency
from sensitivity.latency.timing.tensors import materialize
from sensitivity.models.random_weights import random_component
from sensitivity.shapes.census import ComponentCounts
from sensitivity.shapes.shape_run import ShapeRun
from sensitivity.spec.study_spec import StudySpec
from sensitivity.workflows.requests import SearchRequest

TIMED_BYTES = 2_000_000_000
"""Most bytes of denoiser weights that are timed on the CPU."""
TIMED_S = 10.0
"""Most seconds that these calls may take there, at the rate of a GEMM."""
CALLS = 3
"""Timed calls of each distinct denoiser call; the quickest counts."""
EMULATED = {
    FormatName.FP8: 1.0,
    FormatName.MXFP8: 1.24,
    FormatName.NVFP4: 1.58,
    FormatName.INT8: 1.24,
}
"""Seconds of a Linear in an emulated format over bf16. Measured on an H100, compiled, with M =
4608, K = 3072, N = 12288 (0.50 ms in bf16, 0.62, 0.79). FP8 is native there. INT8 was not measured:
it is taken to be MXFP8's.
"""
ROTATED, WEIGHT_ONLY = 1.1, 1.0
"""The same of variants, by what they compute and not measured: a rotation is one more small product
of the activation; with weights alone quantized, nothing is done to the activation.
"""
EMULATED_ON_CPU = 1.8 / 1.34
"""The same for a whole trial of tiny-flux with everything in NVFP4, on two cores."""
GEMM = {"cpu": 1024, "cuda": 8192}
"""M = K = N of the GEMM that is timed."""
GEMM_S = 0.2
"""Seconds that the GEMM is repeated for."""


def seconds_of_run(spec: StudySpec, run: ShapeRun, device: str) -> tuple[float, str]:
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
        return seconds_on(run, known)
    rate = _gemm_flops_per_s(device)
    return (
        total / rate,
        f"a guess: FLOPs at the {rate / 1e12:.2g} TFLOP/s of a bf16 GEMM that was timed here",
    )


def seconds_on(run: ShapeRun, machine: Device) -> tuple[float, str]:
    """The same on a GPU that need not be here, by the price model."""
    model = PredictedLatency(machine, compile_mode="default")
    return model.estimate(run.table, {}).bf16_s, f"predicted for {machine.name}, compiled"


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


def slower(request: SearchRequest, machine: Device | None = None) -> float:
    """Seconds of a trial with everything in the slowest of the formats, over bf16.

    Args:
        request: formats, and where torch runs.
        machine: a GPU that need not be here, instead of the request's device.
    """
    if machine is None and torch.device(request.device).type == "cpu":
        return EMULATED_ON_CPU
    own = () if machine is None or request.emulate else machine.formats
    return max(1.0 if name in own else _emulated(name) for name in request.formats)


def _emulated(name: FormatName) -> float:
    """Seconds of a Linear in an emulated format over bf16."""
    if name.is_weight_only:
        return WEIGHT_ONLY
    return EMULATED[name.plain] * (ROTATED if name.is_rotated else 1.0)
