"""`sensitivity report`: a study or a recipe as one page that explains itself."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from sensitivity.cli.app import command
from sensitivity.cli.file_checks import check_output
from sensitivity.cli.options import Json
from sensitivity.cli.outputs import write_file, write_json
from sensitivity.cli.screen import make_console, print_line, step
from sensitivity.cli.storage_option import StorageRead, named_storage

if TYPE_CHECKING:
    from sensitivity.workflows.report import Report, Subject

StudyOrRecipe = Annotated[
    str,
    typer.Argument(
        metavar="STUDY|RECIPE",
        help="A recipe's JSON file, or a study that was searched: name, TOML, folder or Hub id.",
    ),
]
Page = Annotated[
    Path | None,
    typer.Option(
        "--out", "-o", help="HTML file to write. Default: beside the recipe or the database."
    ),
]
Markdown = Annotated[
    bool,
    typer.Option(
        "--md", help="Print a Markdown table for a pull request; a page is written only with --out."
    ),
]
Pictures = Annotated[
    Path | None,
    typer.Option(
        "--png",
        metavar="DIR",
        help="Folder for front, heatmap and pictures as PNG; a page is written only with --out.",
    ),
]
StudyOfRecipe = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", help="The study of a recipe whose study does not come with the package."
    ),
]
StudyName = Annotated[
    str | None,
    typer.Option(help="The study's name, where the database holds several of the model."),
]


@command
def report(
    subject: StudyOrRecipe,
    out: Page = None,
    md: Markdown = False,
    png: Pictures = None,
    model: StudyOfRecipe = None,
    storage: StorageRead = None,
    study: StudyName = None,
    json_path: Json = None,
) -> None:
    """Write a page about a study or a recipe: one HTML file, to be opened without a network.

    It has the verdict, pictures, the front, layers, time, all trials, and how far to trust them.
    """
    if out is not None or not (md or png):
        from sensitivity.cli.render.page.scripts import page_scripts

        page_scripts()  # tells now what is not installed
    console = make_console("-" if md and json_path is None else json_path)
    with step(console, "loading libraries"):
        from sensitivity.workflows.report import collect_report, find_subject

    with step(console, "looking for the study"):
        found = find_subject(subject, model=model, storage=named_storage(storage), study=study)
    with step(console, "collecting"):
        collected = collect_report(found)
    if out is not None or not (md or png):
        _write_page(console, collected, out or default_page(found))
    if png is not None:
        _write_pictures(console, collected, png)
    if md and json_path != "-":
        from sensitivity.cli.render.page.markdown import markdown_of

        sys.stdout.write(markdown_of(collected))
    write_json(collected.model_dump(mode="json"), json_path)


def default_page(subject: "Subject") -> Path:
    """Beside the recipe and named as it is, or beside the database and named as the study."""
    if subject.recipe_path is not None:
        return subject.recipe_path.with_suffix(".html")
    name = "report" if subject.kept is None else subject.kept.name
    folder = Path()
    if subject.database is not None and subject.spec is not None:
        from sensitivity.search.store import kept_beside

        folder = kept_beside(subject.database, subject.spec).parent
    return folder / f"{name}.html"


def _write_page(console: Console, collected: "Report", path: Path) -> None:
    from sensitivity.cli.render.page.page import render_page

    check_output(path, "--out")
    with step(console, "writing the page"):
        data = render_page(collected).encode()
        written = write_file(path, data)
    for gap in collected.gaps.values():
        print_line(console, f"not on the page: {gap}", style="yellow")
    print_line(console, f"page: {written} ({len(data) / 1e6:.1f} MB); open it in a browser")


def _write_pictures(console: Console, collected: "Report", folder: Path) -> None:
    from sensitivity.cli.render.page.plots import plots_of

    made = plots_of(collected)
    for part, name in (("trials", "front.png"), ("pictures", "pictures.png")):
        if name not in made:
            why = collected.gaps.get(part, "there is nothing to draw")
            print_line(console, f"no {name}: {why}", style="yellow")
    for name, data in made.items():
        path = folder / name
        check_output(path, "--png")
        print_line(console, f"picture: {write_file(path, data)}")
