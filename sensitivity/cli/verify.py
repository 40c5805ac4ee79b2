"""`sensitivity verify`: the held-out prompts of a recipe, generated again."""

from typing import TYPE_CHECKING, Any

from sensitivity.cli.app import command
from sensitivity.cli.options import (
    ArithmeticName,
    DeviceName,
    Json,
    LpipsNet,
    Model,
    Prompts,
    RecipeFile,
    Weights,
    choose_device,
)
from sensitivity.cli.outputs import write_json
from sensitivity.cli.screen import make_console, print_line, step
from sensitivity.cli.study import complete_study, named_study
from sensitivity.core.arithmetic import Arithmetic

if TYPE_CHECKING:
    from sensitivity.fidelity.score import Score
    from sensitivity.recipes.recipe import Recipe


@command
def verify(
    recipe: RecipeFile,
    model: Model,
    prompts: Prompts = None,
    weights: Weights = "pretrained",
    net: LpipsNet = None,
    arithmetic: ArithmeticName = Arithmetic.EAGER,
    device: DeviceName = None,
    json_path: Json = None,
) -> None:
    """Score a recipe again on the held-out prompts, and compare with what the recipe says.

    The recipe is applied to its model by emulation.
    """
    from sensitivity.recipes.recipe import load_recipe

    loaded, spec = load_recipe(recipe), named_study(model, prompts, weights=weights, net=net)
    console = make_console(json_path)
    with step(console, "loading libraries"):
        from sensitivity.search.to_recipe import beside_lpips
        from sensitivity.workflows.verify import verify_recipe

    spec = complete_study(console, spec)
    with step(console, f"verifying {recipe}"):
        score = verify_recipe(loaded, spec, device=choose_device(device), arithmetic=arithmetic)
    print_line(console, _in_words(loaded, score))
    write_json(_compared(loaded, score) | beside_lpips(score, spec), json_path)


def _in_words(recipe: "Recipe", score: "Score") -> str:
    """The score now beside the recipe's own."""
    from sensitivity.cli.render.winner import beside_lpips_words

    beside = beside_lpips_words(score)
    if recipe.fidelity is None:
        return (
            f"held-out LPIPS {score.mean:.4f} by emulation now; the recipe states none"
            f" ({recipe.caveat}){beside}"
        )
    said = recipe.fidelity.lpips
    low, high = said.ci95
    same = tuple(said.per_prompt) == score.per_prompt
    difference = "the same" if same else f"difference {abs(score.mean - said.mean):.2g}"
    where = "inside" if low <= score.mean <= high else "OUTSIDE"
    return (
        f"held-out LPIPS {score.mean:.4f} by emulation now, {where} the interval that the recipe"
        f" states; the recipe says {said.mean:.4f} [{low:.4f}, {high:.4f}] ({difference}){beside}"
    )


def _compared(recipe: "Recipe", score: "Score") -> dict[str, Any]:
    """The same as JSON; what the recipe does not state is null."""
    said = None if recipe.fidelity is None else recipe.fidelity.lpips
    return {
        "lpips": score.mean,
        "ci95": list(score.ci95),
        "per_prompt": list(score.per_prompt),
        "recipe_lpips": said and said.mean,
        "recipe_ci95": said and list(said.ci95),
        "inside": said and said.ci95[0] <= score.mean <= said.ci95[1],
    }
