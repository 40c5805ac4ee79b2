"""Which kernel constants agree with what a target file measured? `fit_target`.

    fit_target(target).constants["gemm_ramp_us"]

Method. GEMMs alone, quantizers alone, and Linears, siblings and eager Linears of the file are rows
of one fit (`fitting.fit_kernels`), from the constants of the chip's family. Linears count as
much as GEMMs alone; failed rows are left out.

What it does not do: measure, or price.
"""

from collections.abc import Iterator

from sensitivity.core.format_name import FormatName
from sensitivity.latency.devices import device_of_target, family_constants
from sensitivity.latency.fitting import FitRow, fit_kernels, fit_row
from sensitivity.latency.kernel_shapes import parse_gemm, parse_quantizer
from sensitivity.latency.targets.target_file import KernelFitRecord, TargetFile

FEWEST_ROWS = 20
"""A file with fewer rows is not fitted."""
KNOWN_FROM_RUNS = ("pass_bandwidth", "pass_ramp_us")
"""Constants that are known from whole runs. Behind its timed producer, FP8's quantizing takes up to
twice as long as whole runs have it: with the bandwidth of an H200's rows, FLUX.1-dev and SD 3.5
Large come out 6 to 8 % too slow in FP8, with the H100's 1 to 2 %.
"""


def fit_rows(target: TargetFile) -> Iterator[FitRow]:
    """The rows of a target file as a fit takes them."""
    known = {*target.formats, FormatName.BF16}
    for row in target.rows:
        fitted = None if row.steady_us is None else fit_row(row.as_time(), "linear")
        if fitted is not None and fitted.format in known:
            yield fitted
    for row in target.gemms:
        gemm, us = parse_gemm(row.key), row.price_us
        if gemm is not None and us is not None and gemm.format in known:
            yield FitRow(
                kind="gemm",
                m=gemm.m,
                k=gemm.k,
                n=gemm.n,
                format=gemm.format,
                us=us,
                bias=gemm.bias,
                source="gemm",
            )
    for row in target.quantizers:
        quantizer, us = parse_quantizer(row.key), row.price_us
        if quantizer is not None and us is not None and quantizer.format in known:
            yield FitRow(
                kind="quantize",
                m=quantizer.m,
                k=quantizer.k,
                n=0,
                format=quantizer.format,
                us=us,
                isolated=True,
                source="quantizer",
            )


def fit_target(target: TargetFile) -> KernelFitRecord | None:
    """Fit the kernel constants to a file's rows; None if there are too few.

    Raises:
        ValueError: The fit did not come to an end.
    """
    rows = list(fit_rows(target))
    if len(rows) < FEWEST_ROWS:
        return None
    start = family_constants(target.capability)
    fit = fit_kernels(device_of_target(target), rows, start=start, fixed=KNOWN_FROM_RUNS)
    names = (*fit.names, "shape_sd")
    return KernelFitRecord(
        constants={name: getattr(fit.constants, name) for name in names},
        names=fit.names,
        samples=fit.samples,
        errors=fit.errors,
    )
