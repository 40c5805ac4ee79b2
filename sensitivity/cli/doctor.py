"""`sensitivity doctor`: what this machine can run natively."""

from sensitivity.cli.app import command
from sensitivity.cli.options import Json, choose_device
from sensitivity.cli.outputs import write_json
from sensitivity.cli.screen import make_console, print_line
from sensitivity.core.format_name import QUANTIZED_FORMATS


@command
def doctor(json_path: Json = None) -> None:
    """Say what this machine can do: devices, versions, and which formats run natively."""
    import torch

    from sensitivity.core.environment import describe_environment
    from sensitivity.formats import get_format, mslk

    console = make_console(json_path)
    device = choose_device(None)
    stamp = describe_environment(device)
    refusals = {
        name.value: get_format(name).native_refusal(torch.device(device))
        for name in QUANTIZED_FORMATS
    }
    for key, value in stamp.items():
        print_line(console, f"{key:14} {value}")
    for name, reason in refusals.items():
        print_line(
            console, f"{name:14} {'native' if reason is None else f'emulated only: {reason}'}"
        )
    if (advice := mslk.advice()) is not None:
        print_line(console, f"{'mslk':14} {advice}")
    write_json(
        {
            "environment": stamp,
            "native": {name: reason is None for name, reason in refusals.items()},
            "why_not": refusals,
        },
        json_path,
    )
