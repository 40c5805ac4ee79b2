"""Config files come from the study's folder, or from the Hub."""

import os
from pathlib import Path

import pytest

from sensitivity.errors import PipelineError
from sensitivity.models import config_files
from sensitivity.models.config_files import check_component_files, config_folder, read_config
from sensitivity.spec.loading import resolve_spec
from sensitivity.spec.study_spec import ModelSection, StudySpec


def test_configs_that_ship_come_before_the_hub(tmp_path: Path) -> None:
    """`model.config` is used where it is set; it must hold a pipeline's index."""
    spec = resolve_spec("flux1-dev")
    assert spec.model.hub is not None
    assert config_folder(spec) == spec.model.config
    with pytest.raises(PipelineError, match=r"has no model_index.json; expected a diffusers"):
        config_folder(StudySpec(name="empty", model=ModelSection(path=tmp_path)))


def test_a_hub_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message has the model's id, and says that the Hub does not answer."""
    monkeypatch.setattr(config_files, "hub_answers", lambda: False)
    with pytest.raises(
        PipelineError,
        match=(
            r"config files of nobody/nothing could not be loaded from .* \(the Hub does not answer"
        ),
    ):
        config_folder(resolve_spec("nobody/nothing"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"could not be loaded \(.*line 1.*\); expected the JSON"),
        ("[1]", "holds a list; expected the JSON object"),
        (None, r"could not be loaded \(.*No such file"),
    ],
)
def test_a_config_that_is_no_object_is_refused(
    text: str | None, message: str, tmp_path: Path
) -> None:
    """Malformed, of another kind, or missing: the message has the file and the next step."""
    path = tmp_path / "config.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(PipelineError, match=rf"config\.json {message}.*write it again"):
        read_config(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"num_layers": -3}', "num_layers is -3, and a number of them is 0 or more"),
        ('{"text": {"num_hidden_layers": true}}', "num_hidden_layers is True"),
        ('{"layers_per_block": [1, -2]}', "layers_per_block is -2"),
        ('{"num_layers": 200000}', "num_layers is 200000, and no model has more than 512"),
        ('{"text": {"num_hidden_layers": 1000000000000}}', "num_hidden_layers is 1e\\+12"),
        ('{"layers_per_block": [2, 2, 100000]}', "layers_per_block is 100000"),
        ('{"num_experts": 100000}', "num_experts is 100000"),
        ('{"num_train_timesteps": 100000000000}', "num_train_timesteps is 1e\\+11"),
        ('{"_attn_implementation": "org/kernel"}', "'org/kernel', code that is never run"),
        ('{"transformers_weights": "x.bin"}', "weights have their usual names alone"),
        ('{"a":' * 70 + "1" + "}" * 70, "nesting deeper than 64 levels"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "nesting deeper than 64 levels"),
    ],
)
def test_a_config_of_no_model_is_refused(text: str, message: str, tmp_path: Path) -> None:
    """What it counts would take for ever to build, or it is nested without end."""
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(PipelineError, match=message):
        read_config(tmp_path / "config.json")
    with pytest.raises(PipelineError, match=message):
        check_component_files(tmp_path)


def test_configs_as_transformers_writes_them_are_read(tmp_path: Path) -> None:
    """Infinity, integers of thirty digits, the byte-order mark of some editors."""
    path = tmp_path / "tokenizer_config.json"
    limit = int(1e30)
    text = f'{{"model_max_length": {limit}, "time_step_limit": [0.0, Infinity], "depth": 24}}'
    path.write_text(text, encoding="utf-8-sig")
    assert read_config(path)["model_max_length"] == limit


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "notes.txt"])
def test_a_pipe_in_a_component_is_refused(name: str, tmp_path: Path) -> None:
    """A library that opened it would wait for ever; so would one that reads a device."""
    os.mkfifo(tmp_path / name)
    with pytest.raises(PipelineError, match=f"{name} is a pipe or device; .*remove it"):
        check_component_files(tmp_path)
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to("/dev/zero")
    with pytest.raises(PipelineError, match=f"{name} is a pipe or device"):
        check_component_files(tmp_path)
    with pytest.raises(PipelineError, match="pipe or device"):
        read_config(tmp_path / name)


def test_a_folder_says_what_it_is(tmp_path: Path) -> None:
    """A repository that holds something else than a pipeline is told by its files."""
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(PipelineError, match=r"has no model_index.json; .*not a folder of LoRA"):
        config_folder(StudySpec(name="lora", model=ModelSection(path=tmp_path)))
