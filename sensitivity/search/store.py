"""What is known already? Scores, layer sensitivities and times of shapes in one database.

A score is a fact. Its key holds all that decides it: the evaluation (`Evaluator.evaluation_key`)
and the assignment of formats (`assignment_key`). Any later trial, search or verification that asks
for the same score reads it here. Rows are written once and never changed, except times of shapes: a
shape that is measured again replaces its row.

    with Store.open(Path("study.db")) as store:
        store.save_score(evaluation, assignment, score, seconds=1.8)
        store.find_score(evaluation, assignment)

`search.database` says who may open the file, and which errors opening, reading and writing raise.
"""

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import select

from sensitivity.core.format_name import FormatName, quantized
from sensitivity.fidelity.score import Score
from sensitivity.search.database import Database, ScoreRow, SensitivityRow, ShapeTimeRow
from sensitivity.spec.study_spec import StudySpec


def default_storage(spec: StudySpec) -> Path:
    """Where a study's database lies: `sensitivity-runs/<study>.db` in the current folder."""
    return Path("sensitivity-runs") / f"{spec.name}.db"


def assignment_key(formats: Mapping[str, FormatName]) -> str:
    """sha256 of what is quantized, by FQN; equal for equal assignments however they were made."""
    return _digest({fqn: str(name) for fqn, name in quantized(formats).items()})


class Store(Database):
    """What a study knows, and what a machine has measured."""

    def save_score(self, evaluation: str, assignment: str, score: Score, *, seconds: float) -> None:
        """Keep a score and the seconds that it took; one that is there already stays."""
        row = ScoreRow(
            evaluation=evaluation,
            assignment=assignment,
            net=score.net,
            mean=score.mean,
            score=score.to_json(),
            seconds=seconds,
            created=_now(),
        )
        self.add(row, (evaluation, assignment))

    def find_score(self, evaluation: str, assignment: str) -> Score | None:
        """The score of an assignment under an evaluation; None where there is none."""
        with self.reading() as session:
            row = session.get(ScoreRow, (evaluation, assignment))
            return None if row is None else Score.from_json(row.score)

    def save_sensitivity(self, calibration: str, assignment: str, error: float) -> None:
        """Keep the error of one assignment in a calibration; one that is there already stays."""
        row = SensitivityRow(calibration=calibration, assignment=assignment, error=error)
        self.add(row, (calibration, assignment))

    def find_sensitivities(self, calibration: str) -> dict[str, float]:
        """{assignment: error} of a calibration so far."""
        return self.find_calibrations(calibration).get(calibration, {})

    def find_calibrations(self, calibration: str | None = None) -> dict[str, dict[str, float]]:
        """{calibration: {assignment: error}} of all calibrations, or of the one that is named."""
        query = select(SensitivityRow.calibration, SensitivityRow.assignment, SensitivityRow.error)
        if calibration is not None:
            query = query.where(SensitivityRow.calibration == calibration)
        found: dict[str, dict[str, float]] = {}
        with self.reading() as session:
            for row in session.execute(query):
                found.setdefault(row.calibration, {})[row.assignment] = row.error
        return found

    def save_shape_time(
        self, machine: Mapping[str, str], compile_mode: str, key: str, row: Mapping[str, Any]
    ) -> None:
        """Keep the measured times of one shape on one machine (device, driver, versions); a row
        that is there is replaced.
        """
        made = ShapeTimeRow(
            machine=_digest(dict(machine)),
            compile_mode=compile_mode,
            shape=key,
            described=dict(machine),
            row=dict(row),
            created=_now(),
        )
        with self.writing() as session:
            session.merge(made)

    def find_shape_times(
        self, machine: Mapping[str, str], compile_mode: str
    ) -> dict[str, dict[str, Any]]:
        """{shape: row} of what was measured on exactly this machine, with these versions, in this
        compile mode.
        """
        query = select(ShapeTimeRow.shape, ShapeTimeRow.row).where(
            ShapeTimeRow.machine == _digest(dict(machine)),
            ShapeTimeRow.compile_mode == compile_mode,
        )
        with self.reading() as session:
            return {found.shape: found.row for found in session.execute(query)}


def _digest(values: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
