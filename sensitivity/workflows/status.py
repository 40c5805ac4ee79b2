"""How far is a search, and is anybody working on it? `read_status`, from any process, at any time.

    status = read_status(Path("sensitivity-runs/tiny-flux.db"))
    status.studies[0].trials, status.studies[0].front, status.workers[0].stage

All of it is read from the study's database, without its writer's lock and without a model. What a
process is at is what it kept there itself (`search.activity`); whether it lives is told by the lock
on the file. Nothing is loaded, and nothing is written.

The front is that of the scores so far. The end of a search ranks by estimates that all scores
together give (`search.estimate`), so a close call may still go the other way.

Conventions: seconds; times of day in UTC; typical LPIPS means damage where there is sound
(`fidelity.score`). One process works on a database today; the records hold any number.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from sensitivity.search.activity import Activity
from sensitivity.search.database import Database
from sensitivity.search.overview import StudyRows, TrialRow, read_overview

LAST = 10
"""Trials that the rate is taken from."""
TRIED = ("COMPLETE", "PRUNED")
"""States of trials that were scored or stopped."""
NO_FAILURES = ("interrupted", "repeated")
"""Reasons that say nothing against a trial."""
NONE = "none"
"""The label of the baseline in which nothing is quantized."""


class Part(BaseModel):
    """A frozen record."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Worker(Part):
    """A process that works on the database, or did last.

    Attributes:
        name: "host:process"; as much of it as is known.
        is_alive: whether it lives; None is not known.
        device: where torch runs; "" is not known.
        work: what it was started for: "search", "choice" or "calibration".
        study: the study's name; "" before it is known.
        stage: what it is at, as in `search.activity.Activity`; "" is not known.
        what: more of it, in words.
        done, total: how much of the stage; a total of None is not known.
        began, seen: when it began, and when it last said so.
        left_s: seconds until it is done, verification included; None is not known.
        how: how it ended: "finished", "interrupted", or why; "" while it goes on or where it was
            killed.
        command: the command line that started it; "" is not known.
    """

    name: str
    is_alive: bool | None
    device: str = ""
    work: str = "search"
    study: str = ""
    stage: str = ""
    what: str = ""
    done: int = 0
    total: int | None = None
    began: datetime | None = None
    seen: datetime | None = None
    left_s: float | None = None
    how: str = ""
    command: str = ""


class Trials(Part):
    """How many trials there are.

    Attributes:
        done: scored or stopped early; they count towards the budget.
        budget: that was asked for; None is not known.
        stopped: those of them that were stopped early.
        failed: with a reason of their own.
        running: of processes that live.
        baselines: scored lists that count towards no budget.
        an_hour: how many an hour at the pace of the last `LAST`; None is not known.
    """

    done: int
    budget: int | None
    stopped: int
    failed: int
    running: int
    baselines: int
    an_hour: float | None


class Member(Part):
    """A skip-list on the front so far.

    Attributes:
        name: "trial 12", or a baseline's label.
        seconds: priced, of a run.
        speedup: over bf16; None before bf16 is scored.
        typical: typical LPIPS on the search prompts.
    """

    name: str
    seconds: float
    speedup: float | None
    typical: float


class StudyStatus(Part):
    """How far a study is.

    Attributes:
        name: with a fingerprint.
        model: the study spec's name.
        settings: what its search was asked for, as it was kept; {} is not known.
        trials: how many.
        front: of the scores so far, the fastest first.
        updated: when its last trial ended; None before the first.
    """

    name: str
    model: str
    settings: Mapping[str, Any]
    trials: Trials
    front: tuple[Member, ...]
    updated: datetime | None


class Status(Part):
    """What a database says.

    Attributes:
        database: the file.
        now: when it was read.
        writer: which process has the database, in words; None where none does.
        workers: what processes do, those that live first.
        studies: the last one that was changed first.
    """

    database: str
    now: datetime
    writer: str | None
    workers: tuple[Worker, ...]
    studies: tuple[StudyStatus, ...]


def read_status(database: Path) -> Status:
    """What a database says of its studies and of who works on them.

    Args:
        database: the file of a search.

    Raises:
        StoreError: it is not there, or is no database of a search.
        DamageError: its tables cannot be read.
    """
    with Database.read(database) as opened:
        writer, overview = opened.writer(), read_overview(opened)
    now = datetime.now(UTC).replace(microsecond=0)
    alive = _alive(overview.activities, writer)
    studies = [_study(own, is_worked_on=bool(alive)) for own in overview.studies]
    studies.sort(key=lambda own: own.updated or datetime.max.replace(tzinfo=UTC), reverse=True)
    return Status(
        database=str(database),
        now=now,
        writer=writer,
        workers=tuple(_workers(overview.activities, alive, writer, now)),
        studies=tuple(studies),
    )


def _alive(activities: Sequence[Activity], writer: str | None) -> set[str]:
    """The keys of the rows whose process lives: today, the one that has the lock."""
    at_work = [own for own in activities if own.stage != "ended"]
    return {own.key for own in at_work[:1]} if writer is not None else set()


def _workers(
    activities: Sequence[Activity], alive: set[str], writer: str | None, now: datetime
) -> list[Worker]:
    found = [_worker(own, own.key in alive, now) for own in activities]
    if writer is not None and not alive:  # one that keeps no row, such as an earlier version
        found.insert(0, Worker(name=writer, is_alive=True))
    return sorted(found, key=lambda own: not own.is_alive)


def _worker(own: Activity, is_alive: bool, now: datetime) -> Worker:
    left = None if own.ends is None or not is_alive else (own.ends - now).total_seconds()
    return Worker(
        name=f"{own.host}:{own.process}" if own.host else str(own.process),
        is_alive=is_alive,
        device=own.device,
        work=own.work,
        study=own.study,
        stage=own.stage,
        what=own.what,
        done=own.done,
        total=own.total,
        began=own.began,
        seen=own.seen,
        left_s=None if left is None else max(0.0, left),
        how=own.how,
        command=own.command,
    )


def _study(own: StudyRows, *, is_worked_on: bool) -> StudyStatus:
    tried = [row for row in own.trials if row.index is not None and row.state in TRIED]
    tried.sort(key=lambda row: row.index or 0)
    proposals = [row for row in tried if not row.label]
    names = {id(row): row.label for row in tried}
    names |= {id(row): f"trial {place}" for place, row in enumerate(proposals, 1)}
    points = [
        (row.seconds_a_run, row.typical, names[id(row)])
        for row in tried
        if row.seconds_a_run and row.typical is not None
    ]
    bf16_s = next((seconds for seconds, _, name in points if name == NONE), None)
    budget = own.settings.get("budget")
    paces = [row.seconds for row in proposals[-LAST:] if row.seconds]
    return StudyStatus(
        name=own.name,
        model=str(own.settings.get("model", "")),
        settings=own.settings,
        trials=Trials(
            done=len(proposals),
            budget=budget if isinstance(budget, int) else None,
            stopped=sum(row.state == "PRUNED" for row in proposals),
            failed=sum(map(_has_failed, own.trials)),
            running=sum(row.state == "RUNNING" for row in own.trials) if is_worked_on else 0,
            baselines=len(tried) - len(proposals),
            an_hour=3600 * len(paces) / sum(paces) if sum(paces) else None,
        ),
        front=tuple(
            Member(
                name=points[i][2],
                seconds=points[i][0],
                speedup=None if bf16_s is None else bf16_s / points[i][0],
                typical=points[i][1],
            )
            for i in _front([(seconds, typical) for seconds, typical, _ in points])
        ),
        updated=max((row.ended for row in own.trials if row.ended), default=None),
    )


def _front(points: list[tuple[float, float]]) -> list[int]:
    """Indices of the points that no other beats, the fastest first.

    As `search.front.pareto_front`, which needs torch: this must be quick.
    """
    kept: list[int] = []
    for i in sorted(range(len(points)), key=points.__getitem__):
        if not kept or points[i][1] < points[kept[-1]][1]:
            kept.append(i)
    return kept


def _has_failed(row: TrialRow) -> bool:
    """Whether a trial failed for a reason of its own: it was no repeat, and was not cut."""
    return row.state == "FAIL" and row.has_choice and row.reason not in ("", *NO_FAILURES)
