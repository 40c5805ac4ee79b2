"""The application that commands register with, and what all commands share.

The application has `--version` and `-h`. The files that a command's options name are checked before
it begins (`file_checks`); every command has `--force`, which is read there.
"""

import copy
import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, get_args

import typer
from typer.models import OptionInfo, ParameterInfo

from sensitivity.cli.early_checks import check_consumer, check_sampler, check_target
from sensitivity.cli.file_checks import checking_files
from sensitivity.cli.flags import FlagNamingCommand, flags_of, name_flags, naming_flags
from sensitivity.cli.help_panels import EXAMPLES, EXPORT_FORMS, completer_of, panel_of
from sensitivity.cli.options import Force
from sensitivity.cli.storage_option import named_storage
from sensitivity.cli.typed_options import remembering
from sensitivity.errors import UserError

app = typer.Typer(
    name="sensitivity",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Command(FlagNamingCommand):
    """A command whose files, target and sampler are checked before it begins."""

    def invoke(self, ctx: Any) -> Any:
        """Check what can be checked without heavy libraries, then run the command."""
        with naming_flags(self.params):
            try:
                self._check_names(ctx.params)
            except UserError as error:
                raise UserError(name_flags(str(error))) from None
        force = bool(ctx.params["force"])
        with remembering(ctx), checking_files(ctx.params, flags_of(self.params), force=force):
            return super().invoke(ctx)

    def _check_names(self, options: dict[str, Any]) -> None:
        """Raise UserError for a target, a sampler or a consumer that is not there, or a database
        that can be none.
        """
        named_storage(options.get("storage"))
        if (sampler := options.get("sampler")) is not None:
            check_sampler(sampler)
        for name in options.get("consumers") or ():
            check_consumer(name, EXPORT_FORMS)
        # the target of a finished search may be a device that somebody described
        if isinstance(target := options.get("target"), str) and self.name != "select":
            check_target(target)
        if (machine := options.get("on")) is not None:
            check_target(machine, "on")


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Register a function as a command, with `--force` beside its own options.

    The function itself does not take `force`: `Command` does what it says. Options stand in the
    panels of `help_panels`, which also has the completions and the command's example.
    """
    own = inspect.signature(function, eval_str=True)
    force = inspect.Parameter(
        "force", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Force
    )

    @functools.wraps(function)
    def run(**options: Any) -> None:
        function(**{name: value for name, value in options.items() if name != "force"})

    run.__signature__ = own.replace(  # type: ignore[attr-defined]
        parameters=[_in_its_panel(parameter) for parameter in (*own.parameters.values(), force)]
    )
    name = function.__name__
    app.command(cls=Command, epilog=f"Example: {EXAMPLES[name]}")(run)
    return function


def _in_its_panel(parameter: inspect.Parameter) -> inspect.Parameter:
    """The parameter with its panel of the help, and with what completes it."""
    kind, *rest = get_args(parameter.annotation)
    declared = []
    for info in rest:
        if isinstance(info, ParameterInfo):
            info = copy.copy(info)
            info.autocompletion = info.autocompletion or completer_of(parameter.name)
            if isinstance(info, OptionInfo):
                info.rich_help_panel = panel_of(parameter.name)
        declared.append(info)
    return parameter.replace(annotation=Annotated[(kind, *declared)])


def _print_version(asked: bool) -> None:
    if asked:
        import importlib.metadata

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
