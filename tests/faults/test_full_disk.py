"""A disk that is full, of this host or of the server: the error names the file and what is free,
nothing is damaged, and the same command goes on.
"""

import resource
import signal
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from support.fake_workers import Fault, settings, start_worker, stop_self
from support.fault_audit import audit, kept_trials

BUDGET = 8
FULL = """
CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'could not extend file "base/1/2": No space left on device'
    USING ERRCODE = '53100', HINT = 'Check free disk space.';
END $$;
CREATE TRIGGER full_disk BEFORE INSERT ON sensitivity_scores
  FOR EACH ROW EXECUTE FUNCTION full_disk();
"""


def test_this_hosts_disk_is_full(
    tmp_path: Path, uninterrupted: Callable[[int], list[object]]
) -> None:
    """A limit on the size of files stands for it: SQLite sees the same error."""
    path = tmp_path / "study.db"
    assert start_worker(path, tmp_path, settings(budget=1)).wait() == 0
    size = path.stat().st_size
    worker = start_worker(path, tmp_path, settings(BUDGET), before=lambda: limit_files(size))
    assert worker.wait() == 2, worker.output
    assert f"{path} cannot be written" in worker.output
    assert "bytes are free on its disk" in worker.output
    assert "run the same command, it goes on" in worker.output
    assert "Traceback" not in worker.output
    last = start_worker(path, tmp_path, settings(BUDGET))
    assert last.wait() == 0, last.output
    assert audit(path, tmp_path).check(budget=BUDGET).scored_again == 0
    assert kept_trials(path) == uninterrupted(BUDGET)


def test_the_servers_disk_is_full(
    postgres_url: str, tmp_path: Path, uninterrupted: Callable[[int], list[object]]
) -> None:
    """The server is named; what was scored waits on this host's disk and is not scored again."""
    worker = start_worker(postgres_url, tmp_path, settings(BUDGET), Fault("scored", 4, stop_self))
    worker.wait_stopped()
    execute(postgres_url, FULL)
    worker.send(signal.SIGCONT)
    assert worker.wait() == 2, worker.output
    assert "127.0.0.1" in worker.output
    assert "No space left on device" in worker.output
    execute(postgres_url, "DROP FUNCTION full_disk CASCADE")
    last = start_worker(postgres_url, tmp_path, settings(BUDGET))
    assert last.wait() == 0, last.output
    assert audit(postgres_url, tmp_path).check(budget=BUDGET).scored_again == 0
    assert kept_trials(postgres_url) == uninterrupted(BUDGET)


def limit_files(size: int) -> None:
    """Let this process write no file beyond a size."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def execute(url: str, statements: str) -> None:
    """Run statements on a server."""
    engine = create_engine(url, poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(text(statements))
