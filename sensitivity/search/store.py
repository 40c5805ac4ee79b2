"""What is known already? Scores, layer sensitivities and times of shapes in one database.

A score is a fact. Its key holds all that decides it: the evaluation (`Evaluator.evaluation_key`)
and the assignment of formats (`assignment_key`). Any later trial, search or verification that asks
for the same score reads it here. Rows are written once and never changed, except times of shapes: a
shape that is measured again replaces its row. A row that is not what was written is named and left
out, so it is made again, and the new one replaces it.

    with Store.open(Path("study.db")) as store:
        store.save_score(evaluation, assignment, score, seconds=1.8)
        store.find_score(evaluation, assignment)

`search.database` says who may open the file, and which errors opening, reading and writing raise.
"""

import hashlib
import json
import logging
import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, true

from sensitivity.core.assignment import Assignment
from sensitivity.core.file_names import slug
from sensitivity.core.format_name import FormatName, quantized
from sensitivity.core.storage_url import Storage
from sensitivity.errors import StoreError
from sensitivity.fidelity.score import Score
from sensitivity.search.database import Database
from sensitivity.search.patience import patient
from sensitivity.search.spool import KeptScore, Spool, default_spool_folder
from sensitivity.search.tables import (
    AttemptRow,
    CheckedRow,
    Row,
    ScoreRow,
    SensitivityRow,
    ShapeTimeRow,
)
from sensitivity.spec.study_spec import StudySpec

T = TypeVar("T")

STEPS = "steps:"
"""What a step policy is named by among FQNs; no FQN has a colon."""
END_TO_END = "end to end"
"""In the place of a compile mode: the row is of a whole run, and no shape's."""
log = logging.getLogger(__name__)


def default_storage(spec: StudySpec) -> Path:
    """Where a study's database lies: `sensitivity-runs/<study>.db` in the current folder."""
    return Path("sensitivity-runs") / f"{slug(spec.name, most=200)}.db"


def kept_beside(storage: Storage | None, spec: StudySpec) -> Path:
    """The file that results, pictures and spooled scores lie beside: the database; for one on a
    server, or none, the file that `default_storage` names.
    """
    return storage if isinstance(storage, Path) else default_storage(spec)


def assignment_key(formats: Mapping[str, FormatName]) -> str:
    """sha256 of what is quantized, by FQN, and of the step policy where there is one; equal for
    equal assignments however they were made. A plain mapping has the plain policy.
    """
    policy = Assignment.of(formats).policy
    steps = {} if policy.is_plain else {STEPS: policy.key}
    return _digest({fqn: str(name) for fqn, name in quantized(formats).items()} | steps)


class Store(Database):
    """What a study knows, and what a machine has measured."""

    @cached_property
    def spool(self) -> Spool:
        """Where results wait that the database does not take; another one may be set."""
        return Spool.of(_identity(self), default_spool_folder())

    def save_score(
        self,
        evaluation: str,
        assignment: str,
        score: Score,
        *,
        seconds: float,
        replaces: bool = False,
    ) -> None:
        """Keep a score and the seconds that it took; one that is there already stays, unless this
        one `replaces` it.

        While the database does not answer, the score waits on disk (`search.spool`).
        """
        kept = KeptScore(
            evaluation=evaluation,
            assignment=assignment,
            score=score,
            seconds=float(seconds),
            replaces=replaces,
        )
        self.spool.deliver(kept, lambda: self.write_score(kept))

    def write_score(self, kept: KeptScore) -> None:
        """`save_score`, once: where the database does not answer, LostDatabaseError passes."""
        row = ScoreRow(
            evaluation=kept.evaluation,
            assignment=kept.assignment,
            net=kept.score.net,
            mean=float(kept.score.mean),
            score=json.dumps(kept.score.to_json()),
            seconds=kept.seconds,
            created=_now(),
        )
        self.add_all([(row, (kept.evaluation, kept.assignment))], replaces=kept.replaces)

    def find(self, kind: type[Row], *conditions: ColumnElement[bool]) -> list[Row]:
        """As `Database.find`, which waits for a database that is away, unless it is only read."""
        return self._patient(lambda: super(Store, self).find(kind, *conditions))

    def add(self, row: CheckedRow, identity: tuple[str, ...], *, replaces: bool = False) -> None:
        """As `Database.add`, which waits for a database that is away."""
        self._patient(lambda: super(Store, self).add(row, identity, replaces=replaces))

    def _patient(self, call: Callable[[], T]) -> T:
        return patient(call, noted=log.warning) if self.may_write else call()

    def keep_spool_beside(self, cache_folder: Path) -> None:
        """Let results wait beside a folder of references, in `spool`."""
        self.spool = Spool.of(_identity(self), cache_folder.parent / "spool")

    def find_score(self, evaluation: str, assignment: str) -> Score | None:
        """The score of an assignment under an evaluation; None where there is none."""
        found = self.find(
            ScoreRow, ScoreRow.evaluation == evaluation, ScoreRow.assignment == assignment
        )
        return next((score for row in found if (score := self._score_of(row)) is not None), None)

    def _score_of(self, row: ScoreRow) -> Score | None:
        try:
            score = Score.from_json(_object(row.score))
        except (StoreError, ValueError) as error:
            self.leave_out([row], f"is no score ({error})")
            return None
        if (score.net, score.mean) != (row.net, row.mean):
            self.leave_out([row], "has another net or mean than its score")
            return None
        return score

    def find_seconds(self, evaluation: str) -> list[float]:
        """What the scores of an evaluation took; [] where there is none."""
        return [row.seconds for row in self.find(ScoreRow, ScoreRow.evaluation == evaluation)]

    def find_deaths(self, evaluation: str, assignment: str) -> int:
        """How many runs of this score have ended their process (`search.attempts`)."""
        found = self.find(
            AttemptRow, AttemptRow.evaluation == evaluation, AttemptRow.assignment == assignment
        )
        return found[0].deaths if found else 0

    def save_deaths(
        self, evaluation: str, assignment: str, deaths: int, *, waits: bool = True
    ) -> None:
        """Keep that number. A run that has begun counts until it ends.

        Args:
            evaluation, assignment: the key of the score.
            deaths: the number.
            waits: whether to wait for a database that is away.
        """

        row = AttemptRow(evaluation=evaluation, assignment=assignment, deaths=deaths)
        if waits:
            self.add(row, (evaluation, assignment), replaces=True)
        else:
            self.add_all([(row, (evaluation, assignment))], replaces=True)

    def save_sensitivity(self, calibration: str, assignment: str, error: float) -> None:
        """Keep the error of one assignment in a calibration; one that is there already stays."""
        self.save_sensitivities({(calibration, assignment): error})

    def save_sensitivities(self, errors: Mapping[tuple[str, str], float]) -> None:
        """Keep {(calibration, assignment): error} at once; those that are there already stay.

        A transaction takes about 20 ms, and a calibration of FLUX.1-dev gives a thousand errors.
        """
        self._patient(
            lambda: self.add_all(
                (SensitivityRow(calibration=at[0], assignment=at[1], error=float(error)), at)
                for at, error in errors.items()
            )
        )

    def find_sensitivities(self, calibration: str) -> dict[str, float]:
        """{assignment: error} of a calibration so far."""
        return self.find_calibrations(calibration).get(calibration, {})

    def find_calibrations(self, calibration: str | None = None) -> dict[str, dict[str, float]]:
        """{calibration: {assignment: error}} of all calibrations, or of the one that is named."""
        which: ColumnElement[bool] = (
            true() if calibration is None else SensitivityRow.calibration == calibration
        )
        rows = self.find(SensitivityRow, which)
        wrong = [row for row in rows if not _is_error(row.error)]
        self.leave_out(wrong, "is no error, a number of at least 0")
        found: dict[str, dict[str, float]] = {}
        for row in rows:
            if _is_error(row.error):
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
            described=json.dumps(dict(machine)),
            row=json.dumps(dict(row)),
            created=_now(),
        )
        self.add(made, (made.machine, compile_mode, key), replaces=True)

    def find_shape_times(
        self, machine: Mapping[str, str], compile_mode: str
    ) -> dict[str, dict[str, Any]]:
        """{shape: row} of what was measured on exactly this machine, with these versions, in this
        compile mode.
        """
        rows = self.find(
            ShapeTimeRow,
            ShapeTimeRow.machine == _digest(dict(machine)),
            ShapeTimeRow.compile_mode == compile_mode,
        )
        found: dict[str, dict[str, Any]] = {}
        for row in rows:
            try:
                found[row.shape] = _object(row.row)
            except ValueError as error:
                self.leave_out([row], f"has no times ({error})")
        return found

    def find_machines(self, compile_mode: str) -> list[tuple[dict[str, str], frozenset[str]]]:
        """Every machine that shapes were measured on in a compile mode, with the shapes' keys; the
        last one measured comes first.
        """
        rows = self.find(ShapeTimeRow, ShapeTimeRow.compile_mode == compile_mode)
        keys: dict[str, set[str]] = {}
        for row in sorted(rows, key=lambda row: row.created, reverse=True):
            keys.setdefault(row.described, set()).add(row.shape)
        return [(_object(text), frozenset(found)) for text, found in keys.items()]

    def save_end_times(self, study: str, assignment: str, row: Mapping[str, Any]) -> None:
        """Keep what a study's skip-list took end to end; what is there is replaced."""
        self.save_shape_time({"study": study}, END_TO_END, assignment, row)

    def find_end_times(self, study: str, assignment: str) -> dict[str, Any] | None:
        """What a study's skip-list took end to end; None if it was not timed."""
        return self.find_shape_times({"study": study}, END_TO_END).get(assignment)


def _identity(database: Database) -> str:
    """What tells a database from others on this machine, without a password."""
    path = database.place.path
    return database.describe() if path is None else str(path.resolve())


def _object(text: object) -> dict[str, Any]:
    """The JSON object that a column holds. Raises ValueError where it holds none."""
    try:
        found = json.loads(text) if isinstance(text, str) else None
    except RecursionError:
        found = None
    if not isinstance(found, dict):
        raise ValueError("it is no JSON object")
    return found


def _is_error(value: object) -> bool:
    return isinstance(value, float) and math.isfinite(value) and value >= 0


def _digest(values: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
