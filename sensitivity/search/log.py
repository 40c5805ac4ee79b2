"""How is a search kept? As an Optuna study: `open_log` to go on with it, `read_log` to look at it.

Optuna's tables lie in the study's database, beside ours. A scored trial is complete and a stopped
one pruned. A trial that failed is failed, with the reason (`search.kept_trials`).

    log = open_log(store, name, candidates, settings)
    log.history()                          # scored and stopped trials, in order

Before a study is used it is compared with its checksums (`search.seals`), and each trial is read
through its record. A study that is not what was written is set aside under another name, and its
search begins anew with the scores that are kept (`open_log`); who only reads it gets an error
(`read_log`).

Several workers may open one study at a time: one after the other does what is done once. What a
study is asked for is kept with it. The largest budget that was asked for holds while workers live;
a worker that is alone may lower it.
"""

import logging
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.study import StudyDirection

from sensitivity.core.words import first_line, printable
from sensitivity.errors import DamageError, SensitivityError, StoreError
from sensitivity.search.candidates import Candidates
from sensitivity.search.optuna_storage import open_storage
from sensitivity.search.seals import (
    OURS,
    PRICES,
    SETTINGS,
    StudyEntry,
    keep_orphans,
    list_studies,
    set_aside,
    study_fault,
)
from sensitivity.search.store import Store
from sensitivity.search.study_log import StudyLog
from sensitivity.search.workers import Worker, live_workers

_DIRECTIONS = [StudyDirection.MINIMIZE, StudyDirection.MINIMIZE]
_MADE_AGAIN = "run the same search again, which makes it again from the scores that are kept"
_notes = logging.getLogger(__name__)


def open_log(
    store: Store,
    name: str,
    candidates: Candidates,
    settings: Mapping[str, Any],
    *,
    worker: Worker | None = None,
    kept: Mapping[str, Any] | None = None,
) -> StudyLog:
    """The log of a study, which is made if it is not there.

    The model, the settings (`search.settings`) and the measured prices (`search.kept_prices`) are
    kept with the study, as `search.finished` reads them. A study that is not what was written is
    set aside, said, and made again.

    Args:
        store: the database.
        name: of the study.
        candidates: what its choices mean.
        settings: what the search is asked for.
        worker: this process; others that live may use the study meanwhile. None: there is no other.
        kept: more facts that are kept with the study, by name.

    Raises:
        StoreError: the database holds an Optuna study that is not ours.
        DamageError: the study is not what was written, and other workers use it.
    """
    storage = open_storage(store)
    log, fault = _checked(store, storage, name, candidates)  # without the lock: it takes seconds
    others = _others(store, worker, name)
    if fault is not None and others:
        raise fault
    with _alone_in(store):
        if not others:
            _keep_orphans(store)
        if fault is not None:
            log, fault = _checked(store, storage, name, candidates)
            if fault is not None:
                _set_aside(store, name, fault)
        if log is None:
            log = StudyLog(store, _made(storage, name), candidates)
        log.fail_running()
        _keep_facts(log, settings, kept or {}, may_lower=not others)
    return log


def _checked(
    store: Store, storage: BaseStorage, name: str, candidates: Candidates
) -> tuple[StudyLog | None, DamageError | None]:
    """The log of a study, or what is wrong with it; neither where it is not there."""
    studies = _own_studies(store, name)
    if name not in studies:
        return None, None
    try:
        return _check(store, storage, studies[name], candidates), None
    except DamageError as error:
        return None, error


def _keep_orphans(store: Store) -> None:
    with store.writing() as session:
        if keep_orphans(session.connection()):
            _notes.warning("%s: rows of deleted studies or trials are kept aside", store.describe())


def _alone_in(store: Store) -> AbstractContextManager[Any]:
    """Inside, no other process opens a study of the database to go on with it."""
    return store.locked("studies") if store.is_shared else nullcontext()


def _others(store: Store, worker: Worker | None, study: str) -> list[str]:
    """The names of other workers that live and may use the study."""
    if worker is None or not store.is_shared:
        return []
    with store.reading() as session:
        known = live_workers(session.connection())
    return [
        own.worker
        for own in known
        if own.is_alive and own.worker != worker.name and own.activity.study == study
    ]


def _made(storage: BaseStorage, name: str) -> optuna.Study:
    study = optuna.create_study(
        storage=storage, study_name=name, directions=["minimize", "minimize"], load_if_exists=True
    )
    if OURS not in study.user_attrs:
        study.set_user_attr(OURS, 1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names(["latency_s", "typical_lpips"])
    return study


def _set_aside(store: Store, name: str, error: DamageError) -> None:
    study = _own_studies(store, name)[name]
    with store.writing() as session:
        kept = set_aside(session.connection(), study)
    _notes.warning(
        "%s; it is kept as %s, and made again from the scores that are kept",
        str(error).partition("; expected")[0],
        kept,
    )


def _keep_facts(
    log: StudyLog, settings: Mapping[str, Any], kept: Mapping[str, Any], *, may_lower: bool
) -> None:
    """Keep what the study is asked for, where it is not what it was asked for before."""
    facts = {SETTINGS: dict(settings), **kept}
    known = log.study.user_attrs
    before = known.get(SETTINGS)
    if not may_lower and isinstance(before, dict) and isinstance(before.get("budget"), int):
        facts[SETTINGS]["budget"] = max(before["budget"], settings["budget"])
    if log.candidates.prices is not None and PRICES not in known:
        facts[PRICES] = log.candidates.prices.to_json()
    for key, value in facts.items():
        if key not in known or known[key] != value:
            log.keep(key, value)


def read_log(store: Store, name: str, candidates: Candidates) -> StudyLog:
    """The log of a study that is in the database. Nothing is written.

    Raises DamageError where it is not what was written.
    """
    storage = open_storage(store)
    with store.reading() as session:
        found = {study.name: study for study in list_studies(session.connection())}
    if name not in found:
        raise StoreError(
            f"{store.describe()} holds no study {name}; expected one: run its search first"
        )
    return _check(store, storage, found[name], candidates)


def study_names(store: Store) -> list[str]:
    """The names of the studies in a database, without those that were set aside."""
    with store.reading() as session:
        found = list_studies(session.connection())
    return [study.name for study in found if not study.is_set_aside]


def _own_studies(store: Store, name: str) -> dict[str, StudyEntry]:
    """{name: study} of a database. Raises StoreError where one is neither ours nor `name`."""
    with store.reading() as session:
        studies = list_studies(session.connection())
    for study in studies:
        if not study.is_ours and not study.is_set_aside and study.name != name:
            raise StoreError(
                f"{store.describe()} holds the Optuna study {study.name!r}, which sensitivity did"
                " not make; expected a database of its own: name another `storage`"
            )
    return {study.name: study for study in studies}


def _check(
    store: Store, storage: BaseStorage, study: StudyEntry, candidates: Candidates
) -> StudyLog:
    """The log of a study that is what was written, all of which can be read.

    Raises DamageError, which names what is not.
    """
    why: str | None = None
    if store.has_checksums:
        with store.reading() as session:
            why = study_fault(session.connection(), study.study_id)
    try:
        if why is None:
            found = optuna.load_study(study_name=study.name, storage=storage)
            log = StudyLog(store, found, candidates)
            if log.study.directions != _DIRECTIONS:
                raise ValueError("its objectives are not both minimized")
            log.read_new(), log.errors()
            return log
    except SensitivityError:
        raise
    except Exception as error:  # whatever Optuna makes of what is in its tables
        why = f"it cannot be read: {printable(first_line(error))}"
    raise DamageError(
        f"the study {study.name} in {store.describe()} is damaged: {why}; expected what a search"
        f" wrote: {_MADE_AGAIN}"
    )
