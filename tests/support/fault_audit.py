"""What did workers leave in a database? `audit`: what is lost, double, or runs for ever.

    audit(storage, folder).check(budget=12)       # prints the counts; raises unless they are 0

It reads the tables by SQL of its own, and the journals that workers wrote (`support.fake_workers`).
"""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from sensitivity.search.seals import list_studies, study_fault

from support.fake_workers import lines_of


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What workers left: counts, which should be 0 but for the first two.

    Attributes:
        trials: scored or stopped ones in the database.
        proposals: those without a label.
        failed: recorded failures.
        lost: finished trials of the journals that the database does not hold.
        doubled: trials beyond one a choice.
        running: trials that are neither finished nor failed.
        claims: rows of claims.
        gaps: places of trials that are missing, doubled, or not what the trial says.
        damaged: what the checksums of the study say; "" where all fit.
        waiting: files of the spool.
        scored_again: scores of the journals beyond one a choice: work that a death took.
    """

    trials: int
    proposals: int
    failed: int
    lost: int
    doubled: int
    running: int
    claims: int
    gaps: int
    damaged: str
    waiting: int
    scored_again: int

    def check(self, budget: int | None = None) -> "Audit":
        """Raise AssertionError unless nothing was lost or doubled, nothing runs, and the budget is
        met; print the counts.
        """
        print(self.words())
        wrong = self.wrong(budget)
        assert not wrong, f"{wrong} in {self}"
        return self

    def wrong(self, budget: int | None = None) -> dict[str, object]:
        """{count: value} of those that are not what they should be."""
        wrong: dict[str, object] = {
            name: value
            for name in ("lost", "doubled", "running", "claims", "gaps", "damaged", "waiting")
            if (value := getattr(self, name))
        }
        if budget is not None and self.proposals != budget:
            wrong["proposals"] = f"{self.proposals} of {budget}"
        return wrong

    def words(self) -> str:
        """The counts that matter, as a line."""
        return (
            f"{self.trials} trials: {self.lost} lost, {self.doubled} double, {self.running} RUNNING"
            f" for ever, {self.claims} claims left; {self.failed} failed,"
            f" {self.scored_again} scored again"
        )


def audit(storage: Path | str, folder: Path) -> Audit:
    """Count what the workers of a folder left in a database, which holds one study."""
    with reading(storage) as connection:
        (study,) = list_studies(connection)
        states = Counter(state for (state,) in connection.execute(text("SELECT state FROM trials")))
        attributes: dict[int, dict[str, Any]] = {}
        for trial_id, key, value in connection.execute(
            text(
                "SELECT a.trial_id, a.key, a.value_json FROM trial_user_attributes a"
                " JOIN trials t ON t.trial_id = a.trial_id WHERE t.state IN ('COMPLETE', 'PRUNED')"
            )
        ):
            attributes.setdefault(trial_id, {})[key] = json.loads(value)
        rows = list(
            connection.execute(
                text("SELECT place, trial_id FROM sensitivity_trials ORDER BY place")
            )
        )
        (claims,) = connection.execute(text("SELECT count(*) FROM sensitivity_claims")).one()
        damaged = study_fault(connection, study.study_id) or ""
    choices = Counter(tuple(json.loads(own["choice"])) for own in attributes.values())
    lines = [line for path in folder.glob("*.journal") for line in lines_of(path)]
    finished = {tuple(line["choice"]) for line in lines if line["kind"] == "finished"}
    scored = Counter(tuple(line["names"]) for line in lines if line["kind"] == "scored")
    right = [
        place == at and attributes.get(trial_id, {}).get("index") == at
        for at, (place, trial_id) in enumerate(rows)
    ]
    return Audit(
        trials=len(attributes),
        proposals=sum(not own.get("label") for own in attributes.values()),
        failed=states["FAIL"],
        lost=len(finished - set(choices)),
        doubled=sum(choices.values()) - len(choices),
        running=states["RUNNING"] + states["WAITING"],
        claims=claims,
        gaps=right.count(False) + abs(len(rows) - len(attributes)),
        damaged=damaged,
        waiting=sum(1 for _ in folder.glob("cache/**/spool/**/*.json")),
        scored_again=sum(scored.values()) - len(scored),
    )


@contextmanager
def reading(storage: Path | str) -> Iterator[Any]:
    """A connection to a database, by none of our code."""
    url = str(storage) if "://" in str(storage) else f"sqlite:///{storage}"
    engine = create_engine(url, poolclass=NullPool)
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def kept_trials(storage: Path | str) -> list[tuple[Any, ...]]:
    """(index, choice, label, values) of the trials of a database, in order: what must not depend on
    what happened.
    """
    with reading(storage) as connection:
        found = connection.execute(
            text(
                "SELECT trial_id, key, value_json FROM trial_user_attributes"
                " WHERE key IN ('index', 'choice', 'label', 'score', 'stopped')"
                " AND trial_id IN (SELECT trial_id FROM sensitivity_trials)"
            )
        ).all()
    trials: dict[int, dict[str, Any]] = {}
    for trial_id, key, value in found:
        trials.setdefault(trial_id, {})[key] = json.loads(value)
    return sorted(
        (int(own["index"]), own["choice"], own.get("label"), own.get("score"), own.get("stopped"))
        for own in trials.values()
    )
