"""`sensitivity doctor`: what this machine can run natively."""

from sensitivity.cli.app import app, choose_device, make_console
from sensitivity.cli.options import Json
from sensitivity.cli.outputs import write_json
from sensitivity.core.format_name import FormatName


@app.command()
def doctor(json_path: Json = None) -> None:
    """Say what this machine can do: devices, versions, and which formats run natively."""
    import torch

    from sensitivity.core.environment import describe_environment
    from sensitivity.formats.native import mslk_advice
    from sensitivity.formats.registry import get_format

    console = make_console(json_path)
    device = choose_device(None)
    stamp = describe_environment(device)
    native = {
        name.value: get_format(name).native_refusal(torch.device(device))
        for name in FormatName
        if name is not FormatName.BF16
    }
    for key, value in stamp.items():
        console.print(f"{key:14} {value}", highlight=False)
    for name, reason in native.items():
        console.print(
            f"{name:14} {'native' if reason is None else f'emulated only: {reason}'}",
            highlight=False,
            soft_wrap=True,
        )
    if (advice := mslk_advice()) is not None:
        console.print(f"{'mslk':14} {advice}", highlight=False, soft_wrap=True, markup=False)
    write_json(
        {
            "environment": stamp,
            "native": {n: r is None for n, r in native.items()},
            "why_not": native,
        },
        json_path,
    )
