"""`calibrate`: layer sensitivities of a model, measured once and kept."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sensitivity.cli.app import app, choose_device, complete_study, make_console, named_study, step
from sensitivity.cli.options import (
    DeviceName,
    Json,
    Model,
    Net,
    Prompts,
    SaveStudy,
    Target,
    WeightsName,
    one_of,
)
from sensitivity.cli.outputs import check_apart, check_writable, write_json
from sensitivity.core.format_name import parse_formats
from sensitivity.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from sensitivity.workflows.calibrate import Calibration


@app.command()
def calibrate(
    model: Model,
    fmt: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            "-f",
            help=(
                "nvfp4, mxfp8 or fp8; may be given several times. Default: every format that the"
                " target has."
            ),
        ),
    ] = None,
    target: Target = None,
    granularity: Annotated[
        str, typer.Option(help="What is quantized together: group (role x depth band) or layer.")
    ] = "group",
    estimator: Annotated[
        str,
        typer.Option(
            help=(
                "gradient, local (cheapest), output (one group at a time) or preview (LPIPS of"
                " one-step pictures): output and preview are dear."
            )
        ),
    ] = "gradient",
    states: Annotated[
        int, typer.Option(help="Denoiser calls of a bf16 run that errors are measured on.")
    ] = 2,
    prompt_count: Annotated[
        int, typer.Option(help="Search prompts, from the first, that errors are measured on.")
    ] = 4,
    rows: Annotated[int, typer.Option(help="Rows of the table on screen; --json has all.")] = 20,
    storage: Annotated[
        Path | None,
        typer.Option(help="SQLite database of the study. Default: sensitivity-runs/<study>.db."),
    ] = None,
    prompts: Prompts = None,
    weights: WeightsName = "pretrained",
    net: Net = None,
    save_study: SaveStudy = None,
    device: DeviceName = None,
    json_path: Json = None,
) -> None:
    """Measure how much each group of Linears matters, once; every later search of the study reads
    it from the same database.
    """
    spec = named_study(model, prompts, save_study, weights=weights, net=net)
    formats = parse_formats(fmt) if fmt else None
    one_of("--granularity", granularity, ("group", "layer"))
    one_of("--estimator", estimator, ("output", "preview", "gradient", "local"))
    for flag, value in (("--states", states), ("--prompt-count", prompt_count), ("--rows", rows)):
        if value < 1:
            raise UserError(f"{flag} is {value}; allowed is 1 or more")
    check_writable(json_path, "--json")
    check_apart({"--storage": storage, "--json": json_path, "--save-study": save_study})
    console = make_console(json_path)
    with step(console, "loading libraries"):
        from sensitivity.cli.render.progress import CalibrationProgress
        from sensitivity.workflows.calibrate import CalibrationRequest, calibrate_study

    request = CalibrationRequest(
        formats=formats,
        target=target,
        granularity="layer" if granularity == "layer" else "group",
        estimator=estimator,
        states=states,
        prompts=prompt_count,
        storage=storage,
        device=choose_device(device),
    )
    spec = complete_study(console, spec, save_study)
    with CalibrationProgress(console) as progress:
        done = calibrate_study(
            spec, request, say=progress.say, started=progress.started, progress=progress.update
        )
    _show(console, done, rows)
    write_json(done.to_json(), json_path)


def _show(console: "Console", done: "Calibration", rows: int) -> None:
    """Table, heatmap of the format that damages most, and the long tail of each format."""
    from sensitivity.cli.render.sensitivities import heatmap, sensitivity_table, tail_sentence
    from sensitivity.cli.render.tables import dead_pattern_lines

    candidates, latency, cost = done.prepared.candidates, done.prepared.latency, done.cost
    scale = done.prepared.evaluator.spec.pricing.stands_for
    priced = f"{latency.source} for {latency.target}" + (
        f" at {scale} x its dimensions" if scale > 1 else ""
    )
    title = (
        f"layer sensitivities by {cost.estimator}, {cost.states} states x {cost.prompts} prompts,"
        f" one of {len(candidates.groups)} groups quantized at a time; ms a run {priced}"
    )
    console.print(sensitivity_table(done.rows, title=title, most=rows))
    for line in dead_pattern_lines(candidates.dead):
        console.print(line, style="yellow", highlight=False, markup=False, soft_wrap=True)
    formats = list(
        dict.fromkeys(row.format for row in done.rows)
    )  # the worst single row's format first
    console.print(heatmap(done.rows, candidates.fqns, formats[0], width=console.width))
    if len(formats) > 1:
        console.print(
            f"`--format {formats[1]}` maps that one (known, so it costs nothing)",
            style="dim",
            highlight=False,
            markup=False,
        )
    for name in formats:
        console.print(tail_sentence(done.rows, name), highlight=False, markup=False, soft_wrap=True)
