"""`sensitivity diff`: two recipes, compared."""

from pathlib import Path
from typing import Annotated

import typer

from sensitivity.cli.app import command
from sensitivity.cli.export import recipe_study
from sensitivity.cli.flags import name_flags
from sensitivity.cli.options import Json
from sensitivity.cli.outputs import write_json
from sensitivity.cli.screen import make_console, step
from sensitivity.errors import UnknownModelError

First = Annotated[Path, typer.Argument(help="Recipe JSON.")]
Second = Annotated[Path, typer.Argument(help="Recipe JSON of the same model.")]
ModelOfBoth = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help=(
            "The recipe's model: a study's name, a study TOML, a diffusers folder, or a Hub id."
            " Default: the study that it names."
        ),
    ),
]


@command
def diff(
    a: First,
    b: Second,
    model: ModelOfBoth = None,
    json_path: Json = None,
) -> None:
    """Say which Linears two recipes treat differently, and what that costs and gains.

    Seconds are predicted. LPIPS is compared where the two were measured alike.
    """
    from sensitivity.recipes.recipe import load_recipe

    first, second = load_recipe(a), load_recipe(b)
    console = make_console(json_path)
    with step(console, "loading libraries"):
        from sensitivity.cli.render.diff import diff_report
        from sensitivity.recipes.diff import check_alike, compare_recipes
        from sensitivity.workflows.nearest import pricer_for

    check_alike(first, second)
    pricer, unpriced = None, ""
    try:
        spec = recipe_study(console, first, model)
    except UnknownModelError as error:
        if model is not None:
            raise
        unpriced = name_flags(str(error))
    else:
        with step(console, "pricing"):
            pricer = pricer_for(first, spec)
    found = compare_recipes(first, second, pricer=pricer, unpriced=unpriced)
    console.print(diff_report(found))
    write_json(found.to_json(), json_path)
