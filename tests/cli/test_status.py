"""`sensitivity status`: what it prints, what its JSON has, and when it stops watching."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sensitivity.cli import status as command
from sensitivity.cli.app import app
from sensitivity.errors import StoreError
from sensitivity.search.activity import ActivityLog
from sensitivity.search.store import Store

from support import fake_search
from support.fake_search import BASELINES, BUDGET, FakeEvaluator


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the database of a search where searches keep theirs."""
    folder = tmp_path_factory.mktemp("searched")
    (folder / "sensitivity-runs").mkdir()
    with pytest.MonkeyPatch.context() as patched:
        path = folder / "sensitivity-runs" / "tiny-flux.db"
        fake_search.search(path, FakeEvaluator(), fake_search.settings(), patched)
    return folder


def run(*arguments: str) -> str:
    """What the command prints."""
    result = CliRunner().invoke(app, ["status", *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize(
    "named", [(), ("tiny-flux",), ("--storage", "sensitivity-runs/tiny-flux.db")]
)
def test_a_study_is_found_by_nothing_by_its_name_and_by_its_database(
    searched: Path, named: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the folder of a search all three show the same, and the JSON has the numbers."""
    monkeypatch.chdir(searched)
    text = run(*named)
    assert "nobody works on it" in text
    assert f"{BUDGET} of {BUDGET} trials done, {BASELINES} baselines" in text
    data = json.loads(run(*named, "--json", "-"))
    (database,) = data["databases"]
    (study,) = database["studies"]
    assert (database["writer"], database["workers"]) == (None, [])
    assert study["trials"]["done"] == BUDGET
    assert [f"{own['speedup']:.3f}x" in text for own in study["front"]] == [True] * len(
        study["front"]
    )


def test_who_works_is_shown_and_watched_until_it_ends(
    searched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--watch` shows the state again when the stage changes, and ends with the work."""
    monkeypatch.chdir(searched)
    monkeypatch.setenv("COLUMNS", "300")
    path = Path("sensitivity-runs/tiny-flux.db")
    store = Store.open(path)
    log = ActivityLog(store, work="search", device="cpu", command="sensitivity search -m tiny-flux")
    log.seconds_left = lambda: 130.0
    log.update(study="s", stage="sensitivities", done=3, total=50)
    steps = [
        lambda: log.update(stage="trials", what="trial 4"),
        lambda: None,
        lambda: (log.end("interrupted"), store.close()),
    ]
    monkeypatch.setattr(command.time, "sleep", lambda _seconds: steps.pop(0)())
    lines = run("--watch").splitlines()
    workers = [line for line in lines if str(os.getpid()) in line or "nobody" in line]
    assert "is searching s on cpu: measuring layer sensitivities, 3 of 50 numbers" in workers[0]
    assert workers[0].endswith("about 2 min 10 s left, verification included")
    assert "trial 4" in workers[1]
    assert workers[2].startswith("nobody works on it; the last search was interrupted")
    assert workers[2].endswith("to go on: sensitivity search -m tiny-flux")
    assert len(workers) == 3


def test_one_bad_database_hides_no_other(
    searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be read is named on stderr, and the rest is shown."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(searched / "sensitivity-runs", tmp_path / "sensitivity-runs")
    Path("sensitivity-runs/notes.db").write_text("my notes\n" * 200)
    result = CliRunner().invoke(app, ["status"])
    assert result.exit_code == 0
    assert f"{BUDGET} of {BUDGET} trials done" in result.stdout
    assert "notes.db is no database of sensitivity" in result.stderr


def test_where_there_is_nothing_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder without databases, and a study that was never searched, are told what to do."""
    monkeypatch.chdir(tmp_path)
    for arguments, words in (([], "no database lies in"), (["tiny-flux"], "tiny-flux.db is not")):
        result: Any = CliRunner().invoke(app, ["status", *arguments])
        with pytest.raises(StoreError, match=f"{words}.*run `sensitivity search`"):
            raise result.exception
