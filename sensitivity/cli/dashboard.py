"""`sensitivity dashboard`: optuna-dashboard on a study, with its pictures, notes and figures."""

import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sensitivity.cli.app import command
from sensitivity.cli.options import Json
from sensitivity.cli.outputs import write_json
from sensitivity.cli.report import StudyName
from sensitivity.cli.screen import make_console, print_line, step
from sensitivity.cli.storage_option import StorageRead, named_storage
from sensitivity.errors import UserError

if TYPE_CHECKING:
    from sensitivity.workflows.report import Report

StudyOrRecipe = Annotated[
    str,
    typer.Argument(
        metavar="STUDY|RECIPE",
        help="A study that is or was searched: name, TOML, folder or Hub id; or a recipe of it.",
    ),
]
Host = Annotated[
    str,
    typer.Option(help="Address to listen on. Anybody who reaches it can look, and write notes."),
]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")]


@command
def dashboard(
    subject: StudyOrRecipe,
    storage: StorageRead = None,
    study: StudyName = None,
    host: Host = "127.0.0.1",
    port: Port = 8080,
    json_path: Json = None,
) -> None:
    """Open optuna-dashboard on a study, with its pictures, notes and our figures; Ctrl-C ends it.

    It reads the database live, beside a search that runs, and changes nothing but notes that you
    type.
    """
    console = make_console(json_path)
    with step(console, "loading libraries"):
        from sensitivity.cli.serving import listening
        from sensitivity.workflows.dashboard import check_installed, extras_of, opened_dashboard
        from sensitivity.workflows.report import collect_report, find_subject

        check_installed()
    with step(console, "collecting"):
        found = find_subject(subject, storage=named_storage(storage), study=study)
        collected = collect_report(found)
    if found.database is None or found.kept is None:
        raise UserError(
            f"{subject} has no database at hand ({found.no_trials}); expected that of its search:"
            " name it in `storage`"
        )
    extras = {found.kept.name: _extras(collected, extras_of)}
    with (
        opened_dashboard(found.database, extras) as application,
        listening(application, host, port) as server,
    ):
        address = f"http://{host}:{server.server_port}/dashboard"
        print_line(console, f"{address}: {found.kept.name} of {found.database}; Ctrl-C ends it")
        shown = {"url": address, "study": found.kept.name, "database": str(found.database)}
        write_json(shown, json_path)
        sys.stdout.flush()
        with suppress(KeyboardInterrupt):
            server.serve_forever()


def _extras(collected: "Report", extras_of: Any) -> Any:
    from sensitivity.cli.render.dashboard import figures_of, study_note, trial_notes

    return extras_of(
        collected,
        note=study_note(collected),
        figures=figures_of(collected),
        trial_note=trial_notes(collected),
    )
