"""`search` and `verify`: find a skip-list, and draw a recipe's held-out pictures again."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from sensitivity.cli._common import (
    DeviceName,
    Formats,
    Json,
    Model,
    Target,
    app,
    check_apart,
    check_writable,
    choose_device,
    make_console,
    one_of,
    step,
    write_json,
)  # fmt: skip
from sensitivity.errors import MeasurementError
from sensitivity.spec import check_budget, parse_formats, resolve_spec


@app.command()
def search(
    model: Model,
    budget: Annotated[int, typer.Option("--budget", "-b", help="Trials: skip-lists whose pictures are generated.")] = 50,
    fmt: Formats = None,
    target: Target = None,
    max_lpips: Annotated[float | None, typer.Option(help="Choose the fastest skip-list with at most this LPIPS.")] = None,
    min_speedup: Annotated[
        float | None, typer.Option(help="Choose the skip-list of least LPIPS with at least this speedup, such as 1.3.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Recipe file. Default: recipes/<study>-<formats>-<target>.json.")] = None,
    storage: Annotated[Path | None, typer.Option(help="SQLite database of the study. Default: sensitivity-runs/<study>.db.")] = None,
    granularity: Annotated[str, typer.Option(help="What changes format together: group (role x depth band) or layer.")] = "group",
    sampler: Annotated[str, typer.Option(help="What proposes skip-lists: knapsack, tpe, nsga2 or random.")] = "knapsack",
    calibrate: Annotated[bool, typer.Option(help="Measure layer sensitivities first and let them guide the proposals.")] = True,
    seed: Annotated[int, typer.Option(help="Seed of the proposals.")] = 0,
    device: DeviceName = None,
    json_path: Json = None,
) -> None:
    """Search skip-lists by predicted latency and LPIPS against bf16, verify the winner on held-out prompts, write its recipe."""
    spec = resolve_spec(model)
    check_budget(budget)
    formats = parse_formats(fmt or ["nvfp4"])
    one_of("--granularity", granularity, ("group", "layer"))
    one_of("--sampler", sampler, ("knapsack", "tpe", "nsga2", "random"))
    console = make_console(json_path)
    target = spec.pricing.target if target is None else target
    recipe_path = out or Path("recipes") / f"{spec.name}-{'+'.join(formats)}-{target}.json"
    check_writable(recipe_path, "--out")
    check_writable(json_path, "--json")
    check_apart({"--storage": storage, "--out": recipe_path, "--json": None if json_path in (None, "-") else Path(str(json_path))})
    with step(console, "loading libraries"):
        from sensitivity import workflow
        from sensitivity.report.progress import SearchProgress
        from sensitivity.report.tables import fixed_table, front_table
        from sensitivity.search.sampler import SamplerName

    request = workflow.SearchRequest(
        formats=formats, budget=budget, target=target, seed=seed, sampler=SamplerName(sampler), granularity="layer" if granularity == "layer" else "group",
        calibrated=calibrate, max_lpips=max_lpips, min_speedup=min_speedup, storage=storage, device=choose_device(device),
    )  # fmt: skip
    with SearchProgress(console, budget=budget) as progress:
        outcome = workflow.find_recipe(spec, request, events=progress.events, say=progress.say, verifying=progress.verifying)
    console.print(fixed_table(outcome.prepared.candidates.fixed))
    console.print(front_table(outcome))
    if outcome.result.interrupted:
        raise KeyboardInterrupt
    if outcome.recipe is None:
        raise MeasurementError(f"none of the {outcome.result.failed} trials finished; the study's database has the reasons")
    outcome.recipe.save(recipe_path)
    console.print(_closing(outcome, recipe_path, budget), highlight=False, markup=False, soft_wrap=True)
    write_json(json.loads(outcome.recipe.to_json()), json_path)


def _closing(outcome: Any, path: Path, budget: int) -> str:
    """The last lines of a search: the winner in words and where it lies."""
    recipe, chosen, held_out = outcome.recipe, outcome.chosen, outcome.held_out
    thumb = next((t for t in outcome.result.trials if t.label == "rule of thumb"), None)
    winner = held_out[chosen.index]
    scale = f" at {recipe.latency.stands_for} x its dimensions" if recipe.latency.stands_for > 1 else ""
    lines = [
        f"chosen: {chosen.label or f'trial {chosen.index}'}, {recipe.latency.speedup:.3f}x ({recipe.latency.source} for {recipe.latency.target}{scale}), held-out LPIPS "
        f"{winner.mean:.4f} [{winner.ci95[0]:.4f}, {winner.ci95[1]:.4f}], {len(recipe.skip)} of {len(recipe.layers)} Linears stay bf16"
    ]
    if thumb is not None and thumb.index in held_out and thumb.index != chosen.index:
        speedup = outcome.prepared.candidates.bf16_s / thumb.latency_s
        lines.append(f"rule of thumb: {speedup:.3f}x, held-out LPIPS {held_out[thumb.index].mean:.4f}")
    if len(outcome.result.trials) < budget:
        lines.append(f"{len(outcome.result.trials)} of {budget} trials: no skip-list was found that had not been tried")
    if outcome.result.failed:
        lines.append(f"{outcome.result.failed} trials failed; the study's database has the reasons")
    lines.append(f"recipe: {path}")
    return "\n".join(lines)


@app.command()
def verify(
    recipe: Annotated[Path, typer.Argument(help="Recipe JSON, as `search` writes it.")],
    model: Model,
    device: DeviceName = None,
    json_path: Json = None,
) -> None:
    """Apply a recipe to its model by emulation, draw the held-out prompts again and compare with what the recipe says."""
    from sensitivity.recipe import load_recipe

    loaded, spec = load_recipe(recipe), resolve_spec(model)
    check_writable(json_path, "--json")
    console = make_console(json_path)
    with step(console, f"verifying {recipe}"):
        from sensitivity import workflow

        score = workflow.verify_recipe(loaded, spec, device=choose_device(device))
    said = loaded.fidelity.lpips
    console.print(
        f"held-out LPIPS {score.mean:.4f} [{score.ci95[0]:.4f}, {score.ci95[1]:.4f}] by emulation now; the recipe says {said.mean:.4f} "
        f"({'the same' if tuple(said.per_prompt) == score.per_prompt else 'difference ' + format(abs(score.mean - said.mean), '.2g')})",
        highlight=False, markup=False, soft_wrap=True,
    )  # fmt: skip
    write_json({"lpips": score.mean, "ci95": list(score.ci95), "per_prompt": list(score.per_prompt), "recipe_lpips": said.mean}, json_path)
