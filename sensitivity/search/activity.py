"""What is a process doing to a study now? `Activity`, which it keeps in the study's database.

A search takes hours, and its database is where others look. So each worker keeps there where it
runs, at which stage it is, how much of that is done, when it expects to end. `workflows.status`
reads it, from any terminal.

    with Worker.join(database, work="search", device="cuda") as worker:
        doing = ActivityLog(worker)
        doing.update(stage="trials", what="trial 7", done=6, total=50)
        doing.end("finished")

It says what was last done, not that it is still being done: a process that was killed leaves it.
Whether a process lives is told by its lease and its lock (`search.workers`).

To keep it costs a transaction, so it is written at once at a new stage, `EVERY_S` after the last
time at a new trial, and else when it is due. What cannot be written ends no search.
"""

import platform
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, Protocol, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from sensitivity.search.processes import ProcessMark

Stage = Literal[
    "preparing", "references", "sensitivities", "trials", "verification", "timing", "ended"
]
Work = Literal["search", "choice", "calibration"]
EVERY_S = 2.0
"""Seconds between two writes where one process has the database."""
EVERY_SHARED_S = 10.0
"""The same of counts, where others write it too: 512 workers then make 50 transactions a second."""
_AT_ONCE, _SOON = {"stage", "study"}, {"what", "trials"}


class Activity(BaseModel):
    """What one process does, or did last. Times of day are UTC by the clock of its host, until
    `by_clock_of` moves them.

    Attributes:
        host: where it runs.
        process: its number there.
        machine, started: which process that is, once numbers are used again
            (`search.processes.ProcessMark`).
        device: where torch runs: "cpu", "cuda:1".
        device_name: what that is: "GPU 3: NVIDIA H200"; "" is not known.
        work: what it was started for.
        study: the name of the study; "" before it is known.
        stage: what it is at.
        what: more of it, in words: "trial 7".
        done, total: how much of the stage; a total of None is not known.
        budget: trials that were asked for; None where that does not apply.
        trials: that this process has scored or stopped, baselines included.
        pace_s: seconds that a trial takes it; None is not known.
        beside_s: seconds of what else it has to do until the end: before the trials and after
            them; None is not known.
        began: when the process began.
        stage_began: when the stage, or the trial that it is at, began.
        seen: when this was written.
        ends: when the process expects to end, verification included; None is not known.
        how: how it ended: "finished", "interrupted", or why; "" while it goes on.
        command: the command line that asked for it; "" is not known.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    host: str
    process: int
    machine: str = ""
    started: int = 0
    device: str = ""
    device_name: str = ""
    work: Work = "search"
    study: str = ""
    stage: Stage = "preparing"
    what: str = ""
    done: int = 0
    total: int | None = None
    budget: int | None = None
    trials: int = 0
    pace_s: float | None = None
    beside_s: float | None = None
    began: datetime
    stage_began: datetime
    seen: datetime
    ends: datetime | None = None
    how: str = ""
    command: str = ""

    @classmethod
    def new(cls, **told: Any) -> Self:
        """Of this process, which begins now."""
        now, mark = utc_now(), ProcessMark.own()
        return cls(
            host=platform.node(),
            process=mark.process,
            machine=mark.machine,
            started=mark.started,
            **({"began": now, "stage_began": now, "seen": now} | told),
        )

    @classmethod
    def parsed(cls, text: str) -> Self | None:
        """What a row holds; None where it is none."""
        try:
            return cls.model_validate_json(text)
        except ValidationError:
            return None

    @property
    def mark(self) -> ProcessMark:
        """Which process it is."""
        return ProcessMark(self.machine, self.process, self.started)

    def of_now(self) -> Self:
        """The same, written now."""
        return self.model_copy(update={"seen": utc_now()})

    def by_clock_of(self, seen: datetime) -> Self:
        """The same, with times by the clock that showed `seen` when it was written."""
        skew = seen - self.seen
        times = {name: getattr(self, name) for name in ("began", "stage_began", "seen", "ends")}
        moved = {name: None if at is None else at + skew for name, at in times.items()}
        return self.model_copy(update=moved)


class Keeper(Protocol):
    """What keeps the activity of this process: `search.workers.Worker`."""

    activity: Activity
    every_s: float

    def tell(self, activity: Activity, *, at_once: bool) -> None:
        """Take it, and write it: now, or with the next beat. It never raises."""


class ActivityLog:
    """What this process does, as it goes on.

    Args:
        worker: keeps it; None keeps nothing, as for a database that may not be written.
        clock: gives seconds, from any start.

    Attributes:
        now: what was said last.
        seconds_left: gives the seconds until the process is done; None is not known.
        paces: gives (`Activity.pace_s`, `Activity.beside_s`).
    """

    def __init__(
        self, worker: Keeper | None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._keeper, self._clock = worker, clock
        self._written = clock()
        self.seconds_left: Callable[[], float | None] = lambda: None
        self.paces: Callable[[], tuple[float | None, float | None]] = lambda: (None, None)
        self.now = Activity.new() if worker is None else worker.activity

    def update(self, **changes: Any) -> None:
        """Change fields. A new stage or study is written at once, the rest when it is due."""
        new = {key for key, value in changes.items() if value not in ("", getattr(self.now, key))}
        if changes.get("stage", self.now.stage) != self.now.stage:
            anew = {"done": 0, "total": None, "what": "", "stage_began": utc_now()}
            changes = anew | changes
        self.now = self.now.model_copy(update=changes)
        if self._keeper is None:
            return
        every_s = min(EVERY_S, self._keeper.every_s) if new & _SOON else self._keeper.every_s
        is_due = self._clock() - self._written >= every_s
        self._tell(self._keeper, at_once=is_due or bool(new & _AT_ONCE))

    def end(self, how: str) -> None:
        """The process is done with the study; `how` it ended."""
        self.update(stage="ended", how=how)

    def _tell(self, keeper: Keeper, *, at_once: bool) -> None:
        has_ended = self.now.stage == "ended"
        left = None if has_ended else self.seconds_left()
        pace_s, beside_s = (None, None) if has_ended else self.paces()
        now = utc_now()
        self.now = self.now.model_copy(
            update={
                "seen": now,
                "ends": None if left is None else now + timedelta(seconds=left),
                "pace_s": pace_s,
                "beside_s": beside_s,
            }
        )
        if at_once:
            self._written = self._clock()
        keeper.tell(self.now, at_once=at_once)


def utc_now() -> datetime:
    """Now, by the clock of this host."""
    return datetime.fromtimestamp(time.time(), UTC)
