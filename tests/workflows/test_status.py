"""How far a search is can be read at any time: trials, front, stage, and whether anybody works."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from sensitivity.core.storage_url import Storage, StorageUrl, parse_storage
from sensitivity.errors import StoreError
from sensitivity.search.activity import utc_now
from sensitivity.search.claims import Claims, trials_scope
from sensitivity.search.log import open_log
from sensitivity.search.store import Store
from sensitivity.search.tables import WorkerRow
from sensitivity.search.workers import Worker
from sensitivity.workflows.kept_activity import keeping_activity
from sensitivity.workflows.status import read_status

from support import fake_search
from support.fake_search import BASELINES, BUDGET, CANDIDATES, FakeEvaluator

STUDY = "fake-nvfp4-b200-1a2b3c4d"
HOLD = """
import sys, time
from pathlib import Path
from sensitivity.search.activity import ActivityLog
from sensitivity.search.database import Database
from sensitivity.search.workers import Worker
database = Database.open(Path(sys.argv[1]))
log = ActivityLog(Worker.join(database, work="search", device="cuda:1", budget=9))
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
    assert status.writer is None
    assert [(own.is_alive, own.how) for own in status.workers] == [(False, "finished")]
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
        assert (worker.process, worker.alive_by) == (child.pid, "lease")
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
        assert doing.worker is not None
        assert not doing.worker.beat()
    (worker,) = read_status(path).workers
    assert (worker.how, worker.is_alive, worker.command) == (how, False, "sensitivity")
    assert read_status(path).studies == ()


@pytest.fixture(params=["sqlite", "postgresql"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """Where several workers work."""
    if request.param == "sqlite":
        return tmp_path / "study.db"
    return parse_storage(str(request.getfixturevalue("postgres_url")))


@pytest.fixture
def shared(storage: Storage) -> Iterator[Store]:
    """A database with a study without trials, whose budget is 9."""
    with Store.open(storage, shared=True) as store:
        open_log(store, STUDY, CANDIDATES, {"model": "fake", "budget": 9})
        yield store


def worker_at(store: Store, **told: Any) -> Worker:
    """A worker of the study."""
    return Worker.join(store, study=STUDY, stage="trials", **told)


def test_all_workers_are_seen_from_another_process(shared: Store, storage: Storage) -> None:
    """Each with what it does; what runs is what the living have claimed; passwords are not told."""
    with (
        worker_at(shared, device="cuda", device_name="GPU 0: NVIDIA H200", trials=3) as one,
        worker_at(shared, what="trial 7", done=2, total=10) as two,
        worker_at(shared) as dead,
    ):
        for number, own in enumerate((one, two, dead)):
            assert Claims(shared, own).take(trials_scope(STUDY), str(number)) is not None
        with shared.writing() as session:
            session.get_one(WorkerRow, dead.name).lease_s = 0.0
        status = read_status(storage)
        assert [own.name for own in status.workers] == [one.name, two.name, dead.name]
        assert [own.alive_by for own in status.workers] == ["lease", "lease", ""]
        first, second, _ = status.workers
        assert (first.device, first.device_name, first.trials) == ("cuda", "GPU 0: NVIDIA H200", 3)
        assert (second.what, second.done, second.total) == ("trial 7", 2, 10)
        assert all(own.silent_s is not None and own.silent_s < 5 for own in status.workers)
        (study,) = status.studies
        assert (study.name, study.trials.running, study.trials.budget) == (STUDY, 2, 9)
    if isinstance(storage, StorageUrl):
        assert str(storage.url.password) not in status.model_dump_json()
        assert "***" in status.database


def test_the_time_left_is_that_of_all_workers(shared: Store, storage: Storage) -> None:
    """One does 2 trials a minute and another 1; 9 are left, of which 1 is half done."""
    with (
        worker_at(shared, pace_s=30.0, beside_s=40.0) as one,
        worker_at(shared, pace_s=60.0, beside_s=100.0),
        worker_at(shared),
        Worker.join(shared, study="another", stage="trials", pace_s=1.0),
    ):
        Claims(shared, one).take(trials_scope(STUDY), "1")
        (study,) = read_status(storage).studies
        assert study.left_s == pytest.approx(60 * 8.5 / 3 + 100)
    with worker_at(shared, ends=utc_now() + timedelta(seconds=500)):
        (study,) = read_status(storage).studies
        assert study.left_s == pytest.approx(500, abs=5)
    (study,) = read_status(storage).studies
    assert study.left_s is None


@pytest.mark.parametrize("forgets", [False, True])
def test_the_dead_are_shown_for_an_hour(storage: Storage, forgets: bool) -> None:
    """Older ones are not, unless nobody else is there to be named."""
    with Store.open(storage, shared=True) as store:
        old, recent = worker_at(store), worker_at(store)
        for own, ago_s in ((old, 3700.0), (recent, 3500.0)):
            own.leave()
            with store.writing() as session:
                row = session.get_one(WorkerRow, own.name)
                row.seen -= ago_s
                if forgets and own is recent:
                    session.delete(row)
    expected = old.name if forgets else recent.name
    assert [own.name for own in read_status(storage).workers] == [expected]


def test_the_lock_on_a_file_tells_who_lives(tmp_path: Path) -> None:
    """A process that has the file lives, though its lease ran out; without the lock nobody does."""
    path = tmp_path / "study.db"
    with Store.open(path) as store:
        worker = Worker.join(store, stage="trials")
        with store.writing() as session:
            session.get_one(WorkerRow, worker.name).seen -= 90.0
        (found,) = read_status(path).workers
        assert (found.is_alive, found.alive_by) == (True, "lock")
        assert worker.beat()
        (found,) = read_status(path).workers
        assert found.alive_by == "lease"
        elsewhere = worker.activity.model_copy(update={"machine": "another boot"})
        worker.leave()
        with store.writing() as session:
            row = session.get_one(WorkerRow, worker.name)
            row.lease_s, row.activity = 60.0, elsewhere.model_dump_json()
    (found,) = read_status(path).workers
    assert not found.is_alive


def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    """A path that is not there, and an empty file, which a search has just made."""
    with pytest.raises(StoreError, match="is not there; expected the database of a search"):
        read_status(tmp_path / "none.db")
    (tmp_path / "new.db").touch()
    assert read_status(tmp_path / "new.db").studies == ()
