"""What of a model is on this machine: nothing, its configs, some of its weights, or all of them."""

import json
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import save_file

from sensitivity.models.local_copies import Copies, local_copies
from sensitivity.spec.loading import load_spec
from sensitivity.spec.shipped import list_studies
from sensitivity.spec.study_spec import ModelSection, StudySpec

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the Hub, in place of the user's."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def fill(cache_folder: Path, *weights: str) -> None:
    """What a download of a/b leaves: the index, and some weights."""
    repo = cache_folder / "models--a--b"
    snapshot = repo / "snapshots" / COMMIT
    snapshot.mkdir(parents=True, exist_ok=True)
    (repo / "refs").mkdir(exist_ok=True)
    (repo / "refs" / "main").write_text(COMMIT)
    index = {
        "_class_name": "P",
        "transformer": ["diffusers", "T"],
        "vae": ["diffusers", "V"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "other": [None, None],
    }
    (snapshot / "model_index.json").write_text(json.dumps(index))
    for part in weights:
        (snapshot / part).mkdir(exist_ok=True)
        save_file({"w": torch.zeros(2)}, snapshot / part / "diffusion_pytorch_model.safetensors")


def test_copies_on_this_machine_are_told_apart(hub_cache: Path) -> None:
    """Nothing, configs alone, some weights, all of them; a revision that is not here counts as
    nothing.
    """
    bare = StudySpec(name="x", model=ModelSection(hub="a/b"))
    pinned = StudySpec(name="x", model=ModelSection(hub="a/b", revision=COMMIT))
    assert local_copies(bare) == Copies.NONE
    assert local_copies(load_spec(list_studies()["flux1-dev"])) == Copies.CONFIGS  # they ship
    fill(hub_cache)
    assert (local_copies(bare), local_copies(pinned)) == (Copies.CONFIGS, Copies.CONFIGS)
    fill(hub_cache, "transformer")
    assert local_copies(bare) == Copies.PARTLY
    fill(hub_cache, "transformer", "vae")
    assert (local_copies(bare), local_copies(pinned)) == (Copies.WEIGHTS, Copies.WEIGHTS)
    assert (
        local_copies(StudySpec(name="x", model=ModelSection(hub="a/b", revision="f" * 40)))
        == Copies.NONE
    )


def test_folders_are_no_cache(hub_cache: Path) -> None:
    """What ships and what lies in a folder of the user's need no cache."""
    assert local_copies(load_spec(list_studies()["tiny-flux"])) == Copies.SHIPPED
    assert local_copies(StudySpec(name="x", model=ModelSection(path=hub_cache))) == Copies.FOLDER
