"""Where commands print: one console each, plain lines, notices and warnings."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from rich.console import Console

from sensitivity.cli.flags import name_flags

PIPE_WIDTH = 140
"""Columns of a table that goes to a pipe or a file."""


def make_console(json_path: str | None) -> Console:
    """The console of a command: stderr where stdout holds the JSON ("-"), else stdout."""
    console = Console(stderr=json_path == "-")
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    return console


def print_line(console: Console, text: str, *, style: str = "") -> None:
    """Print text as it is: no markup, no highlighting, no wrapping. Fields become options."""
    console.print(
        name_flags(text), style=style or None, highlight=False, markup=False, soft_wrap=True
    )


def print_notice(text: str) -> None:
    """Print a notice to stderr."""
    print_line(Console(stderr=True), f"notice: {text}", style="yellow")


def print_warning(console: Console, text: str) -> None:
    """Print a warning beside the results."""
    print_line(console, f"warning: {text}", style="yellow")


def print_error(text: str) -> None:
    """Print the error that ends the command to stderr."""
    print_line(Console(stderr=True), f"error: {text}", style="red")


@contextmanager
def step(console: Console, text: str) -> Iterator[None]:
    """Show what is being done while it is done, on a terminal."""
    with console.status(text) if console.is_terminal else nullcontext():
        yield
