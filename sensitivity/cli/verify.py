"""`sensitivity verify`: the held-out prompts of a recipe, generated again."""

from pathlib import Path
from typing import Annotated

import typer

from sensitivity.cli.app import app, choose_device, complete_study, make_console, named_study, step
from sensitivity.cli.options import DeviceName, Json, Model, Net, Prompts, WeightsName
from sensitivity.cli.outputs import check_apart, check_writable, write_json


@app.command()
def verify(
    recipe: Annotated[Path, typer.Argument(help="Recipe JSON, as `search` writes it.")],
    model: Model,
    prompts: Prompts = None,
    weights: WeightsName = "pretrained",
    net: Net = None,
    device: DeviceName = None,
    json_path: Json = None,
) -> None:
    """Apply a recipe to its model by emulation, draw the held-out prompts again and compare with
    what the recipe says.
    """
    from sensitivity.recipes.recipe import load_recipe

    loaded, spec = load_recipe(recipe), named_study(model, prompts, weights=weights, net=net)
    check_writable(json_path, "--json")
    check_apart({"--json": json_path}, {"RECIPE": recipe, "--prompts": prompts})
    console = make_console(json_path)
    with step(console, "loading libraries"):
        from sensitivity.cli.render.winner import beside_lpips_words
        from sensitivity.search.to_recipe import beside_lpips
        from sensitivity.workflows.verify import verify_recipe

    spec = complete_study(console, spec)
    with step(console, f"verifying {recipe}"):
        score = verify_recipe(loaded, spec, device=choose_device(device))
    said = loaded.fidelity.lpips if loaded.fidelity is not None else None
    beside = beside_lpips_words(score)
    if said is None:
        text = (
            f"held-out LPIPS {score.mean:.4f} by emulation now; the recipe states none"
            f" ({loaded.caveat}){beside}"
        )
    else:
        low, high = said.ci95
        same = (
            "the same"
            if tuple(said.per_prompt) == score.per_prompt
            else f"difference {abs(score.mean - said.mean):.2g}"
        )
        where = "inside" if low <= score.mean <= high else "OUTSIDE"
        text = (
            f"held-out LPIPS {score.mean:.4f} by emulation now, {where} the interval that the"
            f" recipe states; the recipe says {said.mean:.4f} [{low:.4f}, {high:.4f}]"
            f" ({same}){beside}"
        )
    console.print(text, highlight=False, markup=False, soft_wrap=True)
    stated = None if said is None else list(said.ci95)
    write_json(
        {
            "lpips": score.mean,
            "ci95": list(score.ci95),
            "per_prompt": list(score.per_prompt),
            "recipe_lpips": said and said.mean,
            "recipe_ci95": stated,
            "inside": stated and stated[0] <= score.mean <= stated[1],
            **beside_lpips(score, spec),
        },
        json_path,
    )
