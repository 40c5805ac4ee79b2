"""What do SQLite and PostgreSQL say differently? The few statements that SQLAlchemy does not hide.

now = database_now(connection)                  # seconds since 1970, by the database's clock
lock_name(connection, "study 3")                # until the end of this transaction
insert_or_keep(connection, table, values)       # False where the key is there
"""

import hashlib
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Table, func, select, text
from sqlalchemy.dialects import postgresql, sqlite

SQLITE, POSTGRESQL = "sqlite", "postgresql"


def database_now(connection: Connection) -> float:
    """Seconds since 1970 by the clock of the database, which all of its workers share.

    SQLite's clock is that of this host: so is everybody who uses the file.
    """
    if connection.dialect.name == POSTGRESQL:
        query = "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS DOUBLE PRECISION)"
    else:
        query = "SELECT (julianday('now') - 2440587.5) * 86400.0"
    return float(connection.execute(text(query)).scalar_one())


def lock_name(connection: Connection, name: str) -> None:
    """Let one transaction at a time have a name, until it ends.

    SQLite has one writer at a time: its transaction must have begun with BEGIN IMMEDIATE, as those
    of `Database.writing` do.
    """
    if connection.dialect.name == POSTGRESQL:
        connection.execute(select(func.pg_advisory_xact_lock(lock_number(name))))


def lock_number(name: str) -> int:
    """A name as the number that PostgreSQL's advisory locks take: 64 bits, signed."""
    digest = hashlib.sha256(f"sensitivity {name}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def insert_or_keep(connection: Connection, table: Table, values: Mapping[str, Any]) -> bool:
    """Insert a row unless one with its primary key, or another unique key, is there.

    Returns whether it was inserted.
    """
    insert = _insert(connection, table).values(**values).on_conflict_do_nothing()
    # an insert's rowcount is -1 in SQLAlchemy for PostgreSQL, whether or not the row was there
    return connection.execute(insert.returning(*table.primary_key)).first() is not None


def insert_or_replace(connection: Connection, table: Table, values: Mapping[str, Any]) -> None:
    """Insert a row; one with its primary key gets these values."""
    keys = [column.name for column in table.primary_key]
    others = {name: value for name, value in values.items() if name not in keys}
    insert = _insert(connection, table).values(**values)
    connection.execute(
        insert.on_conflict_do_update(index_elements=keys, set_=others)
        if others
        else insert.on_conflict_do_nothing()
    )


def _insert(connection: Connection, table: Table) -> postgresql.Insert | sqlite.Insert:
    if connection.dialect.name == POSTGRESQL:
        return postgresql.insert(table)
    return sqlite.insert(table)
