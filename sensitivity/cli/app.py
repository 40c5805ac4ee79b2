"""What the commands share: the app that they register with, options that mean the same everywhere,
where they print, how they write JSON.

Heavy libraries are imported inside functions, so that `--help` is quick.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console

from sensitivity.cli.options import one_of, run_options
from sensitivity.cli.outputs import check_writable
from sensitivity.errors import OutputError
from sensitivity.spec.loading import resolve_spec
from sensitivity.spec.overrides import (
    RunOptions,
    random_notice,
    with_net,
    with_prompts,
    with_random_weights,
)
from sensitivity.spec.prompts import read_prompts
from sensitivity.spec.study_spec import StudySpec

if TYPE_CHECKING:
    from sensitivity.shapes.run import ShapeRun

app = typer.Typer(
    name="sensitivity",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help=(
        "Find, by measurement, which Linear layers of a diffusion transformer to quantize and which"
        " to leave in bf16."
    ),
)


def named_study(
    model: str,
    prompts: Path | None = None,
    save: Path | None = None,
    *,
    weights: str = "pretrained",
    net: str | None = None,
) -> StudySpec:
    """The study that --model means, with the prompts of a file; nothing heavy is loaded.

    Raises UserError for names, prompts and paths that cannot be.
    """
    spec = resolve_spec(model)
    one_of("--weights", weights, ("pretrained", "random"))
    spec = with_random_weights(spec) if weights == "random" else spec
    spec = with_net(spec, net) if net is not None else spec
    if spec.model.random_seed is not None:
        Console(stderr=True).print(
            f"notice: {random_notice(spec)}",
            style="yellow",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
    if prompts is not None:
        spec = with_prompts(spec, read_prompts(prompts))
    if save is not None:
        if save.suffix != ".toml":
            raise OutputError(
                f"--save-study {save} does not end in .toml; allowed is a name that --model takes:"
                f" {save.name}.toml"
            )
        check_writable(save, "--save-study")
    return spec


def complete_study(
    console: Console,
    spec: StudySpec,
    save: Path | None = None,
    *,
    options: RunOptions | None = None,
    show: bool = False,
) -> StudySpec:
    """The study with a command's options, derived where --model names none: what could not be
    derived is said, the study shown or written where that is asked.
    """
    from sensitivity.shapes.deriving import derive, save_study, study_toml
    from sensitivity.shapes.run import with_options

    spec = spec if options in (None, RunOptions()) else with_options(spec, options)
    with step(console, f"reading the configs of {spec.name}") if spec.bare else nullcontext():
        derived = derive(spec)
    said = Console(stderr=True)
    if spec.bare and show:
        said.print(
            study_toml(derived.spec, derived.heading),
            style="dim",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    else:
        for note in derived.notes:
            said.print(
                f"notice: {derived.spec.name}: {note}",
                style="yellow",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )
    if save is not None:
        said.print(
            f"study: {save_study(derived.spec, save, derived.heading)}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    return derived.spec


def with_run(spec: StudySpec, *, steps: int | None, settings: list[str] | None) -> StudySpec:
    """The study with --steps and --set.

    Raises UserError for values and arguments that its pipeline does not take.
    """
    if steps is None and not settings:
        return spec
    from sensitivity.shapes.run import with_options

    return with_options(spec, run_options(settings=settings, steps=steps))


def warn_of_rounding(console: Console, spec: StudySpec, effective: Mapping[str, object]) -> None:
    """Say where the pipeline draws another size than it was asked for."""
    for key in ("height", "width", "num_frames"):
        asked, drawn = spec.settings.get(key), effective.get(key)
        if asked is not None and drawn is not None and asked != drawn:
            console.print(
                f"warning: {key} {asked} was asked, the pipeline draws {drawn}; the shapes are"
                f" those of {drawn}",
                style="yellow",
                highlight=False,
            )


def tell_of_other_denoisers(spec: StudySpec, run: "ShapeRun") -> None:
    """Say, on stderr, that a pipeline has denoisers whose Linears are not among those of the run's
    table.
    """
    if not run.other_denoisers:
        return
    counts = (
        {part.component: part.calls for part in run.table.run.components}
        if run.table.run is not None
        else {}
    )
    others = ", ".join(f"{name} (called {counts.get(name, 0)} x)" for name in run.other_denoisers)
    Console(stderr=True).print(
        f"notice: {spec.name} has more than one denoiser; the Linears of {others} are not treated"
        f" here: `sensitivity profile --component {run.other_denoisers[0]}` shows them,"
        " `model.components` in a study TOML treats them together",
        style="yellow",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def make_console(json_path: str | None) -> Console:
    """Where a command prints; tables in a pipe are as wide as they need to be."""
    console = Console(stderr=json_path == "-")
    if not console.is_terminal:
        console.width = 140
    return console


def choose_device(name: str | None) -> str:
    import torch

    return ("cuda" if torch.cuda.is_available() else "cpu") if name is None else name


@contextmanager
def step(console: Console, text: str) -> Iterator[None]:
    with console.status(text) if console.is_terminal else nullcontext():
        yield
