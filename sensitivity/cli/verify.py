"""`sensitivity verify`: the held-out prompts of a recipe, generated again."""

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from sensitivity.cli.app import command
from sensitivity.cli.options import (
    ArithmeticName,
    DeviceName,
    Emulate,
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
from sensitivity.core.kernels import Kernels, in_words, to_json

if TYPE_CHECKING:
    from sensitivity.fidelity.score import Score
    from sensitivity.recipes.recipe import Recipe
    from sensitivity.workflows.verify import Verification

Time = Annotated[
    bool,
    typer.Option(
        help=(
            "Also time whole runs of the recipe, bf16 and lists by hand, where the GPU has the"
            " recipe's formats; it takes minutes."
        )
    ),
]

RuntimeToTime = Annotated[
    str | None,
    typer.Option("--runtime", help="The way of running that is timed. Default: the recipe's own."),
]


@command
def verify(
    recipe: RecipeFile,
    model: Model,
    prompts: Prompts = None,
    weights: Weights = "pretrained",
    net: LpipsNet = None,
    arithmetic: ArithmeticName = None,
    emulate: Emulate = False,
    time: Time = True,
    runtime: RuntimeToTime = None,
    device: DeviceName = None,
    json_path: Json = None,
) -> None:
    """Score a recipe again on the held-out prompts, and compare with what the recipe says.

    Formats that the GPU has run by its kernels, others by emulation. Whole runs are timed where the
    GPU has the formats.
    """
    from sensitivity.recipes.recipe import load_recipe

    loaded, spec = load_recipe(recipe), named_study(model, prompts, weights=weights, net=net)
    console = make_console(json_path)
    with step(console, "loading libraries"):
        from sensitivity.search.to_recipe import beside_lpips
        from sensitivity.workflows.verify import verify_and_time

    spec, where = complete_study(console, spec), choose_device(device)

    def show(found: "Verification") -> None:
        """Print the score before anything is timed."""
        kernels = found.execution.kernels
        print_line(console, _in_words(loaded, found.score, in_words(kernels)))

    with step(console, f"verifying {recipe}"):
        found = verify_and_time(
            loaded,
            spec,
            device=where,
            arithmetic=arithmetic,
            emulate=emulate,
            timed=time,
            runtime=runtime,
            say=lambda text: print_line(console, text, style="dim"),
            scored=show,
        )
    _show_times(console, loaded, found)
    data = _compared(loaded, found.score) | to_json(found.execution.kernels)
    write_json(data | beside_lpips(found.score, spec) | _times_json(found), json_path)


def _show_times(console: Console, recipe: "Recipe", found: "Verification") -> None:
    """What a run takes beside bf16 and lists by hand, or why that was not measured."""
    from sensitivity.cli.render.measured import end_table
    from sensitivity.cli.render.winner import latency_words

    if found.times is not None:
        console.print(end_table(found.times, linears=len(recipe.layers)))
        print_line(console, f"the recipe says {latency_words(recipe.latency)}")
    elif found.untimed:
        print_line(console, f"time is not measured here: {found.untimed}", style="dim")


def _times_json(found: "Verification") -> dict[str, Any]:
    """The runs, or why there are none."""
    if found.times is None:
        return {"latency": None, "untimed": found.untimed or None}
    return {"latency": found.times.to_json(), "untimed": found.untimed or None}


def _in_words(recipe: "Recipe", score: "Score", by_kernels: str) -> str:
    """The score now beside the recipe's own; `by_kernels` says what drew its pictures."""
    from sensitivity.cli.render.winner import beside_lpips_words

    beside = beside_lpips_words(score)
    if recipe.fidelity is None:
        return (
            f"held-out LPIPS {score.mean:.4f} {by_kernels} now; the recipe states none"
            f" ({recipe.caveat}){beside}"
        )
    said = recipe.fidelity.lpips
    low, high = said.ci95
    same = tuple(said.per_prompt) == score.per_prompt
    difference = "the same" if same else f"difference {abs(score.mean - said.mean):.2g}"
    where = "inside" if low <= score.mean <= high else "OUTSIDE"
    return (
        f"held-out LPIPS {score.mean:.4f} {by_kernels} now, {where} the interval that the recipe"
        f" states; the recipe says {said.mean:.4f} [{low:.4f}, {high:.4f}]"
        f"{_its_kernels(recipe.fidelity.kernels, by_kernels)} ({difference}){beside}"
    )


def _its_kernels(kernels: str, by_kernels: str) -> str:
    """What drew the recipe's own pictures, where it is not what draws them now."""
    own = in_words(Kernels(kernels))
    return "" if own == by_kernels else f", {own}"


def _compared(recipe: "Recipe", score: "Score") -> dict[str, Any]:
    """The same as JSON; what the recipe does not state is null."""
    said = None if recipe.fidelity is None else recipe.fidelity.lpips
    return {
        "lpips": score.mean,
        "ci95": list(score.ci95),
        "per_prompt": list(score.per_prompt),
        "recipe_lpips": said and said.mean,
        "recipe_ci95": said and list(said.ci95),
        "recipe_kernels": recipe.fidelity and recipe.fidelity.kernels,
        "inside": said and said.ci95[0] <= score.mean <= said.ci95[1],
    }
