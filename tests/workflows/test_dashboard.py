"""optuna-dashboard shows a study live, in our words, and changes nothing but notes."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest

from sensitivity.cli.render.dashboard import figures_of, study_note, trial_notes
from sensitivity.errors import UserError
from sensitivity.search.finished import list_optuna_studies
from sensitivity.search.loop import read_search
from sensitivity.search.shown_storage import Extras, ShownPicture, ShownStorage
from sensitivity.search.store import Store
from sensitivity.workflows import dashboard
from sensitivity.workflows.dashboard import opened_dashboard

from support import fake_search
from support.fake_search import BASELINES, BUDGET, CANDIDATES, GROUPS, MODEL, FakeEvaluator
from support.reports import WINNER, hostile_report


class Browser:
    """Asks a WSGI application."""

    def __init__(self, application: Any) -> None:
        self.application = application

    def ask(self, path: str, method: str = "GET", body: Any = None) -> tuple[int, bytes]:
        """Status and body of an answer."""
        data = b"" if body is None else json.dumps(body).encode()
        path, _, query = path.partition("?")
        environ: dict[str, Any] = {
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": method,
            "CONTENT_TYPE": "application/json",
            "CONTENT_LENGTH": str(len(data)),
            "wsgi.input": io.BytesIO(data),
        }
        setup_testing_defaults(environ)
        answered: list[str] = []
        parts = self.application(environ, lambda status, *_more: answered.append(status))
        return int(answered[0].split()[0]), b"".join(parts)

    def get(self, path: str) -> Any:
        """The JSON of an answer."""
        status, body = self.ask(path)
        assert status == 200, body
        return json.loads(body)


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A database, and the name of its study."""
    path = tmp_path_factory.mktemp("searched") / "study.db"
    with pytest.MonkeyPatch.context() as patched:
        fake_search.search(path, FakeEvaluator(), fake_search.settings(), patched)
    with Store.read(path) as store:
        return path, list_optuna_studies(store, MODEL)[0].name


@pytest.fixture
def browser(searched: tuple[Path, str], tmp_path: Path) -> Iterator[Browser]:
    """A browser at the dashboard of that database, with a picture of its first trial."""
    path, study = searched
    picture = tmp_path / "0003-0123456789abcdef.webp"
    picture.write_bytes(b"a picture")
    extras = Extras(
        note="# verdict " + "x" * 5_000,
        figures={"front": '{"data": []}'},
        pictures={"trial 1": [ShownPicture(key=picture.stem, path=picture, title="prompt 1")]},
        trial_note=lambda name, address: f"{name}: ![]({address}/{picture.stem})",
        groups=tuple(group.name for group in CANDIDATES.groups),
        formats=tuple(CANDIDATES.formats),
    )
    with opened_dashboard(path, {study: extras}) as application:
        yield Browser(application)


def attributes(trial: Any) -> dict[str, str]:
    """{name: value} of a trial's attributes."""
    return {own["key"]: own["value"] for own in trial["user_attrs"]}


def test_trials_are_shown_in_our_words(browser: Browser) -> None:
    """Names, speedups, the formats of groups, notes, figures, and pictures that can be opened."""
    (study,) = browser.get("/api/studies")["study_summaries"]
    assert {"key": "budget", "value": str(BUDGET)} in study["user_attrs"]
    found = browser.get("/api/studies/1")
    assert found["note"]["body"] == "# verdict " + "x" * 5_000
    assert found["plotly_graph_objects"] == [{"id": "front", "graph_object": '{"data": []}'}]
    assert found["objective_names"] == ["latency_s", "typical_lpips"]
    trials = {attributes(t)["name"]: t for t in found["trials"]}
    assert len(trials) == BASELINES + BUDGET
    whole = attributes(trials["all nvfp4"])
    assert float(whole["speedup"]) == round(CANDIDATES.bf16_s / trials["all nvfp4"]["values"][0], 4)
    assert set(whole) == {"name", "speedup", "mean_lpips", "seconds"}
    assert [p["param_external_value"] for p in trials["all nvfp4"]["params"]] == ["nvfp4"] * GROUPS
    first = trials["trial 1"]
    address = f"/artifacts/1/{first['trial_id']}/0003-0123456789abcdef"
    assert first["note"]["body"] == f"trial 1: ![]({address})"
    assert [artifact["filename"] for artifact in first["artifacts"]] == ["prompt 1.webp"]
    assert browser.ask(address) == (200, b"a picture")
    assert browser.ask(address.replace("0003", "0004"))[0] == 404


def test_trials_appear_as_a_search_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is open sees what another process, here another store, adds."""
    path = tmp_path / "study.db"
    fake_search.search(path, FakeEvaluator(), fake_search.settings(budget=1), monkeypatch)
    with Store.read(path) as store:
        storage = ShownStorage(store, {})
        assert len(storage.get_all_trials(1)) == BASELINES + 1
        fake_search.search(path, FakeEvaluator(), fake_search.settings(budget=2), monkeypatch)
        names = [trial.user_attrs.get("name") for trial in storage.get_all_trials(1)]
        assert names[-2:] == ["trial 1", "trial 2"]


@pytest.mark.parametrize(
    ("path", "method", "body"),
    [
        ("/api/studies/1", "DELETE", {}),
        ("/api/studies/1/rename", "POST", {"study_name": "mine"}),
        ("/api/studies", "POST", {"study_name": "mine", "directions": ["minimize"]}),
        ("/api/trials/1/user-attrs", "POST", {"user_attrs": {"a": 1}}),
        ("/api/trials/1/tell", "POST", {"state": "Fail"}),
        ("/api/artifacts/1/5/0003-0123456789abcdef", "DELETE", None),
        ("/api/artifacts/1", "POST", {"file": "data:text/plain;base64,YQ==", "filename": "a"}),
    ],
)
def test_what_would_change_the_study_is_refused(
    browser: Browser, searched: tuple[Path, str], path: str, method: str, body: Any
) -> None:
    """Deleting, renaming, telling and uploading fail, and leave every byte as it was."""
    before = searched[0].read_bytes()
    assert browser.ask(path, method, body)[0] >= 400
    assert searched[0].read_bytes() == before


def test_a_note_of_the_users_is_kept_and_replaces_ours(
    browser: Browser, searched: tuple[Path, str]
) -> None:
    """It is written beside the process that has the database, and the study is still what its
    search wrote.
    """
    path, study = searched
    with Store.open(path):
        body = {"version": 2, "body": "mine, " + "y" * 3_000}
        assert browser.ask("/api/studies/1/5/note", "PUT", body)[0] == 204
        conflict = {"version": 2, "body": "not this one"}
        assert browser.ask("/api/studies/1/5/note", "PUT", conflict)[0] == 409
    notes = {t["trial_id"]: t["note"]["body"] for t in browser.get("/api/studies/1")["trials"]}
    assert notes[5] == body["body"]
    with Store.read(path, makes_again=False) as store:
        assert len(read_search(store, study, CANDIDATES).trials) == BASELINES + BUDGET


def test_notes_and_figures_of_a_report(tmp_path: Path) -> None:
    """Trials' notes have numbers and pictures, hostile names are text alone, and the figure of the
    front has every trial that was scored.
    """
    report = hostile_report(tmp_path)
    note = trial_notes(report)(WINNER, "/artifacts/1/7")
    scene = next(own for own in report.gallery.scenes if WINNER in own.pictures)
    for shown in ("bf16", WINNER):
        assert f"](/artifacts/1/7/{Path(scene.pictures[shown].file).stem})" in note
    assert "Linears quantized" in note
    assert trial_notes(report)("trial 999", "") == ""
    for text in (note, study_note(report)):
        assert "<script" not in text
        assert "<img" not in text
    figure = json.loads(figures_of(report)["front"])
    scored = [own for own in report.trials if own.kind != "stopped early"]
    assert len({x for trace in figure["data"] for x in trace["x"]}) >= len(
        {own.speedup for own in scored}
    )
    assert "<script" not in json.dumps([trace["text"] for trace in figure["data"]])


def test_without_the_package_the_message_names_it(
    searched: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message says what to install, and what needs no server."""
    monkeypatch.setattr(dashboard, "PACKAGE", "no_such_package")
    with (
        pytest.raises(UserError, match=r"pip install optuna-dashboard.*`sensitivity report`"),
        opened_dashboard(searched[0], {}),
    ):
        pass
