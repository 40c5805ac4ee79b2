"""Do predicted and measured latencies agree?

FLUX.1-dev's denoiser at full size with random weights, five skip-lists, on the GPU at hand.

Milliseconds of one denoiser forward (1024 x 1024, 512 text tokens) and the speedup over bf16, for
each batch size and skip-list, three times:

    predicted   from the GPU's constants (`latency/predicted.py`): alone, and anchored by the
                measured bf16 forward
    table       every Linear and attention measured one by one
                (`latency/timing/shape_timing.py`), the rest predicted: alone, and anchored
    end to end  the quantized denoiser, its repeated blocks compiled, timed
                (`latency/timing/end_to_end.py`)

Single shapes are timed inside CUDA graphs by default, whatever the denoiser's compile mode is:
while the GPU is the slower side, launches of a compiled block cost nothing.

The skip-lists: nothing quantized; everything that the format takes; the rule of thumb of the study;
the published list for FLUX.1-dev (skips names with "embed", `norm_out.linear`, `proj_out` and
Linears with K or N below 1024); and the single-stream blocks alone. No weights are downloaded: the
times do not depend on them.

Every finished cell is written to --out, whole or not at all; --resume goes on with such a file,
--time-limit-s begins no new cell after that long. A cell that fails has its reason. The last line
of stdout is everything as one JSON object, raw repetitions included.

    python benchmarks/fp8_flux.py --out fp8_flux.json --batch-size 1 --batch-size 4
    python benchmarks/fp8_flux.py --out dry.json --small --device cpu

The second runs the whole path on a small FLUX; on a CPU no format is native.
"""

import argparse
import dataclasses
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from kept_rows import KeptRows

from sensitivity.core.devices import free_memory
from sensitivity.core.environment import describe_environment
from sensitivity.core.format_name import FormatName
from sensitivity.core.json_files import parse_json, write_whole
from sensitivity.errors import SensitivityError, UserError
from sensitivity.formats.native import describe_versions
from sensitivity.formats.registry import get_format
from sensitivity.latency import LatencyModel
from sensitivity.latency.devices import DEVICES, get_device
from sensitivity.latency.measured import MeasuredLatency
from sensitivity.latency.predicted import PredictedLatency
from sensitivity.latency.shape_times import ShapeTimes, attentions_of, shapes_of
from sensitivity.latency.timing.end_to_end import measure_calls
from sensitivity.latency.timing.shape_timing import Bench, measure_shapes
from sensitivity.models.random_weights import random_component
from sensitivity.search.grouping import make_candidates
from sensitivity.shapes.census import RunCounts
from sensitivity.shapes.run import run_shapes
from sensitivity.shapes.shape_run import ShapeRun
from sensitivity.shapes.table import ShapeTable
from sensitivity.spec.loading import resolve_spec
from sensitivity.spec.study_spec import StudySpec

MIN_WIDTH = 1024
SMALL = {"num_layers": 2, "num_single_layers": 2, "num_attention_heads": 4}
Formats = Mapping[str, FormatName]


def skip_lists(
    table: ShapeTable, spec: StudySpec, format: FormatName, latency: LatencyModel
) -> dict[str, Formats]:
    """{name: format of every Linear}; what the format refuses is bf16 in all of them."""
    candidates = make_candidates(table, spec, formats=(format,), latency=latency)
    everything = candidates.decode(candidates.all_quantized())
    widths = {linear.fqn: min(linear.k, linear.n) for linear in table.linears}

    def only(keep: Callable[[str], bool]) -> Formats:
        return {fqn: name if keep(fqn) else FormatName.BF16 for fqn, name in everything.items()}

    return {
        "none": candidates.decode(candidates.none_quantized),
        "all": everything,
        "rule of thumb": candidates.decode(candidates.rule_of_thumb),
        "published": only(
            lambda fqn: (
                "embed" not in fqn
                and fqn not in ("norm_out.linear", "proj_out")
                and widths.get(fqn, 0) >= MIN_WIDTH
            )
        ),
        "single blocks": only(lambda fqn: fqn.startswith("single_transformer_blocks.")),
    }


def small_study(spec: StudySpec, folder: Path) -> StudySpec:
    """The study with a denoiser of 2 + 2 blocks and width 512 at 256 x 256; its config files are
    written to `folder`.
    """
    assert spec.model.config is not None
    shutil.copytree(spec.model.config, folder, dirs_exist_ok=True)
    path = folder / "transformer" / "config.json"
    path.write_text(
        json.dumps(json.loads(path.read_text(encoding="utf-8")) | SMALL), encoding="utf-8"
    )
    settings = {**spec.settings, "height": 256, "width": 256}
    return spec.model_copy(
        update={"model": spec.model.model_copy(update={"config": folder}), "settings": settings}
    )


def denoiser_only(run: ShapeRun, component: str) -> tuple[ShapeTable, int]:
    """The table with the census of the denoiser alone, and the forwards that it counts."""
    assert run.table.run is not None
    counts = RunCounts(components=(run.table.run.component(component),))
    return dataclasses.replace(run.table, run=counts), sum(call.calls for call in run.calls)


class Document(KeptRows):
    """The results: one JSON file, written after every change.

    It is the measured shapes' cache too.
    """

    def __init__(self, path: Path, header: dict[str, Any], *, resume: bool) -> None:
        self.path = path
        self.data: dict[str, Any] = {
            "benchmark": "fp8_flux",
            **header,
            "shape_times": {},
            "cells": [],
        }
        if resume and path.is_file():
            found = parse_json(path.read_bytes())
            other = [key for key, value in header.items() if found.get(key) != value]
            if other:
                raise UserError(
                    f"{path} was made with another {', '.join(other)}; --resume goes on with the"
                    " same: name another --out"
                )
            self.data = found

    def write(self) -> None:
        write_whole(self.path, (json.dumps(self.data, indent=1, allow_nan=False) + "\n").encode())

    def cell(self, batch: int, name: str) -> dict[str, Any] | None:
        return next(
            (
                cell
                for cell in self.data["cells"]
                if (cell["batch_size"], cell["list"]) == (batch, name)
            ),
            None,
        )

    def keep(self, cell: dict[str, Any]) -> None:
        others = [
            old
            for old in self.data["cells"]
            if (old["batch_size"], old["list"]) != (cell["batch_size"], cell["list"])
        ]
        self.data["cells"] = [*others, cell]
        self.write()


def price(
    model: LatencyModel, table: ShapeTable, formats: Formats, forwards: int, anchor_s: float | None
) -> dict[str, Any]:
    """Milliseconds a forward and the speedup, or the reason why there are none.

    `anchor_s` is the measured bf16 forward.
    """
    try:
        found = model.estimate(
            table, formats, bf16_seconds=None if anchor_s is None else anchor_s * forwards
        )
    except SensitivityError as error:
        return {"reason": str(error)}
    interval = {} if found.interval90 is None else {"speedup_interval90": list(found.interval90)}
    ms = {
        "ms": found.quantized_s / forwards * 1e3,
        "bf16_ms": found.bf16_s / forwards * 1e3,
        "speedup": found.speedup,
        **interval,
    }
    return ms | {
        "linears_ms": sum(cost.calls * cost.quantized_us for cost in found.linears) / forwards / 1e3
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batch:
    """What is fixed for one batch size."""

    size: int
    spec: StudySpec
    run: ShapeRun
    table: ShapeTable
    forwards: int
    lists: Mapping[str, Formats]
    predicted: LatencyModel


def prepare(spec: StudySpec, size: int, format: FormatName, predicted: LatencyModel) -> Batch:
    """Shapes of the run and the five skip-lists."""
    run = run_shapes(spec, batch_size=size)
    table, forwards = denoiser_only(run, spec.model.component)
    lists = skip_lists(table, spec, format, predicted)
    return Batch(
        size=size,
        spec=spec,
        run=run,
        table=table,
        forwards=forwards,
        lists=lists,
        predicted=predicted,
    )


def measure_cell(
    batch: Batch, name: str, times: ShapeTimes, document: Document, arguments: argparse.Namespace
) -> dict[str, Any]:
    """One row: the denoiser measured with the list's formats, and what both models say of it."""
    formats = batch.lists[name]
    quantized = {fqn: kind for fqn, kind in formats.items() if kind is not FormatName.BF16}
    cell: dict[str, Any] = {
        "batch_size": batch.size,
        "list": name,
        "quantized": len(quantized),
        "linears": len(formats),
    }
    start = time.monotonic()
    try:
        timings = measure_calls(
            lambda: random_component(batch.spec, device=arguments.device),
            batch.run.calls,
            formats=quantized,
            compile_mode=arguments.compile_mode,
            device=arguments.device,
            repetitions=arguments.repetitions,
            recompile_limit=arguments.recompile_limit,
            backend=backend_of(arguments),
        )
        ms = sum(timing.run_s for timing in timings) / batch.forwards * 1e3
        cell["measured"] = {"ms": ms, "calls": [timing.to_json() for timing in timings]}
    except SensitivityError as error:
        cell["measured"] = {"reason": str(error)}
    free_memory(torch.device(arguments.device))
    anchor = cell if name == "none" else document.cell(batch.size, "none")
    anchor_ms = anchor["measured"].get("ms") if anchor is not None else None
    if anchor_ms is not None and "ms" in cell["measured"]:
        cell["measured"]["speedup"] = anchor_ms / cell["measured"]["ms"]
    table = MeasuredLatency(times, target=batch.predicted.target, rest=batch.predicted)
    for column, model in (("predicted", batch.predicted), ("table", table)):
        cell[column] = price(model, batch.table, formats, batch.forwards, None)
        if anchor_ms is not None:
            cell[f"{column}_anchored"] = price(
                model, batch.table, formats, batch.forwards, anchor_ms / 1e3
            )
    return cell | {"cell_s": time.monotonic() - start}


def run_batch(
    batch: Batch, document: Document, arguments: argparse.Namespace, started: float
) -> None:
    """Measure the batch's shapes, then every skip-list that the document does not have yet, while
    there is time.
    """

    def left_s() -> float:
        return float(arguments.time_limit_s - (time.monotonic() - started))

    pending = [
        name
        for name in batch.lists
        if "ms" not in (document.cell(batch.size, name) or {}).get("measured", {})
    ]
    if pending and left_s() > 0:
        times = measure_shapes(
            shapes_of(batch.table, (FormatName(arguments.format),)),
            attention=attentions_of(batch.table),
            device=arguments.device,
            compile_mode=arguments.shapes_mode,
            cache=document,
            repetitions=arguments.repetitions,
            time_limit_s=left_s(),
            bench=Bench(backend=backend_of(arguments)),
            progress=lambda done, total, key: print(f"shape {done}/{total} {key}", file=sys.stderr),
        )
        for key, reason in times.failed.items():
            print(f"no time: {key}: {reason}", file=sys.stderr)
    for name in pending:
        if left_s() <= 0:
            print(
                f"time limit: batch {batch.size}, {name} is left; go on with --resume",
                file=sys.stderr,
            )
            continue
        cell = measure_cell(batch, name, times, document, arguments)
        document.keep(cell)
        print(
            f"{time.monotonic() - started:.0f} s: batch {batch.size}, {name}:"
            f" {cell['measured'].get('ms', cell['measured'])}",
            file=sys.stderr,
        )


def backend_of(arguments: argparse.Namespace) -> str:
    """Inductor on a GPU; on a CPU the blocks are only traced."""
    return "inductor" if arguments.device.startswith("cuda") else "eager"


COLUMNS = (
    ("measured", "end to end"),
    ("predicted", "predicted"),
    ("predicted_anchored", "anchored"),
    ("table", "table"),
    ("table_anchored", "anchored"),
)


def print_table(data: dict[str, Any]) -> None:
    """One row a cell: ms and speedup of each column; then the reasons of empty ones."""
    print(
        f"{'batch':>5}  {'skip-list':14}{'quantized':>10}"
        + "".join(f"{title:>18}" for _, title in COLUMNS)
        + f"{'peak GiB':>10}"
    )
    reasons: dict[str, None] = {}
    for cell in data["cells"]:
        row = f"{cell['batch_size']:>5}  {cell['list']:14}{cell['quantized']:>6}/{cell['linears']}"
        for key, _ in COLUMNS:
            found = cell.get(key, {})
            if "reason" in found:
                reasons[found["reason"]] = None
            speedup = f"{found['speedup']:.3f}x" if "speedup" in found else ""
            row += f"{found['ms']:>10.2f}{speedup:>8}" if "ms" in found else f"{'-':>18}"
        calls = cell["measured"].get("calls", [])
        peaks = [max(c["peak_memory_bytes"], c["reserved_bytes"]) for c in calls]
        print(row + (f"{max(peaks) / 2**30:>10.1f}" if peaks else ""))
    for reason in reasons:
        print(f"-: {reason}")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="JSON of the results, rewritten after every cell"
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        action="append",
        help="pictures a forward; may be repeated (default: 1 and 4)",
    )
    parser.add_argument(
        "--format",
        choices=[name.value for name in FormatName if name is not FormatName.BF16],
        default="fp8",
    )
    parser.add_argument("--compile-mode", choices=["default", "reduce-overhead"], default="default")
    parser.add_argument(
        "--shapes-mode",
        choices=["default", "reduce-overhead"],
        default="reduce-overhead",
        help="how single shapes are timed",
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--target", help="the GPU whose constants predict (default: the one at hand, h100 on a CPU)"
    )
    parser.add_argument(
        "--repetitions", type=int, default=10, help="timed forwards a cell, and timed runs a shape"
    )
    parser.add_argument(
        "--recompile-limit",
        type=int,
        default=None,
        help="graphs for each class of blocks (default: torch's)",
    )
    parser.add_argument(
        "--time-limit-s",
        type=float,
        default=float("inf"),
        help="begin no new cell after this many seconds",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with --out: cells and shapes that are in it are not measured again",
    )
    parser.add_argument(
        "--small", action="store_true", help="a FLUX of 2 + 2 blocks and width 512 at 256 x 256"
    )
    return parser.parse_args()


def main() -> None:
    """Measure, print the table, then one JSON line."""
    started, arguments = time.monotonic(), parse_arguments()
    environment = describe_environment(arguments.device) | {"mslk": describe_versions()["mslk"]}
    name = environment["device"].lower()
    target = arguments.target or next(
        (key for key in sorted(DEVICES, key=len, reverse=True) if key in name), "h100"
    )
    predicted, format = (
        PredictedLatency(get_device(target), compile_mode=arguments.compile_mode),
        FormatName(arguments.format),
    )
    native = get_format(format).native_refusal(torch.device(arguments.device)) or "yes"
    settings = {
        "model": "flux1-dev" + (" (small)" if arguments.small else ""),
        "format": format.value,
        "compile_mode": arguments.compile_mode,
        "shapes_mode": arguments.shapes_mode,
        "target": target,
        "repetitions": arguments.repetitions,
        "native": native,
    }
    document = Document(
        arguments.out, {"machine": environment, "settings": settings}, resume=arguments.resume
    )
    print(", ".join(f"{key} {value}" for key, value in (environment | settings).items()))
    with tempfile.TemporaryDirectory() as folder:
        spec = resolve_spec("flux1-dev")
        spec = small_study(spec, Path(folder) / "flux") if arguments.small else spec
        for size in arguments.batch_size or [1, 4]:
            run_batch(prepare(spec, size, format, predicted), document, arguments, started)
    document.write()
    print_table(document.data)
    print(json.dumps(document.data, allow_nan=False))


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
