"""How does Optuna use our database? `open_storage`: the same place, the same errors, and seals.

Optuna's storage has connections to the database that `search.database` opened, and to no other.
What an engine reports is raised in our words. The transaction that finishes a trial, or that sets
an attribute of a study, writes its seal too (`search.seals`), so a process that is killed leaves
either both or neither.

    storage = open_storage(store)
    study = optuna.load_study(study_name=name, storage=storage)
    sealed(storage).add_finished(study._study_id, trial, and_then=place)   # all of it, or nothing

A search adds trials that are finished, and no others: no trial of a killed process runs for ever.

Nothing here has the password of a server: the URL that Optuna keeps is masked, and connections are
made by the database. A storage cannot be pickled: another process opens the database itself.
"""

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import optuna
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages._cached_storage import _CachedStorage
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, event
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from sensitivity.core.words import first_line, printable
from sensitivity.errors import SensitivityError, StoreError
from sensitivity.search.database import Database
from sensitivity.search.schema import OPTUNAS, table_names
from sensitivity.search.seals import seal_study, seal_trial
from sensitivity.search.sqlite_errors import damaged

Seal = Callable[[Connection], None]
AndThen = Callable[[Connection, int], Mapping[str, Any] | None]
"""(connection of the transaction, trial_id) -> further user attributes of the trial."""


class SealedStorage(RDBStorage):
    """Optuna's storage in a database of ours. Make it with `open_storage`."""

    def __init__(self, database: Database) -> None:
        self._now = threading.local()
        super().__init__(
            database.url, engine_kwargs=database.place.engine_options(), skip_table_creation=True
        )
        self.engine.dispose()  # a server has few connections: the database's engine serves both
        self.engine = self._version_manager.engine = database.engine
        self.scoped_session = scoped_session(sessionmaker(bind=database.engine))
        self._version_manager.scoped_session = self.scoped_session
        event.listen(self.scoped_session.session_factory, "before_commit", self._before_commit)

    @staticmethod
    def _fill_storage_url_template(template: str) -> str:
        """The URL as it is: braces in the name of a file mean themselves."""
        return template

    def __getstate__(self) -> NoReturn:
        raise TypeError(
            "the storage of a study cannot be pickled; expected each process to open its database"
        )

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

    def add_finished(
        self, study_id: int, template: FrozenTrial, *, and_then: AndThen | None = None
    ) -> int:
        """Add a trial that is finished, with its seal, in one transaction; its id is returned.

        Its number is how many trials the study has: transactions that add one wait for one another.

        Args:
            study_id: Optuna's.
            template: with state, values and attributes; its number is not used.
            and_then: is called in the transaction, when no other process can add a trial to the
                study, and may write more with the connection. The attributes that it returns are
                added to the trial. What it raises undoes everything and passes. Optuna makes a
                transaction that failed again, so it may be called more than once.

        Raises:
            ValueError: the trial is not finished.
            StoreError, OutputError: as the database says; nothing is added.
        """
        if not template.state.is_finished():
            raise ValueError(
                f"found a trial that is {template.state.name}; expected a finished one"
            )
        self._now.and_then = and_then
        try:
            return self.create_new_trial(study_id, template)
        finally:
            self._now.and_then = None

    def _get_prepared_new_trial(
        self, study_id: int, template_trial: FrozenTrial | None, session: Session
    ) -> Any:
        """As Optuna's, which calls it in the transaction that has locked the study."""
        is_plain = template_trial is not None and not (
            template_trial.params or template_trial.intermediate_values
        )
        if template_trial is None or not (is_plain and template_trial.state.is_finished()):
            trial: Any = super()._get_prepared_new_trial(study_id, template_trial, session)
        else:
            trial = _insert(study_id, template_trial, session)
        session.flush()
        and_then: AndThen | None = getattr(self._now, "and_then", None)
        if and_then is not None:
            more = and_then(session.connection(), trial.trial_id) or {}
            _add_attributes(session, models.TrialUserAttributeModel, trial.trial_id, more)
        if trial.state.is_finished():
            seal_trial(session.connection(), trial.trial_id, study_id)
        return trial

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


def _insert(study_id: int, template: FrozenTrial, session: Session) -> Any:
    """A finished trial without parameters, in four statements instead of Optuna's twenty: other
    workers wait meanwhile.
    """
    model = models.TrialModel
    number = session.query(model.trial_id).filter(model.study_id == study_id).count()
    trial: Any = model(study_id=study_id, number=number, state=template.state)
    trial.datetime_start = template.datetime_start
    trial.datetime_complete = template.datetime_complete
    session.add(trial)
    session.flush()
    kept = map(models.TrialValueModel.value_to_stored_repr, template.values or ())
    values = [
        {"trial_id": trial.trial_id, "objective": objective, "value": value, "value_type": kind}
        for objective, (value, kind) in enumerate(kept)
    ]
    if values:
        session.connection().execute(models.TrialValueModel.__table__.insert(), values)
    _add_attributes(session, models.TrialUserAttributeModel, trial.trial_id, template.user_attrs)
    _add_attributes(
        session, models.TrialSystemAttributeModel, trial.trial_id, template.system_attrs
    )
    return trial


def _add_attributes(
    session: Session, kind: Any, trial_id: int, attributes: Mapping[str, Any]
) -> None:
    """Add attributes of a trial, of users or of samplers."""
    rows = [
        {"trial_id": trial_id, "key": key, "value_json": json.dumps(value)}
        for key, value in attributes.items()
    ]
    if rows:
        session.connection().execute(kind.__table__.insert(), rows)


def open_storage(database: Database) -> _CachedStorage:
    """Optuna's side of the database, which remembers finished trials.

    Raises:
        StoreError: another version of Optuna wrote it, or its tables cannot be read; or they are
            not there, and the database is only read.
        OutputError: they cannot be made.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if not database.may_write and not database.has_studies():
        raise StoreError(
            f"{database.describe()} holds no study yet; expected one: wait until its search has"
            " loaded the model, or run `sensitivity search`"
        )
    try:
        with database.reading() as session:
            tables = table_names(session.connection())
        are_there = tables >= {*models.BaseModel.metadata.tables, *OPTUNAS}
        if are_there or not database.may_write:
            return _CachedStorage(SealedStorage(database))
        with database.locked("schema"):
            models.BaseModel.metadata.create_all(database.engine)
            return _CachedStorage(SealedStorage(database))
    except SensitivityError:
        raise
    except RuntimeError as error:
        raise StoreError(
            f"{database.describe()} has the tables of another version of Optuna"
            f" ({printable(first_line(error))}); expected those of Optuna {optuna.__version__}:"
            " name another `storage`"
        ) from None
    except Exception as error:  # whatever Optuna and alembic make of what is in their tables
        known = database.place.translated(error)
        raise known or damaged(database.describe(), printable(first_line(error))) from None


def sealed(storage: BaseStorage) -> SealedStorage:
    """What `open_storage` gave, without its memory. Raises TypeError for another storage."""
    backend = storage._backend if isinstance(storage, _CachedStorage) else storage
    if not isinstance(backend, SealedStorage):
        raise TypeError(f"found {type(backend).__name__}; expected what `open_storage` returns")
    return backend
