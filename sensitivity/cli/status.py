"""`sensitivity status`: how far searches are, and who works on them, from any terminal."""

import time
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console, RenderableType

from sensitivity.cli.app import command
from sensitivity.cli.early_checks import database_of
from sensitivity.cli.options import Json
from sensitivity.cli.outputs import write_json
from sensitivity.cli.screen import make_console, may_move, print_notice
from sensitivity.errors import StoreError, UserError

if TYPE_CHECKING:
    from sensitivity.workflows.status import Status

RUNS = Path("sensitivity-runs")
EVERY_S = 2.0

Searched = Annotated[
    str | None,
    typer.Argument(
        metavar="STUDY",
        help="A study that is searched: name, TOML, folder or Hub id. Default: all that are here.",
    ),
]
Database = Annotated[
    Path | None,
    typer.Option("--storage", help="The study's database. Default: each one in sensitivity-runs/."),
]
Watch = Annotated[
    bool,
    typer.Option(
        "--watch",
        "-w",
        help="Show it anew every 2 seconds, until nobody works on it; Ctrl-C ends only this.",
    ),
]


@command
def status(
    model: Searched = None,
    storage: Database = None,
    watch: Watch = False,
    json_path: Json = None,
) -> None:
    """Show how far searches are: trials, the front so far, the stage, the time left, who works.

    It reads the databases and needs no lock: a search goes on meanwhile.
    """
    console = make_console(json_path)
    databases = _databases(model, storage)
    if model is None and storage is None:
        databases = _readable(databases)
    found = _read(databases)
    if watch:
        found = _watch(console, databases, found)
    else:
        console.print(_drawn(found))
    databases_read = [own.model_dump(mode="json") for own in found]
    write_json({"read": databases_read[0]["now"], "databases": databases_read}, json_path)


def _databases(model: str | None, storage: Path | None) -> list[Path]:
    """The databases that are meant. Raises StoreError where there is none."""
    if storage is not None:
        return [storage]
    if model is not None:
        from sensitivity.cli.study import find_study

        return [database_of(None, find_study(model))]
    found = sorted(RUNS.glob("*.db"), key=lambda path: path.stat().st_mtime, reverse=True)
    if not found:
        raise StoreError(
            f"no database lies in {RUNS}/; expected that of a search: run `sensitivity search`"
            " first, run this where it runs, or name a database in `storage`"
        )
    return found


def _readable(databases: list[Path]) -> list[Path]:
    """Those of many databases that can be read; the others are named.

    Raises StoreError where none can.
    """
    readable = []
    for path in databases:
        try:
            _read([path])
        except UserError as error:
            if len(databases) == 1:
                raise
            print_notice(str(error))
        else:
            readable.append(path)
    if not readable:
        raise StoreError(
            f"no database in {RUNS}/ can be read; expected one: mend it, as said above"
        )
    return readable


def _read(databases: list[Path]) -> "list[Status]":
    from sensitivity.workflows.status import read_status

    return [read_status(path) for path in databases]


def _drawn(found: "list[Status]") -> RenderableType:
    from sensitivity.cli.render.status import status_lines

    return status_lines(found)


def _watch(console: Console, databases: list[Path], found: "list[Status]") -> "list[Status]":
    """Show the state until nobody works; in a pipe, each time that work went on."""
    from rich.live import Live

    live = Live(console=console, auto_refresh=False) if may_move(console) else None
    shown: list[Status] = []
    with live or nullcontext(), suppress(KeyboardInterrupt):
        while True:
            if live is not None:
                live.update(_drawn(found), refresh=True)
            elif _gist(found) != _gist(shown):
                console.print(_drawn(found))
            shown = found
            if not any(own.writer for own in found):
                break
            time.sleep(EVERY_S)
            found = _read(databases)
    return found


def _gist(found: "list[Status]") -> list[object]:
    """What changes where a trial ends, or a process comes to another stage."""
    return [
        ([own.trials for own in one.studies], [own.stage for own in one.workers]) for one in found
    ]
