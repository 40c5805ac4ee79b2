"""Fit the predicted latency's Blackwell constants to published B200 measurements; print residuals
and leave-one-out errors.

    uv run python benchmarks/calibrate_latency.py            # fits, prints, compares with the code
    uv run python benchmarks/calibrate_latency.py --write    # also writes fit_b200.json

Data, and nothing else: `published/torchao_b200_square.csv` (speedups of square Linears, kernel
times) and the rows of `published/flux1_dev_b200.csv` whose compile mode is stated (whole FLUX.1-dev
runs with the published skip-list). The rows without a compile mode contradict the others in NVFP4
(2.076 s against 1.41 s), so they are predicted and shown, not fitted. A FLUX speedup is predicted
as a user would: anchored by its own bf16 seconds; the bf16 seconds themselves are predicted without
an anchor and decide what attention and elementwise work take.

Method. Least squares on log(predicted / published), divided by the error that is asked for (squares
4 %, FLUX 1 %, seconds 3 %), plus log-normal priors around values from elsewhere (`PRIORS`). Samples
of the posterior come from the normal approximation at the optimum, widened by the misfit.
"""

import argparse
import csv
import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares

from sensitivity.core.format_name import FormatName
from sensitivity.latency.constants import BLACKWELL, KernelConstants
from sensitivity.latency.devices import get_device
from sensitivity.latency.predicted import PredictedLatency
from sensitivity.shapes.run import run_shapes
from sensitivity.shapes.table import ShapeTable
from sensitivity.spec.loading import resolve_spec

PUBLISHED = Path(__file__).parent / "published"
FIT = Path(__file__).parent.parent / "sensitivity" / "latency" / "fit_b200.json"
SQUARE_SD, FLUX_SD, SECONDS_SD = 0.04, 0.01, 0.03
SAMPLES = 48

PRIORS = {  # name: (centre, standard deviation of its logarithm, where the centre comes from)
    "sustained_matmul": (
        0.60,
        0.25,
        "bf16 GEMMs of B200 at its power limit, about 1.2 to 1.5 PFLOP/s",
    ),
    "isolated_matmul": (0.78, 0.10, "torchao roofline_utils, pct_achievable_gemm_tops"),
    "mxfp8_matmul": (0.95, 0.07, "as bf16, a little less"),
    "nvfp4_matmul": (0.95, 0.07, "as bf16, a little less"),
    "gemm_ramp_us": (2.5, 0.4, "shortest GEMMs of 1024^3 take a few microseconds"),
    "pass_ramp_us": (1.2, 0.4, "shortest kernels take 1 to 2 us"),
    "nvfp4_ramp_us": (4.0, 0.4, "the static NVFP4 square of 1024 takes twice the bf16 one"),
    "gap_us": (1.5, 0.4, "kernel to kernel in a graph or a full stream, about 1 to 2 us"),
    "quantize_bandwidth": (0.7, 0.3, "Triton reductions reach most of the bandwidth"),
    "nvfp4_bandwidth": (0.4, 0.3, "static against dynamic squares: about 3 of 7.7 TB/s"),
    "attention": (
        0.6,
        0.2,
        (
            "FlashAttention-3 forward on an H100, part of its bf16 peak (arXiv:2407.08608, figure"
            " 5, read off the plot)"
        ),
    ),
    "fusion_bandwidth": (
        0.7,
        0.3,
        "Triton elementwise kernels reach most of the bandwidth, and fusion is not perfect",
    ),
}


@dataclasses.dataclass(frozen=True)
class Observation:
    """One published speedup (or seconds) and how it is predicted from constants; `sd` is of its
    logarithm, None where it is only shown.
    """

    name: str
    published: float
    sd: float | None
    predict: Callable[[KernelConstants], float]


def squares() -> list[Observation]:
    """Speedups of Linears that stand alone; the static column has no absolute maximum to find."""
    found = []
    for row in csv.DictReader((PUBLISHED / "torchao_b200_square.csv").open()):
        size = int(row["m"])
        for column, fmt, static in (
            ("mxfp8_speedup", FormatName.MXFP8, False),
            ("nvfp4_dynamic_speedup", FormatName.NVFP4, False),
            ("nvfp4_static_speedup", FormatName.NVFP4, True),
        ):

            def predict(
                constants: KernelConstants,
                size: int = size,
                fmt: FormatName = fmt,
                static: bool = static,
            ) -> float:
                model = PredictedLatency(get_device("b200"), isolated=True, constants=constants)
                kernels = model.kernels.of(m=size, k=size, n=size, format=fmt)
                quantized_us = sum(
                    kernel.us
                    for kernel in kernels
                    if not (static and kernel.name == "absolute maximum")
                )
                return (
                    model.linear_us(m=size, k=size, n=size, format=FormatName.BF16) / quantized_us
                )

            found.append(
                Observation(
                    f"square {size:5} {column.removesuffix('_speedup')}",
                    float(row[column]),
                    SQUARE_SD,
                    predict,
                )
            )
    return found


def published_skips(fqn: str, k: int, n: int) -> bool:
    """The published FLUX.1-dev skip-list: what it leaves in bf16."""
    return "embed" in fqn or fqn in ("norm_out.linear", "proj_out") or min(k, n) < 1024


def flux_formats(table: ShapeTable, fmt: FormatName, skip_list: str) -> dict[str, FormatName]:
    """What a row of the table quantizes."""
    skips = (
        (lambda linear: published_skips(linear.fqn, linear.k, linear.n))
        if skip_list == "published"
        else (lambda linear: linear.n % 16 != 0)
    )
    return {linear.fqn: FormatName.BF16 if skips(linear) else fmt for linear in table.linears}


def anchored_speedup(
    constants: KernelConstants,
    table: ShapeTable,
    formats: dict[str, FormatName],
    bf16_seconds: float,
) -> float:
    """What `estimate` gives for the speedup, without the rows."""
    model = PredictedLatency(get_device("b200"), constants=constants)
    savings = model.savings(table, formats)
    factor, _ = model.divide_anchor(bf16_seconds, savings.linears_s, savings.rest_s)
    return bf16_seconds / (bf16_seconds - savings.linears_s * factor * savings.fraction(model))


def flux_runs(tables: dict[int, ShapeTable]) -> list[Observation]:
    """Whole runs: seconds in bf16, speedups with the published skip-list, and the ablation rows
    (shown only).
    """
    rows = list(csv.DictReader((PUBLISHED / "flux1_dev_b200.csv").open()))
    bf16_s = {
        int(row["batch_size"]): float(row["latency_s"]) for row in rows if row["format"] == "bf16"
    }
    found = []
    for batch, seconds in bf16_s.items():

        def predict_seconds(constants: KernelConstants, table: ShapeTable = tables[batch]) -> float:
            savings = PredictedLatency(get_device("b200"), constants=constants).savings(table, {})
            return savings.linears_s + savings.rest_s

        found.append(
            Observation(
                f"seconds of FLUX batch {batch} bf16, no anchor",
                seconds,
                SECONDS_SD,
                predict_seconds,
            )
        )
    for row in rows:
        if row["format"] == "bf16":
            continue
        batch, fmt = int(row["batch_size"]), FormatName(row["format"])
        formats, anchor = flux_formats(tables[batch], fmt, row["skip_list"]), bf16_s[batch]

        def predict(
            constants: KernelConstants,
            table: ShapeTable = tables[batch],
            formats: dict[str, FormatName] = formats,
            anchor: float = anchor,
        ) -> float:
            return anchored_speedup(constants, table, formats, anchor)

        stated = row["compile_mode"] != "unstated"
        name = f"FLUX batch {batch} {fmt.value}" + (
            "" if stated else f", skip-list {row['skip_list']}, compile mode unstated"
        )
        found.append(
            Observation(
                name, anchor / float(row["latency_s"]), FLUX_SD if stated else None, predict
            )
        )
    return found


def constants_of(x: Sequence[float]) -> KernelConstants:
    """Constants from the logarithms that are fitted; FP8 is taken to be as good as MXFP8."""
    values = {name: math.exp(value) for name, value in zip(PRIORS, x, strict=True)}
    return dataclasses.replace(BLACKWELL, **values, fp8_matmul=values["mxfp8_matmul"])


def fit(observations: Sequence[Observation]) -> tuple[np.ndarray, np.ndarray, float]:
    """The optimum (logarithms), its covariance, and the RMS of the weighted residuals."""
    centres = np.log([centre for centre, _, _ in PRIORS.values()])
    sds = np.array([sd for _, sd, _ in PRIORS.values()])

    def residuals(x: np.ndarray) -> np.ndarray:
        constants = constants_of(x)
        data = [
            math.log(o.predict(constants) / o.published) / o.sd
            for o in observations
            if o.sd is not None
        ]
        return np.array([*data, *((x - centres) / sds)])

    result = least_squares(residuals, centres)
    covariance = np.linalg.inv(result.jac.T @ result.jac)
    fitted = sum(o.sd is not None for o in observations)
    return result.x, covariance, float(np.sqrt(np.mean(result.fun[:fitted] ** 2)))


def rounded(x: Sequence[float]) -> dict[str, float]:
    """The constants as the code states them, three digits."""
    return {name: float(f"{math.exp(value):.3g}") for name, value in zip(PRIORS, x, strict=True)}


def error(observation: Observation, constants: KernelConstants) -> float:
    """Predicted / published - 1."""
    return observation.predict(constants) / observation.published - 1


def main() -> None:
    """Fit, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write the fit beside the code")
    arguments = parser.parse_args()
    spec = resolve_spec("flux1-dev")
    tables = {batch: run_shapes(spec, batch_size=batch).table for batch in (1, 4, 8)}
    observations = squares() + flux_runs(tables)
    x, covariance, misfit = fit(observations)
    constants = dataclasses.replace(BLACKWELL, **rounded(x), fp8_matmul=rounded(x)["mxfp8_matmul"])
    print(f"{'constant':22}{'fitted':>9}{'prior':>9}{'in code':>9}")
    for name, value in rounded(x).items():
        print(f"{name:22}{value:9.3g}{PRIORS[name][0]:9.3g}{getattr(BLACKWELL, name):9.3g}")
    print(
        f"\n{'speedup or seconds':58}{'published':>10}{'predicted':>10}{'error':>8}{'left out':>10}"
    )
    left_out: dict[str, float] = {}
    for o in observations:
        if o.sd is not None:
            left_out[o.name] = error(
                o, constants_of(fit([other for other in observations if other is not o])[0])
            )
        without = f"{left_out[o.name]:+10.1%}" if o.name in left_out else " not fitted"
        print(
            f"{o.name:58}{o.published:10.3f}{o.predict(constants):10.3f}"
            f"{error(o, constants):+8.1%}{without}"
        )
    groups = {
        f"all of FLUX batch {b}": [o for o in observations if f"batch {b} " in o.name and o.sd]
        for b in (1, 4, 8)
    }
    groups["all of FLUX"] = [o for o in observations if "FLUX" in o.name and o.sd]
    groups = {
        name: sorted(group, key=lambda o: "seconds" in o.name) for name, group in groups.items()
    }
    for name, group in groups.items():
        out = constants_of(fit([o for o in observations if o not in group])[0])
        print(f"left out together, {name:22} " + ", ".join(f"{error(o, out):+.1%}" for o in group))
    kinds = ("square", "FLUX", "seconds")
    errors = {
        kind: [error(o, constants) for o in observations if o.sd and o.name.startswith(kind)]
        for kind in kinds
    }
    summary = {
        "constants": rounded(x),
        "misfit": round(misfit, 3),
        "largest_error": {kind: max(map(abs, values)) for kind, values in errors.items()},
        "largest_error_left_out": {
            kind: max(abs(e) for n, e in left_out.items() if n.startswith(kind)) for kind in kinds
        },
    }
    if arguments.write:
        samples = np.random.default_rng(0).multivariate_normal(
            x, covariance * max(1.0, misfit**2), size=SAMPLES
        )
        values = [[float(f"{math.exp(value):.4g}") for value in sample] for sample in samples]
        FIT.write_text(
            json.dumps(
                {"names": list(PRIORS), "constants": rounded(x), "samples": values}, indent=None
            )
            + "\n",
            encoding="utf-8",
        )
        print(f"wrote {FIT.name}; put the fitted constants into sensitivity/latency/constants.py")
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
