"""Config files come from the study's folder, or from the Hub."""

from pathlib import Path

import pytest

from sensitivity.errors import PipelineError
from sensitivity.models import config_files
from sensitivity.models.config_files import config_folder, read_config
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
