"""`sensitivity device`: which GPUs can be priced; and measuring the one at hand."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console

from sensitivity.cli.app import command
from sensitivity.cli.file_checks import check_output
from sensitivity.cli.format_choice import QuantizedFormat
from sensitivity.cli.options import (
    CompileModeName,
    DeviceName,
    Json,
    choose_device,
)
from sensitivity.cli.outputs import write_file, write_json
from sensitivity.cli.screen import make_console, print_line
from sensitivity.core.format_name import parse_formats
from sensitivity.errors import UserError

if TYPE_CHECKING:
    from sensitivity.latency.targets.target_file import TargetFile
    from sensitivity.workflows.device_measure import DeviceRequest

Action = Annotated[
    Literal["list", "measure"],
    typer.Argument(
        help="list: the GPUs that can be priced. measure: time the GPU at hand, for a target file."
    ),
]
Quick = Annotated[
    bool, typer.Option("--quick", help="Measure for 3 minutes instead of 10: fewer shapes.")
]
Minutes = Annotated[
    float | None,
    typer.Option(
        min=0.5, max=600, help="Minutes that the measurement may take. Default: 10, 3 with --quick."
    ),
]
Name = Annotated[
    str | None,
    typer.Option(help="What the target is called. Default: the chip's name, such as h100."),
]
MeasuredFormats = Annotated[
    list[QuantizedFormat] | None,
    typer.Option(
        "--format",
        "-f",
        help=(
            "May be given several times: the formats that are measured. Default: those of mxfp8,"
            " nvfp4 and fp8 that the GPU has."
        ),
    ),
]
TargetOut = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="Target file to write. Default: <name>-target.json."),
]


@command
def device(
    action: Action = "list",
    quick: Quick = False,
    minutes: Minutes = None,
    device: DeviceName = None,
    compile_mode: CompileModeName = "reduce-overhead",
    name: Name = None,
    fmt: MeasuredFormats = None,
    out: TargetOut = None,
    json_path: Json = None,
) -> None:
    """List the GPUs that can be priced, or measure the one at hand for a target file.

    `measure` needs no weights. The file that it writes has no name or path of this machine, and
    `--target FILE` takes it on any other machine. If it is not complete, the same command goes on.
    """
    console = make_console(json_path)
    if action == "measure":
        request = _request(quick, minutes, device, compile_mode, name, fmt)
        _measure(console, request, out, json_path)
        return
    given = {
        "--quick": quick,
        "--minutes": minutes,
        "--name": name,
        "--format": fmt,
        "--out": out,
    }
    wrong = [flag for flag, value in given.items() if value]
    if wrong:
        raise UserError(
            f"{', '.join(wrong)}: found without `measure`; expected `sensitivity device measure`"
            " with it: add `measure`, or leave it out"
        )
    _list(console, json_path)


def _request(
    quick: bool,
    minutes: float | None,
    device: str | None,
    compile_mode: Any,
    name: str | None,
    formats: list[QuantizedFormat] | None,
) -> "DeviceRequest":
    from sensitivity.core.devices import check_device
    from sensitivity.workflows.device_measure import DeviceRequest

    chosen = choose_device(device)
    check_device(chosen, gpu_only=True)
    return DeviceRequest(
        device=chosen,
        quick=quick,
        minutes=minutes,
        compile_mode=compile_mode,
        name=name,
        formats=parse_formats(formats) if formats else (),
    )


def _measure(
    console: Console, request: "DeviceRequest", out: Path | None, json_path: str | None
) -> None:
    from sensitivity.cli.render.device import DeviceProgress, target_lines
    from sensitivity.latency.targets.target_file import load_target
    from sensitivity.workflows.device_measure import measure_device
    from sensitivity.workflows.target_writing import target_name

    path = out or Path(f"{target_name(request.device, request.name)}-target.json")
    check_output(path, "--out")

    def save(target: "TargetFile") -> None:
        write_file(path, (json.dumps(target.to_json(), separators=(",", ":")) + "\n").encode())

    earlier = load_target(path) if path.is_file() and path.stat().st_size else None
    with DeviceProgress(console) as progress:
        target = measure_device(
            request, earlier=earlier, save=save, progress=progress.update, say=progress.say
        )
    for line in target_lines(target):
        print_line(console, line)
    print_line(console, f"wrote {path}; --target {path} prices runs with it on any machine")
    write_json(target.to_json(), json_path)


def _list(console: Console, json_path: str | None) -> None:
    from sensitivity.cli.render.device import devices_table
    from sensitivity.latency.targets.target_list import list_targets

    targets = list_targets()
    console.print(devices_table(targets))
    print_line(
        console,
        "measure the GPU at hand with `sensitivity device measure`; describe another one in a"
        " device TOML",
        style="dim",
    )
    write_json({"targets": [target.to_json() for target in targets]}, json_path)
