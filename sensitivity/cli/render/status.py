"""How far searches are: who works on them, trials, the front so far.

console.print(status_lines([read_status(path)]))
"""

import shlex
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path

from rich.console import Group as Lines
from rich.console import RenderableType
from rich.text import Text

from sensitivity.cli.render.search_view import left_words
from sensitivity.cli.render.tables import FittedTable, number, words
from sensitivity.core.words import duration, printable
from sensitivity.fidelity.words import lpips_words
from sensitivity.workflows.status import Status, StudyStatus, Worker

SILENT_S = 120.0
"""Seconds after which it is said when a process was last heard of."""
_DOING = {
    "search": "is searching",
    "choice": "is choosing in",
    "calibration": "is measuring layer sensitivities of",
}
_STAGES = {
    "preparing": ("getting ready", ""),
    "references": ("drawing bf16 references", "pictures"),
    "sensitivities": ("measuring layer sensitivities", "numbers"),
    "trials": ("{what}", "pictures"),
    "verification": ("verifying on held-out prompts", "pictures"),
    "timing": ("timing whole runs", ""),
}
"""{stage: what is done, and what is counted}"""


def status_lines(found: Iterable[Status]) -> Lines:
    """Who works on each database, and how far its studies are."""
    parts: list[RenderableType] = []
    for status in found:
        parts += [Text("")] if parts else []
        parts += _of_database(status)
    return Lines(*parts)


def _of_database(status: Status) -> Iterator[RenderableType]:
    yield Text(printable(status.database), style="bold")
    for worker in status.workers[:1] if not status.writer else status.workers:
        yield Text(
            _worker(worker, status.now, status.database),
            style="green" if worker.is_alive else "yellow",
        )
    if not status.workers:
        yield Text("nobody works on it")
    if not status.studies:
        yield Text("no study yet: it is made when the model is loaded")
    for study in status.studies:
        yield Text("")
        yield Text.assemble((printable(study.name), "bold"), f": {_counts(study)}")
        if study.front:
            yield _front(study)


def _worker(worker: Worker, now: datetime, database: str) -> str:
    """What a process does, or how it ended, as a line."""
    if not worker.is_alive:
        return _ended(worker, now, database)
    if not worker.stage:
        return f"{worker.name} has the database; what it does is not known (an earlier version's)"
    where = f" on {worker.device}" if worker.device else ""
    what = worker.study or "a study"
    line = f"{worker.name} {_DOING.get(worker.work, 'works on')} {what}{where}: {_stage(worker)}"
    if worker.left_s is not None:
        line += f"; {left_words(worker.left_s)}, verification included"
    silent_s = 0.0 if worker.seen is None else (now - worker.seen).total_seconds()
    return line + (f" (last heard of {duration(silent_s)} ago)" if silent_s > SILENT_S else "")


def _stage(worker: Worker) -> str:
    stage, counted = _STAGES.get(worker.stage, (worker.stage, ""))
    text = printable(stage.format(what=worker.what))
    if counted and worker.total is not None:
        text += f", {worker.done} of {worker.total} {counted}"
    is_said = worker.stage == "preparing" and worker.what
    return f"{text} ({printable(worker.what)})" if is_said else text


def _ended(worker: Worker, now: datetime, database: str) -> str:
    """How the last process ended, and what goes on."""
    ago = "" if worker.seen is None else f" {duration((now - worker.seen).total_seconds())} ago"
    what = {"search": "search", "choice": "choice", "calibration": "calibration"}[worker.work]
    if worker.how == "finished":
        return f"nobody works on it; the last {what} finished{ago}"
    how = {
        "interrupted": f"was interrupted{ago}",
        "": f"ended without a word{ago}, at: {_stage(worker)}",
    }.get(worker.how, f"ended{ago}: {printable(worker.how)}")
    where = "" if _is_default(database) else f" --storage {shlex.quote(database)}"
    again = f"; to go on: {printable(worker.command + where)}" if worker.command else ""
    return f"nobody works on it; the last {what} {how}{again}"


def _is_default(database: str) -> bool:
    """Whether a search finds its database here by itself: commands are kept without options that
    name files.
    """
    return Path(database).parent.name == "sensitivity-runs"


def _counts(study: StudyStatus) -> str:
    """How many trials there are, as a line."""
    trials = study.trials
    of = "" if trials.budget is None else f" of {trials.budget}"
    parts = [
        f"{trials.done}{of} trials done",
        f"{trials.stopped} of them stopped early" if trials.stopped else "",
        f"{trials.failed} failed" if trials.failed else "",
        f"{trials.baselines} baselines" if trials.baselines else "",
        f"{trials.an_hour:.0f} trials an hour" if trials.an_hour else "",
    ]
    return ", ".join(part for part in parts if part)


def _front(study: StudyStatus) -> FittedTable:
    rows = FittedTable(
        words("front so far", least=14),
        number("speedup"),
        number("ms a run", drop=1),
        number("typical LPIPS"),
    )
    for own in study.front:
        rows.add_row(
            own.name,
            "" if own.speedup is None else f"{own.speedup:.3f}x",
            f"{own.seconds * 1e3:.2f}",
            lpips_words(own.typical),
        )
    return rows
