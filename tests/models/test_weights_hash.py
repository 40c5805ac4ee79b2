"""Hashes of weights are keys of caches and databases, so they stay the same between versions."""

from pathlib import Path

import pytest

from sensitivity.models import weights_hash
from sensitivity.models.weights_hash import hash_random_weights, hash_weights
from sensitivity.spec.study_spec import ModelSection, StudySpec

GOLDEN = {
    "files": "e6f17e543928a02b",
    "variant": "cc960ca36ddfd59f",
    "hub": "5f18eb7f3ba3488c",
    "random": "7d6285afb8d5f4d3",
}
"""The first digits of each kind of hash."""


def study(**model: object) -> StudySpec:
    """A study of which only the model matters."""
    return StudySpec(name="hashed", model=ModelSection.model_validate(model))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A pipeline's folder with small files."""
    (tmp_path / "vae").mkdir()
    (tmp_path / "model_index.json").write_text("{}")
    (tmp_path / "vae" / "config.json").write_text('{"a": 1}')
    (tmp_path / "vae" / "model.safetensors").write_bytes(bytes(range(256)) * 8)
    (tmp_path / "README.md").write_text("not hashed")
    return tmp_path


def test_hashes_stay_what_they_were(folder: Path) -> None:
    """Of files, of a variant, of a Hub id's commit, and of random weights."""
    assert {
        "files": hash_weights(study(path=folder), folder)[:16],
        "variant": hash_weights(study(path=folder, variant="fp16"), folder)[:16],
        "hub": hash_weights(study(hub="a/b"), Path("snapshots/0123"))[:16],
        "random": hash_random_weights(study(path=folder), 3)[:16],
    } == GOLDEN


def test_large_files_are_sampled(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change inside a sampled chunk, and one of the size, change the hash; one between the chunks
    does not.
    """
    monkeypatch.setattr(weights_hash, "WHOLE_FILE_BYTES", 100)
    monkeypatch.setattr(weights_hash, "SAMPLED_CHUNKS", 3)
    monkeypatch.setattr(weights_hash, "CHUNK_BYTES", 10)
    path = folder / "vae" / "model.safetensors"
    before, data = hash_weights(study(path=folder), folder), path.read_bytes()

    def changed(at: int) -> bool:
        path.write_bytes(data[:at] + b"!" + data[at + 1 :])
        return hash_weights(study(path=folder), folder) != before

    middle = (len(data) - 10) // 2
    assert [changed(at) for at in (5, middle + 5, len(data) - 5)] == [True] * 3
    assert not changed(500)
    path.write_bytes(data + b"!")
    assert hash_weights(study(path=folder), folder) != before
