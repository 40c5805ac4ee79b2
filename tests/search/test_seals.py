"""What is changed in a study's rows is named, on both engines; nothing is named that was not."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial
from sqlalchemy import text

from sensitivity.core.storage_url import parse_storage
from sensitivity.search import seals
from sensitivity.search.database import Database
from sensitivity.search.dialects import insert_or_keep
from sensitivity.search.optuna_storage import open_storage, sealed
from sensitivity.search.tables import FinishedRow, table_of

STATES = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def database(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Database]:
    """A study of three trials, with attributes whose order a locale would change."""
    if request.param == "sqlite":
        storage = parse_storage(tmp_path_factory.mktemp("seals") / "study.db")
    else:
        server = request.getfixturevalue("postgres")
        server.start()
        storage = parse_storage(server.create_database())
    with Database.open(storage, shared=True) as opened:
        trials = open_storage(opened)
        study_id = trials.create_new_study([StudyDirection.MINIMIZE] * 2, "study")
        for key in ("sensitivity", "b", "B", "_", "é", "settings"):
            trials.set_study_user_attr(study_id, key, 1)
        for place, state in enumerate(STATES):
            attributes = {"b": 1, "B": 2, "_": 3, "é": "é", "choice": json.dumps([place])}
            template = create_trial(
                state=state,
                values=[0.1, 0.2] if state is TrialState.COMPLETE else None,
                user_attrs=attributes | ({"index": place} if place < 2 else {}),
                system_attrs={"b": 1, "B": 2},
            )
            trial_id = sealed(trials).add_finished(study_id, template)
            if place < 2:
                row = {"study_id": study_id, "choice": str(place), "place": place}
                with opened.engine.begin() as connection:
                    table = table_of(FinishedRow)
                    insert_or_keep(connection, table, row | {"trial_id": trial_id})
        yield opened


def fault_after(database: Database, *statements: str) -> str | None:
    """What is found after statements, which are undone then."""
    with database.engine.connect() as connection:
        (study,) = seals.list_studies(connection)
        for statement in statements:
            connection.execute(text(statement))
        found = seals.study_fault(connection, study.study_id)
        connection.rollback()
    return found


def test_what_was_not_changed_has_no_fault(database: Database) -> None:
    """Nor have notes of Optuna's dashboard, which belong to the user, nor sealing all again."""
    assert fault_after(database) is None
    note = (
        "INSERT INTO study_system_attributes (study_id, key, value_json)"
        " SELECT study_id, 'dashboard:note_ver', '1' FROM studies"
    )
    assert fault_after(database, note) is None
    with database.engine.connect() as connection:
        seals.seal_all(connection)
        (study,) = seals.list_studies(connection)
        assert seals.study_fault(connection, study.study_id) is None
        connection.rollback()


LAST = "(SELECT max(trial_id) FROM trials)"
FIRST = "(SELECT min(trial_id) FROM trials)"
CHANGES = {
    f"UPDATE trials SET state = 'FAIL' WHERE trial_id = {FIRST}": "trial 0 .*trials",
    f"UPDATE trials SET number = 7 WHERE trial_id = {LAST}": "trial 7 is not .*trials",
    "UPDATE trials SET datetime_start = NULL": "trial 0 is not .*trials",
    "UPDATE trial_values SET value = 0.1000001 WHERE objective = 0": "trial 0 .*trial_values",
    "UPDATE trial_values SET value_type = 'INF_POS'": "trial 0 .*trial_values",
    "UPDATE trial_user_attributes SET value_json = '4' WHERE key = '_'": "trial_user_attributes",
    "DELETE FROM trial_system_attributes WHERE key = 'B'": "trial_system_attributes",
    "UPDATE studies SET study_name = 'other'": "its own rows .*studies",
    "UPDATE study_directions SET direction = 'MAXIMIZE'": "its own rows .*study_directions",
    "DELETE FROM study_user_attributes WHERE key = 'é'": "its own rows .*study_user_attributes",
    f"DELETE FROM sensitivity_seals WHERE trial_id = {LAST}": "trial 2 has no checksum",
    "DELETE FROM sensitivity_seals WHERE trial_id = 0": "its own rows have no checksum",
    "UPDATE sensitivity_seals SET checksums = '[' WHERE trial_id > 0": "cannot be read",
    "DELETE FROM sensitivity_trials WHERE place = 1": "place of a trial is not listed",
    "UPDATE sensitivity_trials SET place = 5 WHERE place = 1": "place of a trial is not listed",
}


@pytest.mark.parametrize("statement", CHANGES)
def test_a_change_is_found_and_named(database: Database, statement: str) -> None:
    """The trial and the table are named."""
    found = fault_after(database, statement)
    assert found is not None
    assert re.search(CHANGES[statement], found)


def test_what_is_told_without_optuna(database: Database) -> None:
    """Studies, states, baselines and what was kept, by their raw rows."""
    with database.reading() as session:
        connection = session.connection()
        (study,) = seals.list_studies(connection)
        assert (study.name, study.is_ours, study.is_set_aside) == ("study", True, False)
        assert seals.count_states(connection, study.study_id) == {s.name: 1 for s in STATES}
        assert seals.count_baselines(connection, study.study_id) == 0
        assert seals.kept_attribute(connection, study.study_id, seals.SETTINGS) == "1"
        assert seals.kept_attribute(connection, study.study_id, seals.PRICES) is None


def test_a_study_is_set_aside_under_a_free_name(database: Database) -> None:
    """Each time under another one."""
    with database.engine.connect() as connection:
        (study,) = seals.list_studies(connection)
        assert seals.set_aside(connection, study) == "study-damaged-1"
        assert seals.list_studies(connection)[0].is_set_aside
        connection.execute(text("INSERT INTO studies (study_id, study_name) VALUES (99, 'study')"))
        assert seals.set_aside(connection, seals.list_studies(connection)[1]) == "study-damaged-2"
        connection.rollback()


def test_rows_without_a_study_are_kept_aside(tmp_path: Path) -> None:
    """In SQLite a new study would take over what a deleted one left: its places too."""
    with Database.open(tmp_path / "study.db") as database:
        open_storage(database)
        with database.engine.begin() as connection:
            row = {"study_id": 1, "choice": "a", "place": 0, "trial_id": 1}
            insert_or_keep(connection, table_of(FinishedRow), row)
            assert seals.keep_orphans(connection) == 1
            assert seals.keep_orphans(connection) == 0
        assert open_storage(database).create_new_study([StudyDirection.MINIMIZE], "new") == 2
