"""A pipeline is built from its config files alone, and wrong ones are named."""

from pathlib import Path

import pytest
import torch

from sensitivity.errors import PipelineError
from sensitivity.models.skeleton import build_component, build_skeleton
from sensitivity.models.token_counts import counts_of
from sensitivity.spec.study_spec import ModelSection, StudySpec

from support.bare_pipelines import copy_configs, rewrite
from support.toy_pipelines import save_toy


@pytest.fixture
def bare(tiny_study: Path, tmp_path: Path) -> StudySpec:
    """The random FluxPipeline with config files alone: no weights, no tokenizers."""
    return copy_configs(tiny_study, tmp_path / "bare")


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("model_index.json", "{", "could not be loaded"),
        ("model_index.json", "[]", "holds a list"),
        ("model_index.json", '{"_class_name": "os.system"}', "names the class 'os.system'"),
        (
            "model_index.json",
            '{"_class_name": "FluxPipeline", "vae": ["os", "system"]}',
            "names os.system.*remote code is not run",
        ),
        (
            "transformer/config.json",
            '{"num_layers": "many"}',
            r"transformer \(FluxTransformer2DModel\) cannot be built",
        ),
        (
            "transformer/config.json",
            None,
            r"transformer \(FluxTransformer2DModel\) cannot be built",
        ),
    ],
)
def test_a_folder_that_is_no_pipeline_is_refused(
    bare: StudySpec, file: str, text: str | None, message: str
) -> None:
    """Broken, foreign and missing config files are the user's mistake, by name; nothing else is
    imported.
    """
    assert bare.model.path is not None
    path = bare.model.path / file
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(PipelineError, match=message):
        build_skeleton(bare)


def test_a_config_of_another_class_is_refused(bare: StudySpec) -> None:
    """The class that a config was written by is the one that the index names; the name that
    PixArt's once had is excused.
    """
    rewrite(bare, "transformer/config.json", _class_name="SD3Transformer2DModel")
    with pytest.raises(
        PipelineError,
        match=(
            r"names FluxTransformer2DModel for transformer, and .*config.json is of"
            r" 'SD3Transformer2DModel'; expected the same class"
        ),
    ):
        build_skeleton(bare)
    rewrite(bare, "transformer/config.json", _class_name="Transformer2DModel")
    assert type(build_skeleton(bare).transformer).__name__ == "FluxTransformer2DModel"


def test_tokens_of_a_template_are_known(tmp_path: Path) -> None:
    """Pipelines that drop their template's tokens after encoding have a stand-in that adds them."""
    dropped = {
        name: counts_of(build_skeleton(save_toy(name, tmp_path / name))).dropped
        for name in ("qwen", "hunyuan", "sd3", "krea2", "ovis", "kandinsky5")
    }
    assert dropped == {
        "qwen": 34,
        "hunyuan": 95,
        "sd3": 0,
        "krea2": 34,
        "ovis": 28,
        "kandinsky5": 40,
    }


def test_a_component_has_all_of_its_buffers(bare: StudySpec) -> None:
    """Alone, a component's parameters are on meta and its buffers real; names that are no module's
    are refused with those that are.
    """
    module = build_component(bare)
    assert {p.device.type for p in module.parameters()} == {"meta"}
    assert {p.dtype for p in module.parameters()} == {torch.bfloat16}
    assert not any(buffer.is_meta for buffer in module.buffers())
    for name in ("scheduler", "tokenizer", "unet"):
        with pytest.raises(
            PipelineError,
            match=rf"no module '{name}'; expected one of .*transformer.*correct `component`",
        ):
            build_component(bare, name)


def test_a_config_that_asks_for_too_many_modules_is_stopped(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the key is called that multiplies them."""
    monkeypatch.setattr("sensitivity.models.meta_module.MAX_TENSORS", 20)
    spec = StudySpec(name="many", model=ModelSection(path=tiny_folder))
    with pytest.raises(PipelineError, match=r"config\.json asks for more than 20 tensors"):
        build_component(spec)
