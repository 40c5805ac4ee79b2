"""`sensitivity export`: a recipe in the form that another tool reads."""

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from sensitivity.cli.app import command
from sensitivity.cli.early_checks import check_fits
from sensitivity.cli.help_panels import EXPORT_FORMS
from sensitivity.cli.options import Json, RecipeFile
from sensitivity.cli.outputs import save_recipe, write_file, write_json
from sensitivity.cli.screen import error_console, make_console, print_line, step
from sensitivity.cli.study import complete_study, find_study
from sensitivity.core.words import and_more
from sensitivity.errors import UserError

if TYPE_CHECKING:
    from sensitivity.consumers.exporters import Exporter
    from sensitivity.recipes.recipe import Recipe
    from sensitivity.spec.study_spec import StudySpec

FORMS = "; ".join(
    f"{name}: {', '.join(forms)}" for name, forms in EXPORT_FORMS.items() if len(forms) > 1
)

To = Annotated[str, typer.Option("--to", help=f"Who reads it: {', '.join(EXPORT_FORMS)}.")]
Form = Annotated[
    str,
    typer.Option(
        "--form",
        help=f"Which of the reader's forms. Default: the first that can take the recipe. {FORMS}.",
    ),
]
TextFile = Annotated[
    Path | None, typer.Option("--out", "-o", help="File to write; default: stdout.")
]
ModelToProve = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help=(
            "Prove the text on this model's real modules too, built without weights: a study, a"
            " study TOML, a folder, or a Hub id."
        ),
    ),
]
NearestFile = Annotated[
    Path | None,
    typer.Option(
        "--nearest",
        help=(
            "Where the reader cannot express the recipe: write the nearest recipe that it can to"
            " this file, and say what it costs."
        ),
    ),
]
WithoutStepPolicy = Annotated[
    bool,
    typer.Option(
        "--without-step-policy",
        help=(
            "Export the list alone, for a reader that runs every step alike. The text says that its"
            " numbers are those of the recipe with its policy."
        ),
    ),
]
AllowRandomWeights = Annotated[
    bool,
    typer.Option(
        "--allow-random-weights",
        help=(
            "Export a recipe that was searched on random weights, which says nothing about the"
            " model."
        ),
    ),
]


@command
def export(
    recipe: RecipeFile,
    to: To,
    form: Form = "",
    out: TextFile = None,
    model: ModelToProve = None,
    nearest: NearestFile = None,
    without_step_policy: WithoutStepPolicy = False,
    allow_random_weights: AllowRandomWeights = False,
    json_path: Json = None,
) -> None:
    """Write a recipe in the form that another tool reads.

    The text is proven to name exactly the recipe's layers.
    """
    from sensitivity.consumers.exporters import get_exporter
    from sensitivity.consumers.named_consumers import exporter_for
    from sensitivity.recipes.recipe import load_recipe
    from sensitivity.recipes.without_policy import without_step_policy as list_alone

    exporter = type(get_exporter(to))(form=form)
    loaded = load_recipe(recipe)
    loaded = list_alone(loaded) if without_step_policy else loaded
    exporter = exporter if form else exporter_for(to, loaded)
    if nearest is not None and out is not None:
        raise UserError(
            "--nearest and --out are both given; --nearest writes a recipe and no text: take out"
            " one, and export the new recipe then"
        )
    console = make_console(json_path)
    if nearest is not None:
        spec = recipe_study(console, loaded, model)
        _write_nearest(console, exporter, loaded, spec, nearest, json_path)
        return
    text = exporter.export(loaded, allow_random_weights=allow_random_weights)
    proved = _prove(console, exporter, loaded, model) if model is not None else None
    _hand_out(exporter, loaded, text, out, proved, json_path)


def recipe_study(console: Console, recipe: "Recipe", model: str | None) -> "StudySpec":
    """The study of `--model`, or the one that the recipe names."""
    from sensitivity.recipes.unverified import study_of

    if model is None:
        return study_of(recipe)
    spec = find_study(model)
    check_fits(recipe, spec)
    return complete_study(console, spec)


def _hand_out(
    exporter: "Exporter",
    recipe: "Recipe",
    text: str,
    out: Path | None,
    proved: dict[str, Any] | None,
    json_path: str | None,
) -> None:
    """Write the text; notes on it go to stderr where stdout holds the text."""
    beside = make_console(json_path) if out is not None else error_console()
    if out is not None:
        write_file(out, text.encode())
        print_line(beside, f"{exporter.name}: {out}")
    elif json_path != "-":
        sys.stdout.write(text)
    if proved is not None:
        print_line(beside, f"proved: {proved['text']}")
    notes = exporter.notes(recipe, text)
    for note in notes:
        print_line(beside, f"note on {exporter.name}: {note}")
    if recipe.caveat:
        print_line(beside, f"{recipe.name}: {recipe.caveat}", style="yellow")
    data = {
        "to": exporter.name,
        "form": exporter.form,
        "path": str(out) if out else None,
        "text": text,
        "notice": recipe.caveat or None,
        "notes": list(notes),
        "step_policy": recipe.step_policy and recipe.step_policy.model_dump(mode="json"),
    }
    write_json(data | ({} if proved is None else {"proved": proved}), json_path)


def _prove(console: Console, exporter: "Exporter", recipe: "Recipe", model: str) -> dict[str, Any]:
    """What the consumer makes of the model's real Linears: exactly the recipe, or an error."""
    from sensitivity.workflows.model_linears import linears_of

    named = find_study(model)
    check_fits(recipe, named)
    spec = complete_study(console, named)
    with step(console, f"building {spec.name} without weights"):
        fqns = linears_of(recipe, spec)
    counts = Counter(exporter.verify(recipe, fqns).values())
    words = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    kinds = ", ".join(f"{name} ({kind})" for name, kind in recipe.model.classes.items())
    text = (
        f"{exporter.name} ({exporter.form}) gives the {len(fqns)} Linears of {spec.name}, {kinds},"
        f" exactly the recipe's formats: {words}"
    )
    return {"model": spec.name, "linears": len(fqns), "formats": dict(counts), "text": text}


def _write_nearest(
    console: Console,
    exporter: "Exporter",
    recipe: "Recipe",
    spec: "StudySpec",
    path: Path,
    json_path: str | None,
) -> None:
    """The nearest recipe that the consumer can express, what it costs, and how it is exported."""
    from sensitivity.cli.render.diff import nearest_lines
    from sensitivity.search.store import default_storage
    from sensitivity.workflows.nearest import nearest_recipe

    about = {"to": exporter.name, "form": exporter.form}
    consumer = f"{exporter.name} ({exporter.form})"
    if not exporter.obstacles(recipe):
        print_line(
            console,
            f"{consumer} can express {recipe.name} as it is: nothing was written; export it without"
            " --nearest",
        )
        write_json({**about, "path": None, "obstacles": []}, json_path)
        return
    with step(console, "pricing"):
        found = nearest_recipe(recipe, exporter, spec, storage=default_storage(spec))
    save_recipe(found.recipe, path)
    obstacles = (f"{consumer} cannot express {recipe.name}: {why}" for why in found.obstacles)
    print_line(console, and_more(obstacles, most=5, separator="\n"))
    for line in nearest_lines(found):
        print_line(console, line)
    print_line(
        console,
        f"recipe: {path}, UNVERIFIED; export it: sensitivity export {path} --to {exporter.name}"
        f" --form {exporter.form}",
    )
    write_json({**about, "path": str(path), **found.to_json()}, json_path)
