"""`sensitivity diff`: two recipes, compared."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sensitivity.cli.app import app, make_console, step
from sensitivity.cli.export import ItsModel, _study
from sensitivity.cli.options import Json
from sensitivity.cli.outputs import check_apart, check_writable, write_json
from sensitivity.errors import UnknownModelError

if TYPE_CHECKING:
    pass


@app.command()
def diff(
    a: Annotated[Path, typer.Argument(help="Recipe JSON.")],
    b: Annotated[Path, typer.Argument(help="Recipe JSON of the same model.")],
    model: ItsModel = None,
    json_path: Json = None,
) -> None:
    """Say which Linears two recipes treat otherwise, what that costs and gains in predicted
    seconds, and whether their LPIPS compare.
    """
    from sensitivity.recipes.recipe import load_recipe

    first, second = load_recipe(a), load_recipe(b)
    check_writable(json_path, "--json")
    check_apart({"--json": json_path}, {"A": a, "B": b})
    console = make_console(json_path)
    with step(console, "loading libraries"):
        from sensitivity.cli.render.diff import diff_report
        from sensitivity.recipes.diff import check_alike, compare_recipes
        from sensitivity.workflows.nearest import pricer_for

    check_alike(first, second)
    pricer, unpriced = None, ""
    try:
        spec = _study(console, first, model)
    except UnknownModelError as error:
        if model is not None:
            raise
        unpriced = str(error)
    else:
        with step(console, "pricing"):
            pricer = pricer_for(first, spec)
    found = compare_recipes(first, second, pricer=pricer, unpriced=unpriced)
    console.print(diff_report(found))
    write_json(found.to_json(), json_path)
