"""`sensitivity doctor`: what this machine can run natively, and what is missing for it."""

from sensitivity.cli.app import command
from sensitivity.cli.options import Json, choose_device
from sensitivity.cli.outputs import write_json
from sensitivity.cli.screen import make_console, print_line


@command
def doctor(json_path: Json = None) -> None:
    """Say what this machine can do: devices, versions, and which formats run natively.

    A package that is missing is named with the command that installs it.
    """
    from sensitivity.core.environment import describe_environment
    from sensitivity.formats import mslk
    from sensitivity.formats.doctor import examine

    console = make_console(json_path)
    device = choose_device(None)
    stamp = describe_environment(device)
    found = examine(device)
    for key, value in stamp.items():
        print_line(console, f"{key:14} {value}")
    for name, one in found.items():
        state = "native" if one.is_native else f"emulated only: {one.reason}"
        print_line(console, f"{name.value:14} {state}")
    missing = {package: text for one in found.values() for package, text in one.missing.items()}
    if "mslk" not in missing and (advice := mslk.advice()) is not None:
        note = f"not needed on this device, only for NVFP4 on compute capability 10.0: {advice}"
        print_line(console, f"{'mslk':14} {note}", style="dim")
    for package, text in missing.items():
        print_line(console, f"{package:14} {text}", style="yellow")
    write_json(
        {
            "environment": stamp,
            "native": {name.value: one.is_native for name, one in found.items()},
            "why_not": {name.value: one.reason for name, one in found.items()},
            "missing": missing,
        },
        json_path,
    )
