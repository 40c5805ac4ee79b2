"""Which kernel constants agree with measured times? `fit_kernels`.

Method. Rows are GEMMs alone, quantizers alone, or whole Linears. The constants are the maximum of a
posterior: errors of log(predicted / measured), errors of gains where a row has a bf16 row of the
same shape beside it, and log-normal priors around the constants that the fit starts from. Outliers
count less (soft L1). Only constants are fitted that some row depends on. Samples of the posterior
come from the normal approximation at the maximum, widened by the misfit.

Gains are errors of their own, since a skip-list is chosen by gains: two totals that are both 5 %
off can give a gain of twice the size.

    fit = fit_kernels(get_device("h100"), rows, start=HOPPER)
    fit.constants.gemm_ramp_us, fit.errors["gain_median"]

Conventions. Microseconds of one call. A row's `source` says who measured it. Sources whose times
include a launch (`launched`) get one constant of their own for it, which is fitted and then
forgotten.

What it does not do: read files (`targets`, `benchmarks/calibrate_latency.py`), or fit the rest
of a run.
"""

import dataclasses
import math
import statistics
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from sensitivity.core.format_name import FormatName
from sensitivity.latency.constants import PRIOR_SDS, KernelConstants
from sensitivity.latency.devices import Device
from sensitivity.latency.predicted import PredictedLatency
from sensitivity.latency.shape_times import ShapeTime, parse_linear

RowKind = Literal["gemm", "quantize", "linear", "sibling", "eager"]
"""What was timed: a GEMM whose operands are quantized already; the quantizing of an input; a Linear
of a compiled block; one more Linear on a quantized input; a Linear outside the compiled blocks.
"""
ERROR_SD, GAIN_SD = 0.06, 0.15
"""Relative errors that are expected of a time and of a gain."""
GAIN_FLOOR_US, GAIN_FLOOR = 0.5, 0.02
"""A gain is compared with its own size plus these: microseconds, and part of the bf16 time."""
SAMPLES = 48
"""Samples of a posterior."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FitRow:
    """One measured time.

    Attributes:
        kind: What was timed.
        m, k, n: The shape; n is 0 for a quantizer.
        format: The format of the operands.
        us: Microseconds of a call.
        bias: Whether the Linear has a bias.
        isolated: Whether the kernels ran alone, without the gap to a neighbour; a Linear then has
            all its quantizing in kernels of its own.
        source: Who measured it.
        weight: What it counts, relative to other rows.
    """

    kind: RowKind
    m: int
    k: int
    n: int
    format: FormatName
    us: float
    bias: bool = False
    isolated: bool = False
    source: str = ""
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class KernelFit:
    """What a fit found.

    Attributes:
        constants: All constants, those that were not fitted included.
        names: The constants that were fitted.
        samples: Samples of the posterior, each in the order of `names`.
        errors: "total_median", "total_p90", "gain_median", "gain_p90" and "gain_within_25" of the
            fitted rows; "rows" is how many.
        launch_us: {source: what its rows have beyond the kernels}.
    """

    constants: KernelConstants
    names: tuple[str, ...]
    samples: tuple[tuple[float, ...], ...]
    errors: dict[str, float]
    launch_us: dict[str, float] = dataclasses.field(default_factory=dict)


def fit_row(time: ShapeTime, source: str) -> FitRow | None:
    """The row of a shape that was measured behind its producer; None without a time, and for what
    is not a Linear.
    """
    shape = parse_linear(time.key)
    if shape is None or not time.us or time.price_us <= 0:
        return None
    kinds: dict[str, RowKind] = {"compiled": "linear", "sibling": "sibling", "eager": "eager"}
    return FitRow(
        kind=kinds[shape.kind],
        m=shape.m,
        k=shape.k,
        n=shape.n,
        format=shape.format,
        us=time.price_us,
        bias=shape.bias,
        source=source,
    )


def _row_us(model: PredictedLatency, row: FitRow) -> float:
    shape = {"m": row.m, "k": row.k, "n": row.n}
    if row.kind == "gemm":
        return model.kernels.gemm(row.m, row.k, row.n, row.format).us
    if row.kind == "quantize":
        return sum(kernel.us for kernel in model.kernels.quantize(row.m, row.k, row.format))
    if row.kind == "sibling":
        return model.sibling_us(**shape, format=row.format)
    if row.kind == "eager":
        return model.eager_us(**shape, format=row.format)
    return model.linear_us(**shape, format=row.format)


@dataclass(frozen=True)
class _Problem:
    """A fit's rows, and what is compared."""

    device: Device
    rows: Sequence[FitRow]
    start: KernelConstants
    names: tuple[str, ...]
    launched: tuple[str, ...]
    also: Callable[[KernelConstants], Sequence[float]]
    prior_sds: Mapping[str, float]

    def constants(self, x: NDArray[np.float64]) -> KernelConstants:
        values = {name: math.exp(v) for name, v in zip(self.names, x, strict=False)}
        return dataclasses.replace(self.start, **values)

    def launches(self, x: NDArray[np.float64]) -> dict[str, float]:
        return {
            source: math.exp(v)
            for source, v in zip(self.launched, x[len(self.names) :], strict=True)
        }

    @property
    def centre(self) -> NDArray[np.float64]:
        return np.log(
            [getattr(self.start, name) for name in self.names] + [1.0] * len(self.launched)
        )

    def predict(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """(rows,) microseconds, launches included."""
        constants, launch_us = self.constants(x), self.launches(x)
        return predict_rows(self.device, constants, self.rows, launch_us)

    def residuals(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        predicted = self.predict(x)
        measured = np.array([row.us for row in self.rows])
        weights = np.sqrt([row.weight for row in self.rows])
        totals = weights * np.log(predicted / measured) / ERROR_SD
        gains = [
            weights[i]
            * (predicted[b] - predicted[i] - measured[b] + measured[i])
            / (abs(measured[b] - measured[i]) + GAIN_FLOOR_US + GAIN_FLOOR * measured[b])
            / GAIN_SD
            for b, i in self.pairs
        ]
        sds = [self.prior_sds[name] for name in self.names] + [1.0] * len(self.launched)
        others = self.also(self.constants(x))
        return np.array([*totals, *gains, *others, *((x - self.centre) / sds)])

    @property
    def pairs(self) -> list[tuple[int, int]]:
        return gain_pairs(self.rows)


def predict_rows(
    device: Device,
    constants: KernelConstants,
    rows: Iterable[FitRow],
    launch_us: dict[str, float] | None = None,
) -> NDArray[np.float64]:
    """(rows,) predicted microseconds; `launch_us` adds what a source's rows have beyond kernels."""
    models = {
        isolated: PredictedLatency(device, constants=constants, isolated=isolated)
        for isolated in (False, True)
    }
    launches = launch_us or {}
    return np.array(
        [_row_us(models[row.isolated], row) + launches.get(row.source, 0.0) for row in rows]
    )


def gain_pairs(rows: Sequence[FitRow]) -> list[tuple[int, int]]:
    """(index of the bf16 row, index of the quantized row) of each gain that was measured.

    A sibling is compared with the Linear of its shape. What ran alone gains nothing that a run has,
    so only Linears of runs count.
    """
    bf16 = {
        (row.source, row.kind == "eager", row.m, row.k, row.n): i
        for i, row in enumerate(rows)
        if row.format is FormatName.BF16 and row.kind != "gemm" and not row.isolated
    }
    found = []
    for i, row in enumerate(rows):
        key = (row.source, row.kind == "eager", row.m, row.k, row.n)
        of_run = row.kind in ("linear", "sibling", "eager") and not row.isolated
        if row.format is not FormatName.BF16 and of_run and key in bf16:
            found.append((bf16[key], i))
    return found


def row_errors(
    rows: Sequence[FitRow], predicted: Sequence[float] | NDArray[np.float64]
) -> dict[str, float]:
    """Relative errors of totals and gains, as `KernelFit.errors` names them."""
    totals = [abs(float(us) / row.us - 1) for row, us in zip(rows, predicted, strict=True)]
    gains = [
        abs(float(predicted[b] - predicted[i]) / (rows[b].us - rows[i].us) - 1)
        for b, i in gain_pairs(rows)
        if rows[b].us != rows[i].us
    ]
    errors = {
        "rows": float(len(rows)),
        "total_median": statistics.median(totals),
        "total_p90": float(np.quantile(totals, 0.9)),
    }
    if gains:
        errors |= {
            "gain_median": statistics.median(gains),
            "gain_p90": float(np.quantile(gains, 0.9)),
            "gain_within_25": sum(error <= 0.25 for error in gains) / len(gains),
        }
    return errors


def fit_kernels(
    device: Device,
    rows: Sequence[FitRow],
    *,
    start: KernelConstants,
    prior_sds: Mapping[str, float] | None = None,
    fixed: Collection[str] = (),
    launched: Collection[str] = (),
    also: Callable[[KernelConstants], Sequence[float]] = lambda _: (),
) -> KernelFit:
    """Fit the constants of Linears to measured rows.

    Args:
        device: The chip; its own constants are not looked at.
        rows: What was measured on it, in formats that it has.
        start: Where priors stand, and the constants that are not fitted.
        prior_sds: The constants to fit, with the standard deviations of their logarithms before
            anything is measured; by default those of `known_sds` that change a row.
        fixed: Constants that keep their value.
        launched: Sources whose times include a launch.
        also: More residuals, each divided by its standard deviation, such as those of whole runs.

    Raises:
        FormatError: A row has a format that the device lacks.
    """
    sds = known_sds(start) if prior_sds is None else prior_sds
    names = tuple(sds) if prior_sds is not None else _that_matter(device, rows, start)
    chosen = tuple(name for name in names if name not in fixed)
    problem = _Problem(
        device=device,
        rows=tuple(rows),
        start=start,
        names=chosen,
        launched=tuple(sorted({row.source for row in rows} & set(launched))),
        also=also,
        prior_sds=sds,
    )
    found = least_squares(
        problem.residuals, problem.centre, loss="soft_l1", diff_step=2e-3, max_nfev=60
    )
    constants = dataclasses.replace(
        start,
        **{name: float(f"{getattr(problem.constants(found.x), name):.3g}") for name in chosen},
    )
    launch_us = problem.launches(found.x)
    predicted = predict_rows(device, constants, rows, launch_us)
    if rows:
        constants = dataclasses.replace(constants, shape_sd=_shape_sd(rows, predicted))
    return KernelFit(
        constants=constants,
        names=chosen,
        samples=_samples(found.x, found.jac, found.fun, chosen),
        errors=row_errors(rows, predicted) if rows else {},
        launch_us=launch_us,
    )


def known_sds(start: KernelConstants) -> Mapping[str, float]:
    """Standard deviations of the logarithms of all constants of Linears before a fit."""
    return {**PRIOR_SDS, **start.unfitted_sds}


def _that_matter(device: Device, rows: Sequence[FitRow], start: KernelConstants) -> tuple[str, ...]:
    """The constants of `known_sds` on which some row depends."""
    now = predict_rows(device, start, rows)
    return tuple(
        name
        for name in known_sds(start)
        if any(
            np.any(abs(predict_rows(device, changed, rows) / now - 1) > 1e-3)
            for factor in (0.7, 1.4)
            for changed in [dataclasses.replace(start, **{name: getattr(start, name) * factor})]
        )
    )


def _shape_sd(rows: Sequence[FitRow], predicted: NDArray[np.float64]) -> float:
    """The robust standard deviation of log(predicted / measured), at least 2 %."""
    errors = [abs(math.log(us / row.us)) for row, us in zip(rows, predicted, strict=True)]
    return float(f"{max(0.02, 1.4826 * statistics.median(errors)):.2g}")


def _samples(
    x: NDArray[np.float64],
    jacobian: NDArray[np.float64],
    residuals: NDArray[np.float64],
    names: tuple[str, ...],
) -> tuple[tuple[float, ...], ...]:
    """Samples of the constants, four digits."""
    covariance = np.linalg.inv(jacobian.T @ jacobian) * max(1.0, float(np.mean(residuals**2)))
    drawn = np.random.default_rng(0).multivariate_normal(x, covariance, size=SAMPLES)
    return tuple(
        tuple(float(f"{math.exp(value):.4g}") for value in sample[: len(names)]) for sample in drawn
    )
