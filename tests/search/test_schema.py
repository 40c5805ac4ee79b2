"""Databases of every schema are opened, brought up to date once, and refused where they must be."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, create_engine, inspect, text

from sensitivity.core.storage_url import Storage, parse_storage
from sensitivity.errors import DamageError, InUseError, StoreError
from sensitivity.search import schema
from sensitivity.search.database import Database
from sensitivity.search.dialects import database_now
from sensitivity.search.finished_rows import choice_digest
from sensitivity.search.migrations import upgrade
from sensitivity.search.optuna_storage import open_storage
from sensitivity.search.schema import OPTUNAS, SCHEMA, table_names
from sensitivity.search.seals import list_studies, study_fault
from sensitivity.search.tables import FinishedRow, SensitivityRow, ShapeTimeRow, Table, WorkerRow

from support.databases import restore_dump, run_at_once

ENGINES = ("sqlite", "postgresql")
SCHEMAS = ("schema-1", "schema-2", "schema-3")


@pytest.fixture(params=ENGINES)
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """A place for a new database."""
    if request.param == "sqlite":
        return tmp_path / "study.db"
    return parse_storage(request.getfixturevalue("postgres_url"))


def rows(path: Path, query: str) -> list[Any]:
    """What a query finds in a file, read without our code."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


def plain_engine(storage: Storage) -> Engine:
    """An engine without our code."""
    return create_engine(f"sqlite:///{storage}" if isinstance(storage, Path) else storage.url)


def execute(database: Database, *statements: str) -> None:
    """Change a database by hand."""
    with database.engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_database_of_each_schema_is_brought_up_to_date(name: str, tmp_path: Path) -> None:
    """Everything that an earlier version kept is there, intact, and its finished trials are listed
    at their places.
    """
    path = restore_dump(name, tmp_path / "study.db")
    finished = rows(
        path,
        "SELECT trial_id, json_extract(value_json, '$') FROM trial_user_attributes JOIN trials"
        " USING (trial_id) WHERE key = 'index' AND state IN ('COMPLETE', 'PRUNED')",
    )
    errors = rows(path, "SELECT COUNT(*) FROM sensitivity_layers")[0][0]
    with Database.open(path, makes_again=False) as database:
        assert not database.lacking
        assert len(database.find(SensitivityRow)) == errors > 0
        assert [row.row for row in database.find(ShapeTimeRow)] == ['{"us": [1.5, 1.25]}']
        with database.reading() as session:
            connection = session.connection()
            (study,) = list_studies(connection)
            assert study_fault(connection, study.study_id) is None
            found = {(row.trial_id, row.place) for row in session.query(FinishedRow)}
        assert found == set(finished)
        assert len(open_storage(database).get_all_trials(study.study_id)) >= len(found)
    assert rows(path, "SELECT key, value FROM sensitivity_meta") == [("schema", SCHEMA)]
    assert rows(path, "SELECT * FROM sensitivity_alembic_version") == [(SCHEMA,)]
    assert rows(path, "SELECT * FROM alembic_version") == [("v3.2.0.a",)]


def test_a_choice_is_known_by_its_digest(tmp_path: Path) -> None:
    """The rows that an upgrade makes are those that a search asks for."""
    path = restore_dump("schema-1", tmp_path / "study.db")
    Database.open(path).close()
    found = rows(path, "SELECT choice, place FROM sensitivity_trials ORDER BY place")
    choices = ((0, 0, 0, 0), (1, 1, 1, 1), (1, 0, 0, 1))
    assert found == [(choice_digest(choice), place) for place, choice in enumerate(choices)]


@pytest.mark.parametrize("name", SCHEMAS)
def test_reading_changes_nothing(name: str, tmp_path: Path) -> None:
    """A database of an earlier version is read as it is."""
    path = restore_dump(name, tmp_path / "study.db")
    before = path.read_bytes()
    with Database.read(path, makes_again=False) as database:
        assert len(database.find(SensitivityRow)) == 4
        assert len(database.find(ShapeTimeRow)) == 1
        (study,) = open_storage(database).get_all_studies()
        assert study.user_attrs["sensitivity"] == 1
        assert bool(database.lacking) is (name != f"schema-{SCHEMA}")
    assert path.read_bytes() == before


def test_an_upgrade_that_fails_leaves_the_database_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full in the middle: all of it is undone, and the next attempt succeeds."""
    path = restore_dump("schema-1", tmp_path / "study.db")
    with closing(sqlite3.connect(path)) as connection:
        before = list(connection.iterdump())

    def fails(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(schema, "insert_or_replace", fails)
        with pytest.raises(OSError, match="No space"):
            Database.open(path)
    with closing(sqlite3.connect(path)) as connection:
        assert list(connection.iterdump()) == before
    Database.open(path, makes_again=False).close()


def described(connection: Connection) -> dict[str, Any]:
    """{table: columns, keys and unique constraints} of ours."""
    inspector = inspect(connection)
    return {
        table: (
            [
                (column["name"], str(column["type"]), column["nullable"])
                for column in inspector.get_columns(table)
            ],
            inspector.get_pk_constraint(table)["constrained_columns"],
            [unique["column_names"] for unique in inspector.get_unique_constraints(table)],
        )
        for table in inspector.get_table_names()
        if table.startswith("sensitivity_")
    }


def test_revisions_make_what_a_new_database_has(storage: Storage) -> None:
    """All revisions in a row give the tables, columns and keys of a new database."""
    with Database.open(storage) as database:
        with database.reading() as session:
            new = described(session.connection())
        execute(database, *(f"DROP TABLE {table}" for table in Table.metadata.tables))
        with database.engine.begin() as connection:
            upgrade(connection, start=None)
            assert described(connection) == new
    assert set(new) == set(Table.metadata.tables)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE sensitivity_meta SET value = '4' WHERE key = 'schema'",
        "UPDATE sensitivity_alembic_version SET version_num = '4'",
    ],
)
def test_a_later_schema_is_refused(storage: Storage, statement: str) -> None:
    """Either row says that a later version wrote the database; it is neither written nor read."""
    with Database.open(storage) as database:
        execute(database, statement)
    for opened in (Database.open, Database.read):
        with pytest.raises(
            StoreError, match="has schema 4; this version of sensitivity reads schema 3"
        ):
            opened(storage)


def test_nothing_is_upgraded_while_a_worker_lives(storage: Storage) -> None:
    """A worker of an earlier version is named; once it is dead the upgrade goes through."""
    with Database.open(storage, shared=True) as database:
        with database.writing() as session:
            now = database_now(session.connection())
            session.add(
                WorkerRow(worker="node1:7:ab", seen=now, began=now, lease_s=60, activity="{}")
            )
        execute(
            database,
            "UPDATE sensitivity_meta SET value = '2' WHERE key = 'schema'",
            "UPDATE sensitivity_alembic_version SET version_num = '2'",
        )
    with pytest.raises(InUseError, match=r"has schema 2.*node1:7:ab.*expected nobody to use it"):
        Database.open(storage, shared=True)
    Database.read(storage).close()
    engine = plain_engine(storage)
    with engine.begin() as connection:
        connection.execute(text("UPDATE sensitivity_workers SET seen = seen - 61"))
    engine.dispose()
    with Database.open(storage, shared=True) as database, database.reading() as session:
        found = session.execute(text("SELECT value FROM sensitivity_meta")).scalars().all()
        assert found == [SCHEMA]


def test_a_lost_table_is_made_again(storage: Storage, caplog: pytest.LogCaptureFixture) -> None:
    """Who makes nothing again gets an error; a search is told, and goes on with an empty table."""
    with Database.open(storage) as database:
        execute(database, "DROP TABLE sensitivity_layers")
    with pytest.raises(DamageError, match="has lost the table sensitivity_layers"):
        Database.open(storage, makes_again=False)
    with Database.open(storage) as database:
        assert database.find(SensitivityRow) == []
    assert "what is missing is made again" in caplog.text


def test_lost_places_are_filled_from_the_trials(tmp_path: Path) -> None:
    """A list of finished trials that was dropped is made again from what the trials say."""
    path = restore_dump("schema-3", tmp_path / "study.db")
    before = rows(path, "SELECT * FROM sensitivity_trials ORDER BY place")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE sensitivity_trials")
    Database.open(path).close()
    assert rows(path, "SELECT * FROM sensitivity_trials ORDER BY place") == before != []


FOREIGN = {
    "the table 'theirs'": "CREATE TABLE theirs (value INTEGER)",
    "the view 'seen'": "CREATE VIEW seen AS SELECT 1",
}


@pytest.mark.parametrize("words", FOREIGN)
def test_a_database_of_another_program_is_refused(storage: Storage, words: str) -> None:
    """It is named what is there, and nothing is made beside it."""
    engine = plain_engine(storage)
    with engine.begin() as connection:
        connection.execute(text(FOREIGN[words]))
        before = table_names(connection)
    with pytest.raises(StoreError, match=f"holds {words}, which sensitivity did not make"):
        Database.open(storage)
    with engine.begin() as connection:
        assert table_names(connection) == before
    engine.dispose()


def test_four_processes_open_an_empty_database_at_once(storage: Storage) -> None:
    """Each of them finds all tables, ours and Optuna's, and none fails."""

    def work(_number: int) -> None:
        with Database.open(storage, shared=True) as database:
            open_storage(database).get_all_studies()

    assert run_at_once(4, work) == [0] * 4
    with Database.open(storage, makes_again=False) as database, database.reading() as session:
        assert table_names(session.connection()) >= {*Table.metadata.tables, *OPTUNAS}
        versions = session.execute(text("SELECT version_num FROM alembic_version")).scalars()
        assert versions.all() == ["v3.2.0.a"]


def test_processes_that_meet_an_older_database_bring_it_up_to_date_once(tmp_path: Path) -> None:
    """One of them does it, the others wait; nothing is done twice."""
    path = restore_dump("schema-1", tmp_path / "study.db")

    def work(_number: int) -> None:
        with Database.open(path, shared=True, makes_again=False) as database:
            assert len(database.find(SensitivityRow)) == 4

    assert run_at_once(4, work) == [0] * 4
    assert len(rows(path, "SELECT * FROM sensitivity_trials")) == 3
    assert rows(path, "SELECT * FROM sensitivity_alembic_version") == [(SCHEMA,)]
