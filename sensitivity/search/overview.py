"""What does a database hold, in numbers that need neither Optuna nor a model? `read_overview`.

    overview = read_overview(database)
    overview.studies[0].trials[0].seconds_a_run, overview.activities

It is quick on purpose: nothing heavy is imported, and scores, most of a large database, stay
unread. Who needs them takes `search.log`. Nothing is written.
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection

from sensitivity.search.activity import Activity, read_activities
from sensitivity.search.database import Database
from sensitivity.search.seals import CONTINUES, SETTINGS, StudyEntry, kept_attribute, list_studies


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialRow:
    """One trial.

    Attributes:
        state: Optuna's: "COMPLETE", "PRUNED", "FAIL", "RUNNING".
        ended: when it ended; None while it runs.
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
    """

    name: str
    settings: dict[str, Any]
    trials: tuple[TrialRow, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Overview:
    """What a database holds.

    Attributes:
        activities: what processes do, or did last.
        studies: without those that were set aside or that another one continues.
    """

    activities: tuple[Activity, ...]
    studies: tuple[StudyRows, ...]


def read_overview(database: Database) -> Overview:
    """All of it, as of one moment."""
    has_studies = database.has_studies()
    with database.engine.connect() as connection:
        activities = [] if database.lacking else read_activities(connection)
        studies = _studies(connection) if has_studies else []
    return Overview(activities=tuple(activities), studies=tuple(studies))


def _studies(connection: Connection) -> list[StudyRows]:
    entries = [s for s in list_studies(connection) if s.is_ours and not s.is_set_aside]
    continued = {kept_attribute(connection, s.study_id, CONTINUES) for s in entries}
    return [
        _study(connection, entry) for entry in entries if json.dumps(entry.name) not in continued
    ]


def _study(connection: Connection, entry: StudyEntry) -> StudyRows:
    settings = _value(kept_attribute(connection, entry.study_id, SETTINGS))
    return StudyRows(
        name=entry.name,
        settings=settings if isinstance(settings, dict) else {},
        trials=tuple(_trials(connection, entry.study_id)),
    )


_ATTRIBUTES = ("index", "label", "seconds", "reason", "choice")


def _trials(connection: Connection, study_id: int) -> list[TrialRow]:
    found: dict[int, dict[str, Any]] = {
        trial_id: {"state": str(state), "ended": _time(ended)}
        for trial_id, state, ended in connection.exec_driver_sql(
            "SELECT trial_id, state, datetime_complete FROM trials WHERE study_id = ?"
            " ORDER BY trial_id",
            (study_id,),
        )
    }
    of_study = "trial_id IN (SELECT trial_id FROM trials WHERE study_id = ?)"
    for trial_id, objective, value in connection.exec_driver_sql(
        f"SELECT trial_id, objective, value FROM trial_values WHERE {of_study}", (study_id,)
    ):
        if isinstance(value, float) and objective in (0, 1):
            found[trial_id][("seconds_a_run", "typical")[objective]] = value
    keys = ", ".join("?" * len(_ATTRIBUTES))
    for trial_id, key, text in connection.exec_driver_sql(
        f"SELECT trial_id, key, value_json FROM trial_user_attributes WHERE {of_study}"
        f" AND key IN ({keys})",
        (study_id, *_ATTRIBUTES),
    ):
        found[trial_id] |= _field(key, _value(text))
    return [TrialRow(**fields) for fields in found.values()]


def _field(key: str, value: Any) -> dict[str, Any]:
    """An attribute as a field of `TrialRow`; {} for what no search writes."""
    if key == "choice":
        return {"has_choice": True}
    kinds = {"index": int, "label": str, "seconds": (int, float), "reason": str}
    return {key: value} if isinstance(value, kinds[key]) else {}  # type: ignore[arg-type]


def _value(text: object) -> Any:
    try:
        return None if text is None else json.loads(str(text))
    except (ValueError, RecursionError):
        return None


def _time(text: object) -> datetime | None:
    """Optuna's time, which is local and does not say so, in UTC."""
    try:
        return datetime.fromisoformat(str(text)).astimezone(UTC).replace(microsecond=0)
    except ValueError:
        return None
