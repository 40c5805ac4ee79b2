"""A database is read while another process writes it, and nothing of it is changed."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from sensitivity.errors import InUseError, OutputError, StoreError
from sensitivity.search import open_file
from sensitivity.search.finished import KeptStudy, list_optuna_studies
from sensitivity.search.loop import read_search
from sensitivity.search.optuna_storage import open_storage
from sensitivity.search.read_file import ReadFile
from sensitivity.search.store import Store

from support import fake_search
from support.fake_search import BASELINES, CANDIDATES, MODEL, FakeEvaluator

FORK = multiprocessing.get_context("fork")
BUDGET = 5
ASKED = fake_search.settings(budget=BUDGET)


class SlowEvaluator(FakeEvaluator):
    """Takes a while for each score, as a real one does."""

    def score(self, *what: Any, **more: Any) -> Any:
        time.sleep(0.02)
        return super().score(*what, **more)


@pytest.fixture
def searching(tmp_path: Path) -> Iterator[tuple[Path, BaseProcess]]:
    """A database, and the process that has begun to search in it."""
    path = tmp_path / "study.db"
    with pytest.MonkeyPatch.context() as patched:
        child = FORK.Process(
            target=fake_search.search, args=(path, SlowEvaluator(), ASKED, patched), daemon=True
        )
        child.start()
    until = time.monotonic() + 30
    while time.monotonic() < until and not (path.is_file() and studies(path)):
        time.sleep(0.01)
    yield path, child
    child.kill()
    child.join()


def studies(path: Path) -> list[KeptStudy]:
    """The studies in a database, as a reader finds them."""
    with Store.read(path) as store:
        return list_optuna_studies(store, MODEL)


def trials(path: Path) -> int:
    """How many scored trials a reader finds, checksums and all."""
    with Store.read(path, makes_again=False) as store:
        (study,) = list_optuna_studies(store, MODEL)
        return len(read_search(store, study.name, CANDIDATES).trials)


def test_trials_are_read_beside_a_running_search(searching: tuple[Path, BaseProcess]) -> None:
    """Each reading finds a study that is what was written, with at least the trials of the one
    before; nobody else may write meanwhile, and the search goes on to its end.
    """
    path, child = searching
    with pytest.raises(InUseError, match=rf"in use by another search \(process {child.pid}, "):
        Store.open(path)
    with Store.read(path) as store:
        assert str(store.writer()).startswith(f"process {child.pid}, ")
    seen = [trials(path)]
    while child.is_alive():
        seen.append(trials(path))
    child.join()
    assert child.exitcode == 0
    assert seen == sorted(seen)
    assert len(set(seen)) > 3, "the readings lie beside the search"
    with Store.read(path) as store:
        assert store.writer() is None
    assert trials(path) == BASELINES + BUDGET


def test_what_a_killed_writer_left_half_done_is_undone(
    searching: tuple[Path, BaseProcess],
) -> None:
    """After kill -9 a reader finds whole trials, nobody writes, and the search goes on."""
    path, child = searching
    assert child.pid is not None
    before = trials(path)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert before <= trials(path) < BASELINES + BUDGET
    with Store.read(path) as store, Store.open(path) as other:
        assert store.writer() == f"process {os.getpid()}, this one"
        assert other.may_write


def test_a_reader_writes_nothing(tmp_path: Path) -> None:
    """Neither we nor Optuna can write through a reader's connections, and no file is made."""
    path = tmp_path / "study.db"
    with pytest.raises(StoreError, match="is not there; expected the database of a search"):
        Store.read(path)
    with pytest.raises(OutputError, match="it is a folder"):
        Store.read(tmp_path)
    path.touch()
    with Store.read(path) as store:
        assert list_optuna_studies(store, MODEL) == []
        assert store.find_sensitivities("one") == {}
    assert path.read_bytes() == b""
    Store.open(path).close()
    before = path.read_bytes()
    with Store.read(path) as store:
        with pytest.raises(StoreError, match="holds no study yet"):
            open_storage(store)
        with pytest.raises(OutputError, match="may only be read"):
            store.save_sensitivity("one", "a", 0.5)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_transaction_of_a_reader_sees_one_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is committed between two queries of one transaction, and all can be after it."""
    monkeypatch.setattr(open_file, "BUSY_WAIT_S", 0.01)
    path = tmp_path / "study.db"
    with Store.open(path) as writer, Store.read(path) as reader:
        with reader.engine.connect() as connection:
            connection.exec_driver_sql("SELECT * FROM sensitivity_layers").all()
            with pytest.raises(StoreError, match="is busy"):
                writer.save_sensitivity("one", "a", 0.5)
        writer.save_sensitivity("one", "a", 0.5)
        assert reader.find_sensitivities("one") == {"a": 0.5}


def test_closing_a_reader_frees_no_lock_of_this_process(tmp_path: Path) -> None:
    """While this process writes in a transaction, a reader of its own that is closed leaves
    SQLite's lock in place: another process still finds the file locked.
    """
    path = tmp_path / "study.db"
    with Store.open(path) as store, closing(store.place.file.connect()) as raw:
        raw.execute("BEGIN EXCLUSIVE")
        ReadFile.open(path).release()
        query = "SELECT * FROM sqlite_master"
        code = f"import sqlite3; sqlite3.connect({str(path)!r}, timeout=0).execute({query!r})"
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "database is locked" in other.stderr
