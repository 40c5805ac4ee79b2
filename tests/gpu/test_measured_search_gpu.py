"""On a CUDA device: a search is decided by the GPU at hand. Shapes are measured once, pictures are
drawn by its kernels, and the winner is run end to end.

python -m pytest tests/gpu/test_measured_search_gpu.py -m gpu -s
"""

import json
import shutil
from pathlib import Path

import pytest
import torch

from sensitivity.core.format_name import FormatName
from sensitivity.formats.registry import get_format
from sensitivity.latency.devices import find_device
from sensitivity.latency.shape_times import ShapeTimes
from sensitivity.latency.timing.host_timing import is_host_row
from sensitivity.spec.loading import resolve_spec
from sensitivity.spec.overrides import with_net, with_random_weights
from sensitivity.spec.shipped import studies_folder
from sensitivity.spec.study_spec import ModelSection, StudySpec
from sensitivity.workflows.find import find_recipe
from sensitivity.workflows.progress import Measuring
from sensitivity.workflows.requests import SearchRequest

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
SMALLER = {
    "transformer": {"num_layers": 2, "num_single_layers": 2, "num_attention_heads": 8},
    "text_encoder_2": {"num_layers": 2},
}
SETTINGS = {"height": 256, "width": 256, "num_inference_steps": 2}


@pytest.fixture
def spec(tmp_path: Path) -> StudySpec:
    """FLUX.1-dev with a third of its width, two blocks of each kind, and random weights."""
    folder = tmp_path / "pipeline"
    shutil.copytree(studies_folder() / "flux1-dev", folder)
    for part, changes in SMALLER.items():
        path = folder / part / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    whole = resolve_spec("flux1-dev")
    few = whole.prompts.model_copy(
        update={"search": whole.prompts.search[:4], "held_out": whole.prompts.held_out[:4]}
    )
    target = find_device(torch.cuda.get_device_name())
    if target is None:
        pytest.skip("this GPU is none that the package knows")
    small = whole.model_copy(
        update={
            "name": "small-flux",
            "model": ModelSection(path=folder),
            "settings": whole.settings | SETTINGS,
            "prompts": few,
            "pricing": whole.pricing.model_copy(update={"target": target.name}),
        }
    )
    return with_net(with_random_weights(small), "tiny")


def test_a_search_is_decided_by_this_gpu(
    spec: StudySpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prices are measured shapes, the scores are native, and the recipe has whole runs of the
    winner and of bf16; a second search measures no shape again.
    """
    reason = get_format(FormatName.FP8).native_refusal(torch.device("cuda"))
    if reason is not None:
        pytest.skip(reason)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    tables: list[ShapeTimes] = []
    notes: list[str] = []

    def search(database: str) -> object:
        request = SearchRequest(
            formats=(FormatName.FP8,),
            budget=3,
            device="cuda",
            storage=tmp_path / database,
            cache_folder=tmp_path / "references",
        )
        follow = Measuring(noted=notes.append, measured=tables.append)
        return find_recipe(spec, request, measuring=follow).recipe

    recipe = search("one.db")
    data = recipe.model_dump(mode="json")  # type: ignore[attr-defined]
    latency, timings = data["latency"], {row["name"]: row for row in data["timings"]}
    print(json.dumps(latency, indent=1), notes, sep="\n")
    assert latency["source"] == "measured"
    assert latency["runtime"]
    assert latency["shapes"]["source"] == "measured"
    assert data["fidelity"]["kernels"] == "native"
    assert len(timings["none"]["seconds"]) >= 3
    assert all(row["seconds"] or row["failure"] for row in timings.values())
    assert not tables[0].reused
    search("two.db")
    timed = {key for key in tables[0].rows if not is_host_row(key)} - set(tables[0].failed)
    assert timed <= tables[-1].reused
