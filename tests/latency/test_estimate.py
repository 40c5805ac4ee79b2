"""An estimate has the JSON of the contract, and cannot be changed."""

import dataclasses
import json

import pytest

from sensitivity.latency import PredictedLatency, ShapeScale, stand_for

from support.latency import NVFP4, TOKENS_AND_MODULATION


def test_json_contract(in_a_run: PredictedLatency) -> None:
    """The JSON has the contract's keys, then the interval; note and scale are added only for a
    table that stands for a larger model, and why a Linear gains only where it is quantized.
    """
    formats = {"blocks.0.attn.to_q": NVFP4}
    data = json.loads(json.dumps(in_a_run.estimate(TOKENS_AND_MODULATION, formats).to_json()))
    keys = [
        "target",
        "source",
        "batch_size",
        "compile_mode",
        "runtime",
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
        "why",
    ]
    assert [data[key] for key in keys[:4]] == ["b200", "predicted", 1, "reduce-overhead"]
    assert data["linears"][0]["format"] == "nvfp4"
    assert "why" not in data["linears"][1]
    scaled = in_a_run.estimate(
        stand_for(TOKENS_AND_MODULATION, ShapeScale(factor=16)), formats
    ).to_json()
    assert list(scaled) == [*keys, "note", "scale"]
    assert scaled["scale"] == {"factor": 16}
    assert "token rows, K and N x 16, batch rows unscaled" in scaled["note"]


def test_records_are_frozen(in_a_run: PredictedLatency) -> None:
    """An estimate cannot be changed after it was made."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        in_a_run.estimate(TOKENS_AND_MODULATION, {}).bf16_s = 0.0  # type: ignore[misc]
