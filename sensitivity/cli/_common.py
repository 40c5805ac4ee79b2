"""What the commands share: the app that they register with, options that mean the same everywhere, where they print, how they write JSON.

Heavy libraries are imported inside functions, so that `--help` is quick.
"""

import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from sensitivity.errors import OutputError, UserError
from sensitivity.spec import RunOptions, StudySpec

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


def run_options(*, settings: list[str] | None, **options: Any) -> RunOptions:
    """What the options above say, as the library takes it."""
    return RunOptions(settings=tuple(settings or ()), **options)


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
        f"{run.other_denoisers[0]}` shows them, `model.component` in a study TOML chooses for all commands",
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


def check_apart(files: dict[str, Path | None]) -> None:
    """Raise OutputError where two options name one file: the later result would replace the earlier one."""
    seen: dict[Path, str] = {}
    for flag, path in files.items():
        if path is not None and (other := seen.setdefault(path.resolve(), flag)) != flag:
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
