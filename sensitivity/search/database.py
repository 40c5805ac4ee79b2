"""Who may open a database, and what is in it? `Database`: our tables beside Optuna's.

A database is one SQLite file. One process may write it at a time (`search.held_file`); others may
read it meanwhile (`search.read_file`). A file that belongs to another program or to another schema
is refused and left unchanged. What SQLite reports becomes an error that says what to do
(`search.sqlite_errors`). A row that is not what was written is named and left out; who asked for it
makes it again.

    with Database.open(Path("study.db")) as database:
        database.find(ScoreRow, ScoreRow.evaluation == evaluation)
    with Database.read(Path("study.db")) as database:         # beside a search that runs
        database.writer()                                     # "process 4711, python", None

`search.tables` has the tables, `search.store` says what the rows mean. Optuna's tables are those of
`search.optuna_storage`.
"""

import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sqlalchemy import URL, ColumnElement, Connection, Engine, create_engine, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, defer

from sensitivity.core.words import printable
from sensitivity.errors import DamageError, OutputError, StoreError
from sensitivity.search.held_file import HeldFile
from sensitivity.search.open_file import OpenFile
from sensitivity.search.read_file import ReadFile, read_one_state
from sensitivity.search.seals import OPTUNAS_KEYS, seal_all
from sensitivity.search.sqlite_errors import (
    connect,
    damaged,
    refuse_unreadable,
    translate_errors,
)
from sensitivity.search.tables import (
    CHECKED,
    OWN_KEYS,
    PREFIX,
    CheckedRow,
    MetaRow,
    Row,
    ScoreRow,
    SensitivityRow,
    Table,
    changed_tables,
    describe_row,
    is_intact,
    with_checksum,
)

SCHEMA = "2"
OLDER = ("1",)
"""Schemas that are read, and brought up to date where the file may be written. Schema 1 had no
checksums.
"""
OPTUNAS = {"alembic_version", "studies", "trials"}
"""Tables that every database of Optuna has."""

_MADE_AGAIN = "run the search or calibration of this study again, which makes again what is missing"
log = logging.getLogger(__name__)


class Database:
    """One open database. Make it with `open` or `read`; close it with `close` or as a context
    manager.

    Attributes:
        engine: SQLAlchemy's.
        engines: all that have connections to the file, Optuna's too; closed with the database.
        path: of the file.
        lacking: tables of ours that are not there, in a database that is only read.
        has_checksums: False for a database of an older version that may only be read.
        makes_again: whether a row that was changed is left out, since who asks for it makes it
            again; otherwise such a row is an error.
    """

    def __init__(self, file: OpenFile, *, makes_again: bool = True) -> None:
        self.file, self.path = file, file.path
        # The URL is built, not written as text: ? and % in a file name mean themselves.
        url = URL.create("sqlite", database=str(self.path.absolute()))
        self.engine = create_engine(url, creator=lambda: connect(file))
        self.engines: list[Engine] = []
        self.use(self.engine)
        self.lacking: set[str] = set()
        self.has_checksums, self.makes_again = True, makes_again

    def use(self, engine: Engine, *, writes_notes: bool = False) -> None:
        """Let an engine's errors be ours, its transactions those of the file, and close it with the
        database.

        Args:
            engine: whose connections are to the file.
            writes_notes: whether its connections write beside the writer, what nobody else writes.
        """
        self.engines.append(engine)
        translate_errors(engine, self.file)
        if isinstance(self.file, ReadFile) and not writes_notes:
            read_one_state(engine)

    @property
    def url(self) -> str:
        """The database for Optuna's RDBStorage."""
        return self.engine.url.render_as_string(hide_password=False)

    @classmethod
    def open(
        cls, path: Path, *, wait_s: float = 0, for_reading: bool = False, makes_again: bool = True
    ) -> Self:
        """Open or create the SQLite database at `path`, and its folder, and have it alone.

        Args:
            path: of the file.
            wait_s: how long to wait for another process that holds it.
            for_reading: whether a file that may only be read will do. Who writes nothing at all
                uses `read`.
            makes_again: see the class.

        Raises:
            OutputError: the folder or file cannot be written.
            InUseError: another process holds it.
            StoreError: it is no SQLite database, another program made it, or its schema is that of
                another version.
            DamageError: its tables cannot be read.
        """
        held = HeldFile.take(path, wait_s=wait_s)
        database = cls(held, makes_again=makes_again)
        database._prepare(must_write=not for_reading)
        return database

    @classmethod
    def read(cls, path: Path, *, makes_again: bool = True) -> Self:
        """Open the database at `path` to read it, whether or not a process writes it meanwhile.

        Arguments as in `open`. Nothing is made, brought up to date or written.

        Raises:
            StoreError: it is not there; else as in `open`.
            OutputError, DamageError: as in `open`.
        """
        database = cls(ReadFile.open(path), makes_again=makes_again)
        database._prepare(must_write=False)
        return database

    def _prepare(self, *, must_write: bool) -> None:
        """Check the file and its tables; it is closed where they will not do."""
        try:
            if must_write:
                _check_may_write(self.file)
            self._begin()
            if not self.makes_again:
                self._refuse_changes()
        except SQLAlchemyError as error:
            self.close()
            refuse_unreadable(self.path, error)
        except BaseException:
            self.close()
            raise

    @property
    def may_write(self) -> bool:
        """Whether anything may be written through this object."""
        return isinstance(self.file, HeldFile) and self.file.is_writable

    def writer(self) -> str | None:
        """Which process has the database to write it, in words; None where none does. Another
        system than Linux does not tell.
        """
        return self.file.holder() if isinstance(self.file, ReadFile) else "this process"

    def _begin(self) -> None:
        """Check whose file it is; make the tables, or bring those of an older schema up to date.

        All of it is one transaction: a disk that is full leaves the file as it was.
        """
        with self.engine.begin() as connection:
            found = _check_owner(connection, self.path)
            changed = changed_tables(connection, OWN_KEYS | OPTUNAS_KEYS)
            if changed:
                raise damaged(
                    self.path, f"{changed[0]} has another primary key than it was made with"
                )
            schema = _schema(connection, found, self.path)
            without = [
                kind
                for kind in CHECKED
                if kind.__tablename__ in found
                and "checksum" not in _columns(connection, kind.__tablename__)
            ]
            self.lacking = set(Table.metadata.tables) - found
            if schema == SCHEMA and self.lacking:
                self._lacks(sorted(self.lacking)[0])
            if not self.may_write:
                self.has_checksums = not without
                return
            if not without and schema == SCHEMA and not self.lacking:
                return
            _begin_at_once(connection)
            Table.metadata.create_all(connection)
            _add_checksums(connection, without)
            if without and found >= OPTUNAS:
                seal_all(connection)
            connection.exec_driver_sql(
                f"INSERT OR REPLACE INTO {MetaRow.__tablename__} (key, value) VALUES (?, ?)",
                ("schema", SCHEMA),
            )
        self.lacking.clear()

    def has_studies(self) -> bool:
        """Whether Optuna's tables are there: a search makes them when its model is loaded."""
        with self.reading() as session:
            return _tables(session.connection()) >= OPTUNAS

    def _lacks(self, table: str) -> None:
        """Say that a table is gone. Raises DamageError where nobody makes its rows again."""
        text = f"{self.path} has lost the table {table}"
        if not self.makes_again:
            raise DamageError(f"{text}; expected the tables that a search made: {_MADE_AGAIN}")
        log.warning("%s; what is missing is made again", text)

    def _refuse_changes(self) -> None:
        """Raise DamageError where a score or an error is not what was written.

        For who makes nothing again: without the row another answer might come out.
        """
        self.find(ScoreRow)
        self.find(SensitivityRow)

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session for queries. Raises StoreError where the file cannot be read."""
        try:
            with Session(self.engine) as session:
                yield session
        except SQLAlchemyError as error:
            refuse_unreadable(self.path, error)

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A session whose changes are committed at the end. Raises OutputError where they cannot
        be, StoreError where the file cannot be read.
        """
        try:
            with Session(self.engine) as session, session.begin():
                yield session
        except SQLAlchemyError as error:
            refuse_unreadable(self.path, error)

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
        text = f"{self.path}: {printable(describe_row(rows[0]))}{more} is left out: it {why}"
        if not self.makes_again:
            raise DamageError(f"{text}; expected what was written: {_MADE_AGAIN}")
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
        with self.writing() as session:
            for row, identity in rows:
                known = session.get(type(row), identity)
                if replaces or known is None or not is_intact(known):
                    session.merge(with_checksum(row))

    def close(self) -> None:
        """Let others use the database."""
        for engine in self.engines:
            engine.dispose()
        self.file.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _check_may_write(file: OpenFile) -> None:
    """Refuse now what could not be written after hours."""
    folder = file.path.absolute().parent
    what = "the file" if not file.is_writable else f"its folder {folder}"
    if not file.is_writable or not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(
            f"{file.path} cannot be written: {what} is read-only; expected the right to write:"
            " give it, or name a `storage` in a folder that can be written"
        )


def _check_owner(connection: Connection, path: Path) -> set[str]:
    """The names of all tables. Raises StoreError where another program made any of the file.

    Optuna's tables pass: `search.log` refuses Optuna studies that are not ours.
    """
    rows = connection.exec_driver_sql("SELECT type, name FROM sqlite_master").all()
    tables = _tables(connection)
    foreign = [(kind, name) for kind, name in rows if kind not in ("table", "index")]
    if not OPTUNAS.issubset(tables) and not any(name.startswith(PREFIX) for name in tables):
        foreign += [("table", name) for name in tables]
    if foreign:
        kind, name = foreign[0]
        raise StoreError(
            f"{path} holds the {kind} {printable(str(name))!r}, which sensitivity did not make;"
            " expected a database of its own: name another `storage`"
        )
    return tables


def _tables(connection: Connection) -> set[str]:
    """The names of all tables but SQLite's own."""
    rows = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table'")
    return {str(name) for (name,) in rows if not str(name).startswith("sqlite_")}


def _schema(connection: Connection, tables: set[str], path: Path) -> str | None:
    """The schema that the file says it has. Raises StoreError where it is one of neither ours."""
    if MetaRow.__tablename__ not in tables:
        return None
    row = connection.exec_driver_sql(
        f"SELECT value FROM {MetaRow.__tablename__} WHERE key = 'schema'"
    ).first()
    if row is None or row[0] in (SCHEMA, *OLDER):
        return None if row is None else str(row[0])
    raise StoreError(
        f"{path} has schema {printable(str(row[0])[:40])}; this version of sensitivity reads schema"
        f" {SCHEMA}: name another `storage`, or use the version that wrote it"
    )


def _columns(connection: Connection, table: str) -> set[str]:
    return {row[1] for row in connection.exec_driver_sql(f"PRAGMA table_info({table})")}


def _begin_at_once(connection: Connection) -> None:
    """Begin a transaction that making tables is part of; Python's driver begins none for it."""
    driver: Any = connection.connection.driver_connection
    if not driver.in_transaction:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _add_checksums(connection: Connection, kinds: list[type[CheckedRow]]) -> None:
    """Give the rows of an older schema their checksums."""
    for kind in kinds:
        connection.exec_driver_sql(f"ALTER TABLE {kind.__tablename__} ADD COLUMN checksum")
        with Session(connection) as session:
            for row in session.scalars(select(kind)):
                if row is not None:
                    with_checksum(row)
            session.commit()
