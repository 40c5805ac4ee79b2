"""A worker joins a search by its name: what the study keeps, and what is of the worker's host."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from sensitivity.core.environment import describe_environment
from sensitivity.errors import StoreError, UserError
from sensitivity.search.log import open_log
from sensitivity.search.store import Store
from sensitivity.spec.loading import load_spec, resolve_spec
from sensitivity.spec.shipped import studies_folder
from sensitivity.spec.study_spec import StudySpec
from sensitivity.workflows.join import read_search_request
from sensitivity.workflows.kept_request import check_joined, kept_request
from sensitivity.workflows.requests import SearchRequest

from support.fake_search import CANDIDATES, settings

STUDY = "fake-nvfp4-b200-0a1b2c3d"
ENVIRONMENT = {"device_type": "cpu", "device": "an old CPU", "torch": "2.0", "threads": "96"}
REQUEST = SearchRequest(
    formats=("nvfp4", "fp8"),  # type: ignore[arg-type]
    budget=3,
    sampler="tpe",  # type: ignore[arg-type]
    max_judge={"psnr": 3.0},
    max_lpips=0.1,
    consumers=("torchao",),
    keep_pictures=2,
    command="sensitivity search --model fake",
    storage="postgresql://me:s3cret@host/studies",  # type: ignore[arg-type]
    cache_folder=Path("theirs"),
)


def keep(database: Path, kept: dict[str, Any] | None, *, budget: int = 3) -> Path:
    """A database with a study that keeps this."""
    with Store.open(database) as store:
        facts = {"model": "fake", **asdict(settings(budget=budget))}
        open_log(store, STUDY, CANDIDATES, facts, kept=kept)
    return database


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with a study of tiny-flux that keeps its request."""
    spec = resolve_spec("tiny-flux")
    path = tmp_path_factory.mktemp("join") / "study.db"
    return keep(path, kept_request(spec, REQUEST, ENVIRONMENT), budget=7)


def test_what_was_asked_for_is_read_back(database: Path) -> None:
    """Every field is the search's, but for those of this host; the budget is what the study has
    now.
    """
    spec, request = read_search_request(STUDY, database, device="cpu", cache_folder=Path("mine"))
    assert spec == resolve_spec("tiny-flux")
    expected = replace(
        REQUEST,
        budget=7,
        storage=database,
        cache_folder=Path("mine"),
        shared=True,
        joins=STUDY,
    )
    assert request == expected


@pytest.mark.parametrize(
    "path", sorted(studies_folder().rglob("*.toml")), ids=lambda path: path.stem
)
def test_every_study_is_the_same_after_it_was_kept(path: Path) -> None:
    """A study is JSON in the database, and decides the study's name again."""
    spec = load_spec(path)
    kept = json.loads(json.dumps(kept_request(spec, SearchRequest(), {})))
    back = StudySpec.model_validate(kept["request"]["study"])
    assert back == spec
    assert back.model_fields_set == spec.model_fields_set
    assert back.pricing.model_fields_set == spec.pricing.model_fields_set


def test_settings_that_are_none_stay_so() -> None:
    """An argument of the pipeline that is set to None is another than one that is left out."""
    spec = resolve_spec("tiny-flux")
    spec = spec.model_copy(update={"settings": {**spec.settings, "sigmas": None}})
    kept = json.loads(json.dumps(kept_request(spec, SearchRequest(), {})))
    assert StudySpec.model_validate(kept["request"]["study"]).settings == spec.settings


def test_no_password_and_nothing_of_a_host_is_kept(database: Path) -> None:
    """The database holds no URL of itself, no device and no cache."""
    kept = json.dumps(kept_request(resolve_spec("tiny-flux"), REQUEST, ENVIRONMENT))
    assert "s3cret" not in kept
    assert "theirs" not in kept
    assert b"s3cret" not in database.read_bytes()


def test_a_path_is_kept_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker is started in another folder."""
    monkeypatch.chdir(tmp_path)
    spec = resolve_spec("tiny-flux")
    spec = spec.model_copy(
        update={"model": spec.model.model_copy(update={"path": Path("pipelines/own")})}
    )
    kept = kept_request(spec, SearchRequest(target="gpus/own.toml"), {})["request"]
    assert kept["study"]["model"]["path"] == str(tmp_path / "pipelines" / "own")
    assert kept["asked"]["target"] == str(tmp_path / "gpus" / "own.toml")


# --- what cannot be joined -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("fake-nvfp4-b200-0a1b2c3", f"expected one of {STUDY}: did you mean '{STUDY}'\\?"),
        ("zzz", f"has no study 'zzz'; expected one of {STUDY}: name one of them"),
    ],
)
def test_a_wrong_name_is_told_the_studies(database: Path, name: str, words: str) -> None:
    """The message lists what the database has, and the closest."""
    with pytest.raises(StoreError, match=words):
        read_search_request(name, database, device="cpu")


def test_a_database_without_a_study_says_so(tmp_path: Path) -> None:
    """Neither an empty database nor a missing file can be joined; no file is made."""
    with Store.open(tmp_path / "empty.db"):
        pass
    with pytest.raises(StoreError, match="holds no study"):
        read_search_request(STUDY, tmp_path / "empty.db", device="cpu")
    with pytest.raises(StoreError, match="is not there; expected the database of a search"):
        read_search_request(STUDY, tmp_path / "none.db", device="cpu")
    assert not (tmp_path / "none.db").exists()


def test_a_study_of_an_earlier_version_is_joined_by_its_command(tmp_path: Path) -> None:
    """It keeps no request."""
    path = keep(tmp_path / "old.db", None)
    with pytest.raises(StoreError, match=r"keeps no request.*join with its `sensitivity search`"):
        read_search_request(STUDY, path, device="cpu")


@pytest.mark.parametrize("part", ["study", "asked"])
def test_a_request_of_another_version_is_not_guessed(tmp_path: Path, part: str) -> None:
    """A field that this version does not know may change what is searched."""
    kept = kept_request(resolve_spec("tiny-flux"), REQUEST, ENVIRONMENT)
    kept["request"][part]["of_the_future"] = 1
    path = keep(tmp_path / "new.db", kept)
    with pytest.raises(StoreError, match=r"cannot be read .*of_the_future.*install the version"):
        read_search_request(STUDY, path, device="cpu")


def test_a_model_that_is_not_on_this_host_is_named(tmp_path: Path) -> None:
    """A study that names a folder needs it at the same path here."""
    spec = resolve_spec("tiny-flux")
    away = spec.model.model_copy(update={"path": tmp_path / "away"})
    kept = kept_request(spec.model_copy(update={"model": away}), REQUEST, ENVIRONMENT)
    path = keep(tmp_path / "away.db", kept)
    with pytest.raises(UserError, match=r"model.path = '.*away', which is not on this host"):
        read_search_request(STUDY, path, device="cpu")


def test_other_conditions_are_named(database: Path) -> None:
    """The name that this host's conditions give must be the study's; else what differs is said."""
    here = describe_environment("cpu")
    with Store.read(database) as store:
        check_joined(store, STUDY, STUDY, here)
        with pytest.raises(StoreError) as refused:
            check_joined(store, STUDY, "fake-nvfp4-b200-ffffffff", here)
    text = str(refused.value)
    assert "would search fake-nvfp4-b200-ffffffff, not fake-nvfp4-b200-0a1b2c3d" in text
    assert f"torch is 2.0 there and {here['torch']} here" in text
    assert "device is an old CPU there and" in text
    assert "threads is 96 there and" in text


def test_equal_environments_leave_weights_and_prices(tmp_path: Path) -> None:
    """What no environment says is named as what is left."""
    here = describe_environment("cpu")
    kept = kept_request(resolve_spec("tiny-flux"), REQUEST, here)
    with (
        Store.read(keep(tmp_path / "same.db", kept)) as store,
        pytest.raises(StoreError, match="the weights, the prompts or prices that were measured"),
    ):
        check_joined(store, STUDY, "fake-nvfp4-b200-ffffffff", here)
