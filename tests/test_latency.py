"""What a latency model promises: closed-form kernel times, sums that add up, an honest anchor, and the JSON contract."""

import dataclasses
import json
from collections.abc import Mapping

import pytest

from sensitivity.errors import FormatError, PatternError, UserError
from sensitivity.latency import DEVICES, LatencyModel, RooflineLatency, ShapeScale, get_device, stand_for
from sensitivity.latency._base import batch_rows
from sensitivity.profiler import LinearProfile, ShapeTable
from sensitivity.spec import FormatName

BF16, MXFP8, NVFP4, FP8 = FormatName.BF16, FormatName.MXFP8, FormatName.NVFP4, FormatName.FP8
B200_BYTES_PER_S = 960 * 3.996e9 * 2 * 0.92


class MicrosecondARow(LatencyModel):
    """A toy model: bf16 takes M us a call, everything else half of that; the rest takes 1 ms."""

    target, source, compile_mode, covers = "toy", "measured", "default", "a constant"

    def linear_us(self, *, m: int, k: int, n: int, format: FormatName) -> float:  # noqa: ARG002  # the contract's arguments
        return float(m) if format is BF16 else m / 2

    def rest_s(self, table: ShapeTable) -> float:  # noqa: ARG002  # the same
        return 1e-3


def linear(fqn: str, k: int, n: int, m_values: Mapping[int, int]) -> LinearProfile:
    return LinearProfile.observed(fqn=fqn, k=k, n=n, m_values=m_values, dtype="bfloat16", bias=True)


def table_of(*linears: LinearProfile, batch_size: int = 1, uncalled: tuple[str, ...] = ()) -> ShapeTable:
    return ShapeTable(model="toy", batch_size=batch_size, settings={"steps": 2}, linears=linears, uncalled=uncalled)


TOKENS_AND_MODULATION = table_of(
    linear("blocks.0.attn.to_q", 64, 64, {100: 10}), linear("blocks.0.attn.to_k", 64, 64, {100: 10}),
    linear("blocks.0.norm.linear", 64, 128, {1: 10}), uncalled=("spare",),
)  # fmt: skip


@pytest.fixture
def b200() -> RooflineLatency:
    return RooflineLatency(get_device("b200"))


def test_large_square_runs_at_the_achievable_peak(b200: RooflineLatency) -> None:
    """In bf16 a big square GEMM takes its FLOPs over 0.78 of the peak, on both devices."""
    flops = 2 * 8192**3
    assert b200.linear_us(m=8192, k=8192, n=8192, format=BF16) == pytest.approx(flops / (2.25e15 * 0.78) * 1e6)
    h100 = RooflineLatency(get_device("h100"))
    assert h100.linear_us(m=8192, k=8192, n=8192, format=BF16) == pytest.approx(flops / (989e12 * 0.78) * 1e6)


def test_small_output_pays_one_tile_on_one_multiprocessor(b200: RooflineLatency) -> None:
    """A GEMM with fewer 128 x 128 tiles than multiprocessors takes the time of one tile, not its share of the whole chip."""
    tile_us = 2 * 128 * 128 * 8192 / (2.25e15 * 0.78 / 148) * 1e6
    assert b200.linear_us(m=256, k=8192, n=256, format=BF16) == pytest.approx(tile_us)


def test_modulation_layer_is_bound_by_its_weight(b200: RooflineLatency) -> None:
    """With one row, bf16 takes the time to read the weight (and the vectors beside it)."""
    traffic_bytes = 2 * (3072 + 3072 * 18432 + 18432)
    assert b200.linear_us(m=1, k=3072, n=18432, format=BF16) == pytest.approx(traffic_bytes / B200_BYTES_PER_S * 1e6)


@pytest.mark.parametrize(("format", "kernels"), [(BF16, 1), (FP8, 2), (MXFP8, 2), (NVFP4, 4)])
def test_launch_floor_at_tiny_shapes(b200: RooflineLatency, format: FormatName, kernels: int) -> None:
    """A tiny Linear costs one launch floor a kernel, and more of them where CUDA graphs do not launch it."""
    assert b200.linear_us(m=1, k=32, n=32, format=format) == pytest.approx(2.0 * kernels)
    in_stream = RooflineLatency(get_device("b200"), compile_mode="default")
    assert in_stream.linear_us(m=1, k=32, n=32, format=format) == pytest.approx(3.8 * kernels)


def test_quantized_kernels_in_closed_form(b200: RooflineLatency) -> None:
    """Each format's kernels move the bytes that torchao's kernels read and write, block scales included."""
    m, k, n = 4096, 2048, 1024
    traffic = {
        format: [(kernel.name, kernel.traffic_bytes) for kernel in b200.linear_kernels(m=m, k=k, n=n, format=format)]
        for format in (FP8, MXFP8, NVFP4)
    }
    out = 2 * m * n
    assert traffic[FP8] == [("quantize", 2 * m * k + m * k + 4 * m), ("gemm", m * k + 4 * m + n * k + 4 * n + out)]
    assert traffic[MXFP8] == [("quantize", 2 * m * k + m * k * 33 / 32), ("gemm", (m * k + n * k) * 33 / 32 + out)]
    assert traffic[NVFP4] == [
        ("amax", 2 * m * k), ("amax of amaxes", 0), ("quantize", 2 * m * k + m * k * 9 / 16), ("gemm", (m * k + n * k) * 9 / 16 + out),
        ("multiply, add bias", 2 * out),
    ]  # fmt: skip


def test_no_rows_cost_nothing(b200: RooflineLatency) -> None:
    """A call with M = 0 launches nothing in any format."""
    assert [b200.linear_us(m=0, k=64, n=64, format=format) for format in FormatName] == [0.0] * 4


@pytest.mark.parametrize("format", list(FormatName))
def test_monotone_in_m_k_n(b200: RooflineLatency, format: FormatName) -> None:
    """More rows, inputs or outputs never take less time."""
    sizes = (1, 2, 16, 127, 128, 129, 512, 4096, 4608, 16384)
    for times_us in (
        [b200.linear_us(m=size, k=3072, n=3072, format=format) for size in sizes],
        [b200.linear_us(m=512, k=32 * size, n=3072, format=format) for size in sizes],
        [b200.linear_us(m=512, k=3072, n=size, format=format) for size in sizes],
    ):
        assert times_us == sorted(times_us)


def test_orderings_that_were_measured(b200: RooflineLatency) -> None:
    """As on a B200: NVFP4 loses on small squares and wins over MXFP8 on large ones, and one row gains much less than its bytes promise."""

    def speedup(m: int, k: int, n: int, format: FormatName) -> float:
        return b200.linear_us(m=m, k=k, n=n, format=BF16) / b200.linear_us(m=m, k=k, n=n, format=format)

    squares = (1024, 2048, 4096, 8192, 16384)
    nvfp4, mxfp8 = ([speedup(size, size, size, format) for size in squares] for format in (NVFP4, MXFP8))
    assert nvfp4 == sorted(nvfp4)
    assert mxfp8 == sorted(mxfp8)
    assert [ours < theirs for ours, theirs in zip(nvfp4, mxfp8, strict=True)] == [True, True, False, False, False]
    assert (nvfp4[1] < 1 < nvfp4[2], mxfp8[0] < 1 < mxfp8[1]) == (True, True)
    assert speedup(1, 3072, 18432, NVFP4) < 2 < 2.6
    assert speedup(1, 3072, 3072, NVFP4) < 1


def test_attention_in_closed_form(b200: RooflineLatency) -> None:
    """Text and image of one module attend jointly: 4 x S^2 x width FLOPs a sample at 0.6 of the bf16 peak, for each call."""
    rows = {2 * 4096: 28}, {2 * 512: 28}
    table = table_of(
        linear("blocks.0.attn.to_q", 3072, 3072, rows[0]), linear("blocks.0.attn.add_q_proj", 3072, 3072, rows[1]),
        linear("blocks.0.attn.to_k", 3072, 3072, rows[0]), linear("blocks.0.attn.add_k_proj", 3072, 3072, rows[1]), batch_size=2,
    )  # fmt: skip
    assert b200.attention_s(table) == pytest.approx(28 * 2 * 4 * 4608**2 * 3072 / (2.25e15 * 0.6))
    assert b200.attention_s(table_of(linear("mlp", 64, 64, {8: 1}))) == 0


def test_elementwise_shares_the_input_of_siblings(b200: RooflineLatency) -> None:
    """q and k read one tensor: three passes for the two of them, each a read and a write in bf16."""
    table = table_of(linear("attn.to_q", 4096, 4096, {8192: 5}), linear("attn.to_k", 4096, 4096, {8192: 5}))
    assert b200.elementwise_s(table) == pytest.approx(5 * 3 * 4 * 8192 * 4096 / B200_BYTES_PER_S)
    assert b200.rest_s(table) == pytest.approx(b200.elementwise_s(table) + b200.attention_s(table))


def test_estimate_sums_linears_and_rest() -> None:
    """Seconds are calls x microseconds over all Linears plus the rest; Linears left out of the map are bf16."""
    estimate = MicrosecondARow().estimate(TOKENS_AND_MODULATION, {"blocks.0.attn.to_q": NVFP4, "spare": NVFP4})
    assert estimate.bf16_s == pytest.approx(1e-3 + 10 * (100 + 100 + 1) / 1e6)
    assert estimate.quantized_s == pytest.approx(1e-3 + 10 * (50 + 100 + 1) / 1e6)
    assert estimate.speedup == pytest.approx(estimate.bf16_s / estimate.quantized_s)
    times = [(cost.format, cost.bf16_us, cost.quantized_us) for cost in estimate.linears]
    assert times == [(NVFP4, 100, 50), (BF16, 100, 100), (BF16, 1, 1)]
    assert estimate.note == "measured for toy; a constant"


def test_varying_m_is_a_mean_over_calls() -> None:
    """A Linear whose M varies shows its largest M and the mean time of its calls, so that calls x time stays its total."""
    cost = MicrosecondARow().estimate(table_of(linear("mixed", 8, 8, {10: 3, 50: 1})), {"mixed": MXFP8}).linears[0]
    assert (cost.m, cost.calls, cost.bf16_us, cost.quantized_us) == (50, 4, 20, 10)


def test_all_bf16_changes_nothing(b200: RooflineLatency) -> None:
    """Without formats the two totals are the same and the speedup is 1."""
    estimate = b200.estimate(TOKENS_AND_MODULATION, {})
    assert (estimate.quantized_s, estimate.speedup, estimate.source) == (estimate.bf16_s, 1.0, "predicted")


def test_anchor_replaces_the_rest() -> None:
    """With the measured bf16 seconds the total is theirs, and the formats save what they save without the anchor."""
    model, formats = MicrosecondARow(), {"blocks.0.attn.to_q": NVFP4}
    free, anchored = (model.estimate(TOKENS_AND_MODULATION, formats, bf16_seconds=seconds) for seconds in (None, 0.5))
    assert anchored.bf16_s == pytest.approx(0.5)
    assert anchored.bf16_s - anchored.quantized_s == pytest.approx(free.bf16_s - free.quantized_s)
    assert "as the caller measured it" in anchored.note


@pytest.mark.parametrize("seconds", [0.001, 0.0, -1.0, float("nan"), float("inf")])
def test_impossible_anchor(seconds: float) -> None:
    """An anchor shorter than the bf16 Linears, or no number, is the caller's mistake."""
    with pytest.raises(UserError, match=r"takes .* s; allowed: no less than the 0\.00201 s of its Linears alone\. Give the seconds"):
        MicrosecondARow().estimate(TOKENS_AND_MODULATION, {}, bf16_seconds=seconds)


def test_unknown_fqns() -> None:
    """A format map with FQNs of another model is refused with their number, the first one and the closest known."""
    formats = {"blocks.0.attn.to_q": NVFP4, "blocks.0.attn.to_qq": NVFP4, "other": NVFP4}
    message = r"2 FQNs .* first is 'blocks\.0\.attn\.to_qq' \(closest: 'blocks\.0\.attn\.to_q'\); allowed: the 4 FQNs"
    with pytest.raises(PatternError, match=message):
        MicrosecondARow().estimate(TOKENS_AND_MODULATION, formats)


def test_nothing_to_price() -> None:
    """A table without a single row is refused instead of giving a speedup of nothing."""
    with pytest.raises(UserError, match="has no Linear call with rows; allowed: one or more"):
        MicrosecondARow().estimate(table_of(linear("empty", 8, 8, {0: 1})), {})


def test_format_that_the_chip_lacks() -> None:
    """Hopper has no NVFP4: the message says what it has and which device has it."""
    with pytest.raises(FormatError, match=r"h100 has no nvfp4; it has bf16, fp8\. Choose one of these, or price it on b200 \(--target\)"):
        RooflineLatency(get_device("h100")).estimate(TOKENS_AND_MODULATION, {"blocks.0.attn.to_q": NVFP4})


def test_devices_are_found_in_any_case() -> None:
    """A device is named by its chip; a near miss is told the closest name."""
    assert get_device(" B200 ") is DEVICES["b200"]
    with pytest.raises(UserError, match=r"No device is called 'b20'; known are b200, h100\. Did you mean 'b200'\? Name one"):
        get_device("b20")


def test_devices_are_sourced() -> None:
    """Every device stands under its own name and says where its numbers come from."""
    for name, device in DEVICES.items():
        assert device.name == name
        text = " ".join(device.sources)
        assert all(word in text for word in ("peaks", "bandwidth", "sm_count", "achievable_attention", "launch_floor_us"))


def test_unknown_compile_mode() -> None:
    """A compile mode that is not priced is refused with those that are."""
    with pytest.raises(UserError, match="compile mode is 'eager'; allowed: reduce-overhead, default"):
        RooflineLatency(get_device("b200"), compile_mode="eager")  # type: ignore[arg-type]


def test_scaled_table() -> None:
    """Token rows, K and N are multiplied, rows of the batch axis keep their M, names and calls stay, and the settings say so."""
    scaled = stand_for(TOKENS_AND_MODULATION, ShapeScale(factor=16))
    assert [(row.fqn, row.m, row.k, row.n, row.calls) for row in scaled.linears] == [
        ("blocks.0.attn.to_q", 1600, 1024, 1024, 10),
        ("blocks.0.attn.to_k", 1600, 1024, 1024, 10),
        ("blocks.0.norm.linear", 1, 1024, 2048, 10),
    ]
    assert scaled.linears[0].m_values == ((1600, 10),)
    assert scaled.uncalled == ("spare",)
    assert (scaled.settings["stands_for_factor"], scaled.settings["steps"]) == (16, 2)
    assert stand_for(stand_for(TOKENS_AND_MODULATION, ShapeScale(factor=4)), ShapeScale(factor=4)) == scaled
    assert ShapeTable.from_json(json.loads(json.dumps(scaled.to_json()))) == scaled


def test_scaling_merges_equal_rows() -> None:
    """Where a scaled token M meets the batch's, the calls of both are one entry."""
    scaled = stand_for(table_of(linear("mixed", 8, 8, {1: 2, 16: 3}), batch_size=16), ShapeScale(factor=16))
    assert scaled.linears[0].m_values == ((16, 5),)


@pytest.mark.parametrize("factor", [0, -1, 1.5, True])
def test_impossible_scale(factor: float) -> None:
    """A factor must be a whole number from 1 up."""
    with pytest.raises(UserError, match=r"factor is .*; allowed: a whole number from 1 up"):
        ShapeScale(factor=factor)  # type: ignore[arg-type]


def test_batch_rows() -> None:
    """The batch axis is the batch size, or its double where guidance doubles the batch."""
    assert batch_rows(table_of(linear("a", 8, 8, {4: 1}), linear("b", 8, 8, {64: 1}), batch_size=4)) == 4
    assert batch_rows(table_of(linear("a", 8, 8, {2: 1}), linear("b", 8, 8, {12288: 1}))) == 2
    assert batch_rows(table_of(linear("b", 8, 8, {64: 1}))) == 1


def test_json_contract(b200: RooflineLatency) -> None:
    """The JSON has exactly the contract's keys; note and scale are added only for a table that stands for a larger model."""
    formats = {"blocks.0.attn.to_q": NVFP4}
    data = json.loads(json.dumps(b200.estimate(TOKENS_AND_MODULATION, formats).to_json()))
    keys = ["target", "source", "batch_size", "compile_mode", "bf16_s", "quantized_s", "speedup", "linears"]
    assert list(data) == keys
    assert list(data["linears"][0]) == ["fqn", "m", "k", "n", "calls", "format", "bf16_us", "quantized_us"]
    assert [data[key] for key in keys[:4]] == ["b200", "predicted", 1, "reduce-overhead"]
    assert data["linears"][0]["format"] == "nvfp4"
    scaled = b200.estimate(stand_for(TOKENS_AND_MODULATION, ShapeScale(factor=16)), formats).to_json()
    assert list(scaled) == [*keys, "note", "scale"]
    assert scaled["scale"] == {"factor": 16}
    assert "token rows, K and N x 16, batch rows unscaled" in scaled["note"]


def test_records_are_frozen(b200: RooflineLatency) -> None:
    """An estimate cannot be changed after it was made."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        b200.estimate(TOKENS_AND_MODULATION, {}).bf16_s = 0.0  # type: ignore[misc]
