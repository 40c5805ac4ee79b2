"""What every latency model promises: sums that add up, an honest anchor, devices as data, and the
JSON contract.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from sensitivity.core.format_name import FormatName
from sensitivity.errors import FormatError, PatternError, UserError
from sensitivity.latency import LatencyModel, ShapeScale, batch_rows, stand_for
from sensitivity.latency.devices import DEVICES, get_device
from sensitivity.latency.predicted import PredictedLatency
from sensitivity.shapes.table import LinearProfile, ShapeTable

BF16, MXFP8, NVFP4, FP8 = FormatName.BF16, FormatName.MXFP8, FormatName.NVFP4, FormatName.FP8


class MicrosecondARow(LatencyModel):
    """A toy model: bf16 takes M us a call, everything else half of that; the rest takes 1 ms."""

    target, source, compile_mode, covers = "toy", "measured", "default", "a constant"

    def linear_us(self, *, m: int, k: int, n: int, format: FormatName) -> float:  # noqa: ARG002  # the contract's arguments
        return float(m) if format is BF16 else m / 2

    def rest_s(self, table: ShapeTable) -> float:  # noqa: ARG002  # the same
        return 1e-3


def linear(fqn: str, k: int, n: int, m_values: Mapping[int, int]) -> LinearProfile:
    return LinearProfile.observed(fqn=fqn, k=k, n=n, m_values=m_values, dtype="bfloat16", bias=True)


def table_of(
    *linears: LinearProfile, batch_size: int = 1, uncalled: tuple[str, ...] = ()
) -> ShapeTable:
    return ShapeTable(
        model="toy",
        batch_size=batch_size,
        settings={"steps": 2},
        linears=linears,
        uncalled=uncalled,
    )


TOKENS_AND_MODULATION = table_of(
    linear("blocks.0.attn.to_q", 64, 64, {100: 10}),
    linear("blocks.0.attn.to_k", 64, 64, {100: 10}),
    linear("blocks.0.norm.linear", 64, 128, {1: 10}),
    uncalled=("spare",),
)


@pytest.fixture
def b200() -> PredictedLatency:
    return PredictedLatency(get_device("b200"))


def test_estimate_sums_linears_and_rest() -> None:
    """Seconds are calls x microseconds over all Linears plus the rest; Linears left out of the map
    are bf16.
    """
    estimate = MicrosecondARow().estimate(
        TOKENS_AND_MODULATION, {"blocks.0.attn.to_q": NVFP4, "spare": NVFP4}
    )
    assert estimate.bf16_s == pytest.approx(1e-3 + 10 * (100 + 100 + 1) / 1e6)
    assert estimate.quantized_s == pytest.approx(1e-3 + 10 * (50 + 100 + 1) / 1e6)
    assert estimate.speedup == pytest.approx(estimate.bf16_s / estimate.quantized_s)
    times = [(cost.format, cost.bf16_us, cost.quantized_us) for cost in estimate.linears]
    assert times == [(NVFP4, 100, 50), (BF16, 100, 100), (BF16, 1, 1)]
    assert estimate.note == "measured for toy; a constant"


def test_varying_m_is_a_mean_over_calls() -> None:
    """A Linear whose M varies shows its largest M and the mean time of its calls, so that calls x
    time stays its total.
    """
    cost = (
        MicrosecondARow()
        .estimate(table_of(linear("mixed", 8, 8, {10: 3, 50: 1})), {"mixed": MXFP8})
        .linears[0]
    )
    assert (cost.m, cost.calls, cost.bf16_us, cost.quantized_us) == (50, 4, 20, 10)


def test_all_bf16_changes_nothing(b200: PredictedLatency) -> None:
    """Without formats the two totals are the same and the speedup is 1."""
    estimate = b200.estimate(TOKENS_AND_MODULATION, {})
    assert (estimate.quantized_s, estimate.speedup, estimate.source) == (
        estimate.bf16_s,
        1.0,
        "predicted",
    )


def test_anchor_replaces_the_rest() -> None:
    """With the measured bf16 seconds a model of measured Linears keeps what its formats save, and
    the rest is what remains.
    """
    model, formats = MicrosecondARow(), {"blocks.0.attn.to_q": NVFP4}
    free, anchored = (
        model.estimate(TOKENS_AND_MODULATION, formats, bf16_seconds=seconds)
        for seconds in (None, 0.5)
    )
    assert anchored.bf16_s == pytest.approx(0.5)
    assert anchored.bf16_s - anchored.quantized_s == pytest.approx(free.bf16_s - free.quantized_s)
    assert "as the caller measured it" in anchored.note
    assert (free.interval90, free.memory) == (None, None)


def test_linears_outside_blocks_are_priced_as_eager() -> None:
    """Only repeated blocks are compiled: a Linear without a block in its name gets the model's
    eager price, others the compiled one.
    """

    class SlowOutside(MicrosecondARow):
        def eager_us(self, *, m: int, k: int, n: int, format: FormatName) -> float:  # noqa: ARG002  # the contract's arguments
            return 1000.0

    table = table_of(linear("x_embedder", 8, 8, {10: 1}), linear("blocks.0.to_q", 8, 8, {10: 1}))
    assert [cost.bf16_us for cost in SlowOutside().estimate(table, {}).linears] == [1000.0, 10.0]


@pytest.mark.parametrize("seconds", [0.001, 0.0, -1.0, float("nan"), float("inf")])
def test_impossible_anchor(seconds: float) -> None:
    """An anchor shorter than the bf16 Linears, or no number, is the caller's mistake."""
    with pytest.raises(
        UserError,
        match=(
            r"takes .* s; allowed: no less than the 0\.00201 s of its Linears alone\. Give the"
            r" seconds"
        ),
    ):
        MicrosecondARow().estimate(TOKENS_AND_MODULATION, {}, bf16_seconds=seconds)


def test_unknown_fqns() -> None:
    """A format map with FQNs of another model is refused with their number, the first one and the
    closest known.
    """
    formats = {"blocks.0.attn.to_q": NVFP4, "blocks.0.attn.to_qq": NVFP4, "other": NVFP4}
    message = (
        r"2 FQNs .* first is 'blocks\.0\.attn\.to_qq' \(closest: 'blocks\.0\.attn\.to_q'\);"
        r" allowed: the 4 FQNs"
    )
    with pytest.raises(PatternError, match=message):
        MicrosecondARow().estimate(TOKENS_AND_MODULATION, formats)


def test_nothing_to_price() -> None:
    """A table without a single row is refused instead of giving a speedup of nothing."""
    with pytest.raises(UserError, match="has no Linear call with rows; allowed: one or more"):
        MicrosecondARow().estimate(table_of(linear("empty", 8, 8, {0: 1})), {})


def test_format_that_the_chip_lacks() -> None:
    """Hopper has no NVFP4: the message says what it has and which devices have it."""
    with pytest.raises(
        FormatError,
        match=(
            r"h100 has no nvfp4; it has bf16, fp8\. Choose one of these, or price it on b200 or"
            r" gb200 .* \(--target\)"
        ),
    ):
        PredictedLatency(get_device("h100")).estimate(
            TOKENS_AND_MODULATION, {"blocks.0.attn.to_q": NVFP4}
        )


def test_devices_are_found_in_any_case() -> None:
    """A device is named by its chip; a near miss is told the closest name."""
    assert get_device(" B200 ") is DEVICES["b200"]
    assert get_device("RTX-5090") is DEVICES["rtx5090"]
    with pytest.raises(
        UserError,
        match=(
            r"No device is called 'b20'; known are b200, .*rtx5090, or a path to a device TOML\."
            r" Did you mean 'b200'\? Name one"
        ),
    ):
        get_device("b20")


def test_devices_are_sourced() -> None:
    """Every device stands under its own name, says where its numbers come from, and whether its
    kernels were measured on it.
    """
    assert set(DEVICES) == {"b200", "gb200", "b300", "h100", "h200", "rtx5090"}
    for name, device in DEVICES.items():
        assert device.name == name
        assert device.sources
        assert (
            device.peaks_flops_per_s[BF16]
            < device.peaks_flops_per_s[FP8]
            < device.peaks_flops_per_s.get(NVFP4, float("inf"))
        )
    assert [device.name for device in DEVICES.values() if device.calibrated] == ["b200"]


def test_a_user_s_device(tmp_path: Path) -> None:
    """A TOML gives a device of its own: what it states, and the rest of the device that it is like."""
    path = tmp_path / "lab.toml"
    path.write_text(
        'name = "Lab-1"\nlike = "b200"\nsm_count = 100\n[peaks_flops_per_s]\nbf16 = 1e15\nnvfp4 ='
        " 4e15\n[kernels]\ngap_us = 9.0\n"
    )
    device = get_device(str(path))
    assert (device.name, device.sm_count, device.calibrated, device.kernels.gap_us) == (
        "lab-1",
        100,
        False,
        9.0,
    )
    assert device.bandwidth_bytes_per_s == DEVICES["b200"].bandwidth_bytes_per_s
    assert dict(device.peaks_flops_per_s) == {BF16: 1e15, NVFP4: 4e15}
    with pytest.raises(FormatError, match="lab-1 has no mxfp8"):
        device.peak_flops_per_s(MXFP8)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = ", "cannot be read"),
        ('name = "x"\n', "like: Field required"),
        ('name = "x"\nlike = "b200"\nsm_cuont = 3\n', "sm_cuont: Extra inputs"),
        ('name = "x"\nlike = "b200"\nsm_count = 0\n', "sm_count: Input should be greater than 0"),
        ('name = "x"\nlike = "nothing"\n', "No device is called 'nothing'"),
        (
            'name = "x"\nlike = "x.toml"\n',
            "is like 'x.toml'; allowed is a device that comes with the package",
        ),
        (
            'name = "x"\nlike = "b200"\n[kernels]\ngap = 1.0\n',
            "No kernel constant is called 'gap'.* Did you mean 'gap_us'",
        ),
        (
            'name = "x"\nlike = "b200"\n[kernels]\ngap_us = -1.0\n',
            "gap_us is -1.0; allowed is a number above 0",
        ),
        (
            'name = "x"\nlike = "b200"\n[peaks_flops_per_s]\nnvfp4 = 1e15\n',
            "has no bf16 in peaks_flops_per_s",
        ),
    ],
)
def test_a_malformed_device(tmp_path: Path, text: str, message: str) -> None:
    """A device file that is wrong is refused with its key."""
    path = tmp_path / "x.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        get_device(str(path))


def test_unknown_compile_mode() -> None:
    """A compile mode that is not priced is refused with those that are."""
    with pytest.raises(
        UserError, match="compile mode is 'eager'; allowed: reduce-overhead, default"
    ):
        PredictedLatency(get_device("b200"), compile_mode="eager")  # type: ignore[arg-type]


def test_scaled_table() -> None:
    """Token rows, K and N are multiplied, rows of the batch axis keep their M, names and calls
    stay, and the settings say so.
    """
    scaled = stand_for(TOKENS_AND_MODULATION, ShapeScale(factor=16))
    assert [(row.fqn, row.m, row.k, row.n, row.calls) for row in scaled.linears] == [
        ("blocks.0.attn.to_q", 1600, 1024, 1024, 10),
        ("blocks.0.attn.to_k", 1600, 1024, 1024, 10),
        ("blocks.0.norm.linear", 1, 1024, 2048, 10),
    ]
    assert scaled.linears[0].m_values == ((1600, 10),)
    assert scaled.uncalled == ("spare",)
    assert (scaled.settings["stands_for_factor"], scaled.settings["steps"]) == (16, 2)
    assert (
        stand_for(stand_for(TOKENS_AND_MODULATION, ShapeScale(factor=4)), ShapeScale(factor=4))
        == scaled
    )
    assert ShapeTable.from_json(json.loads(json.dumps(scaled.to_json()))) == scaled


def test_scaling_merges_equal_rows() -> None:
    """Where a scaled token M meets the batch's, the calls of both are one entry."""
    scaled = stand_for(
        table_of(linear("mixed", 8, 8, {1: 2, 16: 3}), batch_size=16), ShapeScale(factor=16)
    )
    assert scaled.linears[0].m_values == ((16, 5),)


@pytest.mark.parametrize("factor", [0, -1, 1.5, True])
def test_impossible_scale(factor: float) -> None:
    """A factor must be a whole number from 1 up."""
    with pytest.raises(UserError, match=r"factor is .*; allowed: a whole number from 1 up"):
        ShapeScale(factor=factor)  # type: ignore[arg-type]


def test_batch_rows() -> None:
    """The batch axis is the batch size, or its double where guidance doubles the batch."""
    assert (
        batch_rows(table_of(linear("a", 8, 8, {4: 1}), linear("b", 8, 8, {64: 1}), batch_size=4))
        == 4
    )
    assert batch_rows(table_of(linear("a", 8, 8, {2: 1}), linear("b", 8, 8, {12288: 1}))) == 2
    assert batch_rows(table_of(linear("b", 8, 8, {64: 1}))) == 1


def test_json_contract(b200: PredictedLatency) -> None:
    """The JSON has the contract's keys, then the interval; note and scale are added only for a
    table that stands for a larger model.
    """
    formats = {"blocks.0.attn.to_q": NVFP4}
    data = json.loads(json.dumps(b200.estimate(TOKENS_AND_MODULATION, formats).to_json()))
    keys = [
        "target",
        "source",
        "batch_size",
        "compile_mode",
        "bf16_s",
        "quantized_s",
        "speedup",
        "linears",
        "speedup_interval90",
    ]
    assert list(data) == keys
    assert list(data["linears"][0]) == [
        "fqn",
        "m",
        "k",
        "n",
        "calls",
        "format",
        "bf16_us",
        "quantized_us",
    ]
    assert [data[key] for key in keys[:4]] == ["b200", "predicted", 1, "reduce-overhead"]
    assert data["linears"][0]["format"] == "nvfp4"
    scaled = b200.estimate(
        stand_for(TOKENS_AND_MODULATION, ShapeScale(factor=16)), formats
    ).to_json()
    assert list(scaled) == [*keys, "note", "scale"]
    assert scaled["scale"] == {"factor": 16}
    assert "token rows, K and N x 16, batch rows unscaled" in scaled["note"]


def test_records_are_frozen(b200: PredictedLatency) -> None:
    """An estimate cannot be changed after it was made."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        b200.estimate(TOKENS_AND_MODULATION, {}).bf16_s = 0.0  # type: ignore[misc]
