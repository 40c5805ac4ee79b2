"""`model` means one thing: a study that comes with the package, a TOML, a folder or a Hub id."""

import tomllib
from pathlib import Path

import pytest

from sensitivity.errors import PipelineError, SpecError, UnknownModelError
from sensitivity.spec.loading import load_spec, resolve_spec
from sensitivity.spec.shipped import list_studies


@pytest.mark.parametrize("content", [b"name = ", b"\xff\xfe", b"a = 1\na = 2"])
def test_a_file_that_is_no_toml_is_refused(tmp_path: Path, content: bytes) -> None:
    """Broken syntax, other encodings and repeated keys are the user's mistake, with the file's
    name.
    """
    path = tmp_path / "broken.toml"
    path.write_bytes(content)
    with pytest.raises(SpecError, match=r"broken\.toml is no TOML"):
        resolve_spec(str(path))


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """A missing file and a folder named like a TOML say what the system says."""
    with pytest.raises(SpecError, match="No such file"):
        resolve_spec(str(tmp_path / "absent.toml"))
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(SpecError, match="found a folder; expected a regular file"):
        resolve_spec(str(tmp_path / "folder.toml"))
    with pytest.raises(SpecError, match="found a pipe or device"):
        load_spec(Path("/dev/zero"))


def test_a_name_means_the_study_that_ships() -> None:
    """The name tiny-flux is studies/tiny-flux.toml."""
    spec = resolve_spec("tiny-flux")
    assert spec == load_spec(list_studies()["tiny-flux"])
    declared = tomllib.loads(list_studies()["tiny-flux"].read_text(encoding="utf-8"))
    assert (spec.name, list(spec.prompts.search)) == (
        declared["name"],
        declared["prompts"]["search"],
    )


def test_a_study_name_comes_before_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that happens to be called like a study does not shadow it."""
    (tmp_path / "tiny-flux").mkdir()
    (tmp_path / "tiny-flux" / "model_index.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert resolve_spec("tiny-flux") == load_spec(list_studies()["tiny-flux"])
    assert resolve_spec("./tiny-flux").model.path == tmp_path / "tiny-flux"


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("flux", "flux"),
        ("my flux (v2)", "my-flux--v2-"),
        ("modèle", "mod-le"),
        ("日本", "model"),
        (".hidden", "hidden"),
    ],
)
def test_a_folder_gives_a_study_of_its_name(tmp_path: Path, folder: str, name: str) -> None:
    """A diffusers folder needs no TOML, whatever characters its name has; prompts and net have
    defaults.
    """
    path = tmp_path / folder
    path.mkdir()
    (path / "model_index.json").write_text("{}")
    spec = resolve_spec(str(path))
    assert (spec.name, spec.model.path, spec.model.hub) == (name, path, None)
    assert spec.prompts.search
    assert not set(spec.prompts.search) & set(spec.prompts.held_out)


def test_a_folder_that_is_no_pipeline_is_refused(tmp_path: Path) -> None:
    """The message says which file is missing and what writes it."""
    with pytest.raises(PipelineError, match=r"without model_index\.json.*save_pretrained"):
        resolve_spec(str(tmp_path))


def test_a_hub_id_gives_a_study() -> None:
    """org/name that is no path here is a Hub id; nothing is downloaded to say so."""
    spec = resolve_spec("some-org/Model.1-dev")
    assert (spec.name, spec.model.hub, spec.model.path) == (
        "Model.1-dev",
        "some-org/Model.1-dev",
        None,
    )
    assert spec.bare


@pytest.mark.parametrize("name", [n for n in list_studies() if n != "tiny-flux"])
def test_the_hub_id_of_a_study_is_its_name(name: str) -> None:
    """In any case, and at the study's own revision, long or short; another revision is another
    study with the same prompts and skip-lists, and without the shipped config files.
    """
    spec = resolve_spec(name)
    own = spec.model.revision
    for hub in (spec.model.hub, spec.model.hub.upper(), f"{spec.model.hub}@{own}"):
        assert resolve_spec(hub) == spec
    assert resolve_spec(f"{spec.model.hub}@{own[:7]}") == spec
    other = resolve_spec(f"{spec.model.hub}@main")
    assert (other.name, other.model.revision) == (f"{name}-at-main", "main")
    assert (other.model.config, other.prompts) == (None, spec.prompts)
    assert not other.bare


@pytest.mark.parametrize(
    "model",
    ["tiny-flx", "a/b c", "../no-such-folder-here", "/nowhere", "org/", "nul\0l", "x" * 5000, ""],
)
def test_anything_else_is_unknown(model: str) -> None:
    """A name that means nothing is the user's mistake, never another exception, and the studies are
    listed.
    """
    with pytest.raises(UnknownModelError, match=r"expected a study name \(.*tiny-flux"):
        resolve_spec(model)


@pytest.mark.parametrize("model", ["https://user:hunter2@host/x.toml", "s3://user:hunter2@x"])
def test_an_address_is_no_model_and_its_password_stays_hidden(model: str) -> None:
    """Only addresses that hold a Hub id are answered with it."""
    with pytest.raises(UnknownModelError, match=r"found a \w+:// URL; expected") as caught:
        resolve_spec(model)
    assert "hunter2" not in str(caught.value)


def test_a_misspelt_name_is_answered_with_the_closest() -> None:
    """The next step of an unknown model is the study that was probably meant."""
    with pytest.raises(UnknownModelError, match=r"did you mean 'tiny-flux'\?"):
        resolve_spec("tinyflux")
