"""Trials are added whole or not at all, whoever else adds some, on both engines."""

import json
import os
import pickle
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages._cached_storage import _CachedStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import Connection, text

from sensitivity.core.storage_url import Storage, parse_storage
from sensitivity.errors import LostDatabaseError, StoreError
from sensitivity.search.database import Database
from sensitivity.search.dialects import insert_or_keep
from sensitivity.search.optuna_storage import open_storage, sealed
from sensitivity.search.seals import study_fault
from sensitivity.search.tables import FinishedRow, table_of

from support.databases import run_at_once
from support.postgres import PostgresServer

ENGINES = ("sqlite", "postgresql")
DIRECTIONS = [StudyDirection.MINIMIZE] * 2
PROCESSES, EACH = 4, 10


@pytest.fixture(params=ENGINES)
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """A place for a new database."""
    if request.param == "sqlite":
        return tmp_path / "study.db"
    return parse_storage(request.getfixturevalue("postgres_url"))


@pytest.fixture
def database(storage: Storage) -> Iterator[Database]:
    """A new database that others may use too."""
    with Database.open(storage, shared=True) as opened:
        yield opened


def new_study(trials: _CachedStorage) -> int:
    """The id of a new study that counts as ours."""
    study_id = trials.create_new_study(DIRECTIONS, "study")
    trials.set_study_user_attr(study_id, "sensitivity", 1)
    return study_id


def trial(number: int, state: TrialState = TrialState.COMPLETE) -> FrozenTrial:
    """A trial that is finished."""
    return create_trial(
        state=state,
        values=[1.0 + number, 0.25] if state is TrialState.COMPLETE else None,
        user_attrs={"choice": json.dumps([number]), "label": ""},
        system_attrs={"nsga2:generation": number},
    )


def take_place(study_id: int, choice: str) -> Any:
    """What gives a trial the next place, as a search does."""

    def and_then(connection: Connection, trial_id: int) -> Mapping[str, Any]:
        count = text("SELECT COUNT(*) FROM sensitivity_trials WHERE study_id = :study_id")
        place = connection.execute(count, {"study_id": study_id}).scalar_one()
        row = {"study_id": study_id, "choice": choice, "place": place, "trial_id": trial_id}
        assert insert_or_keep(connection, table_of(FinishedRow), row)
        return {"index": place}

    return and_then


def fault(database: Database, study_id: int) -> str | None:
    """What the seals say."""
    with database.reading() as session:
        return study_fault(session.connection(), study_id)


def count(database: Database, table: str) -> int:
    """The rows of a table."""
    with database.reading() as session:
        return int(session.execute(text(f"SELECT COUNT(*) FROM {table}")).scalar_one())


@pytest.mark.parametrize("state", [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL])
def test_a_trial_is_added_with_its_place_and_its_seal(
    database: Database, state: TrialState
) -> None:
    """Everything of the template is there, with what the transaction adds, and it is sealed: a
    value that is edited later is found.
    """
    trials = open_storage(database)
    study_id = new_study(trials)
    place = None if state is TrialState.FAIL else take_place(study_id, "a")
    trial_id = sealed(trials).add_finished(study_id, trial(3, state), and_then=place)
    kept = trials.get_trial(trial_id)
    assert (kept.state, kept.number, kept.values) == (state, 0, trial(3, state).values)
    index = {} if place is None else {"index": 0}
    assert kept.user_attrs == {"choice": "[3]", "label": ""} | index
    assert kept.system_attrs == {"nsga2:generation": 3}
    assert kept.datetime_complete is not None
    assert fault(database, study_id) is None
    with database.engine.begin() as connection:
        connection.execute(text("UPDATE trial_user_attributes SET value_json = '\"[4]\"'"))
    assert fault(database, study_id) == "trial 0 is not what was written (trial_user_attributes)"


def test_what_raises_in_the_transaction_undoes_it(database: Database) -> None:
    """Nothing of the trial is there, neither in Optuna's tables nor in ours; the next one takes its
    number and its place.
    """
    trials = open_storage(database)
    study_id = new_study(trials)

    def raises(connection: Connection, trial_id: int) -> Mapping[str, Any]:
        take_place(study_id, "a")(connection, trial_id)
        raise KeyError("known already")

    with pytest.raises(KeyError, match="known already"):
        sealed(trials).add_finished(study_id, trial(0), and_then=raises)
    for table in ("trials", "trial_values", "trial_user_attributes", "sensitivity_trials"):
        assert count(database, table) == 0
    trial_id = sealed(trials).add_finished(study_id, trial(0), and_then=take_place(study_id, "a"))
    assert trials.get_trial(trial_id).user_attrs["index"] == 0
    assert [t.number for t in trials.get_all_trials(study_id)] == [0]


def test_a_trial_that_runs_is_refused(database: Database) -> None:
    """Only what is finished is added."""
    trials = open_storage(database)
    with pytest.raises(ValueError, match="found a trial that is RUNNING; expected a finished"):
        sealed(trials).add_finished(new_study(trials), create_trial(state=TrialState.RUNNING))


def test_many_processes_add_trials_at_once(storage: Storage) -> None:
    """Every trial is there once, numbers and places have no gap, and each is sealed; a process that
    looks on sees them all.
    """
    with Database.open(storage, shared=True) as database:
        looking = open_storage(database)
        study_id = new_study(looking)

        def work(process: int) -> None:
            with Database.open(storage, shared=True) as own:
                backend = sealed(open_storage(own))
                for i in range(EACH):
                    number = EACH * process + i
                    place = take_place(study_id, f"choice {number}")
                    backend.add_finished(study_id, trial(number), and_then=place)

        assert run_at_once(PROCESSES, work) == [0] * PROCESSES
        found = looking.get_all_trials(study_id)
        every = list(range(PROCESSES * EACH))
        assert [t.number for t in found] == every
        assert [t.user_attrs["index"] for t in found] == every
        assert sorted(json.loads(t.user_attrs["choice"])[0] for t in found) == every
        assert fault(database, study_id) is None


def test_many_processes_keep_facts_of_a_study_at_once(storage: Storage) -> None:
    """Each fact is there, and the seal of the study's rows is that of all of them."""
    with Database.open(storage, shared=True) as database:
        study_id = new_study(open_storage(database))

        def work(process: int) -> None:
            with Database.open(storage, shared=True) as own:
                backend = sealed(open_storage(own))
                for i in range(EACH):
                    backend.set_study_user_attr(study_id, f"fact {process} {i}", i)

        assert run_at_once(PROCESSES, work) == [0] * PROCESSES
        kept = open_storage(database).get_study_user_attrs(study_id)
        assert len(kept) == 1 + PROCESSES * EACH
        assert fault(database, study_id) is None


def test_a_process_that_is_killed_in_the_transaction_leaves_nothing(storage: Storage) -> None:
    """Neither a trial nor a lock is left, so another process adds its trial at once."""
    with Database.open(storage, shared=True) as database:
        trials = open_storage(database)
        study_id = new_study(trials)

        def dies(connection: Connection, trial_id: int) -> Mapping[str, Any]:
            take_place(study_id, "a")(connection, trial_id)
            os.kill(os.getpid(), signal.SIGKILL)
            raise AssertionError

        def work(_number: int) -> None:
            with Database.open(storage, shared=True) as own:
                sealed(open_storage(own)).add_finished(study_id, trial(0), and_then=dies)

        assert run_at_once(1, work) == [-signal.SIGKILL]
        place = take_place(study_id, "a")
        sealed(trials).add_finished(study_id, trial(1), and_then=place)
        (found,) = trials.get_all_trials(study_id)
        assert (found.number, found.user_attrs["choice"]) == (0, "[1]")
        assert fault(database, study_id) is None


def test_a_server_that_is_gone_is_a_typed_error(
    postgres: PostgresServer, postgres_url: str
) -> None:
    """While the server is away, and where it goes in the middle, nothing is added; afterwards the
    same storage adds the trial.
    """
    with Database.open(parse_storage(postgres_url)) as database:
        trials = open_storage(database)
        study_id = new_study(trials)

        def crashes(_connection: Connection, _trial_id: int) -> None:
            postgres.crash()

        with pytest.raises(LostDatabaseError):
            sealed(trials).add_finished(study_id, trial(0), and_then=crashes)
        with pytest.raises(LostDatabaseError):
            sealed(trials).add_finished(study_id, trial(0))
        with pytest.raises(LostDatabaseError):
            trials.get_all_trials(study_id)
        postgres.start()
        sealed(trials).add_finished(study_id, trial(0))
        assert [t.number for t in trials.get_all_trials(study_id)] == [0]
        assert fault(database, study_id) is None


def test_no_password_is_in_a_storage(postgres: PostgresServer, postgres_url: str) -> None:
    """It is in no attribute, and what holds a storage cannot be pickled."""
    with Database.open(parse_storage(postgres_url)) as database:
        trials = open_storage(database)
        backend = sealed(trials)
        shown = " ".join([repr(vars(backend)), repr(backend.engine.url), str(backend.url)])
        assert postgres.password not in shown
        assert "p%40ss" not in shown
        for holder in (backend, trials, optuna.create_study(storage=trials)):
            with pytest.raises(TypeError, match="cannot be pickled; expected each process"):
                pickle.dumps(holder)


def test_another_version_of_optuna_is_refused(database: Database) -> None:
    """Its tables are left as they are."""
    open_storage(database)
    with database.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'v9.9.9'"))
    with pytest.raises(StoreError, match=r"tables of another version of Optuna.*expected those of"):
        open_storage(database)
    assert count(database, "studies") == 0


def test_a_database_without_studies_is_said(storage: Storage) -> None:
    """Who only reads it makes no tables."""
    Database.open(storage).close()
    with Database.read(storage) as database:
        with pytest.raises(StoreError, match="holds no study yet; expected one: wait until"):
            open_storage(database)
        assert not database.has_studies()


def test_another_storage_is_no_sealed_one() -> None:
    """What Optuna made by itself has no seals."""
    with pytest.raises(TypeError, match="found InMemoryStorage; expected what `open_storage`"):
        sealed(optuna.storages.InMemoryStorage())
