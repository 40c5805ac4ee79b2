"""Devices are found by name, come with sources, and can be described in a TOML."""

from pathlib import Path

import pytest

from sensitivity.errors import FormatError, UserError
from sensitivity.latency import PredictedLatency
from sensitivity.latency.devices import DEVICES, get_device

from support.latency import BF16, FP8, MXFP8, NVFP4, TOKENS_AND_MODULATION


def test_format_that_the_chip_lacks() -> None:
    """Hopper has no NVFP4: the message says what it has and which devices have it."""
    with pytest.raises(
        FormatError,
        match=(
            r"h100 has no nvfp4; it has bf16, fp8, int8, int8-rot, fp8-lb, .*\. Choose one of these"
            r" formats, or choose b200 or gb200 .* as `target`"
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
            r"No device is called 'b20' \(`target`\); expected one of b200, .*rtx5090, or a path to"
            r" a device TOML or to the JSON of `sensitivity device measure`\. Did you mean 'b200'\?"
        ),
    ):
        get_device("b20")


def test_devices_are_sourced() -> None:
    """Every device stands under its own name and says where its numbers come from."""
    assert set(DEVICES) == {
        "b200",
        "gb200",
        "b300",
        "h100",
        "h200",
        "a100",
        "rtx4090",
        "rtx5090",
    }
    for name, device in DEVICES.items():
        assert device.name == name
        assert device.sources
        peaks = [device.peaks_flops_per_s.get(fmt) for fmt in (BF16, FP8, NVFP4)]
        known = [peak for peak in peaks if peak is not None]
        assert known == sorted(set(known))
        assert BF16 in device.formats


def test_a_user_s_device(tmp_path: Path) -> None:
    """A TOML gives a device: what it states, and the rest from the device that it is like."""
    path = tmp_path / "lab.toml"
    path.write_text(
        'name = "Lab-1"\nlike = "b200"\nsm_count = 100\n[peaks_flops_per_s]\nbf16 = 1e15\nnvfp4 ='
        " 4e15\n[kernels]\npass_ramp_us = 9.0\n"
    )
    device = get_device(str(path))
    assert (device.name, device.sm_count, device.calibrated, device.kernels.pass_ramp_us) == (
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
        ('name = "x"\nlike = "b200"\nsm_count = true\n', "sm_count: Input should be a valid int"),
        ('name = "x"\nlike = "b200"\nmemory_bytes = "1"\n', "memory_bytes: Input should be"),
        ('name = "x"\nlike = "b200"\nmemory_bytes = 1' + "0" * 20, "memory_bytes: Input should be"),
        ('name = "x"\nlike = "b200"\nbandwidth_bytes_per_s = nan\n', "should be a finite number"),
        ('name = "x"\nlike = "b200"\nbandwidth_bytes_per_s = true\n', "should be a valid number"),
        ('name = "x"\nlike = "b200"\n[kernels]\npass_ramp_us = true\n', "pass_ramp_us: Input"),
        (f'name = "{"x" * 300}"\nlike = "b200"\n', "name: String should have at most 100"),
        ("a = " + "[" * 4_000, "cannot be read .found nesting deeper"),
        ('name = "x"\nlike = "nothing"\n', "No device is called 'nothing'"),
        (
            'name = "x"\nlike = "x.toml"\n',
            "is like 'x.toml'; expected one of the devices that come with the package",
        ),
        (
            'name = "x"\nlike = "b200"\n[kernels]\npass_ramp = 1.0\n',
            "No kernel constant is called 'pass_ramp'.* Did you mean 'pass_ramp_us'",
        ),
        (
            'name = "x"\nlike = "b200"\n[kernels]\npass_ramp_us = -1.0\n',
            "pass_ramp_us is -1.0; expected a number above 0",
        ),
        (
            'name = "x"\nlike = "b200"\n[kernels]\nshape_sd = 500.0\n',
            "shape_sd is 500.0; expected a relative standard deviation of at most 3",
        ),
        (
            'name = "x"\nlike = "b200"\n[peaks_flops_per_s]\nnvfp4 = 1e15\n',
            "has no bf16 in `peaks_flops_per_s`",
        ),
    ],
)
def test_a_malformed_device(tmp_path: Path, text: str, message: str) -> None:
    """A device file that is wrong is refused with its key."""
    path = tmp_path / "x.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        get_device(str(path))
