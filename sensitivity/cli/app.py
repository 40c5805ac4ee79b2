"""The application that commands register with, and what all commands share.

The application has `--version` and `-h`. The files that a command's options name are checked before
it begins (`file_checks`); every command has `--force`, which is read there.
"""

import functools
import importlib.metadata
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from sensitivity.cli.file_checks import checking_files
from sensitivity.cli.flags import FlagNamingCommand, flags_of
from sensitivity.cli.options import Force

app = typer.Typer(
    name="sensitivity",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Command(FlagNamingCommand):
    """A command whose files are checked before it begins."""

    def invoke(self, ctx: Any) -> Any:
        """Check the files that the options name, then run the command."""
        force = bool(ctx.params["force"])
        with checking_files(ctx.params, flags_of(self.params), force=force):
            return super().invoke(ctx)


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Register a function as a command, with `--force` beside its own options.

    The function itself does not take `force`: `Command` does what it says.
    """
    own = inspect.signature(function, eval_str=True)
    force = inspect.Parameter(
        "force", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Force
    )

    @functools.wraps(function)
    def run(**options: Any) -> None:
        function(**{name: value for name, value in options.items() if name != "force"})

    run.__signature__ = own.replace(  # type: ignore[attr-defined]
        parameters=[*own.parameters.values(), force]
    )
    app.command(cls=Command)(run)
    return function


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
