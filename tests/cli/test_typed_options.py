"""Options that were typed, repeated in the commands that are shown."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.main import get_command

from sensitivity.cli.typed_options import remembering, typed, typed_command

FOUND: list[list[str]] = []


class Kind(StrEnum):
    """A choice."""

    ONE = "one"


app = typer.Typer()


@app.command()
def toy(
    model: Annotated[str, typer.Option("--model", "-m")] = "none",
    storage: Path | None = None,
    settings: Annotated[list[str] | None, typer.Option("--set")] = None,
    compiled: Annotated[bool, typer.Option("--compile/--no-compile")] = True,
    kind: Kind = Kind.ONE,
) -> None:
    """Does nothing."""


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], []),
        (["-m", "a b"], ["--model", "a b"]),
        (["--set", "x=1", "--set", "y=2"], ["--set", "x=1", "--set", "y=2"]),
        (["--no-compile", "--kind", "one"], ["--no-compile", "--kind", "one"]),
        (["--storage", "s.db"], ["--storage", "s.db"]),
    ],
)
def test_what_was_typed_is_repeated_and_no_default(words: list[str], expected: list[str]) -> None:
    """By its long name, each value of several, a switch as it was set, a choice by its value."""
    context = get_command(app).make_context("toy", list(words))
    with remembering(context):
        assert typed("model", "storage", "settings", "compiled", "kind", "other") == expected
    assert typed("model") == []


def test_a_whole_command_names_no_file_of_the_machine() -> None:
    """The command of a recipe has what decides the result, quoted as a shell needs it."""
    words = ["--storage", "/home/me/s.db", "-m", "a b", "--no-compile"]
    with remembering(get_command(app).make_context("toy", words)):
        assert typed_command("toy") == "sensitivity toy --model 'a b' --no-compile"
