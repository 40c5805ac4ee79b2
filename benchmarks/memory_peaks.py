"""How far is a predicted peak of GPU memory from that of a real pipeline call?

    python benchmarks/memory_peaks.py --out peaks.json       # one GPU that has fp8, under 150 s
    python benchmarks/memory_peaks.py --smoke                # predictions of tiny-flux, any machine

Whole pipeline calls with random weights at full size, with all components on the GPU, as a plain
diffusers pipeline has them: text encoders, a few steps, decoder. Steps do not decide a peak, so a
few are enough. Of each model, in this order:

    bf16                nothing quantized
    fp8                 every Linear that takes fp8, by torchao's own kernels
    fp8, bf16 edges     the same with bf16 weights kept beside, for a first step in bf16

Each has a pipeline of its own, which is loaded, called once untimed, and then once with torch's
counters reset. `predicted` is what `latency.memory` says, `allocated` and `reserved` are torch's
largest, and `device` is what the GPU as a whole had in use after the call, CUDA's context and what
other processes hold included. `lacks` is reserved minus predicted.

A case that fails has its reason. The last line of stdout is everything as one JSON object.
"""

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sensitivity.core.assignment import Assignment
from sensitivity.core.devices import free_memory
from sensitivity.core.environment import describe_environment
from sensitivity.core.format_name import FormatName
from sensitivity.core.step_policy import EdgeMode, StepPolicy
from sensitivity.core.words import first_line
from sensitivity.formats.registry import get_format
from sensitivity.latency.pricer import PricedList, Pricer
from sensitivity.models.compiled_regions import compile_denoiser
from sensitivity.models.loading import load_pipeline
from sensitivity.recipes.step_switching import precision_by_step
from sensitivity.recipes.unverified import priced_recipe
from sensitivity.shapes.run import run_shapes
from sensitivity.spec.loading import resolve_spec
from sensitivity.spec.overrides import with_random_weights
from sensitivity.spec.study_spec import StudySpec
from sensitivity.workflows.measure import pipeline_call

FORMAT = FormatName.FP8
EDGES = StepPolicy(first_steps=1, mode=EdgeMode.BF16)
LISTS = ("bf16", "fp8", "fp8, bf16 edges")
TARGET = "h100"
"""What the price model prices for; memory does not depend on it."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One list of one model.

    Attributes:
        spec: the study, with random weights.
        pricer: of its run.
        name: of the list.
        priced: the list with its prediction.
    """

    spec: StudySpec
    pricer: Pricer
    name: str
    priced: PricedList


def cases(model: str, steps: int) -> list[Case]:
    """The lists of a model, predicted."""
    spec = with_random_weights(resolve_spec(model))
    pricing = spec.pricing.model_copy(update={"stands_for": 1})
    settings = dict(spec.settings) | {"num_inference_steps": steps}
    spec = spec.model_copy(update={"settings": settings, "pricing": pricing})
    pricer = Pricer.of(spec, run_shapes(spec), target=TARGET)
    fmt = get_format(FORMAT)
    taken = {
        linear.fqn: FORMAT
        for linear in pricer.table.linears
        if fmt.refusal(k=linear.k, n=linear.n, dtype=getattr(torch, linear.dtype)) is None
    }
    lists: Mapping[str, Assignment] = {
        "bf16": Assignment({}),
        "fp8": Assignment(taken),
        "fp8, bf16 edges": Assignment(taken, EDGES),
    }
    return [
        Case(spec=spec, pricer=pricer, name=name, priced=pricer.price(name, lists[name]))
        for name in LISTS
    ]


def predicted(case: Case) -> dict[str, Any]:
    """The prediction and its parts, in bytes."""
    memory = case.priced.estimate.memory
    assert memory is not None
    return memory.to_json() | {"quantized": case.priced.quantized}


def measured(case: Case, device: str, *, compiled: bool) -> dict[str, Any]:
    """Load, apply, call twice; the peaks of the second call, or why there are none."""
    where, begun = torch.device(device), time.perf_counter()
    try:
        return _called(case, where, compiled=compiled) | {"case_s": time.perf_counter() - begun}
    except Exception as error:
        return {"reason": f"{type(error).__name__}: {first_line(error, most=300)}"}
    finally:
        torch._dynamo.reset()
        free_memory(where)


def _called(case: Case, device: torch.device, *, compiled: bool) -> dict[str, Any]:
    """The peaks of a call, in bytes."""
    loaded = load_pipeline(case.spec, device=str(device), resident=True)
    call = pipeline_call(loaded)
    recipe = priced_recipe(
        case.priced, case.pricer.run, case.spec, name=case.name, notice="a benchmark of memory"
    )
    if case.priced.quantized:
        recipe.apply(loaded.pipe, emulate=False, allow_random_weights=True)
    if compiled:
        compile_denoiser(loaded.denoiser, compile_mode="default")
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    weights = torch.cuda.memory_allocated(device)
    with torch.no_grad(), precision_by_step(loaded.pipe, recipe):
        call()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        call()
    torch.cuda.synchronize(device)
    free, total = torch.cuda.mem_get_info(device)
    return {
        "weights_bytes": weights,
        "allocated_bytes": torch.cuda.max_memory_allocated(device),
        "reserved_bytes": torch.cuda.max_memory_reserved(device),
        "device_bytes": total - free,
    }


def table_row(row: Mapping[str, Any]) -> str:
    """A case as a line of the table."""
    peak = row["predicted"]["quantized_peak_bytes"]
    text = f"{row['model']:14}{row['list']:17}{row['predicted']['quantized']:>9}{peak / 1e9:>11.2f}"
    found = row["measured"]
    if found is None:
        return text
    if "reason" in found:
        return f"{text}  {found['reason']}"
    names = ("weights", "allocated", "reserved", "device")
    cells = "".join(f"{found[f'{name}_bytes'] / 1e9:>11.2f}" for name in names)
    return f"{text}{cells}{(found['reserved_bytes'] - peak) / 1e9:>+9.2f}{found['case_s']:>7.0f}"


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", action="append", help="default: flux1-dev and sd3.5-large")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--compiled", action="store_true", help="compile the denoiser's blocks")
    parser.add_argument("--time-limit-s", type=float, default=140.0, help="none begins after that")
    parser.add_argument("--smoke", action="store_true", help="predict tiny-flux, measure nothing")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def main() -> None:
    """Predict, measure and print; the last line is JSON."""
    asked, begun, rows = parse_arguments(), time.monotonic(), list[dict[str, Any]]()
    models = ["tiny-flux"] if asked.smoke else asked.model or ["flux1-dev", "sd3.5-large"]
    machine = describe_environment("cpu" if asked.smoke else asked.device)
    print(f"{machine['device']}; {asked.steps} steps; GB of 1e9 bytes")
    print(
        f"{'model':14}{'list':17}{'quantized':>9}{'predicted':>11}{'weights':>11}{'allocated':>11}"
        f"{'reserved':>11}{'device':>11}{'lacks':>9}{'s':>7}"
    )
    for model in models:
        for case in cases(model, asked.steps):
            found = None
            if time.monotonic() - begun > asked.time_limit_s:
                found = {"reason": "the time limit was reached"}
            elif not asked.smoke:
                found = measured(case, asked.device, compiled=asked.compiled)
            row = {"model": model, "list": case.name}
            rows.append(row | {"predicted": predicted(case), "measured": found})
            print(table_row(rows[-1]), flush=True)
    document = {
        "benchmark": "memory_peaks",
        "machine": machine,
        "steps": asked.steps,
        "compiled": asked.compiled,
        "rows": rows,
    }
    if asked.out:
        asked.out.write_text(json.dumps(document, indent=1, default=str) + "\n")
    print(json.dumps(document, default=str))


if __name__ == "__main__":
    main()
