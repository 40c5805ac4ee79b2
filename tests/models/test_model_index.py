"""`model_index.json` is read once, by one record, and says which components have weights."""

import json
from pathlib import Path
from typing import Any

import diffusers
import pytest
from torch import nn

from sensitivity.errors import PipelineError
from sensitivity.models.model_index import ModelIndex
from sensitivity.spec.loading import load_spec
from sensitivity.spec.shipped import list_studies

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ENTRIES: dict[str, Any] = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.42.0",
    "unet": ["diffusers", "UNet2DConditionModel"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "feature_extractor": ["transformers", "CLIPImageProcessor"],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
    "image_encoder": [None, None],
    "requires_safety_checker": True,
    "boundary_ratio": 0.9,
}


def save(folder: Path, data: Any) -> Path:
    """A folder with this index alone."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model_index.json").write_text(json.dumps(data))
    return folder


def test_each_entry_has_one_meaning(tmp_path: Path) -> None:
    """Components with weights, those that prepare inputs, a scheduler, what the pipeline goes
    without, and arguments of its constructor; the safety checker is left out.
    """
    index = ModelIndex.read(save(tmp_path, ENTRIES))
    assert index.pipeline == "StableDiffusionPipeline"
    assert index.modules == {"unet": "UNet2DConditionModel", "text_encoder": "CLIPTextModel"}
    assert index.text_components == ("tokenizer", "feature_extractor")
    assert index.absent == ("safety_checker", "image_encoder")
    assert index.arguments == {"requires_safety_checker": True, "boundary_ratio": 0.9}
    assert list(index.components) == [*index.modules, *index.text_components, "scheduler"]
    assert index.is_module("unet")
    assert not any(map(index.is_module, ("tokenizer", "scheduler", "safety_checker", "vae")))


def test_classes_are_those_of_the_installed_libraries(tmp_path: Path) -> None:
    """The pipeline's, the components', and those among them that are modules; the call's arguments
    with their defaults.
    """
    index = ModelIndex.read(save(tmp_path, ENTRIES))
    assert index.pipeline_class() is diffusers.StableDiffusionPipeline
    assert index.components["scheduler"].load_class() is diffusers.DDIMScheduler
    assert index.components["scheduler"].module_class() is None
    assert index.module_classes()["unet"] is diffusers.UNet2DConditionModel
    name, call = index.pipeline_call()
    assert (name, call["guidance_scale"]) == ("StableDiffusionPipeline", 7.5)
    assert "self" not in call


@pytest.mark.parametrize("study", list_studies())
def test_names_tell_which_components_of_a_study_are_modules(study: str) -> None:
    """What a class's name says of a component is what the class is."""
    index = ModelIndex.of(load_spec(list_studies()[study]))
    found = index.module_classes()
    assert {name: cls.__name__ for name, cls in found.items()} == index.modules
    assert all(issubclass(cls, nn.Module) for cls in found.values())


def test_a_snapshot_has_its_commit(tmp_path: Path) -> None:
    """A folder in the Hub's cache is named after its commit; any other folder has none."""
    for folder, commit in (
        (tmp_path / "snapshots" / COMMIT, COMMIT),
        (tmp_path / "snapshots" / "main", None),
        (tmp_path / COMMIT, None),
    ):
        assert ModelIndex.read(save(folder, ENTRIES)).commit == commit


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_class_name": 7}, r"malformed: pipeline is 7 .* expected the class's name"),
        (
            {"unet": [None, "UNet2DConditionModel"]},
            r"components\.unet\.library is None .*expected .* \[library, class\] or \[null, null\]",
        ),
    ],
)
def test_a_malformed_index_is_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    """The message has the entry, its value, what was expected, and the next step."""
    with pytest.raises(PipelineError, match=message):
        ModelIndex.read(save(tmp_path, ENTRIES | changes))


@pytest.mark.parametrize(
    ("entry", "named"),
    [
        (["my_code", "MyModel"], r"my_code\.MyModel"),
        (["diffusers", "NoSuchModel"], r"diffusers\.NoSuchModel"),
        (["os.path", "join"], r"os\.path\.join"),
    ],
)
def test_foreign_code_is_not_run(entry: list[str], named: str, tmp_path: Path) -> None:
    """Classes that diffusers and transformers do not have are refused by name."""
    index = ModelIndex.read(save(tmp_path, ENTRIES | {"unet": entry}))
    with pytest.raises(PipelineError, match=rf"{named}; expected a class .*remote code is not run"):
        index.components["unet"].load_class()


def test_a_class_of_a_deprecated_pipeline_is_found(tmp_path: Path) -> None:
    """Stable Cascade's folders name `wuerstchen`, which diffusers has moved."""
    entry = ["wuerstchen", "PaellaVQModel"]
    index = ModelIndex.read(save(tmp_path, ENTRIES | {"vae": entry}))
    assert index.components["vae"].module_class().__name__ == "PaellaVQModel"


def test_a_pipeline_that_is_not_installed_is_refused(tmp_path: Path) -> None:
    """A class of diffusers that is no pipeline is not one either."""
    for name in ("NoSuchPipeline", "UNet2DConditionModel", ""):
        index = ModelIndex.read(save(tmp_path, ENTRIES | {"_class_name": name}))
        with pytest.raises(PipelineError, match=rf"names the class '{name}'; expected a pipeline"):
            index.pipeline_class()
