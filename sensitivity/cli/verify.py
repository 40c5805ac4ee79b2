"""`sensitivity verify`: the held-out prompts of a recipe, generated again."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from sensitivity.cli.app import command
from sensitivity.cli.early_checks import check_fits
from sensitivity.cli.judge_options import (
    JudgeNames,
    MaxJudge,
    MinJudge,
    StatedObjective,
    judge_bounds,
)
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
from sensitivity.core.kernels import to_json

if TYPE_CHECKING:
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

Bound = Annotated[
    float | None,
    typer.Option(help="Exit with 1 if the mean LPIPS is larger, as expected over other prompts."),
]
TypicalBound = Annotated[
    float | None,
    typer.Option(help="Exit with 1 if the typical LPIPS (geometric mean) is larger."),
]
FlipsBound = Annotated[
    int | None, typer.Option(help="Exit with 1 if more prompts became another picture.")
]

KeptPictures = Annotated[
    int,
    typer.Option(
        "--keep-pictures",
        min=0,
        help="Prompts whose pictures are kept beside the recipe, for `sensitivity report`.",
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
    max_lpips: Bound = None,
    max_typical: TypicalBound = None,
    max_flips: FlipsBound = None,
    judges: JudgeNames = None,
    max_judge: MaxJudge = None,
    min_judge: MinJudge = None,
    objective: StatedObjective = None,
    time: Time = True,
    runtime: RuntimeToTime = None,
    keep_pictures: KeptPictures = 0,
    device: DeviceName = None,
    json_path: Json = None,
) -> None:
    """Score a recipe again on the held-out prompts, and compare with what the recipe says.

    Formats that the GPU has run by its kernels, others by emulation. Whole runs are timed where the
    GPU has the formats. With a bound that the score breaks, the exit code is 1.
    """
    from sensitivity.recipes.recipe import load_recipe

    loaded, spec = load_recipe(recipe), named_study(model, prompts, weights=weights, net=net)
    check_fits(loaded, spec)
    console = make_console(json_path)
    with step(console, "loading libraries"):
        from sensitivity.cli.render.verified import verified_screen
        from sensitivity.search.front import Constraints, check_constraints
        from sensitivity.search.to_recipe import beside_lpips
        from sensitivity.workflows.picture_files import pictures_beside
        from sensitivity.workflows.verify import verify_and_time

    bounds = Constraints(
        max_lpips=max_lpips,
        max_typical=max_typical,
        max_flips=max_flips,
        max_judge=judge_bounds(max_judge, "max_judge"),
        min_judge=judge_bounds(min_judge, "min_judge"),
    )
    check_constraints(bounds)
    spec, where = complete_study(console, spec), choose_device(device)

    def show(found: "Verification") -> None:
        """Print the score before anything is timed."""
        console.print(verified_screen(loaded, found, bounds))

    with step(console, f"verifying {recipe}"):
        found = verify_and_time(
            loaded,
            spec,
            device=where,
            arithmetic=arithmetic,
            emulate=emulate,
            constraints=bounds,
            judges=tuple(judges or ()),
            objective=objective,
            timed=time,
            runtime=runtime,
            pictures=pictures_beside(recipe, loaded, spec),
            keep_pictures=keep_pictures,
            say=lambda text: print_line(console, text, style="dim"),
            scored=show,
        )
    _show_times(console, loaded, found)
    _show_next(console, loaded, recipe)
    data = _compared(loaded, found) | to_json(found.execution.kernels)
    write_json(data | beside_lpips(found.score, spec) | _times_json(found), json_path)
    if found.broken or found.displeased:
        raise typer.Exit(1)


def _show_times(console: Console, recipe: "Recipe", found: "Verification") -> None:
    """What a run takes beside bf16 and lists by hand, or why that was not measured."""
    from sensitivity.cli.render.measured import end_table
    from sensitivity.cli.render.winner import latency_words

    if found.times is not None:
        console.print(end_table(found.times, linears=len(recipe.layers)))
        print_line(console, f"the recipe says {latency_words(recipe.latency)}")
    elif found.untimed:
        print_line(console, f"time is not measured here: {found.untimed}", style="dim")


def _show_next(console: Console, loaded: "Recipe", path: Path) -> None:
    """What one types next."""
    from sensitivity.cli.next_commands import after_verifying, print_commands
    from sensitivity.workflows.report.snippets import takers_of

    print_commands(console, after_verifying(loaded, path, takers_of(loaded)))


def _times_json(found: "Verification") -> dict[str, Any]:
    """The runs, or why there are none."""
    if found.times is None:
        return {"latency": None, "untimed": found.untimed or None}
    return {"latency": found.times.to_json(), "untimed": found.untimed or None}


def _compared(recipe: "Recipe", found: "Verification") -> dict[str, Any]:
    """The same as JSON; what the recipe does not state is null."""
    from sensitivity.cli.render.verified import is_inside
    from sensitivity.search.to_recipe import lpips_record

    said = None if recipe.fidelity is None else recipe.fidelity.lpips
    now = lpips_record(found.score, found.rules)
    return {
        "lpips": now.pop("mean"),
        **now,
        "recipe_lpips": said and said.mean,
        "recipe_ci95": said and list(said.ci95),
        "recipe_typical": said and said.typical,
        "recipe_typical_ci95": said and said.typical_ci95 and list(said.typical_ci95),
        "recipe_expected_mean": said and said.expected_mean,
        "recipe_flips": said and said.flips and said.flips.model_dump(mode="json"),
        "recipe_kernels": recipe.fidelity and recipe.fidelity.kernels,
        "inside": said and is_inside(said, found),
        "broken": dict(found.broken),
        "displeased": list(found.displeased),
    }
