"""Each error of a PostgreSQL server has its own words and kind, and none shows a password."""

import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from sqlalchemy import text

from sensitivity.core.storage_url import Storage, StorageUrl, parse_storage
from sensitivity.errors import (
    DamageError,
    InUseError,
    LostDatabaseError,
    OutputError,
    StoreError,
    UserError,
)
from sensitivity.search import postgres_errors, server_place, sqlite_errors
from sensitivity.search.database import Database
from sensitivity.search.postgres_errors import postgres_error
from sensitivity.search.server_place import ServerPlace
from sensitivity.search.tables import SensitivityRow

from support.postgres import PostgresServer

ROW = (SensitivityRow(calibration="one", assignment="a", error=0.5), ("one", "a"))


class Somewhere:
    """A server that nobody asks."""

    def describe(self) -> str:
        return "postgresql://h/d"

    def hide(self, text: str) -> str:
        return text.replace("hunter2", "***")

    def lock_holder(self) -> str | None:
        return "process 7 of the server"


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        ("55P03", InUseError, r"locked it for more than 30 s \(process 7 of the server\).*goes on"),
        ("57014", InUseError, "expected an answer within 120 s"),
        ("53100", OutputError, "disk of the server is full.*free some there.*goes on"),
        ("25006", OutputError, "read only.*name the primary server"),
        ("42501", OutputError, "GRANT CREATE"),
        ("57P01", LostDatabaseError, "does not answer.*start it"),
        ("57P02", LostDatabaseError, "does not answer"),
        ("57P03", LostDatabaseError, "does not answer"),
        ("25P03", LostDatabaseError, "does not answer"),
        ("53200", LostDatabaseError, "does not answer"),
        ("53300", LostDatabaseError, "does not answer"),
        ("40001", LostDatabaseError, "does not answer"),
        ("40P01", LostDatabaseError, "does not answer"),
        ("08006", LostDatabaseError, "does not answer"),
        ("28P01", StoreError, "refuses the connection"),
        ("3D000", StoreError, "refuses the connection"),
        ("42P01", DamageError, "is damaged.*keep the database"),
        ("XX001", DamageError, "is damaged"),
        ("22021", StoreError, "cannot be read or written.*server's log"),
    ],
)
def test_each_code_has_its_kind(code: str, kind: type[UserError], words: str) -> None:
    """What may succeed later, what the user can mend and what is damaged are told apart, and no
    message advises to remove a database.
    """
    error = psycopg.errors.lookup(code)("FATAL:  the reason\nDETAIL: hunter2")
    found = postgres_error(Somewhere(), error)
    assert type(found) is kind
    with pytest.raises(kind, match=words):
        raise found
    assert code == "55P03" or "the reason)" in str(found)
    assert not any(word in str(found).lower() for word in ("remove", "delete", "drop"))


def test_a_broken_connection_is_lost_whatever_its_code() -> None:
    """An error without a code, or with any, is a lost server where the connection is broken."""
    for error in (psycopg.OperationalError("hunter2"), psycopg.errors.lookup("XX000")("hunter2")):
        found = postgres_error(Somewhere(), error, lost=True)
        assert type(found) is LostDatabaseError
        assert "(***)" in str(found)


def refusal(storage: Storage | str, password: str = "hunter2") -> UserError:
    """How opening a database fails, with nothing of the password in what is printed of it."""
    with pytest.raises(UserError) as raised:
        Database.open(parse_storage(storage))
    printed = "".join(traceback.format_exception(raised.value))
    assert password not in printed
    return raised.value


def test_a_refused_connection_says_why(postgres: PostgresServer, postgres_url: str) -> None:
    """Wrong passwords, users, databases and parameters are the user's to mend, each with its next
    step.
    """
    where, name = f"127.0.0.1:{postgres.port}", postgres_url.rpartition("/")[2]
    for url, words in {
        f"postgresql://sensitivity:hunter2@{where}/{name}": "password authentication.*PGPASSWORD",
        f"postgresql://sensitivity@{where}/{name}": "no password supplied.*PGPASSWORD",
        f"postgresql://nobody:hunter2@{where}/{name}": "password authentication failed",
        f"{postgres_url}_no": "does not exist.*createdb",
        f"{postgres_url}?sslmode=require": "SSL.*sslmode",
        f"{postgres_url}?sslmode=nonsense": "correct the URL",
        f"{postgres_url}?connect_timeout=soon": "bad value for connect_timeout.*correct the URL",
        f"{postgres_url}?nonsense=hunter2": r"option \"nonsense\".*correct the URL",
    }.items():
        with pytest.raises(StoreError, match=f"refuses the connection.*{words}"):
            raise refusal(url)
        assert not isinstance(refusal(url), LostDatabaseError)
        refusal(url, postgres.password)


def test_a_server_that_is_not_there_may_come_back() -> None:
    """No answer at the address, and an unknown host, are lost databases."""
    for url in (
        "postgresql://me:hunter2@127.0.0.1:1/d",
        "postgresql://me:hunter2@localhost:1/d",
        "postgresql://me:hunter2@nowhere.invalid/d",
        "postgresql://me:hunter2@/d?host=/nowhere",
    ):
        assert type(refusal(url)) is LostDatabaseError


def test_the_password_may_come_from_the_environment(
    postgres: PostgresServer, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A URL without one works with PGPASSWORD, as after a pickle."""
    url = parse_storage(postgres_url)
    assert isinstance(url, StorageUrl)
    monkeypatch.setenv("PGPASSWORD", postgres.password)
    Database.open(StorageUrl(url.without_secrets)).close()


@contextmanager
def role(postgres: PostgresServer, options: str = "") -> Iterator[str]:
    """A user who may do little; who it is, as a URL begins."""
    postgres.execute(f"CREATE ROLE weak LOGIN PASSWORD 'hunter2' {options}")
    try:
        yield f"postgresql://weak:hunter2@127.0.0.1:{postgres.port}"
    finally:
        postgres.execute("DROP ROLE weak")


def test_a_user_without_rights_is_told_which(postgres: PostgresServer, postgres_url: str) -> None:
    """Who may make no tables, or not use those that are there, learns what to have granted."""
    name = postgres_url.rpartition("/")[2]
    with role(postgres) as weak:
        for _ in range(2):
            with pytest.raises(OutputError, match=r"permission denied.*GRANT CREATE"):
                raise refusal(f"{weak}/{name}")
            Database.open(parse_storage(postgres_url)).close()
    with (
        role(postgres, "CONNECTION LIMIT 0") as weak,
        pytest.raises(LostDatabaseError, match="too many connections"),
    ):
        raise refusal(f"{weak}/{name}")


def test_a_server_that_takes_no_changes(postgres: PostgresServer, postgres_url: str) -> None:
    """A database that is set to be read only is refused for a search, and can be read."""
    name = postgres_url.rpartition("/")[2]
    Database.open(parse_storage(postgres_url)).close()
    postgres.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    with Database.open(parse_storage(postgres_url)) as database:
        with pytest.raises(OutputError, match=r"read-only transaction.*name the primary"):
            database.add(*ROW)
        assert database.find(SensitivityRow) == []


def test_a_database_of_another_encoding_is_refused(postgres: PostgresServer) -> None:
    """Text would come back as bytes."""
    postgres.execute("CREATE DATABASE plain ENCODING 'SQL_ASCII' TEMPLATE template0")
    try:
        with pytest.raises(StoreError, match=r"keeps text as SQL_ASCII; expected UTF8.*createdb"):
            raise refusal(postgres.url("plain"), postgres.password)
    finally:
        postgres.drop_database(postgres.url("plain"))


def test_an_old_server_is_refused(
    postgres: PostgresServer, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message says its version and the oldest that will do."""
    version = int(str(postgres.execute("SHOW server_version_num")[0][0])) // 10_000
    monkeypatch.setattr(server_place, "OLDEST", version + 1)
    with pytest.raises(StoreError, match=f"is of PostgreSQL {version}; expected {version + 1} or"):
        raise refusal(postgres_url, postgres.password)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything waits for a moment only."""
    monkeypatch.setattr(sqlite_errors, "LOCK_WAIT_S", 0.2)
    monkeypatch.setattr(postgres_errors, "STATEMENT_S", 0.4)


@pytest.mark.usefixtures("hasty")
def test_a_stuck_lock_holder_is_named(postgres_url: str) -> None:
    """While another program keeps a lock, a change fails after the stated time and says who that
    is; when the program lets go, the same change succeeds.
    """
    with Database.open(parse_storage(postgres_url)) as database:
        plain = postgres_url.replace("+psycopg", "")
        with psycopg.connect(plain, application_name="backup tool") as other:
            other.execute("LOCK TABLE sensitivity_layers IN SHARE MODE")
            process = other.info.backend_pid
            begun = time.monotonic()
            with pytest.raises(
                InUseError,
                match=rf"more than 0.2 s \(process {process} of the server, backup tool, from 127",
            ):
                database.add(*ROW)
            assert time.monotonic() - begun < 5
        database.add(*ROW)
        assert len(database.find(SensitivityRow)) == 1


@pytest.mark.usefixtures("hasty")
def test_a_statement_that_takes_too_long_is_ended(postgres_url: str) -> None:
    """It is no lost database, since it would take as long again."""
    with Database.open(parse_storage(postgres_url)) as database:
        with pytest.raises(InUseError, match=r"statement timeout\); expected an answer within"):
            ask(database, "SELECT pg_sleep(20)")
        assert ask(database, "SELECT 1") == 1


def test_a_worker_that_stands_still_in_a_transaction_frees_its_locks(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server ends its transaction, so that others go on; when it wakes, it has lost it."""
    monkeypatch.setattr(server_place, "IDLE_S", 0.2)
    url = parse_storage(postgres_url)

    def stand_still(database: Database, other: Database) -> None:
        with database.writing() as session:
            session.execute(text("LOCK TABLE sensitivity_layers"))
            other.add(*ROW)
            session.execute(text("SELECT 1"))

    with Database.open(url) as database, Database.open(url) as other:
        with pytest.raises(LostDatabaseError, match="idle-in-transaction"):
            stand_still(database, other)
        assert len(database.find(SensitivityRow)) == 1


def test_settings_of_the_url_win(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours hold unless PGOPTIONS or the URL says otherwise."""
    monkeypatch.setenv("PGOPTIONS", "-c work_mem=5MB -c lock_timeout=3s")
    url = f"{postgres_url}?options=-c%20lock_timeout%3D7s&application_name=mine"
    with Database.open(parse_storage(url)) as database:
        found = {
            name: ask(database, f"SHOW {name}")
            for name in ("lock_timeout", "work_mem", "application_name", "statement_timeout")
        }
    assert found == {
        "lock_timeout": "7s",
        "work_mem": "5MB",
        "application_name": "mine",
        "statement_timeout": "2min",
    }


def test_a_driver_error_that_another_library_wraps_is_told(postgres_url: str) -> None:
    """What Optuna or Alembic make of it has the driver's error among its causes."""
    url = parse_storage(postgres_url)
    assert isinstance(url, StorageUrl)
    place = ServerPlace(url, writes=True)
    error = RuntimeError("wrapped")
    error.__cause__ = psycopg.errors.lookup("53100")("full")
    assert isinstance(place.translated(error), OutputError)
    assert place.translated(RuntimeError("another")) is None


def ask(database: Database, query: str) -> Any:
    """One value."""
    with database.writing() as session:
        return session.scalar(text(query))
