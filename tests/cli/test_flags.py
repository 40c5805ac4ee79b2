"""Fields of the library's messages become options of the running command."""

from typing import Annotated

import pytest
import typer

from sensitivity.cli.flags import FlagNamingCommand, flags_of, name_flags, naming_flags
from sensitivity.errors import UserError


def command_of() -> FlagNamingCommand:
    """A command with an argument, options of one and two names, and an error that names all."""
    app = typer.Typer()

    @app.command(cls=FlagNamingCommand)
    def act(
        recipe: Annotated[str, typer.Argument(metavar="RECIPE")],
        max_lpips: Annotated[float, typer.Option()] = 0.1,
        fmt: Annotated[str, typer.Option("--format", "-f")] = "nvfp4",
    ) -> None:
        raise UserError(
            f"`max_lpips` is {max_lpips}, `format` is {fmt}, `recipe` {recipe};"
            " `block_patterns` and `sensitivity models` stay"
        )

    command = typer.main.get_command(app)
    assert isinstance(command, FlagNamingCommand)
    return command


def test_an_error_names_the_options_of_its_command() -> None:
    """Options, options of another name than the parameter's, and arguments; other words stay."""
    with pytest.raises(UserError) as caught:
        command_of().main(["r.json", "-f", "mxfp8"], standalone_mode=False)
    assert str(caught.value) == (
        "--max-lpips is 0.1, --format is mxfp8, RECIPE r.json;"
        " `block_patterns` and `sensitivity models` stay"
    )


def test_a_field_is_a_parameter_or_its_longest_option() -> None:
    """`fmt` and `format` both are --format."""
    flags = flags_of(command_of().params)
    assert flags == flags | {
        "recipe": "RECIPE",
        "max_lpips": "--max-lpips",
        "fmt": "--format",
        "format": "--format",
    }


def test_outside_a_command_nothing_is_replaced() -> None:
    """The library's own users see the library's own words."""
    assert name_flags("`max_lpips` is -1") == "`max_lpips` is -1"
    with naming_flags(command_of().params):
        assert name_flags("`max_lpips` is -1") == "--max-lpips is -1"
    assert name_flags("`max_lpips` is -1") == "`max_lpips` is -1"
