"""Is what Optuna keeps of a study still what was written? Checksums of a study's rows: seals.

Optuna's tables are trusted by whoever reads them: a value that was edited, a trial that was deleted
or doubled would give another recipe. So a study's own rows have a seal, and each finished trial has
one; a seal is written in the transaction that finishes the trial (`search.optuna_storage`). A seal
holds a checksum for each of Optuna's tables, over the raw values of the rows that belong together.

    study_fault(connection, study_id)     # "trial 7 is not what was written (trial_values)", None
    set_aside(connection, study_id)       # "tiny-flux-nvfp4-b200-1a2b3c4d-damaged-1"

Nothing is deleted. A damaged study gets another name, and the search that made it is made anew from
the scores that are kept: it proposes the same skip-lists, and known ones generate no picture.

Functions take a connection with a transaction; who calls commits. A study that others write
meanwhile must be seen in one state (`Database.reading`). Notes that Optuna's dashboard writes, and
what it keeps of artifacts, are not sealed.

A checksum is over values as the engine gives them: a study that is copied from SQLite to PostgreSQL
needs new seals (`seal_all`).
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, inspect, text

from sensitivity.search.dialects import POSTGRESQL, insert_or_replace, lock_name
from sensitivity.search.tables import FinishedRow, SealRow, checksum_of, table_of

OURS = "sensitivity"
"""User attribute of the Optuna studies that a search made."""
SETTINGS, PRICES, CONTINUES = "settings", "prices", "continues"
"""User attributes with what a search was asked for, with the measured times that priced it, and
with the name of the earlier version's study that it continues.
"""
FINISHED = ("COMPLETE", "PRUNED", "FAIL")
_SET_ASIDE = re.compile(r".*-damaged-\d+", re.DOTALL)
_SEALS, _PLACES = SealRow.__tablename__, FinishedRow.__tablename__
_NOTES = "key NOT LIKE 'dashboard:%' AND key NOT LIKE 'artifacts:%'"
_ONE, _ALL = "trial_id = :wanted", "study_id = :wanted"
"""Which trials are meant: one, or all of a study."""
_OF_TRIALS = {
    "trials": "SELECT trial_id, number, study_id, state, datetime_start, datetime_complete"
    " FROM trials WHERE {which}",
    "trial_params": "SELECT trial_id, param_name, param_value, distribution_json FROM trial_params"
    " WHERE trial_id IN (SELECT trial_id FROM trials WHERE {which}) ORDER BY param_id",
    "trial_values": "SELECT trial_id, objective, value, value_type FROM trial_values"
    " WHERE trial_id IN (SELECT trial_id FROM trials WHERE {which}) ORDER BY objective",
    "trial_intermediate_values": "SELECT trial_id, step, intermediate_value,"
    " intermediate_value_type FROM trial_intermediate_values"
    " WHERE trial_id IN (SELECT trial_id FROM trials WHERE {which}) ORDER BY step",
    "trial_user_attributes": "SELECT trial_id, key, value_json FROM trial_user_attributes"
    " WHERE trial_id IN (SELECT trial_id FROM trials WHERE {which}) ORDER BY {key}",
    "trial_system_attributes": "SELECT trial_id, key, value_json FROM trial_system_attributes"
    f" WHERE {_NOTES} AND trial_id IN (SELECT trial_id FROM trials WHERE {{which}})"
    " ORDER BY {key}",
}
_OF_STUDY = {
    "studies": "SELECT study_name FROM studies WHERE {which}",
    "study_directions": "SELECT objective, direction FROM study_directions WHERE {which}"
    " ORDER BY objective",
    "study_user_attributes": "SELECT key, value_json FROM study_user_attributes WHERE {which}"
    f" AND {_NOTES} ORDER BY {{key}}",
    "study_system_attributes": "SELECT key, value_json FROM study_system_attributes"
    f" WHERE {{which}} AND {_NOTES} ORDER BY {{key}}",
}
OPTUNAS_KEYS = {
    "studies": ["study_id"],
    "study_directions": ["study_direction_id"],
    "study_user_attributes": ["study_user_attribute_id"],
    "study_system_attributes": ["study_system_attribute_id"],
    "trials": ["trial_id"],
    "trial_params": ["param_id"],
    "trial_values": ["trial_value_id"],
    "trial_intermediate_values": ["trial_intermediate_value_id"],
    "trial_user_attributes": ["trial_user_attribute_id"],
    "trial_system_attributes": ["trial_system_attribute_id"],
}
"""{table: columns of its primary key} of Optuna's tables that a search uses."""
Checksums = dict[str, str]


@dataclass(frozen=True, slots=True)
class StudyEntry:
    """A study of Optuna's tables: its id, its name, and whether a search of ours made it."""

    study_id: int
    name: str
    is_ours: bool

    @property
    def is_set_aside(self) -> bool:
        """Whether it is a damaged one that got another name."""
        return _SET_ASIDE.fullmatch(self.name) is not None


def list_studies(connection: Connection) -> list[StudyEntry]:
    """All studies, oldest first. Read without Optuna, which reads all of them or none."""
    rows = _rows(
        connection,
        "SELECT study_id, study_name, study_id IN (SELECT study_id FROM study_user_attributes"
        " WHERE key = :ours) FROM studies ORDER BY study_id",
        ours=OURS,
    )
    return [StudyEntry(study_id=i, name=str(name), is_ours=bool(ours)) for i, name, ours in rows]


def count_states(connection: Connection, study_id: int) -> Counter[str]:
    """How many trials of a study are in each state."""
    return Counter(str(state) for _, state in _states(connection, study_id).values())


def count_baselines(connection: Connection, study_id: int) -> int:
    """How many of the trials with a score are baselines, which have a label."""
    rows = _rows(
        connection,
        "SELECT COUNT(*) FROM trial_user_attributes JOIN trials USING (trial_id) WHERE study_id ="
        " :wanted AND state = 'COMPLETE' AND key = 'label' AND value_json <> '\"\"'",
        wanted=study_id,
    )
    return int(rows[0][0])


def kept_attribute(connection: Connection, study_id: int, key: str) -> object:
    """The text of `SETTINGS`, `PRICES` or `CONTINUES` that a search kept with its study; None where
    it kept none.
    """
    rows = _rows(
        connection,
        "SELECT value_json FROM study_user_attributes WHERE study_id = :wanted AND key = :key",
        wanted=study_id,
        key=key,
    )
    return rows[0][0] if rows else None


def seal_study(connection: Connection, study_id: int) -> None:
    """Seal the study's own rows: name, directions, attributes.

    What another process has changed of them, and not sealed yet, is waited for.
    """
    lock_name(connection, f"seal of study {study_id}")
    _write(connection, study_id, 0, _study_checksums(connection, study_id))


def seal_trial(connection: Connection, trial_id: int, study_id: int | None = None) -> None:
    """Seal a trial's rows; the study is looked up where it is not given."""
    if study_id is None:
        query = "SELECT study_id FROM trials WHERE trial_id = :wanted"
        study_id = int(_rows(connection, query, wanted=trial_id)[0][0])
    _write(connection, study_id, trial_id, _trial_checksums(connection, _ONE, trial_id)[trial_id])


def seal_all(connection: Connection) -> None:
    """Seal every study and every finished trial, as a database of an earlier version needs."""
    for study in list_studies(connection):
        seal_study(connection, study.study_id)
        states = _states(connection, study.study_id)
        found = _trial_checksums(connection, _ALL, study.study_id)
        for trial_id, checksums in found.items():
            if states[trial_id][1] in FINISHED:
                _write(connection, study.study_id, trial_id, checksums)


def study_fault(connection: Connection, study_id: int) -> str | None:
    """What of a study, or of its finished trials, is not what was written; None where all is."""
    own = study_rows_fault(connection, study_id)
    if own is not None:
        return own
    seals = _seals(connection, study_id)
    states = _states(connection, study_id)
    found = _trial_checksums(connection, _ALL, study_id)
    for trial_id, checksums in seals.items():
        if trial_id == 0:
            continue
        if trial_id not in found:
            return f"a finished trial is missing (trials, trial_id {trial_id})"
        changed = _changed(checksums, found[trial_id])
        if changed:
            return f"trial {states[trial_id][0]} is not what was written ({changed})"
    for trial_id, (number, state) in states.items():
        if state in FINISHED and trial_id not in seals:
            return f"trial {number} has no checksum ({_SEALS}, trial_id {trial_id})"
    return _places_fault(connection, study_id)


def _places_fault(connection: Connection, study_id: int) -> str | None:
    """Which trial's place is not listed as the trial has it; None where all are.

    None too in a database of an older schema, which is only read and lists none.
    """
    if not inspect(connection).has_table(_PLACES):
        return None
    query = (
        "SELECT trials.trial_id, value_json FROM trial_user_attributes JOIN trials USING (trial_id)"
        " WHERE study_id = :wanted AND key = 'index' AND state IN ('COMPLETE', 'PRUNED')"
    )
    own = {(trial_id, str(place)) for trial_id, place in _rows(connection, query, wanted=study_id)}
    query = f"SELECT trial_id, place FROM {_PLACES} WHERE study_id = :wanted"
    listed = {(trial_id, str(n)) for trial_id, n in _rows(connection, query, wanted=study_id)}
    wrong = sorted(own ^ listed)
    return (
        f"the place of a trial is not listed ({_PLACES}, trial_id {wrong[0][0]})" if wrong else None
    )


def study_rows_fault(connection: Connection, study_id: int) -> str | None:
    """The same for the study's own rows alone: name, directions, settings."""
    seals = _seals(connection, study_id)
    if 0 not in seals:
        return f"its own rows have no checksum ({_SEALS})" if seals else None
    changed = _changed(seals[0], _study_checksums(connection, study_id))
    return f"its own rows are not what was written ({changed})" if changed else None


def set_aside(connection: Connection, study: StudyEntry) -> str:
    """Give a damaged study another name, which is returned."""
    names = {other.name for other in list_studies(connection)}
    number = next(n for n in range(1, len(names) + 2) if f"{study.name}-damaged-{n}" not in names)
    name = f"{study.name}-damaged-{number}"
    update = text("UPDATE studies SET study_name = :name WHERE study_id = :wanted")
    connection.execute(update, {"name": name, "wanted": study.study_id})
    return name


def keep_orphans(connection: Connection) -> int:
    """Give rows whose study or trial is gone a row to belong to, and count them.

    SQLite uses the number of the last row again where that row was deleted: a new trial would take
    over what is left of an old one. PostgreSQL does not, and its foreign keys leave no such rows.
    """
    if connection.dialect.name == POSTGRESQL:
        return 0
    studies = _orphans(
        connection,
        "study_id",
        "studies",
        (
            "trials",
            "study_directions",
            "study_user_attributes",
            "study_system_attributes",
            _SEALS,
            _PLACES,
        ),
    )
    insert = text("INSERT INTO studies (study_id, study_name) VALUES (:study_id, :name)")
    for study_id in studies:
        name = f"unnamed-{study_id}-damaged-1"
        connection.execute(insert, {"study_id": study_id, "name": name})
    trials = _orphans(
        connection, "trial_id", "trials", tuple(name for name in _OF_TRIALS if name != "trials")
    )
    insert = text("INSERT INTO trials (trial_id, state) VALUES (:trial_id, 'FAIL')")
    for trial_id in trials:
        connection.execute(insert, {"trial_id": trial_id})
    return len(studies) + len(trials)


def _orphans(connection: Connection, key: str, parent: str, children: Iterable[str]) -> list[int]:
    """Values of `key` in the children that the parent lacks, in SQLite."""
    union = " UNION ".join(f"SELECT {key} FROM {child}" for child in children)
    rows = _rows(
        connection,
        f"SELECT {key} FROM ({union}) WHERE typeof({key}) = 'integer' AND {key} <> 0"
        f" AND {key} NOT IN (SELECT {key} FROM {parent})",
    )
    return [row[0] for row in rows]


def _rows(connection: Connection, query: str, **values: Any) -> list[Any]:
    """The rows of a query with named values, as the engine gives them."""
    return list(connection.execute(text(query), values))


def _sealed_rows(connection: Connection, query: str, which: str, wanted: int) -> list[Any]:
    """The rows of a query of `_OF_TRIALS` or `_OF_STUDY`: PostgreSQL orders texts by bytes too."""
    key = 'key COLLATE "C"' if connection.dialect.name == POSTGRESQL else "key"
    return _rows(connection, query.format(which=which, key=key), wanted=wanted)


def _states(connection: Connection, study_id: int) -> dict[int, tuple[Any, Any]]:
    """{trial_id: (number, state)} of a study."""
    rows = _rows(
        connection,
        "SELECT trial_id, number, state FROM trials WHERE study_id = :wanted ORDER BY trial_id",
        wanted=study_id,
    )
    return {trial_id: (number, state) for trial_id, number, state in rows}


def _trial_checksums(connection: Connection, which: str, wanted: int) -> dict[int, Checksums]:
    """{trial_id: {table: checksum}} of the trials that are meant."""
    rows: dict[int, dict[str, list[Any]]] = defaultdict(lambda: {name: [] for name in _OF_TRIALS})
    for name, query in _OF_TRIALS.items():
        for trial_id, *rest in _sealed_rows(connection, query, which, wanted):
            rows[trial_id][name].append(rest)
    return {
        trial_id: {name: _short(found) for name, found in tables.items()}
        for trial_id, tables in rows.items()
    }


def _study_checksums(connection: Connection, study_id: int) -> Checksums:
    return {
        name: _short([list(row) for row in _sealed_rows(connection, query, _ALL, study_id)])
        for name, query in _OF_STUDY.items()
    }


def _short(rows: list[Any]) -> str:
    return checksum_of(rows)[:32]


def _seals(connection: Connection, study_id: int) -> dict[int, object]:
    """{trial_id: checksums} of a study; None where a seal cannot be read."""
    rows = _rows(
        connection,
        f"SELECT trial_id, checksums FROM {_SEALS} WHERE study_id = :wanted",
        wanted=study_id,
    )
    return {trial_id: _read(checksums) for trial_id, checksums in rows}


def _read(text: object) -> object:
    try:
        return json.loads(str(text))
    except (ValueError, RecursionError):
        return None


def _changed(sealed: object, found: Checksums) -> str:
    """The tables whose rows are not what was sealed, in words; "" where all are."""
    if not isinstance(sealed, dict) or set(sealed) != set(found):
        return f"its checksum in {_SEALS} cannot be read"
    return ", ".join(name for name, checksum in found.items() if sealed[name] != checksum)


def _write(connection: Connection, study_id: int, trial_id: int, checksums: Checksums) -> None:
    values = {"study_id": study_id, "trial_id": trial_id, "checksums": json.dumps(checksums)}
    insert_or_replace(connection, table_of(SealRow), values)
