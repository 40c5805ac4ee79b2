"""`sensitivity calibrate`: layer sensitivities of a model, measured once and kept."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from sensitivity.cli.app import command
from sensitivity.cli.file_checks import check_writable, keep_database_apart
from sensitivity.cli.format_choice import QuantizedFormat
from sensitivity.cli.options import (
    ArithmeticName,
    DeviceName,
    Emulate,
    GroupsOrLayers,
    Json,
    LatencySource,
    LpipsNet,
    Model,
    Prompts,
    SaveStudy,
    Target,
    Weights,
    at_least_one,
    choose_device,
)
from sensitivity.cli.outputs import write_json
from sensitivity.cli.screen import make_console, print_line, step
from sensitivity.cli.storage_option import Storage, named_storage
from sensitivity.cli.study import complete_study, named_study
from sensitivity.core.format_name import parse_formats
from sensitivity.core.kernels import in_words

if TYPE_CHECKING:
    from sensitivity.workflows.calibrate import Calibration

EveryFormat = Annotated[
    list[QuantizedFormat] | None,
    typer.Option(
        "--format",
        "-f",
        help="May be given several times. Default: every format that the target has.",
    ),
]
EstimatorChoice = Literal["rollout", "gradient", "local", "output", "preview"]
Estimator = Annotated[
    EstimatorChoice | None,
    typer.Option(
        help=(
            "rollout, latents after the first steps, one group at a time; gradient; local, the"
            " cheapest; output, one group at a time; preview, LPIPS of one-step pictures. Default:"
            " rollout; gradient where rollout costs more than 12.5 trials."
        )
    ),
]
States = Annotated[
    int | None,
    typer.Option(
        callback=at_least_one,
        help=(
            "Denoiser calls of a bf16 run that errors are measured on, or of rollout the first"
            " steps of a run. Default: 2; half of the steps."
        ),
    ),
]
PromptCount = Annotated[
    int | None,
    typer.Option(
        callback=at_least_one,
        help=(
            "Search prompts, from the first, that errors are measured on. Default: 4; of rollout 2."
        ),
    ),
]
Rows = Annotated[
    int, typer.Option(callback=at_least_one, help="Rows of the table on screen; --json has all.")
]


@command
def calibrate(
    model: Model,
    fmt: EveryFormat = None,
    target: Target = None,
    latency: LatencySource = None,
    granularity: GroupsOrLayers = "group",
    arithmetic: ArithmeticName = None,
    emulate: Emulate = False,
    estimator: Estimator = None,
    states: States = None,
    prompt_count: PromptCount = None,
    rows: Rows = 20,
    storage: Storage = None,
    prompts: Prompts = None,
    weights: Weights = "pretrained",
    net: LpipsNet = None,
    save_study: SaveStudy = None,
    device: DeviceName = None,
    json_path: Json = None,
) -> None:
    """Measure how much each group of Linears matters, once.

    Every later search of the study reads the result from the same database.
    """
    spec = named_study(model, prompts, save_study, weights=weights, net=net)
    formats = parse_formats(fmt) if fmt else None
    if isinstance(named := named_storage(storage), Path):
        check_writable(named, "--storage")
    console = make_console(json_path)
    with step(console, "loading libraries"):
        from sensitivity.cli.render.progress import CalibrationProgress
        from sensitivity.search.store import default_storage
        from sensitivity.workflows.calibrate import CalibrationRequest, calibrate_study

    keep_database_apart(named or default_storage(spec), "--storage")
    request = CalibrationRequest(
        formats=formats,
        arithmetic=arithmetic,
        emulate=emulate,
        target=target,
        latency=latency,
        granularity=granularity,
        estimator=estimator,
        states=states,
        prompts=prompt_count,
        storage=named,
        device=choose_device(device),
    )
    spec = complete_study(console, spec, save_study)
    with CalibrationProgress(console) as progress:
        done = calibrate_study(
            spec,
            request,
            say=progress.say,
            started=progress.started,
            progress=progress.update,
            measuring=progress.measuring,
        )
    _show(console, done, rows)
    write_json(done.to_json(), json_path)


def _show(console: Console, done: "Calibration", rows: int) -> None:
    """Table, heatmap of the format that damages most, and the long tail of each format."""
    from sensitivity.cli.render.candidates import dead_pattern_lines
    from sensitivity.cli.render.priced import at_scale
    from sensitivity.cli.render.sensitivities import heatmap, sensitivity_table, tail_sentence

    candidates, latency, cost = done.prepared.candidates, done.prepared.latency, done.cost
    scale = done.prepared.evaluator.spec.pricing.stands_for
    title = (
        f"layer sensitivities by {cost.estimator}, {cost.states} {cost.inputs} x {cost.prompts}"
        f" prompts, one of {len(candidates.groups)} groups quantized at a time"
        f" {in_words(done.kernels)};"
        f" ms a run {latency.source} for {latency.target}{at_scale(scale)}"
    )
    console.print(sensitivity_table(done.rows, title=title, most=rows))
    for line in dead_pattern_lines(candidates.dead):
        print_line(console, line, style="yellow")
    formats = list(dict.fromkeys(row.format for row in done.rows))  # that of the worst row first
    console.print(heatmap(done.rows, candidates.fqns, formats[0], width=console.width))
    if len(formats) > 1:
        print_line(
            console,
            f"`--format {formats[1]}` maps that one (known, so it costs nothing)",
            style="dim",
        )
    for name in formats:
        print_line(console, tail_sentence(done.rows, name))
