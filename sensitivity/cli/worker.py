"""`sensitivity worker`: join a search that goes on elsewhere, or went on."""

from pathlib import Path
from typing import Annotated, Any

import typer

from sensitivity.cli.app import app, command
from sensitivity.cli.options import DeviceName, Json, Out, ShowAll, choose_device
from sensitivity.cli.ranks import STORAGE
from sensitivity.cli.screen import make_console, step
from sensitivity.cli.searching import recipe_path, run_search
from sensitivity.cli.storage_option import Storage, named_storage
from sensitivity.cli.typed_options import repeating
from sensitivity.core.words import printable
from sensitivity.errors import UserError

RUNS = Path("sensitivity-runs")

StudyName = Annotated[
    str,
    typer.Option(
        "--study", help="The search's name, as `sensitivity status` and `search` print it."
    ),
]
CacheFolder = Annotated[
    Path | None,
    typer.Option(
        "--cache",
        help=(
            "Folder of bf16 references, which several hosts may share. Default: in the user's cache"
            " folder."
        ),
    ),
]


@command
def worker(
    study: StudyName,
    storage: Storage = None,
    out: Out = None,
    device: DeviceName = None,
    cache: CacheFolder = None,
    show_all: ShowAll = False,
    json_path: Json = None,
) -> None:
    """Join a search by its name: the database keeps what it was asked for.

    It takes trials until the study has all of them, and ends.
    One of its workers then verifies the winner and writes the recipe.
    """
    named = named_storage(storage) or _usual_database(study)
    console = make_console(json_path)
    with step(console, "loading libraries"):
        from sensitivity.workflows.join import read_search_request

    spec, request = read_search_request(
        study, named, device=choose_device(device), cache_folder=cache
    )
    path = recipe_path(spec, request, out)
    commands: Any = typer.main.get_command(app)
    with repeating(commands.commands["search"], request.command):
        run_search(
            console, spec, request, path, json_path, named=out is not None, show_all=show_all
        )


def _usual_database(study: str) -> Path:
    """Where `search` keeps a study by default: its name begins with the model's.

    Raises:
        UserError: no such file is here.
    """
    found = [path for path in RUNS.glob("*.db") if study.startswith(f"{path.stem}-")]
    if not found:
        raise UserError(
            f"`storage` is not given, and no database of {printable(study)} lies in {RUNS}/;"
            " expected a file or a URL: add --storage, or set the environment variable"
            f" {STORAGE}"
        )
    return max(found, key=lambda path: len(path.stem))
