"""How far is a search, and is anybody working on it? `read_status`, from any process, at any time.

    status = read_status(Path("sensitivity-runs/tiny-flux.db"))
    status.studies[0].trials, status.studies[0].front, status.workers[0].stage

All of it is read from the study's database, without a lock and without a model. What a process is
at is what it kept there itself (`search.activity`). Whether it lives is told by its lease and its
process (`search.workers`), and for a file by the lock on it too. Nothing is loaded or written.

The front is that of the scores so far. The end of a search ranks by estimates that all scores
together give (`search.estimate`), so a close call may still go the other way.

Conventions: seconds; times of day in UTC by the database's clock; typical LPIPS means damage where
there is sound (`fidelity.score`).
"""

import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

from sensitivity.core.storage_url import Storage
from sensitivity.search.database import Database
from sensitivity.search.overview import StudyRows, TrialRow, read_overview
from sensitivity.search.workers import REMEMBERED_S, KnownWorker

LAST = 10
"""Trials of each worker that the rate is taken from."""
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
    """A process that works on the database, or did.

    Attributes:
        name: "host:process:8 hex digits"; as much of it as is known.
        is_alive: whether it lives.
        alive_by: what tells that it lives: "lease", or "lock" where its lease has run out and it
            still has the file; "" where it does not live.
        host: where it runs; "" is not known.
        process: its number there; None is not known.
        device: where torch runs; "" is not known.
        device_name: what that is, such as "GPU 3: NVIDIA H200"; "" is not known.
        work: what it was started for: "search", "choice" or "calibration".
        study: the study's name; "" before it is known.
        stage: what it is at, as in `search.activity.Activity`; "" is not known.
        what: more of it, in words.
        done, total: how much of the stage; a total of None is not known.
        trials: that it has scored or stopped, baselines included.
        began: when it joined.
        stage_began: when its stage, or its current trial, began.
        seen: when it was heard of last.
        silent_s: seconds since then.
        left_s: seconds until it is done, verification included; None is not known.
        how: how it ended: "finished", "interrupted", or why; "" while it goes on or where it was
            killed.
        command: the command line that started it; "" is not known.
    """

    name: str
    is_alive: bool
    alive_by: str = ""
    host: str = ""
    process: int | None = None
    device: str = ""
    device_name: str = ""
    work: str = "search"
    study: str = ""
    stage: str = ""
    what: str = ""
    done: int = 0
    total: int | None = None
    trials: int = 0
    began: datetime | None = None
    stage_began: datetime | None = None
    seen: datetime | None = None
    silent_s: float | None = None
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
        running: that workers which live are at.
        baselines: scored lists that count towards no budget.
        an_hour: how many an hour all workers do at the pace of the last `LAST` of each; None is not
            known.
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
        updated: when its last trial ended, by the clock of its worker; None before the first.
        left_s: seconds until its end, verification included, at the pace of all workers that live;
            None is not known.
    """

    name: str
    model: str
    settings: Mapping[str, Any]
    trials: Trials
    front: tuple[Member, ...]
    updated: datetime | None
    left_s: float | None = None


class Status(Part):
    """What a database says.

    Attributes:
        database: the file, or the URL without its password.
        now: when it was read, by the database's clock.
        writer: which process has the file, in words; None where none does, and for a server.
        workers: those that live first, then those that ended within the last hour; where none
            lives, at least the last one.
        studies: the last one that was changed first.
    """

    database: str
    now: datetime
    writer: str | None
    workers: tuple[Worker, ...]
    studies: tuple[StudyStatus, ...]


def read_status(database: Storage, *, model: str | None = None) -> Status:
    """What a database says of its studies and of who works on them.

    Args:
        database: the file of a search, or the URL of its database.
        model: the study spec whose studies are meant; None is all of them.

    Raises:
        StoreError: it is not there, or is no database of a search.
        LostDatabaseError: the server does not answer.
        DamageError: its tables cannot be read.
    """
    with Database.read(database) as opened:
        name, is_file = opened.describe(), not opened.place.is_server
        writer, overview = opened.writer(), read_overview(opened)
    now = overview.now
    others = {own.name for own in overview.studies if not _is_of(own, model)}
    workers = [own for own in overview.workers if own.activity.study not in others]
    alive_by = _alive_by(overview.workers, writer, is_file=is_file)
    kept = [own for own in overview.studies if own.name not in others]
    studies = [_study(own, workers, alive_by, now) for own in kept]
    studies.sort(key=lambda own: own.updated or datetime.max.replace(tzinfo=UTC), reverse=True)
    return Status(
        database=name,
        now=_whole(now),
        writer=writer,
        workers=tuple(_workers(workers, alive_by, writer, now)),
        studies=tuple(studies),
    )


def _is_of(own: StudyRows, model: str | None) -> bool:
    """Whether a study is of a model; one that does not say is."""
    return model is None or own.settings.get("model", model) == model


def _alive_by(
    workers: Sequence[KnownWorker], writer: str | None, *, is_file: bool
) -> dict[str, str]:
    """{name: "lease" or "lock"} of the workers that live.

    Where nobody has the file, nobody lives; only Linux tells that. A process that was paused past
    its lease still has it.
    """
    alive = {own.worker: "lease" for own in workers if own.is_alive}
    if is_file and writer is None and sys.platform == "linux":
        return {}
    if writer is None or alive:
        return alive
    at_work = [own for own in workers if own.activity.stage != "ended"]
    at_work.sort(key=lambda own: own.activity.seen, reverse=True)
    return {own.worker: "lock" for own in at_work[:1] if not own.activity.mark.has_ended()}


def _workers(
    workers: Sequence[KnownWorker], alive_by: Mapping[str, str], writer: str | None, now: datetime
) -> list[Worker]:
    found = [_worker(own, alive_by.get(own.worker, ""), now) for own in workers]
    living = [own for own in found if own.is_alive]
    ended = [own for own in found if not own.is_alive]
    ended.sort(key=lambda own: own.silent_s or 0.0)
    recent = [own for own in ended if (own.silent_s or 0.0) <= REMEMBERED_S]
    if writer is not None and not living:  # one that keeps no row, such as an earlier version's
        living.append(Worker(name=writer, is_alive=True, alive_by="lock"))
    return [*living, *(recent if living or recent else ended[:1])]


def _worker(known: KnownWorker, alive_by: str, now: datetime) -> Worker:
    own = known.activity
    left = None if own.ends is None or not alive_by else (own.ends - now).total_seconds()
    return Worker(
        name=known.worker,
        is_alive=bool(alive_by),
        alive_by=alive_by,
        host=own.host,
        process=own.process,
        device=own.device,
        device_name=own.device_name,
        work=own.work,
        study=own.study,
        stage=own.stage,
        what=own.what,
        done=own.done,
        total=own.total,
        trials=own.trials,
        began=_whole(own.began),
        stage_began=_whole(own.stage_began),
        seen=_whole(own.seen),
        silent_s=max(0.0, round((now - own.seen).total_seconds(), 1)),
        left_s=None if left is None else max(0.0, round(left, 1)),
        how=own.how,
        command=own.command,
    )


def _study(
    own: StudyRows, workers: Sequence[KnownWorker], alive_by: Mapping[str, str], now: datetime
) -> StudyStatus:
    tried = [row for row in own.trials if row.index is not None and row.state in TRIED]
    tried.sort(key=lambda row: row.index or 0)
    living = [one for one in workers if one.worker in alive_by and one.activity.study == own.name]
    trials = _trials(own, tried, living, alive_by)
    return StudyStatus(
        name=own.name,
        model=str(own.settings.get("model", "")),
        settings=own.settings,
        trials=trials,
        front=_members(tried),
        updated=max((row.ended for row in own.trials if row.ended), default=None),
        left_s=_left_s(trials, living, now),
    )


def _trials(
    own: StudyRows,
    tried: Sequence[TrialRow],
    living: Sequence[KnownWorker],
    alive_by: Mapping[str, str],
) -> Trials:
    proposals = [row for row in tried if not row.label]
    budget = own.settings.get("budget")
    workers = max(1, sum(one.activity.stage == "trials" for one in living))
    paces = [row.seconds for row in proposals[-LAST * workers :] if row.seconds]
    return Trials(
        done=len(proposals),
        budget=budget if isinstance(budget, int) else None,
        stopped=sum(row.state == "PRUNED" for row in proposals),
        failed=sum(map(_has_failed, own.trials)),
        running=sum(name in alive_by for name in own.holders),
        baselines=len(tried) - len(proposals),
        an_hour=workers * 3600 * len(paces) / sum(paces) if sum(paces) else None,
    )


def _left_s(trials: Trials, living: Sequence[KnownWorker], now: datetime) -> float | None:
    """Seconds until a study ends. Trials that run are half done, on average.

    One worker knows it itself. Of several each says how long a trial takes it, and how long what is
    beside the trials.
    """
    if len(living) == 1:
        ends = living[0].activity.ends
        return None if ends is None else max(0.0, (ends - now).total_seconds())
    paces = [own.activity.pace_s for own in living if own.activity.pace_s]
    if not paces or trials.budget is None:
        return None
    trials_left = max(0.0, trials.budget - trials.done - trials.running / 2)
    beside_s = max(own.activity.beside_s or 0.0 for own in living)
    return trials_left / sum(1 / pace for pace in paces) + beside_s


def _members(tried: Sequence[TrialRow]) -> tuple[Member, ...]:
    """The front so far."""
    names, number = [], 0
    for row in tried:
        number += not row.label
        names.append(row.label or f"trial {number}")
    points = [
        (row.seconds_a_run, row.typical, name)
        for row, name in zip(tried, names, strict=True)
        if row.seconds_a_run and row.typical is not None
    ]
    bf16_s = next((seconds for seconds, _, name in points if name == NONE), None)
    return tuple(
        Member(
            name=points[i][2],
            seconds=points[i][0],
            speedup=None if bf16_s is None else bf16_s / points[i][0],
            typical=points[i][1],
        )
        for i in _front([(seconds, typical) for seconds, typical, _ in points])
    )


def _whole(at: datetime) -> datetime:
    """In whole seconds."""
    return at.replace(microsecond=0)


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
