"""How do others learn what a long workflow is at? `keeping_activity`, around all that it does.

    with keeping_activity(store, "search", "cuda", budget=50) as doing:
        run_search(evaluator, candidates, store, settings, doing.events(events))

Inside, `search.activity` keeps a row in the study's database, which `workflows.status` shows. At
the end it says how the work ended: finished, interrupted, or by which error. What a caller follows
a workflow with is wrapped: `Doing` keeps what comes, and passes it on.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields
from typing import Any

from sensitivity.core.words import first_line
from sensitivity.search.activity import ActivityLog, Stage, Work
from sensitivity.search.store import Store
from sensitivity.search.trials import SearchEvents, Tried
from sensitivity.search.work import SearchWork
from sensitivity.workflows.progress import Outlook, Say
from sensitivity.workflows.time_left import TimeLeft

FINISHED, INTERRUPTED = "finished", "interrupted"
Counted = Callable[[int, int], None]
"""Called with (done, in all)."""


class Doing:
    """What a process is at, kept in a database, with the time that is left.

    Args:
        log: keeps it.
    """

    def __init__(self, log: ActivityLog) -> None:
        self.log, self.left = log, TimeLeft()
        self.prompts: int | None = None
        log.seconds_left = lambda: self.left.seconds

    def events(self, events: SearchEvents | None) -> SearchEvents:
        """A search's events, kept as they come."""
        log = self.log

        def planned(work: SearchWork) -> None:
            self.prompts = work.prompts
            if not work.trials_left:
                log.update(stage="verification")

        def began(number: int, label: str) -> None:
            what = f"baseline {label}" if label else f"trial {number}"
            log.update(stage="trials", what=what, done=0, total=self.prompts)

        def tried(trial: Tried) -> None:
            is_last = trial.number == log.now.budget
            log.update(**{"stage": "verification"} if is_last else {})

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
    """Inside, the database says what this process is at.

    Args:
        store: the study's database.
        work: what is done.
        device: where torch runs.
        budget: trials that were asked for.
        command: the command line that asked for it.
    """
    log = ActivityLog(store, work=work, device=device, budget=budget, command=command or "")
    try:
        yield Doing(log)
    except BaseException as error:
        ended = isinstance(error, KeyboardInterrupt | SystemExit)
        with suppress(Exception):  # the first error is the one to tell
            log.end(INTERRUPTED if ended else first_line(error))
        raise
    if log.now.stage != "ended":
        log.end(FINISHED)


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
