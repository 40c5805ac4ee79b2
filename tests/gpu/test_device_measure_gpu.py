"""On a CUDA device: `device measure` writes a target that prices models elsewhere.

python -m pytest tests/gpu/test_device_measure_gpu.py -m gpu -s
"""

import json
from pathlib import Path

import pytest
import torch

from sensitivity.core.format_name import FormatName
from sensitivity.latency import PredictedLatency
from sensitivity.latency.devices import find_device, get_device
from sensitivity.latency.targets.target_file import TargetFile
from sensitivity.shapes.run import run_shapes
from sensitivity.spec.loading import resolve_spec
from sensitivity.workflows.device_measure import DeviceRequest, measure_device

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def test_a_short_measurement_is_a_target(tmp_path: Path) -> None:
    """Two minutes give rows, launch costs and no name or path of this machine; the file prices
    tiny-flux by rows of this GPU.
    """
    if find_device(torch.cuda.get_device_name()) is None:
        pytest.skip("this GPU is none that the package knows")
    saved: list[TargetFile] = []
    found = measure_device(DeviceRequest(device="cuda", quick=True, minutes=2.0), save=saved.append)
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(found.to_json()), encoding="utf-8")
    print(f"{len(found.rows)} rows, {len(found.quantizers)} quantizers, host {found.host}")
    assert saved
    assert found.rows
    assert found.host
    text = path.read_text(encoding="utf-8")
    assert str(Path.home()) not in text
    assert str(Path.cwd()) not in text
    model = PredictedLatency(get_device(str(path)))
    estimate = model.estimate(run_shapes(resolve_spec("flux1-dev")).table, {})
    assert estimate.source == "predicted"
    assert estimate.bf16_s > 0
    assert model.supports(FormatName.BF16)
