"""A database is the same on SQLite and on PostgreSQL, and outlives a restart of its server."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import select, text

from sensitivity.core.storage_url import Storage, parse_storage
from sensitivity.errors import LostDatabaseError, OutputError, StoreError
from sensitivity.search.database import Database
from sensitivity.search.tables import SensitivityRow

from support.postgres import PostgresServer


def row(name: str, error: float = 0.5) -> tuple[SensitivityRow, tuple[str, ...]]:
    """A row and its primary key."""
    return SensitivityRow(calibration="one", assignment=name, error=error), ("one", name)


def errors(database: Database) -> dict[str, float]:
    """{assignment: error} of all rows that are what was written."""
    return {own.assignment: own.error for own in database.find(SensitivityRow)}


def test_rows_are_kept_and_replaced(shared_storage: Storage) -> None:
    """The first row of a key stays unless another replaces it, to the last bit."""
    with Database.open(shared_storage) as database:
        assert database.storage == shared_storage
        database.add_all([row("a", 0.1 + 0.2), row("b", 5e-324)])
        database.add(*row("a", 9.0))
        database.add(*row("b", 7.0), replaces=True)
    with Database.read(shared_storage) as database:
        assert errors(database) == {"a": 0.1 + 0.2, "b": 7.0}


def test_a_row_that_was_changed_is_made_again(
    shared_storage: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    """It is named and left out, and the next one of its key takes its place."""
    with Database.open(shared_storage) as database:
        database.add_all([row("a"), row("b")])
        with database.writing() as session:
            session.execute(text("UPDATE sensitivity_layers SET error = 3 WHERE assignment = 'a'"))
        assert errors(database) == {"b": 0.5}
        assert "does not fit its checksum" in caplog.text
        database.add_all([row("a", 0.25), row("b", 0.25)])
        assert errors(database) == {"a": 0.25, "b": 0.5}


def test_writers_at_the_same_time_keep_one_row_each(shared_storage: Storage) -> None:
    """Of rows that several threads add at once, in any order, each key has one, and all threads
    succeed.
    """
    names = [f"{i:03}" for i in range(40)]
    failed: list[BaseException] = []

    def add(database: Database, order: list[str], error: float) -> None:
        try:
            database.add_all([row(name, error) for name in order])
        except BaseException as caught:
            failed.append(caught)

    with (
        Database.open(shared_storage, shared=True) as one,
        Database.open(shared_storage, shared=True) as other,
    ):
        threads = [
            threading.Thread(target=add, args=(one, names, 1.0)),
            threading.Thread(target=add, args=(other, names[::-1], 2.0)),
            threading.Thread(target=add, args=(other, names, 3.0)),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failed
        assert sorted(errors(one)) == names


def test_a_transaction_is_kept_whole_or_not_at_all(shared_storage: Storage) -> None:
    """What was written before an error in the transaction is not there."""

    def change(database: Database) -> None:
        with database.writing() as session:
            session.execute(text("DELETE FROM sensitivity_meta"))
            raise KeyError

    with Database.open(shared_storage) as database:
        with pytest.raises(KeyError):
            change(database)
        with database.reading() as session:
            assert session.scalar(text("SELECT count(*) FROM sensitivity_meta"))


def test_reading_sees_one_state(shared_storage: Storage) -> None:
    """Two queries of one `reading` agree, though another worker would write meanwhile: it is kept
    waiting by a file, and not seen by a server's transaction.
    """
    with Database.open(shared_storage, shared=True) as one:
        one.add(*row("a"))
        with Database.open(shared_storage, shared=True) as other:
            with one.reading() as session:
                assert len(session.scalars(select(SensitivityRow)).all()) == 1
                thread = threading.Thread(target=other.add, args=row("b"))
                thread.start()
                thread.join(0.2)
                session.expire_all()
                assert len(session.scalars(select(SensitivityRow)).all()) == 1
            thread.join(30)
            assert sorted(errors(one)) == ["a", "b"]


def test_who_reads_cannot_write(shared_storage: Storage) -> None:
    """Through a database that is read nothing is changed, after a `reading` neither."""
    Database.open(shared_storage).close()
    with Database.read(shared_storage) as database:
        assert not database.may_write
        assert errors(database) == {}
        for _ in range(2):
            with pytest.raises(OutputError, match="cannot be written"):
                database.add(*row("a"))
        assert errors(database) == {}


def test_a_file_has_a_path_and_a_server_has_none(shared_storage: Storage) -> None:
    """Both can be described; the description has no password."""
    with Database.open(shared_storage) as database:
        if isinstance(shared_storage, Path):
            assert (database.path, database.describe()) == (shared_storage, str(shared_storage))
            assert database.writer() == "this process"
            return
        assert database.is_shared
        assert database.writer() is None
        with pytest.raises(StoreError, match=r"sensitivity:\*\*\*@127.* is on a server"):
            _ = database.path
        assert str(shared_storage.url.password) not in f"{database.describe()} {database.url}"


@pytest.mark.parametrize("restart", [PostgresServer.stop, PostgresServer.crash])
def test_a_database_outlives_a_restart_of_its_server(
    restart: Callable[[PostgresServer], None], postgres: PostgresServer, postgres_url: str
) -> None:
    """While the server is down each use says so; when it is back the same object works, and has
    what was written before.
    """
    with Database.open(parse_storage(postgres_url)) as database:
        database.add(*row("a"))
        restart(postgres)
        for _ in range(2):
            with pytest.raises(LostDatabaseError, match=r"does not answer.*goes on"):
                database.add(*row("b"))
        postgres.start()
        assert errors(database) == {"a": 0.5}
        restart(postgres)
        postgres.start()
        database.add(*row("b"))
        with database.locked("name"):
            assert errors(database) == {"a": 0.5, "b": 0.5}


def test_a_transaction_that_loses_its_server_is_undone(
    postgres: PostgresServer, postgres_url: str
) -> None:
    """It ends with an error after which the same can be tried again."""

    def change(database: Database) -> None:
        with database.writing() as session:
            session.add(row("a")[0])
            session.flush()
            postgres.crash()

    with Database.open(parse_storage(postgres_url)) as database:
        with pytest.raises(LostDatabaseError):
            change(database)
        postgres.start()
        assert errors(database) == {}
        database.add(*row("a"))
        assert errors(database) == {"a": 0.5}
