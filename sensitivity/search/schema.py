"""Are the tables there, and are they ours? `prepare`: the schema of a database.

A database that belongs to another program, or to a later schema, is refused and left unchanged. An
empty one gets our tables, an older one is brought up to date (`search.migrations`), where it may be
written: in one transaction, by one process at a time, and never while others work in it.

    found = prepare(engine, place, makes_again=True)
    found.lacking                       # tables of ours that are not there

`search.database` calls it when a database is opened.

Two rows say which schema a database has: `schema` in `sensitivity_meta`, which every version reads
before anything else, and Alembic's in `sensitivity_alembic_version`.
"""

import logging
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, text

from sensitivity.core.words import printable
from sensitivity.errors import DamageError, InUseError, StoreError
from sensitivity.search.dialects import POSTGRESQL, SQLITE, database_now, insert_or_replace
from sensitivity.search.finished_rows import fill_finished
from sensitivity.search.migrations import stamp, upgrade
from sensitivity.search.places import Place
from sensitivity.search.seals import OPTUNAS_KEYS
from sensitivity.search.sqlite_errors import damaged
from sensitivity.search.tables import (
    CHECKED,
    OWN_KEYS,
    PREFIX,
    VERSION,
    FinishedRow,
    MetaRow,
    Table,
    WorkerRow,
    changed_tables,
    table_of,
)

SCHEMA = "3"
OLDER = ("1", "2")
"""Schemas that are read, and brought up to date where the database may be written. Schema 1 had no
checksums, schema 2 one process at a time.
"""
OPTUNAS = {"alembic_version", "studies", "trials"}
"""Tables that every database of Optuna has."""
MADE_AGAIN = "run the search or calibration of this study again, which makes again what is missing"
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Prepared:
    """What was found: tables of ours that are not there (only where nothing may be written), and
    whether rows have checksums (False for a database of an older version that may only be read).
    """

    lacking: frozenset[str]
    has_checksums: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class _Found:
    """What a database holds.

    Attributes:
        tables: the names of all tables.
        schema: the one that it says it has; None where it says none.
        revision: Alembic's; None where there is none.
        has_checksums: whether rows have checksums, of the tables that are there.
    """

    tables: frozenset[str]
    schema: str | None
    revision: str | None
    has_checksums: bool

    @property
    def lacking(self) -> frozenset[str]:
        return frozenset(Table.metadata.tables) - self.tables

    @property
    def is_current(self) -> bool:
        """Whether nothing is to be made, and nothing to be brought up to date."""
        return (
            (self.schema, self.revision) == (SCHEMA, SCHEMA)
            and self.has_checksums
            and not self.lacking
        )

    @property
    def is_new(self) -> bool:
        """Whether nothing of ours is there yet."""
        return not any(name.startswith(PREFIX) for name in self.tables)

    @property
    def start(self) -> str:
        """The schema that its tables have, whatever it says."""
        if not self.has_checksums:
            return OLDER[0]
        return self.revision or self.schema or OLDER[0]


def prepare(engine: Engine, place: Place, *, makes_again: bool) -> Prepared:
    """Check whose database it is; make the tables, or bring those of an older schema up to date.

    Making and bringing up to date is one transaction: a disk that is full, or a process that is
    killed, leaves the database as it was.

    Args:
        engine: to the database.
        place: where it lies.
        makes_again: whether tables that were lost are made again; else they are an error.

    Raises:
        StoreError: another program or a later version made it.
        InUseError: it is of an older schema, and other processes work in it.
        DamageError: its tables are not those that were made.
    """
    where = place.describe()
    with engine.execution_options(**place.reads).connect() as connection:
        found = _look(connection, where)
    if found.lacking and found.schema == SCHEMA:
        lost = f"{where} has lost the table {min(found.lacking)}"
        if not makes_again:
            raise DamageError(f"{lost}; expected the tables that a search made: {MADE_AGAIN}")
        log.warning("%s; what is missing is made again", lost)
    if found.is_current or not place.may_write:
        return Prepared(found.lacking, found.has_checksums)
    with place.locked("schema"), engine.begin() as connection:
        found = _look(connection, where)  # another may have made it now
        if not found.is_current:
            _bring_up_to_date(connection, found, where)
    return Prepared(frozenset(), has_checksums=True)


def _bring_up_to_date(connection: Connection, found: _Found, where: str) -> None:
    """Make all tables of ours, or run the revisions that older ones lack."""
    if found.is_new:
        stamp(connection, SCHEMA)
    elif found.start != SCHEMA:
        _refuse_workers(connection, found, where)
        upgrade(connection, start=found.start)
    elif found.revision != SCHEMA:
        stamp(connection, SCHEMA)
    Table.metadata.create_all(connection)
    if FinishedRow.__tablename__ in found.lacking:
        fill_finished(connection)
    insert_or_replace(connection, table_of(MetaRow), {"key": "schema", "value": SCHEMA})


def _refuse_workers(connection: Connection, found: _Found, where: str) -> None:
    """Raise InUseError where others work in the database: an older version knows other tables."""
    if WorkerRow.__tablename__ not in found.tables:
        return
    query = text(f"SELECT worker FROM {WorkerRow.__tablename__} WHERE seen + lease_s > :now")
    workers = connection.execute(query, {"now": database_now(connection)}).scalars().all()
    if workers:
        others = f" and {len(workers) - 1} more" if len(workers) > 1 else ""
        raise InUseError(
            f"{where} has schema {found.start}, and workers of an earlier version use it"
            f" ({printable(str(workers[0]))}{others}); expected nobody to use it while it is"
            f" brought up to schema {SCHEMA}: wait for them (`sensitivity status` shows how far"
            " they are), or end them, and run the same command"
        )


def _look(connection: Connection, where: str) -> _Found:
    """What a database holds. Raises StoreError and DamageError as `prepare` does."""
    tables = _check_owner(connection, where)
    changed = changed_tables(connection, OWN_KEYS | OPTUNAS_KEYS)
    if changed:
        raise damaged(where, f"{changed[0]} has another primary key than it was made with")
    return _Found(
        tables=frozenset(tables),
        schema=_kept(connection, tables, MetaRow.__tablename__, "value", "key = 'schema'", where),
        revision=_kept(connection, tables, VERSION.name, "version_num", "1 = 1", where),
        has_checksums=_has_checksums(connection, tables),
    )


def _kept(
    connection: Connection, tables: set[str], table: str, column: str, which: str, where: str
) -> str | None:
    """The schema that a row names; None where there is no such row.

    Raises StoreError where it is none that this version knows.
    """
    if table not in tables:
        return None
    row = connection.execute(text(f"SELECT {column} FROM {table} WHERE {which}")).first()
    if row is None or row[0] in (SCHEMA, *OLDER):
        return None if row is None else str(row[0])
    raise StoreError(
        f"{where} has schema {printable(str(row[0])[:40])}; this version of sensitivity reads"
        f" schema {SCHEMA}: name another `storage`, or use the version that wrote it"
    )


def _has_checksums(connection: Connection, tables: set[str]) -> bool:
    """Whether the rows of all tables that should have checksums have a column for them.

    PostgreSQL is used since schema 3, so there all have one.
    """
    if connection.dialect.name != SQLITE:
        return True
    for kind in CHECKED:
        table = kind.__tablename__
        columns = {row[1] for row in connection.exec_driver_sql(f"PRAGMA table_info({table})")}
        if table in tables and "checksum" not in columns:
            return False
    return True


def _check_owner(connection: Connection, where: str) -> set[str]:
    """The names of all tables. Raises StoreError where another program made any of the database.

    Optuna's tables pass: `search.log` refuses Optuna studies that are not ours.
    """
    tables = table_names(connection)
    foreign = _foreign(connection)
    if not OPTUNAS.issubset(tables) and not any(name.startswith(PREFIX) for name in tables):
        foreign += [("table", name) for name in sorted(tables)]
    if foreign:
        kind, name = foreign[0]
        raise StoreError(
            f"{where} holds the {kind} {printable(str(name))!r}, which sensitivity did not make;"
            " expected a database of its own: name another `storage`"
        )
    return tables


def table_names(connection: Connection) -> set[str]:
    """The names of all tables but the engine's own.

    In PostgreSQL those of the connection's schema, without those of extensions.
    """
    if connection.dialect.name == POSTGRESQL:
        return set(connection.execute(text(_RELATIONS), {"kinds": ["r", "p"]}).scalars())
    rows = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table'")
    return {str(name) for (name,) in rows if not str(name).startswith("sqlite_")}


_RELATIONS = """
SELECT c.relname FROM pg_catalog.pg_class c
WHERE c.relnamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = current_schema())
  AND CAST(c.relkind AS text) = ANY(:kinds)
  AND NOT EXISTS (
    SELECT 1 FROM pg_catalog.pg_depend d
    WHERE d.classid = CAST('pg_catalog.pg_class' AS regclass) AND d.objid = c.oid
      AND d.deptype = 'e'
  )
"""
_TRIGGERS = """
SELECT t.tgname FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
WHERE c.relnamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = current_schema())
  AND NOT t.tgisinternal
"""


def _foreign(connection: Connection) -> list[tuple[str, str]]:
    """(kind, name) of what neither we nor Optuna ever make: views and triggers."""
    if connection.dialect.name == POSTGRESQL:
        views = connection.execute(text(_RELATIONS), {"kinds": ["v", "m", "f"]}).scalars()
        triggers = connection.execute(text(_TRIGGERS)).scalars()
        return [("view", name) for name in views] + [("trigger", name) for name in triggers]
    rows = connection.exec_driver_sql("SELECT type, name FROM sqlite_master")
    return [(kind, name) for kind, name in rows if kind not in ("table", "index")]
