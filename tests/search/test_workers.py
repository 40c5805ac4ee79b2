"""Workers live as long as they beat, by the database's clock, whatever happens to them or to it."""

import logging
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from sqlalchemy import func, select, update

from sensitivity.core.storage_url import Storage, parse_storage
from sensitivity.core.supervised import REPLACES
from sensitivity.search import workers as module
from sensitivity.search.claims import Claims
from sensitivity.search.database import Database
from sensitivity.search.tables import ClaimRow, WorkerRow
from sensitivity.search.workers import KnownWorker, Worker, live_workers

from support.forks import Forks, wait_until
from support.postgres import PostgresServer

DAY_S = 86_400.0
LEASE_S = 0.4


def known(database: Database) -> dict[str, KnownWorker]:
    """{name: worker} of a database."""
    with database.reading() as session:
        return {own.worker: own for own in live_workers(session.connection())}


def change(database: Database, name: str, **values: object) -> None:
    """Change the row of a worker by hand."""
    with database.writing() as session:
        session.execute(update(WorkerRow).where(WorkerRow.worker == name).values(**values))


def test_a_worker_lives_from_joining_to_leaving(shared_storage: Storage) -> None:
    """It is seen with what it does; after it left, with how it ended, and without its claims."""
    with Database.open(shared_storage, shared=True) as database:
        with Worker.join(database, work="calibration", device="cuda:1", budget=9) as worker:
            Claims(database, worker).take("s", "1")
            found = known(database)[worker.name]
            assert (found.is_alive, found.activity.device) == (True, "cuda:1")
            assert (found.activity.work, found.activity.budget) == ("calibration", 9)
            assert worker.name.split(":")[1] == str(os.getpid())
            worker.tell(worker.activity.model_copy(update={"how": "finished"}), at_once=False)
        found = known(database)[worker.name]
        assert (found.is_alive, found.activity.how) == (False, "finished")
        with database.reading() as session:
            assert session.scalar(select(func.count()).select_from(ClaimRow)) == 0
        assert not worker.beat()
        assert not known(database)[worker.name].is_alive


def test_its_thread_renews_the_lease(shared_storage: Storage) -> None:
    """Long after its lease a worker lives, though nobody called it; it counts its company."""
    with (
        Database.open(shared_storage, shared=True) as database,
        Worker.join(database, study='ü_%"', lease_s=LEASE_S) as worker,
        Worker.join(database, study='ü_%"', lease_s=LEASE_S),
        Worker.join(database, study='üx%"', lease_s=LEASE_S),
    ):
        first = known(database)[worker.name].activity.seen
        wait_until(lambda: worker.company == 2)

        def lives_on() -> bool:
            found = known(database)[worker.name]
            after_s = (found.activity.seen - first).total_seconds()
            return found.is_alive and after_s > 1.5 * LEASE_S

        wait_until(lives_on)


def test_the_clock_is_the_databases(
    shared_storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host whose clock is a day ahead has a worker that lives and began just now."""
    with Database.open(shared_storage, shared=True) as database:
        before = known(database)
        with Worker.join(database) as right:
            real = time.time
            monkeypatch.setattr(time, "time", lambda: real() + DAY_S)
            with Worker.join(database) as worker:
                worker.tell(worker.activity.of_now(), at_once=True)
                monkeypatch.undo()
                found = known(database)
                apart = found[worker.name].activity.seen - found[right.name].activity.seen
                assert abs(apart.total_seconds()) < 5
                apart = found[worker.name].activity.began - found[right.name].activity.began
                assert abs(apart.total_seconds()) < 5
                assert all(own.is_alive for own in found.values())
    assert before == {}


def test_a_lease_that_ran_out_is_no_life(shared_storage: Storage) -> None:
    """Of a worker elsewhere only its row is known: seen within the lease, it lives."""
    with (
        Database.open(shared_storage, shared=True) as database,
        Worker.join(database, lease_s=DAY_S) as worker,
    ):
        elsewhere = worker.activity.model_copy(update={"machine": "another boot", "process": 1})
        for seen_ago_s, is_alive in ((30.0, True), (90.0, False), (-DAY_S, False)):
            with database.writing() as session:
                row = session.get_one(WorkerRow, worker.name)
                row.seen, row.lease_s = row.seen - seen_ago_s, 60.0
                row.activity = elsewhere.model_dump_json()
            assert known(database)[worker.name].is_alive is is_alive
            worker.beat()


def test_a_process_of_this_host_that_was_killed_is_dead_at_once(shared_storage: Storage) -> None:
    """Its lease has an hour to go, yet it is dead; a process with its number is another one."""

    def join() -> None:
        Worker.join(Database.open(shared_storage, shared=True), lease_s=3600.0)
        signal.pause()

    with Database.open(shared_storage, shared=True) as database, Forks() as forks:
        process = forks.start(join)
        wait_until(lambda: known(database))
        (found,) = known(database).values()
        assert (found.is_alive, found.activity.process) == (True, process)
        again = found.activity.model_copy(update={"started": found.activity.started + 1})
        change(database, found.worker, activity=again.model_dump_json())
        assert not known(database)[found.worker].is_alive
        change(database, found.worker, activity=found.activity.model_dump_json())
        assert known(database)[found.worker].is_alive
        forks.kill(process)
        assert not known(database)[found.worker].is_alive


def test_a_paused_worker_is_dead_and_comes_back(shared_storage: Storage) -> None:
    """Stopped past its lease it is dead; resumed it lives, though its row was removed meanwhile."""

    def join() -> None:
        Worker.join(Database.open(shared_storage, shared=True), lease_s=LEASE_S)
        signal.pause()

    with Database.open(shared_storage, shared=True) as database, Forks() as forks:
        process = forks.start(join)
        wait_until(lambda: known(database))
        (name,) = known(database)
        os.kill(process, signal.SIGSTOP)
        wait_until(lambda: not known(database)[name].is_alive)
        with database.writing() as session:
            session.delete(session.get_one(WorkerRow, name))
        os.kill(process, signal.SIGCONT)
        wait_until(lambda: name in known(database) and known(database)[name].is_alive)


def test_a_database_that_is_away_is_waited_for(
    postgres: PostgresServer, postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The thread goes through a restart, says so once, and removes what could not be released."""
    caplog.set_level(logging.INFO, module.__name__)
    with (
        Database.open(parse_storage(postgres_url)) as database,
        Worker.join(database, lease_s=LEASE_S) as worker,
    ):
        claims = Claims(database, worker)
        claim = claims.take("s", "1")
        assert claim is not None
        with postgres.stopped():
            wait_until(lambda: worker.lost_contact_s > 2 * LEASE_S)
            worker.tell(worker.activity, at_once=True)
            claims.release(claim)
            claims.release_all()
        wait_until(lambda: not worker.lost_contact_s)
        assert known(database)[worker.name].is_alive
        wait_until(lambda: claims.live("s") == [])
    levels = [record.levelname for record in caplog.records]
    assert levels == ["WARNING", "INFO"]
    assert "***" in caplog.text
    assert postgres.password not in caplog.text


def test_what_the_thread_does_not_know_ends_it_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that nobody expects is one more try."""
    with Database.open(tmp_path / "study.db") as database:
        worker = Worker.join(database, lease_s=0.1)
        monkeypatch.setattr(module, "insert_or_replace", lambda *_: 1 / 0)
        wait_until(lambda: worker.lost_contact_s)
        monkeypatch.undo()
        wait_until(lambda: not worker.lost_contact_s)
        worker.leave()
    assert f"beats of {worker.name}" not in {own.name for own in threading.enumerate()}


def test_leaving_a_database_that_is_away_raises_nothing(
    postgres: PostgresServer, postgres_url: str
) -> None:
    """A search that ends while the server is down ends with its own error."""
    with Database.open(parse_storage(postgres_url)) as database:
        worker = Worker.join(database)
        with postgres.stopped():
            worker.leave()
        assert known(database)[worker.name].is_alive


def test_who_has_the_database_alone_removes_all_others(tmp_path: Path) -> None:
    """Nobody else can live: rows and claims of others are gone, whatever their leases say."""
    with Database.open(tmp_path / "study.db") as database:
        first = Worker.join(database)
        Claims(database, first).take("s", "1")
        second = Worker.join(database)
        assert list(known(database)) == [second.name]
        with database.reading() as session:
            assert session.scalar(select(func.count()).select_from(ClaimRow)) == 0
        assert Claims(database, second).take("s", "1") is not None
        first.leave()
        second.leave()


def test_the_dead_are_remembered_for_an_hour(shared_storage: Storage) -> None:
    """Who joins forgets those that have been dead for longer."""
    with Database.open(shared_storage, shared=True) as database:
        old, recent = Worker.join(database), Worker.join(database)
        old.leave()
        recent.leave()
        with database.writing() as session:
            session.get_one(WorkerRow, old.name).seen -= 3700
            session.get_one(WorkerRow, recent.name).seen -= 3500
        with Worker.join(database) as worker:
            assert set(known(database)) == {recent.name, worker.name}


def test_a_worker_that_is_replaced_is_dead(
    shared_storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its supervisor knows that it died: its claims are free before its lease has run out."""
    with (
        Database.open(shared_storage, shared=True) as database,
        Worker.join(database) as dead,
        Worker.join(database) as other,
    ):
        for worker in (dead, other):
            assert Claims(database, worker).take("s", worker.name) is not None
        monkeypatch.setenv(REPLACES, dead.name)
        with Worker.join(database) as worker:
            found = known(database)
            assert [found[own.name].is_alive for own in (dead, other, worker)] == [
                False,
                True,
                True,
            ]
            assert [own.item for own in Claims(database, worker).live("s")] == [other.name]


def test_a_fork_is_no_worker(shared_storage: Storage) -> None:
    """It beats for nobody, takes nothing, ends nothing, and joins under a name of its own."""
    with (
        Database.open(shared_storage, shared=True) as database,
        Worker.join(database) as worker,
        Forks() as forks,
    ):

        def work() -> list[object]:
            beats = worker.beat()
            worker.leave()
            with Database.open(shared_storage, shared=True) as own:
                try:
                    takes = Claims(own, worker).take("s", "1") is not None
                except RuntimeError as error:
                    takes = "join here" not in str(error)
                with Worker.join(own) as joined:
                    return [beats, takes, joined.name]

        before = known(database)[worker.name]
        forks.start(work)
        ((beats, takes, name),) = forks.results()
        assert (beats, takes) == (False, False)
        assert name != worker.name
        assert known(database)[worker.name] == before
