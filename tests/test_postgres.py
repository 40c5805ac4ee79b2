"""The PostgreSQL server of the tests: it starts, can be stopped, and leaves nothing behind."""

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from support import postgres as module
from support.postgres import PostgresServer, UnavailableError

KILLED = """
import os, signal
from support.postgres import PostgresServer
server = PostgresServer.start_new()
print(server.folder, server.port, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def ask(url: str, query: str) -> list[object]:
    """The first column of what a query gives, by a connection of its own."""
    engine = create_engine(url, poolclass=NullPool)
    with engine.begin() as connection:
        found = connection.execute(text(query))
        return [row[0] for row in found] if found.returns_rows else []


def test_each_test_gets_an_empty_database_of_its_own(
    postgres: PostgresServer, postgres_url: str
) -> None:
    """A table of one database is not seen in another, and both are on loopback."""
    other = postgres.create_database()
    ask(postgres_url, "CREATE TABLE kept (value int)")
    tables = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
    assert ask(postgres_url, tables) == ["kept"]
    assert ask(other, tables) == []
    assert ask(other, "SHOW listen_addresses") == ["127.0.0.1"]
    ask(other, "CREATE TABLE own (value int)")
    with create_engine(other, poolclass=NullPool).connect():
        postgres.recycle_database(other)
    with pytest.raises(OperationalError, match="does not exist"):
        ask(other, tables)
    again = postgres.create_database()
    assert ask(again, tables) == []
    postgres.drop_database(again)
    with pytest.raises(OperationalError, match="does not exist"):
        ask(again, tables)


@pytest.mark.parametrize("end", [PostgresServer.stop, PostgresServer.crash])
def test_what_was_committed_is_there_after_a_restart(
    end: "object", postgres: PostgresServer, postgres_url: str
) -> None:
    """A stopped or crashed server refuses connections, and has everything when it is back."""
    ask(postgres_url, "CREATE TABLE kept (value int)")
    ask(postgres_url, "INSERT INTO kept VALUES (7)")
    end(postgres)  # type: ignore[operator]
    with pytest.raises(OperationalError, match="refused"):
        ask(postgres_url, "SELECT 1")
    postgres.start()
    assert ask(postgres_url, "SELECT value FROM kept") == [7]


def test_a_wrong_password_is_refused(postgres: PostgresServer, postgres_url: str) -> None:
    """The server asks for its password, which no process shows among its arguments."""
    with pytest.raises(OperationalError, match="password authentication failed"):
        ask(postgres_url.replace("sensitivity:", "sensitivity:x"), "SELECT 1")
    assert postgres.process is not None
    shown = subprocess.run(["ps", "axww", "-o", "args"], capture_output=True, text=True)
    assert str(postgres.folder) in shown.stdout
    assert postgres.password not in shown.stdout
    assert postgres.password not in repr(postgres)


def test_a_killed_test_process_leaves_no_server(postgres: PostgresServer) -> None:
    """The watcher stops the server of a test process that was killed, and removes its folder."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED],
        cwd=Path(module.__file__).parents[1],
        capture_output=True,
        text=True,
    )
    folder, port = done.stdout.split()
    until = time.monotonic() + 20
    while Path(folder).exists() and time.monotonic() < until:
        time.sleep(0.02)
    assert not Path(folder).exists()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(port)))
    assert postgres.folder.exists()


def test_it_is_said_why_there_is_no_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without programs the reason says what to install; broken ones are named."""
    monkeypatch.setattr(module, "_places", lambda: iter(()))
    with pytest.raises(UnavailableError, match=r"apt-get install postgresql"):
        PostgresServer.start_new()
    monkeypatch.setattr(module, "_places", lambda: iter((tmp_path,)))
    with pytest.raises(UnavailableError, match=r"initdb cannot be run \("):
        PostgresServer.start_new()
