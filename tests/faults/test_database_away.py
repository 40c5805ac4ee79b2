"""A database that is away for a while, or refuses: results wait on disk, workers wait with them,
and what does not come back ends with words.
"""

import random
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from sensitivity.core.supervised import REPLACE_ME
from sensitivity.search import open_file, sqlite_errors

from support.fake_workers import Fault, settings, start_worker, stop_self
from support.fault_audit import audit, kept_trials, reading
from support.postgres import PostgresServer

BUDGET = 2
PATIENCE_S = 0.3


def test_a_beat_survives_a_restart(
    postgres: PostgresServer, postgres_url: str, tmp_path: Path
) -> None:
    """The thread that renews the lease finds the server again; the worker counts as living, and
    scores on meanwhile.
    """
    slow = Fault("scoring", 1, lambda: time.sleep(1.1))
    worker = start_worker(postgres_url, tmp_path, settings(budget=1), slow, lease_s=0.4)
    worker.wait_for("scoring")
    with postgres.stopped():
        time.sleep(0.3)
    back = now(postgres_url)
    wait_until_seen(postgres_url, after=back)
    assert worker.wait() == 0, worker.output
    audit(postgres_url, tmp_path).check(budget=1)


@pytest.mark.parametrize("dies", [False, True])
def test_down_when_a_result_is_to_be_written(
    dies: bool,
    postgres: PostgresServer,
    postgres_url: str,
    tmp_path: Path,
    uninterrupted: Callable[[int], list[object]],
) -> None:
    """The result waits on disk. It is written when the server is back, by its worker or, where that
    dies meanwhile, by the next one; nothing is scored again.
    """
    worker = start_worker(postgres_url, tmp_path, settings(BUDGET), Fault("scored", 3, stop_self))
    worker.wait_stopped()
    with postgres.stopped():
        worker.send(signal.SIGCONT)
        worker.wait_for("scored", 3)
        wait_for_spool(tmp_path)
        if dies:
            worker.kill()
    if dies:
        worker = start_worker(postgres_url, tmp_path, settings(BUDGET))
    assert worker.wait() == 0, worker.output
    assert audit(postgres_url, tmp_path).check(budget=BUDGET).scored_again == 0
    assert kept_trials(postgres_url) == uninterrupted(BUDGET)


@pytest.mark.parametrize("point", ["claimed", "finishing", "commit", "returned", "statement"])
def test_down_at_any_point(
    point: str,
    postgres: PostgresServer,
    postgres_url: str,
    tmp_path: Path,
    uninterrupted: Callable[[int], list[object]],
) -> None:
    """Before and in the middle of a transaction, and after a commit whose answer is lost."""
    count = {"claimed": 2, "finishing": 2}.get(point, random.Random(point).randint(10, 40))
    fault = Fault(point, count, stop_self, late=True)
    worker = start_worker(postgres_url, tmp_path, settings(BUDGET), fault)
    worker.wait_stopped()
    with postgres.stopped():
        worker.send(signal.SIGCONT)
        time.sleep(0.1)
    assert worker.wait() == 0, worker.output
    assert audit(postgres_url, tmp_path).check(budget=BUDGET).scored_again == 0
    assert kept_trials(postgres_url) == uninterrupted(BUDGET)


def test_three_workers_through_crashes_of_the_server(
    postgres: PostgresServer, postgres_url: str, tmp_path: Path
) -> None:
    """The server ends three times at a random moment, twice without a farewell: all workers live,
    and no trial is scored twice.
    """
    chance = random.Random(5)
    started = [
        start_worker(postgres_url, tmp_path, settings(budget=10), seconds=0.05) for _ in range(3)
    ]
    for worker in started:
        worker.wait_for("scoring")
    for end in (postgres.crash, postgres.stop, postgres.crash):
        time.sleep(0.1 + 0.15 * chance.random())
        end()
        time.sleep(0.1)
        postgres.start()
    assert [worker.wait() for worker in started] == [0] * 3, [w.output for w in started]
    assert audit(postgres_url, tmp_path).check(budget=10).scored_again == 0


def test_a_server_that_stays_away_ends_the_search_with_words(
    postgres: PostgresServer, postgres_url: str, tmp_path: Path
) -> None:
    """The error says where the result waits and that the same command goes on; it does."""
    worker = start_worker(
        postgres_url,
        tmp_path,
        settings(BUDGET),
        Fault("scored", 3, stop_self),
        patience_s=PATIENCE_S,
    )
    worker.wait_stopped()
    with postgres.stopped():
        worker.send(signal.SIGCONT)
        began = time.monotonic()
        assert worker.wait() == REPLACE_ME, worker.output
        assert PATIENCE_S <= time.monotonic() - began < PATIENCE_S + 5
        waiting = wait_for_spool(tmp_path)
        assert "UnreachableError" in worker.output
        assert str(waiting) in worker.output
        assert "the same command" in worker.output
    assert start_worker(postgres_url, tmp_path, settings(BUDGET)).wait() == 0
    assert audit(postgres_url, tmp_path).check(budget=BUDGET).scored_again == 0


def test_a_stuck_lock_holder(storage: Path | str, tmp_path: Path) -> None:
    """Somebody holds the study's row, or the file, and does nothing: an error within the stated
    time says so; what was scored waits on disk, and the same command goes on.
    """
    worker = start_worker(
        storage,
        tmp_path,
        settings(BUDGET),
        Fault("scored", 2, stop_self),
        before=lambda: wait_for_locks(0.3),
    )
    worker.wait_stopped()
    with holding(storage):
        worker.send(signal.SIGCONT)
        began = time.monotonic()
        assert worker.wait() == 2, worker.output
        assert time.monotonic() - began < 10
    assert re.search(r"(locked|lock|busy)", worker.output), worker.output
    assert "Traceback" not in worker.output
    last = start_worker(storage, tmp_path, settings(BUDGET))
    assert last.wait() == 0, last.output
    assert audit(storage, tmp_path).check(budget=BUDGET).scored_again == 0


def wait_for_locks(seconds: float) -> None:
    """Let this process wait that long for locks."""
    sqlite_errors.LOCK_WAIT_S = seconds
    open_file.BUSY_WAIT_S = seconds


@contextmanager
def holding(storage: Path | str) -> Iterator[None]:
    """Somebody has locked what a finishing trial needs."""
    is_server = "://" in str(storage)
    engine = create_engine(
        str(storage) if is_server else f"sqlite:///{storage}", poolclass=NullPool
    )
    with engine.connect() as connection:
        if is_server:
            connection.execute(text("SELECT * FROM studies FOR UPDATE"))
        else:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        yield
        connection.rollback()


def wait_for_spool(folder: Path) -> Path:
    """The file of the first result that waits."""
    until = time.monotonic() + 10
    while not (found := list(folder.glob("cache/**/spool/*/*/*.json"))):
        assert time.monotonic() < until, "nothing waits on disk"
        time.sleep(0.005)
    return found[0]


def now(storage: str) -> float:
    """The database's clock."""
    with reading(storage) as connection:
        query = "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS DOUBLE PRECISION)"
        return float(connection.execute(text(query)).scalar_one())


def wait_until_seen(storage: str, *, after: float) -> None:
    """Wait until a worker has renewed its lease after a moment."""
    until = time.monotonic() + 10
    with reading(storage) as connection:
        while True:
            seen = connection.execute(text("SELECT max(seen) FROM sensitivity_workers")).scalar()
            connection.rollback()
            if seen is not None and seen > after:
                return
            assert time.monotonic() < until, "no worker was seen again"
            time.sleep(0.01)
