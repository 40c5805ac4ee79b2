"""`sensitivity status`: what it prints, what its JSON has, and when it stops watching."""

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from sensitivity.cli import status as command
from sensitivity.cli.app import app
from sensitivity.cli.render.status import worker_table
from sensitivity.cli.screen import TextConsole
from sensitivity.core.storage_url import StorageUrl, parse_storage
from sensitivity.errors import LostDatabaseError, StoreError
from sensitivity.search.activity import ActivityLog
from sensitivity.search.log import open_log
from sensitivity.search.store import Store
from sensitivity.search.tables import WorkerRow
from sensitivity.search.workers import Worker
from sensitivity.workflows.status import Status

from support import fake_search
from support.fake_search import BASELINES, BUDGET, CANDIDATES, FakeEvaluator
from support.status_screens import NOW, many_workers


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
    assert database["writer"] is None
    assert [own["how"] for own in database["workers"]] == ["finished"]
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
    worker = Worker.join(
        store, work="search", device="cpu", command="sensitivity search -m tiny-flux"
    )
    log = ActivityLog(worker)
    log.seconds_left = lambda: 130.0
    log.update(study="s", stage="sensitivities", done=3, total=50)
    steps = [
        lambda: log.update(stage="trials", what="trial 4"),
        lambda: None,
        lambda: (log.end("interrupted"), worker.leave(), store.close()),
    ]
    monkeypatch.setattr(command, "time", SimpleNamespace(sleep=lambda _seconds: steps.pop(0)()))
    lines = run("--watch").splitlines()
    workers = [line for line in lines if str(os.getpid()) in line or "nobody" in line]
    assert "is searching s on cpu: measuring layer sensitivities, 3 of 50 numbers" in workers[0]
    assert workers[0].endswith("about 2 min 10 s left, verification included")
    assert "trial 4" in workers[1]
    assert workers[2].startswith("nobody works on it; the last search was interrupted")
    assert workers[2].endswith("to go on: sensitivity search -m tiny-flux")
    assert len(workers) == 3


@pytest.fixture(params=["sqlite", "postgresql"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A database that several workers use."""
    storage = tmp_path / "study.db"
    if request.param == "postgresql":
        storage = request.getfixturevalue("postgres_url")
    with Store.open(parse_storage(storage), shared=True) as store:
        yield store


def address(store: Store) -> str:
    """What `--storage` takes, with its password."""
    storage = store.storage
    return storage.secret if isinstance(storage, StorageUrl) else str(storage)


def test_all_workers_are_in_a_table(shared: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has a row with what it does and by what it is known to live, the dead one too."""
    monkeypatch.setenv("COLUMNS", "200")
    with (
        Worker.join(shared, stage="trials", what="trial 7", done=2, total=10, trials=6) as one,
        Worker.join(shared, device="cuda", device_name="GPU 3: NVIDIA B200") as two,
        Worker.join(shared, stage="trials", what="trial 9") as dead,
    ):
        with shared.writing() as session:
            session.get_one(WorkerRow, dead.name).lease_s = 0.0
        text = run("--storage", address(shared))
        monkeypatch.setenv("SENSITIVITY_STORAGE", address(shared))
        data = json.loads(run("--json", "-"))
    assert "2 workers are at it, 1 died within the last hour" in text
    rows = [line for line in text.splitlines() if one.name in line]
    assert ["trial 7, 2 of 10 pictures" in row and row.endswith("lease") for row in rows] == [True]
    assert " 6 " in rows[0]
    rows = [line for line in text.splitlines() if two.name in line]
    assert ["GPU 3, NVIDIA B200  getting ready" in row for row in rows] == [True]
    rows = [line for line in text.splitlines() if dead.name in line]
    assert ["died at trial 9" in row and row.endswith("dead") for row in rows] == [True]
    (database,) = data["databases"]
    assert [own["name"] for own in database["workers"]] == [one.name, two.name, dead.name]
    assert [own["alive_by"] for own in database["workers"]] == ["lease", "lease", ""]
    if isinstance(shared.storage, StorageUrl):
        assert str(shared.storage.url.password) not in text + json.dumps(data)


def test_of_a_server_the_studies_of_one_model_are_shown(
    shared: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a model and a database that others use too, theirs and their workers are left out."""
    monkeypatch.setenv("SENSITIVITY_STORAGE", address(shared))
    for model in ("tiny-flux", "another"):
        open_log(shared, f"{model}-1a2b3c4d", CANDIDATES, {"model": model, "budget": 9})
    with (
        Worker.join(shared, study="another-1a2b3c4d"),
        Worker.join(shared, study="tiny-flux-1a2b3c4d", device="cpu"),
    ):
        text = run("tiny-flux")
        assert "is searching tiny-flux-1a2b3c4d on cpu" in text
        assert "another" not in text
        assert "another-1a2b3c4d: 0 of 9 trials done" in run()


def test_a_table_has_as_many_rows_as_there_is_room_for() -> None:
    """Of 64 workers the first are shown, and of those that ended; the others are counted."""
    file = io.StringIO()
    console = TextConsole(file=file, width=80)
    console.print(worker_table(many_workers(64), NOW, most=9))
    rows = [line for line in file.getvalue().splitlines() if line.startswith("node-")]
    assert [row.split()[0] for row in rows[:6]] == [
        f"node-1:{4000 + 37 * number}" for number in range(6)
    ]
    assert [row.split()[-1] for row in rows[6:]] == ["dead", "left", "left"]
    assert file.getvalue().splitlines()[-1] == "58 more at work, in --json"
    assert max(map(len, file.getvalue().splitlines())) <= 80


def test_watching_goes_on_while_a_server_is_away(
    searched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read last stays, the trouble is told once, and it ends with the work."""
    read = command._read
    path = searched / "sensitivity-runs" / "tiny-flux.db"
    (ended,) = read([path])
    working = ended.model_copy(
        update={"workers": (ended.workers[0].model_copy(update={"is_alive": True}),)}
    )
    answers: list[Status | None] = [working, None, None, ended]

    def answer(*_named: object) -> list[Any]:
        found = answers.pop(0)
        if found is None:
            raise LostDatabaseError("db is away; expected one")
        return [found]

    monkeypatch.setattr(command, "_read", answer)
    monkeypatch.setattr(command, "time", SimpleNamespace(sleep=lambda _seconds: None))
    result = CliRunner().invoke(app, ["status", "--storage", str(path), "--watch"])
    assert (result.exit_code, answers) == (0, [])
    assert result.stderr.count("db is away; it is asked again") == 1
    assert "nobody works on it" in result.stdout


def test_no_model_is_loaded_to_look_at_a_server(postgres_url: str) -> None:
    """It takes a second on a host without a GPU: torch and Optuna stay unread."""
    code = (
        "import sys; from sensitivity.cli.app import app; import sensitivity.cli.status\n"
        "app(['status'], standalone_mode=False)\n"
        "assert not {'torch', 'optuna', 'diffusers'} & set(sys.modules)"
    )
    Store.open(parse_storage(postgres_url)).close()
    environment = os.environ | {"SENSITIVITY_STORAGE": postgres_url}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "nobody works on it" in done.stdout


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
