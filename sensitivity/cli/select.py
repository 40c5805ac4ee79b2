"""`sensitivity select`: another skip-list of the same study, by other constraints."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from sensitivity.cli.app import command
from sensitivity.cli.early_checks import check_database
from sensitivity.cli.format_choice import QuantizedFormat
from sensitivity.cli.help_panels import EXPORT_FORMS
from sensitivity.cli.judge_options import (
    JudgeNames,
    MaxJudge,
    MinJudge,
    StatedObjective,
    judge_bounds,
)
from sensitivity.cli.memory_option import MaxMemory, memory_bytes
from sensitivity.cli.options import (
    Compile,
    DeviceName,
    Json,
    KeepPictures,
    LpipsNet,
    MaxFlips,
    MaxLpips,
    MaxSeconds,
    MaxTypical,
    MinSpeedup,
    Model,
    Out,
    Prompts,
    Settings,
    ShowAll,
    Steps,
    Weights,
    choose_device,
)
from sensitivity.cli.outputs import check_recipe, default_recipe
from sensitivity.cli.screen import make_console, step
from sensitivity.cli.storage_option import Storage, named_storage
from sensitivity.cli.study import complete_study, named_study, with_run
from sensitivity.cli.typed_options import typed_command
from sensitivity.core.arithmetic import Arithmetic
from sensitivity.core.format_name import Granularity, Source, parse_formats

if TYPE_CHECKING:
    from sensitivity.spec.study_spec import StudySpec
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
OfArithmetic = Annotated[
    Arithmetic | None, typer.Option(help="The study in the arithmetic of this runtime.")
]
OfEmulation = Annotated[
    bool | None,
    typer.Option(
        "--emulate/--no-emulate",
        help="The study that kept to emulation, or that used the kernels that the GPU has.",
    ),
]
OfLatency = Annotated[
    Source | None,
    typer.Option(
        "--latency", help="The study whose prices were measured, or predicted. It keeps its own."
    ),
]
OfRuntime = Annotated[
    str | None,
    typer.Option("--runtime", help="The study whose prices are of this way of running."),
]
OfConsumers = Annotated[
    list[str] | None,
    typer.Option(
        "--for", help="The study that was made for these tools; may be given several times."
    ),
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
    max_typical: MaxTypical = None,
    max_flips: MaxFlips = None,
    min_speedup: MinSpeedup = None,
    max_seconds: MaxSeconds = None,
    max_memory: MaxMemory = None,
    judges: JudgeNames = None,
    max_judge: MaxJudge = None,
    min_judge: MinJudge = None,
    objective: StatedObjective = None,
    out: Out = None,
    storage: Storage = None,
    keep_pictures: KeepPictures = 12,
    study: Study = None,
    fmt: OfFormats = None,
    target: OfTarget = None,
    granularity: OfGranularity = None,
    sampler: OfSampler = None,
    calibrate: OfCalibration = None,
    arithmetic: OfArithmetic = None,
    latency: OfLatency = None,
    runtime: OfRuntime = None,
    consumers: OfConsumers = None,
    emulate: OfEmulation = None,
    seed: OfSeed = None,
    verify: Verify = True,
    prompts: Prompts = None,
    weights: Weights = "pretrained",
    net: LpipsNet = None,
    steps: Steps = None,
    settings: Settings = None,
    device: DeviceName = None,
    compiled: Compile = None,
    show_all: ShowAll = False,
    json_path: Json = None,
) -> None:
    """Choose again from a finished search, by other constraints, and write that recipe.

    No trial is run. Held-out pictures that are missing are drawn; how many, and how long it takes,
    is said first. Without a constraint the knee of the front is chosen. The recipe's file is named
    after the choice. If the database holds several studies, name one, or its settings.
    """
    most_bytes = memory_bytes(max_memory)
    spec = named_study(model, prompts, weights=weights, net=net)
    named = named_storage(storage)
    check_database(named, spec)
    console = make_console(json_path)
    with step(console, "loading libraries"):
        from sensitivity.search.finished import Wanted
        from sensitivity.search.proposers import SamplerName
        from sensitivity.search.store import default_storage, kept_beside
        from sensitivity.workflows.requests import SelectRequest

    database = named or default_storage(spec)
    recipe_path = out or default_recipe(kept_beside(named, spec), spec.name, "choice")
    check_recipe(recipe_path, database)
    request = SelectRequest(
        wanted=Wanted(
            name=study,
            formats=parse_formats(fmt) if fmt else None,
            target=target,
            seed=seed,
            sampler=SamplerName(sampler) if sampler else None,
            granularity=granularity,
            calibrated=calibrate,
            arithmetic=arithmetic,
            latency=latency,
            runtime=runtime,
            consumers=tuple(n for n in EXPORT_FORMS if n in consumers) if consumers else None,
            emulate=emulate,
        ),
        max_lpips=max_lpips,
        max_typical=max_typical,
        max_flips=max_flips,
        min_speedup=min_speedup,
        max_seconds=max_seconds,
        max_memory_bytes=most_bytes,
        judges=tuple(judges or ()),
        max_judge=judge_bounds(max_judge, "max_judge"),
        min_judge=judge_bounds(min_judge, "min_judge"),
        objective=objective,
        verify=verify,
        storage=database,
        device=choose_device(device),
        compiled=compiled,
        keep_pictures=keep_pictures,
        command=typed_command("select"),
    )
    spec = with_run(complete_study(console, spec), steps, settings)
    _run(console, spec, request, out, json_path, show_all=show_all)


def _run(
    console: Console,
    spec: "StudySpec",
    request: "SelectRequest",
    out: Path | None,
    json_path: str | None,
    *,
    show_all: bool = False,
) -> None:
    """Choose with progress, then print what was found and write the recipe."""
    from sensitivity.cli.finishing import end_interrupted, finish, showing_the_front
    from sensitivity.cli.recipe_paths import choice_words
    from sensitivity.cli.render.live_search import SearchProgress
    from sensitivity.cli.signals import ending_in_order
    from sensitivity.search.store import kept_beside
    from sensitivity.workflows.select import select_recipe

    progress = SearchProgress(console, budget=0, held_out=len(spec.prompts.held_out))
    with ending_in_order(), showing_the_front(console), progress:
        outcome = select_recipe(
            spec,
            request,
            say=progress.say,
            verifying=progress.verifying,
            announced=progress.print,
        )
    if outcome.result.interrupted:
        end_interrupted(console, outcome, progress.kept())
    recipe = outcome.recipe
    names = (spec.name,) if recipe is None else (recipe.name, *choice_words(recipe))
    path = out or default_recipe(kept_beside(request.storage, spec), *names)
    named = out is not None
    finish(console, outcome, path, json_path, budget=0, named=named, show_all=show_all)
