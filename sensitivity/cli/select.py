"""`sensitivity select`: another skip-list of the same study, by other constraints, no trial."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from sensitivity.cli.app import command
from sensitivity.cli.options import (
    Compile,
    DeviceName,
    Json,
    LpipsNet,
    MaxLpips,
    MaxSeconds,
    MinSpeedup,
    Model,
    Out,
    Prompts,
    QuantizedFormat,
    Settings,
    Steps,
    Storage,
    Weights,
    choose_device,
)
from sensitivity.cli.outputs import check_results, default_recipe
from sensitivity.cli.screen import make_console, step
from sensitivity.cli.study import complete_study, named_study, with_run
from sensitivity.core.format_name import Granularity, parse_formats
from sensitivity.spec.study_spec import StudySpec

if TYPE_CHECKING:
    from sensitivity.workflows.requests import SelectRequest

Study = Annotated[
    str | None,
    typer.Option(help="The study's name, where the database holds several of the model."),
]
OfFormats = Annotated[
    list[QuantizedFormat] | None,
    typer.Option(
        "--format", "-f", help="The study that searched this; may be given several times."
    ),
]
OfTarget = Annotated[
    str | None, typer.Option("--target", "-t", help="The study that was priced for this GPU.")
]
OfGranularity = Annotated[Granularity | None, typer.Option(help="The study of this granularity.")]
OfSampler = Annotated[
    str | None, typer.Option(help="The study of this sampler, as `search --sampler` takes it.")
]
OfCalibration = Annotated[
    bool | None, typer.Option(help="The study with, or without, layer sensitivities.")
]
OfSeed = Annotated[int | None, typer.Option(help="The study of this seed.")]
Verify = Annotated[
    bool,
    typer.Option(
        help=(
            "Generate the held-out pictures that are missing; else choose among what has its"
            " held-out score."
        )
    ),
]


@command
def select(
    model: Model,
    max_lpips: MaxLpips = None,
    min_speedup: MinSpeedup = None,
    max_seconds: MaxSeconds = None,
    out: Out = None,
    storage: Storage = None,
    study: Study = None,
    fmt: OfFormats = None,
    target: OfTarget = None,
    granularity: OfGranularity = None,
    sampler: OfSampler = None,
    calibrate: OfCalibration = None,
    seed: OfSeed = None,
    verify: Verify = True,
    prompts: Prompts = None,
    weights: Weights = "pretrained",
    net: LpipsNet = None,
    steps: Steps = None,
    settings: Settings = None,
    device: DeviceName = None,
    compiled: Compile = None,
    json_path: Json = None,
) -> None:
    """Choose again from a finished search, by other constraints, and write that recipe.

    No trial is run. Without a constraint the knee of the front is chosen. Where the database holds
    one study of the model, that is the one; else name it, or its settings.
    """
    spec = named_study(model, prompts, weights=weights, net=net)
    formats = parse_formats(fmt) if fmt else None
    console = make_console(json_path)
    check_results(out or default_recipe(storage, spec.name), storage, json_path)
    with step(console, "loading libraries"):
        from sensitivity.search.finished import Wanted
        from sensitivity.search.proposers import SamplerName
        from sensitivity.workflows.requests import SelectRequest

    wanted = Wanted(
        name=study,
        formats=formats,
        target=target,
        seed=seed,
        sampler=SamplerName(sampler) if sampler else None,
        granularity=granularity,
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
    spec = with_run(complete_study(console, spec), steps, settings)
    _run(console, spec, request, out, json_path)


def _run(
    console: Console,
    spec: StudySpec,
    request: "SelectRequest",
    out: Path | None,
    json_path: str | None,
) -> None:
    """Choose with progress, then print what was found and write the recipe."""
    from sensitivity.cli.finishing import finish, showing_the_front
    from sensitivity.cli.render.progress import SearchProgress
    from sensitivity.workflows.select import select_recipe

    with showing_the_front(console), SearchProgress(console, budget=0) as progress:
        outcome = select_recipe(spec, request, say=progress.say, verifying=progress.verifying)
    name = outcome.recipe.name if outcome.recipe is not None else spec.name
    path = out or default_recipe(request.storage, name)
    finish(console, outcome, path, json_path, budget=0)
