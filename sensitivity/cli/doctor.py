"""`sensitivity doctor`: what this machine can run natively, and what is missing for it."""

import typer

from sensitivity.cli.app import command
from sensitivity.cli.options import Json, choose_device
from sensitivity.cli.outputs import write_json
from sensitivity.cli.screen import make_console, print_line


@command
def doctor(json_path: Json = None) -> None:
    """Say what this machine can do: devices, versions, which formats run natively, and whether
    driver, memory, disk, LPIPS weights and the Hub's token are as they should be.

    What is missing is named with what mends it. The exit code is 1 where something keeps work from
    being done.
    """
    from sensitivity.core.environment import describe_environment
    from sensitivity.fidelity.judges.known import INSTALL, KNOWN, why_missing
    from sensitivity.formats import mslk
    from sensitivity.formats.doctor import examine
    from sensitivity.workflows.machine_checks import State, check_machine

    console = make_console(json_path)
    device = choose_device(None)
    stamp = describe_environment(device)
    found = examine(device)
    for key, value in stamp.items():
        print_line(console, f"{key:14} {value}")
    for name, one in found.items():
        state = "native" if one.is_native else f"emulated only: {one.reason}"
        print_line(console, f"{name.value:14} {state}")
    judges = {name: why_missing(name) for name in KNOWN}
    for judge, why in judges.items():
        state = why or f"installed: {KNOWN[judge].sees}"
        print_line(console, f"{'judge ' + judge:14} {state}")
    if any(judges.values()):
        print_line(console, f"{'judges':14} optional: {INSTALL}", style="dim")
    missing = {package: text for one in found.values() for package, text in one.missing.items()}
    if "mslk" not in missing and (advice := mslk.advice()) is not None:
        note = f"not needed on this device, only for NVFP4 on compute capability 10.0: {advice}"
        print_line(console, f"{'mslk':14} {note}", style="dim")
    for package, text in missing.items():
        print_line(console, f"{package:14} {text}", style="yellow")
    checks = check_machine(device)
    styles = {State.OK: "", State.NOTE: "", State.FAULT: "red"}
    for check in checks:
        mark = "" if check.state is State.OK else f"{check.state.value}: "
        print_line(console, f"{check.name:14} {mark}{check.found}", style=styles[check.state])
        if check.fix:
            print_line(console, f"{'':14} -> {check.fix}", style="dim")
    faults = [check for check in checks if check.state is State.FAULT]
    write_json(
        {
            "environment": stamp,
            "native": {name.value: one.is_native for name, one in found.items()},
            "why_not": {name.value: one.reason for name, one in found.items()},
            "missing": missing,
            "judges": {judge: why or None for judge, why in judges.items()},
            "checks": [check.to_json() for check in checks],
            "ok": not faults,
        },
        json_path,
    )
    if faults:
        raise typer.Exit(1)
