"""`search` and `verify`: find a skip-list, and draw a recipe's held-out pictures again."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from sensitivity.cli._common import (
    Compile,
    DeviceName,
    Formats,
    Json,
    Model,
    Net,
    Prompts,
    SaveStudy,
    Settings,
    Steps,
    Target,
    WeightsName,
    app,
    check_apart,
    check_writable,
    choose_device,
    complete_study,
    make_console,
    named_study,
    one_of,
    step,
    with_run,
    write_json,
)  # fmt: skip
from sensitivity.dry_runs import random_notice
from sensitivity.errors import ConstraintError, MeasurementError
from sensitivity.spec import StudySpec, check_budget, parse_formats

if TYPE_CHECKING:
    from sensitivity.workflow import SearchRequest

MaxLpips = Annotated[float | None, typer.Option(help="Choose the fastest skip-list with at most this LPIPS.")]
MinSpeedup = Annotated[
    float | None,
    typer.Option(help="Choose the skip-list of least LPIPS with at least this speedup, such as 1.3; with --max-lpips the fastest."),
]
MaxSeconds = Annotated[
    float | None,
    typer.Option(help="Choose the skip-list of least LPIPS with at most these priced seconds a run; with --max-lpips the fastest."),
]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Recipe file. Default: recipes/<study>-<formats>-<target>.json.")]
Storage = Annotated[Path | None, typer.Option(help="SQLite database of the study. Default: sensitivity-runs/<study>.db.")]

GRANULARITIES = ("group", "layer")


@app.command()
def search(
    model: Model,
    budget: Annotated[int, typer.Option("--budget", "-b", help="Trials: skip-lists whose pictures are generated.")] = 50,
    fmt: Formats = None,
    target: Target = None,
    max_lpips: MaxLpips = None,
    min_speedup: MinSpeedup = None,
    max_seconds: MaxSeconds = None,
    out: Out = None,
    storage: Storage = None,
    granularity: Annotated[str, typer.Option(help="What changes format together: group (role x depth band) or layer.")] = "group",
    sampler: Annotated[
        str, typer.Option(help="What proposes skip-lists: knapsack; tpe, nsga2, nsga3, gp or random of Optuna; or module:Class.")
    ] = "knapsack",
    calibrate: Annotated[bool, typer.Option(help="Measure layer sensitivities first and let them guide the proposals.")] = True,
    seed: Annotated[int, typer.Option(help="Seed of the proposals.")] = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it would take (memory, time, disk), load and write nothing.")
    ] = False,
    prompts: Prompts = None,
    weights: WeightsName = "pretrained",
    net: Net = None,
    save_study: SaveStudy = None,
    steps: Steps = None,
    settings: Settings = None,
    device: DeviceName = None,
    compiled: Compile = None,
    json_path: Json = None,
) -> None:
    """Search skip-lists by predicted latency and LPIPS against bf16, verify the winner on held-out prompts, write its recipe.

    Without a constraint the knee of the front is chosen. `sensitivity select` chooses again from the same study. For a folder or a Hub id a study is derived
    and shown first.
    """
    spec = named_study(model, prompts, save_study, weights=weights, net=net)
    check_budget(budget)
    formats = parse_formats(fmt or ["nvfp4"])
    one_of("--granularity", granularity, GRANULARITIES)
    console = make_console(json_path)
    target = spec.pricing.target if target is None else target
    recipe_path = out or Path("recipes") / f"{spec.name}-{'+'.join(formats)}-{target}.json"
    check_outputs(None if dry_run else recipe_path, storage, json_path, save_study)
    with step(console, "loading libraries"):
        from sensitivity import workflow
        from sensitivity.report.progress import SearchProgress
        from sensitivity.search.sampler import SamplerName

    request = workflow.SearchRequest(
        formats=formats, budget=budget, target=target, seed=seed, sampler=SamplerName(sampler), granularity="layer" if granularity == "layer" else "group",
        calibrated=calibrate, max_lpips=max_lpips, min_speedup=min_speedup, max_seconds=max_seconds, storage=storage, device=choose_device(device),
        compiled=compiled,
    )  # fmt: skip
    workflow.check_request(request)  # before a Hub is asked for configs
    spec = with_run(complete_study(console, spec, save_study, show=True), steps=steps, settings=settings)
    if dry_run:
        _show_plan(console, spec, request, json_path)
        return
    with showing_the_front(console), SearchProgress(console, budget=budget) as progress:
        outcome = workflow.find_recipe(spec, request, events=progress.events, say=progress.say, verifying=progress.verifying)
    conclude(console, outcome, recipe_path, json_path, budget=budget)


def _show_plan(console: Console, spec: StudySpec, request: "SearchRequest", json_path: str | None) -> None:
    """What the search would take, as a table and JSON."""
    with step(console, "running without weights"):
        from sensitivity.planning import plan_search
        from sensitivity.report.plan import plan_tables

        plan = plan_search(spec, request)
    console.print(plan_tables(plan))
    write_json(plan.to_json(), json_path)


def check_outputs(recipe_path: Path | None, storage: Path | None, json_path: str | None, study: Path | None = None) -> None:
    """Raise OutputError where a result could not be written, or would replace another."""
    check_writable(recipe_path, "--out")
    check_writable(json_path, "--json")
    check_apart({"--storage": storage, "--out": recipe_path, "--json": json_path, "--save-study": study})


@contextmanager
def showing_the_front(console: Console) -> Iterator[None]:
    """Where no skip-list keeps to the constraints, print the front before the message says so."""
    try:
        yield
    except ConstraintError as error:
        if error.outcome is not None:
            from sensitivity.report.winner import front_table

            console.print(front_table(error.outcome))
        raise


def conclude(console: Console, outcome: Any, recipe_path: Path, json_path: str | None, *, budget: int) -> None:
    """Print what was found and write the recipe, where there is one."""
    from sensitivity.report.tables import dead_pattern_lines, fixed_table
    from sensitivity.report.winner import front_table, winner_lines

    candidates = outcome.prepared.candidates
    console.print(fixed_table(candidates.fixed))
    for line in dead_pattern_lines(candidates.dead):
        console.print(line, style="yellow", highlight=False, markup=False, soft_wrap=True)
    console.print(front_table(outcome))
    if outcome.result.interrupted:
        raise KeyboardInterrupt
    if outcome.recipe is None:
        raise MeasurementError(f"none of the {outcome.result.failed} trials finished; the study's database has the reasons")
    outcome.recipe.save(recipe_path)
    lines = winner_lines(outcome)
    if outcome.result.stopped:
        stopped, undrawn = len(outcome.result.stopped), outcome.result.undrawn
        lines.append(f"{stopped} of {outcome.result.tried} trials stopped early, {undrawn} pictures were not drawn")
    if outcome.result.tried < budget:
        lines.append(f"{outcome.result.tried} of {budget} trials: no skip-list was found that had not been tried")
    if outcome.result.failed:
        lines.append(f"{outcome.result.failed} trials failed; the study's database has the reasons")
    lines.append(f"recipe: {recipe_path}")
    if (spec := outcome.prepared.evaluator.spec).model.random_seed is not None:
        lines.append(random_notice(spec))
    console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)
    write_json(json.loads(outcome.recipe.to_json()), json_path)


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
    """Apply a recipe to its model by emulation, draw the held-out prompts again and compare with what the recipe says."""
    from sensitivity.recipe import load_recipe

    loaded, spec = load_recipe(recipe), named_study(model, prompts, weights=weights, net=net)
    check_writable(json_path, "--json")
    check_apart({"--json": json_path}, {"RECIPE": recipe, "--prompts": prompts})
    console = make_console(json_path)
    with step(console, "loading libraries"):
        from sensitivity import workflow
        from sensitivity.report.winner import beside_lpips_words
        from sensitivity.verify import beside_lpips

    spec = complete_study(console, spec)
    with step(console, f"verifying {recipe}"):
        score = workflow.verify_recipe(loaded, spec, device=choose_device(device))
    said = loaded.fidelity.lpips if loaded.fidelity is not None else None
    beside = beside_lpips_words(score)
    if said is None:
        text = f"held-out LPIPS {score.mean:.4f} by emulation now; the recipe states none ({loaded.caveat}){beside}"
    else:
        low, high = said.ci95
        same = "the same" if tuple(said.per_prompt) == score.per_prompt else f"difference {abs(score.mean - said.mean):.2g}"
        where = "inside" if low <= score.mean <= high else "OUTSIDE"
        text = (
            f"held-out LPIPS {score.mean:.4f} by emulation now, {where} the interval that the recipe states; the recipe says {said.mean:.4f} "
            f"[{low:.4f}, {high:.4f}] ({same}){beside}"
        )
    console.print(text, highlight=False, markup=False, soft_wrap=True)
    stated = None if said is None else list(said.ci95)
    write_json(
        {
            "lpips": score.mean, "ci95": list(score.ci95), "per_prompt": list(score.per_prompt), "recipe_lpips": said and said.mean,
            "recipe_ci95": stated, "inside": stated and stated[0] <= score.mean <= stated[1], **beside_lpips(score, spec),
        },
        json_path,
    )  # fmt: skip
