"""`sensitivity latency`: what a skip-list or a recipe costs on a GPU."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from sensitivity.cli.app import command
from sensitivity.cli.options import (
    BatchSize,
    CompileModeChoice,
    DeviceName,
    Frames,
    Guidance,
    Height,
    Json,
    Model,
    OneFormat,
    PromptTokens,
    RuntimeName,
    Settings,
    Steps,
    Target,
    WeightsChoice,
    Width,
    at_least_one,
    choose_device,
    one_format,
    run_options,
)
from sensitivity.cli.outputs import write_json
from sensitivity.cli.screen import make_console, print_line, print_warning, step
from sensitivity.cli.study import (
    complete_study,
    find_study,
    tell_of_other_denoisers,
    warn_of_rounding,
)
from sensitivity.core.format_name import FormatName
from sensitivity.core.words import and_more
from sensitivity.errors import UserError

if TYPE_CHECKING:
    from sensitivity.latency.pricer import PricedList
    from sensitivity.spec.study_spec import StudySpec
    from sensitivity.workflows.price import PriceRequest, Prices

Skip = Annotated[
    Path | None,
    typer.Option(help="File of Linears that stay bf16: one exact FQN or glob a line, # comments."),
]
RecipeToPrice = Annotated[Path | None, typer.Option(help="Recipe JSON whose formats are priced.")]
Compare = Annotated[
    list[Path] | None,
    typer.Option(
        help=(
            "Skip file to price as well, beside none, all and the rule of thumb; may be given"
            " several times."
        )
    ),
]
Bf16Seconds = Annotated[
    float | None,
    typer.Option(help="Measured seconds of the whole bf16 run: anchors the total."),
]
Measure = Annotated[
    Literal["shapes", "run"] | None,
    typer.Option(
        help=(
            "Measure on this machine's GPU instead: shapes (each shape once, kept) or run (end to"
            " end)."
        )
    ),
]
WeightsToRun = Annotated[
    WeightsChoice,
    typer.Option(
        "--weights",
        help=(
            "With --measure run: pretrained (the whole pipeline) or random (full size, no"
            " download, denoiser only)."
        ),
    ),
]
Repetitions = Annotated[
    int, typer.Option(callback=at_least_one, help="With --measure: how often each row is timed.")
]
RecompileLimit = Annotated[
    int | None,
    typer.Option(
        callback=at_least_one,
        help=(
            "With --measure run: graphs that torch may compile for each class of blocks. Default:"
            " torch's own."
        ),
    ),
]


@command
def latency(
    model: Model,
    target: Target = None,
    fmt: OneFormat = None,
    skip: Skip = None,
    recipe: RecipeToPrice = None,
    compare: Compare = None,
    bf16_seconds: Bf16Seconds = None,
    compile_mode: CompileModeChoice = None,
    runtime: RuntimeName = None,
    measure: Measure = None,
    weights: WeightsToRun = "pretrained",
    repetitions: Repetitions = 10,
    recompile_limit: RecompileLimit = None,
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
    """Say what a skip-list or recipe costs on a GPU, shape by shape.

    Times are predicted, with an interval, or measured on the GPU at hand.
    """
    spec = find_study(model)
    fmt_name = one_format(fmt, "give one, or price a recipe with --recipe")
    if skip is not None and recipe is not None:
        raise UserError(
            "--skip and --recipe are both given, and both say what stays bf16; expected one of them"
        )
    options = run_options(
        batch_size, height, width, frames, prompt_tokens, guidance, steps, settings
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
        compile_mode=compile_mode,
        runtime=runtime,
        options=options,
    )
    timing = _Timing(choose_device(device) if measure else "", repetitions)
    if measure == "run":
        _measure_runs(console, spec, request, timing, weights, recompile_limit, json_path)
    else:
        _price(console, spec, request, timing if measure else None, json_path)


@dataclass(frozen=True, slots=True)
class _Timing:
    """Where times are measured, and how often each row is."""

    device: str
    repetitions: int


def _price(
    console: Console,
    spec: "StudySpec",
    request: "PriceRequest",
    timing: _Timing | None,
    json_path: str | None,
) -> None:
    """Predicted, or from shapes that are measured where `timing` says."""
    from sensitivity.cli.render.progress import ShapeProgress
    from sensitivity.workflows.price import price

    pricer = None
    with ShapeProgress(console) as progress:
        if timing is not None:
            from sensitivity.core.devices import check_device
            from sensitivity.workflows.latency_source import target_at_hand
            from sensitivity.workflows.shape_table import table_pricer

            check_device(timing.device, gpu_only=True)
            target = target_at_hand(timing.device, request.target)
            request = dataclasses.replace(request, target=target)
            pricer = table_pricer(
                spec,
                device=timing.device,
                repetitions=timing.repetitions,
                measuring=progress.measuring,
            )
        prices = price(spec, request, latency=pricer)
    _show(console, prices, request)
    warn_of_rounding(console, prices.spec, prices.run.table.settings)
    tell_of_other_denoisers(spec, prices.run)
    write_json(prices.to_json(), json_path)


def _show(console: Console, prices: "Prices", request: "PriceRequest") -> None:
    """The tables, and what of the lists was not understood or not taken."""
    from sensitivity.cli.render.priced import compare_table, latency_table

    main = prices.main
    console.print(latency_table(main.estimate))
    if prices.compared:
        console.print()
        console.print(compare_table(prices.compared))
    for row in {id(row): row for row in (main, *prices.compared)}.values():
        for pattern in row.dead:
            print_warning(console, f"{pattern!r} of {row.name} matches no Linear")
    if main.notice:
        print_line(console, f"{main.name}: {main.notice}", style="yellow")
    _tell_refused(console, main, request.format)


def _tell_refused(console: Console, main: "PricedList", name: FormatName) -> None:
    """The Linears of a list that stay bf16 though it quantizes them, with the reasons."""
    by_format = [fqn for fqn, why in main.refused.items() if f"{name} " in why]
    if by_format:
        print_line(
            console,
            f"{len(by_format)} Linears stay bf16, since {name} does not take their shape or dtype:"
            f" {and_more(by_format, most=3)}",
            style="dim",
        )
    others = {fqn: why for fqn, why in main.refused.items() if fqn not in by_format}
    for reason in dict.fromkeys(others.values()):
        fqns = [fqn for fqn, why in others.items() if why == reason]
        print_warning(console, f"{len(fqns)} Linears stay bf16, {reason}: {and_more(fqns, most=3)}")


def _measure_runs(
    console: Console,
    spec: "StudySpec",
    request: "PriceRequest",
    timing: _Timing,
    weights: WeightsChoice,
    recompile_limit: int | None,
    json_path: str | None,
) -> None:
    """End to end, where `timing` says."""
    from sensitivity.cli.render.measured import measured_table
    from sensitivity.core.devices import check_device
    from sensitivity.workflows.latency_source import target_at_hand
    from sensitivity.workflows.measure import measure_runs
    from sensitivity.workflows.price import price

    check_device(timing.device, gpu_only=True)
    target = target_at_hand(timing.device, request.target)
    prices = price(spec, dataclasses.replace(request, target=target))
    tell_of_other_denoisers(spec, prices.run)
    runs = measure_runs(
        prices,
        device=timing.device,
        target=target,
        weights=weights,
        runtime=request.way,
        recompile_limit=recompile_limit,
        repetitions=timing.repetitions,
        say=lambda text: print_line(console, text, style="dim"),
    )
    console.print(measured_table(runs))
    _tell_refused(console, prices.main, request.format)
    write_json(runs.to_json(), json_path)
