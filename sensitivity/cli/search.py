"""`search` and `verify`: find a skip-list, and draw a recipe's held-out pictures again."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from sensitivity.cli.app import (
    app,
    choose_device,
    complete_study,
    make_console,
    named_study,
    step,
    with_run,
)
from sensitivity.cli.options import (
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
    one_of,
)
from sensitivity.cli.outputs import check_apart, check_writable, write_json
from sensitivity.cli.render.winner import conclude, showing_the_front
from sensitivity.core.format_name import parse_formats
from sensitivity.spec.study_spec import StudySpec, check_budget

if TYPE_CHECKING:
    from sensitivity.workflows.requests import SearchRequest

MaxLpips = Annotated[
    float | None, typer.Option(help="Choose the fastest skip-list with at most this LPIPS.")
]
MinSpeedup = Annotated[
    float | None,
    typer.Option(
        help=(
            "Choose the skip-list of least LPIPS with at least this speedup, such as 1.3; with"
            " --max-lpips the fastest."
        )
    ),
]
MaxSeconds = Annotated[
    float | None,
    typer.Option(
        help=(
            "Choose the skip-list of least LPIPS with at most these priced seconds a run; with"
            " --max-lpips the fastest."
        )
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out", "-o", help="Recipe file. Default: recipes/<study>-<formats>-<target>.json."
    ),
]
Storage = Annotated[
    Path | None,
    typer.Option(help="SQLite database of the study. Default: sensitivity-runs/<study>.db."),
]

GRANULARITIES = ("group", "layer")


@app.command()
def search(
    model: Model,
    budget: Annotated[
        int, typer.Option("--budget", "-b", help="Trials: skip-lists whose pictures are generated.")
    ] = 50,
    fmt: Formats = None,
    target: Target = None,
    max_lpips: MaxLpips = None,
    min_speedup: MinSpeedup = None,
    max_seconds: MaxSeconds = None,
    out: Out = None,
    storage: Storage = None,
    granularity: Annotated[
        str, typer.Option(help="What changes format together: group (role x depth band) or layer.")
    ] = "group",
    sampler: Annotated[
        str,
        typer.Option(
            help=(
                "What proposes skip-lists: knapsack; tpe, nsga2, nsga3, gp or random of Optuna; or"
                " module:Class."
            )
        ),
    ] = "knapsack",
    calibrate: Annotated[
        bool,
        typer.Option(help="Measure layer sensitivities first and let them guide the proposals."),
    ] = True,
    seed: Annotated[int, typer.Option(help="Seed of the proposals.")] = 0,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Say what it would take (memory, time, disk), load and write nothing."
        ),
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
    """Search skip-lists by predicted latency and LPIPS against bf16, verify the winner on held-out
    prompts, write its recipe.

    Without a constraint the knee of the front is chosen. `sensitivity select` chooses again from
    the same study. For a folder or a Hub id a study is derived and shown first.
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
        from sensitivity.cli.render.progress import SearchProgress
        from sensitivity.search.proposers import SamplerName
        from sensitivity.workflows.find import find_recipe
        from sensitivity.workflows.requests import SearchRequest, check_request

    request = SearchRequest(
        formats=formats,
        budget=budget,
        target=target,
        seed=seed,
        sampler=SamplerName(sampler),
        granularity="layer" if granularity == "layer" else "group",
        calibrated=calibrate,
        max_lpips=max_lpips,
        min_speedup=min_speedup,
        max_seconds=max_seconds,
        storage=storage,
        device=choose_device(device),
        compiled=compiled,
    )
    check_request(request)  # before a Hub is asked for configs
    spec = with_run(
        complete_study(console, spec, save_study, show=True), steps=steps, settings=settings
    )
    if dry_run:
        _show_plan(console, spec, request, json_path)
        return
    with showing_the_front(console), SearchProgress(console, budget=budget) as progress:
        outcome = find_recipe(
            spec, request, events=progress.events, say=progress.say, verifying=progress.verifying
        )
    conclude(console, outcome, recipe_path, json_path, budget=budget)


def _show_plan(
    console: Console, spec: StudySpec, request: "SearchRequest", json_path: str | None
) -> None:
    """What the search would take, as a table and JSON."""
    with step(console, "running without weights"):
        from sensitivity.cli.render.plan import plan_tables
        from sensitivity.workflows.plan import plan_search

        plan = plan_search(spec, request)
    console.print(plan_tables(plan))
    write_json(plan.to_json(), json_path)


def check_outputs(
    recipe_path: Path | None, storage: Path | None, json_path: str | None, study: Path | None = None
) -> None:
    """Raise OutputError where a result could not be written, or would replace another."""
    check_writable(recipe_path, "--out")
    check_writable(json_path, "--json")
    check_apart(
        {"--storage": storage, "--out": recipe_path, "--json": json_path, "--save-study": study}
    )
