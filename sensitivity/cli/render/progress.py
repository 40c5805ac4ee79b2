"""What a measurement shows while it runs: one moving line on a terminal, plain lines in a pipe.

with ShapeProgress(console) as progress:
    table_pricer(spec, device="cuda", measuring=progress.measuring)

`cli.render.live_search` follows a whole search. A terminal that cannot move its cursor
(`TERM=dumb`) is a pipe.
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

from sensitivity.cli.screen import may_move, print_line
from sensitivity.latency.shape_times import PROBING, ShapeTimes, parse_linear
from sensitivity.search.calibration.cost import CalibrationCost
from sensitivity.workflows.progress import Measuring


class Follower:
    """Follows a measurement of shapes. What shows it is told by `show`.

    Args:
        console: where to print.

    Attributes:
        moving: whether something moves; else there are plain lines.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.moving = may_move(console)

    def print(self, text: str, *, style: str = "") -> None:
        """Print a line, above what moves. A terminal gets it wrapped between words."""
        print_line(self.console, text, style=style, wraps=self.console.is_terminal)

    def show(self, text: str, done: int | None, total: int | None) -> None:
        """Show what is done, and how much of it."""
        raise NotImplementedError

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


class Bar(Follower):
    """A progress bar with one task, hidden in a pipe. Use as a context manager."""

    def __init__(self, console: Console, *more: ProgressColumn, starts: bool = True) -> None:
        super().__init__(console)
        self.starts = starts
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

    def show(self, text: str, done: int | None, total: int | None) -> None:
        """Move the bar."""
        if self.task is None:
            self.bar.start()
            self.task = self.bar.add_task(text, total=total)
        self.bar.update(self.task, description=text, total=total, completed=done or 0)


def _shapes(number: int) -> str:
    return f"{number} shape{'' if number == 1 else 's'}"


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
