"""A target file is read strictly, holds no name of a machine, and gives a device that prices."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sensitivity.errors import UserError
from sensitivity.latency import get_device
from sensitivity.latency.devices import device_of_target
from sensitivity.latency.pricer import Pricer
from sensitivity.latency.targets import target_file
from sensitivity.latency.targets.target_file import (
    TargetFile,
    TimedRow,
    load_target,
    round_numbers,
    shipped_targets,
)
from sensitivity.spec.loading import resolve_spec

from support.shape_runs import shape_run
from support.targets import make_target, target_data

FOLDER = Path(target_file.__file__).parent
FORBIDDEN = re.compile(
    r"/(?:home|root|tmp|work|usr|opt|mnt|data|workspace)\b|GPU-[0-9a-f]{8}|\bhostname\b"
    r"|\b(?:\d{1,3}\.){3}\d{1,3}\b(?!\.)|[\w.]+@[\w.]+\.\w|\\\\Users",
)
"""Paths, a GPU's uuid, addresses of machines and of people."""


def test_a_target_is_read_back_as_it_was(tmp_path: Path) -> None:
    """What is written is read as the same record, with four significant digits."""
    target = make_target("b200", noise=0.1)
    path = tmp_path / "b200.json"
    path.write_text(json.dumps(target.to_json()), encoding="utf-8")
    again = load_target(path)
    assert again.to_json() == target.to_json()
    assert again.rows[0].us[0] == pytest.approx(target.rows[0].us[0], rel=1e-3)
    assert round_numbers([1.23456, 0.000123456, 5, True, "x"]) == [1.235, 0.0001235, 5, True, "x"]


def _without(key: str) -> Callable[[dict[str, Any]], object]:
    return lambda data: data.pop(key)


def _with(key: str, value: object) -> Callable[[dict[str, Any]], object]:
    return lambda data: data.update({key: value})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_with("schema", "sensitivity-target/2"), r"schema: Input should be"),
        (_without("rows"), ""),
        (_without("device"), "device: Field required"),
        (_with("hostname", "node7"), "hostname: Extra inputs"),
        (_with("name", "../h100"), "name: String should match"),
        (_with("sm_count", 0), "sm_count"),
        (_with("sm_count", "132"), "sm_count"),
        (_with("rows", [{"key": "linear m=1 k=2"}]), "names no shape of rows"),
        (_with("rows", [{"key": "gemm m=1 k=2 n=3 bias=1 fp8"}]), "names no shape of rows"),
        (_with("gemms", [{"key": "gemm m=1 k=2 n=3 bias=1 int4"}]), "names no shape of gemms"),
        (_with("rows", [{"key": "linear m=1 k=2 n=3 bias=1 fp8", "us": ["x"]}]), "rows.0.us.0"),
        (_with("formats", ["int4"]), "formats.0"),
        (_with("kernels", {"constants": {"gemm_ramp_us": "fast"}}), "gemm_ramp_us"),
        (
            _with("kernels", {"constants": {"gemm_ramp_us": -1.0}}),
            "gemm_ramp_us: Input should be",
        ),
        (_with("measured", "yesterday"), "measured"),
        (_with("rows", [{"key": "linear m=1 k=2 n=3 bias=1 fp8", "us": [True]}]), "rows.0.us.0"),
        (_with("kernels", {"constants": {"gemm_ramp_us": 1e-9}}), "gemm_ramp_us"),
        (_with("kernels", {"names": ["gemm_ramp_us"]}), "not some of its constants"),
        (
            _with("kernels", {"constants": {"gemm_ramp_us": 3.0}, "samples": [[3.0]]}),
            "not one value for each",
        ),
    ],
)
def test_a_wrong_file_says_what_is_wrong(
    spoil: Callable[[dict[str, Any]], object], message: str, tmp_path: Path
) -> None:
    """Each wrong key or value is named with what was expected and the next step; rows may be left
    out.
    """
    data = target_data()
    spoil(data)
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    if not message:
        assert load_target(path).rows == ()
        return
    with pytest.raises(UserError, match=message) as caught:
        get_device(str(path))
    assert "`sensitivity device measure` writes" in str(caught.value)
    assert "name a chip as `target`" in str(caught.value)


@pytest.mark.parametrize("text", ["", "no JSON", '{"a": 1, "a": 2}', "[NaN]", "[" * 40 + "]" * 40])
def test_what_is_no_json_is_refused(text: str, tmp_path: Path) -> None:
    """A file that is no strict JSON, too deep, or missing is a user's mistake."""
    path = tmp_path / "mine.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="cannot be read"):
        get_device(str(path))
    with pytest.raises(UserError, match="cannot be read"):
        get_device(str(tmp_path / "none.json"))


def test_a_fit_of_other_constants_does_not_count(tmp_path: Path) -> None:
    """A file of a version with other constants keeps its rows, and is priced by its chip's."""
    path = tmp_path / "mine.json"
    data = target_data(kernels={"constants": {"warp_speed": 9.0}})
    path.write_text(json.dumps(data), encoding="utf-8")
    device = get_device(str(path))
    assert device.kernels == get_device("h100").kernels
    assert device.measured is not None


def test_an_unknown_chips_limits_are_those_it_reached() -> None:
    """A chip that the package does not know has the rates of its GEMMs, and its own bandwidth, over
    the parts of the limits that kernels reach.
    """
    known = get_device("h100")
    target = make_target(name="l40s", device="NVIDIA L40S", shapes=[(8192, 8192, 8192)])
    found = device_of_target(target)
    assert found.name == "l40s"
    assert not found.calibrated
    assert set(found.peaks_flops_per_s) == set(known.peaks_flops_per_s)
    for format, peak in known.peaks_flops_per_s.items():
        assert found.peaks_flops_per_s[format] == pytest.approx(peak, rel=0.25)
    part = found.kernels.pass_bandwidth
    reached = 0.85 * known.bandwidth_bytes_per_s
    assert found.bandwidth_bytes_per_s == pytest.approx(reached / part)
    with pytest.raises(UserError, match="no bf16 GEMM or no bandwidth"):
        device_of_target(target.model_copy(update={"limits": {}}))


def test_the_chip_is_what_the_driver_says() -> None:
    """A file's own name does not make an H100 a B200, nor does it with another capability."""
    data = target_data(name="b200")
    h100 = get_device("h100")
    assert device_of_target(TargetFile.model_validate(data)).sm_count == h100.sm_count
    assert device_of_target(TargetFile.model_validate(data)).name == "b200"
    other = data | {"device": "NVIDIA H100", "capability": "12.0", "gemms": [], "limits": {}}
    with pytest.raises(UserError, match="does not know this chip"):
        device_of_target(TargetFile.model_validate(other))


def test_words_of_a_file_are_safe_on_a_terminal() -> None:
    """Control characters of its texts become spaces."""
    found = TargetFile.model_validate(target_data(device="NVIDIA \x1b[31mH100"))
    assert found.device == "NVIDIA  [31mH100"


def test_a_row_without_positive_times_has_no_price() -> None:
    """A row that failed, or whose producer took longer, has no price."""
    key = "linear m=1 k=2 n=3 bias=1 bf16"
    assert TimedRow(key=key, reason="refused").price_us is None
    assert TimedRow(key=key, us=(-1.0, -0.5), rested_us=(1.0, 1.0)).price_us is None
    assert TimedRow(key=key, us=(1e-9,), rested_us=(1.0, 1.0)).price_us is None
    assert TimedRow(key=key, us=(4.0, 4.0), rested_us=(9.0, 9.0)).price_us == pytest.approx(6.0)


def test_shipped_targets_load_name_no_machine_and_price() -> None:
    """Every file that comes with the package is strict JSON of at most 400 kB, is called by its
    chip, has no path, address or serial number, and prices a study with its measured shapes.
    """
    files = sorted(FOLDER.glob("*.json"))
    assert [path.stem for path in files] == sorted(shipped_targets())
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert path.stat().st_size <= 400_000
        assert FORBIDDEN.findall(text) == []
        assert TargetFile.model_validate_json(text) == load_target(path)
        spec = resolve_spec("flux1-dev")
        estimate = Pricer.of(spec, shape_run("flux1-dev"), target=path.stem).price("none", {})
        assert estimate.estimate.measured_linears
        assert estimate.estimate.target == path.stem
