"""How does Optuna use our database? `open_storage`: the same file, the same errors, and seals.

Optuna's storage opens the file that `search.database` holds, and no other. What SQLite reports is
raised in our words (`search.sqlite_errors`). The transaction that finishes a trial, or that sets an
attribute of a study, writes its seal too (`search.seals`), so a process that is killed leaves
either both or neither.

    storage = open_storage(store)
    study = optuna.load_study(study_name=name, storage=storage)
"""

import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import optuna
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from sqlalchemy import Connection, event
from sqlalchemy.orm import Session

from sensitivity.core.words import first_line, printable
from sensitivity.errors import SensitivityError, StoreError
from sensitivity.search.database import Database
from sensitivity.search.remembered_trials import RememberedTrials
from sensitivity.search.seals import seal_study, seal_trial
from sensitivity.search.sqlite_errors import (
    connect,
    refuse_unreadable,
    sqlite_error,
)

Seal = Callable[[Connection], None]


class SealedStorage(RDBStorage):
    """Optuna's storage in a database of ours. Make it with `open_storage`."""

    def __init__(self, database: Database) -> None:
        self._now = threading.local()
        super().__init__(database.url, engine_kwargs={"creator": lambda: connect(database.file)})
        database.use(self.engine)
        event.listen(self.scoped_session.session_factory, "before_commit", self._before_commit)

    @contextmanager
    def _sealing(self, seal: Seal) -> Iterator[None]:
        """Whatever is committed meanwhile in this thread is committed with the seal."""
        self._now.seal = seal
        try:
            yield
        finally:
            self._now.seal = None

    def _before_commit(self, session: Session) -> None:
        seal: Seal | None = getattr(self._now, "seal", None)
        if seal is not None:
            session.flush()
            seal(session.connection())

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """As Optuna's; a trial that is finished by it is sealed."""
        if not state.is_finished():
            return super().set_trial_state_values(trial_id, state, values)
        with self._sealing(lambda connection: seal_trial(connection, trial_id)):
            return super().set_trial_state_values(trial_id, state, values)

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        """As Optuna's; the study's own rows are sealed."""
        with self._sealing(lambda connection: seal_study(connection, study_id)):
            super().set_study_user_attr(study_id, key, value)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """As Optuna's; the study's own rows are sealed."""
        with self._sealing(lambda connection: seal_study(connection, study_id)):
            super().set_study_system_attr(study_id, key, value)


def open_storage(database: Database) -> RememberedTrials:
    """Optuna's side of the database, which remembers what was read and written.

    Raises:
        StoreError: another version of Optuna wrote it, or its tables cannot be read; or they are
            not there, and the database is only read.
        OutputError: they cannot be made.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if not database.may_write and not database.has_studies():
        raise StoreError(
            f"{database.path} holds no study yet; expected one: wait until its search has loaded"
            " the model, or run `sensitivity search`"
        )
    try:
        return RememberedTrials(SealedStorage(database))
    except SensitivityError:
        raise
    except RuntimeError as error:
        raise StoreError(
            f"{database.path} has the tables of another version of Optuna"
            f" ({printable(first_line(error))}); expected those of Optuna {optuna.__version__}:"
            " name another `storage`"
        ) from None
    except Exception as error:  # whatever Optuna and alembic make of what is in their tables
        cause = _of_sqlite(error)
        if cause is not None:
            raise sqlite_error(database.file, cause) from None
        refuse_unreadable(database.path, error)


def _of_sqlite(error: BaseException | None) -> sqlite3.Error | MemoryError | None:
    """SQLite's error among the causes of an error; None where there is none."""
    while error is not None:
        for found in (error, getattr(error, "orig", None)):
            if isinstance(found, sqlite3.Error | MemoryError):
                return found
        error = error.__cause__ or error.__context__
    return None
