"""`sensitivity search`: find a skip-list, verify it and write its recipe."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from sensitivity.cli.app import command
from sensitivity.cli.format_choice import QuantizedFormat
from sensitivity.cli.judge_options import (
    JudgeNames,
    MaxJudge,
    MinJudge,
    Objective,
    judge_bounds,
)
from sensitivity.cli.memory_option import MaxMemory, memory_bytes
from sensitivity.cli.options import (
    ArithmeticName,
    Compile,
    Consumers,
    DeviceName,
    Emulate,
    Formats,
    GroupsOrLayers,
    Json,
    KeepPictures,
    LatencySource,
    LpipsNet,
    MaxFlips,
    MaxLpips,
    MaxSeconds,
    MaxTypical,
    MinSpeedup,
    Model,
    Out,
    Prompts,
    RuntimeName,
    SaveStudy,
    Settings,
    ShowAll,
    Steps,
    Target,
    Weights,
    choose_device,
)
from sensitivity.cli.outputs import write_json
from sensitivity.cli.screen import make_console, step
from sensitivity.cli.searching import recipe_path, run_search
from sensitivity.cli.step_options import (
    EdgeStepsChoice,
    EdgeStepsOption,
    FirstSteps,
    LastSteps,
    counts_of,
    edge_mode,
)
from sensitivity.cli.storage_option import Storage, named_storage
from sensitivity.cli.study import complete_study, named_study, with_run
from sensitivity.cli.typed_options import typed_command
from sensitivity.core.format_name import parse_formats
from sensitivity.core.supervised import supervised
from sensitivity.errors import UserError

if TYPE_CHECKING:
    from sensitivity.spec.study_spec import StudySpec
    from sensitivity.workflows.requests import SearchRequest

Budget = Annotated[
    int, typer.Option("--budget", "-b", help="Trials: skip-lists whose pictures are generated.")
]
Sampler = Annotated[
    str,
    typer.Option(
        help=(
            "What proposes skip-lists: knapsack; tpe, nsga2, nsga3, gp or random of Optuna; or"
            " module:Class."
        )
    ),
]
Calibrate = Annotated[
    bool,
    typer.Option(help="Measure layer sensitivities first and let them guide the proposals."),
]
Seed = Annotated[int, typer.Option(help="Seed of the proposals.")]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Show what it would take (memory, time, disk); load and write nothing."
    ),
]
On = Annotated[
    str | None,
    typer.Option(
        "--on",
        metavar="GPU",
        help=(
            "With --dry-run: plan for this GPU, which need not be here: b200, h100, or a path as"
            " --target takes it."
        ),
    ),
]


@command
def search(
    model: Model,
    budget: Budget = 50,
    fmt: Formats = None,
    consumers: Consumers = None,
    target: Target = None,
    latency: LatencySource = None,
    runtime: RuntimeName = None,
    max_lpips: MaxLpips = None,
    max_typical: MaxTypical = None,
    max_flips: MaxFlips = None,
    min_speedup: MinSpeedup = None,
    max_seconds: MaxSeconds = None,
    max_memory: MaxMemory = None,
    judges: JudgeNames = None,
    max_judge: MaxJudge = None,
    min_judge: MinJudge = None,
    objective: Objective = None,
    out: Out = None,
    storage: Storage = None,
    keep_pictures: KeepPictures = 12,
    granularity: GroupsOrLayers = "group",
    edge_steps: EdgeStepsOption = EdgeStepsChoice.OFF,
    first_steps: FirstSteps = None,
    last_steps: LastSteps = None,
    arithmetic: ArithmeticName = None,
    emulate: Emulate = False,
    sampler: Sampler = "knapsack",
    calibrate: Calibrate = True,
    seed: Seed = 0,
    dry_run: DryRun = False,
    on: On = None,
    prompts: Prompts = None,
    weights: Weights = "pretrained",
    net: LpipsNet = None,
    save_study: SaveStudy = None,
    steps: Steps = None,
    settings: Settings = None,
    device: DeviceName = None,
    compiled: Compile = None,
    show_all: ShowAll = False,
    json_path: Json = None,
) -> None:
    """Search skip-lists by latency and LPIPS against bf16, and write the winner's recipe.

    Latency is measured shape by shape where the target is the GPU at hand, else predicted.
    The winner is verified on held-out prompts. Without a constraint it is the knee of the front.
    For a folder or a Hub id a study is derived and shown first.
    """
    if on is not None and not dry_run:
        raise UserError(
            f"--on is {on}, and a search runs where it is started; expected --dry-run beside it,"
            " which plans for another machine: add it, or leave --on out"
        )
    spec = named_study(model, prompts, save_study, weights=weights, net=net, tell=not dry_run)
    from sensitivity.spec.study_spec import check_budget

    check_budget(budget)
    console = make_console(json_path)
    with step(console, "loading libraries"):
        from sensitivity.search.proposers import SamplerName
        from sensitivity.workflows.requests import SearchRequest

    request = SearchRequest(
        formats=parse_formats(fmt or [QuantizedFormat.NVFP4]),
        arithmetic=arithmetic,
        emulate=emulate,
        budget=budget,
        target=target,
        consumers=tuple(consumers or ()),
        seed=seed,
        sampler=SamplerName(sampler),
        granularity=granularity,
        edge_steps=edge_mode(edge_steps),
        first_steps=counts_of(first_steps, "first_steps"),
        last_steps=counts_of(last_steps, "last_steps"),
        calibrated=calibrate,
        latency=latency,
        runtime=runtime,
        max_lpips=max_lpips,
        max_typical=max_typical,
        max_flips=max_flips,
        min_speedup=min_speedup,
        max_seconds=max_seconds,
        max_memory_bytes=memory_bytes(max_memory),
        judges=tuple(judges or ()),
        max_judge=judge_bounds(max_judge, "max_judge"),
        min_judge=judge_bounds(min_judge, "min_judge"),
        objective=objective,
        storage=named_storage(storage),
        device=choose_device(device),
        compiled=compiled,
        keep_pictures=keep_pictures,
        command=typed_command("search"),
        shared=supervised() is not None,
    )
    path = recipe_path(spec, request, out, writes=not dry_run)
    spec = with_run(complete_study(console, spec, save_study, show=True), steps, settings)
    if dry_run:
        _show_plan(console, spec, request, on, json_path)
    else:
        run_search(
            console, spec, request, path, json_path, named=out is not None, show_all=show_all
        )


def _show_plan(
    console: Console,
    spec: "StudySpec",
    request: "SearchRequest",
    on: str | None,
    json_path: str | None,
) -> None:
    """What the search would take, as a table and JSON. Exits with 1 where it does not fit."""
    with step(console, "running without weights"):
        from sensitivity.cli.render.plan import plan_tables
        from sensitivity.workflows.plan import plan_search

        plan = plan_search(spec, request, on=on)
    console.print(plan_tables(plan))
    write_json(plan.to_json(), json_path)
    if not plan.sizes.fits:
        raise typer.Exit(1)
