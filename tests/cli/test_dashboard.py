"""`sensitivity dashboard` serves a study on a port, says where, and ends with Ctrl-C."""

import json
import socket
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.request import urlopen
from wsgiref.simple_server import WSGIServer

import pytest
from typer.testing import CliRunner

from sensitivity.cli.app import app
from sensitivity.errors import UserError
from sensitivity.search.finished import list_optuna_studies
from sensitivity.search.store import Store
from sensitivity.workflows import report

from support import fake_search
from support.fake_search import MODEL, FakeEvaluator
from support.reports import hostile_report


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A subject that was searched, and a report of it."""
    path = tmp_path / "study.db"
    fake_search.search(path, FakeEvaluator(), fake_search.settings(), monkeypatch)
    with Store.read(path) as store:
        kept = list_optuna_studies(store, MODEL)[0]
    subject = SimpleNamespace(database=path, kept=kept, no_trials="")
    monkeypatch.setattr(report, "find_subject", lambda *_, **__: subject)
    monkeypatch.setattr(report, "collect_report", lambda _: hostile_report(tmp_path))
    return subject


def test_it_serves_the_study_until_ctrl_c(
    study: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The JSON says where, a browser gets the page and the study's trials there, Ctrl-C is the
    usual end.
    """
    seen: list[Any] = []

    def serve(server: WSGIServer, **_more: object) -> None:
        for path in ("/dashboard", "/api/studies"):
            thread = threading.Thread(target=server.handle_request)
            thread.start()
            with urlopen(f"http://127.0.0.1:{server.server_port}{path}") as answer:
                seen.append(answer.read())
            thread.join()
        raise KeyboardInterrupt

    monkeypatch.setattr(WSGIServer, "serve_forever", serve)
    result = CliRunner().invoke(app, ["dashboard", "fake", "--port", "0", "--json", "-"])
    assert result.exit_code == 0, result.output
    shown = json.loads(result.stdout)
    assert shown["study"] == study.kept.name
    assert shown["url"] in result.stderr
    assert b"Optuna Dashboard" in seen[0]
    (found,) = json.loads(seen[1])["study_summaries"]
    assert found["study_name"] == study.kept.name


@pytest.mark.usefixtures("study")
def test_a_port_that_is_taken_is_told() -> None:
    """The option is named, with what to do."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        result: Any = CliRunner().invoke(app, ["dashboard", "fake", "--port", port])
    with pytest.raises(UserError, match=rf"--port {port} of 127.0.0.1 cannot be listened on"):
        raise result.exception


def test_a_recipe_without_its_database_has_no_dashboard(
    study: SimpleNamespace,
) -> None:
    """It says why there is none, and names the option for it."""
    study.database, study.no_trials = None, "it is not at hand"
    result: Any = CliRunner().invoke(app, ["dashboard", "recipe.json"])
    with pytest.raises(UserError, match=r"no database at hand \(it is not at hand\).*--storage"):
        raise result.exception
