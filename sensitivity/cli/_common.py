"""What the commands share: the app that they register with, options that mean the same everywhere, where they print, how they write JSON.

Heavy libraries are imported inside functions, so that `--help` is quick.
"""

import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from sensitivity.dry_runs import random_notice, with_net, with_random_weights
from sensitivity.errors import OutputError, UserError
from sensitivity.prompts import read_prompts
from sensitivity.spec import RunOptions, StudySpec, resolve_spec, with_prompts

if TYPE_CHECKING:
    from sensitivity.skeleton import ShapeRun

app = typer.Typer(
    name="sensitivity", no_args_is_help=True, add_completion=True, pretty_exceptions_enable=False, rich_markup_mode="rich",
    help="Find, by measurement, which Linear layers of a diffusion transformer to quantize and which to leave in bf16.",
)  # fmt: skip

Model = Annotated[
    str, typer.Option("--model", "-m", help="A study's name, a study TOML, a diffusers pipeline folder, or a Hub id org/name.")
]
Formats = Annotated[
    list[str] | None,
    typer.Option("--format", "-f", help="nvfp4, mxfp8 or fp8; given several times, each group chooses among them. Default: nvfp4."),
]
OneFormat = Annotated[
    list[str] | None,  # several are refused with a message; of one text, the last would win in silence
    typer.Option(
        "--format", "-f", help="nvfp4, mxfp8 or fp8, given once: what Linears that are not skipped are quantized to. Default: nvfp4."
    ),
]
Json = Annotated[
    str | None, typer.Option("--json", help="Write the result as JSON to this path; '-' for stdout, everything else then goes to stderr.")
]
DeviceName = Annotated[
    str | None, typer.Option("--device", help="Where torch runs: cpu, cuda, cuda:N. Default: cuda if there is one, else cpu.")
]
Compile = Annotated[
    bool | None,
    typer.Option(
        "--compile/--no-compile",
        help="Compile the denoiser's blocks while pictures are drawn. Default: on a GPU, from 1 billion parameters on.",
    ),
]
Target = Annotated[str | None, typer.Option("--target", "-t", help="The GPU that is priced, such as b200. Default: the study's.")]


BatchSize = Annotated[int | None, typer.Option(help="Pictures or videos in one run. Default: the study's priced batch size.")]
Height = Annotated[int | None, typer.Option(help="Height in pixels. Default: the study's.")]
Width = Annotated[int | None, typer.Option(help="Width in pixels. Default: the study's.")]
Frames = Annotated[int | None, typer.Option(help="Frames of a video. Default: the study's.")]
PromptTokens = Annotated[
    int | None, typer.Option(help="Text tokens of the prompt, where the pipeline does not pad to a fixed length. Default: the study's.")
]
Guidance = Annotated[float | None, typer.Option(help="Guidance scale; 1 or less turns off classifier-free guidance. Default: the study's.")]
Steps = Annotated[int | None, typer.Option(help="Denoising steps of a run. Default: the study's.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="Another argument of the pipeline's call as KEY=VALUE; may be given several times.")
]


Prompts = Annotated[
    Path | None,
    typer.Option(
        "--prompts",
        help="Prompts of your own instead of the study's: a text file with one a line (# comments), of which a third, 4 to 16, evenly spread over the file, "
        "choose and the others are held out (8 or more in all); or a TOML with search = [...] and held_out = [...].",
    ),
]
WeightsName = Annotated[
    str,
    typer.Option(
        "--weights",
        help="pretrained, or random: nothing is read or downloaded, the full-size model is drawn from a seed on the device. For dry runs: its scores mean nothing.",
    ),
]
Net = Annotated[
    str | None,
    typer.Option(
        "--net",
        help="LPIPS net: alex, vgg, squeeze (trunks are downloaded once), or tiny, which comes with the package, trained on drawn scenes. Default: the study's.",
    ),
]
SaveStudy = Annotated[
    Path | None,
    typer.Option(
        "--save-study",
        help="Write the study, as derived from the model or with your prompts, to this TOML, which --model takes. No other file is replaced.",
    ),
]


def named_study(
    model: str, prompts: Path | None = None, save: Path | None = None, *, weights: str = "pretrained", net: str | None = None
) -> StudySpec:
    """The study that --model means, with the prompts of a file; nothing heavy is loaded. Raises UserError for names, prompts and paths that cannot be."""
    spec = resolve_spec(model)
    one_of("--weights", weights, ("pretrained", "random"))
    spec = with_random_weights(spec) if weights == "random" else spec
    spec = with_net(spec, net) if net is not None else spec
    if spec.model.random_seed is not None:
        Console(stderr=True).print(f"notice: {random_notice(spec)}", style="yellow", highlight=False, markup=False, soft_wrap=True)
    if prompts is not None:
        spec = with_prompts(spec, read_prompts(prompts))
    if save is not None:
        if save.suffix != ".toml":
            raise OutputError(f"--save-study {save} does not end in .toml; allowed is a name that --model takes: {save.name}.toml")
        check_writable(save, "--save-study")
    return spec


def complete_study(
    console: Console, spec: StudySpec, save: Path | None = None, *, options: RunOptions | None = None, show: bool = False
) -> StudySpec:
    """The study with a command's options, derived where --model names none: what could not be derived is said, the study shown or written where that is asked."""
    from sensitivity.deriving import derive, save_study, study_toml
    from sensitivity.skeleton import with_options

    spec = spec if options in (None, RunOptions()) else with_options(spec, options)
    with step(console, f"reading the configs of {spec.name}") if spec.bare else nullcontext():
        derived = derive(spec)
    said = Console(stderr=True)
    if spec.bare and show:
        said.print(study_toml(derived.spec, derived.heading), style="dim", markup=False, highlight=False, soft_wrap=True)
    else:
        for note in derived.notes:
            said.print(f"notice: {derived.spec.name}: {note}", style="yellow", markup=False, highlight=False, soft_wrap=True)
    if save is not None:
        said.print(f"study: {save_study(derived.spec, save, derived.heading)}", markup=False, highlight=False, soft_wrap=True)
    return derived.spec


def run_options(*, settings: list[str] | None, **options: Any) -> RunOptions:
    """What the options above say, as the library takes it."""
    return RunOptions(settings=tuple(settings or ()), **options)


def with_run(spec: StudySpec, *, steps: int | None, settings: list[str] | None) -> StudySpec:
    """The study with --steps and --set. Raises UserError for values and arguments that its pipeline does not take."""
    if steps is None and not settings:
        return spec
    from sensitivity.skeleton import with_options

    return with_options(spec, run_options(settings=settings, steps=steps))


def warn_of_rounding(console: Console, spec: StudySpec, effective: Mapping[str, object]) -> None:
    """Say where the pipeline draws another size than it was asked for."""
    for key in ("height", "width", "num_frames"):
        asked, drawn = spec.settings.get(key), effective.get(key)
        if asked is not None and drawn is not None and asked != drawn:
            console.print(
                f"warning: {key} {asked} was asked, the pipeline draws {drawn}; the shapes are those of {drawn}",
                style="yellow",
                highlight=False,
            )


def tell_of_other_denoisers(spec: StudySpec, run: "ShapeRun") -> None:
    """Say, on stderr, that a pipeline has denoisers whose Linears are not among those of the run's table."""
    if not run.other_denoisers:
        return
    counts = {part.component: part.calls for part in run.table.run.components} if run.table.run is not None else {}
    others = ", ".join(f"{name} (called {counts.get(name, 0)} x)" for name in run.other_denoisers)
    Console(stderr=True).print(
        f"notice: {spec.name} has more than one denoiser; the Linears of {others} are not treated here: `sensitivity profile --component "
        f"{run.other_denoisers[0]}` shows them, `model.components` in a study TOML treats them together",
        style="yellow", highlight=False, markup=False, soft_wrap=True,
    )  # fmt: skip


def make_console(json_path: str | None) -> Console:
    """Where a command prints; tables in a pipe are as wide as they need to be."""
    console = Console(stderr=json_path == "-")
    if not console.is_terminal:
        console.width = 140
    return console


def write_json(data: dict[str, Any], path: str | None) -> None:
    if path is None:
        return
    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if path == "-":
        sys.stdout.write(text)
        return
    from sensitivity.strict_json import write_whole

    write_whole(path, text.encode())


def check_writable(path: Path | str | None, flag: str) -> None:
    """Raise OutputError now rather than after minutes of work."""
    if path is None or path == "-":
        return
    path = Path(path)
    folder = path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{flag} {path}: the folder {folder} cannot be made ({error.strerror}); name a path in a folder that can be written"
        ) from None
    if path.exists() and not path.is_file():
        reason = "is a folder" if path.is_dir() else "is not a regular file"
        raise OutputError(f"{flag} {path} {reason}; name a file in a folder that can be written")
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OutputError(
            f"{flag} {path} lies in {folder}, which cannot be written ({error.strerror}); name a file in a folder that can be written"
        ) from None


def check_apart(outputs: Mapping[str, Path | str | None], inputs: Mapping[str, Path | None] | None = None) -> None:
    """Raise OutputError where a result would replace another, or what the command reads. Both are {flag: path}; "-" is stdout."""
    seen = {os.path.realpath(path): flag for flag, path in (inputs or {}).items() if path is not None}
    for flag, path in outputs.items():
        if path not in (None, "-") and (other := seen.setdefault(os.path.realpath(path), flag)) != flag:
            raise OutputError(f"{flag} {path} is the file of {other}; allowed is a file for each: name another")


def choose_device(name: str | None) -> str:
    import torch

    return ("cuda" if torch.cuda.is_available() else "cpu") if name is None else name


@contextmanager
def step(console: Console, text: str) -> Iterator[None]:
    with console.status(text) if console.is_terminal else nullcontext():
        yield


def one_of(flag: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UserError(f"{flag} is {value!r}; allowed are {', '.join(allowed)}: choose one of them")
