"""What went wrong on a PostgreSQL server, and what is the next step? `postgres_error`.

The server says what failed by a code
(https://www.postgresql.org/docs/current/errcodes-appendix.html). Where no connection was made there
is only a text. What may succeed later is a `LostDatabaseError`:
the server does not answer, starts, stops, or has undone a transaction. Nothing that is raised here
holds a password.

    translate_errors(engine, place)     # from now on the engine's errors are UserErrors

What the driver says of a row that is there already (IntegrityError) stays as it is.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from sqlalchemy import Engine, event
from sqlalchemy.engine import ExceptionContext

from sensitivity.core.words import first_line, printable
from sensitivity.errors import (
    DamageError,
    InUseError,
    LostDatabaseError,
    OutputError,
    StoreError,
    UserError,
)
from sensitivity.search import sqlite_errors
from sensitivity.search.sqlite_errors import GOES_ON

if TYPE_CHECKING:
    import psycopg

STATEMENT_S = 120.0
"""How long one statement may take. Reading 10,000 trials takes some seconds."""

_LOCK, _CANCELLED, _READ_ONLY = "55P03", "57014", "25006"
_FULL = ("53100", "53400")
_LOST = ("57P01", "57P02", "57P03", "57P05", "25P03", "25P04", "53200", "53300", "40001", "40P01")
_WHO = ("28", "3D")
"""How codes begin that refuse a user or a database."""
_BROKEN = ("42P01", "42703", "XX001", "XX002")
_REFUSED: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        ("password authentication", "no password", "SASL", "authentication failed"),
        "expected a user and a password that it takes: correct the URL, or set PGPASSWORD or"
        " ~/.pgpass",
    ),
    (
        ("pg_hba.conf", "not permitted", "permission denied", "SSL", "GSSAPI", "certificate"),
        "expected a connection that it allows: ask who runs the server, or set `?sslmode=` in the"
        " URL",
    ),
    (
        ('FATAL:  role "',),
        "expected a user that it knows: correct the URL, or have the user made",
    ),
    (
        ('FATAL:  database "',),
        "expected a database that is there: correct the URL, or make it (`createdb`)",
    ),
    (
        ("invalid ", "bad value", "unsupported startup", "FATAL:"),
        "expected parameters that the server takes: correct the URL; a pooler such as PgBouncer"
        " will not do, name the server itself",
    ),
)
"""(words in the text of a refused connection, next step), the first that fits."""
_RETURNS = (
    "starting up",
    "shutting down",
    "not yet accepting",
    "recovery",
    "too many",
    "connection slots",
    "refused",
)
"""Words in the text of a refused connection that may succeed later, whatever else it says."""


class Server(Protocol):
    """What is needed of the place of a database (`search.server_place`)."""

    def describe(self) -> str:
        """Its URL without the password."""

    def hide(self, text: str) -> str:
        """A text without the password."""

    def lock_holder(self) -> str | None:
        """Which session has locked what others wait for, in words."""


def translate_errors(engine: Engine, server: Server) -> None:
    """Have an engine raise UserErrors for what PostgreSQL reports.

    A connection that the pool finds dead before it is used is replaced, and nothing is raised.
    """
    import psycopg

    @event.listens_for(engine, "handle_error")
    def translate(context: ExceptionContext) -> None:
        error = context.original_exception
        if context.is_pre_ping or isinstance(error, psycopg.IntegrityError):
            return
        if isinstance(error, psycopg.Error):
            raise postgres_error(server, error, lost=context.is_disconnect)


def refused_connection(server: Server, error: "psycopg.Error") -> UserError:
    """The error of a connection that was not made: what was found, expected, the next step."""
    reason = _reason(server, error)
    if not (error.sqlstate or "28").startswith(_WHO):
        return postgres_error(server, error, lost=True)
    if not any(words in reason for words in _RETURNS):
        for words, step in _REFUSED:
            if any(word in reason for word in words):
                return StoreError(f"{server.describe()} refuses the connection ({reason}); {step}")
    return _lost(server, reason)


def postgres_error(server: Server, error: "psycopg.Error", *, lost: bool = False) -> UserError:
    """The error of a statement in words: what was found, what was expected, the next step.

    Args:
        server: whose error it is.
        error: of the driver.
        lost: whether the connection is broken.
    """
    where, reason, code = server.describe(), _reason(server, error), error.sqlstate or ""
    if code == _LOCK:
        who = server.lock_holder()
        return InUseError(
            f"{where} is busy: another session has locked it for more than"
            f" {sqlite_errors.LOCK_WAIT_S:g} s{f' ({who})' if who else ''}; expected it to be free:"
            f" wait until that session is done, or end it, and {GOES_ON}"
        )
    if code == _CANCELLED:
        return InUseError(
            f"{where} is busy ({reason}); expected an answer within {STATEMENT_S:g} s: look at the"
            f" load of the server, and {GOES_ON}"
        )
    if code in _FULL:
        return OutputError(
            f"{where} cannot be written ({reason}): the disk of the server is full; expected one"
            f" with room: free some there, and {GOES_ON}"
        )
    if code in _LOST or code.startswith("08") or lost or _is_of_connection(error):
        return _lost(server, reason)
    if code == _READ_ONLY:
        return read_only(where, reason)
    if code == "42501":
        return OutputError(
            f"{where} cannot be used ({reason}); expected the right to make tables there and to"
            " write them: have `GRANT CREATE, USAGE ON SCHEMA public TO` the user of the URL run,"
            " or name a database that this user owns"
        )
    if code.startswith(_WHO):
        return refused_connection(server, error)
    if code in _BROKEN:
        return DamageError(
            f"{where} is damaged ({reason}); expected the tables that a search wrote: keep the"
            " database, and name as `storage` a backup of it or a new one"
        )
    return StoreError(
        f"{where} cannot be read or written ({reason}); expected a PostgreSQL database that a"
        " search made: look at the server's log, or name another `storage`"
    )


def read_only(where: str, reason: str) -> OutputError:
    """What is said of a server that takes no changes."""
    return OutputError(
        f"{where} cannot be written ({reason}): the server is a standby or set to be read only;"
        " expected one that may be written: name the primary server"
    )


def find_lock_holder(query: Callable[[str], list[Any]]) -> str | None:
    """The session of a server that others wait for, in words; None where none is seen.

    Args:
        query: the rows of a statement.
    """
    rows = query(
        "SELECT a.pid, a.application_name, host(a.client_addr), a.state,"
        " EXTRACT(EPOCH FROM clock_timestamp() - a.xact_start) FROM pg_stat_activity a"
        " WHERE a.datname = current_database() AND a.pid <> pg_backend_pid() AND EXISTS ("
        "SELECT 1 FROM pg_locks l WHERE l.pid = a.pid AND l.granted AND ("
        "l.locktype = 'advisory' OR (l.locktype = 'relation' AND l.mode NOT IN"
        " ('AccessShareLock') AND l.database = (SELECT oid FROM pg_database WHERE datname ="
        " current_database()))))"
        " ORDER BY (a.wait_event_type = 'Lock') IS TRUE, a.xact_start LIMIT 1"
    )
    if not rows:
        return None
    process, program, host, state, seconds = rows[0]
    words = [f"process {process} of the server"]
    words += [printable(str(program))] if program else []
    words += [f"from {host}"] if host else []
    words += [printable(str(state))] if state else []
    words += [f"for {float(seconds):.0f} s"] if seconds is not None else []
    return ", ".join(words)


def _lost(server: Server, reason: str) -> LostDatabaseError:
    return LostDatabaseError(
        f"{server.describe()} does not answer ({reason}); expected a PostgreSQL server that runs:"
        f" start it, or look at the connection to it, and {GOES_ON}"
    )


def _is_of_connection(error: "psycopg.Error") -> bool:
    """Whether the driver says that the connection broke; an error of a statement has a code."""
    import psycopg

    return isinstance(error, psycopg.OperationalError) and error.sqlstate is None


def _reason(server: Server, error: "psycopg.Error") -> str:
    """What the driver says, on one line: of several attempts to connect, the last one."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    attempts = [line for line in lines if line.startswith("- ")]
    text = attempts[-1][2:] if attempts else first_line(error)
    return printable(server.hide(text))[:200]
