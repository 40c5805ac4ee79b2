"""What the predicted latency promises: kernels in closed form, published measurements within their
targets, honest intervals.
"""

import csv
import dataclasses
import json
from importlib import resources
from pathlib import Path

import pytest

from sensitivity.core.format_name import FormatName
from sensitivity.errors import UserError
from sensitivity.latency.constants import BLACKWELL, HOPPER
from sensitivity.latency.devices import get_device
from sensitivity.latency.posterior import draws_for
from sensitivity.latency.predicted import PredictedLatency
from sensitivity.shapes.table import LinearProfile, ShapeTable

BF16, MXFP8, NVFP4, FP8 = FormatName.BF16, FormatName.MXFP8, FormatName.NVFP4, FormatName.FP8
B200 = get_device("b200")
PUBLISHED = Path(__file__).parents[2] / "benchmarks" / "published"
PASS_BYTES_PER_US = B200.bandwidth_bytes_per_s * BLACKWELL.pass_bandwidth / 1e6


def linear(fqn: str, m: int, k: int, n: int, calls: int = 28) -> LinearProfile:
    return LinearProfile.observed(
        fqn=fqn, k=k, n=n, m_values={m: calls}, dtype="bfloat16", bias=True
    )


def flux(batch: int) -> ShapeTable:
    """The Linears of FLUX.1-dev at 1024 x 1024, 28 steps, written out by hand: 494 in blocks, 10
    outside.
    """
    image, text = 4096 * batch, 512 * batch
    rows = [
        linear("x_embedder", image, 64, 3072),
        linear("context_embedder", text, 4096, 3072),
        linear("proj_out", image, 3072, 64),
    ]
    rows.append(linear("norm_out.linear", batch, 3072, 6144))
    for name, k in (("timestep_embedder", 256), ("guidance_embedder", 256), ("text_embedder", 768)):
        rows += [
            linear(f"time_text_embed.{name}.linear_{i}", batch, k if i == 1 else 3072, 3072)
            for i in (1, 2)
        ]
    for i in range(19):
        block = f"transformer_blocks.{i}."
        for m, names, ff, norm in (
            (image, ("to_q", "to_k", "to_v", "to_out.0"), "ff", "norm1"),
            (
                text,
                ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
                "ff_context",
                "norm1_context",
            ),
        ):
            rows += [linear(f"{block}attn.{name}", m, 3072, 3072) for name in names]
            rows += [
                linear(f"{block}{ff}.net.0.proj", m, 3072, 12288),
                linear(f"{block}{ff}.net.2", m, 12288, 3072),
            ]
            rows.append(linear(f"{block}{norm}.linear", batch, 3072, 18432))
    for i in range(38):
        block = f"single_transformer_blocks.{i}."
        rows += [
            linear(f"{block}attn.{name}", 4608 * batch, 3072, 3072)
            for name in ("to_q", "to_k", "to_v")
        ]
        rows += [
            linear(f"{block}proj_mlp", 4608 * batch, 3072, 12288),
            linear(f"{block}proj_out", 4608 * batch, 15360, 3072),
        ]
        rows.append(linear(f"{block}norm.linear", batch, 3072, 9216))
    return ShapeTable(model="flux", batch_size=batch, settings={}, linears=tuple(rows), uncalled=())


def published_list(table: ShapeTable, fmt: FormatName) -> dict[str, FormatName]:
    """The published skip-list: embedders, norm_out and proj_out stay bf16."""
    return {
        row.fqn: fmt
        for row in table.linears
        if "embed" not in row.fqn and row.fqn not in ("norm_out.linear", "proj_out")
    }


@pytest.fixture
def run() -> PredictedLatency:
    return PredictedLatency(B200)


@pytest.fixture
def alone() -> PredictedLatency:
    return PredictedLatency(B200, isolated=True)


def test_flux_has_504_linears() -> None:
    """The table of this file is FLUX.1-dev's."""
    assert len(flux(1).linears) == 504
    assert len(published_list(flux(1), NVFP4)) == 494


def test_published_squares_within_ten_percent(alone: PredictedLatency) -> None:
    """Each published speedup of a square Linear with dynamic scales comes out within 10 %."""
    rows = list(csv.DictReader((PUBLISHED / "torchao_b200_square.csv").open()))
    assert len(rows) == 5
    for row in rows:
        size = int(row["m"])
        for fmt, column in ((MXFP8, "mxfp8_speedup"), (NVFP4, "nvfp4_dynamic_speedup")):
            bf16_us, quantized_us = (
                alone.linear_us(m=size, k=size, n=size, format=name) for name in (BF16, fmt)
            )
            assert bf16_us / quantized_us == pytest.approx(float(row[column]), rel=0.10), (
                size,
                fmt,
            )


def test_published_flux_runs_within_two_percent(run: PredictedLatency) -> None:
    """Each published FLUX.1-dev speedup comes out within 2 % when anchored by its own bf16 seconds,
    and inside the stated interval.
    """
    rows = [
        row
        for row in csv.DictReader((PUBLISHED / "flux1_dev_b200.csv").open())
        if row["compile_mode"] != "unstated"
    ]
    bf16_s = {row["batch_size"]: float(row["latency_s"]) for row in rows if row["format"] == "bf16"}
    quantized = [row for row in rows if row["format"] != "bf16"]
    assert len(quantized) == 6
    for row in quantized:
        table, anchor = flux(int(row["batch_size"])), bf16_s[row["batch_size"]]
        estimate = run.estimate(
            table, published_list(table, FormatName(row["format"])), bf16_seconds=anchor
        )
        published = anchor / float(row["latency_s"])
        assert estimate.bf16_s == pytest.approx(anchor)
        assert estimate.speedup == pytest.approx(published, rel=0.02), row
        assert estimate.interval90 is not None
        assert estimate.interval90[0] < published < estimate.interval90[1]


def test_linears_outside_the_blocks_lose(run: PredictedLatency) -> None:
    """Published, not fitted: quantizing FLUX's ten Linears outside the blocks as well costs 1.6 %
    in MXFP8 (1.774 s against 1.746 s), since they run eagerly.
    """
    table = flux(1)
    listed = published_list(table, MXFP8)
    everything = {row.fqn: MXFP8 for row in table.linears}
    fewer, more = (
        run.estimate(table, formats, bf16_seconds=2.10).quantized_s
        for formats in (listed, everything)
    )
    assert more / fewer == pytest.approx(1.774 / 1.746, abs=0.006)


def test_no_rows_cost_nothing(run: PredictedLatency) -> None:
    """A call with M = 0 launches nothing in any format."""
    assert [run.linear_us(m=0, k=64, n=64, format=fmt) for fmt in FormatName] == [0.0] * 4


@pytest.mark.parametrize("fmt", list(FormatName))
@pytest.mark.parametrize("isolated", [True, False])
def test_monotone_in_m_k_n(fmt: FormatName, isolated: bool) -> None:
    """More rows, inputs or outputs never take less time."""
    model = PredictedLatency(B200, isolated=isolated)
    sizes = (1, 2, 16, 127, 128, 129, 512, 4096, 4608, 16384)
    for times_us in (
        [model.linear_us(m=size, k=3072, n=3072, format=fmt) for size in sizes],
        [model.linear_us(m=512, k=32 * size, n=3072, format=fmt) for size in sizes],
        [model.linear_us(m=512, k=3072, n=size, format=fmt) for size in sizes],
    ):
        assert times_us == sorted(times_us)


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
    """With one row, bf16 takes the time to read the weight and the vectors beside it, and its ramp."""
    traffic_bytes = 2 * (3072 + 3072 * 18432 + 18432)
    assert alone.linear_us(m=1, k=3072, n=18432, format=BF16) == pytest.approx(
        traffic_bytes / PASS_BYTES_PER_US + BLACKWELL.gemm_ramp_us
    )


def test_single_rows_gain_or_lose_by_their_weight(run: PredictedLatency) -> None:
    """Large modulation layers gain in NVFP4 (the weight is what takes time), small ones lose (the
    launches are); the reason is said.
    """
    bf16_us, nvfp4_us = (run.linear_us(m=1, k=3072, n=18432, format=fmt) for fmt in (BF16, NVFP4))
    assert nvfp4_us < bf16_us
    assert "reading the weight" in run.why(m=1, k=3072, n=18432, format=NVFP4)
    bf16_us, nvfp4_us = (run.linear_us(m=1, k=256, n=3072, format=fmt) for fmt in (BF16, NVFP4))
    assert nvfp4_us > bf16_us
    assert "(launches)" in run.why(m=1, k=256, n=3072, format=NVFP4)
    assert "few output tiles" in run.why(m=1, k=3072, n=3072, format=NVFP4)
    assert "outside the compiled blocks" in run.why(
        m=1, k=256, n=3072, format=NVFP4, compiled=False
    )


def test_large_and_small_gemms_say_what_quantizing_adds(run: PredictedLatency) -> None:
    """Where arithmetic rules, the reason is arithmetic, and what quantizing adds is reading and
    writing the input.
    """
    assert run.why(m=16384, k=3072, n=12288, format=MXFP8).startswith("arithmetic")
    assert "reading and writing the input" in run.why(m=16384, k=3072, n=12288, format=MXFP8)
    assert run.why(m=16384, k=3072, n=12288, format=BF16) == ""


def test_kernels_of_each_format(run: PredictedLatency, alone: PredictedLatency) -> None:
    """Alone, NVFP4 finds its maximum and applies scale and bias in kernels of their own; in a
    compiled run its neighbours do.
    """
    shape = {"m": 4096, "k": 2048, "n": 1024}
    names = {
        fmt: [kernel.name for kernel in run.linear_kernels(**shape, format=fmt)]
        for fmt in FormatName
    }
    assert names == {
        BF16: ["GEMM"],
        FP8: ["GEMM"],
        MXFP8: ["quantize", "GEMM"],
        NVFP4: ["quantize", "GEMM"],
    }
    assert [kernel.name for kernel in alone.linear_kernels(**shape, format=FP8)] == [
        "quantize",
        "GEMM",
    ]
    long_rows = {"m": 4096, "k": 12288, "n": 3072}
    assert [kernel.name for kernel in run.linear_kernels(**long_rows, format=FP8)] == [
        "quantize",
        "GEMM",
    ]
    isolated = [kernel.name for kernel in alone.linear_kernels(**shape, format=NVFP4)]
    assert isolated == ["absolute maximum", "quantize", "GEMM", "scale and bias"]
    eager = [kernel.name for kernel in run.linear_kernels(**shape, format=NVFP4, compiled=False)]
    assert eager == ["eager passes", "quantize", "GEMM", "scale and bias"]


def test_fp8_is_quantized_once_for_siblings(run: PredictedLatency) -> None:
    """A second Linear on one input pays no FP8 quantizing, and all of it in the formats that
    nothing merges.
    """
    shape = {"m": 4096, "k": 12288, "n": 3072}
    gemm = next(
        kernel for kernel in run.linear_kernels(**shape, format=FP8) if kernel.name == "GEMM"
    )
    assert run.sibling_us(**shape, format=FP8) == pytest.approx(gemm.us)
    assert run.sibling_us(**shape, format=NVFP4) == run.linear_us(**shape, format=NVFP4)
    three = run.call_us(**shape, format=FP8, compiled=True, readers=3)
    assert three == pytest.approx((run.linear_us(**shape, format=FP8) + 2 * gemm.us) / 3)


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
            for kernel in alone.linear_kernels(m=16384, k=4096, n=64, format=fmt)
            if kernel.name == "quantize"
        )
        assert kernel.memory_us == pytest.approx(
            elements * bytes_an_element / (B200.bandwidth_bytes_per_s * part) * 1e6
        )


def test_attention_in_closed_form(run: PredictedLatency) -> None:
    """Text and image of one module attend jointly: 4 x S^2 x width FLOPs a sample at the
    attention's part of the bf16 peak, for each call.
    """
    table = ShapeTable(
        model="toy",
        batch_size=2,
        settings={},
        uncalled=(),
        linears=tuple(
            linear(f"blocks.0.attn.{name}", 2 * rows, 3072, 3072)
            for name, rows in (
                ("to_q", 4096),
                ("add_q_proj", 512),
                ("to_k", 4096),
                ("add_k_proj", 512),
            )
        ),
    )
    math_s = 2 * 4 * 4608**2 * 3072 / (2.25e15 * BLACKWELL.attention)
    fixed_s = (BLACKWELL.gemm_ramp_us + BLACKWELL.gap_us) / 1e6
    assert run.attention_s(table) == pytest.approx(28 * (math_s + fixed_s))


def test_elementwise_shares_the_input_of_siblings(run: PredictedLatency) -> None:
    """q and k read one tensor: three passes for the two of them, each a read and a write in bf16."""
    rows = tuple(linear(f"attn.{name}", 8192, 4096, 4096, calls=5) for name in ("to_q", "to_k"))
    table = ShapeTable(model="toy", batch_size=1, settings={}, linears=rows, uncalled=())
    a_pass_us = 4 * 8192 * 4096 / (B200.bandwidth_bytes_per_s * BLACKWELL.fusion_bandwidth) * 1e6
    assert run.elementwise_s(table) == pytest.approx(
        5 * 3 * (a_pass_us + BLACKWELL.pass_ramp_us + BLACKWELL.gap_us) / 1e6
    )


def test_an_anchor_is_divided_by_variance(run: PredictedLatency) -> None:
    """What the prediction misses goes to Linears and rest in the ratio of their variances, and the
    total is the anchor.
    """
    table = flux(1)
    free = run.estimate(table, {})
    savings = run.savings(table, {})
    anchor = free.bf16_s + 0.2
    anchored = run.estimate(table, {}, bf16_seconds=anchor)
    moved_s = sum(cost.calls * cost.bf16_us for cost in anchored.linears) / 1e6 - savings.linears_s
    linear_sd, rest_sd = BLACKWELL.linear_sd * savings.linears_s, BLACKWELL.rest_sd * savings.rest_s
    assert moved_s == pytest.approx(0.2 * linear_sd**2 / (linear_sd**2 + rest_sd**2))
    assert anchored.bf16_s == pytest.approx(anchor)


@pytest.mark.parametrize("seconds", [0.0, -1.0, 0.05, 1000.0, float("nan"), float("inf")])
def test_impossible_anchor(run: PredictedLatency, seconds: float) -> None:
    """An anchor that cannot be this run's is the caller's mistake, whatever it would give."""
    with pytest.raises(
        UserError,
        match=r"takes .* s, and its Linears alone are predicted to take .* s on a b200; allowed is",
    ):
        run.estimate(flux(1), {}, bf16_seconds=seconds)


def test_intervals(run: PredictedLatency) -> None:
    """An interval holds the speedup, is narrower with an anchor, deterministic, and nothing where
    nothing is quantized.
    """
    table = flux(1)
    formats = published_list(table, NVFP4)
    free, anchored = (
        run.estimate(table, formats, bf16_seconds=seconds) for seconds in (None, 2.10)
    )
    assert free.interval90 is not None
    assert anchored.interval90 is not None
    for estimate, (low, high) in ((free, free.interval90), (anchored, anchored.interval90)):
        assert 1 < low < estimate.speedup < high
    assert anchored.interval90[1] - anchored.interval90[0] < 0.25
    assert PredictedLatency(B200).estimate(table, formats).interval90 == free.interval90
    assert run.estimate(table, {}).interval90 == (1.0, 1.0)


def test_the_constants_are_the_fit_s() -> None:
    """The constants in the code are what the fit wrote, and its draws lie around them; other
    constants have no draws.
    """
    fit = json.loads(
        resources.files("sensitivity.latency").joinpath("fit_b200.json").read_text(encoding="utf-8")
    )
    assert {name: getattr(BLACKWELL, name) for name in fit["names"]} == fit["constants"]
    assert len(draws_for(BLACKWELL)) == len(fit["draws"]) >= 32
    assert (
        min(draw.gap_us for draw in draws_for(BLACKWELL))
        < BLACKWELL.gap_us
        < max(draw.gap_us for draw in draws_for(BLACKWELL))
    )
    assert draws_for(HOPPER) == draws_for(dataclasses.replace(BLACKWELL, gap_us=1.0)) == ()


def test_unmeasured_devices_say_so() -> None:
    """A prediction for a chip that no measurement went into says it; the calibrated one does not."""
    table = flux(1)
    assert (
        "not fitted on rtx5090" in PredictedLatency(get_device("rtx5090")).estimate(table, {}).note
    )
    assert "no measurement" not in PredictedLatency(B200).estimate(table, {}).note
