"""How is a database on a PostgreSQL server used? `ServerPlace`, a `Place` (`search.places`).

    place = ServerPlace(StorageUrl.parse("postgresql://me@host/studies"), writes=True)
    engine = place.engine()                  # connections are checked before they are used
    with place.locked("schema"):             # a session of its own, whatever engines do meanwhile
        ...

Conventions. Nothing waits for ever: not for a connection, a lock, a statement, a transaction whose
process stands still, or a network that is gone; the constants say how long. A setting in the URL
(`?options=-c lock_timeout=5s`) or in PGOPTIONS wins over ours. A password that is not in the URL is
found by libpq in PGPASSWORD or ~/.pgpass. The engine's URL has no password.

What this module does not do: try again (`search.patience`), or look into a database.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from sqlalchemy import Engine, create_engine

from sensitivity.core.storage_url import Storage, StorageUrl
from sensitivity.errors import InUseError, StoreError, UserError
from sensitivity.search import postgres_errors, sqlite_errors
from sensitivity.search.dialects import lock_number

CONNECT_S = 10
"""How long a server may take to take a connection."""
IDLE_S = 20.0
"""After which a server ends a transaction whose process says nothing: one that was paused in the
middle of it. Below `sqlite_errors.LOCK_WAIT_S`, so that those who wait for it go on.
"""
KEEPALIVE = {
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,
}
"""A server that is gone without a word (power, network) is noticed 10 + 3 x 5 s later: by what is
sent to a connection that waits, and by what was sent and not received (in milliseconds).
"""
OLDEST = 13
"""The oldest version of PostgreSQL: older ones get no corrections any more."""
POOL: dict[str, Any] = {"pool_pre_ping": True, "pool_size": 2, "max_overflow": 10}
"""Of connections to a server: checked before use, two of them kept. A server takes 100 as it is
delivered, and a study may have many workers.
"""


class ServerPlace:
    """A database of a PostgreSQL server. What is made here has connected once."""

    is_server = is_shared = True
    path: Path | None = None
    reads: Mapping[str, Any] = MappingProxyType({"isolation_level": "REPEATABLE READ"})

    def __init__(self, url: StorageUrl, *, writes: bool) -> None:
        self.storage: Storage = url
        self._url, self.may_write = url, writes
        if not writes:
            self.reads = {}  # each transaction of a reader is one already
        self.url = url.without_secrets
        with self.connect() as connection:
            row = self._first_row(connection, "SELECT pg_is_in_recovery()")
        self.is_standby = bool(row[0])
        self.may_write = writes and not self.is_standby

    def describe(self) -> str:
        """The URL without its password."""
        return str(self._url)

    def hide(self, text: str) -> str:
        """A text without the URL's secrets."""
        return self._url.hide(text)

    def engine(self, **options: Any) -> Engine:
        """See `search.places.Place`."""
        engine = create_engine(self.url, **self.engine_options(), **options)
        self.watch(engine)
        return engine

    def engine_options(self, *, writes_notes: bool = False) -> dict[str, Any]:
        """See `search.places.Place`."""
        return {"creator": lambda: self.connect(writes_notes=writes_notes), **POOL}

    def connect(self, *, writes_notes: bool = False) -> Any:
        """A connection of psycopg's.

        Raises LostDatabaseError where the server does not answer, StoreError where it refuses the
        connection, is older than `OLDEST`, or keeps text as no UTF-8.
        """
        import psycopg

        dialect: Any = self._url.url.get_dialect()
        own, given = dialect(dbapi=psycopg).create_connect_args(self._url.url)
        settings = {
            "application_name": "sensitivity",
            "connect_timeout": CONNECT_S,
            **KEEPALIVE,
            **given,
            "options": self._settings(str(given.get("options", "")), writes_notes),
        }
        try:
            connection = psycopg.connect(*own, **settings)
        except psycopg.Error as error:
            raise postgres_errors.refused_connection(self, error) from None
        fault = self._fault(connection.info)
        if fault is not None:
            connection.close()
            raise fault
        return connection

    def _first_row(self, connection: Any, query: str) -> Any:
        """The first row of a query. Raises our errors."""
        import psycopg

        try:
            return connection.execute(query).fetchone()
        except psycopg.Error as error:
            raise postgres_errors.postgres_error(self, error, lost=connection.broken) from None

    def _settings(self, given: str, writes_notes: bool) -> str:
        """The `options` of a connection; those of PGOPTIONS and of the URL come last and win."""
        settings: dict[str, str] = {
            "lock_timeout": f"{sqlite_errors.LOCK_WAIT_S * 1000:.0f}",
            "statement_timeout": f"{postgres_errors.STATEMENT_S * 1000:.0f}",
            "idle_in_transaction_session_timeout": f"{IDLE_S * 1000:.0f}",
        }
        if not self.may_write and not writes_notes:
            settings["default_transaction_read_only"] = "on"
            settings["default_transaction_isolation"] = r"repeatable\ read"
        ours = [f"-c {name}={value}" for name, value in settings.items()]
        return " ".join([*ours, os.environ.get("PGOPTIONS", ""), given]).strip()

    def _fault(self, info: Any) -> StoreError | None:
        version, encoding = info.server_version, info.parameter_status("server_encoding")
        if version < OLDEST * 10_000:
            return StoreError(
                f"{self.describe()} is of PostgreSQL {version // 10_000}; expected {OLDEST} or"
                " later: update the server, or name another `storage`"
            )
        if encoding != "UTF8":
            return StoreError(
                f"{self.describe()} keeps text as {encoding}; expected UTF8: make a database with"
                " `createdb --encoding UTF8 --template template0` and name it as `storage`"
            )
        return None

    def watch(self, engine: Engine, *, writes_notes: bool = False) -> None:  # noqa: ARG002
        """See `search.places.Place`. What a connection may do was settled when it was made."""
        postgres_errors.translate_errors(engine, self)

    def translated(self, error: BaseException | None) -> UserError | None:
        """See `search.places.Place`."""
        import psycopg

        for cause in sqlite_errors.causes(error):
            if isinstance(cause, psycopg.Error):
                return postgres_errors.postgres_error(self, cause)
        return None

    def check_may_write(self) -> None:
        """See `search.places.Place`."""
        if self.is_standby:
            raise postgres_errors.read_only(self.describe(), "it is in recovery")

    def holder(self) -> None:
        """A server does not tell: workers say it themselves (`search.workers`)."""

    def lock_holder(self) -> str | None:
        """Which session has locked what others wait for, in words; None where that is not seen."""
        import psycopg

        with suppress(UserError, psycopg.Error), self.connect() as connection:
            return postgres_errors.find_lock_holder(
                lambda query: cast("list[Any]", connection.execute(query).fetchall())
            )
        return None

    @contextmanager
    def locked(self, name: str, *, wait_s: float | None = None) -> Iterator[None]:
        """See `search.places.Place`. It is an advisory lock of a session of its own, which ends
        with the process.
        """
        import psycopg

        wait_s = sqlite_errors.LOCK_WAIT_S if wait_s is None else wait_s
        connection = self.connect()
        try:
            try:
                connection.autocommit = True
                connection.execute(f"SET lock_timeout = {max(1, round(wait_s * 1000))}")
                connection.execute(f"SET statement_timeout = {round(wait_s * 1000) + 60_000}")
                connection.execute("SELECT pg_advisory_lock(%s)", (lock_number(name),))
            except psycopg.errors.LockNotAvailable:
                who = self.lock_holder()
                raise InUseError(
                    f"{self.describe()} is busy: another session has had the lock {name!r} for"
                    f" more than {wait_s:g} s{f' ({who})' if who else ''}; expected it to be free:"
                    f" wait until that session is done, or end it, and {sqlite_errors.GOES_ON}"
                ) from None
            except psycopg.Error as error:
                raise postgres_errors.postgres_error(self, error, lost=connection.broken) from None
            yield
        finally:
            connection.close()

    def release(self) -> None:
        """See `search.places.Place`."""
