"""Who may open a database, and what is in it? `Database`: our tables beside Optuna's.

A database is an SQLite file or lies on a PostgreSQL server (`search.places`). One process writes a
file at a time, unless it is opened `shared`; a server's database is always shared. Others may read
meanwhile. A database that belongs to another program or to another schema is refused and left
unchanged (`search.schema`). What the engine reports becomes an error that says what to do
(`search.sqlite_errors`, `search.postgres_errors`). A row that is not what was written is named and
left out; who asked for it makes it again.

    with Database.open(Path("study.db")) as database:
        database.find(ScoreRow, ScoreRow.evaluation == evaluation)
    with Database.read(Path("study.db")) as database:         # beside a search that runs
        database.writer()                                     # "process 4711, python", None
    with Database.open(parse_storage("postgresql://me@host/studies")) as database:
        with database.writing() as session:                   # one transaction
            ...

Transactions. `reading` sees one state. `writing` has an SQLite file from its beginning, and waits
for others that write; in PostgreSQL rows and names are locked (`search.dialects.lock_name`). Within
one thread neither is used while another one is open: on a file they would wait for each other.

`search.tables` has the tables, `search.store` says what the rows mean. Optuna's tables are those of
`search.optuna_storage`.
"""

import logging
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self, cast

import sqlalchemy
from sqlalchemy import ColumnElement, Engine, select
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session, defer

from sensitivity.core.storage_url import Storage
from sensitivity.core.words import first_line, printable
from sensitivity.errors import DamageError, StoreError
from sensitivity.search import schema
from sensitivity.search.dialects import insert_or_keep, insert_or_replace
from sensitivity.search.places import Place, open_place, read_place
from sensitivity.search.sqlite_errors import damaged
from sensitivity.search.tables import (
    CheckedRow,
    Row,
    ScoreRow,
    SensitivityRow,
    columns_of,
    describe_row,
    is_intact,
    with_checksum,
)

log = logging.getLogger(__name__)


class Database:
    """One open database. Make it with `open` or `read`; close it with `close` or as a context
    manager.

    Attributes:
        place: where it lies.
        engine: SQLAlchemy's.
        engines: all that have connections to the place, Optuna's too; closed with the database.
        lacking: tables of ours that are not there, in a database that is only read.
        has_checksums: False for a database of an older version that may only be read.
        makes_again: whether a row that was changed is left out, since who asks for it makes it
            again; otherwise such a row is an error.
    """

    def __init__(self, place: Place, *, makes_again: bool = True) -> None:
        self.place = place
        self.engine = place.engine()
        self.engines = [self.engine]
        self._reading = self.engine.execution_options(**place.reads)
        self.lacking: set[str] = set()
        self.has_checksums, self.makes_again = True, makes_again

    def use(self, engine: Engine, *, writes_notes: bool = False) -> None:
        """Let an engine's errors be ours, its transactions those of the place, and close it with
        the database.

        Args:
            engine: whose connections are to the place.
            writes_notes: whether its connections write beside the writer, what nobody else writes.
        """
        self.engines.append(engine)
        self.place.watch(engine, writes_notes=writes_notes)

    @property
    def url(self) -> str:
        """The database for Optuna's RDBStorage, without a password. Connections are made by what
        `place.engine_options` has.
        """
        return self.place.url.render_as_string(hide_password=False)

    @property
    def path(self) -> Path:
        """The file. Raises StoreError for a database on a server."""
        if self.place.path is None:
            raise StoreError(
                f"{self.describe()} is on a server; expected a file: name the path of one"
            )
        return self.place.path

    @property
    def storage(self) -> Storage:
        """What it was opened by: the path of the file, or the URL."""
        return self.place.storage

    def describe(self) -> str:
        """The path, or the URL without its password, for messages."""
        return self.place.describe()

    @classmethod
    def open(
        cls,
        storage: Storage,
        *,
        wait_s: float = 0,
        for_reading: bool = False,
        makes_again: bool = True,
        shared: bool = False,
    ) -> Self:
        """Open or create a database, and have it alone: a file, whose folder is made too. On a
        server the database itself must be there, and others may use it too.

        Args:
            storage: the path of an SQLite file, or the URL of a PostgreSQL database.
            wait_s: how long to wait for another process that holds the file.
            for_reading: whether a database that may only be read will do. Who writes nothing at
                all uses `read`.
            makes_again: see the class.
            shared: whether other processes may write the file too.

        Raises:
            OutputError: the folder, file or database cannot be written, or cannot be shared.
            InUseError: another process holds it.
            LostDatabaseError: the server does not answer.
            StoreError: it is no SQLite database, another program made it, or its schema is that of
                another version; or the server refuses the connection.
            DamageError: its tables cannot be read.
        """
        place = open_place(storage, wait_s=wait_s, shared=shared)
        return cls._prepared(place, makes_again=makes_again, must_write=not for_reading)

    @classmethod
    def read(cls, storage: Storage, *, makes_again: bool = True) -> Self:
        """Open a database to read it, whether or not a process writes it meanwhile.

        Arguments as in `open`. Nothing is made, brought up to date or written.

        Raises:
            StoreError: it is not there; else as in `open`.
            OutputError, DamageError, LostDatabaseError: as in `open`.
        """
        return cls._prepared(read_place(storage), makes_again=makes_again, must_write=False)

    @classmethod
    def _prepared(cls, place: Place, *, makes_again: bool, must_write: bool) -> Self:
        """Check the place and its tables; it is closed where they will not do."""
        database = cls(place, makes_again=makes_again)
        try:
            if must_write:
                place.check_may_write()
            found = schema.prepare(database.engine, place, makes_again=makes_again)
            database.lacking, database.has_checksums = set(found.lacking), found.has_checksums
            if not makes_again:
                database._refuse_changes()
        except SQLAlchemyError as error:
            database.close()
            database._refuse_unreadable(error)
        except BaseException:
            database.close()
            raise
        return database

    @property
    def may_write(self) -> bool:
        """Whether anything may be written through this object."""
        return self.place.may_write

    @property
    def is_shared(self) -> bool:
        """Whether other processes may write it meanwhile."""
        return self.place.is_shared

    def locked(self, name: str, *, wait_s: float | None = None) -> AbstractContextManager[None]:
        """One process and thread at a time has a name: see `search.places.Place`.

        It lasts longer than a transaction: for work that several of them belong to.
        """
        return self.place.locked(name, wait_s=wait_s)

    def writer(self) -> str | None:
        """Which process has the file to write it, in words; None where none does. Another system
        than Linux does not tell, nor does a server: workers say it (`search.workers`).
        """
        return self.place.holder()

    def has_studies(self) -> bool:
        """Whether Optuna's tables are there: a search makes them when its model is loaded."""
        with self.reading() as session:
            return schema.table_names(session.connection()) >= schema.OPTUNAS

    def _refuse_changes(self) -> None:
        """Raise DamageError where a score or an error is not what was written.

        For who makes nothing again: without the row another answer might come out.
        """
        self.find(ScoreRow)
        self.find(SensitivityRow)

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session for queries, which sees one state. Raises StoreError where the database cannot
        be read.
        """
        try:
            with Session(self._reading) as session:
                yield session
        except SQLAlchemyError as error:
            self._refuse_unreadable(error)

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A session whose changes are committed at the end, all or none.

        Raises OutputError where they cannot be, InUseError where others that write last too long,
        StoreError where the database cannot be read. A row that is there already (IntegrityError)
        stays the caller's.
        """
        try:
            with Session(self.engine) as session, session.begin():
                yield session
        except IntegrityError:
            raise
        except SQLAlchemyError as error:
            self._refuse_unreadable(error)

    def _refuse_unreadable(self, error: SQLAlchemyError) -> NoReturn:
        """Raise what is said of an error that was not translated when it arose."""
        raise self.place.translated(error) or damaged(
            self.describe(), printable(first_line(error))
        ) from None

    def find(self, kind: type[Row], *conditions: ColumnElement[bool]) -> list[Row]:
        """The rows that fulfil the conditions and are what was written; others are reported."""
        if kind.__tablename__ in self.lacking:
            return []
        query = select(kind).where(*conditions)
        if not self.has_checksums:
            query = query.options(defer(kind.checksum))
        with self.reading() as session:
            rows = [row for row in session.scalars(query) if row is not None]
            session.expunge_all()
        if not self.has_checksums:
            return rows
        good = [row for row in rows if is_intact(row)]
        self.leave_out([row for row in rows if not is_intact(row)], "does not fit its checksum")
        return good

    def leave_out(self, rows: list[Row], why: str) -> None:
        """Say that rows are not used, and why.

        Raises DamageError where nobody makes them again.
        """
        if not rows:
            return
        more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
        text = f"{self.describe()}: {printable(describe_row(rows[0]))}{more} is left out: it {why}"
        if not self.makes_again:
            raise DamageError(f"{text}; expected what was written: {schema.MADE_AGAIN}")
        log.warning("%s; it is made again", text)

    def add(self, row: CheckedRow, identity: tuple[str, ...], *, replaces: bool = False) -> None:
        """Write a row with its checksum.

        An intact one with this primary key stays, unless the new one `replaces` it.
        """
        self.add_all([(row, identity)], replaces=replaces)

    def add_all(
        self, rows: Iterable[tuple[CheckedRow, tuple[str, ...]]], *, replaces: bool = False
    ) -> None:
        """`add` for rows with their primary keys, in one transaction."""
        ordered = sorted(rows, key=lambda pair: pair[1])  # two writers wait, and do not deadlock
        with self.writing() as session:
            connection = session.connection()
            for row, identity in ordered:
                table = cast(sqlalchemy.Table, type(row).__table__)
                values: dict[str, Any] = columns_of(with_checksum(row))
                if replaces or (
                    not insert_or_keep(connection, table, values)
                    and not is_intact(session.get_one(type(row), identity))
                ):
                    insert_or_replace(connection, table, values)

    def close(self) -> None:
        """Let others use the database."""
        for engine in self.engines:
            engine.dispose()
        self.place.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
