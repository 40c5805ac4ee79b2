"""What a search, or a measurement of shapes, says while it runs: one moving line on a terminal,
plain lines in a pipe.
"""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from sensitivity.latency.measured import ShapeTimes
from sensitivity.search.calibration import CalibrationCost
from sensitivity.search.front import pareto_front
from sensitivity.search.trials import ScoredTrial, SearchEvents, StoppedTrial, Tried


class SearchProgress:
    """Receives a search's events.

    Use as a context manager; `events` goes to `run_search`, `say` and `verifying` to
    `workflow.find_recipe`.
    """

    def __init__(self, console: Console, *, budget: int) -> None:
        self.console, self.budget = console, budget
        self.moving = console.is_terminal
        self.begun = time.monotonic()
        self.points: list[tuple[float, float]] = []
        self.base_s = 0.0
        self.spent: list[float] = []
        self.bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            transient=True,
            disable=not self.moving,
        )
        self.task: TaskID | None = None
        self.events = SearchEvents(
            started=self._started,
            calibrating=self._line,
            calibrated=self._calibrated,
            noted=self._line,
            continued=self._continued,
            began=self._began,
            scored=self._scored,
            stopped=self._stopped,
            failed=self._failed,
        )

    def __enter__(self) -> "SearchProgress":
        self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bar.stop()

    def say(self, text: str) -> None:
        """A step begins."""
        self._show(text, None, None)
        if not self.moving:
            self._line(text)

    def verifying(self, done: int, total: int) -> None:
        """Held-out pictures drawn so far."""
        self._show("verifying on held-out prompts", done, total)

    def _calibrated(self, done: int, total: int) -> None:
        self._show("measuring layer sensitivities", done, total)
        if not self.moving and done in (1, total):
            self._line(f"measuring layer sensitivities: {done}/{total} groups")

    def _started(self, name: str, others: tuple[str, ...]) -> None:
        if others:
            self._line(
                f"new study {name}: the database's {len(others)} other studies of this model"
                f" ({', '.join(others[:3])}) have other settings, seed, formats, package versions"
                " or thread count"
            )

    def _continued(self, name: str, trials: tuple[Tried, ...]) -> None:
        for trial in trials:
            self._note(trial)
        self._line(
            f"continuing study {name}: {len(trials)} of {self.budget} trials are done,"
            f" {max(0, self.budget - len(trials))} to go"
        )

    def _began(self, index: int, label: str) -> None:
        left = self.budget - index
        rate = sum(self.spent) / len(self.spent) if self.spent else 0.0
        remaining = f", {left * rate:.0f} s left" if rate else ""
        note = (
            f"{label or 'proposed'}   front: {len(pareto_front(self.points))} skip-lists{remaining}"
        )
        self._show("trial", index, self.budget, note)

    def _note(self, trial: Tried) -> None:
        self.spent.append(trial.seconds)
        if isinstance(trial, StoppedTrial):
            return
        if trial.score.is_allowed:
            self.points.append((trial.latency_s, trial.score.damage))
        if trial.label == "none":
            self.base_s = trial.latency_s

    def _scored(self, trial: ScoredTrial) -> None:
        self._note(trial)
        on_front = trial.score.is_allowed and len(self.points) - 1 in pareto_front(self.points)
        speedup = self._speedup(trial)
        left = (self.budget - trial.index - 1) * sum(self.spent) / len(self.spent)
        if not self.moving:
            self._line(
                f"trial {trial.index + 1}/{self.budget}: {speedup}, LPIPS"
                f" {trial.score.mean:.4f}{_sound(trial)}{' (' + trial.label + ')' if trial.label else ''}{', on the front' if on_front else ''};"
                f" front {len(pareto_front(self.points))}, {left:.0f} s left"
            )
        self._show("trial", trial.index + 1, self.budget)

    def _stopped(self, trial: StoppedTrial) -> None:
        self._note(trial)
        if not self.moving:
            stop = trial.stop
            sure = f"p = {stop.p_value:.2g}" if stop.p_value else "certain"
            self._line(
                f"trial {trial.index + 1}/{self.budget}: {self._speedup(trial)}, stopped after"
                f" {stop.prompts} prompts: trial {stop.rival + 1} is as fast with less LPIPS"
                f" ({sure})"
            )
        self._show("trial", trial.index + 1, self.budget)

    def _speedup(self, trial: Tried) -> str:
        """Over bf16, once its trial is there; else the time itself."""
        return (
            f"{self.base_s / trial.latency_s:.3f}x"
            if self.base_s
            else f"{trial.latency_s * 1e3:.2f} ms"
        )

    def _failed(self, index: int, reason: str) -> None:
        self._line(f"trial {index + 1} failed: {reason}")

    def _line(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _show(
        self, text: str, done: int | None, total: int | None, note: str | None = None
    ) -> None:
        if self.task is None:
            self.task = self.bar.add_task(text, total=total, note="")
        fields = {} if note is None else {"note": note}
        self.bar.update(self.task, description=text, total=total, completed=done or 0, **fields)  # type: ignore[arg-type]  # rich's fields


def _sound(trial: ScoredTrial) -> str:
    """The distance of a trial's sound in words, "" where there is none."""
    if trial.score.audio is None:
        return ""
    return (
        ", sound"
        f" {trial.score.audio.mean:.4f}{'' if trial.score.is_allowed else ' (more than the study allows)'}"
    )


class ShapeProgress:
    """A bar over the shapes that are measured, and afterwards those that have no time, with
    reasons. Silent where nothing is measured.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.task: TaskID | None = None

    def __enter__(self) -> "ShapeProgress":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bar.stop()

    def update(self, done: int, total: int, key: str) -> None:
        """`done` of `total` experiments are made, `key` comes next."""
        if self.task is None:
            self.task = self.bar.add_task("measuring shapes", total=total)
            self.bar.start()
        self.bar.update(
            self.task,
            completed=done,
            total=total,
            description=f"measuring {key}" if key else "measured",
        )
        if not self.console.is_terminal and done in (0, total):
            self.console.print(f"measuring shapes: {done}/{total}", highlight=False)

    def failures(self, times: ShapeTimes) -> None:
        """Say which shapes have no time, and where the others came from."""
        reused = sum(row.reused for row in times.rows.values())
        self.console.print(
            f"{len(times.rows)} shape times on {times.machine['device']}, {reused} of them measured"
            " before",
            highlight=False,
        )
        for key, reason in times.failed.items():
            self.console.print(
                f"no time: {key}: {reason}",
                style="yellow",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )


class CalibrationProgress:
    """What a calibration says: its cost before it starts, then a bar, or two lines in a pipe."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.task: TaskID | None = None

    def __enter__(self) -> "CalibrationProgress":
        self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bar.stop()

    def say(self, text: str) -> None:
        """A step begins."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def started(self, cost: CalibrationCost) -> None:
        """What is about to be measured, and what it takes."""
        self.say(cost.describe())

    def update(self, done: int, total: int) -> None:
        """`done` of `total` numbers are kept."""
        if self.task is None:
            self.task = self.bar.add_task("measuring layer sensitivities", total=total)
        self.bar.update(self.task, completed=done, total=total)
        if not self.console.is_terminal and done == total:
            self.say(f"measured: {done}/{total}")
