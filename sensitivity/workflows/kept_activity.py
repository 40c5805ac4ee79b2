"""How do others learn what a long workflow is at? `keeping_activity`, around all that it does.

    with keeping_activity(store, "search", "cuda", budget=50) as doing:
        claims = Claims(store, doing.worker)
        run_search(evaluator, candidates, store, settings, doing.events(events))

Inside, the process is a worker of the study's database (`search.workers`), which keeps what it does
(`search.activity`) for `workflows.status`. At the end it says how the work ended: finished,
interrupted, or by which error. What a caller follows a workflow with is wrapped: `Doing` keeps what
comes, and passes it on.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import fields
from typing import Any

from sensitivity.core.words import first_line
from sensitivity.search.activity import ActivityLog, Stage, Work, utc_now
from sensitivity.search.store import Store
from sensitivity.search.trials import SearchEvents, Tried
from sensitivity.search.work import SearchWork
from sensitivity.search.workers import Worker
from sensitivity.workflows.progress import Outlook, Say
from sensitivity.workflows.time_left import TimeLeft

FINISHED, INTERRUPTED = "finished", "interrupted"
Counted = Callable[[int, int], None]
"""Called with (done, in all)."""


class Doing:
    """What a process is at, kept in a database, with the time that is left.

    Args:
        worker: this process; None for a database that may not be written.

    Attributes:
        worker: as given.
        log: keeps what it does.
        left: knows how long it goes on.
    """

    def __init__(self, worker: Worker | None) -> None:
        self.worker, self.log, self.left = worker, ActivityLog(worker), TimeLeft()
        self.prompts: int | None = None
        if worker is not None:
            self.left.workers = lambda: worker.company
        self.log.seconds_left = lambda: self.left.seconds
        self.log.paces = lambda: (self.left.trial_s, self.left.beside_s)

    def events(self, events: SearchEvents | None) -> SearchEvents:
        """A search's events, kept as they come."""
        log, worker = self.log, self.worker

        def planned(work: SearchWork) -> None:
            self.prompts = work.prompts
            log.update(device_name=_device_name(log.now.device))
            if not work.trials_left:
                log.update(stage="verification")

        def began(number: int, label: str) -> None:
            what = f"baseline {label}" if label else f"trial {number}"
            log.update(stage="trials", what=what, done=0, total=self.prompts, stage_began=utc_now())

        def tried(trial: Tried) -> None:
            log.update(trials=log.now.trials + 1)
            if trial.number == log.now.budget and (worker is None or worker.company == 1):
                log.update(stage="verification")

        def waiting(trials: int) -> None:
            log.update(
                stage="trials",
                what=f"waiting for {trials} of others" if trials else "",
                done=0,
                total=None,
                stage_began=utc_now(),
            )

        own = SearchEvents(
            started=lambda name, _others: log.update(study=name),
            continued=lambda name, _trials: log.update(study=name),
            planned=planned,
            referenced=self._counted("references"),
            calibrating=lambda _cost: log.update(stage="sensitivities"),
            calibrated=self._counted("sensitivities"),
            began=began,
            pictures=lambda done: log.update(done=done),
            scored=tried,
            stopped=tried,
            waiting=waiting,
        )
        kept = _both_events(self.left.events, own)
        return kept if events is None else _both_events(kept, events)

    def expected(self, expected: Callable[[Outlook], None]) -> Callable[[Outlook], None]:
        """The same for what is known before the first picture."""
        return _both(self.left.expect, expected)

    def calibrating(self, progress: Counted) -> Counted:
        """The same for layer sensitivities."""
        return _both(self._counted("sensitivities"), progress)

    def verifying(self, verifying: Counted) -> Counted:
        """The same for held-out pictures."""
        return _both(_both(self.left.verify, self._counted("verification")), verifying)

    def say(self, say: Say) -> Say:
        """The same for steps."""
        return _both(lambda text: self.log.update(what=text[:200]), say)

    def timing(self) -> None:
        """Whole runs are timed now."""
        self.left.timing()
        self.log.update(stage="timing")

    def _counted(self, stage: Stage) -> Counted:
        return lambda done, total: self.log.update(stage=stage, done=done, total=total)


@contextmanager
def keeping_activity(
    store: Store, work: Work, device: str, budget: int | None = None, *, command: str | None = None
) -> Iterator[Doing]:
    """Inside, this process is a worker of the database, which says what it is at.

    Args:
        store: the study's database.
        work: what is done.
        device: where torch runs.
        budget: trials that were asked for.
        command: the command line that asked for it.
    """
    worker = None
    if store.may_write:
        worker = Worker.join(
            store,
            work=work,
            device=device,
            device_name=_device_name(device),
            budget=budget,
            command=command or "",
        )
    doing = Doing(worker)
    with worker or nullcontext():
        try:
            yield doing
        except BaseException as error:
            ended = isinstance(error, KeyboardInterrupt | SystemExit)
            doing.log.end(INTERRUPTED if ended else first_line(error))
            raise
        if doing.log.now.stage != "ended":
            doing.log.end(FINISHED)


def _device_name(device: str) -> str:
    """What a GPU is called: "GPU 3: NVIDIA H200", its number where this process sees one alone, its
    name once torch uses it; "" for the CPU.
    """
    if not device.startswith("cuda"):
        return ""
    seen, name, torch = os.environ.get("CUDA_VISIBLE_DEVICES", ""), "", sys.modules.get("torch")
    number = f"GPU {seen}" if seen.isdigit() else ""
    with suppress(Exception):  # a name is worth no search
        if torch is not None and torch.cuda.is_initialized():
            name = str(torch.cuda.get_device_name(device))
    return ": ".join(filter(None, [number, name]))


def _both_events(first: SearchEvents, second: SearchEvents) -> SearchEvents:
    """Events that call the functions of two."""
    names = [field.name for field in fields(SearchEvents)]
    return SearchEvents(
        **{name: _both(getattr(first, name), getattr(second, name)) for name in names}
    )


def _both(first: Callable[..., Any], second: Callable[..., Any]) -> Callable[..., None]:
    """A function that calls two."""

    def call(*arguments: Any) -> None:
        first(*arguments)
        second(*arguments)

    return call
