"""Which GPUs can be priced, and what can each do at best? `Device`, `get_device`, and `DEVICES`.

Method. A `Device` holds the limits of a chip: dense peaks (no structured sparsity), bandwidth,
multiprocessors, memory. Its `KernelConstants` say what today's kernels make of them: the parts of
the peaks that they reach, and their shortest times. The devices that come with the package stand in
`devices.toml`, with a source for each number. Anybody can describe another one in a TOML file.

The constants of a B200 and an H100 are fitted to measurements (`benchmarks/calibrate_latency.py`).
Other chips take those of their family, and say so. Nothing was fitted in the family of Ampere and
Ada.

Conventions. FLOP/s, bytes/s, microseconds, bytes. A device is named by its chip in lower case. A
format without a peak has no matrix instructions on the chip; asking for it is an error, never a
slow fallback.

What it does not do: find out which GPU is in this machine (`core.environment`), or price a Linear
(`latency.predicted`).

Example:
    >>> get_device("B200").peak_flops_per_s(FormatName.NVFP4)
    9000000000000000.0
    >>> get_device("./my-gpu.toml")                      # doctest: +SKIP
    >>> get_device("./my-gpu.json")                      # doctest: +SKIP
"""

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sensitivity.core.file_names import MAX_SLUG
from sensitivity.core.format_name import FormatName
from sensitivity.core.outside_files import DEVICE, parse_toml, read_toml, reason
from sensitivity.core.words import printable
from sensitivity.errors import FormatError, UserError
from sensitivity.latency.constants import AMPERE, BLACKWELL, HOPPER, KernelConstants
from sensitivity.latency.format_costs import gemm_format
from sensitivity.latency.runtimes import host_factor
from sensitivity.latency.targets.measured_shapes import MeasuredShapes
from sensitivity.latency.targets.target_file import (
    KernelFitRecord,
    TargetFile,
    load_target,
    shipped_targets,
)

E4M3_CAPABILITY = (8, 9)
"""The lowest compute capability whose compiled kernels convert e4m3: below it Triton says "type
fp8e4nv not supported in this architecture" (pytorch/pytorch#167082).
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """One GPU's limits.

    Attributes:
        name: Chip name in lower case.
        peaks_flops_per_s: Dense matrix peak of bf16 and of each plain format that the chip has,
            accumulated in fp32, INT8's in int32.
        bandwidth_bytes_per_s: Memory bandwidth.
        memory_bytes: Memory that programs can use.
        sm_count: Streaming multiprocessors.
        capability: CUDA compute capability, "9.0" for Hopper.
        kernels: What kernels reach on it.
        calibrated: Whether `kernels` was fitted to measurements on this very chip. Estimates for
            other chips say that it was not.
        host_factor: How many times longer its hosts take to launch than those that the costs of
            runtimes are stated for (`runtimes.HostCosts`).
        sources: Where each number comes from.
        samples: Samples of `kernels`, from a fit that does not come with the package; () if it
            does, or if there is none (`posterior`).
        measured: What single shapes took on it, from a target file; None without one.
    """

    name: str
    peaks_flops_per_s: Mapping[FormatName, float]
    bandwidth_bytes_per_s: float
    memory_bytes: int
    sm_count: int
    capability: str
    kernels: KernelConstants
    calibrated: bool = False
    host_factor: float = 1.0
    sources: tuple[str, ...]
    samples: tuple[KernelConstants, ...] = ()
    measured: MeasuredShapes | None = None

    @property
    def formats(self) -> tuple[FormatName, ...]:
        """The formats that it can compute in, bf16 among them."""
        return tuple(name for name in FormatName if self.has(name))

    def has(self, format: FormatName) -> bool:
        """Whether it can compute in a format.

        A format needs matrix instructions for both operands. Weight-only formats multiply in bf16
        and need to read their codes: Triton converts e4m3, in which FP8's codes and the scales of
        NVFP4 are, from compute capability 8.9 on (`E4M3_CAPABILITY`).
        """
        if not format.is_weight_only:
            return format.plain in self.peaks_flops_per_s
        own = tuple(map(int, self.capability.split(".")))
        return format.plain is FormatName.INT8 or own >= E4M3_CAPABILITY

    def peak_flops_per_s(self, format: FormatName) -> float:
        """The dense peak of the matrix instructions that a format runs on: those of its plain
        format, or bf16's if only the weight is quantized.

        Raises:
            FormatError: The chip cannot compute in it.
        """
        if not self.has(format):
            others = [device.name for device in DEVICES.values() if device.has(format)]
            elsewhere = f", or choose {' or '.join(others)} as `target`" if others else ""
            raise FormatError(
                f"{self.name} has no {format.value}; it has"
                f" {', '.join(known.value for known in self.formats)}. Choose one of"
                f" these formats{elsewhere}."
            )
        return self.peaks_flops_per_s[gemm_format(format)]


_Rate = Annotated[float, Field(strict=True, gt=0, le=1e18)]
"""FLOP/s or bytes/s; no GPU comes near the bound. Here and below, true and texts are no numbers."""
_Bytes = Annotated[int, Field(strict=True, gt=0, lt=2**50)]
_Multiprocessors = Annotated[int, Field(strict=True, gt=0, le=2**16)]
_Capability = Annotated[str, Field(pattern=r"^[0-9]{1,2}[.][0-9]$")]
_Factor = Annotated[float, Field(strict=True, gt=0, le=100)]
_Constant = Annotated[float, Field(strict=True, le=1e9)]


class _Entry(BaseModel):
    """A device in `devices.toml`; the table's key is its name."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    peaks_flops_per_s: dict[FormatName, _Rate]
    bandwidth_bytes_per_s: _Rate
    memory_bytes: _Bytes
    sm_count: _Multiprocessors
    capability: _Capability
    kernels: Literal["blackwell", "hopper", "ampere"]
    calibrated: bool = False
    host_factor: _Factor = 1.0
    sources: tuple[str, ...]

    def to_device(self, name: str) -> Device:
        families = {"blackwell": BLACKWELL, "hopper": HOPPER, "ampere": AMPERE}
        peaks = MappingProxyType(self.peaks_flops_per_s)
        values = {key: getattr(self, key) for key in type(self).model_fields}
        own = {"kernels": families[self.kernels], "peaks_flops_per_s": peaks}
        return Device(name=name, **values | own)


def _read_catalogue() -> Mapping[str, Device]:
    text = resources.files("sensitivity.latency").joinpath("devices.toml").read_text("utf-8")
    entries = {name: _Entry.model_validate(data) for name, data in parse_toml(text, DEVICE).items()}
    return MappingProxyType({name: entry.to_device(name) for name, entry in entries.items()})


DEVICES = _read_catalogue()
"""The devices that come with the package, by name."""

_ALIASES = {
    "5090": "rtx5090",
    "rtx-5090": "rtx5090",
    "rtx_5090": "rtx5090",
    "geforce-rtx-5090": "rtx5090",
    "4090": "rtx4090",
    "rtx-4090": "rtx4090",
    "rtx_4090": "rtx4090",
    "geforce-rtx-4090": "rtx4090",
}


class _DeviceFile(BaseModel):
    """A user's device TOML; the device `like` gives everything that is left out."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=MAX_SLUG)]
    like: str
    peaks_flops_per_s: dict[FormatName, _Rate] | None = None
    bandwidth_bytes_per_s: _Rate | None = None
    memory_bytes: _Bytes | None = None
    sm_count: _Multiprocessors | None = None
    host_factor: _Factor | None = None
    capability: _Capability | None = None
    kernels: dict[str, _Constant] = Field(default_factory=dict)
    sources: tuple[str, ...] = ()


def load_device(path: Path) -> Device:
    """Read a device from a TOML file.

    It has `name`, `like` (the device that gives what is left out) and any of Device's numbers.
    `[kernels]` may replace single constants.

    Raises:
        UserError: The file cannot be read, is no TOML, or has a wrong key or value; the message
            names it.
    """
    file = _read_device_file(path)
    if file.like.strip().lower().endswith(".toml"):
        raise UserError(
            f"The device TOML {path} is like {file.like!r}; expected one of the devices that come"
            f" with the package: {', '.join(DEVICES)}. Name one of these in `like`."
        )
    like = get_device(file.like)
    changes: dict[str, Any] = {
        key: value
        for key in (
            "bandwidth_bytes_per_s",
            "memory_bytes",
            "sm_count",
            "capability",
            "host_factor",
        )
        if (value := getattr(file, key)) is not None
    }
    if file.peaks_flops_per_s is not None:
        if FormatName.BF16 not in file.peaks_flops_per_s:
            raise UserError(
                f"The device TOML {path} has no bf16 in `peaks_flops_per_s`; expected its peak,"
                " since everything is compared with bf16. Add it."
            )
        changes["peaks_flops_per_s"] = MappingProxyType(file.peaks_flops_per_s)
    if file.kernels:
        changes["kernels"] = like.kernels.replaced(file.kernels)
    return dataclasses.replace(
        like,
        name=file.name.lower(),
        calibrated=False,
        measured=None,
        samples=(),
        sources=(f"{path.name}, like {like.name}", *file.sources),
        **changes,
    )


def _read_device_file(path: Path) -> _DeviceFile:
    """Parse a device TOML. Raises UserError as `load_device`."""
    try:
        data = read_toml(path, DEVICE)
    except (OSError, ValueError) as error:
        raise UserError(
            f"The device TOML {path} cannot be read ({printable(reason(error))}); expected a file"
            " with `name`, `like` and numbers. Correct it, or name a device as `target`."
        ) from None
    try:
        return _DeviceFile.model_validate(data)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
            for problem in error.errors(include_url=False, include_input=False)[:5]
        )
        raise UserError(
            f"The device TOML {path} describes no device ({problems}); expected only the keys"
            f" {', '.join(_DeviceFile.model_fields)}. Correct these."
        ) from None


def family_constants(capability: str) -> KernelConstants:
    """The kernel constants of a chip's family, where none were fitted on the chip itself. Ampere
    and Ada are one family, and older chips are taken to be of it.
    """
    major = int(capability.partition(".")[0])
    if major >= 10:
        return BLACKWELL
    return HOPPER if major == 9 else AMPERE


def device_of_target(target: TargetFile) -> Device:
    """The device that a target file describes: a known chip's limits, or those that were reached.

    The limits of a chip that the package does not know are what its large GEMMs and copies reached,
    divided by the part of the limits that kernels of its family reach. The host is the one that
    launched there.

    Raises:
        UserError: The file's constants are none.
    """
    known = find_device(target.device) or DEVICES.get(target.name)
    if known is not None and known.capability != target.capability:
        known = None
    family = known.kernels if known else family_constants(target.capability)
    fit = _known_fit(target)
    base = known or _limits_reached(target, family)
    origin = f"measured on an {target.device} ({target.measured}), driver {target.driver}"
    own: dict[str, Any] = {"host_factor": host_factor(target.host) or base.host_factor}
    if fit is not None:
        constants = family.replaced(fit.constants)
        samples = tuple(
            constants.replaced(dict(zip(fit.names, values, strict=True))) for values in fit.samples
        )
        own |= {"kernels": constants, "calibrated": True, "samples": samples}
    return dataclasses.replace(
        base,
        name=target.name,
        sources=(*base.sources, origin),
        measured=MeasuredShapes.of(target),
        **own,
    )


def _known_fit(target: TargetFile) -> KernelFitRecord | None:
    """The fit of a target file; None if it is of a version with other constants."""
    known = {field.name for field in dataclasses.fields(KernelConstants)}
    fit = target.kernels
    return fit if fit is not None and set(fit.constants) <= known else None


def _limits_reached(target: TargetFile, family: KernelConstants) -> Device:
    """An unknown chip's limits, from what was reached."""
    parts = {
        FormatName.BF16: 1.0,
        FormatName.FP8: family.fp8_matmul,
        FormatName.INT8: family.int8_matmul,
        FormatName.MXFP8: family.mxfp8_matmul,
        FormatName.NVFP4: family.nvfp4_matmul,
    }
    peaks = {
        format: rate / (family.isolated_matmul * parts[format])
        for format, rate in target.best_rates().items()
        if format in parts
    }
    reached = [target.limits.get(f"{kind}_bytes_per_s", 0.0) for kind in ("copy", "read")]
    if FormatName.BF16 not in peaks or not max(reached):
        raise UserError(
            f"The target file of {target.name} has no bf16 GEMM or no bandwidth, and the package"
            " does not know this chip; expected both. Measure it again with more time."
        )
    return Device(
        name=target.name,
        peaks_flops_per_s=MappingProxyType(peaks),
        bandwidth_bytes_per_s=max(reached) / family.pass_bandwidth,
        memory_bytes=target.memory_bytes,
        sm_count=target.sm_count,
        capability=target.capability,
        kernels=family,
        sources=("limits from the rates that its kernels reached",),
    )


@cache
def _as_shipped(name: str) -> Device:
    """A chip with the measurement that comes with the package, if there is one."""
    target = shipped_targets().get(name)
    return device_of_target(target) if target else DEVICES[name]


def get_device(name: str) -> Device:
    """Find a device by its chip's name, in any case, or read it from a path that ends in .toml (a
    description) or .json (a target file).

    Raises:
        UserError: No such device; the message names the closest one and all of them.
    """
    text = name.strip()
    if text.lower().endswith(".toml"):
        return load_device(Path(text))
    if text.lower().endswith(".json"):
        return device_of_target(load_target(Path(text)))
    key = _ALIASES.get(text.lower(), text.lower())
    device = DEVICES.get(key)
    if device is None:
        closest = difflib.get_close_matches(key, DEVICES, n=1, cutoff=0.4)
        hint = f"Did you mean {closest[0]!r}?" if closest else "Choose one of these."
        raise UserError(
            f"No device is called {name!r} (`target`); expected one of {', '.join(DEVICES)}, or a"
            f" path to a device TOML or to the JSON of `sensitivity device measure`. {hint}"
        )
    return _as_shipped(key)


def find_device(torch_name: str) -> Device | None:
    """The device that torch calls `torch_name`, such as "NVIDIA H100 80GB HBM3"; None if unknown.

    If several names fit, the longest counts: GB200, not B200.
    """
    words = torch_name.lower().replace(" ", "")
    return next(
        (DEVICES[name] for name in sorted(DEVICES, key=len, reverse=True) if name in words), None
    )
