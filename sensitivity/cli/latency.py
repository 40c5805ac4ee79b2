"""`latency`: what a skip-list or recipe costs on a GPU."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from sensitivity.cli.app import (
    app,
    choose_device,
    complete_study,
    make_console,
    step,
    tell_of_other_denoisers,
    warn_of_rounding,
)
from sensitivity.cli.options import (
    BatchSize,
    DeviceName,
    Frames,
    Guidance,
    Height,
    Json,
    Model,
    OneFormat,
    PromptTokens,
    Settings,
    Steps,
    Target,
    Width,
    one_of,
    run_options,
)
from sensitivity.cli.outputs import check_apart, check_writable, write_json
from sensitivity.core.format_name import FormatName, parse_formats
from sensitivity.errors import UserError
from sensitivity.spec.loading import resolve_spec
from sensitivity.spec.study_spec import StudySpec

if TYPE_CHECKING:
    from rich.console import Console

    from sensitivity.core.format_name import CompileMode
    from sensitivity.workflows.price import PriceRequest


@app.command()
def latency(
    model: Model,
    target: Target = None,
    fmt: OneFormat = None,
    skip: Annotated[
        Path | None,
        typer.Option(
            help="File of Linears that stay bf16: one exact FQN or glob a line, # comments."
        ),
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="Recipe JSON whose formats are priced.")
    ] = None,
    compare: Annotated[
        list[Path] | None,
        typer.Option(
            help=(
                "Skip file to price as well, beside none, all and the rule of thumb; may be given"
                " several times."
            )
        ),
    ] = None,
    bf16_seconds: Annotated[
        float | None,
        typer.Option(help="Measured seconds of the whole bf16 run: anchors the total."),
    ] = None,
    compile_mode: Annotated[
        str, typer.Option(help="reduce-overhead (CUDA graphs) or default.")
    ] = "reduce-overhead",
    measure: Annotated[
        str | None,
        typer.Option(
            help=(
                "Measure on this machine's GPU instead: shapes (each shape once, kept) or run (end"
                " to end)."
            )
        ),
    ] = None,
    weights: Annotated[
        str,
        typer.Option(
            help=(
                "With --measure run: pretrained (the whole pipeline) or random (full size, no"
                " download, denoiser only)."
            )
        ),
    ] = "pretrained",
    repetitions: Annotated[int, typer.Option(help="With --measure: timed runs of each row.")] = 10,
    recompile_limit: Annotated[
        int | None,
        typer.Option(
            help=(
                "With --measure run: graphs that torch may compile for each class of blocks."
                " Default: torch's own."
            )
        ),
    ] = None,
    device: DeviceName = None,
    batch_size: BatchSize = None,
    height: Height = None,
    width: Width = None,
    frames: Frames = None,
    prompt_tokens: PromptTokens = None,
    guidance: Guidance = None,
    steps: Steps = None,
    settings: Settings = None,
    json_path: Json = None,
) -> None:
    """Say what a skip-list or recipe costs on a GPU, shape by shape: predicted with an interval, or
    measured on the GPU at hand.
    """
    spec = resolve_spec(model)
    fmt_name = _one_format(fmt)
    _check_choices(
        compile_mode=compile_mode,
        measure=measure,
        weights=weights,
        repetitions=repetitions,
        recompile_limit=recompile_limit,
    )
    if skip is not None and recipe is not None:
        raise UserError(
            "--skip and --recipe are both given; allowed is one of them: both say what stays bf16"
        )
    options = run_options(
        batch_size=batch_size,
        height=height,
        width=width,
        frames=frames,
        prompt_tokens=prompt_tokens,
        guidance=guidance,
        steps=steps,
        settings=settings,
    )
    check_writable(json_path, "--json")
    check_apart(
        {"--json": json_path},
        {"--skip": skip, "--recipe": recipe}
        | {f"--compare {path}": path for path in compare or ()},
    )
    console = make_console(json_path)
    with step(console, "loading libraries"):
        from sensitivity.workflows.price import PriceRequest

    spec = complete_study(console, spec, options=options)
    request = PriceRequest(
        target=target,
        format=fmt_name,
        skip=skip,
        recipe=recipe,
        compare=tuple(compare or ()),
        bf16_seconds=bf16_seconds,
        compile_mode=cast("CompileMode", compile_mode),
        options=options,
    )
    if measure == "run":
        _measure_runs(
            console,
            spec,
            request,
            choose_device(device),
            weights,
            repetitions,
            recompile_limit,
            json_path,
        )
    else:
        _price(
            console,
            spec,
            request,
            choose_device(device) if measure else None,
            repetitions,
            json_path,
        )


def _one_format(names: list[str] | None) -> FormatName:
    """The format of a skip-list.

    Raises FormatError or UserError for unknown ones and for several.
    """
    formats = parse_formats(names or ["nvfp4"])
    if len(formats) > 1:
        raise UserError(
            f"--format is given {len(formats)} times; a skip-list has one quantized format: give"
            " one, or price a recipe with --recipe"
        )
    return formats[0]


def _check_choices(
    *,
    compile_mode: str,
    measure: str | None,
    weights: str,
    repetitions: int,
    recompile_limit: int | None,
) -> None:
    """Raise UserError for a value that an option does not have."""
    one_of("--compile-mode", compile_mode, ("reduce-overhead", "default"))
    one_of("--weights", weights, ("pretrained", "random"))
    if measure is not None:
        one_of("--measure", measure, ("shapes", "run"))
    for flag, value in (("--repetitions", repetitions), ("--recompile-limit", recompile_limit)):
        if value is not None and value < 1:
            raise UserError(f"{flag} is {value}; allowed is 1 or more")


def _price(
    console: "Console",
    spec: StudySpec,
    request: "PriceRequest",
    device: str | None,
    repetitions: int,
    json_path: str | None,
) -> None:
    """Predicted, or from shapes measured on `device`."""
    from sensitivity.cli.render.progress import ShapeProgress
    from sensitivity.cli.render.tables import compare_table, latency_table
    from sensitivity.shapes.run import with_options
    from sensitivity.workflows.price import price

    pricer = None
    with ShapeProgress(console) as progress:
        if device is not None:
            from sensitivity.core.devices import check_gpu
            from sensitivity.workflows.measure import table_pricer, target_at_hand

            check_gpu(device)
            request = dataclasses.replace(request, target=target_at_hand(device, request.target))
            pricer = table_pricer(
                spec,
                device=device,
                repetitions=repetitions,
                progress=progress.update,
                keep=progress.failures,
            )
        prices = price(spec, request, latency=pricer)
    console.print(latency_table(prices.main.estimate))
    if prices.compared:
        console.print(compare_table(prices.compared))
    warn_of_rounding(console, with_options(spec, request.options), prices.run.table.settings)
    tell_of_other_denoisers(spec, prices.run)
    for row in {id(row): row for row in (prices.main, *prices.compared)}.values():
        for pattern in row.dead:
            console.print(
                f"warning: {pattern!r} of {row.name} matches no Linear",
                style="yellow",
                markup=False,
                highlight=False,
            )
    if prices.main.notice:
        console.print(
            f"{prices.main.name}: {prices.main.notice}",
            style="yellow",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    if refused := prices.main.refused:
        text = (
            f"{len(refused)} Linears stay bf16, since {request.format} does not take their shape or"
            f" dtype: {', '.join(refused[:3])}"
        )
        console.print(
            text + (f" and {len(refused) - 3} more" if len(refused) > 3 else ""),
            style="dim",
            markup=False,
            highlight=False,
        )
    write_json(prices.to_json(), json_path)


def _measure_runs(
    console: "Console",
    spec: StudySpec,
    request: "PriceRequest",
    device: str,
    weights: str,
    repetitions: int,
    recompile_limit: int | None,
    json_path: str | None,
) -> None:
    """End to end on `device`."""
    from sensitivity.cli.render.tables import measured_table
    from sensitivity.core.devices import check_gpu
    from sensitivity.workflows.measure import measure_runs, target_at_hand
    from sensitivity.workflows.price import price

    check_gpu(device)
    target = target_at_hand(device, request.target)
    prices = price(spec, dataclasses.replace(request, target=target))
    tell_of_other_denoisers(spec, prices.run)
    runs = measure_runs(
        spec,
        prices,
        device=device,
        target=target,
        weights=cast(Literal["pretrained", "random"], weights),
        compile_mode=request.compile_mode,
        options=request.options,
        recompile_limit=recompile_limit,
        repetitions=repetitions,
        say=lambda text: console.print(text, style="dim"),
    )
    console.print(measured_table(runs))
    write_json(runs.to_json(), json_path)
