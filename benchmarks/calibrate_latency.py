"""Fit the predicted latency's constants to measurements; print residuals of times, of gains and of
runs, and errors of what was left out.

    python benchmarks/calibrate_latency.py                        # fits, prints, compares
    python benchmarks/calibrate_latency.py --target h100 --write  # also writes fit_h100.json

Data: `price_rows.py` (single kernels and Linears) and `price_runs.py` (whole runs).

Method, for a B200. First the GEMMs from GEMM rows, then the quantizers from quantizer rows, then
whole runs and squares, which move what rows cannot tell (clocks in a long run, gaps, attention,
fused work) and the others a little. Each stage is `fit_kernels`, with log-normal priors around the
stage before it. For an H100: Linears timed behind their producers and FLUX's denoiser end to end,
together.

What is left out, to be predicted by the others: each source of rows; all squares; all of FLUX; each
batch size; each (K, N) of an H100's Linears.
"""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import price_rows
import price_runs
from price_runs import Observation

from sensitivity.latency.constants import FITTED, PRIOR_SDS, KernelConstants
from sensitivity.latency.devices import DEVICES
from sensitivity.latency.fitting import FitRow, KernelFit, fit_kernels
from sensitivity.shapes.census import RunCounts
from sensitivity.shapes.run import run_shapes
from sensitivity.shapes.table import ShapeTable
from sensitivity.spec.loading import resolve_spec

FITS = Path(__file__).parent.parent / "sensitivity" / "latency"
CENTRES = {  # constant: (value before anything is fitted, where it comes from)
    "sustained_matmul": (0.62, "bf16 GEMMs of a B200 at its power limit: 1.36 to 1.42 PFLOP/s"),
    "isolated_matmul": (0.67, "the same with pauses: 1.48 to 1.51 PFLOP/s"),
    "fp8_matmul": (0.96, "as bf16, a little less"),
    "mxfp8_matmul": (0.96, "as bf16, a little less"),
    "nvfp4_matmul": (
        0.92,
        "as bf16, less: the part of its peak that is reached falls with the peak",
    ),
    "epilogue_us": (0.5, "less than on Hopper, where two waves of short tiles take 2 to 3 us more"),
    "gemm_ramp_us": (3.2, "profilers show 4 to 5 us for the smallest GEMMs"),
    "pass_ramp_us": (1.95, "the shortest kernels in a CUDA graph on an H100, with the gap"),
    "read_bandwidth": (0.9, "torchao roofline_utils, pct_achievable_mem_bw is 0.92"),
    "pass_bandwidth": (0.9, "the same"),
    "quantize_bandwidth": (0.46, "torchao's table: to_mx compiled with RCEIL, 3.7 of 7.7 TB/s"),
    "nvfp4_bandwidth": (0.46, "CUDA quantizers reach 0.4 to 0.6 of a B200's bandwidth"),
    "attention": (0.55, "fused attention of torch reaches 0.5 to 0.65 of the bf16 peak"),
    "fusion_bandwidth": (0.6, "Triton kernels reach most of the bandwidth; fusion is not perfect"),
}
HOPPER_CENTRES = {
    "sustained_matmul": (0.72, "bf16 GEMMs of an H100: 0.66 under load, 0.78 rested"),
    "isolated_matmul": (0.73, "as inside a run; no row tells"),
    "fp8_matmul": (0.95, "as bf16, a little less"),
    "epilogue_us": (1.2, "GEMMs of two and three waves with K = 640 and 1280"),
    "gemm_ramp_us": (3.4, "3.3 to 3.5 us in a CUDA graph, with the gap"),
    "read_bandwidth": (0.83, "reading bf16 weights of 57 and 113 MB"),
    "pass_bandwidth": (0.83, "the same"),
    "attention": (0.63, "424 us for 24 heads of 4608 tokens (cuDNN)"),
    "fusion_bandwidth": (0.8, "Triton kernels in a profile of FLUX.1-dev's denoiser"),
}
GEMM = (
    "isolated_matmul",
    "fp8_matmul",
    "mxfp8_matmul",
    "nvfp4_matmul",
    "gemm_ramp_us",
    "epilogue_us",
    "read_bandwidth",
)
QUANTIZERS = ("pass_bandwidth", "quantize_bandwidth", "nvfp4_bandwidth")
RUN_SDS = {  # what runs may still move, and by how much
    "sustained_matmul": 0.07,
    "mxfp8_matmul": 0.04,
    "nvfp4_matmul": 0.06,
    "gemm_ramp_us": 0.1,
    "pass_ramp_us": 0.2,
    "quantize_bandwidth": 0.15,
    "nvfp4_bandwidth": 0.2,
    "attention": 0.2,
    "fusion_bandwidth": 0.3,
}
HOPPER_RUN_SDS = {"attention": 0.05, "fusion_bandwidth": 0.3}
DEVIATIONS = {  # of what rows and runs miss, left out; see the printed tables
    "b200": {"linear_sd": 0.05, "rest_sd": 0.2, "shape_sd": 0.09, "saving_sd": 0.05},
    "h100": {"linear_sd": 0.05, "rest_sd": 0.2, "shape_sd": 0.07, "saving_sd": 0.12},
}


def start_of(target: str) -> KernelConstants:
    """The constants before anything is fitted."""
    centres = CENTRES | (HOPPER_CENTRES if target != "b200" else {})
    values = {name: value for name, (value, _) in centres.items()}
    return dataclasses.replace(FITTED["b200"], **values, **DEVIATIONS[target])


def fit_b200(rows: Sequence[FitRow], runs: Sequence[Observation]) -> KernelFit:
    """Three stages; see the module."""
    device = DEVICES["b200"]
    gemm = fit_kernels(
        device,
        [row for row in rows if row.kind == "gemm"],
        start=start_of("b200"),
        prior_sds={name: PRIOR_SDS[name] for name in GEMM},
        launched=price_rows.LAUNCHED,
    )
    quantizers = fit_kernels(
        device,
        [row for row in rows if row.kind != "gemm"],
        start=gemm.constants,
        prior_sds={name: PRIOR_SDS[name] for name in QUANTIZERS},
    )
    found = fit_kernels(
        device, (), start=quantizers.constants, prior_sds=RUN_SDS, also=price_runs.residuals(runs)
    )
    return dataclasses.replace(
        found,
        constants=dataclasses.replace(found.constants, **DEVIATIONS["b200"]),
        errors=gemm.errors,
        launch_us=gemm.launch_us,
    )


def fit_hopper(target: str, rows: Sequence[FitRow], runs: Sequence[Observation]) -> KernelFit:
    """Rows and runs together."""
    device, start = DEVICES[target], start_of("h100")
    names = fit_kernels(device, rows, start=start).names
    found = fit_kernels(
        device,
        rows,
        start=start,
        prior_sds={name: PRIOR_SDS[name] for name in names} | HOPPER_RUN_SDS,
        also=price_runs.residuals(runs),
    )
    constants = dataclasses.replace(found.constants, **DEVIATIONS["h100"])
    return dataclasses.replace(found, constants=constants)


def flux_tables() -> tuple[dict[int, ShapeTable], dict[int, tuple[ShapeTable, int]]]:
    """FLUX.1-dev's runs by batch size, and its denoiser alone with the forwards that it counts."""
    spec = resolve_spec("flux1-dev")
    runs = {batch: run_shapes(spec, batch_size=batch) for batch in (1, 4, 8)}
    denoisers = {}
    for batch, run in runs.items():
        assert run.table.run is not None
        counts = RunCounts(components=(run.table.run.component("transformer"),))
        forwards = sum(call.calls for call in run.calls)
        denoisers[batch] = dataclasses.replace(run.table, run=counts), forwards
    return {batch: run.table for batch, run in runs.items()}, denoisers


def data_of(target: str) -> tuple[list[FitRow], list[Observation]]:
    """The rows and runs of a target."""
    whole, denoisers = flux_tables()
    if target == "b200":
        rows = price_rows.published_rows("b200", "gb200")
        return rows, price_runs.squares() + price_runs.flux_runs(whole)
    result = price_rows.H100_FLUX
    return price_rows.measured_rows(result), price_runs.flux_denoiser_runs(
        result, "h100", denoisers
    )


def fit_of(target: str, rows: Sequence[FitRow], runs: Sequence[Observation]) -> KernelFit:
    """The fit of a target to some of its data."""
    return fit_b200(rows, runs) if target == "b200" else fit_hopper(target, rows, runs)


def write_fit(target: str, fit: KernelFit, rows: Sequence[FitRow], runs: int) -> None:
    """Write the fit beside the code."""
    sources = sorted({row.source for row in rows})
    data = {
        "names": fit.names,
        "constants": {name: getattr(fit.constants, name) for name in fit.names},
        "samples": fit.samples,
        "fitted_to": [
            f"{source}: {sum(row.source == source for row in rows)} rows" for source in sources
        ]
        + [f"{runs} whole runs and squares"],
    }
    path = FITS / f"fit_{target}.json"
    path.write_text(json.dumps(data) + "\n", encoding="utf-8")
    print(f"wrote {path.name}; put the fitted constants into sensitivity/latency/constants.py")


def print_constants(target: str, fit: KernelFit) -> None:
    """Fitted, before, and in the code."""
    before, code = start_of(target), FITTED[target]
    print(f"{target}\n{'constant':22}{'fitted':>9}{'before':>9}{'in code':>9}")
    for field in dataclasses.fields(fit.constants):
        values = (getattr(c, field.name) for c in (fit.constants, before, code))
        print(f"{field.name:22}" + "".join(f"{value:9.3g}" for value in values))


def main() -> None:
    """Fit, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", action="append", choices=sorted(FITTED), default=None)
    parser.add_argument("--write", action="store_true", help="write the fit beside the code")
    arguments = parser.parse_args()
    summary = {}
    for target in arguments.target or sorted(FITTED):
        rows, runs = data_of(target)
        fit = fit_of(target, rows, runs)
        print_constants(target, fit)
        for run in runs:
            print(
                f"{run.name:64}{run.measured:9.3f}{run.predict(fit.constants):9.3f}"
                f"{run.error(fit.constants):+8.1%}"
            )
        if arguments.write:
            write_fit(target, fit, rows, sum(run.sd is not None for run in runs))
        summary[target] = {
            "constants": {name: getattr(fit.constants, name) for name in fit.names},
            "errors": fit.errors,
            "largest_error_of_runs": max(
                abs(run.error(fit.constants)) for run in runs if run.sd is not None
            ),
        }
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
