"""Where does a database lie, and who else may use it? `Place`: a file, or a server.

    place = open_place(Path("study.db"))                 # a file of this process alone
    place = open_place(Path("study.db"), shared=True)    # a file of several workers of this host
    place = open_place(parse_storage("postgresql://me@host/studies"))
    place = read_place(Path("study.db"))                 # reads beside whoever writes
    engine = place.engine()                              # SQLAlchemy's, with connections to it
    with place.locked("schema"):                         # one process at a time
        ...

Conventions. A server is always shared. Every engine of a place raises our errors
(`search.sqlite_errors`, `search.postgres_errors`). A transaction that may write has the file of
SQLite from its beginning (BEGIN IMMEDIATE): two of them wait for each other, and neither finds in
its middle that the other was faster. A transaction that only reads (`reads`) sees one state.

A server's is in `search.server_place`, which needs psycopg. What neither does: look into a
database. `search.database` does.
"""

import logging
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from sqlalchemy import URL, Connection, Engine, create_engine, event

from sensitivity.core.storage_url import Storage, StorageUrl, parse_storage
from sensitivity.errors import OutputError, UserError
from sensitivity.search import sqlite_errors
from sensitivity.search.dialects import lock_number
from sensitivity.search.file_systems import network_kind
from sensitivity.search.held_file import HeldFile
from sensitivity.search.open_file import OpenFile
from sensitivity.search.read_file import ReadFile

log = logging.getLogger(__name__)
_warned: set[Path] = set()
"""Files that were said to lie on a network file system: once in a process."""


class Place(Protocol):
    """Where a database lies.

    Attributes:
        is_server: whether it is on a server, and no file.
        is_shared: whether other processes may write it meanwhile.
        may_write: whether anything may be written through this object.
        storage: the path, or the URL with its password.
        path: of the file; None for a server.
        url: for SQLAlchemy, without a password; connections are made by `engine_options`.
        reads: execution options of a transaction that writes nothing, and sees one state.
    """

    is_server: bool
    is_shared: bool
    may_write: bool
    storage: Storage
    path: Path | None
    url: URL
    reads: Mapping[str, Any]

    def describe(self) -> str:
        """The path, or the URL without its password, for messages."""

    def engine(self, **options: Any) -> Engine:
        """An engine with connections to this place, which raises our errors."""

    def engine_options(self, *, writes_notes: bool = False) -> dict[str, Any]:
        """What `create_engine` needs beside `url`, for who makes an engine by itself.

        `watch` belongs to it.
        """

    def watch(self, engine: Engine, *, writes_notes: bool = False) -> None:
        """Let an engine's errors be ours, and its transactions those of this place.

        `writes_notes`: whether it writes, though the place is only read, what nobody else writes.
        """

    def translated(self, error: BaseException | None) -> UserError | None:
        """Our error for what the driver reported, among the causes of an error; None for others."""

    def check_may_write(self) -> None:
        """Refuse now what could not be written after hours. Raises OutputError."""

    def holder(self) -> str | None:
        """Which process has the place to write it, in words; None where none does, or where that
        cannot be told, as for a server.
        """

    def locked(self, name: str, *, wait_s: float | None = None) -> AbstractContextManager[None]:
        """One process and thread at a time has a name; not twice within one another.

        Raises InUseError where another has it for longer than `wait_s`; None is
        `sqlite_errors.LOCK_WAIT_S`.
        """

    def release(self) -> None:
        """Leave the place. The connections must be closed before."""


def open_place(storage: Storage, *, wait_s: float = 0, shared: bool = False) -> Place:
    """A place to write: a file that is made if it is not there, or a server.

    Args:
        storage: the path, or the URL.
        wait_s: how long to wait for another process that has the file.
        shared: whether other workers may write the file too.

    Raises:
        OutputError: the file cannot be made or opened; or it may not be shared, on a network file
            system.
        InUseError: another process has the file.
        LostDatabaseError: the server does not answer.
        StoreError: the server refuses the connection, or its version is too old.
        UserError: it is a URL of another kind.
    """
    storage = parse_storage(storage)  # a text, or a URL that became a Path, in Python
    if isinstance(storage, StorageUrl):
        from sensitivity.search.server_place import ServerPlace

        return ServerPlace(storage, writes=True)
    kind = network_kind(storage)
    if kind is not None and shared:
        raise OutputError(
            f"{storage} lies on a network file system ({kind}), where SQLite's locks may not hold;"
            " expected a disk of this host for a file that several workers share: name a"
            " `storage` on one, or a PostgreSQL server (postgresql://...)"
        )
    place = FilePlace(HeldFile.take(storage, wait_s=wait_s, shared=shared))
    if kind is not None and storage not in _warned:
        _warned.add(storage)
        log.warning(
            "%s lies on a network file system (%s), where SQLite's locks may not hold: let one host"
            " at a time use it, or name a `storage` on a disk of this host or a PostgreSQL server",
            storage,
            kind,
        )
    return place


def read_place(storage: Storage) -> Place:
    """A place to read, whoever writes it meanwhile. Nothing is made.

    Raises StoreError where it is not there; else as `open_place`.
    """
    storage = parse_storage(storage)
    if isinstance(storage, StorageUrl):
        from sensitivity.search.server_place import ServerPlace

        return ServerPlace(storage, writes=False)
    return FilePlace(ReadFile.open(storage))


class FilePlace:
    """An SQLite file: of this process alone, shared with other workers, or only read."""

    is_server = False
    reads: Mapping[str, Any] = MappingProxyType({"sensitivity_reads": True})

    def __init__(self, file: OpenFile) -> None:
        self.file = file
        self.storage: Storage = file.path
        self.path: Path | None = file.path
        # The URL is built, not written as text: ? and % in a file name mean themselves.
        self.url = URL.create("sqlite", database=str(file.path.absolute()))
        self.may_write = isinstance(file, HeldFile) and file.is_writable
        self.is_shared = isinstance(file, HeldFile) and file.is_shared

    def describe(self) -> str:
        """The path."""
        return str(self.file.path)

    def engine(self, **options: Any) -> Engine:
        """See `Place`."""
        engine = create_engine(self.url, **self.engine_options(), **options)
        self.watch(engine)
        return engine

    def engine_options(self, *, writes_notes: bool = False) -> dict[str, Any]:
        """See `Place`."""
        return {"creator": lambda: self._connect(writes_notes=writes_notes)}

    def _connect(self, *, writes_notes: bool) -> sqlite3.Connection:
        try:
            return OpenFile.connect(self.file) if writes_notes else self.file.connect()
        except (sqlite3.Error, MemoryError) as error:
            raise sqlite_errors.sqlite_error(self.file, error) from None

    def watch(self, engine: Engine, *, writes_notes: bool = False) -> None:
        """See `Place`."""
        writes = self.may_write or writes_notes
        sqlite_errors.translate_errors(engine, self.file)

        @event.listens_for(engine, "begin")
        def begin(connection: Connection) -> None:
            reads = not writes or connection.get_execution_options().get("sensitivity_reads")
            connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

    def translated(self, error: BaseException | None) -> UserError | None:
        """See `Place`."""
        for cause in sqlite_errors.causes(error):
            if isinstance(cause, sqlite3.Error | MemoryError):
                return sqlite_errors.sqlite_error(self.file, cause)
        return None

    def check_may_write(self) -> None:
        """See `Place`."""
        file = self.file
        folder = file.path.absolute().parent
        what = "the file" if not file.is_writable else f"its folder {folder}"
        if not file.is_writable or not os.access(folder, os.W_OK | os.X_OK):
            raise OutputError(
                f"{file.path} cannot be written: {what} is read-only; expected the right to write:"
                " give it, or name a `storage` in a folder that can be written"
            )

    def holder(self) -> str | None:
        """See `Place`."""
        return self.file.holder() if isinstance(self.file, ReadFile) else "this process"

    @contextmanager
    def locked(self, name: str, *, wait_s: float | None = None) -> Iterator[None]:
        """See `Place`. Who only reads has nothing to keep others from."""
        if isinstance(self.file, HeldFile) and self.file.is_writable:
            wait_s = sqlite_errors.LOCK_WAIT_S if wait_s is None else wait_s
            with self.file.locked(name, number=lock_number(name), wait_s=wait_s):
                yield
        else:
            yield

    def release(self) -> None:
        """See `Place`."""
        self.file.release()
