"""A Linear is the kernels that it launches, each in closed form."""

import pytest

from sensitivity.core.format_name import FormatName
from sensitivity.latency import PredictedLatency
from sensitivity.latency.constants import BLACKWELL
from sensitivity.latency.devices import get_device

from support.latency import BF16, FP8, MXFP8, NVFP4

B200 = get_device("b200")
PASS_BYTES_PER_US = B200.bandwidth_bytes_per_s * BLACKWELL.pass_bandwidth / 1e6


def test_whole_waves_in_closed_form(alone: PredictedLatency) -> None:
    """148 multiprocessors do 148 tiles of 256 x 256 in one wave; one more row of tiles takes a
    second wave.
    """
    flops_us = 2 * 256 * 256 * 148 * 8192 / (2.25e15 * BLACKWELL.isolated_matmul) * 1e6
    write_us = BLACKWELL.exposed_write * 2 * 256 * 256 * 148 / PASS_BYTES_PER_US
    assert alone.linear_us(m=256 * 4, k=8192, n=256 * 37, format=BF16) == pytest.approx(
        BLACKWELL.gemm_ramp_us + flops_us + write_us
    )
    one, two = (alone.linear_us(m=256 * rows, k=65536, n=256 * 148, format=BF16) for rows in (1, 2))
    assert two == pytest.approx(2 * one, rel=0.01)


def test_a_single_row_is_bound_by_its_weight(alone: PredictedLatency) -> None:
    """With one row, bf16 takes its ramp and the time to read the weight and the vectors."""
    traffic_bytes = 2 * (3072 + 3072 * 18432 + 18432)
    assert alone.linear_us(m=1, k=3072, n=18432, format=BF16) == pytest.approx(
        traffic_bytes / PASS_BYTES_PER_US + BLACKWELL.gemm_ramp_us
    )


def test_single_rows_gain_or_lose_by_their_weight(in_a_run: PredictedLatency) -> None:
    """Large modulation layers gain in NVFP4 (the weight is what takes time), small ones lose (the
    launches are); the reason is said.
    """
    bf16_us, nvfp4_us = (
        in_a_run.linear_us(m=1, k=3072, n=18432, format=fmt) for fmt in (BF16, NVFP4)
    )
    assert nvfp4_us < bf16_us
    assert "reading the weight" in in_a_run.why(m=1, k=3072, n=18432, format=NVFP4)
    bf16_us, nvfp4_us = (
        in_a_run.linear_us(m=1, k=256, n=3072, format=fmt) for fmt in (BF16, NVFP4)
    )
    assert nvfp4_us > bf16_us
    assert "(launches)" in in_a_run.why(m=1, k=256, n=3072, format=NVFP4)
    assert "few output tiles" in in_a_run.why(m=1, k=3072, n=3072, format=NVFP4)
    assert "outside the compiled blocks" in in_a_run.why(
        m=1, k=256, n=3072, format=NVFP4, compiled=False
    )


def test_large_and_small_gemms_say_what_quantizing_adds(in_a_run: PredictedLatency) -> None:
    """Where arithmetic rules, the reason is arithmetic, and what quantizing adds is reading and
    writing the input.
    """
    assert in_a_run.why(m=16384, k=3072, n=12288, format=MXFP8).startswith("arithmetic")
    assert "reading and writing the input" in in_a_run.why(m=16384, k=3072, n=12288, format=MXFP8)
    assert in_a_run.why(m=16384, k=3072, n=12288, format=BF16) == ""


def test_kernels_of_each_format(in_a_run: PredictedLatency, alone: PredictedLatency) -> None:
    """Alone, NVFP4 finds its maximum and applies scale and bias in kernels of their own; in a
    compiled run its neighbours do.
    """
    shape = {"m": 4096, "k": 2048, "n": 1024}
    names = {
        fmt: [kernel.name for kernel in in_a_run.kernels.of(**shape, format=fmt)]
        for fmt in FormatName
    }
    assert names == {
        BF16: ["GEMM"],
        FP8: ["GEMM"],
        MXFP8: ["quantize", "GEMM"],
        NVFP4: ["quantize", "GEMM"],
    }
    assert [kernel.name for kernel in alone.kernels.of(**shape, format=FP8)] == [
        "quantize",
        "GEMM",
    ]
    long_rows = {"m": 4096, "k": 12288, "n": 3072}
    assert [kernel.name for kernel in in_a_run.kernels.of(**long_rows, format=FP8)] == [
        "quantize",
        "GEMM",
    ]
    isolated = [kernel.name for kernel in alone.kernels.of(**shape, format=NVFP4)]
    assert isolated == ["absolute maximum", "quantize", "GEMM", "scale and bias"]
    eager = [kernel.name for kernel in in_a_run.kernels.of(**shape, format=NVFP4, compiled=False)]
    assert eager == ["eager passes", "quantize", "GEMM", "scale and bias"]


def test_quantizers_move_their_bytes(alone: PredictedLatency) -> None:
    """A quantizer reads bf16 and writes codes with their block scales, at its part of the
    bandwidth.
    """
    elements = 16384 * 4096
    for fmt, bytes_an_element, part in (
        (MXFP8, 2 + 33 / 32, BLACKWELL.quantize_bandwidth),
        (NVFP4, 2 + 9 / 16, BLACKWELL.nvfp4_bandwidth),
    ):
        kernel = next(
            kernel
            for kernel in alone.kernels.of(m=16384, k=4096, n=64, format=fmt)
            if kernel.name == "quantize"
        )
        assert kernel.memory_us == pytest.approx(
            elements * bytes_an_element / (B200.bandwidth_bytes_per_s * part) * 1e6
        )
