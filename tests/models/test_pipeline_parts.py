"""Parts without weights are loaded by their own classes, and pipelines by their constructors."""

import json
import shutil
from pathlib import Path

import pytest
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline

from sensitivity.errors import MissingPackageError, PipelineError
from sensitivity.models.model_index import ModelIndex
from sensitivity.models.pipeline_parts import load_data_part, make_pipeline

from support.hostile_folders import name_component


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny pipeline."""
    return shutil.copytree(tiny_folder, tmp_path / "copy")


def test_a_pipeline_is_what_diffusers_would_load(tiny_folder: Path) -> None:
    """The same components, configs and arguments as `from_pretrained` gives it."""
    index = ModelIndex.read(tiny_folder)
    plain = FluxPipeline.from_pretrained(tiny_folder)
    modules = {name: getattr(plain, name) for name in index.modules}
    data = [name for name in index.components if name not in modules]
    made = make_pipeline(index, modules | {name: load_data_part(index, name) for name in data})
    assert type(made) is FluxPipeline
    assert dict(made.scheduler.config) == dict(plain.scheduler.config)
    assert made.tokenizer("a ring").input_ids == plain.tokenizer("a ring").input_ids
    hidden = lambda pipe: {k: x for k, x in pipe.config.items() if not k.startswith("_")}  # noqa: E731
    assert hidden(made) == hidden(plain)


def test_a_module_is_no_data(tiny_folder: Path) -> None:
    """What has weights is not loaded beside schedulers and tokenizers."""
    with pytest.raises(PipelineError, match="AutoencoderKL for vae, which has weights; expected"):
        load_data_part(ModelIndex.read(tiny_folder), "vae")


def test_a_part_that_chooses_its_class_stays_of_its_kind(folder: Path) -> None:
    """`AutoTokenizer` loads the tokenizer that the folder holds."""
    name_component(folder, "tokenizer", "transformers", "AutoTokenizer")
    part = load_data_part(ModelIndex.read(folder), "tokenizer")
    assert type(part).__name__.startswith("CLIPTokenizer")


def test_files_that_a_class_refuses_are_named(folder: Path) -> None:
    """The message has the folder, the class and its reason."""
    name_component(folder, "tokenizer", "transformers", "T5Tokenizer")
    for path in (folder / "tokenizer").iterdir():
        path.write_text("{")
    with pytest.raises(PipelineError, match=r"tokenizer.* could not be loaded .*write it again"):
        load_data_part(ModelIndex.read(folder), "tokenizer")


def test_a_pipeline_without_a_component_is_refused(tiny_folder: Path) -> None:
    """Unless absent components are wanted as None."""
    index = ModelIndex.read(tiny_folder)
    with pytest.raises(PipelineError, match=r"is no complete FluxPipeline \(TypeError"):
        make_pipeline(index, {})
    assert make_pipeline(index, {}, complete=False).vae is None


def test_arguments_of_the_constructor_are_passed(tmp_path: Path) -> None:
    """What the index has besides components goes to the pipeline; what it does not take does
    not.
    """
    data = {"_class_name": "WanPipeline", "boundary_ratio": 0.9, "unknown": 1}
    (tmp_path / "model_index.json").write_text(json.dumps(data))
    parts = {"scheduler": FlowMatchEulerDiscreteScheduler()}
    pipe = make_pipeline(ModelIndex.read(tmp_path), parts, complete=False)
    assert pipe.config.boundary_ratio == 0.9
    assert "unknown" not in pipe.config


def test_a_constructor_that_lacks_a_package_names_it(tiny_folder: Path) -> None:
    """Cosmos makes its guard in the constructor; no config file is blamed."""

    class Guarded(FluxPipeline):
        def __init__(self, **_parts: object) -> None:
            raise ImportError("Please install it: `pip install cosmos_guardrail`.")

    index = ModelIndex.read(tiny_folder)
    with pytest.raises(MissingPackageError, match="needs the package cosmos_guardrail"):
        make_pipeline(index, {}, cls=Guarded, complete=False)
