"""Constants are found again from rows that they made, and errors of gains are stated."""

import dataclasses
import math
from collections.abc import Iterable

import pytest

from sensitivity.core.format_name import FormatName
from sensitivity.errors import FormatError
from sensitivity.latency.constants import HOPPER, KernelConstants
from sensitivity.latency.devices import get_device
from sensitivity.latency.fitting import (
    FitRow,
    fit_kernels,
    gain_pairs,
    predict_rows,
    row_errors,
)

from support.latency import BF16, FP8, NVFP4

H100 = get_device("h100")
SHAPES = (
    (4608, 3072, 12288),
    (4608, 3072, 3072),
    (4096, 12288, 3072),
    (512, 3072, 3072),
    (1, 3072, 18432),
    (1, 3072, 9216),
    (64, 2048, 2048),
)


def rows_of(constants: KernelConstants, kinds: Iterable[str] = ("linear",)) -> list[FitRow]:
    """What a chip with these constants would measure, in bf16 and FP8."""
    rows = [
        FitRow(kind=kind, m=m, k=k, n=n, format=fmt, us=1.0, source="toy")  # type: ignore[arg-type]
        for kind in kinds
        for m, k, n in SHAPES
        for fmt in (BF16, FP8)
    ]
    times = predict_rows(H100, constants, rows)
    return [dataclasses.replace(row, us=float(us)) for row, us in zip(rows, times, strict=True)]


def test_constants_are_found_again() -> None:
    """Rows of a slower chip give its constants back, within what priors pull, and predict it."""
    truth = dataclasses.replace(HOPPER, sustained_matmul=0.65, fp8_matmul=0.8, gemm_ramp_us=4.0)
    rows = rows_of(truth)
    fit = fit_kernels(H100, rows, start=HOPPER)
    assert fit.constants.sustained_matmul == pytest.approx(0.65, rel=0.03)
    assert fit.constants.fp8_matmul == pytest.approx(0.8, rel=0.04)
    assert fit.constants.gemm_ramp_us == pytest.approx(4.0, rel=0.1)
    assert fit.errors["total_median"] < 0.01
    assert fit.errors["gain_median"] < 0.03
    assert {len(sample) for sample in fit.samples} == {len(fit.names)}


def test_only_constants_that_rows_depend_on_are_fitted() -> None:
    """Rows in bf16 and FP8 say nothing of NVFP4, and Linears of runs nothing of GEMMs alone."""
    fit = fit_kernels(H100, rows_of(HOPPER), start=HOPPER)
    assert {"sustained_matmul", "fp8_matmul", "epilogue_us"} <= set(fit.names)
    assert not {"nvfp4_matmul", "isolated_matmul", "mxfp8_matmul", "attention"} & set(fit.names)
    assert fit.constants.nvfp4_matmul == HOPPER.nvfp4_matmul


def test_a_launch_is_told_from_the_kernels() -> None:
    """A source whose times include 5 us of launch has the same constants as one without."""
    rows = rows_of(HOPPER)
    rows += [dataclasses.replace(row, source="launched", us=row.us + 5.0) for row in rows]
    fit = fit_kernels(H100, rows, start=HOPPER, launched=("launched", "nobody"))
    assert fit.launch_us == pytest.approx({"launched": 5.0}, rel=0.05)
    assert fit.constants.gemm_ramp_us == pytest.approx(HOPPER.gemm_ramp_us, rel=0.05)


def test_runs_count_beside_rows() -> None:
    """`also` pulls a constant that no row tells."""
    fit = fit_kernels(
        H100,
        (),
        start=HOPPER,
        prior_sds={"attention": 0.2},
        also=lambda constants: [math.log(constants.attention / 0.5) / 0.01],
    )
    assert fit.constants.attention == pytest.approx(0.5, rel=0.01)
    assert fit.names == ("attention",)


def test_gains_are_compared_row_by_row() -> None:
    """A gain is a quantized row against the bf16 row of the same source, shape and place; rows that
    ran alone have none.
    """
    row = FitRow(kind="linear", m=512, k=3072, n=3072, format=BF16, us=16.5)
    rows = [
        row,
        dataclasses.replace(row, format=FP8, us=14.5),
        dataclasses.replace(row, format=FP8, kind="sibling", us=12.5),
        dataclasses.replace(row, format=FP8, kind="eager", us=30.0),
        dataclasses.replace(row, format=FP8, source="other", us=1.0),
        dataclasses.replace(row, format=FP8, isolated=True, us=1.0),
    ]
    assert gain_pairs(rows) == [(0, 1), (0, 2)]
    errors = row_errors(rows, [17.0, 14.0, 12.5, 30.0, 1.0, 1.0])
    assert errors["gain_median"] == pytest.approx((0.5 + 0.125) / 2)  # 3 for 2 us, 4.5 for 4 us
    assert errors["gain_within_25"] == 0.5
    assert errors["rows"] == 6


def test_quantizers_and_gemms_are_parts_of_a_linear() -> None:
    """A Linear that stands alone is its quantizer and its GEMM."""
    row = FitRow(kind="linear", m=4096, k=3072, n=3072, format=FP8, us=1.0, isolated=True)
    linear, gemm, quantizer = predict_rows(
        H100,
        HOPPER,
        [dataclasses.replace(row, kind=kind) for kind in ("linear", "gemm", "quantize")],  # type: ignore[arg-type]
    )
    assert linear == pytest.approx(gemm + quantizer)


def test_a_format_that_the_chip_lacks() -> None:
    """A row in NVFP4 on Hopper is a mistake that says so."""
    row = FitRow(kind="gemm", m=64, k=64, n=64, format=FormatName(NVFP4), us=1.0)
    with pytest.raises(FormatError, match="h100 has no nvfp4"):
        fit_kernels(H100, [row], start=HOPPER)
