"""Options that several commands share."""

from pathlib import Path
from typing import Annotated, Any

import typer

from sensitivity.errors import UserError
from sensitivity.spec.overrides import RunOptions

Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="A study's name, a study TOML, a diffusers pipeline folder, or a Hub id org/name.",
    ),
]
Formats = Annotated[
    list[str] | None,
    typer.Option(
        "--format",
        "-f",
        help=(
            "nvfp4, mxfp8 or fp8; given several times, each group chooses among them. Default:"
            " nvfp4."
        ),
    ),
]
OneFormat = Annotated[
    list[str]
    | None,  # several are refused with a message; of one text, the last would win in silence
    typer.Option(
        "--format",
        "-f",
        help=(
            "nvfp4, mxfp8 or fp8, given once: what Linears that are not skipped are quantized to."
            " Default: nvfp4."
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
            "Compile the denoiser's blocks while pictures are drawn. Default: on a GPU, from 1"
            " billion parameters on."
        ),
    ),
]
Target = Annotated[
    str | None,
    typer.Option(
        "--target", "-t", help="The GPU that is priced, such as b200. Default: the study's."
    ),
]


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
        help="Another argument of the pipeline's call as KEY=VALUE; may be given several times.",
    ),
]


Prompts = Annotated[
    Path | None,
    typer.Option(
        "--prompts",
        help=(
            "Prompts of your own instead of the study's: a text file with one a line (# comments),"
            " of which a third, 4 to 16, evenly spread over the file, choose and the others are"
            " held out (8 or more in all); or a TOML with search = [...] and held_out = [...]."
        ),
    ),
]
WeightsName = Annotated[
    str,
    typer.Option(
        "--weights",
        help=(
            "pretrained, or random: nothing is read or downloaded, the full-size model is drawn"
            " from a seed on the device. For dry runs: its scores mean nothing."
        ),
    ),
]
Net = Annotated[
    str | None,
    typer.Option(
        "--net",
        help=(
            "LPIPS net: alex, vgg, squeeze (trunks are downloaded once), or tiny, which comes with"
            " the package, trained on drawn scenes. Default: the study's."
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


def run_options(*, settings: list[str] | None, **options: Any) -> RunOptions:
    """What the options above say, as the library takes it."""
    return RunOptions(settings=tuple(settings or ()), **options)


def one_of(flag: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UserError(
            f"{flag} is {value!r}; allowed are {', '.join(allowed)}: choose one of them"
        )
