"""A model's files are data: no pickle is opened and no Python of a model is imported, in whichever
component it lies and whichever class would load it.
"""

import io
import pickle
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from sensitivity import cli
from sensitivity.errors import PipelineError
from sensitivity.models.loading import load_pipeline
from sensitivity.models.only_data import only_data
from sensitivity.shapes.run import run_shapes
from sensitivity.spec.overrides import with_random_weights
from sensitivity.spec.study_spec import StudySpec

from support.hostile_folders import name_component, opened_files, plant
from support.loaded import at
from support.paths import ROOT

SLOTS = {
    "scheduler": ("diffusers", "FlowMatchEulerDiscreteScheduler"),
    "text_encoder": ("transformers", "CLIPTextModel"),
    "text_encoder_2": ("transformers", "T5EncoderModel"),
    "tokenizer": ("transformers", "CLIPTokenizer"),
    "tokenizer_2": ("transformers", "T5Tokenizer"),
    "transformer": ("diffusers", "FluxTransformer2DModel"),
    "vae": ("diffusers", "AutoencoderKL"),
    "image_encoder": ("transformers", "CLIPVisionModelWithProjection"),
    "feature_extractor": ("transformers", "CLIPImageProcessor"),
}
"""{component of FluxPipeline: its own class}."""
OTHERS = (
    ("transformers", "AutoModel"),
    ("transformers", "pipeline"),
    ("diffusers", "DiffusionPipeline"),
    ("diffusers", "FluxPipeline"),
    ("transformers", "Trainer"),
    ("stable_diffusion", "StableDiffusionPipeline"),
)
"""Classes that load what their folder holds in ways of their own."""


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """The file that is there once hostile code has run."""
    return tmp_path / "ran"


@pytest.fixture
def hostile(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny pipeline."""
    return shutil.copytree(tiny_folder, tmp_path / "hostile")


def stores(spec: StudySpec, folder: Path) -> list[Callable[[], object]]:
    """What reads a folder: its shapes, its weights, and its configs with random weights."""
    there = at(spec, folder)
    return [
        lambda: run_shapes(there),
        lambda: load_pipeline(there, device="cpu"),
        lambda: load_pipeline(with_random_weights(there), device="cpu"),
    ]


@pytest.mark.parametrize(
    "opened",
    [
        lambda data: torch.load(io.BytesIO(data), weights_only=True),
        lambda data: torch.load(io.BytesIO(data), weights_only=False),
        lambda data: torch.serialization.load(io.BytesIO(data), weights_only=True),
        lambda data: pickle.loads(data),
        lambda data: pickle.Unpickler(io.BytesIO(data)).load(),
        lambda data: pickle.load(io.BytesIO(data)),
        lambda _data: torch.jit.load("a.pt"),
    ],
    ids=["torch, weights only", "torch", "serialization", "loads", "Unpickler", "load", "jit"],
)
def test_a_pickle_is_refused_whoever_opens_it(opened: Callable[[bytes], object]) -> None:
    """Inside of the context, also a nested one, every way to open a pickle raises."""
    with only_data():
        with only_data():
            pass
        with pytest.raises(PipelineError, match=r"found the pickle.*expected safetensors alone"):
            opened(pickle.dumps([1]))


def test_arrays_of_objects_are_refused() -> None:
    """numpy opens them with pickle."""
    data = io.BytesIO()
    np.save(data, np.array([{}], dtype=object), allow_pickle=True)
    data.seek(0)
    with only_data(), pytest.raises(PipelineError, match="found the pickle"):
        np.load(data, allow_pickle=True)


def test_everything_is_as_before_afterwards() -> None:
    """The functions are the same objects again, also after an error."""
    before = (torch.load, pickle.loads, pickle.load, torch.jit.load)
    with pytest.raises(ZeroDivisionError), only_data():
        raise ZeroDivisionError
    assert (torch.load, pickle.loads, pickle.load, torch.jit.load) == before
    assert pickle.loads(pickle.dumps({"a": 1})) == {"a": 1}


def test_pickles_and_python_beside_components_are_never_opened(
    spec: StudySpec, hostile: Path, mark: Path
) -> None:
    """Whole components with pickles beside their weights, and Python that their configs name."""
    for slot, (library, class_name) in SLOTS.items():
        if (hostile / slot).is_dir():
            name_component(hostile, slot, library, class_name)
            plant(hostile / slot, library=library, mark=mark)
    plant(hostile, library="diffusers", mark=mark)
    with opened_files(hostile) as opened:
        for use in stores(spec, hostile):
            use()
    assert not mark.exists()
    assert not opened


@pytest.mark.parametrize("slot", SLOTS)
def test_pickles_in_place_of_weights_are_never_opened(
    slot: str, spec: StudySpec, hostile: Path, mark: Path
) -> None:
    """In each component's own folder, nothing but pickles and Python."""
    name_component(hostile, slot, *SLOTS[slot])
    shutil.rmtree(hostile / slot, ignore_errors=True)
    plant(hostile / slot, library=SLOTS[slot][0], mark=mark)
    with opened_files(hostile) as opened, suppress(PipelineError):
        load_pipeline(at(spec, hostile), device="cpu")
    assert not mark.exists()
    assert not opened


@pytest.mark.parametrize(("library", "class_name"), OTHERS)
@pytest.mark.parametrize("slot", ["scheduler", "image_encoder"])
def test_classes_that_are_no_components_are_refused(
    slot: str, library: str, class_name: str, spec: StudySpec, hostile: Path, mark: Path
) -> None:
    """Whatever may load anything is refused by name before it does."""
    name_component(hostile, slot, library, class_name)
    plant(hostile / slot, library=library, mark=mark)
    with opened_files(hostile) as opened:
        for use in stores(spec, hostile):
            with pytest.raises(PipelineError, match=rf"names {library}\.{class_name}.*expected a"):
                use()
    assert not mark.exists()
    assert not opened


@pytest.mark.parametrize(
    "command",
    [
        ["profile"],
        ["latency"],
        ["audit", "skip.txt", "--as", "fqn"],
        ["calibrate"],
        ["search", "--budget", "1"],
        ["search", "--budget", "1", "--weights", "random"],
        ["verify", str(ROOT / "recipes" / "flux1-dev-nvfp4-b200-unverified.json")],
    ],
    ids=lambda command: " ".join(command)[:20],
)
def test_commands_open_no_pickle(
    command: list[str],
    tiny_study: Path,
    hostile: Path,
    mark: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each command ends with the class's name and exit code 2."""
    name_component(hostile, "image_encoder", "transformers", "AutoModel")
    plant(hostile / "image_encoder", library="transformers", mark=mark)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "400")
    (tmp_path / "skip.txt").write_text("proj_out\n")
    study = tiny_study.read_text().replace(str(tiny_study.parent / "pipeline"), str(hostile))
    (tmp_path / "study.toml").write_text(study)
    monkeypatch.setattr(sys, "argv", ["sensitivity", *command, "--model", "study.toml"])
    with opened_files(hostile) as opened, pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "names transformers.AutoModel as a component" in capsys.readouterr().err
    assert not mark.exists()
    assert not opened
