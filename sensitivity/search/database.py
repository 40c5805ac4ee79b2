"""Who may open a database, and what is in it? `Database`: our tables beside Optuna's.

A database is one SQLite file. A lock file beside it keeps a second process out; the system releases
the lock when a process ends, however it ends. A file that belongs to another program or to another
schema is refused and left unchanged. A disk that is full and a file that is damaged are errors that
say what to do.

    with Database.open(Path("study.db")) as database, database.reading() as session:
        session.get(ScoreRow, (evaluation, assignment))

`search.store` says what the rows mean. Optuna opens the same file by `Database.url`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

from filelock import FileLock, Timeout
from sqlalchemy import JSON, URL, Engine, Float, String, create_engine, event, inspect
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sensitivity.core.words import first_line
from sensitivity.errors import OutputError, StoreError

SCHEMA = 1


class Table(DeclarativeBase):
    """Our tables. Their names have a prefix, since Optuna's tables lie in the same file."""


class MetaRow(Table):
    """A fact about the database itself, such as its schema."""

    __tablename__ = "sensitivity_meta"
    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[str] = mapped_column(String)


class ScoreRow(Table):
    """The score of one assignment of formats under one evaluation."""

    __tablename__ = "sensitivity_scores"
    evaluation: Mapped[str] = mapped_column(String(64), primary_key=True)
    assignment: Mapped[str] = mapped_column(String(64), primary_key=True)
    net: Mapped[str] = mapped_column(String(32))
    mean: Mapped[float] = mapped_column(Float)
    score: Mapped[dict[str, Any]] = mapped_column(JSON)
    seconds: Mapped[float] = mapped_column(Float)
    created: Mapped[str] = mapped_column(String(32))


class SensitivityRow(Table):
    """The calibrated error of one assignment of formats."""

    __tablename__ = "sensitivity_layers"
    calibration: Mapped[str] = mapped_column(String(64), primary_key=True)
    assignment: Mapped[str] = mapped_column(String(64), primary_key=True)
    error: Mapped[float] = mapped_column(Float)


class ShapeTimeRow(Table):
    """The measured times of one Linear shape on one machine."""

    __tablename__ = "sensitivity_shape_times"
    machine: Mapped[str] = mapped_column(String(64), primary_key=True)
    compile_mode: Mapped[str] = mapped_column(String(32), primary_key=True)
    shape: Mapped[str] = mapped_column(String(128), primary_key=True)
    described: Mapped[dict[str, str]] = mapped_column(JSON)
    row: Mapped[dict[str, Any]] = mapped_column(JSON)
    created: Mapped[str] = mapped_column(String(32))


class Database:
    """One open database. Make it with `open`; close it with `close` or as a context manager."""

    def __init__(self, engine: Engine, path: Path, lock: FileLock) -> None:
        self.engine, self.path, self._lock = engine, path, lock

    @property
    def url(self) -> str:
        """The database for Optuna's RDBStorage."""
        return self.engine.url.render_as_string(hide_password=False)

    @classmethod
    def open(cls, path: Path, *, wait_s: float = 0) -> Self:
        """Open or create the SQLite database at `path`, and its folder.

        Waits up to `wait_s` seconds for another process that holds it.

        Raises:
            OutputError: the folder or file cannot be written.
            StoreError: another process holds it, it is no SQLite database, another program made it,
                or its schema is that of another version.
        """
        lock = _locked(path, wait_s)
        # The URL is built, not written as text: ? and % in a file name mean themselves.
        engine = create_engine(URL.create("sqlite", database=str(path)))
        event.listen(engine, "connect", _wait_for_locks)
        database = cls(engine, path, lock)
        try:
            database._check_owner()
            Table.metadata.create_all(engine)
            database._check_schema()
        except SQLAlchemyError as error:
            database.close()
            _refuse(path, error)
        except StoreError:
            database.close()
            raise
        return database

    def _check_owner(self) -> None:
        """Refuse a database with tables of another program.

        Optuna's tables pass: `search.log` refuses Optuna studies that are not ours.
        """
        tables = inspect(self.engine).get_table_names()
        if tables and not {MetaRow.__tablename__, "alembic_version"} & set(tables):
            raise StoreError(
                f"{self.path} holds the table {tables[0]!r}, which sensitivity did not make;"
                " expected a database of its own: name another `storage`"
            )

    def _check_schema(self) -> None:
        with Session(self.engine) as session, session.begin():
            row = session.get(MetaRow, "schema")
            if row is None:
                session.add(MetaRow(key="schema", value=str(SCHEMA)))
            elif row.value != str(SCHEMA):
                raise StoreError(
                    f"{self.path} has schema {row.value}; this version of sensitivity reads schema"
                    f" {SCHEMA}: name another `storage`, or use the version that wrote it"
                )

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session for queries. Raises StoreError where the file is damaged."""
        try:
            with Session(self.engine) as session:
                yield session
        except SQLAlchemyError as error:
            _refuse(self.path, error)

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A session whose changes are committed at the end. Raises OutputError where they cannot
        be.
        """
        try:
            with Session(self.engine) as session, session.begin():
                yield session
        except SQLAlchemyError as error:
            raise OutputError(
                f"{self.path} cannot be written ({first_line(error)}); expected a disk with room:"
                " free some and run the same command, it goes on"
            ) from None

    def add(self, row: Table, identity: tuple[str, str]) -> None:
        """Write a row, unless there is one with this primary key."""
        with self.writing() as session:
            if session.get(type(row), identity) is None:
                session.add(row)

    def close(self) -> None:
        """Let others use the database."""
        self.engine.dispose()
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _locked(path: Path, wait_s: float) -> FileLock:
    """The acquired lock of the database at `path`, whose folder is made if need be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{path}.lock")
        lock.acquire(timeout=wait_s)
    except Timeout:
        if not Path(f"{path}.lock").exists():  # a file system that makes no files
            raise OutputError(
                f"{path} cannot be written; name a `storage` in a folder that can be"
            ) from None
        raise StoreError(
            f"{path} is in use by another search; expected one at a time: wait for it, or name"
            " another `storage`"
        ) from None
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written ({error.strerror}); name a `storage` in a folder that can be"
        ) from None
    return lock


def _wait_for_locks(connection: Any, _record: Any) -> None:
    """Every connection waits for a lock inside SQLite instead of failing at once."""
    connection.execute("PRAGMA busy_timeout = 30000")


def _refuse(path: Path, error: SQLAlchemyError) -> NoReturn:
    reason = first_line(error)
    if "readonly" in reason or "unable to open" in reason or "full" in reason:
        raise OutputError(
            f"{path} cannot be written ({reason}); name a `storage` in a folder that can be, on a"
            " disk with room"
        ) from None
    raise StoreError(
        f"{path} is no database of sensitivity ({reason}); name another `storage`, or remove the"
        " file"
    ) from None
