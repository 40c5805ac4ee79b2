"""Who works on a database, and who of them still lives? `Worker` and `live_workers`.

Each process that works on studies has one row, which a thread of it renews every quarter of its
lease. A worker lives as long as its row is there and was renewed within the lease. All times are by
the database's clock, so the clocks of hosts need not agree. A process of this very host that is
gone is dead at once. What a worker has taken (`search.claims`) counts as long as it lives.

    with Worker.join(database, work="search", device="cuda") as worker:
        claims = Claims(database, worker)
    live_workers(connection)            # [(worker, activity, is_alive), ...]

The thread never gives up. A database that does not answer is asked again, at intervals that grow to
a quarter of the lease, and that is logged once. A worker that was paused past its lease, and whose
row others have removed, is back with its next beat.

Who has a database alone (`Database.is_shared` is False) knows that nobody else lives: joining
removes all other workers and all claims. A fork of a worker's process is no worker: it beats for
nobody and has to join itself.
"""

import json
import logging
import os
import secrets
import threading
import time
from collections.abc import Collection
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, NamedTuple, Self

from sqlalchemy import Connection, delete, func, select, update
from sqlalchemy.exc import SQLAlchemyError

from sensitivity.core.supervised import REPLACES, tell_supervisor
from sensitivity.core.words import first_line, printable
from sensitivity.errors import SensitivityError
from sensitivity.search.activity import EVERY_S, EVERY_SHARED_S, Activity
from sensitivity.search.database import Database
from sensitivity.search.dialects import database_now, insert_or_replace, lock_name
from sensitivity.search.tables import ClaimRow, Table, WorkerRow

LEASE_S = 60.0
"""How long a worker lives without a sign of life: three beats may be lost. A restart of PostgreSQL
takes a few seconds.
"""
BEATS = 4
"""Beats in a lease."""
REMEMBERED_S = 3600.0
"""How long the row of a dead worker is kept, so that others can see what became of it."""
_FIRST_WAIT_S = 0.25
_LEAVE_S = 2.0
"""How long the end of a process waits for its thread."""
_TELL_S = 1.0
"""How long what a process says of itself waits for a beat that is under way."""
_WORKERS, _CLAIMS = (Table.metadata.tables[kind.__tablename__] for kind in (WorkerRow, ClaimRow))
log = logging.getLogger(__name__)


class Worker:
    """This process as a worker of a database. Make it with `join`; end it with `leave`, or use it
    as a context manager.

    Attributes:
        name: "host:process:8 hex digits", which no other worker has.
        activity: what it does.
        lease_s: how long it lives without a beat.
        every_s: seconds between two writes of what it does, where nothing urgent is said.
        company: workers of the same study that had a lease at the last beat, with this one.
    """

    def __init__(self, database: Database, activity: Activity, lease_s: float) -> None:
        host = printable(activity.host).replace(":", "-")[:80]
        self.name = f"{host}:{activity.process}:{secrets.token_hex(4)}"
        self.activity, self.lease_s = activity, lease_s
        self.every_s = EVERY_SHARED_S if database.is_shared else EVERY_S
        self.company = 1
        self._engine = database.engine
        self._process = os.getpid()
        self._began: float | None = None
        self._unwanted: dict[str, int] = {}
        self._writing, self._told = threading.Lock(), threading.Event()
        self._has_left = False
        self._heard, self._is_lost = time.monotonic(), False
        self._thread = threading.Thread(target=self._run, name=f"beats of {self.name}", daemon=True)

    @classmethod
    def join(
        cls,
        database: Database,
        *,
        lease_s: float = LEASE_S,
        replaces: str | None = None,
        **told: Any,
    ) -> Self:
        """Become a worker of a database.

        Args:
            database: one that may be written.
            lease_s: how long the worker lives without a beat.
            replaces: the name of a worker that is known to be dead; None is what the environment
                says (`core.supervised.REPLACES`).
            told: fields of `Activity`.

        Raises:
            StoreError, OutputError: as `Database.writing`.
        """
        worker = cls(database, Activity.new(**told), lease_s)
        dead = os.environ.get(REPLACES, "") if replaces is None else replaces
        with database.writing() as session:
            connection = session.connection()
            lock_name(connection, "workers")
            if database.is_shared:
                _tidy(connection, dead)
            else:
                connection.execute(delete(_CLAIMS))
                connection.execute(delete(_WORKERS))
            worker._write(connection)
        worker._thread.start()
        tell_supervisor(worker=worker.name)
        return worker

    @property
    def is_own(self) -> bool:
        """Whether this process is the one that joined; a fork of it is not."""
        return os.getpid() == self._process

    @property
    def lost_contact_s(self) -> float:
        """Seconds since the database answered last; 0 while it answers."""
        return time.monotonic() - self._heard if self._is_lost else 0.0

    def beat(self) -> bool:
        """Renew the lease now. Returns whether the database took it; errors are logged once."""
        if not self.is_own or self._has_left:
            return False
        with self._writing:
            return self._beat()

    def tell(self, activity: Activity, *, at_once: bool) -> None:
        """Take what this process does, and write it: now, or with the next beat.

        It raises nothing, and while the database does not answer it waits for nothing.
        """
        self.activity = activity
        if not at_once or not self.is_own or self._has_left:
            return
        if self._is_lost or not self._writing.acquire(timeout=_TELL_S):
            self._told.set()
            return
        try:
            self._beat()
        finally:
            self._writing.release()

    def discard(self, token: str) -> None:
        """Have the claim with this token removed as soon as the database answers."""
        self._unwanted[token] = BEATS
        self._told.set()

    def remove_unwanted(self, connection: Connection) -> None:
        """Remove the claims that were discarded, in a transaction of the caller's."""
        tokens = list(self._unwanted)
        if tokens:
            connection.execute(delete(_CLAIMS).where(_CLAIMS.c.token.in_(tokens)))

    def leave(self, how: str = "finished") -> None:
        """Be no worker any more: claims are released, and the row says how it ended.

        It raises nothing. What was said of the end already stays.
        """
        if not self.is_own or self._has_left:
            return
        self._has_left = True
        if self.activity.stage != "ended":
            ended = {"stage": "ended", "how": how, "ends": None}
            self.activity = self.activity.model_copy(update=ended)
        self._told.set()
        if self._thread.is_alive():
            self._thread.join(_LEAVE_S)
        try:
            with self._engine.begin() as connection:
                self._write(connection)
                _bury(connection, [self.name])
        except (SensitivityError, SQLAlchemyError) as error:
            log.debug("%s could not say that it leaves: %s", self.name, error)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.leave()
        elif isinstance(error, Exception):
            self.leave(first_line(error))
        else:
            self.leave("interrupted")

    def _run(self) -> None:
        """Beat until the worker leaves."""
        longest, failures = self.lease_s / BEATS, 0
        while not self._has_left:
            self._told.wait(min(longest, _FIRST_WAIT_S * 2**failures) if failures else longest)
            self._told.clear()
            if self._has_left:
                return
            failures = 0 if self.beat() else min(failures + 1, 30)
            if failures:
                time.sleep(min(_FIRST_WAIT_S, longest))  # whoever tells much asks no sooner

    def _beat(self) -> bool:
        """Write the row; whoever calls has `_writing`."""
        try:
            with self._engine.begin() as connection:
                if self._has_left:
                    return False
                self._write(connection)
                self.remove_unwanted(connection)
                self.company = max(1, self._count(connection))
        except Exception as error:  # a thread must not end, and what it does is no search's fault
            if not self._is_lost:
                self._is_lost = True
                what = printable(first_line(error, most=400)).partition("; expected")[0]
                log.warning("%s is out of contact and asks again: %s", self.name, what)
            return False
        if self._is_lost:
            log.info("%s is in contact again", self.name)
        self._is_lost, self._heard = False, time.monotonic()
        self._unwanted = {
            token: left - 1 for token, left in list(self._unwanted.items()) if left > 1
        }
        return True

    def _write(self, connection: Connection) -> None:
        """Renew the row, or put it back."""
        now = database_now(connection)
        self._began = now if self._began is None else self._began
        values = {
            "worker": self.name,
            "seen": now,
            "began": self._began,
            "lease_s": self.lease_s,
            "activity": self.activity.of_now().model_dump_json(),
        }
        insert_or_replace(connection, _WORKERS, values)

    def _count(self, connection: Connection) -> int:
        """How many have a lease and are at the same study."""
        name, now = json.dumps(self.activity.study, ensure_ascii=False), database_now(connection)
        query = select(func.count()).where(
            func.abs(_WORKERS.c.seen - now) < _WORKERS.c.lease_s,
            _WORKERS.c.activity.contains(f'"study":{name}', autoescape=True),
        )
        return int(connection.execute(query).scalar_one())


class KnownWorker(NamedTuple):
    """A worker, as its row says.

    Attributes:
        worker: its name.
        activity: what it does, or did last, with times by the database's clock.
        is_alive: whether it lives.
    """

    worker: str
    activity: Activity
    is_alive: bool


def live_workers(connection: Connection) -> list[KnownWorker]:
    """All workers that a database knows, those that live first, each group by its beginning.

    Dead ones are there for an hour (`REMEMBERED_S`) at least. A row that is none is left out.
    """
    now, found = database_now(connection), []
    for row in connection.execute(select(_WORKERS).order_by(_WORKERS.c.began, _WORKERS.c.worker)):
        activity = Activity.parsed(row.activity)
        if activity is not None:
            seen = datetime.fromtimestamp(row.seen, UTC)
            is_alive = _has_lease(row.seen, row.lease_s, now) and not activity.mark.has_ended()
            found.append(KnownWorker(row.worker, activity.by_clock_of(seen), is_alive))
    return sorted(found, key=lambda own: not own.is_alive)


def alive_of(connection: Connection, names: Collection[str]) -> set[str]:
    """Those of the workers with these names that live."""
    if not names:
        return set()
    now = database_now(connection)
    rows = connection.execute(select(_WORKERS).where(_WORKERS.c.worker.in_(names)))
    return {row.worker for row in rows if _has_lease(row.seen, row.lease_s, now) and not _gone(row)}


def _gone(row: Any) -> bool:
    """Whether the process of a row is seen to have ended."""
    activity = Activity.parsed(row.activity)
    return activity is not None and bool(activity.mark.has_ended())


def _has_lease(seen: float, lease_s: float, now: float) -> bool:
    """Whether a lease runs. One from the future is that of a clock which was set back."""
    return abs(now - seen) < lease_s


def _tidy(connection: Connection, dead: str) -> None:
    """Forget who has been dead for long, and bury the worker that this one replaces."""
    now = database_now(connection)
    old = select(_WORKERS).where(_WORKERS.c.seen + _WORKERS.c.lease_s < now - REMEMBERED_S)
    forgotten = [row.worker for row in connection.execute(old)]
    _bury(connection, [*forgotten, *filter(None, [dead])])
    if forgotten:
        connection.execute(delete(_WORKERS).where(_WORKERS.c.worker.in_(forgotten)))


def _bury(connection: Connection, names: Collection[str]) -> None:
    """End the leases of workers, and release what they hold."""
    connection.execute(update(_WORKERS).where(_WORKERS.c.worker.in_(names)).values(lease_s=0.0))
    connection.execute(delete(_CLAIMS).where(_CLAIMS.c.worker.in_(names)))
