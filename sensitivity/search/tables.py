"""Which tables are ours, and is a row still what was written? `Table`, `CheckedRow`.

Each row of scores, layer sensitivities and times carries a checksum of its other columns. A row
whose checksum does not fit was changed by something else: it is never believed. The checksum is no
signature; it finds damage and hand-made edits, not an adversary who computes it anew.

    row = with_checksum(ScoreRow(evaluation="e", assignment="a", ...))
    is_intact(row)                                # True, until a column is changed

Columns hold what SQLite holds: JSON is text here, and `search.store` reads and writes it.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import Connection, Float, Integer, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

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


OWN_KEYS = {
    name: [column.name for column in table.primary_key]
    for name, table in Table.metadata.tables.items()
}
"""{table: columns of its primary key} of our tables."""
CHECKED: tuple[type[CheckedRow], ...] = (ScoreRow, AttemptRow, SensitivityRow, ShapeTimeRow)
Row = TypeVar("Row", bound=CheckedRow)


def with_checksum(row: Row) -> Row:
    """The same row with its checksum."""
    row.checksum = checksum_of([row.__tablename__, *_values(row).values()])
    return row


def is_intact(row: CheckedRow) -> bool:
    """Whether the row is what was written."""
    return row.checksum == checksum_of([row.__tablename__, *_values(row).values()])


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
    changed = []
    for table, columns in expected.items():
        rows = connection.exec_driver_sql(f"PRAGMA table_info({table})").all()
        keys = [row[1] for row in sorted(rows, key=lambda row: row[5]) if row[5]]
        if rows and keys != list(columns):
            changed.append(table)
    return changed


def checksum_of(values: list[Any]) -> str:
    """sha256 of values as SQLite gives them: numbers, texts, bytes, NULL, and lists of these."""
    return hashlib.sha256(json.dumps(values, default=repr).encode()).hexdigest()


def _values(row: CheckedRow) -> dict[str, Any]:
    """{column: value}, without the checksum."""
    names = [c.key for c in row.__table__.columns if c.key != "checksum"]
    return {name: getattr(row, name) for name in names}
