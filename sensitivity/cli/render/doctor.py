"""What `sensitivity doctor` found, as lines: a name, what was found, and what mends it.

Lines are not wrapped, so that a command that mends something can be copied whole.
"""

from collections.abc import Iterator, Mapping, Sequence

from sensitivity.core.format_name import FormatName
from sensitivity.fidelity.judges.known import INSTALL, KNOWN
from sensitivity.formats.doctor import Examined
from sensitivity.workflows.machine_checks import Check, State

STYLES = {State.OK: "", State.NOTE: "", State.FAULT: "red"}


def doctor_lines(
    stamp: Mapping[str, str | None],
    formats: Mapping[FormatName, Examined],
    judges: Mapping[str, str],
    checks: Sequence[Check],
    *,
    mslk: str | None,
) -> Iterator[tuple[str, str]]:
    """(line, rich style) of everything that was found.

    Args:
        stamp: device and versions, by name.
        formats: what was found of each format.
        judges: {judge: why it is missing, "" where it is installed}.
        checks: what was looked at on the machine.
        mslk: what would be gained by MSLK on another device; None where that is told as missing.
    """
    rows = [*_versions(stamp, formats, judges, mslk), *_checks(checks)]
    width = max(len(name) for name, _, _ in rows)
    for name, text, style in rows:
        yield f"{name:{width}}  {text}", style


def _versions(
    stamp: Mapping[str, str | None],
    formats: Mapping[FormatName, Examined],
    judges: Mapping[str, str],
    mslk: str | None,
) -> Iterator[tuple[str, str, str]]:
    """(name, what was found, style) of the environment, formats and judges."""
    for key, value in stamp.items():
        yield key, str(value), ""
    for name, one in formats.items():
        yield name.value, "native" if one.is_native else f"emulated only: {one.reason}", ""
    for judge, why in judges.items():
        yield f"judge {judge}", why or f"installed: {KNOWN[judge].sees}", ""
    if any(judges.values()):
        yield "judges", f"optional: {INSTALL}", "dim"
    if mslk is not None:
        yield (
            "mslk",
            f"not needed on this device, only for NVFP4 on compute capability 10.0: {mslk}",
            "dim",
        )
    missing = {package: text for one in formats.values() for package, text in one.missing.items()}
    for package, text in missing.items():
        yield package, text, "yellow"


def _checks(checks: Sequence[Check]) -> Iterator[tuple[str, str, str]]:
    """(name, what was found, style) of the machine, and below each what mends it."""
    for check in checks:
        mark = "" if check.state is State.OK else f"{check.state.value}: "
        yield check.name, f"{mark}{check.found}", STYLES[check.state]
        if check.fix:
            yield "", f"-> {check.fix}", "dim"
