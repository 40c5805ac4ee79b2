"""Which tables are ours, and is a row still what was written? `Table`, `CheckedRow`.

Each row of scores, layer sensitivities and times carries a checksum of its other columns. A row
whose checksum does not fit was changed by something else: it is never believed. The checksum is no
signature; it finds damage and hand-made edits, not an adversary who computes it anew.

    row = with_checksum(ScoreRow(evaluation="e", assignment="a", ...))
    is_intact(row)                                # True, until a column is changed

Columns hold texts and numbers, the same in SQLite and PostgreSQL: JSON is text here, and
`search.store` reads and writes it.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import Column, Connection, Float, Integer, String, UniqueConstraint, inspect
from sqlalchemy import Table as PlainTable
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sensitivity.search.dialects import SQLITE

PREFIX = "sensitivity_"
"""Of our tables, since Optuna's lie in the same file."""


class Table(DeclarativeBase):
    """Our tables."""


class CheckedRow(Table):
    """A row with a checksum; None before the row is written (or read from an older schema)."""

    __abstract__ = True
    checksum: Mapped[str | None] = mapped_column(String(64), sort_order=99)


class MetaRow(Table):
    """A fact about the database itself, such as its schema."""

    __tablename__ = "sensitivity_meta"
    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[str] = mapped_column(String)


class ScoreRow(CheckedRow):
    """The score of one assignment of formats under one evaluation."""

    __tablename__ = "sensitivity_scores"
    evaluation: Mapped[str] = mapped_column(String(64), primary_key=True)
    assignment: Mapped[str] = mapped_column(String(64), primary_key=True)
    net: Mapped[str] = mapped_column(String(32))
    mean: Mapped[float] = mapped_column(Float)
    score: Mapped[str] = mapped_column(String)
    seconds: Mapped[float] = mapped_column(Float)
    created: Mapped[str] = mapped_column(String(32))


class AttemptRow(CheckedRow):
    """How many runs of a score began and never ended, since their process died."""

    __tablename__ = "sensitivity_attempts"
    evaluation: Mapped[str] = mapped_column(String(64), primary_key=True)
    assignment: Mapped[str] = mapped_column(String(64), primary_key=True)
    deaths: Mapped[int] = mapped_column(Integer)


class SensitivityRow(CheckedRow):
    """The calibrated error of one assignment of formats."""

    __tablename__ = "sensitivity_layers"
    calibration: Mapped[str] = mapped_column(String(64), primary_key=True)
    assignment: Mapped[str] = mapped_column(String(64), primary_key=True)
    error: Mapped[float] = mapped_column(Float)


class ShapeTimeRow(CheckedRow):
    """The measured times of one Linear shape on one machine."""

    __tablename__ = "sensitivity_shape_times"
    machine: Mapped[str] = mapped_column(String(64), primary_key=True)
    compile_mode: Mapped[str] = mapped_column(String(32), primary_key=True)
    shape: Mapped[str] = mapped_column(String(128), primary_key=True)
    described: Mapped[str] = mapped_column(String)
    row: Mapped[str] = mapped_column(String)
    created: Mapped[str] = mapped_column(String(32))


class SealRow(Table):
    """The checksums of what Optuna's tables hold of one study, or of one finished trial of it.

    `trial_id` is 0 for the study itself; `checksums` is {table: checksum} as JSON
    (`search.seals`).
    """

    __tablename__ = "sensitivity_seals"
    study_id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    trial_id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    checksums: Mapped[str] = mapped_column(String)


class WorkerRow(Table):
    """A process that works on studies here (`search.workers`).

    `seen` and `began` are seconds since 1970 by the database's clock; the worker counts as dead
    `lease_s` after `seen`. `activity` is JSON of `search.activity.Activity`.
    """

    __tablename__ = "sensitivity_workers"
    worker: Mapped[str] = mapped_column(String(128), primary_key=True)
    seen: Mapped[float] = mapped_column(Float)
    began: Mapped[float] = mapped_column(Float)
    lease_s: Mapped[float] = mapped_column(Float)
    activity: Mapped[str] = mapped_column(String)


class ClaimRow(Table):
    """An item of work that a worker has taken (`search.claims`); it counts while the worker lives.

    `taken` is by the database's clock, and `details` is JSON.
    """

    __tablename__ = "sensitivity_claims"
    scope: Mapped[str] = mapped_column(String(200), primary_key=True)
    item: Mapped[str] = mapped_column(String(200), primary_key=True)
    worker: Mapped[str] = mapped_column(String(128))
    token: Mapped[str] = mapped_column(String(32))
    taken: Mapped[float] = mapped_column(Float)
    details: Mapped[str] = mapped_column(String)


class FinishedRow(Table):
    """A choice of a study that was scored or stopped: each is there once.

    `choice` is the digest of a choice, `place` its index in the study, `trial_id` Optuna's.
    """

    __tablename__ = "sensitivity_trials"
    __table_args__ = (UniqueConstraint("study_id", "place"),)
    study_id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    choice: Mapped[str] = mapped_column(String(64), primary_key=True)
    place: Mapped[int] = mapped_column(Integer)
    trial_id: Mapped[int] = mapped_column(Integer)


VERSION = PlainTable(
    "sensitivity_alembic_version",
    Table.metadata,
    Column("version_num", String(32), primary_key=True),
)
"""Where Alembic keeps the last revision of ours (`search.migrations`)."""
OWN_KEYS = {
    name: [column.name for column in table.primary_key]
    for name, table in Table.metadata.tables.items()
}
"""{table: columns of its primary key} of our tables."""
CHECKED: tuple[type[CheckedRow], ...] = (ScoreRow, AttemptRow, SensitivityRow, ShapeTimeRow)
Row = TypeVar("Row", bound=CheckedRow)


def table_of(kind: type[Table]) -> PlainTable:
    """The table of a kind of rows, for statements."""
    return Table.metadata.tables[kind.__tablename__]


def with_checksum(row: Row) -> Row:
    """The same row with its checksum."""
    row.checksum = checksum_of([row.__tablename__, *_values(row).values()])
    return row


def is_intact(row: CheckedRow) -> bool:
    """Whether the row is what was written."""
    return row.checksum == checksum_of([row.__tablename__, *_values(row).values()])


def columns_of(row: CheckedRow) -> dict[str, Any]:
    """{column: value}, with the checksum."""
    return {**_values(row), "checksum": row.checksum}


def describe_row(row: CheckedRow) -> str:
    """Table and primary key, as errors name a row."""
    keys = OWN_KEYS[row.__tablename__]
    named = " ".join(f"{key} {str(_values(row)[key])[:16]!r}" for key in keys)
    return f"the row {named} of {row.__tablename__}"


def changed_tables(connection: Connection, expected: Mapping[str, Sequence[str]]) -> list[str]:
    """Tables whose primary key is not the expected one, of those that are there.

    Args:
        connection: to the database.
        expected: {table: columns of its primary key}.
    """
    found = _primary_keys(connection, expected)
    return [table for table, keys in found.items() if keys != list(expected[table])]


def _primary_keys(connection: Connection, tables: Iterable[str]) -> dict[str, list[str]]:
    """{table: columns of its primary key} of the tables that are there."""
    found: dict[str, list[str]] = {}
    if connection.dialect.name == SQLITE:
        for table in tables:
            rows = connection.exec_driver_sql(f"PRAGMA table_info({table})").all()
            if rows:
                found[table] = [r[1] for r in sorted(rows, key=lambda row: row[5]) if r[5]]
        return found
    for (_, table), key in inspect(connection).get_multi_pk_constraint().items():
        if table in tables:
            found[table] = list(key["constrained_columns"]) if key else []
    return found


def checksum_of(values: list[Any]) -> str:
    """sha256 of values as an engine gives them: numbers, texts, bytes, NULL, and lists of these."""
    return hashlib.sha256(json.dumps(values, default=repr).encode()).hexdigest()


def _values(row: CheckedRow) -> dict[str, Any]:
    """{column: value}, without the checksum."""
    names = [c.key for c in row.__table__.columns if c.key != "checksum"]
    return {name: getattr(row, name) for name in names}
