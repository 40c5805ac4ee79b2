"""`foresight.py measure`: the predicted cases on the GPU at hand, from shapes and end to end.

A cell is one model at one batch size in one runtime. Its lists share the bf16 weights and one
quantized copy of every Linear, are compiled one after another, and then run in turns, so that the
GPU's clock and the load of the host hit all of them alike: a round calls each list once untimed and
then for at least `ROUND_S`, back to back as a run does. Seconds are those of a call, every round is
kept, and a speedup is the ratio to `none` of the same rounds (`latency.timing.paired`).

A list that fails is a case with its reason. If a failure breaks the CUDA context, the process ends
with exit status 3 after the case was written, and the same command goes on.
"""

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import foresight_cases as cases
import torch
from foresight_cases import BATCHES, BOUNDS, LONG, RANDOM, Prepared, prepare, shallow, study_of
from foresight_shapes import Conditions, Document, measure_model_shapes, shape_prices
from torch import nn

from sensitivity.core.devices import free_memory
from sensitivity.core.environment import describe_environment
from sensitivity.core.json_files import parse_json
from sensitivity.core.words import first_line
from sensitivity.formats.native import quantize_native
from sensitivity.latency.devices import find_device
from sensitivity.latency.runtimes import get_runtime
from sensitivity.latency.timing.end_to_end import measuring
from sensitivity.latency.timing.paired import paired_ratio, typical_seconds
from sensitivity.latency.timing.running import running
from sensitivity.latency.timing.tensors import materialize
from sensitivity.models.random_weights import random_component
from sensitivity.models.shared_copies import shared_copy

GRAPHS, COMPILED, STEP, EAGER, PLAIN = cases.RUNTIMES
WARMUPS, ROUNDS, ROUND_S, MOST_CALLS = 3, 6, 0.15, 10
FEWEST_ROUNDS, LONG_S = 3, 3.0
"""Rounds of a cell whose lists take more seconds than that together."""
LIMIT = 64
"""Graphs that torch may compile of one class: SDXL's blocks have several widths."""


@dataclass(frozen=True, kw_only=True)
class Visit:
    """What is done while a model's weights are on the GPU.

    Attributes:
        batch: Pictures in a call.
        cells: {runtime: its lists}, in this order.
        shapes: Whether prices from measured shapes stand beside them.
    """

    batch: int
    cells: Mapping[str, Sequence[str]]
    shapes: bool = False


STAGES: tuple[Visit, ...] = (
    Visit(batch=1, cells={GRAPHS: (*BOUNDS, "published")}, shapes=True),
    Visit(batch=1, cells={COMPILED: ("none", "all", *RANDOM), STEP: ("none", "all")}),
    Visit(batch=4, cells={COMPILED: (*BOUNDS, *RANDOM)}, shapes=True),
    Visit(batch=1, cells=dict.fromkeys((EAGER, PLAIN), ("none", "all")) | {GRAPHS: RANDOM}),
)
"""Every model goes through a stage before the next one begins."""


def quantized_copy(base: nn.Module, donor: nn.Module | None, formats: Mapping[str, Any]) -> Any:
    """A copy of the denoiser that shares all weights: bf16 ones with `base`, quantized ones with
    `donor`; without a donor they are quantized here.
    """
    twin = shared_copy(base)
    if donor is None:
        quantize_native(twin, formats)
        return twin
    for fqn in formats:
        twin.get_submodule(fqn).weight = donor.get_submodule(fqn).weight
    return twin


def run_cell(
    how: Conditions,
    model: Prepared,
    base: nn.Module,
    donor: nn.Module | None,
    runtime: str,
    names: Sequence[str],
) -> dict[str, dict[str, Any]]:
    """{list: its repetitions, or the reason why there are none}."""
    where, found = torch.device(how.device), {}
    works: dict[str, Callable[[], object]] = {}
    args, kwargs = (materialize(x, where) for x in (model.call.args, model.call.kwargs))
    with measuring(where, LIMIT), ExitStack() as stack:
        for name in names:
            begun = time.perf_counter()
            try:
                twin = quantized_copy(base, donor, model.formats(name))
                call = stack.enter_context(running(twin, get_runtime(runtime), backend=how.backend))
                works[name] = partial(call, *args, **kwargs)
                for _ in range(1 + WARMUPS if how.rounds else 1):
                    works[name]()
                wait(where)
            except Exception as error:
                works.pop(name, None)
                found[name] = {"reason": f"{type(error).__name__}: {first_line(error, most=200)}"}
            spent = time.perf_counter() - begun
            found.setdefault(name, {"seconds": []})["compile_s"] = round(spent, 2)
            how.say(f"  {runtime}, {name}: {found[name].get('reason', f'{spent:.1f} s')}")
        timed = works if how.rounds else {}
        about = {name: one_round(work, 1, where) for name, work in timed.items()}
        calls = {name: calls_of(taken, how.round_s) for name, taken in about.items()}
        long = sum(about.values()) > LONG_S
        for turn in range(min(how.rounds, FEWEST_ROUNDS) if long else how.rounds):
            for name in list(works) if turn % 2 else reversed(list(works)):
                found[name]["seconds"].append(one_round(works[name], calls[name], where))
    return found


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def calls_of(taken: float, round_s: float) -> int:
    """How many calls of `taken` seconds fill a round."""
    return max(1, min(MOST_CALLS, math.ceil(round_s / taken)))


def one_round(work: Callable[[], object], calls: int, device: torch.device) -> float:
    """Seconds of a call: one untimed, then `calls` back to back, by the host's clock."""
    work()
    wait(device)
    begun = time.perf_counter()
    for _ in range(calls):
        work()
    wait(device)
    return (time.perf_counter() - begun) / calls


def end_to_end(found: Mapping[str, Mapping[str, Any]], name: str) -> dict[str, Any]:
    """A list's numbers beside those of `none` in the same rounds."""
    mine, bf16 = found[name], found.get("none", {})
    if not mine.get("seconds"):
        return dict(mine)
    numbers = dict(mine) | {"call_s": typical_seconds(mine["seconds"])}
    if bf16.get("seconds"):
        ratio = paired_ratio(bf16["seconds"], mine["seconds"])
        numbers |= {
            "bf16_s": typical_seconds(bf16["seconds"]),
            "speedup": ratio.value,
            "interval90": None if ratio.interval90 is None else list(ratio.interval90),
            "spread": ratio.spread,
        }
    return numbers


# --- the command ---------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `measure`."""
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--target", help="the target's name, if it is not that of the GPU at hand")
    parser.add_argument("--backend", help="torch.compile's; inductor, and eager on a CPU")
    parser.add_argument("--minutes", type=float, default=9.0, help="nothing begins after that")
    parser.add_argument("--part", default="0/1", help="i/n: every n-th model from the i-th on")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--stage", type=int, action="append", help="0 to 3; all by default")
    parser.add_argument("--edition", default="", help="of the predictions that are tested")
    parser.add_argument("--warm", action="store_true", help="only fill torch's compile cache")
    parser.add_argument("--out", type=Path, help="results/foresight/measured-TARGET-PART.json")


def measure(asked: argparse.Namespace, models: Iterable[str]) -> dict[str, Any]:
    """Measure what is missing while there is time."""
    begun = time.monotonic()
    machine = describe_environment(asked.device)
    known = find_device(machine["device"])
    target = asked.target or (known.name if known is not None else "h100")
    part, parts = map(int, asked.part.split("/"))

    def left_s() -> float:
        return float(asked.minutes * 60 - (time.monotonic() - begun))

    def say(text: str) -> None:
        print(f"{time.monotonic() - begun:6.1f} s  {text}", file=sys.stderr, flush=True)

    how = Conditions(
        device=asked.device,
        backend=asked.backend or ("inductor" if asked.device.startswith("cuda") else "eager"),
        rounds=0 if asked.warm else asked.rounds,
        round_s=ROUND_S if asked.device.startswith("cuda") else 0.0,
        left_s=left_s,
        say=say,
    )
    name = f"measured-{target}-{part}of{parts}.json"
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / name if asked.warm else asked.out or asked.folder / name
        out.parent.mkdir(parents=True, exist_ok=True)
        header = {"benchmark": "foresight, measured", "target": target, "machine": machine}
        header |= {"format": cases.FORMAT.value, "edition": asked.edition}
        document = Document(out, header)
        done = [
            visit(how, document, model, stage, target, Path(scratch) if asked.warm else None)
            for number, stage in enumerate(STAGES)
            if asked.stage is None or number in asked.stage
            for model in list(models)[part::parts]
            if not (stage.batch > BATCHES[0] and model in LONG)
        ]
    return {"out": out.name, "cells": sum(done), "seconds": time.monotonic() - begun}


def visit(
    how: Conditions,
    document: Document,
    name: str,
    stage: Visit,
    target: str,
    scratch: Path | None,
) -> int:
    """Run the missing cells of a model; the number of cells that were run."""
    spec = study_of(name)
    missing = {
        runtime: [
            x
            for x in lists
            if not document.has(cases.label(name), stage.batch, runtime, x)
            and (x != "published" or spec.published)
        ]
        for runtime, lists in stage.cells.items()
    }
    missing = {runtime: lists for runtime, lists in missing.items() if set(lists) - {"none"}}
    if not missing or how.left_s() < 0:
        return 0
    how.say(f"{name}, batch {stage.batch}")
    try:
        if scratch is not None:
            spec = shallow(spec, scratch / cases.label(name))
        model = prepare(name, batch=stage.batch, target=target, spec=spec)
        base = random_component(spec, component=spec.model.component, device=how.device)
        base = base.eval()
        able = model.formats("all")
        donor = quantized_copy(base, None, able) if on_gpu(how) else None
    except Exception as error:
        how.say(f"  failed: {type(error).__name__}: {first_line(error, most=200)}")
        free_memory(torch.device(how.device))
        return 0
    done = 0
    for runtime, lists in missing.items():
        if how.left_s() < 0:
            break
        names = ["none", *(x for x in lists if x != "none")]
        done += cell(how, document, model, base, donor, runtime, names)
    del base, donor
    free_memory(torch.device(how.device))
    if stage.shapes and how.left_s() > 0:
        measure_model_shapes(how, model, document, target)
        document.add_shapes(shape_prices(model, document, target))
        how.say("  shapes")
    return done


def on_gpu(how: Conditions) -> bool:
    return how.device.startswith("cuda")


def cell(
    how: Conditions,
    document: Document,
    model: Prepared,
    base: nn.Module,
    donor: nn.Module | None,
    runtime: str,
    names: Sequence[str],
) -> int:
    """Run one cell and keep its cases."""
    found: dict[str, dict[str, Any]] = {}
    try:
        found = run_cell(how, model, base, donor, runtime, names)
    except Exception as error:
        reason = f"{type(error).__name__}: {first_line(error, most=200)}"
        how.say(f"  {runtime}: {reason}")
        found = {name: {"reason": reason} for name in names}
    document.add(
        {
            "model": model.name,
            "batch_size": model.batch,
            "runtime": runtime,
            "list": name,
            "fingerprint": model.fingerprint(name),
            "end_to_end": end_to_end(found, name),
        }
        for name in names
        if name in found
    )
    free_memory(torch.device(how.device))
    try:
        wait(torch.device(how.device))
    except Exception:
        how.say("the CUDA context is broken; the same command goes on after this case")
        sys.exit(3)
    return 1


def reprice(folder: Path) -> list[str]:
    """Price every measured model again from the shapes that its file keeps."""
    done = []
    for path in sorted(folder.glob("measured-*.json")):
        data = parse_json(path.read_bytes())
        document = Document(path, {"machine": data["machine"]})
        for name, batch in dict.fromkeys((x["model"], x["batch_size"]) for x in data["cases"]):
            model = prepare(name, batch=batch, target=data["target"])
            document.add_shapes(shape_prices(model, document, data["target"]))
            done.append(f"{name}, batch {batch}")
    return done
