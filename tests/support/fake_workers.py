"""Searches that go wrong, as real processes? `start_worker`.

A worker is a fork of this process, so it costs no import. It runs the real search loop on a real
database with an evaluator that computes scores from names (`support.fake_search`), and does what
its `Fault` says: it is killed at a point of a trial or of a transaction, stops, or raises.

    worker = start_worker(storage, folder, settings(budget=12), Fault("commit", 7))
    worker.wait()                                 # -9: the signal that ended it
    audit(storage, folder).check(budget=12)       # `support.fault_audit`: nothing lost, none double

What a worker sees is in its journal, one JSON line an event, which its death cannot take back:
"scoring" and "scored" around each score, and "finished" once the search has said that a trial is
in the database. So a finished trial that is not in the database afterwards was lost.
"""

import json
import logging
import os
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from sqlalchemy import Engine, event

from sensitivity.core.format_name import FormatName, quantized
from sensitivity.core.storage_url import parse_storage
from sensitivity.core.supervised import REPLACE_ME
from sensitivity.errors import (
    DeviceLostError,
    LostDatabaseError,
    MeasurementError,
    SensitivityError,
)
from sensitivity.fidelity.score import PartialScore, Score
from sensitivity.search import loop, patience, trial_runner, workers
from sensitivity.search.candidates import Candidates, Group
from sensitivity.search.settings import SearchSettings
from sensitivity.search.store import Store
from sensitivity.search.study_log import StudyLog
from sensitivity.search.trials import SearchEvents, StoppedTrial

from support import fake_search
from support.fake_search import FakeEvaluator


def candidates_of(groups: int) -> Candidates:
    """Something to choose from: 2 to the power of `groups` skip-lists."""
    return Candidates(
        formats=(FormatName.BF16, FormatName.NVFP4),
        groups=tuple(
            Group(
                name=f"x[{g}]",
                fqns=(f"x.{g}",),
                members=((), (f"x.{g}",)),
                gains_s=(0.0, 0.1 + 0.03 * g),
            )
            for g in range(groups)
        ),
        fixed={},
        refused={},
        fqns=tuple(f"x.{g}" for g in range(groups)),
        rule_of_thumb=(1, 0) + (1,) * (groups - 2),
        bf16_s=12.0,
    )


CANDIDATES, LARGE = candidates_of(8), candidates_of(14)
WAIT_S = 60.0
"""How long a worker may take."""
POINTS = ("claimed", "scoring", "scored", "finishing", "statement", "commit", "returned")
"""Where a fault may strike: once a choice is claimed; before and after its score; before its trial
is written; before any statement and before any commit, the heartbeat's included; and when the
connection of a transaction is given back, so the commit is done but nobody knows.
"""


def settings(budget: int, **changed: Any) -> SearchSettings:
    """What the search is asked for: no calibration, since there is no model."""
    return replace(fake_search.settings(budget=budget), calibrated=False, **changed)


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def stop_self() -> None:
    """Stop this process, as SIGSTOP from outside does, until SIGCONT."""
    os.kill(os.getpid(), signal.SIGSTOP)


@dataclass(frozen=True)
class Fault:
    """What goes wrong in a worker.

    Attributes:
        point: one of `POINTS`; "" for none.
        count: at which time that the point is reached.
        act: what happens then; killed without a word by default.
        late: whether to count from when the database is open.
        score: called with what is scored, before each score: it may raise, kill, or give a score.
    """

    point: str = ""
    count: int = 1
    act: Callable[[], Any] = _kill
    late: bool = False
    score: Callable[[Mapping[str, FormatName]], Score | None] = lambda _formats: None


NONE = Fault()


@dataclass
class FakeWorker:
    """A worker's process.

    Attributes:
        process: its number.
        name: of its files.
        folder: where they lie.
        code: its exit code, or the negative signal that ended it; None while it runs.
    """

    process: int
    name: str
    folder: Path
    code: int | None = None

    def poll(self) -> int | None:
        """Its exit code; None while it runs or is stopped."""
        if self.code is None:
            found, status = os.waitpid(self.process, os.WNOHANG)
            if found:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code

    def wait(self, wait_s: float = WAIT_S) -> int:
        """Its exit code, when it has ended. A worker that does not end is killed, and an error."""
        until = time.monotonic() + wait_s
        while self.poll() is None:
            if time.monotonic() > until:
                self.kill()
                raise AssertionError(f"{self.name} did not end in {wait_s} s: {self.output}")
            time.sleep(0.005)
        return self.poll() or 0

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, if it runs."""
        if self.poll() is None:
            os.kill(self.process, number)

    def kill(self) -> None:
        """End it for good."""
        self.send(signal.SIGKILL)
        while self.poll() is None:
            time.sleep(0.001)

    def wait_stopped(self) -> None:
        """Wait until it has stopped itself."""
        os.waitid(os.P_PID, self.process, os.WSTOPPED | os.WNOWAIT)

    def wait_for(self, kind: str, count: int = 1, wait_s: float = WAIT_S) -> None:
        """Wait until its journal has so many lines of a kind."""
        until = time.monotonic() + wait_s
        while len(self.lines(kind)) < count:
            if self.poll() is not None or time.monotonic() > until:
                raise AssertionError(f"{self.name} has no {count} {kind!r}: {self.output}")
            time.sleep(0.005)

    @property
    def journal(self) -> list[dict[str, Any]]:
        """What it saw."""
        return lines_of(self.folder / f"{self.name}.journal")

    def lines(self, kind: str) -> list[dict[str, Any]]:
        """The lines of one kind."""
        return [line for line in self.journal if line["kind"] == kind]

    @property
    def output(self) -> str:
        """What it printed, its last error included."""
        return (self.folder / f"{self.name}.output").read_text(errors="replace")


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a worker does.

    Attributes:
        storage: the database: a path or a URL.
        folder: for what the workers of one test write; their spool lies there too.
        asked: what the search is asked for.
        fault: what goes wrong.
        shared: whether others may work on the same file.
        seconds: what each score takes.
        lease_s: how long it lives without a beat; None: the default.
        patience_s: how long the database may be away.
        chunk: prompts after which a trial may be stopped.
        candidates: what is chosen from.
        before: called in the process before the search, to change what it sees.
    """

    storage: Path | str
    folder: Path
    asked: SearchSettings
    fault: Fault = NONE
    shared: bool = True
    seconds: float = 0.0
    lease_s: float | None = None
    patience_s: float = 30.0
    chunk: int | None = None
    candidates: Candidates = CANDIDATES
    before: Callable[[], Any] = lambda: None


def start_worker(
    storage: Path | str, folder: Path, asked: SearchSettings, fault: Fault = NONE, **more: Any
) -> FakeWorker:
    """Fork a process that searches; `more` are fields of `Work`."""
    work = Work(storage=storage, folder=folder, asked=asked, fault=fault, **more)
    folder.mkdir(parents=True, exist_ok=True)
    name = f"worker-{len(list(folder.glob('*.output')))}"
    output = os.open(folder / f"{name}.output", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # other threads: they only wait
        process = os.fork()
    if not process:
        os.dup2(output, 1)
        os.dup2(output, 2)
        _end_with(lambda: _search(work, name))
    os.close(output)
    return FakeWorker(process, name, folder)


def _end_with(work: Callable[[], int]) -> NoReturn:
    """End this fork with what its work returns, whatever happens."""
    code = 70
    try:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
            signal.signal(
                number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            )
        code = work()
    except SystemExit as error:
        code = int(error.code or 0)
    except BaseException:
        traceback.print_exc(file=sys.__stderr__)
    finally:
        with suppress(Exception):
            sys.__stderr__.flush()
        os._exit(code)


def _search(work: Work, name: str) -> int:
    """Search as the command does, and give its exit code."""
    sys.stderr = sys.stdout = os.fdopen(os.dup(2), "w", buffering=1)
    logging.basicConfig(level=logging.INFO, force=True)
    patience.PATIENCE_S, patience.FIRST_WAIT_S, patience.LONGEST_WAIT_S = work.patience_s, 0.02, 0.2
    trial_runner.POLL_S = 0.02
    if work.lease_s is not None:
        workers.Worker.join.__func__.__kwdefaults__["lease_s"] = work.lease_s  # type: ignore[attr-defined]
    journal = _Journal(work.folder / f"{name}.journal")
    strike = _Striker(work.fault)
    strike.listen()
    work.before()
    evaluator = _JournalEvaluator(journal, work, strike)
    try:
        storage = parse_storage(work.storage)
        with _ending_in_order(), Store.open(storage, shared=work.shared) as store:
            store.keep_spool_beside(work.folder / "cache" / "references")
            strike.counts_now = True
            result = loop.run_search(
                evaluator,  # type: ignore[arg-type]
                work.candidates,
                store,
                work.asked,
                journal.events(strike),
            )
    except SensitivityError as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        (work.folder / f"{name}.trace").write_text(traceback.format_exc())
        if isinstance(error, DeviceLostError | LostDatabaseError | patience.UnreachableError):
            return REPLACE_ME
        return 1 if isinstance(error, MeasurementError) else 2
    journal.write("ended", trials=len(result.trials), interrupted=result.interrupted)
    return 130 if result.interrupted else 0


@contextmanager
def _ending_in_order() -> Iterator[None]:
    """As `cli.signals.ending_in_order`, without the imports of the command line."""

    def end(number: int, _frame: Any) -> None:
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)
    yield


class _Journal:
    """Lines that are in the file as soon as they are written."""

    def __init__(self, path: Path) -> None:
        self.handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, kind: str, **more: Any) -> None:
        """One line, in one write."""
        line = json.dumps({"kind": kind, "time": time.time(), **more}) + "\n"
        os.write(self.handle, line.encode())

    def events(self, strike: "_Striker") -> SearchEvents:
        """What a search tells, as lines."""

        def finished(tried: Any) -> None:
            value = None if isinstance(tried, StoppedTrial) else tried.score.mean
            self.write("finished", index=tried.index, choice=list(tried.choice), value=value)

        def began(number: int, label: str) -> None:
            self.write("began", number=number, label=label)
            strike("claimed")

        return SearchEvents(
            began=began,
            scored=finished,
            stopped=finished,
            failed=lambda name, reason: self.write("failed", name=name, reason=reason),
            noted=lambda said: self.write("noted", text=said),
        )


class _Striker:
    """Counts how often points are reached, and acts at the one that is planned."""

    def __init__(self, fault: Fault) -> None:
        self.fault, self.counts = fault, Counter[str]()
        self.counts_now = not fault.late

    def __call__(self, point: str) -> None:
        self.counts[point] += self.counts_now
        if point == self.fault.point and self.counts[point] == self.fault.count:
            self.fault.act()

    def listen(self) -> None:
        """Reach the points of transactions and of `StudyLog`."""
        if self.fault.point in ("statement", "commit", "returned"):
            event.listen(Engine, "before_cursor_execute", lambda *_: self("statement"))
            event.listen(Engine, "commit", lambda *_: self("commit"))
            event.listen(Engine, "checkin", lambda *_: self("returned"))
        finish = StudyLog.finish

        def finishing(log: StudyLog, *arguments: Any, **options: Any) -> Any:
            self("finishing")
            return finish(log, *arguments, **options)

        StudyLog.finish = finishing  # type: ignore[method-assign]


class _JournalEvaluator(FakeEvaluator):
    """Writes what it scores, and goes wrong where that is planned."""

    def __init__(self, journal: _Journal, work: Work, strike: _Striker) -> None:
        super().__init__(chunk=work.chunk)
        self.journal, self.work, self.strike = journal, work, strike

    def score(
        self, formats: Mapping[str, FormatName], split: str, **more: Any
    ) -> Score | PartialScore:
        names = sorted(quantized(formats))
        self.journal.write("scoring", names=names)
        self.strike("scoring")
        given = self.work.fault.score(formats)
        time.sleep(self.work.seconds)
        score = super().score(formats, split, **more) if given is None else given
        self.journal.write("scored", names=names)
        self.strike("scored")
        return score


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a journal."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in data.split(b"\n")[:-1]]
