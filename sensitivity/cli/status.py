"""`sensitivity status`: how far searches are, and who works on them, from any terminal and host."""

import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console, Group, RenderableType
from rich.text import Text

from sensitivity.cli.app import command
from sensitivity.cli.early_checks import database_of
from sensitivity.cli.options import Json
from sensitivity.cli.outputs import write_json
from sensitivity.cli.screen import make_console, may_move, print_notice
from sensitivity.cli.storage_option import StorageOfAll
from sensitivity.core.storage_url import Storage, parse_storage
from sensitivity.errors import LostDatabaseError, StoreError, UserError

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
    storage: StorageOfAll = None,
    watch: Watch = False,
    json_path: Json = None,
) -> None:
    """Show how far searches are: trials, the front so far, all workers, the time left.

    It reads the databases and needs no lock: searches go on meanwhile.
    """
    console = make_console(json_path)
    read = _reader(model, storage)
    found = read()
    if watch:
        found = _watch(console, read, found)
    else:
        console.print(_drawn(found))
    databases_read = [own.model_dump(mode="json") for own in found]
    write_json({"read": databases_read[0]["now"], "databases": databases_read}, json_path)


def _reader(model: str | None, storage: str | None) -> "Callable[[], list[Status]]":
    """Reads the databases that are meant. Raises StoreError where there is none."""
    if model is None and storage is None:
        databases = _readable(_all_here())
        return lambda: _read(databases)
    spec = None
    if model is not None:
        from sensitivity.cli.study import find_study

        spec = find_study(model)
    if storage is None and spec is not None:
        database = database_of(None, spec)
        return lambda: _read([database])
    named, name = parse_storage(storage or ""), None if spec is None else spec.name
    return lambda: _read([named], name)


def _all_here() -> list[Storage]:
    """The databases of this folder. Raises StoreError where there is none."""
    found = sorted(RUNS.glob("*.db"), key=lambda path: path.stat().st_mtime, reverse=True)
    if not found:
        raise StoreError(
            f"no database lies in {RUNS}/; expected that of a search: run `sensitivity search`"
            " first, run this where it runs, or name a database in `storage`"
        )
    return list(found)


def _readable(databases: list[Storage]) -> list[Storage]:
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


def _read(databases: list[Storage], model: str | None = None) -> "list[Status]":
    from sensitivity.workflows.status import read_status

    return [read_status(own, model=model) for own in databases]


def _drawn(found: "list[Status]", *, most: int | None = None) -> RenderableType:
    from sensitivity.cli.render.status import status_lines

    return status_lines(found, most=most)


def _watch(
    console: Console, read: "Callable[[], list[Status]]", found: "list[Status]"
) -> "list[Status]":
    """Show the state until nobody works; in a pipe, each time that work went on.

    A server that does not answer is asked again.
    """
    from rich.live import Live

    live = Live(console=console, auto_refresh=False) if may_move(console) else None
    shown: list[Status] = []
    trouble = ""
    with live or nullcontext(), suppress(KeyboardInterrupt):
        while True:
            if live is not None:
                live.update(_fitting(console, found, trouble), refresh=True)
            elif _gist(found) != _gist(shown):
                console.print(_drawn(found))
            shown = found
            if not trouble and not any(own.is_alive for one in found for own in one.workers):
                break
            time.sleep(EVERY_S)
            try:
                found, trouble = read(), ""
            except LostDatabaseError as error:
                if live is None and not trouble:
                    print_notice(f"{_short(error)}; it is asked again")
                trouble = f"{_short(error)}; it is asked again, this is what it said last"
    return found


def _fitting(console: Console, found: "list[Status]", trouble: str) -> RenderableType:
    """The state, with as many workers as a terminal has lines for: those at its end are cut."""
    notice = [Text(trouble, style="yellow")] if trouble else []
    others = console.render_lines(Group(*notice, _drawn(found, most=1)), pad=False)
    return Group(*notice, _drawn(found, most=max(1, console.height - len(others))))


def _short(error: LostDatabaseError) -> str:
    return str(error).partition("; expected")[0]


def _gist(found: "list[Status]") -> list[object]:
    """What changes where a trial ends, a worker comes or goes, or comes to another stage."""
    return [
        (
            [(own.trials.done, own.trials.failed, own.trials.baselines) for own in one.studies],
            [(own.name, own.is_alive, own.stage) for own in one.workers],
        )
        for one in found
    ]
