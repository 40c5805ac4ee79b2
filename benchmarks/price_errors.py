"""How wrong is a predicted price for what it was not fitted to? Tables of what was left out.

    python benchmarks/price_errors.py              # a few minutes
    python benchmarks/price_errors.py --rows       # every row, time and gain

    sources    each source of B200 rows is predicted by a fit to all others
    shapes     each (K, N) of an H100's Linears is predicted by a fit to all others: times, gains,
               and how many lie in their stated 90 % interval; an H200's by the H100's fit
    runs       all runs of FLUX.1-dev on a B200 by GEMMs, quantizers and squares alone; squares by
               FLUX; each batch by the others
    constants  the same errors with one constant taken out: what does not lower them should go

Errors are of the logarithm for times, and of the measured gain (bf16 - quantized microseconds) for
gains. The last line is one JSON object.
"""

import argparse
import dataclasses
import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import calibrate_latency
import numpy as np
import price_rows
from price_runs import Observation

from sensitivity.core.format_name import FormatName
from sensitivity.latency.constants import PRIOR_SDS
from sensitivity.latency.devices import DEVICES, Device, get_device
from sensitivity.latency.fitting import (
    FitRow,
    KernelFit,
    fit_kernels,
    gain_pairs,
    predict_rows,
    row_errors,
)
from sensitivity.latency.posterior import around
from sensitivity.latency.predicted import PredictedLatency
from sensitivity.latency.targets.target_file import shipped_targets
from sensitivity.latency.targets.target_fit import fit_rows

WITHOUT: Mapping[str, Mapping[str, float]] = {
    "all constants": {},
    "no epilogue_us": {"epilogue_us": 1e-6},
    "no sustained, isolated_matmul": {"sustained_matmul": 1.0, "isolated_matmul": 1.0},
    "no gemm_ramp_us": {"gemm_ramp_us": 1e-6},
    "fp8, mxfp8, nvfp4_matmul = 1": {"fp8_matmul": 1.0, "mxfp8_matmul": 1.0, "nvfp4_matmul": 1.0},
    "read_bandwidth = 0.92": {"read_bandwidth": 0.92},
    "pass_bandwidth = 0.92": {"pass_bandwidth": 0.92},
    "no pass_ramp_us": {"pass_ramp_us": 1e-6},
}
"""What is taken out: constants are fixed where they have no effect."""


def sources_left_out(
    rows: Sequence[FitRow], fixed: Mapping[str, float]
) -> dict[str, list[tuple[FitRow, float]]]:
    """{source: its GEMMs with log(predicted / measured)}, each by a fit to all other sources.

    What a launch adds to a source that has one is fitted to that source alone.
    """
    gemms = [row for row in rows if row.kind == "gemm"]
    sds = {name: PRIOR_SDS[name] for name in calibrate_latency.GEMM if name not in fixed}
    start = dataclasses.replace(calibrate_latency.start_of("b200"), **fixed)
    found = {}
    for source in sorted({row.source for row in gemms}):
        out = [row for row in gemms if row.source == source]
        fit = fit_kernels(
            DEVICES["b200"],
            [row for row in gemms if row.source != source],
            start=start,
            prior_sds=sds,
            launched=price_rows.LAUNCHED,
        )
        predicted = predict_rows(DEVICES["b200"], fit.constants, out)
        if source in price_rows.LAUNCHED:
            predicted = predicted + max(0.0, statistics.median([row.us for row in out] - predicted))
        found[source] = [
            (row, math.log(us / row.us)) for row, us in zip(out, predicted, strict=True)
        ]
    return found


def shapes_left_out(
    device: Device,
    rows: Sequence[FitRow],
    fixed: Mapping[str, float],
    fit: Callable[..., KernelFit],
) -> tuple[np.ndarray, list[tuple[bool, bool]]]:
    """(microseconds predicted for each row, whether time and gain lie in their interval).

    Each (K, N) is predicted by a fit to all others, in compiled blocks and outside.
    """
    predicted = np.zeros(len(rows))
    inside: list[tuple[bool, bool]] = []
    families = sorted({(row.kind == "eager", row.k, row.n) for row in rows})
    for family in families:
        out = [i for i, row in enumerate(rows) if (row.kind == "eager", row.k, row.n) == family]
        found = fit([row for i, row in enumerate(rows) if i not in out], fixed)
        predicted[out] = predict_rows(device, found.constants, [rows[i] for i in out])
        inside += row_coverage(device, found, [rows[i] for i in out])
    return predicted, inside


def row_coverage(device: Device, fit: KernelFit, rows: Sequence[FitRow]) -> list[tuple[bool, bool]]:
    """Whether the time and the gain of each quantized Linear lie in their stated intervals."""
    samples = around(fit.constants, fit.names, fit.samples)
    model = PredictedLatency(
        dataclasses.replace(device, kernels=fit.constants, samples=samples, calibrated=True)
    )
    found = []
    for b, q in gain_pairs(rows):
        row = rows[q]
        if row.kind == "sibling":
            continue
        us, gain_us = model.row_intervals90(
            m=row.m, k=row.k, n=row.n, format=row.format, compiled=row.kind == "linear"
        )
        gain = rows[b].us - row.us
        found.append((us[0] <= row.us <= us[1], gain_us[0] <= gain <= gain_us[1]))
    return found


def fit_hopper_rows(
    device: Device, deviations: Mapping[str, float]
) -> Callable[[Sequence[FitRow], Mapping[str, float]], KernelFit]:
    """A fit to rows alone, with the stated deviations."""

    def fit(rows: Sequence[FitRow], fixed: Mapping[str, float]) -> KernelFit:
        start = dataclasses.replace(calibrate_latency.start_of("h100"), **fixed)
        names = [name for name in HOPPER_NAMES if name not in fixed]
        found = fit_kernels(
            device, rows, start=start, prior_sds={name: PRIOR_SDS[name] for name in names}
        )
        constants = dataclasses.replace(found.constants, **deviations)
        return dataclasses.replace(found, constants=constants)

    return fit


HOPPER_NAMES = (
    "sustained_matmul",
    "fp8_matmul",
    "epilogue_us",
    "read_bandwidth",
    "gemm_ramp_us",
    "pass_ramp_us",
    "pass_bandwidth",
)


def runs_left_out(
    rows: Sequence[FitRow], runs: Sequence[Observation]
) -> list[tuple[str, Observation, float, bool | None]]:
    """(what was left out, the run, its error, whether it lies in its stated interval)."""
    groups: dict[str, Callable[[Observation], bool]] = {
        "squares": lambda run: run.group == "squares",
        "all of FLUX": lambda run: run.group != "squares",
    }
    for batch in (1, 4, 8):
        groups[f"FLUX batch {batch}"] = lambda run, b=batch: run.group == f"FLUX batch {b}"  # type: ignore[misc]
    found = []
    for name, is_out in groups.items():
        fit = calibrate_latency.fit_b200(rows, [run for run in runs if not is_out(run)])
        for run in runs:
            if is_out(run) and run.sd is not None:
                inside = None
                if run.interval is not None:
                    low, high = run.interval(fit)
                    inside = low <= run.measured <= high
                found.append((name, run, run.error(fit.constants), inside))
    return found


def another_chip(show: bool) -> dict[str, dict[str, float]]:
    """Errors on an H200's Linears (the shipped target file), which the H100's fit never saw."""
    target = shipped_targets()["h200"]
    rows = [row for row in fit_rows(target) if row.kind in ("linear", "sibling", "eager")]
    predicted = predict_rows(DEVICES["h200"], DEVICES["h200"].kernels, rows)
    if show:
        print_rows(rows, predicted)
    own = get_device("h200")
    return {
        "h100": row_errors(rows, predicted),
        "own": row_errors(rows, predict_rows(own, own.kernels, rows)),
    }


def print_rows(rows: Sequence[FitRow], predicted: Iterable[float]) -> None:
    """Every gain: bf16, quantized, and what is predicted for both."""
    us = list(predicted)
    print(
        f"{'kind':9}{'M':>7}{'K':>7}{'N':>7}{'bf16 us':>10}{'pred.':>10}{'fp8 us':>10}{'pred.':>10}"
        f"{'gain us':>10}{'pred.':>10}{'error':>8}"
    )
    for b, q in gain_pairs(rows):
        row, gain, expected = rows[q], rows[b].us - rows[q].us, us[b] - us[q]
        print(
            f"{row.kind:9}{row.m:7}{row.k:7}{row.n:7}{rows[b].us:10.1f}{us[b]:10.1f}{row.us:10.1f}"
            f"{us[q]:10.1f}{gain:10.1f}{expected:10.1f}{expected / gain - 1:+8.0%}"
        )


def mean_error(found: Mapping[str, Sequence[tuple[FitRow, float]]]) -> float:
    """The mean over sources of the mean absolute error of a source."""
    return statistics.mean(
        statistics.mean(abs(error) for _, error in rows) for rows in found.values()
    )


def print_sources(found: Mapping[str, Sequence[tuple[FitRow, float]]]) -> None:
    """Bias and size of the errors of every source and format."""
    print(f"{'left out':32}{'format':8}{'rows':>5}{'bias':>8}{'mean':>8}{'worst':>8}")
    for source, rows in found.items():
        for format in FormatName:
            errors = [error for row, error in rows if row.format is format]
            if errors:
                print(
                    f"{source:32}{format.value:8}{len(errors):5}{statistics.mean(errors):+8.1%}"
                    f"{statistics.mean(map(abs, errors)):8.1%}{max(map(abs, errors)):8.1%}"
                )


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", action="store_true", help="print every row")
    arguments = parser.parse_args()
    summary: dict[str, Any] = {}

    rows, runs = calibrate_latency.data_of("b200")
    sources = sources_left_out(rows, {})
    print_sources(sources)
    summary["sources"] = {"mean": mean_error(sources)}

    h100 = DEVICES["h100"]
    measured = price_rows.measured_rows()
    fit = fit_hopper_rows(h100, calibrate_latency.DEVIATIONS["h100"])
    predicted, inside = shapes_left_out(h100, measured, {}, fit)
    if arguments.rows:
        print_rows(measured, predicted)
    summary["shapes"] = row_errors(measured, predicted) | {
        "times_in_interval": float(np.mean([time for time, _ in inside])),
        "gains_in_interval": float(np.mean([gain for _, gain in inside])),
    }
    print("H100, each (K, N) left out:", summary["shapes"])

    summary["h200"] = another_chip(arguments.rows)
    print("H200, by the constants of the H100, and by its own fit:", summary["h200"])

    left_out = runs_left_out(rows, runs)
    for name, run, error, held in left_out:
        print(f"{name:16}{run.name:56}{run.measured:9.3f}{error:+8.1%}{_word(held):>9}")
    stated = [held for _, _, _, held in left_out if held is not None]
    summary["runs"] = {
        "speedups_in_interval": sum(stated) / len(stated),
        "worst": max(abs(error) for _, run, error, _ in left_out if run.group != "squares"),
    }

    print(f"{'constants':34}{'sources':>9}{'shapes: time':>14}{'gain':>8}{'within 25 %':>13}")
    summary["constants"] = {}
    for name, fixed in WITHOUT.items():
        by_source = mean_error(sources_left_out(rows, fixed))
        errors = row_errors(measured, shapes_left_out(h100, measured, fixed, fit)[0])
        summary["constants"][name] = {"sources": by_source, **errors}
        print(
            f"{name:34}{by_source:9.1%}{errors['total_median']:14.1%}{errors['gain_median']:8.1%}"
            f"{errors['gain_within_25']:13.0%}"
        )
    print(json.dumps(summary))


def _word(held: bool | None) -> str:
    return {None: "", True: "inside", False: "outside"}[held]


if __name__ == "__main__":
    main()
