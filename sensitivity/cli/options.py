"""Options that several commands share, and the record that options of a run become.

An option that has a fixed set of values is a Literal, or an Enum where it may be given several
times: typer checks and completes both.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sensitivity.cli.format_choice import QuantizedFormat
from sensitivity.core.arithmetic import Arithmetic
from sensitivity.core.format_name import (
    CompileMode,
    FormatName,
    Granularity,
    Source,
    parse_formats,
)
from sensitivity.errors import UserError

if TYPE_CHECKING:
    from sensitivity.spec.overrides import RunOptions

Net = Literal["tiny", "alex", "vgg", "squeeze"]
WeightsChoice = Literal["pretrained", "random"]


def at_least_one(value: int | None) -> int | None:
    """Callback of an option that counts something."""
    from sensitivity.spec.overrides import MAX_COUNT

    if value is not None and not 1 <= value <= MAX_COUNT:
        raise typer.BadParameter(f"found {value}, expected 1 to {MAX_COUNT}")
    return value


# --- what is studied -------------------------------------------------------------------------

Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="A study's name, a study TOML, a diffusers pipeline folder, or a Hub id org/name.",
    ),
]
Prompts = Annotated[
    Path | None,
    typer.Option(
        "--prompts",
        help=(
            "Prompts of your own instead of the study's: a text file with one a line (# comments),"
            " or a .csv, .tsv, .json or .jsonl with a column or field such as prompt or caption; 8"
            " or more. A third of them, 4 to 16, evenly spread over the file, choose and the others"
            " are held out. A TOML has search = [...] and held_out = [...]."
        ),
    ),
]
Weights = Annotated[
    WeightsChoice,
    typer.Option(
        "--weights",
        help=(
            "pretrained, or random: nothing is read or downloaded, the full-size model gets random"
            " weights from a seed. For dry runs: its scores mean nothing."
        ),
    ),
]
LpipsNet = Annotated[
    Net | None,
    typer.Option(
        "--net",
        help=(
            "LPIPS net. The trunks of alex, vgg and squeeze are downloaded once; tiny comes with"
            " the package, trained on synthetic scenes. Default: the study's."
        ),
    ),
]
SaveStudy = Annotated[
    Path | None,
    typer.Option(
        "--save-study",
        help=(
            "Write the study, as derived from the model or with your prompts, to this TOML, which"
            " --model takes. No other file is replaced."
        ),
    ),
]

# --- formats and the GPU ---------------------------------------------------------------------

Formats = Annotated[
    list[QuantizedFormat] | None,
    typer.Option(
        "--format",
        "-f",
        help="May be given several times: each group chooses among them. Default: nvfp4.",
    ),
]
OneFormat = Annotated[
    # a list, since of several given to a plain option the last would win in silence
    list[QuantizedFormat] | None,
    typer.Option(
        "--format",
        "-f",
        help="Given once: what Linears that are not skipped are quantized to. Default: nvfp4.",
    ),
]
ArithmeticName = Annotated[
    Arithmetic | None,
    typer.Option(
        "--arithmetic",
        help=(
            "Whose quantized numbers are computed: eager torchao; compiled torchao (torch.compile);"
            " or torchao with mslk's NVFP4 quantizer and native epilogue. Quality only. Default:"
            " mslk where NVFP4 runs natively with it, else eager."
        ),
    ),
]
Emulate = Annotated[
    bool,
    typer.Option(
        "--emulate",
        help=(
            "Draw pictures by emulation also in formats that the GPU has. Default: such formats run"
            " by the kernels that will serve the model, others by emulation."
        ),
    ),
]
GroupsOrLayers = Annotated[
    Granularity,
    typer.Option(
        "--granularity", help="What changes format together: group (role x depth band) or layer."
    ),
]
Consumers = Annotated[
    list[str] | None,
    typer.Option(
        "--for",
        help=(
            "A tool that will serve the model, such as sglang; may be given several times. Only"
            " what each of them can express is proposed, so that the recipe exports as it is."
        ),
    ),
]
Target = Annotated[
    str | None,
    typer.Option(
        "--target",
        "-t",
        help=(
            "The GPU that is priced, such as b200, or the path of a device TOML or of the JSON that"
            " `sensitivity device measure` wrote. Default: the study's."
        ),
    ),
]
LatencySource = Annotated[
    Source | None,
    typer.Option(
        "--latency",
        help=(
            "measured: every shape is timed once on the GPU at hand, and its times are kept;"
            " predicted: the price model's. Default: measured where the target is the GPU at hand"
            " and runs every format natively, else predicted."
        ),
    ),
]
CompileModeName = Annotated[
    CompileMode,
    typer.Option(
        "--compile-mode", help="reduce-overhead (CUDA graphs) or default, as torch.compile has it."
    ),
]
CompileModeChoice = Annotated[
    CompileMode | None,
    typer.Option(
        "--compile-mode",
        help=(
            "reduce-overhead (CUDA graphs, the default) or default, as torch.compile has it; names"
            " the --runtime that compiles blocks so."
        ),
    ),
]
RuntimeName = Annotated[
    str | None,
    typer.Option(
        "--runtime",
        help=(
            "How the priced run is run: torchao-graphs (compiled blocks, each in a CUDA graph; the"
            " default), torchao-compiled (without graphs), torchao-step-graph (one CUDA graph for"
            " a denoiser call), torchao-eager (nothing compiled)."
        ),
    ),
]
DeviceName = Annotated[
    str | None,
    typer.Option(
        "--device",
        help="Where torch runs: cpu, cuda, cuda:N. Default: cuda if there is one, else cpu.",
    ),
]
Compile = Annotated[
    bool | None,
    typer.Option(
        "--compile/--no-compile",
        help=(
            "Compile the denoiser's blocks while pictures are generated. Default: on a GPU, from 1"
            " billion parameters on."
        ),
    ),
]

# --- the run ---------------------------------------------------------------------------------

BatchSize = Annotated[
    int | None,
    typer.Option(help="Pictures or videos in one run. Default: the study's priced batch size."),
]
Height = Annotated[int | None, typer.Option(help="Height in pixels. Default: the study's.")]
Width = Annotated[int | None, typer.Option(help="Width in pixels. Default: the study's.")]
Frames = Annotated[int | None, typer.Option(help="Frames of a video. Default: the study's.")]
PromptTokens = Annotated[
    int | None,
    typer.Option(
        help=(
            "Text tokens of the prompt, where the pipeline does not pad to a fixed length. Default:"
            " the study's."
        )
    ),
]
Guidance = Annotated[
    float | None,
    typer.Option(
        help="Guidance scale; 1 or less turns off classifier-free guidance. Default: the study's."
    ),
]
Steps = Annotated[int | None, typer.Option(help="Denoising steps of a run. Default: the study's.")]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Another argument of the pipeline's call as KEY=VALUE, VALUE being a number, true,"
        " false, null, a list such as [7, 7, 3], or a text; or any key of the study with its"
        " section, such as search.chunk=4 (`models show` lists them). May be given several times.",
    ),
]

# --- bounds on the winner --------------------------------------------------------------------

MaxLpips = Annotated[
    float | None,
    typer.Option(help="Choose the fastest skip-list with at most this mean LPIPS."),
]
MaxTypical = Annotated[
    float | None,
    typer.Option(
        help=(
            "Choose the fastest skip-list with at most this typical LPIPS (geometric mean over"
            " prompts)."
        )
    ),
]
MaxFlips = Annotated[
    int | None,
    typer.Option(
        help=(
            "Choose the fastest skip-list with which at most this many prompts become another"
            " picture."
        )
    ),
]
MinSpeedup = Annotated[
    float | None,
    typer.Option(
        help=(
            "Choose the skip-list of least typical LPIPS with at least this speedup, such as 1.3;"
            " with a bound on LPIPS or flips the fastest."
        )
    ),
]
MaxSeconds = Annotated[
    float | None,
    typer.Option(
        help=(
            "Choose the skip-list of least typical LPIPS with at most these priced seconds a run;"
            " with a bound on LPIPS or flips the fastest."
        )
    ),
]

# --- files -----------------------------------------------------------------------------------

RecipeFile = Annotated[Path, typer.Argument(help="Recipe JSON, as `search` writes it.")]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        help="Recipe file. Default: <study>-<formats>-<target>.json beside the database.",
    ),
]
KeepPictures = Annotated[
    int,
    typer.Option(
        "--keep-pictures",
        min=0,
        help=(
            "Prompts of each verified list whose pictures are kept beside the database, for"
            " `sensitivity report`; 0 keeps none."
        ),
    ),
]
ShowAll = Annotated[
    bool,
    typer.Option(
        "--all",
        help=(
            "Below the verdict, print what it rests on: the front, what judges say, lists that"
            " were timed, and Linears that were not searched."
        ),
    ),
]
Json = Annotated[
    str | None,
    typer.Option(
        "--json",
        help=(
            "Write the result as JSON to this path; '-' for stdout, everything else then goes to"
            " stderr."
        ),
    ),
]
Force = Annotated[
    bool,
    typer.Option(
        "--force",
        help="Replace files that this program did not write. A database is never replaced.",
    ),
]
"""Read by `app.Command`, which checks a command's files before the command's function runs."""


def run_options(
    batch_size: int | None = None,
    height: int | None = None,
    width: int | None = None,
    frames: int | None = None,
    prompt_tokens: int | None = None,
    guidance: float | None = None,
    steps: int | None = None,
    settings: list[str] | None = None,
) -> "RunOptions":
    """The record of a run's options, as the library takes it."""
    from sensitivity.spec.overrides import RunOptions

    return RunOptions(
        batch_size=batch_size,
        height=height,
        width=width,
        frames=frames,
        prompt_tokens=prompt_tokens,
        guidance=guidance,
        steps=steps,
        settings=tuple(settings or ()),
    )


def one_format(names: list[QuantizedFormat] | None, instead: str) -> FormatName:
    """The format of a list that has one; nvfp4 by default.

    Raises:
        UserError: several are given; `instead` is the next step.
    """
    formats = parse_formats(names or [QuantizedFormat.NVFP4])
    if len(formats) > 1:
        raise UserError(f"--format is given {len(formats)} times; expected one: {instead}")
    return formats[0]


def choose_device(name: str | None) -> str:
    """The device that was asked for; by default a GPU if torch sees one, else the CPU."""
    import torch

    return ("cuda" if torch.cuda.is_available() else "cpu") if name is None else name
