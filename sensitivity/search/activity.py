"""What is a process doing to a study now? `Activity`, which it keeps in the study's database.

A search takes hours, and its database is where others look. So each process that works on a study
keeps one row there: where it runs, at which stage it is, how much of that is done, when it expects
to end. `workflows.status` reads the rows, from any terminal.

    doing = ActivityLog(store, work="search", device="cuda")
    doing.update(stage="trials", what="trial 7", done=6, total=50)
    doing.end("finished")
    read_activities(connection)                     # [Activity(stage="ended", ...)]

The row says what was last done, not that it is still being done: a process that was killed leaves
its row. Whether a process lives is told by its lock (`Database.writer`), and for others by `seen`.
Rows are those of `search.tables.MetaRow`, whose key begins with `KEY`; a process removes the rows
of those that ended before it begins. One process writes at a time today, and nothing here counts
on that.

To keep a row costs a transaction, so it is written at a new stage, and else every `EVERY_S` seconds
at most. A row that cannot be written is given up: it never ends a search.
"""

import logging
import os
import platform
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from sqlalchemy import Connection

from sensitivity.errors import SensitivityError
from sensitivity.search.database import Database
from sensitivity.search.tables import MetaRow

Stage = Literal[
    "preparing", "references", "sensitivities", "trials", "verification", "timing", "ended"
]
Work = Literal["search", "choice", "calibration"]
KEY = "worker:"
EVERY_S = 2.0
log = logging.getLogger(__name__)


class Activity(BaseModel):
    """What one process does, or did last.

    Attributes:
        host: where it runs.
        process: its number there.
        device: where torch runs: "cpu", "cuda:1".
        work: what it was started for.
        study: the name of the study; "" before it is known.
        stage: what it is at.
        what: more of it, in words: "trial 7".
        done, total: how much of the stage; a total of None is not known.
        budget: trials that were asked for; None where that does not apply.
        began, stage_began: when the process and the stage began, in UTC.
        seen: when this was written.
        ends: when the process expects to end, verification included; None is not known.
        how: how it ended: "finished", "interrupted", or why; "" while it goes on.
        command: the command line that asked for it; "" is not known.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    host: str
    process: int
    device: str = ""
    work: Work = "search"
    study: str = ""
    stage: Stage = "preparing"
    what: str = ""
    done: int = 0
    total: int | None = None
    budget: int | None = None
    began: datetime
    stage_began: datetime
    seen: datetime
    ends: datetime | None = None
    how: str = ""
    command: str = ""

    @property
    def key(self) -> str:
        """Of its row."""
        return f"{KEY}{self.host[:40]}:{self.process}"


class ActivityLog:
    """Keeps the row of this process.

    Args:
        database: where; one that may not be written keeps nothing.
        work: what the process was started for.
        device: where torch runs.
        budget: trials that were asked for.
        command: the command line that asked for it.
        clock: gives seconds, from any start.

    Attributes:
        seconds_left: gives the seconds until the process is done; None is not known.
    """

    def __init__(
        self,
        database: Database,
        *,
        work: Work,
        device: str,
        budget: int | None = None,
        command: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        now = _now()
        self.database, self._clock, self._written = database, clock, -EVERY_S
        self._gave_up = not database.may_write
        self.seconds_left: Callable[[], float | None] = lambda: None
        self.now = Activity(
            host=platform.node(),
            process=os.getpid(),
            device=device,
            work=work,
            budget=budget,
            command=command,
            began=now,
            stage_began=now,
            seen=now,
        )
        self._write(alone=True)

    def update(self, **changes: Any) -> None:
        """Change fields. A new stage or study is written at once, the rest when it is due."""
        at_once = any(changes.get(key, "") not in ("", getattr(self.now, key)) for key in _AT_ONCE)
        if changes.get("stage", self.now.stage) != self.now.stage:
            changes = {"done": 0, "total": None, "what": "", "stage_began": _now()} | changes
        self.now = self.now.model_copy(update=changes)
        if at_once or self._clock() - self._written >= EVERY_S:
            self._write()

    def end(self, how: str) -> None:
        """The process is done with the study; `how` it ended."""
        self.update(stage="ended", how=how)

    def _write(self, *, alone: bool = False) -> None:
        """Write the row; `alone` removes the others."""
        if self._gave_up:
            return
        left = self.seconds_left() if self.now.stage != "ended" else None
        now = _now()
        ends = None if left is None else now + timedelta(seconds=left)
        self.now = self.now.model_copy(update={"seen": now, "ends": ends})
        self._written = self._clock()
        try:
            with self.database.writing() as session:
                if alone:
                    session.query(MetaRow).filter(MetaRow.key.startswith(KEY)).delete()
                session.merge(MetaRow(key=self.now.key, value=self.now.model_dump_json()))
        except SensitivityError as error:
            self._gave_up = True
            log.debug("what the search is at is not kept: %s", error)


def read_activities(connection: Connection) -> list[Activity]:
    """The rows of a database, the last one written first. Rows that are none are left out."""
    rows = connection.exec_driver_sql(
        f"SELECT value FROM {MetaRow.__tablename__} WHERE key LIKE '{KEY}%'"
    )
    found = [own for (value,) in rows if (own := _parsed(value)) is not None]
    return sorted(found, key=lambda own: own.seen, reverse=True)


_AT_ONCE = ("stage", "study")


def _parsed(value: object) -> Activity | None:
    try:
        return Activity.model_validate_json(str(value))
    except ValidationError:
        return None


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)
