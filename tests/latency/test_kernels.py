"""A Linear is the kernels that it launches, each in closed form."""

import dataclasses
import random

import pytest

from sensitivity.latency import PredictedLatency
from sensitivity.latency.constants import BLACKWELL, KernelConstants
from sensitivity.latency.devices import DEVICES, Device, get_device
from sensitivity.latency.kernels import ELEMENT_BYTES, LinearKernels
from sensitivity.latency.tilings import tile_work

from support.latency import BF16, FP8, MXFP8, NVFP4

B200 = get_device("b200")
PASS_BYTES_PER_US = B200.bandwidth_bytes_per_s * BLACKWELL.pass_bandwidth / 1e6
READ_BYTES_PER_US = B200.bandwidth_bytes_per_s * BLACKWELL.read_bandwidth / 1e6


def test_a_large_gemm_in_closed_form(alone: PredictedLatency, in_a_run: PredictedLatency) -> None:
    """A GEMM of whole waves of large tiles runs at the chip's sustained rate, alone faster."""
    m, k, n = 256 * 4, 8192, 256 * 37
    flops = 2 * m * k * n
    assert alone.linear_us(m=m, k=k, n=n, format=BF16) == pytest.approx(
        BLACKWELL.gemm_ramp_us + flops / (2.25e15 * BLACKWELL.isolated_matmul) * 1e6
    )
    assert in_a_run.linear_us(m=m, k=k, n=n, format=BF16) == pytest.approx(
        BLACKWELL.gemm_ramp_us + flops / (2.25e15 * BLACKWELL.sustained_matmul) * 1e6
    )


def test_few_tiles_use_part_of_the_chip(alone: PredictedLatency) -> None:
    """What tiles leave idle costs time beyond the chip's rate: 64 rows on 148 multiprocessors."""
    m, k, n = 64, 2048, 2048
    c = BLACKWELL
    work = tile_work(
        m=m,
        k=k,
        n=n,
        sm_count=148,
        reads_per_product=2.25e15 / (B200.bandwidth_bytes_per_s * 4),
    )
    kernel = alone.kernels.gemm(m, k, n, BF16)
    assert kernel.math_us == pytest.approx(2 * work / (2.25e15 / 148) * 1e6)
    assert kernel.math_us > 3 * 2 * m * k * n / (2.25e15 * c.isolated_matmul) * 1e6


def test_a_single_row_is_bound_by_its_weight(alone: PredictedLatency) -> None:
    """With one row, bf16 takes its ramp and the time to read the weight and the vectors; FP8 reads
    half of it, and has one epilogue.
    """
    traffic_bytes = 2 * (3072 + 3072 * 18432 + 18432)
    assert alone.linear_us(m=1, k=3072, n=18432, format=BF16) == pytest.approx(
        traffic_bytes / READ_BYTES_PER_US + BLACKWELL.gemm_ramp_us
    )
    fp8_bytes = 3072 + 4 + 3072 * 18432 + 4 * 18432 + 2 * 18432
    assert alone.kernels.gemm(1, 3072, 18432, FP8).memory_us == pytest.approx(
        fp8_bytes / READ_BYTES_PER_US + BLACKWELL.epilogue_us
    )


def random_device(draw: random.Random) -> Device:
    """A chip with limits of any size, and kernels that reach any part of them."""
    peak, ratios = 10 ** draw.uniform(12, 16), sorted(draw.uniform(1, 12) for _ in range(3))
    names = [field.name for field in dataclasses.fields(KernelConstants)]
    values = {name: draw.uniform(0.05, 1) for name in names}
    values |= {name: draw.uniform(0, 20) for name in names if name.endswith("_us")}
    return dataclasses.replace(
        B200,
        name="any",
        peaks_flops_per_s={BF16: peak}
        | {fmt: peak * r for fmt, r in zip((FP8, MXFP8, NVFP4), ratios, strict=True)},
        bandwidth_bytes_per_s=10 ** draw.uniform(11, 13.5),
        sm_count=draw.randint(1, 300),
        kernels=KernelConstants(**values),
    )


def test_a_memory_bound_row_gains_at_most_its_bytes() -> None:
    """Whatever the device, its constants and the shape: where bf16 is bound by memory, no format is
    faster than its bytes are fewer.
    """
    draw = random.Random(15)
    bound = 0
    for _ in range(300):
        device = random_device(draw)
        kernels = LinearKernels(device, device.kernels)
        for _ in range(10):
            m, k, n = (round(2 ** draw.uniform(0, top)) for top in (9, 14, 15))
            bf16 = kernels.gemm(m, k, n, BF16)
            if bf16.memory_us < bf16.math_us:
                continue
            bound += 1
            for fmt in (FP8, MXFP8, NVFP4):
                gemm = kernels.gemm(m, k, n, fmt)
                whole_us = sum(kernel.us for kernel in kernels.of(m=m, k=k, n=n, format=fmt))
                assert bf16.us / gemm.us <= 2 / ELEMENT_BYTES[fmt] * (1 + 1e-9)
                assert whole_us >= gemm.us
    assert bound > 500


@pytest.mark.parametrize("name", sorted(DEVICES))
def test_single_rows_are_bound_by_memory_on_every_device(name: str) -> None:
    """A modulation layer of M = 1 gains less than its bytes on every shipped device."""
    device = DEVICES[name]
    model = PredictedLatency(device)
    for k, n in ((3072, 18432), (3072, 9216), (4096, 24576), (256, 3072)):
        bf16_us = model.linear_us(m=1, k=k, n=n, format=BF16)
        for fmt in set(device.peaks_flops_per_s) - {BF16}:
            gain = bf16_us / model.linear_us(m=1, k=k, n=n, format=fmt)
            assert gain < 2 / ELEMENT_BYTES[fmt], (fmt, k, n)


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
    assert "few output tiles" in in_a_run.why(m=64, k=8192, n=256, format=NVFP4)
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
        for fmt in (BF16, FP8, MXFP8, NVFP4)
    }
    assert names == {
        BF16: ["GEMM"],
        FP8: ["quantize", "GEMM"],
        MXFP8: ["quantize", "GEMM"],
        NVFP4: ["quantize", "GEMM"],
    }
    assert [kernel.name for kernel in alone.kernels.of(**shape, format=FP8)] == [
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


def test_fp8_is_quantized_by_its_producer(
    in_a_run: PredictedLatency, alone: PredictedLatency
) -> None:
    """Behind a norm it costs its bytes and half a launch; behind an activation (K > N) its input is
    read twice, by a kernel of its own; alone it is one kernel.
    """
    for model, n, reads, launches in (
        (in_a_run, 12288, 1, 0.5),
        (in_a_run, 1024, 2, 1),
        (alone, None, 1, 1),
    ):
        (kernel,) = model.kernels.quantize(4096, 3072, FP8, n=n)
        traffic_bytes = 4096 * 3072 * (2 * reads + 1) + 4 * 4096
        assert kernel.memory_us == pytest.approx(traffic_bytes / PASS_BYTES_PER_US)
        assert kernel.fixed_us == pytest.approx(launches * BLACKWELL.pass_ramp_us)


def test_kernels_with_scales_compute_whole_tiles_in_whole_waves(alone: PredictedLatency) -> None:
    """149 tiles of 128 x 128 on 148 multiprocessors are two waves, each with an epilogue; 148 are
    one. bf16 chooses a tiling that fits.
    """
    tile_us = 2 * 128 * 128 * 1024 / (4.5e15 / 148) * 1e6
    one, two = (alone.kernels.gemm(128, 1024, 128 * tiles, FP8).math_us for tiles in (148, 149))
    assert two == pytest.approx(2 * (tile_us + BLACKWELL.epilogue_us))
    assert one < 0.7 * two
    fits, more = (alone.kernels.gemm(128, 1024, 128 * tiles, BF16).math_us for tiles in (148, 149))
    assert more < 1.4 * fits
