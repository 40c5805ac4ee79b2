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
    from sensitivity.cli.render.doctor import doctor_lines
    from sensitivity.core.environment import describe_environment
    from sensitivity.fidelity.judges.known import KNOWN, why_missing
    from sensitivity.formats import mslk
    from sensitivity.formats.doctor import examine
    from sensitivity.workflows.machine_checks import State, check_machine

    console = make_console(json_path)
    device = choose_device(None)
    stamp = describe_environment(device)
    found = examine(device)
    judges = {name: why_missing(name) for name in KNOWN}
    missing = {package: text for one in found.values() for package, text in one.missing.items()}
    checks = check_machine(device)
    gained = None if "mslk" in missing else mslk.advice()
    for line, style in doctor_lines(stamp, found, judges, checks, mslk=gained):
        print_line(console, line, style=style)
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
