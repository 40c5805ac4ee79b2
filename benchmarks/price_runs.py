"""Which whole runs are predictions fitted to, and tested on? Published tables of a B200, and FLUX
on an H100.

An `Observation` is one measured speedup (or seconds) and how constants predict it. A speedup is
predicted as a user would: anchored by its own bf16 seconds. The bf16 seconds are predicted without
an anchor.

`squares`: `published/torchao_b200_square.csv`, speedups of square Linears that stand alone.
`flux_runs`: `published/flux1_dev_b200.csv`, whole FLUX.1-dev runs with the published skip-list. The
rows without a compile mode contradict the others in NVFP4 (2.076 s against 1.41 s), so they are
predicted and shown, not fitted.
`flux_denoiser_runs`: FLUX's denoiser on an H100 (`fp8_flux.py`).
`step_graph_runs`: denoisers in one CUDA graph on an H200 (`runtimes.py`).
"""

import csv
import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sensitivity.core.format_name import FormatName
from sensitivity.latency.constants import KernelConstants
from sensitivity.latency.devices import DEVICES, Device
from sensitivity.latency.fitting import KernelFit
from sensitivity.latency.posterior import around
from sensitivity.latency.predicted import PredictedLatency
from sensitivity.shapes.table import LinearProfile, ShapeTable

PUBLISHED = Path(__file__).parent / "published"
SQUARE_SD, SMALL_SQUARE_SD, FLUX_SD, SECONDS_SD = 0.08, 0.2, 0.01, 0.03
STEP_GRAPH = "blocks, step graph"
"""A runtime of `runtimes.py`."""
SMALL = 2048
"""Squares up to this size are mostly launches, which the benchmark counted in its own way."""


@dataclasses.dataclass(frozen=True)
class Observation:
    """One measured number, and how it is predicted from constants.

    Attributes:
        name: What it is.
        group: What is left out together.
        measured: A speedup or seconds.
        sd: The standard deviation of its logarithm that a fit is asked for; None: only shown.
        predict: The same number from constants.
        interval: The stated 90 % interval of the number; None if none is stated.
    """

    name: str
    group: str
    measured: float
    sd: float | None
    predict: Callable[[KernelConstants], float]
    interval: Callable[[KernelFit], tuple[float, float]] | None = None

    def error(self, constants: KernelConstants) -> float:
        """Predicted / measured - 1."""
        return self.predict(constants) / self.measured - 1


def residuals(
    observations: Sequence[Observation],
) -> Callable[[KernelConstants], list[float]]:
    """Errors in standard deviations, for `fit_kernels(also=...)`."""
    fitted = [o for o in observations if o.sd is not None]

    def of(constants: KernelConstants) -> list[float]:
        return [math.log(o.predict(constants) / o.measured) / (o.sd or 1) for o in fitted]

    return of


def squares() -> list[Observation]:
    """Speedups of Linears that stand alone; the static column has no absolute maximum to find."""
    found = []
    for row in csv.DictReader((PUBLISHED / "torchao_b200_square.csv").open()):
        size = int(row["m"])
        for column, fmt in (
            ("mxfp8", FormatName.MXFP8),
            ("nvfp4_dynamic", FormatName.NVFP4),
            ("nvfp4_static", FormatName.NVFP4),
        ):

            def predict(
                constants: KernelConstants,
                size: int = size,
                fmt: FormatName = fmt,
                of: str = column,
            ) -> float:
                model = PredictedLatency(DEVICES["b200"], isolated=True, constants=constants)
                kernels = model.kernels.of(m=size, k=size, n=size, format=fmt)
                left_out = "absolute maximum" if of.endswith("static") else ""
                us = sum(kernel.us for kernel in kernels if kernel.name != left_out)
                return model.linear_us(m=size, k=size, n=size, format=FormatName.BF16) / us

            found.append(
                Observation(
                    f"square {size:5} {column}",
                    "squares",
                    float(row[f"{column}_speedup"]),
                    SQUARE_SD if size > SMALL else SMALL_SQUARE_SD,
                    predict,
                )
            )
    return found


def published_skips(fqn: str, k: int, n: int) -> bool:
    """The published FLUX.1-dev skip-list: what it leaves in bf16."""
    return "embed" in fqn or fqn in ("norm_out.linear", "proj_out") or min(k, n) < 1024


def flux_formats(table: ShapeTable, fmt: FormatName, skip_list: str) -> dict[str, FormatName]:
    """What a row of the published table quantizes."""
    skips = (
        (lambda linear: published_skips(linear.fqn, linear.k, linear.n))
        if skip_list == "published"
        else (lambda linear: linear.n % 16 != 0)
    )
    return {linear.fqn: FormatName.BF16 if skips(linear) else fmt for linear in table.linears}


def speedup_of(
    device: str,
    table: ShapeTable,
    formats: dict[str, FormatName],
    anchor_s: float | None,
) -> tuple[Callable[[KernelConstants], float], Callable[[KernelFit], tuple[float, float]]]:
    """(speedup, its interval) as functions of constants: what `estimate` gives, without rows."""

    def parts(
        constants: KernelConstants, chip: Device = DEVICES[device]
    ) -> tuple[PredictedLatency, float, float, float]:
        model = PredictedLatency(chip, constants=constants)
        savings = model.savings(table, formats)
        factor, rest_s = 1.0, savings.rest_s
        if anchor_s is not None:
            factor, rest_s = model.divide_anchor(anchor_s, savings.linears_s, savings.rest_s)
        linears_s = savings.linears_s * factor
        return model, linears_s, rest_s, linears_s * savings.fraction(model)

    def predict(constants: KernelConstants) -> float:
        _, linears_s, rest_s, saved_s = parts(constants)
        return (linears_s + rest_s) / (linears_s + rest_s - saved_s)

    def interval(fit: KernelFit) -> tuple[float, float]:
        samples = around(fit.constants, fit.names, fit.samples)
        chip = dataclasses.replace(
            DEVICES[device], kernels=fit.constants, samples=samples, calibrated=True
        )
        model, linears_s, rest_s, _ = parts(fit.constants, chip)
        savings = dataclasses.replace(
            model.savings(table, formats),
            linears_s=linears_s,
            rest_s=rest_s,
            anchored=anchor_s is not None,
        )
        found = model.interval90(savings)
        assert found is not None
        return found

    return predict, interval


def bf16_seconds_of(device: str, table: ShapeTable) -> Callable[[KernelConstants], float]:
    """The bf16 seconds of a run as a function of constants."""

    def predict(constants: KernelConstants) -> float:
        savings = PredictedLatency(DEVICES[device], constants=constants).savings(table, {})
        return savings.linears_s + savings.rest_s

    return predict


def flux_runs(tables: dict[int, ShapeTable]) -> list[Observation]:
    """Whole runs on a B200: bf16 seconds, speedups of the published skip-list, and the ablation."""
    rows = list(csv.DictReader((PUBLISHED / "flux1_dev_b200.csv").open()))
    bf16_s = {
        int(row["batch_size"]): float(row["latency_s"]) for row in rows if row["format"] == "bf16"
    }
    found = []
    for row in rows:
        batch, fmt = int(row["batch_size"]), FormatName(row["format"])
        group, table = f"FLUX batch {batch}", tables[batch]
        if fmt is FormatName.BF16:
            name = f"seconds of FLUX batch {batch} bf16, no anchor"
            predict = bf16_seconds_of("b200", table)
            found.append(Observation(name, group, bf16_s[batch], SECONDS_SD, predict))
            continue
        stated = row["compile_mode"] != "unstated"
        predict, interval = speedup_of(
            "b200", table, flux_formats(table, fmt, row["skip_list"]), bf16_s[batch]
        )
        unstated = f", skip-list {row['skip_list']}, compile mode unstated"
        found.append(
            Observation(
                f"FLUX batch {batch} {fmt.value}{'' if stated else unstated}",
                group,
                bf16_s[batch] / float(row["latency_s"]),
                FLUX_SD if stated else None,
                predict,
                interval,
            )
        )
    return found


def denoiser_lists(table: ShapeTable) -> dict[str, dict[str, FormatName]]:
    """The lists of `fp8_flux.py` that names alone decide: {list: format of every Linear}."""
    keeps: dict[str, Callable[[LinearProfile], bool]] = {
        "none": lambda _: False,
        "all": lambda _: True,
        "published": lambda linear: not published_skips(linear.fqn, linear.k, linear.n),
        "single blocks": lambda linear: linear.fqn.startswith("single_transformer_blocks."),
    }
    return {
        name: {
            linear.fqn: FormatName.FP8 if keep(linear) else FormatName.BF16
            for linear in table.linears
        }
        for name, keep in keeps.items()
    }


def flux_denoiser_runs(
    result: Path, device: str, tables: dict[int, tuple[ShapeTable, int]]
) -> list[Observation]:
    """FLUX's denoiser timed end to end by `fp8_flux.py`: bf16 seconds, and speedups without anchor.

    Args:
        result: Its JSON.
        device: What is priced.
        tables: {batch: (the denoiser's table, forwards that it counts)}.
    """
    cells = json.loads(result.read_text(encoding="utf-8"))["cells"]
    bf16_ms = {
        cell["batch_size"]: cell["measured"]["ms"] for cell in cells if cell["list"] == "none"
    }
    found = []
    for cell in cells:
        batch, name = cell["batch_size"], cell["list"]
        table, forwards = tables[batch]
        formats = denoiser_lists(table).get(name)
        if formats is None:
            continue
        title, group = f"FLUX's denoiser, batch {batch}", f"denoiser batch {batch}"
        if name == "none":
            predict = bf16_seconds_of(device, table)
            seconds = cell["measured"]["ms"] / 1e3 * forwards
            title = f"seconds of {title}, bf16"
            found.append(Observation(title, group, seconds, SECONDS_SD, predict))
            continue
        speedup = bf16_ms[batch] / cell["measured"]["ms"]
        predict, interval = speedup_of(device, table, formats, None)
        found.append(Observation(f"{title}, {name}", group, speedup, SECONDS_SD, predict, interval))
    return found


def step_graph_runs(
    result: Path, device: str, tables: Mapping[str, tuple[ShapeTable, int]]
) -> list[Observation]:
    """Denoisers in one CUDA graph, which no host limits (`runtimes.py`): bf16 seconds of a call,
    and the speedup of quantizing all Linears.

    Args:
        result: Its JSON.
        device: What is priced.
        tables: {study: (its denoiser's table, calls that it counts)}.
    """
    cases = json.loads(result.read_text(encoding="utf-8"))["cases"]
    call_s = {
        (case["model"], case["list"]): case["call_ms"] / 1e3
        for case in cases
        if case["way"] == STEP_GRAPH and case.get("call_ms")
    }
    found = []
    for study, (table, calls) in tables.items():
        if (study, "none") not in call_s:
            continue
        none_s, group = call_s[study, "none"], f"{study} step graph"
        found.append(
            Observation(
                f"seconds of {group}, bf16",
                group,
                none_s * calls,
                SECONDS_SD,
                bf16_seconds_of(device, table),
            )
        )
        if (study, "all") in call_s:
            takes = {linear.fqn: linear.k % 16 == linear.n % 16 == 0 for linear in table.linears}
            formats = {
                fqn: FormatName.FP8 if taken else FormatName.BF16 for fqn, taken in takes.items()
            }
            speedup = none_s / call_s[study, "all"]
            predict, interval = speedup_of(device, table, formats, None)
            found.append(
                Observation(f"{group}, all", group, speedup, SECONDS_SD, predict, interval)
            )
    return found
