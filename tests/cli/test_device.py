"""`sensitivity device`: the GPUs that can be priced, and measuring the one at hand."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sensitivity.cli.app import app
from sensitivity.core import devices
from sensitivity.errors import OutputError, UserError
from sensitivity.latency.devices import DEVICES
from sensitivity.latency.targets.target_file import load_target
from sensitivity.workflows import device_measure, target_writing

from support.targets import make_target


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["device", *arguments])


def test_the_gpus_that_can_be_priced_are_listed() -> None:
    """Each has its numbers, and whether its constants were fitted on it; JSON has them all."""
    found = json.loads(invoke("--json", "-").stdout)["targets"]
    assert [target["name"] for target in found] == list(DEVICES)
    b200 = found[0]
    assert b200["peaks_flops_per_s"]["nvfp4"] == 9e15
    assert b200["has_own_fit"]
    assert not next(target for target in found if target["name"] == "gb200")["has_own_fit"]
    assert next(target for target in found if target["name"] == "h100")["measured_shapes"] > 50
    assert "fitted on it" in invoke().output


def test_options_of_measuring_are_refused_without_it() -> None:
    """What would be ignored is refused."""
    done = invoke("--quick")
    assert isinstance(done.exception, UserError)
    assert "--quick: found without `measure`" in str(done.exception)
    done = invoke("measure")
    assert isinstance(done.exception, UserError)
    assert "torch sees 0 CUDA devices" in str(done.exception)


def test_a_measurement_is_written_and_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is saved on the way and at the end, replaces only files of this program, and is what
    `--target` takes.
    """
    target = make_target("h100", complete=True)

    def measure(request: Any, *, earlier: Any, save: Any, progress: Any, say: Any) -> Any:
        assert earlier is None or earlier.to_json() == target.to_json()
        assert request.quick
        assert request.device == "cuda:0"
        say("measuring limits")
        progress(1.0, 180.0, "gemm m=1")
        save(target)
        return target

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(devices, "check_device", lambda *_, **__: None)
    monkeypatch.setattr(device_measure, "measure_device", measure)
    monkeypatch.setattr(target_writing, "target_name", lambda _device, name: name or "h100")
    done = invoke("measure", "--quick", "--device", "cuda:0")
    assert done.exit_code == 0, done.output
    path = tmp_path / "h100-target.json"
    assert load_target(path).to_json() == target.to_json()
    assert "wrote h100-target.json" in done.output
    again = invoke("measure", "--quick", "--device", "cuda:0", "--json", "-")
    assert json.loads(again.stdout) == target.to_json()
    priced = CliRunner().invoke(
        app, ["latency", "--model", "tiny-flux", "--target", str(path), "-f", "fp8", "--json", "-"]
    )
    latency = json.loads(priced.stdout)
    assert latency["target"] == "my-h100"
    assert latency["source"] == "predicted"
    assert latency["measured_linears"] >= 0
    path.write_text("mine", encoding="utf-8")
    refused = invoke("measure", "--quick", "--device", "cuda:0")
    assert isinstance(refused.exception, OutputError)
    assert path.read_text(encoding="utf-8") == "mine"
