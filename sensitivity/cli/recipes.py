"""`export`: a recipe in the form that another tool reads."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from sensitivity.cli._common import Json, app, make_console, write_json


@app.command()
def export(
    recipe: Annotated[Path, typer.Argument(help="Recipe JSON, as `search` writes it.")],
    to: Annotated[str, typer.Option("--to", help="skip-list, torchao or diffusers.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File to write; default: stdout.")] = None,
    allow_random_weights: Annotated[
        bool,
        typer.Option(
            "--allow-random-weights", help="Export a recipe that was searched on random weights, which says nothing about the model."
        ),
    ] = False,
    json_path: Json = None,
) -> None:
    """Write a recipe in the form that another tool reads, proven to name exactly the recipe's layers."""
    from sensitivity.exporters import get_exporter
    from sensitivity.recipe import load_recipe
    from sensitivity.strict_json import write_whole

    exporter = get_exporter(to)
    text = exporter.export(load_recipe(recipe), allow_random_weights=allow_random_weights)
    if out is not None:
        write_whole(out, text.encode())
        make_console(json_path).print(f"{exporter.name}: {out}", highlight=False, markup=False, soft_wrap=True)
    elif json_path != "-":
        sys.stdout.write(text)
    write_json({"to": exporter.name, "path": str(out) if out else None, "text": text}, json_path)
