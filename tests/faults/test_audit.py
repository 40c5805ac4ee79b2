"""The audit of the fault tests sees what it is for: each kind of loss, where there is one."""

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from support.fake_workers import settings, start_worker
from support.fault_audit import audit

BUDGET = 2
LAST = "(SELECT max(trial_id) FROM trials)"
NEW = "INSERT INTO trials (trial_id, number, study_id, state) VALUES"
CHANGES = {
    "lost": f"DELETE FROM trials WHERE trial_id = {LAST}",
    "doubled": f"{NEW} (99, 9, 1, 'COMPLETE');"
    "INSERT INTO trial_user_attributes (trial_id, key, value_json) SELECT 99, key, value_json"
    " FROM trial_user_attributes WHERE trial_id = 2",
    "running": f"{NEW} (99, 9, 1, 'RUNNING')",
    "claims": "INSERT INTO sensitivity_claims (scope, item, worker, token, taken, details)"
    " VALUES ('trials x', 'y', 'w', 't', 0, '{}')",
    "gaps": f"UPDATE sensitivity_trials SET place = 77 WHERE trial_id = {LAST}",
    "damaged": f"UPDATE trial_values SET value = 0.5 WHERE trial_id = {LAST}",
    "proposals": f"UPDATE trials SET state = 'FAIL' WHERE trial_id = {LAST}",
}


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a worker that did its work."""
    folder = tmp_path_factory.mktemp("searched")
    worker = start_worker(folder / "study.db", folder, settings(BUDGET))
    assert worker.wait() == 0, worker.output
    return folder


def test_nothing_is_wrong(searched: Path) -> None:
    """An undisturbed search has no count that is not 0."""
    found = audit(searched / "study.db", searched).check(budget=BUDGET)
    assert (found.trials, found.failed, found.scored_again) == (BUDGET + 3, 0, 0)


@pytest.mark.parametrize("what", CHANGES)
def test_a_loss_is_seen(what: str, searched: Path, tmp_path: Path) -> None:
    """Each count that must be 0 is another one where something was changed by hand."""
    folder = tmp_path / "copy"
    shutil.copytree(searched, folder)
    with closing(sqlite3.connect(folder / "study.db", isolation_level=None)) as connection:
        connection.executescript(CHANGES[what])
    found = audit(folder / "study.db", folder)
    assert what in found.wrong(BUDGET)
    with pytest.raises(AssertionError, match=what):
        found.check(budget=BUDGET)


def test_a_score_twice_is_seen(searched: Path, tmp_path: Path) -> None:
    """It is counted from the journals, since the database has a choice once anyway."""
    folder = tmp_path / "copy"
    shutil.copytree(searched, folder)
    (journal,) = folder.glob("*.journal")
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    scored = next(line for line in lines if line["kind"] == "scored")
    journal.write_text("".join(json.dumps(line) + "\n" for line in [*lines, scored]))
    assert audit(folder / "study.db", folder).scored_again == 1
