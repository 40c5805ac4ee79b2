"""What is known already?

Scores and layer sensitivities in the study's database, beside Optuna's own tables. The one importer
of sqlalchemy.

A score is a fact: it is keyed by all that decides it (`Evaluator.evaluation_key`, and the
assignment of formats), so any later trial, search or verification that asks for the same one reads
it here. Rows are written once and never changed.

    with Store.open(Path("study.db")) as store:
        store.save_score(evaluation, assignment, score, seconds=1.8)
        store.find_score(evaluation, assignment)

One process at a time: a lock file beside the database (released by the system when a process dies,
however it dies) keeps a second search out. `assignment` is `assignment_key(formats)`: sha256 of the
non-bf16 formats by FQN.

Measured times of Linear shapes lie in a database of their own (`default_shape_times_path`), keyed
by machine, versions, compile mode and shape, and serve every study on this machine.
`SharedShapeTimes` opens it for each access only, so that several processes may measure at once. A
shape that is measured again replaces its row.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import platformdirs
from filelock import FileLock, Timeout
from sqlalchemy import JSON, URL, Engine, Float, String, create_engine, event, inspect, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sensitivity.core.format_name import FormatName
from sensitivity.errors import OutputError, StoreError
from sensitivity.fidelity.score import Score
from sensitivity.spec.study_spec import StudySpec

SCHEMA = 1


class _Base(DeclarativeBase):
    """Our tables; all are prefixed, since Optuna's tables live in the same database."""


class _Meta(_Base):
    __tablename__ = "sensitivity_meta"
    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[str] = mapped_column(String)


class _ScoreRow(_Base):
    __tablename__ = "sensitivity_scores"
    evaluation: Mapped[str] = mapped_column(String(64), primary_key=True)
    assignment: Mapped[str] = mapped_column(String(64), primary_key=True)
    net: Mapped[str] = mapped_column(String(32))
    mean: Mapped[float] = mapped_column(Float)
    score: Mapped[dict[str, Any]] = mapped_column(JSON)
    seconds: Mapped[float] = mapped_column(Float)
    created: Mapped[str] = mapped_column(String(32))


class _SensitivityRow(_Base):
    __tablename__ = "sensitivity_layers"
    calibration: Mapped[str] = mapped_column(String(64), primary_key=True)
    assignment: Mapped[str] = mapped_column(String(64), primary_key=True)
    error: Mapped[float] = mapped_column(Float)


class _ShapeTimeRow(_Base):
    __tablename__ = "sensitivity_shape_times"
    machine: Mapped[str] = mapped_column(String(64), primary_key=True)
    compile_mode: Mapped[str] = mapped_column(String(32), primary_key=True)
    shape: Mapped[str] = mapped_column(String(128), primary_key=True)
    described: Mapped[dict[str, str]] = mapped_column(JSON)
    row: Mapped[dict[str, Any]] = mapped_column(JSON)
    created: Mapped[str] = mapped_column(String(32))


SHARED_WAIT_S = 60.0


def default_shape_times_path() -> Path:
    """Where measured times of shapes are kept: the user's cache folder, as the platform has it."""
    return Path(platformdirs.user_cache_dir("sensitivity")) / "shape-times.db"


def _machine_key(machine: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(dict(machine), sort_keys=True).encode()).hexdigest()


def assignment_key(formats: Mapping[str, FormatName]) -> str:
    """sha256 of what is quantized, by FQN; equal for equal assignments however they were made."""
    quantized = {fqn: str(name) for fqn, name in formats.items() if name is not FormatName.BF16}
    return hashlib.sha256(json.dumps(quantized, sort_keys=True).encode()).hexdigest()


class Store:
    """One database. Make it with `Store.open`, close it with `close` or as a context manager."""

    def __init__(self, engine: Engine, path: Path, lock: FileLock) -> None:
        self.engine, self.path, self._lock = engine, path, lock

    @property
    def url(self) -> str:
        """The database for Optuna's RDBStorage."""
        return self.engine.url.render_as_string(hide_password=False)

    @classmethod
    def open(cls, path: Path, *, wait_s: float = 0) -> "Store":
        """Open or create the SQLite database at `path`, and its folder.

        Waits up to `wait_s` seconds for whoever holds it.

        Raises:
            OutputError: the folder or file cannot be written.
            StoreError: another search holds it, it is no SQLite database or another program's, or
                its schema is another version's.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(f"{path}.lock")
            lock.acquire(timeout=wait_s)
        except Timeout:
            if not Path(f"{path}.lock").exists():  # a file system that makes no files
                raise OutputError(
                    f"{path} cannot be written; pass --storage with a path in a folder that can"
                ) from None
            raise StoreError(
                f"{path} is in use by another search; allowed is one at a time: wait for it, or"
                " pass another --storage"
            ) from None
        except OSError as error:
            raise OutputError(
                f"{path} cannot be written ({error.strerror}); pass --storage with a path in a"
                " folder that can"
            ) from None
        engine = create_engine(
            URL.create("sqlite", database=str(path))
        )  # built, not written: ? and % mean themselves
        event.listen(engine, "connect", _durable)
        store = cls(engine, path, lock)
        try:
            store._check_owner()
            _Base.metadata.create_all(engine)
            store._check_schema()
        except SQLAlchemyError as error:
            store.close()
            _refuse(path, error)
        except StoreError:
            store.close()
            raise
        return store

    def _check_owner(self) -> None:
        """Refuse a database with tables of another program (Optuna's pass here:

        `search.study` names the studies that are not ours).
        """
        tables = inspect(self.engine).get_table_names()
        if tables and not {_Meta.__tablename__, "alembic_version"} & set(tables):
            raise StoreError(
                f"{self.path} holds the table {tables[0]!r}, which sensitivity did not make;"
                " allowed is a database of its own: pass another --storage"
            )

    def _check_schema(self) -> None:
        with Session(self.engine) as session, session.begin():
            row = session.get(_Meta, "schema")
            if row is None:
                session.add(_Meta(key="schema", value=str(SCHEMA)))
            elif row.value != str(SCHEMA):
                raise StoreError(
                    f"{self.path} has schema {row.value}; this version of sensitivity reads schema"
                    f" {SCHEMA}: pass another --storage, or the version that wrote it"
                )

    def save_score(self, evaluation: str, assignment: str, score: Score, *, seconds: float) -> None:
        """Keep a score; the first one stays if it is there already."""
        row = _ScoreRow(
            evaluation=evaluation,
            assignment=assignment,
            net=score.net,
            mean=score.mean,
            score=score.to_json(),
            seconds=seconds,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        self._add(row, (evaluation, assignment))

    def find_score(self, evaluation: str, assignment: str) -> Score | None:
        """The score of an assignment under an evaluation, if it was ever made."""
        with self._reading() as session:
            row = session.get(_ScoreRow, (evaluation, assignment))
            if row is None:
                return None
            return Score.from_json(row.score)

    def save_sensitivity(self, calibration: str, assignment: str, error: float) -> None:
        """Keep the error of one assignment in a calibration."""
        self._add(
            _SensitivityRow(calibration=calibration, assignment=assignment, error=error),
            (calibration, assignment),
        )

    def find_sensitivities(self, calibration: str) -> dict[str, float]:
        """{assignment: error} of a calibration so far."""
        with self._reading() as session:
            rows = session.execute(
                select(_SensitivityRow.assignment, _SensitivityRow.error).where(
                    _SensitivityRow.calibration == calibration
                )
            )
            return {row.assignment: row.error for row in rows}

    def find_calibrations(self) -> dict[str, dict[str, float]]:
        """{calibration: {assignment: error}} of everything that was calibrated."""
        with self._reading() as session:
            found: dict[str, dict[str, float]] = {}
            for row in session.execute(
                select(
                    _SensitivityRow.calibration, _SensitivityRow.assignment, _SensitivityRow.error
                )
            ):
                found.setdefault(row.calibration, {})[row.assignment] = row.error
            return found

    def save_shape_time(
        self, machine: Mapping[str, str], compile_mode: str, key: str, row: Mapping[str, Any]
    ) -> None:
        """Keep the measured times of one shape on one machine (device, driver, versions); a row
        that is there is replaced.
        """
        made = _ShapeTimeRow(
            machine=_machine_key(machine),
            compile_mode=compile_mode,
            shape=key,
            described=dict(machine),
            row=dict(row),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        with self._writing() as session:
            session.merge(made)

    def find_shape_times(
        self, machine: Mapping[str, str], compile_mode: str
    ) -> dict[str, dict[str, Any]]:
        """{shape: row} of what was measured on exactly this machine, with these versions, in this
        compile mode.
        """
        with self._reading() as session:
            rows = session.execute(
                select(_ShapeTimeRow.shape, _ShapeTimeRow.row).where(
                    _ShapeTimeRow.machine == _machine_key(machine),
                    _ShapeTimeRow.compile_mode == compile_mode,
                )
            )
            return {found.shape: found.row for found in rows}

    @contextmanager
    def _reading(self) -> Iterator[Session]:
        try:
            with Session(self.engine) as session:
                yield session
        except SQLAlchemyError as error:
            _refuse(self.path, error)

    @contextmanager
    def _writing(self) -> Iterator[Session]:
        try:
            with Session(self.engine) as session, session.begin():
                yield session
        except SQLAlchemyError as error:
            raise OutputError(
                f"{self.path} cannot be written ({_first_line(error)}); allowed is a disk with"
                " room: free some and run the same command, it goes on"
            ) from None

    def _add(self, row: _ScoreRow | _SensitivityRow, identity: tuple[str, str]) -> None:
        with self._writing() as session:
            if session.get(type(row), identity) is None:
                session.add(row)

    def close(self) -> None:
        """Let others use the database."""
        self.engine.dispose()
        self._lock.release()

    def __enter__(self) -> "Store":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class SharedShapeTimes:
    """Measured times of shapes at `path`, opened for each access: a latency.table.ShapeTimeCache
    that other processes may use meanwhile.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def save_shape_time(
        self, machine: Mapping[str, str], compile_mode: str, key: str, row: Mapping[str, Any]
    ) -> None:
        """`Store.save_shape_time`."""
        with Store.open(self.path, wait_s=SHARED_WAIT_S) as store:
            store.save_shape_time(machine, compile_mode, key, row)

    def find_shape_times(
        self, machine: Mapping[str, str], compile_mode: str
    ) -> dict[str, dict[str, Any]]:
        """`Store.find_shape_times`."""
        with Store.open(self.path, wait_s=SHARED_WAIT_S) as store:
            return store.find_shape_times(machine, compile_mode)


def _durable(connection: Any, _record: Any) -> None:
    """SQLite settings of every connection: wait for a lock instead of failing at once."""
    connection.execute("PRAGMA busy_timeout = 30000")


def _first_line(error: Exception) -> str:
    return str(getattr(error, "orig", error)).strip().splitlines()[0]


def _refuse(path: Path, error: SQLAlchemyError) -> NoReturn:
    reason = _first_line(error)
    if "readonly" in reason or "unable to open" in reason or "full" in reason:
        raise OutputError(
            f"{path} cannot be written ({reason}); pass --storage with a path in a folder that can,"
            " on a disk with room"
        ) from None
    raise StoreError(
        f"{path} is no database of sensitivity ({reason}); pass another --storage, or remove the"
        " file"
    ) from None


def default_storage(spec: StudySpec) -> Path:
    """Where a study's database lies: `sensitivity-runs/<study>.db` in the current folder."""
    return Path("sensitivity-runs") / f"{spec.name}.db"
