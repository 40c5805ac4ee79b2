"""What a database holds is read without Optuna, and shown by a tool that knows Optuna, on both
engines.
"""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from sensitivity.core.storage_url import Storage, parse_storage
from sensitivity.errors import OutputError
from sensitivity.search.claims import Claims, trials_scope
from sensitivity.search.database import Database
from sensitivity.search.optuna_storage import open_storage, sealed
from sensitivity.search.overview import TrialRow, read_overview
from sensitivity.search.seals import study_rows_fault
from sensitivity.search.shown_storage import Extras, ShownStorage
from sensitivity.search.workers import Worker

SCORE = json.dumps({"mean": 0.25})
KEPT = {
    TrialState.COMPLETE: {"index": 0, "label": "none", "seconds": 1.5, "score": SCORE},
    TrialState.PRUNED: {"index": 1, "label": "", "seconds": 0.5},
    TrialState.FAIL: {"reason": "out of memory"},
}


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def kept(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Storage]:
    """A study of one trial in each state; its writer lives, and has taken a fourth."""
    if request.param == "sqlite":
        storage = parse_storage(tmp_path_factory.mktemp("overview") / "study.db")
    else:
        server = request.getfixturevalue("postgres")
        server.start()
        storage = parse_storage(server.create_database())
    with Database.open(storage, shared=True) as database, Worker.join(database) as worker:
        trials = open_storage(database)
        study = optuna.create_study(
            storage=trials, study_name="study", directions=["minimize", "minimize"]
        )
        for key, value in {"sensitivity": 1, "settings": {"model": "m", "budget": 9}}.items():
            study.set_user_attr(key, value)
        for state, attributes in KEPT.items():
            values = [2.0, 0.5] if state is TrialState.COMPLETE else None
            template = create_trial(
                state=state, values=values, user_attrs=attributes | {"choice": "[0, 1]"}
            )
            sealed(trials).add_finished(study._study_id, template)
        assert Claims(database, worker).take(trials_scope("study"), "a") is not None
        yield storage


def test_an_overview_has_trials_workers_and_what_runs(kept: Storage) -> None:
    """Beside the process that writes, at the database's time; ends are in UTC."""
    with Database.read(kept) as database:
        found = read_overview(database)
    (study,) = found.studies
    assert (study.name, study.settings) == ("study", {"model": "m", "budget": 9})
    (worker,) = found.workers
    assert worker.is_alive
    assert study.holders == (worker.worker,)
    now = datetime.now(UTC)
    assert abs(found.now - now) < timedelta(minutes=1)
    for trial in study.trials:
        assert trial.ended is not None
        assert abs(trial.ended - now) < timedelta(minutes=5)
    complete, pruned, failed = study.trials
    assert complete == TrialRow(
        state="COMPLETE",
        ended=complete.ended,
        seconds_a_run=2.0,
        typical=0.5,
        index=0,
        label="none",
        seconds=1.5,
        has_choice=True,
    )
    assert (pruned.state, pruned.index, pruned.seconds_a_run) == ("PRUNED", 1, None)
    assert (failed.state, failed.reason, failed.index) == ("FAIL", "out of memory", None)


def test_times_do_not_depend_on_the_zone(kept: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Optuna keeps UTC; a reader elsewhere sees the same instant."""
    with Database.read(kept) as database:
        before = read_overview(database).studies
        with monkeypatch.context() as patched:
            patched.setenv("TZ", "Asia/Tokyo")
            time.tzset()
            after = read_overview(database).studies
    time.tzset()
    assert after == before


def test_a_study_is_shown_and_takes_notes_alone(kept: Storage) -> None:
    """A tool sees names and speedups; a note goes into the database and breaks no seal, and
    anything else is refused.
    """
    with Database.read(kept) as database:
        shown = ShownStorage(database, {"study": Extras(note="what came out")})
        (study,) = shown.get_all_studies()
        assert study.user_attrs == {"model": "m", "budget": 9}
        assert study.system_attrs["dashboard:note_str:0"] == "what came out"
        none, stopped, failed = shown.get_all_trials(study._study_id)
        assert none.user_attrs["name"] == "none"
        assert (none.user_attrs["speedup"], none.user_attrs["mean_lpips"]) == (1.0, 0.25)
        assert stopped.user_attrs["name"]
        assert failed.user_attrs == {"reason": "out of memory"}
        shown.set_study_system_attr(study._study_id, "dashboard:note_ver", 2)
        shown.set_study_system_attr(study._study_id, "dashboard:note_str:0", "mine")
        assert shown.get_study_system_attrs(study._study_id)["dashboard:note_str:0"] == "mine"
        with pytest.raises(OutputError, match="only shown here"):
            shown.set_study_system_attr(study._study_id, "theirs", 1)
        with pytest.raises(OutputError):
            shown.set_study_user_attr(study._study_id, "sensitivity", 2)
        with database.reading() as session:
            assert study_rows_fault(session.connection(), study._study_id) is None
