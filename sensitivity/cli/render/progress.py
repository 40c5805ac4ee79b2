"""What a search shows while it runs: one moving line on a terminal, plain lines in a pipe.

with SearchProgress(console, budget=50) as progress:
    find_recipe(spec, request, events=progress.events, say=progress.say)
"""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from sensitivity.cli.screen import print_line
from sensitivity.fidelity.words import lpips_words
from sensitivity.latency.shape_times import PROBING, ShapeTimes, parse_linear
from sensitivity.search.calibration.cost import CalibrationCost
from sensitivity.search.front import pareto_front
from sensitivity.search.trials import (
    ScoredTrial,
    SearchEvents,
    StoppedTrial,
    Tried,
    proposals,
)
from sensitivity.workflows.progress import Measuring


class Bar:
    """A progress bar with one task, hidden in a pipe. Use as a context manager."""

    def __init__(self, console: Console, *more: ProgressColumn, starts: bool = True) -> None:
        self.console, self.starts = console, starts
        self.moving = console.is_terminal
        self.bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            *more,
            console=console,
            transient=True,
            disable=not self.moving,
        )
        self.task: TaskID | None = None

    def __enter__(self) -> Self:
        if self.starts:
            self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bar.stop()

    def print(self, text: str, *, style: str = "") -> None:
        """Print a line above the bar."""
        print_line(self.console, text, style=style)

    def show(self, text: str, done: int | None, total: int | None, note: str | None = None) -> None:
        """Show what is done, how much of it, and a note."""
        if self.task is None:
            self.bar.start()
            self.task = self.bar.add_task(text, total=total, note="")
        if note is not None:
            self.bar.update(self.task, note=note)
        self.bar.update(self.task, description=text, total=total, completed=done or 0)

    @property
    def measuring(self) -> Measuring:
        """What follows a measurement of shapes: a line before, the bar, and lines after."""
        return Measuring(progress=self._shape, noted=self.print, measured=self._shapes_are_measured)

    def _shape(self, done: int, total: int, key: str) -> None:
        """`done` of `total` shapes are probed or measured; `key` comes next, "" after the last."""
        probing = key.startswith(PROBING)
        self.show(key if probing else f"measuring {key}" if key else "shapes", done, total)
        if not self.moving and done == 0 < total:
            self.print(f"{'probing' if probing else 'measuring'} {_shapes(total)}")

    def _shapes_are_measured(self, times: ShapeTimes) -> None:
        """Say where the times came from, and which shapes have none."""
        reused, failed = len(times.reused), times.failed
        found = len(times.rows) - len(failed)
        if reused < found:
            self.print(
                f"{found} shape times on {times.machine['device']}, {reused} of them measured"
                " before"
            )
        for key, reason in failed.items():
            self.print(f"no time: {key}: {reason}", style="yellow")
        shapes = [shape for shape in map(parse_linear, failed) if shape and not shape.sibling]
        if shapes:
            left = f"{_shapes(len(shapes))} of Linears without a time: these Linears stay bf16"
            self.print(left, style="yellow")


def _shapes(number: int) -> str:
    return f"{number} shape{'' if number == 1 else 's'}"


class SearchProgress(Bar):
    """Receives a search's events.

    `events`, `say`, `verifying` and `measuring` are arguments of `workflows.find.find_recipe`.

    Args:
        console: where to print.
        budget: trials of the search.
    """

    def __init__(self, console: Console, *, budget: int) -> None:
        super().__init__(console, TextColumn("{task.fields[note]}", markup=False))
        self.budget = budget
        self.points: list[tuple[float, float]] = []
        self.names: dict[int, str] = {}
        self.bf16_s = 0.0
        self.seconds: list[float] = []
        self.events = SearchEvents(
            started=self._started,
            calibrating=self.print,
            calibrated=self._calibrated,
            noted=self.print,
            continued=self._continued,
            began=self._began,
            scored=self._scored,
            stopped=self._stopped,
            failed=self._failed,
        )

    def say(self, text: str) -> None:
        """A step begins."""
        self.show(text, None, None)
        if not self.moving:
            self.print(text)

    def verifying(self, done: int, total: int) -> None:
        """`done` of `total` held-out pictures are generated."""
        self.show("verifying on held-out prompts", done, total)

    def _calibrated(self, done: int, total: int) -> None:
        self.show("measuring layer sensitivities", done, total)
        if not self.moving and done in (1, total):
            self.print(f"measuring layer sensitivities: {done}/{total} groups")

    def _started(self, name: str, others: tuple[str, ...]) -> None:
        if others:
            self.print(
                f"new study {name}: the database's {len(others)} other studies of this model"
                f" ({', '.join(others[:3])}) have other settings, seed, formats, package versions"
                " or thread count"
            )

    def _continued(self, name: str, trials: tuple[Tried, ...]) -> None:
        for trial in trials:
            self._count(trial)
        done = len(proposals(trials))
        baselines = len(trials) - done
        self.print(
            f"continuing study {name}: {done} of {self.budget} trials are done,"
            f" {max(0, self.budget - done)} to go"
            f"{f'; {baselines} baselines are scored' if baselines else ''}"
        )

    def _began(self, number: int, label: str) -> None:
        left_s = self._left_s(number - 1)
        left = f", {left_s:.0f} s left" if left_s else ""
        front = len(pareto_front(self.points))
        note = f"{label or 'proposed'}   front: {front} skip-lists{left}"
        self._show(number - 1, note, is_baseline=bool(label))

    def _scored(self, trial: ScoredTrial) -> None:
        self._count(trial)
        if not self.moving:
            front = pareto_front(self.points)
            on_front = trial.score.is_allowed and len(self.points) - 1 in front
            self.print(
                f"{self._head(trial)}, typical LPIPS {lpips_words(trial.typical)}, mean"
                f" {lpips_words(trial.mean)}{_sound(trial)}"
                f"{', on the front' if on_front else ''}; front {len(front)},"
                f" {self._left_s(trial.number):.0f} s left"
            )
        self._show(trial.number, is_baseline=bool(trial.label))

    def _stopped(self, trial: StoppedTrial) -> None:
        self._count(trial)
        if not self.moving:
            stop = trial.stop
            rival = self.names.get(stop.rival, "another one")
            self.print(
                f"{self._head(trial)}, stopped after {stop.prompts} prompts: {rival} is as fast"
                f" with less LPIPS (p = {stop.p_value:.2g})"
            )
        self._show(trial.number)

    def _show(self, done: int, note: str | None = None, *, is_baseline: bool = False) -> None:
        """Move the bar: baselines are no trials of the budget."""
        if is_baseline:
            self.show("baselines", 0, None, note)
        else:
            self.show("trial", done, self.budget, note)

    def _failed(self, name: str, reason: str) -> None:
        self.print(f"{name} failed: {reason}")

    def _count(self, trial: Tried) -> None:
        """Keep what later lines say: seconds a trial, the front, names, bf16's seconds."""
        self.seconds.append(trial.seconds)
        self.names[trial.index] = trial.name
        if isinstance(trial, StoppedTrial):
            return
        if trial.score.is_allowed:
            self.points.append((trial.latency_s, trial.score.typical))
        if trial.label == "none":
            self.bf16_s = trial.latency_s

    def _left_s(self, done: int) -> float:
        """Seconds that the other trials will take, as those so far did; 0 before the first."""
        if not self.seconds:
            return 0.0
        return (self.budget - max(0, done)) * sum(self.seconds) / len(self.seconds)

    def _head(self, trial: Tried) -> str:
        """A trial's number, or a baseline's name, and its speedup; its time where bf16's is not
        known yet.
        """
        gain = f"{trial.latency_s * 1e3:.2f} ms"
        if self.bf16_s:
            gain = f"{self.bf16_s / trial.latency_s:.3f}x"
        name = f"baseline {trial.label}" if trial.label else f"{trial.name}/{self.budget}"
        return f"{name}: {gain}"


def _sound(trial: ScoredTrial) -> str:
    """The distance of a trial's sound in words; "" where there is none."""
    if trial.score.audio is None:
        return ""
    beyond = "" if trial.score.is_allowed else " (more than the study allows)"
    return f", sound {lpips_words(trial.score.audio.mean)}{beyond}"


class ShapeProgress(Bar):
    """A bar over the shapes that are measured. Silent where nothing is measured.

    `measuring` is an argument of `workflows.shape_table.table_pricer`.
    """

    def __init__(self, console: Console) -> None:
        super().__init__(console, TimeRemainingColumn(), starts=False)


class CalibrationProgress(Bar):
    """What a calibration costs, said before it starts; then a bar, or two lines in a pipe."""

    def __init__(self, console: Console) -> None:
        super().__init__(console, TimeRemainingColumn())

    def say(self, text: str) -> None:
        """A step begins."""
        self.print(text)

    def started(self, cost: CalibrationCost) -> None:
        """Say what is about to be measured, and what it takes."""
        self.print(cost.describe())

    def update(self, done: int, total: int) -> None:
        """`done` of `total` numbers are kept."""
        self.show("measuring layer sensitivities", done, total)
        if not self.moving and done == total:
            self.print(f"measured: {done}/{total}")
