"""How far searches are: who works on them, trials, the front so far.

    console.print(status_lines([read_status(path)]))

One worker is a sentence. Several are counted in one, and listed in a table below the front, those
that live first. What a table has no room for is in the JSON.
"""

import re
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path

from rich.console import Group as Lines
from rich.console import RenderableType
from rich.text import Text

from sensitivity.cli.render.search_view import left_words
from sensitivity.cli.render.tables import Either, FittedTable, number, words
from sensitivity.core.words import duration, printable
from sensitivity.fidelity.words import lpips_words
from sensitivity.workflows.status import Status, StudyStatus, Worker

SILENT_S = 45.0
"""Seconds after which it is said when a process was last heard of: three beats."""
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
_SHORT = {
    "preparing": "getting ready",
    "references": "references",
    "sensitivities": "sensitivities",
    "trials": "{what}",
    "verification": "verifying",
    "timing": "timing",
}
"""{stage: what is done, where there is little room}"""


def status_lines(found: Iterable[Status], *, most: int | None = None) -> Lines:
    """Who works on each database, and how far its studies are.

    Args:
        found: of each database.
        most: rows of a table of workers; None is all of them.
    """
    parts: list[RenderableType] = []
    for status in found:
        parts += [Text("")] if parts else []
        parts += _of_database(status, most)
    return Lines(*parts)


def _of_database(status: Status, most: int | None) -> Iterator[RenderableType]:
    yield Text(printable(status.database), style="bold")
    living = [own for own in status.workers if own.is_alive]
    listed = _listed(status.workers)
    if len(listed) > 1:
        yield Text(_company(listed), style="green")
    elif living:
        yield Text(_worker(living[0]), style="green")
    elif status.workers:
        yield Text(_ended(status.workers[0], status.database), style="yellow")
    else:
        yield Text("nobody works on it")
    if not status.studies:
        yield Text("no study yet: it is made when the model is loaded")
    for study in status.studies:
        yield Text("")
        yield Text.assemble((printable(study.name), "bold"), f": {_counts(study)}")
        if len(listed) > 1 and study.left_s is not None:
            yield Text(f"{left_words(study.left_s)} at the pace of now, verification included")
        if study.front:
            yield _front(study)
    if len(listed) > 1:
        yield Text("")
        yield worker_table(listed, status.now, most)


def _listed(workers: Sequence[Worker]) -> list[Worker]:
    """Those of a table: who lives, and who died or gave up. None where nobody lives."""
    if not any(own.is_alive for own in workers):
        return []
    return [own for own in workers if own.is_alive or own.how != "finished"]


def _company(workers: Sequence[Worker]) -> str:
    """How many work on it, as a line."""
    living = [own for own in workers if own.is_alive]
    hosts = len({own.host for own in living})
    works = "1 worker is" if len(living) == 1 else f"{len(living)} workers are"
    where = f" on {hosts} hosts" if hosts > 1 else ""
    silent = sum((own.silent_s or 0.0) > SILENT_S for own in living)
    dead = sum(not own.is_alive and not own.how for own in workers)
    left = sum(not own.is_alive and bool(own.how) for own in workers)
    parts = [
        f"{works} at it{where}",
        f"{silent} of them not heard of for {duration(SILENT_S)}" if silent else "",
        f"{dead} died within the last hour" if dead else "",
        f"{left} ended early" if left else "",
    ]
    return ", ".join(filter(None, parts))


def _worker(worker: Worker) -> str:
    """What a process does, as a line."""
    if not worker.stage:
        return f"{worker.name} has the database; what it does is not known (an earlier version's)"
    where = f" on {worker.device}" if worker.device else ""
    what = worker.study or "a study"
    doing = _DOING.get(worker.work, "works on")
    line = f"{_called(worker)} {doing} {what}{where}: {_stage(worker)}"
    if worker.left_s is not None:
        line += f"; {left_words(worker.left_s)}, verification included"
    silent_s = worker.silent_s or 0.0
    return line + (f" (last heard of {duration(silent_s)} ago)" if silent_s > SILENT_S else "")


def _stage(worker: Worker) -> str:
    stage, counted = _STAGES.get(worker.stage, (worker.stage, ""))
    text = printable(stage.format(what=worker.what))
    if counted and worker.total is not None:
        text += f", {worker.done} of {worker.total} {counted}"
    is_said = worker.stage == "preparing" and worker.what
    return f"{text} ({printable(worker.what)})" if is_said else text


def _ended(worker: Worker, database: str) -> str:
    """How the last process ended, and what goes on."""
    ago = "" if worker.silent_s is None else f" {duration(worker.silent_s)} ago"
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
        f"{trials.running} running" if trials.running else "",
        f"{trials.failed} failed" if trials.failed else "",
        f"{trials.baselines} baselines" if trials.baselines else "",
        f"{trials.an_hour:.0f} trials an hour" if trials.an_hour else "",
    ]
    return ", ".join(part for part in parts if part)


def worker_table(workers: Sequence[Worker], now: datetime, most: int | None = None) -> Lines:
    """Each worker as a row, those that live first.

    Args:
        workers: in any order.
        now: of the same clock as their times.
        most: rows at most, a third of them for those that ended; the others are counted below.
    """
    living = sorted((own for own in workers if own.is_alive), key=_order)
    others = [own for own in workers if not own.is_alive]
    room = len(workers) if most is None else max(1, most)
    ended = min(len(others), max(room - len(living), room // 3))
    shown = min(len(living), room - ended)
    names = Counter(_called(own) for own in workers)
    studies = {own.study for own in living if own.study}
    rows = FittedTable(
        words("worker", least=12),
        words("device", drop=2, least=6),
        words("study", drop=1, least=16),
        words("does", least=17),
        number("for"),
        number("trials"),
        number("heard of", drop=3),
        words("alive by", drop=4, least=5),
    )
    for own in [*living[:shown], *others[:ended]]:
        rows.add_row(
            _called(own) if names[_called(own)] == 1 else own.name,
            Either(_device(own), _short_device(own)),
            own.study if len(studies) > 1 else "",
            Either(_fate(own), _fate(own, short=True)),
            _since(own, now) if own.is_alive else "",
            str(own.trials),
            "" if own.silent_s is None else f"{_whole(own.silent_s)} ago",
            own.alive_by or ("left" if own.how else "dead"),
            style=_style(own),
        )
    cut = [(len(living) - shown, "more at work"), (len(others) - ended, "more that ended")]
    left = [f"{count} {what}" for count, what in cut if count > 0]
    notes = [Text(f"{' and '.join(left)}, in --json", style="dim")] if left else []
    return Lines(rows, *notes)


def _called(worker: Worker) -> str:
    """Host and process."""
    return f"{printable(worker.host)}:{worker.process}" if worker.host else printable(worker.name)


def _order(worker: Worker) -> tuple[object, ...]:
    """By host and device, numbers in names as numbers."""
    parts = re.split(r"(\d+)", f"{worker.host} {_short_device(worker)} {worker.process}")
    return tuple((part.isdigit(), int(part) if part.isdigit() else part) for part in parts)


def _device(worker: Worker) -> str:
    """Its number, and what it is."""
    name = worker.device_name.rpartition(": ")[2]
    return ", ".join(filter(None, [_short_device(worker), name]))


def _short_device(worker: Worker) -> str:
    """Its number where that is known: "GPU 3", "cuda:3"."""
    return worker.device_name.rpartition(": ")[0] or worker.device


def _fate(worker: Worker, *, short: bool = False) -> str:
    """What a worker does, or how it ended, as a cell."""
    stage = _short_stage(worker) if short else _stage(worker)
    if worker.is_alive:
        return stage
    if worker.how == "interrupted":
        return "interrupted" if short else "was interrupted"
    return f"ended: {worker.how}" if worker.how else f"died at {stage}"


def _short_stage(worker: Worker) -> str:
    words = _SHORT.get(worker.stage, worker.stage).format(what=worker.what)
    of = "" if worker.total is None else f", {worker.done}/{worker.total}"
    return printable(words + of)


def _since(worker: Worker, now: datetime) -> str:
    """For how long it has been at what it does."""
    since = worker.stage_began or worker.began
    return "" if since is None else _whole((now - since).total_seconds())


def _whole(seconds: float) -> str:
    """A duration in whole seconds."""
    return duration(seconds) if seconds >= 1 else "0 s"


def _style(worker: Worker) -> str:
    if not worker.is_alive:
        return "dim" if worker.how == "interrupted" else "red"
    return "yellow" if (worker.silent_s or 0.0) > SILENT_S else ""


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
