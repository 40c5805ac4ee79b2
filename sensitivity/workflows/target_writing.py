"""How do results of jobs become a target file that can be sent to others? `Sections`, `target_of`.

Method. `Sections` gathers rows; a row that is measured again replaces the one before. `target_of`
adds what the chip is and a fit, rounds, and takes every word out of reasons that names this
machine: paths, the user, the host.

    sections = Sections()
    sections.add({"gemms": [...]})
    target_of(machine, sections, minutes=3.1, complete=True, fit=True)

What it does not do: measure, or write to a disk.
"""

import datetime
import getpass
import re
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from sensitivity.core.environment import describe_environment
from sensitivity.core.file_names import slug
from sensitivity.core.format_name import CompileMode, FormatName
from sensitivity.core.words import first_line
from sensitivity.errors import SensitivityError, UserError
from sensitivity.formats.native import describe_versions
from sensitivity.latency.devices import find_device
from sensitivity.latency.shape_times import LinearShape, ShapeTime
from sensitivity.latency.targets.target_file import (
    Agreement,
    TargetFile,
    TimedRow,
    names_shape,
    round_numbers,
)
from sensitivity.latency.targets.target_fit import fit_target
from sensitivity.latency.timing.device_jobs import Job, Result
from sensitivity.latency.timing.probing import probed_key, probed_shape
from sensitivity.latency.timing.stopwatch import device_of

_ROWS = ("rows", "gemms", "quantizers")
_PATH = re.compile(r"(?:[A-Za-z]:)?(?:[\\/~][\w.+@~-]*){2,}")
_MOST_REASON = 300


@dataclass
class Sections:
    """What was measured so far.

    Attributes:
        rows: {section: {key: row}} of "rows", "gemms" and "quantizers".
        ulps: Native kernels against emulation.
        limits: Best rates.
        host: Launch costs.
        probes: {key: (outcome, reason)} of shapes that were tried.
        notes: What is missing.
    """

    rows: dict[str, dict[str, dict[str, Any]]] = field(
        default_factory=lambda: {section: {} for section in _ROWS}
    )
    ulps: list[dict[str, Any]] = field(default_factory=list)
    limits: dict[str, float] = field(default_factory=dict)
    host: dict[str, float | str] = field(default_factory=dict)
    probes: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, result: Result) -> None:
        """Take in a job's result."""
        for section, found in result.items():
            if section in _ROWS:
                self.rows[section] |= {row["key"]: row for row in found}
            elif section == "ulps":
                self.ulps += found
            elif section == "limits":
                self.limits |= found
            elif section == "host":
                self.host |= found
            else:
                for reason in found:
                    self.note(reason)

    @classmethod
    def of(cls, target: TargetFile, *, cpu: str) -> "Sections":
        """What a file holds, without its notes, so that the same measurement goes on.

        Launch costs are kept only if they are of the same CPU.
        """
        host = dict(target.host) if target.cpu == cpu else {}
        sections = cls(limits=dict(target.limits), host=host)
        for section in _ROWS:
            sections.rows[section] = {
                row.key: row.model_dump() for row in getattr(target, section) if row.us
            }
        sections.ulps = [row.model_dump(mode="json") for row in target.ulps]
        for one in target.refusals:
            shape = LinearShape(m=one.m, k=one.k, n=one.n, bias=one.bias, format=one.format)
            sections.probes[probed_key(shape)] = ("refused", one.reason)
        return sections

    def has(self, job: Job) -> bool:
        """Whether everything that a job measures is there."""
        if job.kind == "launches":
            return bool(self.host)
        if job.kind == "limits":
            return {"copy_bytes_per_s", "bf16_flops_per_s"} <= self.limits.keys()
        if job.kind == "ulps":
            wanted = {(one.format.value, one.m, one.k, one.n) for one in job.shapes}
            return wanted <= {(row["format"], row["m"], row["k"], row["n"]) for row in self.ulps}
        section = "rows" if job.kind in ("linears", "attention") else job.kind
        return all(self.rows[section].get(key, {}).get("us") for key in job.keys)

    def note(self, text: str) -> None:
        """Say what is missing, once."""
        if text not in self.notes:
            self.notes.append(text)

    @property
    def has_times(self) -> bool:
        """Whether a shape has times."""
        return any(row.get("us") for rows in self.rows.values() for row in rows.values())

    @property
    def first_reason(self) -> str:
        """Why the first row that failed has no time."""
        reasons = (row.get("reason") for rows in self.rows.values() for row in rows.values())
        return next(filter(None, [*reasons, *self.notes]), "no job was done")


def target_name(device: str, name: str | None) -> str:
    """What the target of a device is called: the name that was asked for, the chip's name, or what
    the driver calls it.

    Raises:
        UserError: The name has characters that a target's name has not.
    """
    if name is not None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,59}", name):
            raise UserError(
                f"the target's `name` is {name!r}; expected lower case letters, digits, '.', '_'"
                " and '-', such as b200: correct it"
            )
        return name
    torch_name = describe_environment(device)["device"]
    chip = find_device(torch_name)
    return chip.name if chip else slug(torch_name).lower()[:60]


def describe_machine(
    device: str, formats: tuple[FormatName, ...], compile_mode: CompileMode, name: str | None
) -> dict[str, Any]:
    """What a target file says of the chip and the versions."""
    where, stamp = device_of(device), describe_environment(device)
    described: dict[str, Any] = {
        "name": target_name(device, name),
        "device": stamp["device"],
        "capability": stamp.get("capability", "0.0"),
        "sm_count": 1,
        "memory_bytes": int(stamp.get("gpu_memory_bytes", 1)),
        "driver": stamp.get("driver", "unknown"),
        "cpu": describe_environment("cpu")["device"],
        "versions": describe_versions()
        | {"cuda": stamp.get("cuda", "none"), "python": stamp["python"]}
        | {"sensitivity": stamp["sensitivity"]},
        "compile_mode": compile_mode,
        "formats": [format.value for format in formats],
    }
    if where.type == "cuda":
        properties = torch.cuda.get_device_properties(where)
        described["sm_count"] = properties.multi_processor_count
        described["cache_bytes"] = int(getattr(properties, "L2_cache_size", 0))
    return described


def is_of(target: TargetFile, machine: Mapping[str, Any]) -> bool:
    """Whether a file was measured on such a GPU, with the same versions and compile mode."""
    known = target.model_dump(mode="json")
    return all(known.get(key) == value for key, value in machine.items() if key != "cpu")


def target_of(
    machine: Mapping[str, Any],
    sections: Sections,
    *,
    minutes: float,
    complete: bool,
    fit: bool,
) -> TargetFile:
    """The target file of what was measured.

    Args:
        machine: What `describe_machine` gave.
        sections: The results.
        minutes: How long it took.
        complete: Whether everything that was planned is there.
        fit: Whether the kernel constants are fitted to the rows.
    """
    data: dict[str, Any] = {
        **machine,
        "measured": datetime.datetime.now(datetime.UTC).date(),
        "minutes": minutes,
        "complete": complete,
        "notes": sections.notes[:40],
        "limits": sections.limits,
        "host": sections.host,
        "refusals": _refusals(sections),
    }
    for section, rows in sections.rows.items():
        data[section] = [
            TimedRow.of(ShapeTime.from_json(row)).model_dump()
            for key, row in rows.items()
            if names_shape(section, key)
        ]
    data["ulps"] = [
        {key: value for key, value in row.items() if key in Agreement.model_fields}
        for row in sections.ulps
    ]
    target = TargetFile.model_validate(round_numbers(anonymous(data)))
    return _fitted(target) if fit else target


def _refusals(sections: Sections) -> list[dict[str, Any]]:
    refused = []
    for key, (outcome, reason) in sections.probes.items():
        shape = probed_shape(key)
        if outcome == "refused" and shape is not None:
            refused.append(
                {
                    "m": shape.m,
                    "k": shape.k,
                    "n": shape.n,
                    "bias": shape.bias,
                    "format": shape.format.value,
                    "reason": reason or "refused",
                }
            )
    return refused


def _fitted(target: TargetFile) -> TargetFile:
    """The file with constants that were fitted to it; as it is, with a note, if that fails."""
    try:
        fit = fit_target(target)
    except (ValueError, ArithmeticError, SensitivityError) as error:
        reason = f"the kernel constants were not fitted: {first_line(error)}"
        return target.model_copy(update={"notes": (*target.notes, without_names(reason))})
    if fit is None:
        note = "the kernel constants were not fitted: too few rows"
        return target.model_copy(update={"notes": (*target.notes, note)})
    return target.model_copy(update={"kernels": fit})


def anonymous(value: Any) -> Any:
    """The same data; reasons, errors, notes and texts of "host" are without paths and names."""
    if isinstance(value, (list, tuple)):
        return [anonymous(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    found = {key: anonymous(item) for key, item in value.items()}
    for key in ("reason", "error"):
        if isinstance(value.get(key), str):
            found[key] = without_names(value[key])
    if "notes" in value:
        found["notes"] = [without_names(note) for note in value["notes"]]
    if "host" in value:
        found["host"] = {
            name: without_names(cost) if isinstance(cost, str) else cost
            for name, cost in value["host"].items()
        }
    return found


def without_names(text: str) -> str:
    """A text without paths, and without the names of this host, its user and the home folder."""
    text = _PATH.sub("<path>", text)
    for name in _own_names():
        text = re.sub(rf"(?i)\b{re.escape(name)}\b", "<name>", text)
    return text[:_MOST_REASON]


def _own_names() -> list[str]:
    """The names of this host and its user, and of the home folder; longest first."""
    names = {socket.gethostname(), socket.gethostname().partition(".")[0], Path.home().name}
    with suppress(OSError, KeyError, ImportError):  # no such user in the system's list
        names.add(getpass.getuser())
    return sorted((name for name in names if len(name) > 2), key=len, reverse=True)
