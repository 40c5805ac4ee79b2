"""`select`: another skip-list of the same study, by other constraints, without a trial."""

from pathlib import Path
from typing import Annotated, Literal

import typer

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
    Json,
    Model,
    Net,
    Prompts,
    Settings,
    Steps,
    WeightsName,
    one_of,
)
from sensitivity.cli.render.winner import conclude, showing_the_front
from sensitivity.cli.search import (
    GRANULARITIES,
    MaxLpips,
    MaxSeconds,
    MinSpeedup,
    Out,
    Storage,
    check_outputs,
)
from sensitivity.core.format_name import parse_formats


@app.command()
def select(
    model: Model,
    max_lpips: MaxLpips = None,
    min_speedup: MinSpeedup = None,
    max_seconds: MaxSeconds = None,
    out: Out = None,
    storage: Storage = None,
    study: Annotated[
        str | None,
        typer.Option(help="The study's name, where the database holds several of the model."),
    ] = None,
    fmt: Annotated[
        list[str] | None,
        typer.Option(
            "--format", "-f", help="The study that searched this; may be given several times."
        ),
    ] = None,
    target: Annotated[
        str | None, typer.Option("--target", "-t", help="The study that was priced for this GPU.")
    ] = None,
    granularity: Annotated[
        str | None, typer.Option(help="The study of this granularity: group or layer.")
    ] = None,
    sampler: Annotated[
        str | None, typer.Option(help="The study of this sampler, as `search --sampler` takes it.")
    ] = None,
    calibrate: Annotated[
        bool | None, typer.Option(help="The study with, or without, layer sensitivities.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The study of this seed.")] = None,
    verify: Annotated[
        bool,
        typer.Option(
            help=(
                "Draw the held-out pictures that are missing; else choose among what has its"
                " held-out score."
            )
        ),
    ] = True,
    prompts: Prompts = None,
    weights: WeightsName = "pretrained",
    net: Net = None,
    steps: Steps = None,
    settings: Settings = None,
    device: DeviceName = None,
    compiled: Compile = None,
    json_path: Json = None,
) -> None:
    """Choose again from a finished search, by other constraints, and write that recipe; no trial is
    drawn.

    Without a constraint the knee of the front is chosen. Where the database holds one study of the
    model, that is the one; else name it, or its settings.
    """
    spec = named_study(model, prompts, weights=weights, net=net)
    formats = parse_formats(fmt) if fmt else None
    if granularity is not None:
        one_of("--granularity", granularity, GRANULARITIES)
    console = make_console(json_path)
    check_outputs(out or Path("recipes") / f"{spec.name}.json", storage, json_path)
    with step(console, "loading libraries"):
        from sensitivity.cli.render.progress import SearchProgress
        from sensitivity.search.finished import Wanted
        from sensitivity.search.proposers import SamplerName
        from sensitivity.workflows.requests import SelectRequest
        from sensitivity.workflows.select import select_recipe

    named: dict[str | None, Literal["group", "layer"] | None] = {
        None: None,
        "group": "group",
        "layer": "layer",
    }
    wanted = Wanted(
        name=study,
        formats=formats,
        target=target,
        seed=seed,
        sampler=SamplerName(sampler) if sampler else None,
        granularity=named[granularity],
        calibrated=calibrate,
    )
    request = SelectRequest(
        wanted=wanted,
        max_lpips=max_lpips,
        min_speedup=min_speedup,
        max_seconds=max_seconds,
        verify=verify,
        storage=storage,
        device=choose_device(device),
        compiled=compiled,
    )
    spec = with_run(complete_study(console, spec), steps=steps, settings=settings)
    with showing_the_front(console), SearchProgress(console, budget=0) as progress:
        outcome = select_recipe(spec, request, say=progress.say, verifying=progress.verifying)
    conclude(
        console,
        outcome,
        out or Path("recipes") / f"{outcome.recipe.name}.json" if outcome.recipe else Path(),
        json_path,
        budget=0,
    )
