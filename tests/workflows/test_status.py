"""How far a search is can be read at any time: trials, front, stage, and whether anybody works."""

import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from sensitivity.errors import StoreError
from sensitivity.search.store import Store
from sensitivity.workflows.kept_activity import keeping_activity
from sensitivity.workflows.status import read_status

from support import fake_search
from support.fake_search import BASELINES, BUDGET, CANDIDATES, FakeEvaluator

HOLD = """
import sys, time
from pathlib import Path
from sensitivity.search.activity import ActivityLog
from sensitivity.search.database import Database
database = Database.open(Path(sys.argv[1]))
log = ActivityLog(database, work="search", device="cuda:1", budget=9)
log.update(study="s", stage="trials", what="trial 7", done=2, total=10)
import sensitivity.workflows.status
assert not {"torch", "optuna"} & set(sys.modules), "reading is quick"
print("ready", flush=True)
time.sleep(60)
"""


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """A database, and the trials of its search."""
    path = tmp_path_factory.mktemp("searched") / "study.db"
    with pytest.MonkeyPatch.context() as patched:
        found = fake_search.search(path, FakeEvaluator(), fake_search.settings(), patched)
    return path, found[0]


def test_trials_and_front_are_those_of_the_search(searched: tuple[Path, list[Any]]) -> None:
    """Counts, speedups and the front are what the search itself knows, without a model."""
    path, tried = searched
    status = read_status(path)
    assert (status.writer, status.workers) == (None, ())
    (study,) = status.studies
    trials = study.trials
    assert (trials.done, trials.budget, trials.baselines) == (BUDGET, BUDGET, BASELINES)
    assert (trials.failed, trials.running, study.model) == (0, 0, "fake")
    points = {
        label or f"trial {number}": (latency, score.cost)
        for number, (_, _, label, latency, score, _) in enumerate(
            sorted(tried, key=lambda row: row[0]), 1 - BASELINES
        )
    }
    expected = [
        name
        for name, (seconds, cost) in sorted(points.items(), key=lambda item: item[1])
        if not any(
            s <= seconds and c <= cost and (s, c) != (seconds, cost) for s, c in points.values()
        )
    ]
    assert [own.name for own in study.front] == expected
    for own in study.front:
        assert (own.seconds, own.typical) == pytest.approx(points[own.name])
        assert own.speedup == pytest.approx(CANDIDATES.bf16_s / own.seconds)


def test_a_worker_is_seen_until_it_is_killed(searched: tuple[Path, list[Any]]) -> None:
    """A living process tells its stage; after kill -9 it is known to have ended without a word."""
    path, _ = searched
    child = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == b"ready\n"
        (worker,) = (status := read_status(path)).workers
        assert f"process {child.pid}, " in (status.writer or "")
        assert (worker.is_alive, worker.stage, worker.what) == (True, "trials", "trial 7")
        assert (worker.done, worker.total, worker.device) == (2, 10, "cuda:1")
        assert worker.name.endswith(f":{child.pid}")
    finally:
        child.kill()
        child.wait()
    (worker,) = (status := read_status(path)).workers
    assert (status.writer, worker.is_alive, worker.stage, worker.how) == (None, False, "trials", "")


@pytest.mark.parametrize(
    ("error", "how"),
    [(None, "finished"), (KeyboardInterrupt(), "interrupted"), (StoreError("no\nroom"), "no")],
)
def test_how_a_process_ended_is_kept(tmp_path: Path, error: BaseException | None, how: str) -> None:
    """Finished, interrupted, or the first line of the error, which still passes."""
    path = tmp_path / "study.db"
    passes = nullcontext() if error is None else pytest.raises(type(error))
    with Store.open(path) as store:
        with passes, keeping_activity(store, "search", "cpu", 9, command="sensitivity") as doing:
            doing.say(lambda _text: None)("loading")
            if error is not None:
                raise error
        assert read_status(path).writer == f"process {os.getpid()}, this one"
    (worker,) = read_status(path).workers
    assert (worker.how, worker.is_alive, worker.command) == (how, False, "sensitivity")
    assert read_status(path).studies == ()


def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    """A path that is not there, and an empty file, which a search has just made."""
    with pytest.raises(StoreError, match="is not there; expected the database of a search"):
        read_status(tmp_path / "none.db")
    (tmp_path / "new.db").touch()
    assert read_status(tmp_path / "new.db").studies == ()
