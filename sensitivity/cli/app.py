"""The application that commands register with, and its own options: `--version` and `-h`."""

import importlib.metadata
from typing import Annotated

import typer

from sensitivity.cli.flags import FlagNamingCommand

app = typer.Typer(
    name="sensitivity",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

command = app.command(cls=FlagNamingCommand)
"""Decorator that registers a function as a command."""


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"sensitivity {importlib.metadata.version('sensitivity')}")
        raise typer.Exit


@app.callback()
def sensitivity(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Find, by measurement, which Linear layers of a diffusion transformer to quantize and which
    to leave in bf16.
    """
