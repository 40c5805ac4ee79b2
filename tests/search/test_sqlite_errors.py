"""Each error of SQLite has its own words, and none advises to remove a database."""

import multiprocessing
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from multiprocessing.connection import Connection
from pathlib import Path

import optuna
import pytest

from sensitivity.errors import OutputError, StoreError, UserError
from sensitivity.search import open_file
from sensitivity.search.held_file import HeldFile
from sensitivity.search.optuna_storage import open_storage
from sensitivity.search.sqlite_errors import sqlite_error
from sensitivity.search.store import Store

FORK = multiprocessing.get_context("fork")
CODES = {
    name: getattr(sqlite3, name)
    for name in dir(sqlite3)
    if name.startswith("SQLITE_") and isinstance(getattr(sqlite3, name), int)
}
WORDS = {
    "SQLITE_BUSY": "is busy: another program has locked it",
    "SQLITE_BUSY_SNAPSHOT": "is busy",
    "SQLITE_LOCKED_SHAREDCACHE": "is busy",
    "SQLITE_FULL": "expected a disk with room: free some and run the same command, it goes on",
    "SQLITE_IOERR_WRITE": "expected a disk with room",
    "SQLITE_IOERR_FSYNC": "expected a disk with room",
    "SQLITE_IOERR_READ": "expected a disk that works",
    "SQLITE_IOERR_SHORT_READ": "expected a disk that works",
    "SQLITE_IOERR_LOCK": "expected a file system with locks",
    "SQLITE_IOERR_NOMEM": "too little memory",
    "SQLITE_NOMEM": "too little memory",
    "SQLITE_READONLY": "a file that may only be read",
    "SQLITE_READONLY_DIRECTORY": "a folder that may only be read",
    "SQLITE_READONLY_ROLLBACK": "a process that was killed left a change in it half done",
    "SQLITE_READONLY_DBMOVED": "was moved, renamed, replaced or deleted",
    "SQLITE_CANTOPEN": "cannot be written",
    "SQLITE_CANTOPEN_ISDIR": "cannot be written",
    "SQLITE_CORRUPT": "is damaged .*keep the file",
    "SQLITE_CORRUPT_INDEX": "is damaged .*keep the file",
    "SQLITE_NOTADB": "is no database of sensitivity .*name another `storage`",
    "SQLITE_ERROR": "is damaged .*a backup of it",
    "SQLITE_SCHEMA": "is damaged",
}


@pytest.fixture
def held(tmp_path: Path) -> Iterator[HeldFile]:
    """A held file."""
    file = HeldFile.take(tmp_path / "study.db")
    yield file
    file.release()


def failure(code: int) -> sqlite3.OperationalError:
    """An error with this code."""
    error = sqlite3.OperationalError("what SQLite says")
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize("name", WORDS)
def test_words_of_a_code(held: HeldFile, name: str) -> None:
    """What was found and the next step are those of the code, whatever the message says."""
    assert re.search(WORDS[name], str(sqlite_error(held, failure(CODES[name]))))


def test_no_code_advises_to_remove_a_database(held: HeldFile) -> None:
    """All codes of SQLite, and errors without one, are UserErrors with a next step; none says to
    delete a study.
    """
    errors = [sqlite_error(held, failure(code)) for code in CODES.values()]
    errors += [
        sqlite_error(held, sqlite3.OperationalError("no code")),
        sqlite_error(held, MemoryError()),
    ]
    assert len(errors) > 100
    for error in errors:
        assert isinstance(error, UserError)
        assert "expected" in str(error) or "name a `storage`" in str(error)
        assert not re.search(r"\b(remove|delete|erase|drop)\b", str(error))


def lock(path: Path, ready: Connection, done: Connection) -> None:
    """Locks the whole database until it is told to stop."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        ready.send(True)
        done.recv()


def test_a_database_that_another_program_has_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening, writing and Optuna's own storage say that it is busy and who has it; the study goes
    on afterwards.
    """
    monkeypatch.setattr(open_file, "BUSY_WAIT_S", 0.05)
    path = tmp_path / "study.db"
    with Store.open(path) as store:
        study = optuna.create_study(storage=open_storage(store))
        here, there = FORK.Pipe()
        stop, stopped = FORK.Pipe()
        other = FORK.Process(target=lock, args=(path, there, stopped), daemon=True)
        other.start()
        assert here.poll(30)
        busy = rf"is busy: another program .*\(process {other.pid}, .*goes on"
        with pytest.raises(StoreError, match=busy):
            store.save_sensitivity("one", "a", 0.5)
        with pytest.raises(StoreError, match=busy):
            study.set_user_attr("a", 1)
        with pytest.raises(StoreError, match=busy):
            study.ask()
        store.close()
        with pytest.raises(StoreError, match=busy):
            Store.open(path)
        stop.send(True)
        other.join()
    with Store.open(path) as store:
        assert store.find_sensitivities("one") == {}


@pytest.mark.parametrize("pages", [1, 3, 8, 14, 20, 30])
def test_a_disk_that_is_full_while_tables_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pages: int
) -> None:
    """Wherever the disk is full, ours or Optuna's tables, that is said; with room the same file
    becomes a database.
    """
    plain = HeldFile.connect

    def connect(self: HeldFile) -> sqlite3.Connection:
        connection = plain(self)
        connection.execute(f"PRAGMA max_page_count = {pages}")
        return connection

    def make() -> None:
        with Store.open(tmp_path / "study.db") as store:
            optuna.create_study(storage=open_storage(store))

    with monkeypatch.context() as patched:
        patched.setattr(HeldFile, "connect", connect)
        with pytest.raises(OutputError, match=r"disk is full.*disk with room.*goes on"):
            make()
    make()
