"""Where commands print: one console each, plain lines, notices and warnings.

Text from outside (names in a list, labels in a database, reasons of failures) is shown as text,
never obeyed: square brackets are no markup, and control characters, which could move the cursor or
turn the writing direction, become spaces. `TextConsole` does both for everything that is printed,
tables and progress bars too.

    console = make_console(json_path)
    print_line(console, "list [/v2]: 3 entries")      # printed as it is
"""

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from sensitivity.cli.flags import name_flags
from sensitivity.cli.ranks import is_quiet
from sensitivity.core.storage_url import hide_passwords
from sensitivity.core.words import printable

PIPE_WIDTH = 200
"""Columns of a table that goes to a pipe or a file, unless `COLUMNS` says another number."""


class TextConsole(Console):
    """A console on which every string is plain text: no markup, no emoji codes, no highlighting.

    Characters that are not printable become spaces when they are rendered; rich's own control
    sequences (colours, the cursor of a progress bar) are not text and pass.

    Args:
        names_flags: whether fields that messages name become options of the command line.
        options: rich's own.
    """

    def __init__(self, *, names_flags: bool = True, **options: Any) -> None:
        self.names_flags = names_flags
        super().__init__(**{"markup": False, "emoji": False, "highlight": False} | options)

    def render_str(self, text: str, **options: Any) -> Text:
        """A string as printable text, so that cells of tables are as wide as what is shown."""
        return super().render_str(printable_lines(text), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """The segments of a renderable, with printable text only."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable() or segment.text == "\n":
                yield segment
            else:
                yield segment._replace(text=printable_lines(segment.text))


def make_console(json_path: str | None) -> Console:
    """The console of a command: stderr where stdout holds the JSON ("-"), else stdout."""
    stream = sys.stderr if json_path == "-" else sys.stdout
    # colours may be forced in a pipe (FORCE_COLOR); what moves may not
    moves = None if stream.isatty() else False
    console = TextConsole(stderr=json_path == "-", force_interactive=moves)
    if not stream.isatty() and not os.environ.get("COLUMNS", "").isdigit():
        console.width = PIPE_WIDTH
    return console


def error_console() -> Console:
    """The console for what goes to stderr, beside the results."""
    return TextConsole(stderr=True)


def print_line(console: Console, text: str, *, style: str = "", wraps: bool = False) -> None:
    """Print text as it is: no markup, no highlighting, and no wrapping unless `wraps` asks for it.
    Fields become options.
    """
    if getattr(console, "names_flags", True):
        text = name_flags(text)
    console.print(text, style=style or None, highlight=False, markup=False, soft_wrap=not wraps)


def print_notice(text: str) -> None:
    """Print a notice to stderr; of several processes of a host the first does."""
    if not is_quiet():
        print_line(error_console(), f"notice: {text}", style="yellow")


def print_warning(console: Console, text: str) -> None:
    """Print a warning beside the results."""
    print_line(console, f"warning: {text}", style="yellow")


def print_ended(text: str) -> None:
    """Print to stderr that the command was ended from outside."""
    print_line(error_console(), text, style="yellow")


def print_error(text: str) -> None:
    """Print the error that ends the command to stderr."""
    print_line(error_console(), f"error: {hide_passwords(text)}", style="red")


def may_move(console: Console) -> bool:
    """Whether something may move on a console: it is a terminal that can move its cursor."""
    return console.is_terminal and console.is_interactive


@contextmanager
def step(console: Console, text: str) -> Iterator[None]:
    """Show what is being done while it is done, on a terminal."""
    with console.status(Text(text)) if may_move(console) else nullcontext():
        yield


def printable_lines(text: str) -> str:
    """The text with unprintable characters as spaces; line breaks stay."""
    return "\n".join(map(printable, text.split("\n")))
