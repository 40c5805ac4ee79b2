"""What does a terminal show while a search runs? `SearchView`, drawn anew a few times a second.

    ⠹ trial 13 ━━━━━━╸━━━━━━━━━━━━━━━━━ 12/50 done, picture 7/10
      last  trial 12/50: 1.412x, typical LPIPS 0.0213
      best  trial 8: 1.380x, typical LPIPS 0.0102; front of 9
      1 min 23 s so far, about 2 min 10 s left, verification included

Lines are cut at the width of the terminal and never wrap. Nothing is known here of a search: who
follows one sets the attributes (`cli.render.live_search`).
"""

import time
from collections.abc import Callable

from rich.console import Console, ConsoleOptions, RenderResult
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from sensitivity.core.words import duration, printable

BAR, ROOM_FOR_A_BAR = 24, 64
"""Columns of the bar, and of the terminal from which on there is one."""


class SearchView:
    """What is shown; rich draws it.

    Args:
        clock: gives seconds, from any start.

    Attributes:
        stage: what is being done.
        done, total: how much of it; a total of None is not known.
        picture: where the current trial is, in words: "picture 7/10".
        last: the trial that ended last, in words.
        best: what would be chosen now, in words.
        ends_at: when the search will end by the clock; None is not known.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock, self.begun = clock, clock()
        self.stage = ""
        self.done: int = 0
        self.total: int | None = None
        self.picture = self.last = self.best = ""
        self.ends_at: float | None = None
        self._spinner = Spinner("dots")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The lines, cut at the width."""
        del console
        head = Table.grid(padding=(0, 1))
        for ratio in (None, None, None, 1):
            head.add_column(no_wrap=True, overflow="ellipsis", ratio=ratio)
        counts = "" if self.total is None else f"{self.done}/{self.total} done"
        bar = (
            ProgressBar(total=max(1, self.total), completed=self.done, width=BAR)
            if self.total is not None and options.max_width >= ROOM_FOR_A_BAR
            else ""
        )
        where = ", ".join(part for part in (counts, self.picture) if part)
        head.add_row(self._spinner, _line(self.stage), bar, _line(where))
        yield head
        for label, words in (("last", self.last), ("best", self.best)):
            if words:
                yield _line("").append(f"  {label}  ", "bold").append(printable(words))
        yield _line(f"  {self._times()}", style="dim")

    def _times(self) -> str:
        """How long the search has run, and how long it will go on."""
        now = self.clock()
        so_far = f"{duration(max(1.0, now - self.begun))} so far"
        if self.ends_at is None:
            return so_far
        return f"{so_far}, {left_words(self.ends_at - now)}, verification included"


def about(seconds: float) -> str:
    """An expected time, no finer than it can be known: "about 40 s", "about 2 min 10 s"."""
    finest = next((step for least, step in ((60, 10), (20, 5)) if seconds >= least), 1)
    return f"about {duration(max(1, round(seconds / finest) * finest))}"


def left_words(seconds: float) -> str:
    """What is left of a search: "about 2 min 10 s left"."""
    return f"{about(seconds)} left" if seconds >= 1 else "about to end"


def _line(text: str, style: str = "") -> Text:
    """A text that is cut, not wrapped."""
    return Text(printable(text), style=style, no_wrap=True, overflow="ellipsis")
