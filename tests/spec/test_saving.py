"""A study that is written as a TOML comes back as the same study, and replaces no other file."""

import tomllib
from pathlib import Path

import pytest

from sensitivity.errors import OutputError
from sensitivity.spec.loading import load_spec, resolve_spec
from sensitivity.spec.saving import save_study, study_toml
from sensitivity.spec.shipped import list_studies


@pytest.mark.parametrize("path", list(list_studies().values()), ids=list(list_studies()))
def test_every_study_that_ships_comes_back_from_its_toml(path: Path, tmp_path: Path) -> None:
    """Published lists, reasons, prompts from files and relative paths survive, from another folder
    too.
    """
    spec = load_spec(path)
    copy = tmp_path / "deep" / "copy.toml"
    copy.parent.mkdir()
    save_study(spec, copy)
    assert load_spec(copy) == spec


def test_odd_texts_come_back_from_a_toml(tmp_path: Path) -> None:
    """Quotes, backslashes, line ends, other scripts and the kinds of numbers are kept; a heading is
    only a comment.
    """
    odd = 'a "quoted" \\ path\nand a line, 猫, \u007f'
    spec = resolve_spec("tiny-flux").model_copy(
        update={"settings": {"a": 1, "b": 1.0, "c": 1e-30, "d": True, "e": odd}, "title": odd}
    )
    path = tmp_path / "x.toml"
    path.write_text(study_toml(spec, ["first\nsecond \x1b[0m", 'name = "other"']), encoding="utf-8")
    found = load_spec(path)
    assert found == spec
    assert [type(value) for value in found.settings.values()] == [int, float, float, bool, str]


def test_lists_and_nulls_come_back_from_a_toml(tmp_path: Path) -> None:
    """TOML has no null: arguments that are None are listed under `null`."""
    settings = {"guidance_schedule": None, "sigmas": [1.0, 0.5], "sizes": [[1, 2], [3, 4]]}
    spec = resolve_spec("tiny-flux").model_copy(update={"settings": settings})
    path = tmp_path / "x.toml"
    path.write_text(study_toml(spec), encoding="utf-8")
    assert "guidance_schedule" in tomllib.loads(path.read_text())["settings"]["null"]
    assert load_spec(path) == spec


@pytest.mark.parametrize("name", ["x.toml", "new/../x.toml"])
def test_a_study_never_replaces_another_file(tmp_path: Path, name: str) -> None:
    """The same text may be written again; a file with another content stays as it is."""
    spec, path = resolve_spec("tiny-flux"), tmp_path / "x.toml"
    save_study(spec, path)
    save_study(spec, path)
    path = tmp_path / name
    before = (tmp_path / "x.toml").read_bytes()
    with pytest.raises(OutputError, match="is a file with another content; expected a new file"):
        save_study(spec.model_copy(update={"title": "other"}), path)
    assert (tmp_path / "x.toml").read_bytes() == before


def test_a_path_that_is_no_text_is_refused(tmp_path: Path) -> None:
    """A folder's name need not be UTF-8, a TOML must be."""
    spec = resolve_spec("tiny-flux")
    model = spec.model.model_copy(update={"path": Path("m\udcff")})
    with pytest.raises(OutputError, match=r"one that is not UTF-8.*: rename it"):
        save_study(spec.model_copy(update={"model": model}), tmp_path / "x.toml")


def test_a_device_toml_is_named_from_above_only(tmp_path: Path) -> None:
    """A study that would be refused when it is read is not written."""
    (tmp_path / "gpus").mkdir()
    device = str(tmp_path / "gpus" / "g.toml")
    spec = resolve_spec("tiny-flux")
    spec = spec.model_copy(update={"pricing": spec.pricing.model_copy(update={"target": device})})
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(OutputError, match="which is not below its folder"):
        save_study(spec, tmp_path / "elsewhere" / "x.toml")
    save_study(spec, tmp_path / "x.toml")
    assert load_spec(tmp_path / "x.toml") == spec
