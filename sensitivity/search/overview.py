"""What does a database hold, in numbers that need neither Optuna nor a model? `read_overview`.

    overview = read_overview(database)
    overview.studies[0].trials[0].seconds_a_run, overview.workers

It is quick on purpose: nothing heavy is imported, and scores, most of a large database, stay
unread. Who needs them takes `search.log`. Nothing is written.
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, bindparam, text

from sensitivity.search.claims import holders, trials_scope
from sensitivity.search.database import Database
from sensitivity.search.dialects import database_now
from sensitivity.search.seals import CONTINUES, SETTINGS, StudyEntry, kept_attribute, list_studies
from sensitivity.search.tables import ClaimRow, WorkerRow
from sensitivity.search.workers import KnownWorker, live_workers


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialRow:
    """One trial.

    Attributes:
        state: Optuna's: "COMPLETE", "PRUNED", "FAIL"; "RUNNING" in studies of earlier versions.
        ended: when it ended, by the clock of its worker; None where it did not.
        seconds_a_run: priced; None where it has no score.
        typical: typical damage, or the cost that stands for it where sound breaks its bound.
        index: its place among what was scored or stopped; None where it was neither.
        label: of a baseline; "" for a proposal.
        seconds: what scoring took.
        reason: why it failed; "" where it did not.
        has_choice: whether it came to be scored.
    """

    state: str
    ended: datetime | None = None
    seconds_a_run: float | None = None
    typical: float | None = None
    index: int | None = None
    label: str = ""
    seconds: float = 0.0
    reason: str = ""
    has_choice: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyRows:
    """A study that a search made.

    Attributes:
        name: with a fingerprint.
        settings: as they were kept; {} where none were.
        trials: in Optuna's order.
        holders: the worker of each trial that is taken, dead ones too.
    """

    name: str
    settings: dict[str, Any]
    trials: tuple[TrialRow, ...]
    holders: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Overview:
    """What a database holds.

    Attributes:
        now: when it was read, by the database's clock.
        workers: who works on it, or did last.
        studies: without those that were set aside or that another one continues.
    """

    now: datetime
    workers: tuple[KnownWorker, ...]
    studies: tuple[StudyRows, ...]


def read_overview(database: Database) -> Overview:
    """All of it, as of one moment."""
    has_studies = database.has_studies()
    has_workers = not {WorkerRow.__tablename__, ClaimRow.__tablename__} & set(database.lacking)
    with database.reading() as session:
        connection = session.connection()
        workers = live_workers(connection) if has_workers else []
        studies = _studies(connection, has_claims=has_workers) if has_studies else []
        now = datetime.fromtimestamp(database_now(connection), UTC)
    return Overview(now=now, workers=tuple(workers), studies=tuple(studies))


def _studies(connection: Connection, *, has_claims: bool) -> list[StudyRows]:
    entries = [s for s in list_studies(connection) if s.is_ours and not s.is_set_aside]
    continued = {kept_attribute(connection, s.study_id, CONTINUES) for s in entries}
    return [
        _study(connection, entry, has_claims=has_claims)
        for entry in entries
        if json.dumps(entry.name) not in continued
    ]


def _study(connection: Connection, entry: StudyEntry, *, has_claims: bool) -> StudyRows:
    settings = _value(kept_attribute(connection, entry.study_id, SETTINGS))
    taken = holders(connection, trials_scope(entry.name)) if has_claims else []
    return StudyRows(
        name=entry.name,
        settings=settings if isinstance(settings, dict) else {},
        trials=tuple(_trials(connection, entry.study_id)),
        holders=tuple(taken),
    )


_ATTRIBUTES = ("index", "label", "seconds", "reason", "choice")
_OF_STUDY = "trial_id IN (SELECT trial_id FROM trials WHERE study_id = :wanted)"
_TRIALS = text(
    "SELECT trial_id, state, datetime_complete FROM trials WHERE study_id = :wanted"
    " ORDER BY trial_id"
)
_VALUES = text(f"SELECT trial_id, objective, value FROM trial_values WHERE {_OF_STUDY}")
_FIELDS = text(
    f"SELECT trial_id, key, value_json FROM trial_user_attributes WHERE {_OF_STUDY}"
    " AND key IN :keys"
).bindparams(bindparam("keys", _ATTRIBUTES, expanding=True))


def _trials(connection: Connection, study_id: int) -> list[TrialRow]:
    wanted = {"wanted": study_id}
    found: dict[int, dict[str, Any]] = {
        trial_id: {"state": str(state), "ended": _time(ended)}
        for trial_id, state, ended in connection.execute(_TRIALS, wanted)
    }
    for trial_id, objective, value in connection.execute(_VALUES, wanted):
        if isinstance(value, float) and objective in (0, 1):
            found[trial_id][("seconds_a_run", "typical")[objective]] = value
    for trial_id, key, value in connection.execute(_FIELDS, wanted):
        found[trial_id] |= _field(key, _value(value))
    return [TrialRow(**fields) for fields in found.values()]


def _field(key: str, value: Any) -> dict[str, Any]:
    """An attribute as a field of `TrialRow`; {} for what no search writes."""
    if key == "choice":
        return {"has_choice": True}
    kinds = {"index": int, "label": str, "seconds": (int, float), "reason": str}
    return {key: value} if isinstance(value, kinds[key]) else {}  # type: ignore[arg-type]


def _value(kept: object) -> Any:
    try:
        return None if kept is None else json.loads(str(kept))
    except (ValueError, RecursionError):
        return None


def _time(kept: object) -> datetime | None:
    """Optuna's time, which is in UTC and does not say so: a text in SQLite."""
    try:
        return datetime.fromisoformat(str(kept)).replace(microsecond=0, tzinfo=UTC)
    except ValueError:
        return None
