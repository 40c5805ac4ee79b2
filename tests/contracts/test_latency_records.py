"""Records of `latency` and `fidelity` that are read from files survive a round trip, with every
field set.
"""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from sensitivity.core.format_name import FormatName
from sensitivity.fidelity.score import METRICS, JudgeValues, MetricValues, Score
from sensitivity.latency.constants import BLACKWELL, FITTED
from sensitivity.latency.devices import DEVICES, Device, load_device
from sensitivity.latency.posterior import Fit, load_fit
from sensitivity.latency.shape_times import ShapeTime

from contracts.round_trip import assert_all_fields_set, assert_round_trip

SHAPE_TIME = ShapeTime(
    key="linear m=4 k=32 n=16 bias=1 fp8",
    us=(0.1 + 0.2, 1e-9),
    rested_us=(0.15, 3.0),
    producer_us=(7.0, 8.5),
    reason="out of memory on this device",
    copies=3,
)
METRIC = MetricValues(per_prompt=(0.1, 1 / 3), noise_floor=0.01)
SCORE = Score(
    net="tiny",
    mean=0.1 + 0.2,
    per_prompt=(0.2, 0.4),
    noise_floor=1e-5,
    per_frame=((0.1, 0.3), (0.4, 0.4)),
    motion=METRIC,
    detail_db=dataclasses.replace(METRIC, noise_floor=0.02),
    audio=dataclasses.replace(METRIC, per_prompt=(0.0, 2.0)),
    latent=dataclasses.replace(METRIC, per_prompt=(0.3, 0.7)),
    audio_weight=0.5,
    max_audio_distance=0.75,
    judges={
        "text": JudgeValues(
            per_prompt=(1 / 7,),
            noise_floor=0.03,
            higher_is_better=True,
            unit="dB",
            prompts=(1,),
            made_by="a reader 1.0",
        )
    },
)
NOT_STATED = ("calibrated", "samples", "measured")
"""Fields of a device that come from measurements of its own."""
DEVICE_TOML = """\
name = "Lab-1"
like = "h100"
bandwidth_bytes_per_s = 1e12
memory_bytes = 64_000_000_000
sm_count = 100
host_factor = 2.0
capability = "9.9"
sources = ["our own data sheet"]

[peaks_flops_per_s]
bf16 = 1e15
mxfp8 = 2e15
nvfp4 = 4e15

[kernels]
pass_ramp_us = 9.0
"""


def test_a_shape_time_survives() -> None:
    """A cached row has all that was measured, so it prices as the fresh one did."""
    assert_all_fields_set(SHAPE_TIME)
    assert_round_trip(SHAPE_TIME, ShapeTime.to_json, ShapeTime.from_json)
    priced = ShapeTime(key="a", us=(2.0,), rested_us=(1.0,))
    assert ShapeTime.from_json(priced.to_json()).price_us == priced.price_us == 2**0.5


def test_a_score_survives() -> None:
    """All metrics, frames and what the study says of sound come back."""
    assert_all_fields_set(SCORE)
    assert_round_trip(SCORE, Score.to_json, Score.from_json)
    metrics = [name for name in METRICS if getattr(SCORE, name) is not None]
    assert metrics == list(METRICS)


def test_a_score_of_pictures_survives() -> None:
    """What was not measured is left out of the JSON, and comes back as not measured."""
    plain = Score(net="alex", mean=0.1, per_prompt=(0.1,), noise_floor=None)
    assert list(plain.to_json()) == ["net", "mean", "per_prompt", "noise_floor"]
    assert_round_trip(plain, Score.to_json, Score.from_json)


@pytest.mark.parametrize("chip", sorted(FITTED))
def test_a_fit_survives(chip: str) -> None:
    """The file of the fitted constants is read with every field."""
    fit = load_fit(chip)
    assert_all_fields_set(fit)
    assert_round_trip(fit, Fit.model_dump_json, Fit.model_validate_json)


def test_a_device_file_is_read_with_every_field(tmp_path: Path) -> None:
    """Every key of a device TOML replaces what the device that it is like has."""
    path = tmp_path / "lab.toml"
    path.write_text(DEVICE_TOML)
    found, like = load_device(path), DEVICES["h100"]
    assert found == Device(
        name="lab-1",
        peaks_flops_per_s={
            FormatName.BF16: 1e15,
            FormatName.MXFP8: 2e15,
            FormatName.NVFP4: 4e15,
        },
        bandwidth_bytes_per_s=1e12,
        memory_bytes=64_000_000_000,
        sm_count=100,
        host_factor=2.0,
        capability="9.9",
        kernels=dataclasses.replace(like.kernels, pass_ramp_us=9.0),
        sources=("lab.toml, like h100", "our own data sheet"),
    )
    for field in dataclasses.fields(Device):
        if field.name not in NOT_STATED:
            assert getattr(found, field.name) != getattr(like, field.name)


def test_every_shipped_device_is_read_with_every_field() -> None:
    """The catalogue states all limits of each device, and the B200 has the fitted constants."""
    for device in DEVICES.values():
        record: dict[str, Any] = {
            field.name: getattr(device, field.name) for field in dataclasses.fields(device)
        }
        assert all(value for name, value in record.items() if name not in NOT_STATED)
    assert (DEVICES["b200"].calibrated, DEVICES["b200"].kernels) == (True, BLACKWELL)
