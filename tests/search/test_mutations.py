"""What lies in a database is not believed: whatever is changed in any table, a search comes to the
same end or says what is wrong, and choosing again never gives another recipe.

A search without a model (`support.fake_search`) is kept, changed in one place, and used again.
"""

import logging
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from sensitivity.errors import StoreError, UserError
from sensitivity.search.store import Store

from support.fake_search import CANDIDATES, CHUNK, FakeEvaluator, search, select, settings

ASKED = settings()
OPTUNAS = ("trial_params", "trial_values", "trial_user_attributes", "trials")
LAST = "(SELECT max(trial_id) FROM trials)"
VALUES = ("NULL", "'x'", "x'ff00'", "CAST(x'ff41' AS TEXT)", "9e99", "-7", "1", "'NaN'")
CHANGES = {
    "a value edited": "UPDATE trial_values SET value = value * 0.5 WHERE trial_id = 3",
    "an unknown kind of value": "UPDATE trial_values SET value_type = 'ODD' WHERE trial_id = 3",
    "an index doubled": "UPDATE trial_user_attributes SET value_json = '1'"
    " WHERE trial_id = 4 AND key = 'index'",
    "an index missing": "DELETE FROM trial_user_attributes WHERE trial_id = 4 AND key = 'index'",
    "a choice edited": "UPDATE trial_user_attributes SET value_json = replace(value_json, '1', '0')"
    " WHERE trial_id = 5 AND key = 'choice'",
    "a score cut": "UPDATE trial_user_attributes SET value_json = substr(value_json, 1, 40)"
    " WHERE trial_id = 5 AND key = 'score'",
    "a label edited": "UPDATE trial_user_attributes SET value_json = '\"all fp8\"'"
    " WHERE trial_id = 2 AND key = 'label'",
    "a very deep attribute": f"UPDATE trial_user_attributes SET value_json = '{'[' * 9999}'"
    " WHERE trial_id = 5 AND key = 'score'",
    "a state edited": "UPDATE trials SET state = 'FAIL' WHERE trial_id = 3",
    "a state that is none": "UPDATE trials SET state = 'ODD' WHERE trial_id = 3",
    "a finished trial runs again": "UPDATE trials SET state = 'RUNNING' WHERE trial_id = " + LAST,
    "a number doubled": "UPDATE trials SET number = 2 WHERE trial_id = 4",
    "a trial of another study": "UPDATE trials SET study_id = 77 WHERE trial_id = 4",
    "a parameter added": "INSERT INTO trial_params (trial_id, param_name, param_value,"
    " distribution_json) VALUES (3, 'x', 1, '{}')",
    "the last trial deleted": ";".join(f"DELETE FROM {t} WHERE trial_id = {LAST}" for t in OPTUNAS),
    "the study deleted": "DELETE FROM studies; DELETE FROM study_user_attributes",
    "settings edited": "UPDATE study_user_attributes SET"
    " value_json = replace(value_json, '\"budget\": ', '\"budget\": 1') WHERE key = 'settings'",
    "errors edited": "UPDATE study_user_attributes SET value_json = replace(value_json, '0.01',"
    " '0.09') WHERE key = 'errors'",
    "errors deleted": "DELETE FROM study_user_attributes WHERE key = 'errors'",
    "a direction turned": "UPDATE study_directions SET direction = 'MAXIMIZE' WHERE objective = 1",
    "checksums of trials gone": "DELETE FROM sensitivity_seals WHERE trial_id = 4",
    "a table gone": "DROP TABLE trial_values",
    "all scores gone": "DROP TABLE sensitivity_scores",
    "a key gone": "CREATE TABLE z AS SELECT * FROM trial_values; DROP TABLE trial_values;"
    " ALTER TABLE z RENAME TO trial_values",
    "a column gone": "ALTER TABLE sensitivity_scores DROP COLUMN mean",
    "a trigger": "CREATE TRIGGER t AFTER INSERT ON trials BEGIN DELETE FROM trials; END",
    "a view": "ALTER TABLE trials RENAME TO z; CREATE VIEW trials AS SELECT * FROM z",
    "Optuna's version": "UPDATE alembic_version SET version_num = 'v9.9.9'",
    "the schema": "UPDATE sensitivity_meta SET value = '1' WHERE key = 'schema'",
    "a score moved": "UPDATE sensitivity_scores SET assignment = 'x' WHERE rowid ="
    " (SELECT max(rowid) FROM sensitivity_scores)",
    "a place gone": "DELETE FROM sensitivity_trials WHERE place = 2",
    "a place edited": "UPDATE sensitivity_trials SET place = 77 WHERE place = 2",
    "all places gone": "DROP TABLE sensitivity_trials",
    "the revision": "UPDATE sensitivity_alembic_version SET version_num = '2'",
    "an error edited": "UPDATE sensitivity_layers SET error = 0.5 WHERE rowid = 2",
}
BEGIN_ANEW = (
    "a value edited",
    "the last trial deleted",
    "the study deleted",
    "a state edited",
    "a place gone",
)
"""Changes after which a whole search is made again in this test; it costs most."""


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """A database, and what its search came to."""
    path = tmp_path_factory.mktemp("kept") / "study.db"
    with pytest.MonkeyPatch.context() as patched:
        return path, search(path, FakeEvaluator(), ASKED, patched)


def changed(kept: Path, folder: Path, statements: str) -> Path:
    """A copy of a database in which SQL has changed something."""
    path = folder / "study.db"
    shutil.copy(kept, path)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(statements)
    return path


def test_nothing_changed(kept: tuple[Path, list[Any]], tmp_path: Path) -> None:
    """An unchanged database is read without a picture and without a warning."""
    evaluator = FakeEvaluator()
    assert select(changed(kept[0], tmp_path, ""), evaluator, ASKED) == kept[1]
    assert set(evaluator.scored.values()) == {0}


@pytest.mark.parametrize("change", CHANGES)
def test_choosing_again_never_gives_another_recipe(
    kept: tuple[Path, list[Any]], tmp_path: Path, change: str
) -> None:
    """After any change the same recipe is chosen, or an error says what is wrong."""
    path = changed(kept[0], tmp_path, CHANGES[change])
    try:
        chosen, words = select(path, FakeEvaluator(), ASKED), ""
    except UserError as error:
        chosen, words = kept[1], str(error)
    assert chosen == kept[1]
    assert not words or ("expected" in words and "remove" not in words)


@pytest.mark.parametrize("change", BEGIN_ANEW)
def test_a_search_makes_again_what_was_changed(
    kept: tuple[Path, list[Any]],
    tmp_path: Path,
    change: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The search comes to the same end from the scores that are kept, generates nothing, and says
    so; what was there is kept beside it.
    """
    path, evaluator = changed(kept[0], tmp_path, CHANGES[change]), FakeEvaluator()
    with caplog.at_level(logging.WARNING):
        assert search(path, evaluator, ASKED, monkeypatch) == kept[1]
    assert set(evaluator.scored.values()) == {0}
    assert "kept as" in caplog.text
    with closing(sqlite3.connect(path)) as connection:
        names = [row[0] for row in connection.execute("SELECT study_name FROM studies")]
    assert [name for name in names if "-damaged-1" in name]
    assert select(path, FakeEvaluator(), ASKED) == kept[1]


def test_every_column_of_our_rows(tmp_path: Path) -> None:
    """Whatever a column of a score, an error or a time is set to, the row is left out and named,
    and who makes nothing again gets an error.
    """
    path, evaluator = tmp_path / "study.db", FakeEvaluator()
    score = evaluator.score(CANDIDATES.decode((1, 1, 0, 0)), "search")
    machine = {"gpu": "b200"}
    with Store.open(path) as store:
        store.save_score("e", "a", score, seconds=1)  # type: ignore[arg-type]
        store.save_sensitivity("c", "a", 1)
        store.save_shape_time(machine, "default", "s", {"us": [1.0]})
    changes = 0
    with Store.open(path) as store, closing(sqlite3.connect(path, isolation_level=None)) as raw:
        raw.execute("PRAGMA synchronous = OFF")
        raw.text_factory = lambda data: data.decode("utf-8", "replace")
        for table in ("sensitivity_scores", "sensitivity_layers", "sensitivity_shape_times"):
            whole = raw.execute(f"SELECT * FROM {table}").fetchone()
            for column in [row[1] for row in raw.execute(f"PRAGMA table_info({table})")]:
                for value in VALUES:
                    try:
                        raw.execute(f'UPDATE {table} SET "{column}" = {value}')
                    except sqlite3.IntegrityError:  # NULL where none may be
                        continue
                    found = [
                        store.find_score("e", "a") == score,
                        store.find_sensitivities("c") == {"a": 1.0},
                        store.find_shape_times(machine, "default") == {"s": {"us": [1.0]}},
                    ]
                    unlike = raw.execute(f"SELECT * FROM {table}").fetchone() != whole
                    assert found.count(False) == unlike, (table, column, value)
                    changes += unlike
                    raw.execute(f"DELETE FROM {table}")
                    signs = ", ".join("?" * len(whole))
                    raw.execute(f"INSERT INTO {table} VALUES ({signs})", whole)
        raw.execute("UPDATE sensitivity_scores SET seconds = 7")
    assert changes > 90
    with pytest.raises(StoreError, match=r"sensitivity_scores is left out.*expected what was"):
        Store.open(path, makes_again=False)


def test_a_changed_row_is_written_again(tmp_path: Path) -> None:
    """A new value replaces a row that does not fit its checksum, and an intact one stays."""
    with Store.open(tmp_path / "study.db") as store:
        store.save_sensitivity("c", "a", 0.25)
        with store.engine.begin() as connection:
            connection.exec_driver_sql("UPDATE sensitivity_layers SET error = 0.5")
        assert store.find_sensitivities("c") == {}
        store.save_sensitivity("c", "a", 0.125)
        store.save_sensitivity("c", "a", 0.75)
        assert store.find_sensitivities("c") == {"a": 0.125}


def test_a_stopped_trial_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials that were stopped early have no score to be kept, so they are scored again, to the
    same end.
    """
    path, asked = tmp_path / "study.db", settings("random", budget=7)
    whole = search(path, FakeEvaluator(chunk=CHUNK), asked, monkeypatch)
    assert whole[1], "no trial was stopped"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE trials SET state = 'COMPLETE' WHERE state = 'PRUNED'")
    with pytest.raises(StoreError, match=r"trial .* is not what was written \(trials\)"):
        select(path, FakeEvaluator(chunk=CHUNK), asked)
    evaluator = FakeEvaluator(chunk=CHUNK)
    assert search(path, evaluator, asked, monkeypatch) == whole
    assert evaluator.scored == {"search": len(whole[1]), "held_out": 0}


OF_SCHEMA_1 = """
DROP TABLE sensitivity_seals;
DROP TABLE sensitivity_workers;
DROP TABLE sensitivity_claims;
DROP TABLE sensitivity_trials;
DROP TABLE sensitivity_alembic_version;
DROP TABLE sensitivity_attempts;
UPDATE sensitivity_meta SET value = '1';
ALTER TABLE sensitivity_scores DROP COLUMN checksum;
ALTER TABLE sensitivity_layers DROP COLUMN checksum;
ALTER TABLE sensitivity_shape_times DROP COLUMN checksum;
"""


def test_a_database_of_the_version_before(
    kept: tuple[Path, list[Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database without checksums gives the same recipe and gets its checksums; where it may only
    be read it is read as it is.
    """
    path = changed(kept[0], tmp_path, OF_SCHEMA_1)
    with monkeypatch.context() as patched:
        patched.setattr(
            "sensitivity.search.held_file.open_descriptor", lambda path: (_read_only(path), False)
        )
        before = path.read_bytes()
        assert select(path, FakeEvaluator(), ASKED) == kept[1]
        assert path.read_bytes() == before
        with pytest.raises(UserError, match="cannot be written: the file is read-only"):
            Store.open(path)
    evaluator = FakeEvaluator()
    assert search(path, evaluator, ASKED, monkeypatch) == kept[1]
    assert set(evaluator.scored.values()) == {0}
    with Store.open(path, makes_again=False):
        pass
    assert select(path, evaluator, ASKED) == kept[1]


def _read_only(path: Path) -> int:
    return os.open(path, os.O_RDONLY)
