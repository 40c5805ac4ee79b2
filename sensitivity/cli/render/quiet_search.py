"""What does a worker of a search print where another process of its host shows the search?
`QuietProgress`: a line for each trial that it finishes, and what goes wrong.

    [rank 3] trial 12/50: 1.412x, typical LPIPS 0.0213, mean 0.0301; front 9, about 2 min 10 s left

On a terminal the other process may move its view. A line in between would tear it, so trials are
not told there: the view counts them. All of them draw the pictures that verify the winner, and the
first process tells how that goes. The one that then chooses says what it does, since the others
have ended.
"""

from typing import Any

from rich.console import Console

from sensitivity.cli.render.live_search import SearchProgress


class QuietProgress(SearchProgress):
    """Receives a search's events in a process whose host has another one that shows the search.

    Args:
        console: where to print; where something may move, the other process moves it, and trials
            are not told.
        prefix: stands before each line.
        options: those of `SearchProgress`.
    """

    def __init__(self, console: Console, prefix: str, **options: Any) -> None:
        super().__init__(console, **options)
        self._is_told, self.moving, self.prefix = not self.moving, False, prefix
        self._concludes = False

    def print(self, text: str, *, style: str = "") -> None:
        """Print a line if it is a warning, or if nobody else says how the search goes."""
        if style or self._concludes:
            super().print(self.prefix + text, style=style)

    def verifying(self, done: int, total: int) -> None:
        """`done` of `total` held-out pictures are there. Where that takes long it is said now and
        then, and not for each skip-list.
        """
        self._concludes = True
        self._verified_lists = done
        super().verifying(done, total)

    def warn(self, text: str) -> None:
        """Print that something did not go as planned."""
        super().print(self.prefix + text)

    def tell_trial(self, text: str) -> None:
        """A line on a trial that ended here."""
        if self._is_told:
            super().print(self.prefix + text)
