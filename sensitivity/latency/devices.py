"""What can a GPU do at best, and how much of that do real kernels reach?

Devices as data, with sources.

Method. `Device` holds the limits of a chip: dense peaks (no structured sparsity), bandwidth,
multiprocessors, memory. `KernelConstants` holds what today's kernels make of them: the parts of the
peaks that are reached, the shortest times. Constants of Blackwell are fitted to published
measurements (`benchmarks/calibrate_latency.py`: squares and FLUX.1-dev), those of Hopper are stated
with where they come from (single Linears, and profiles of FLUX.1-dev's denoiser).

Conventions. FLOP/s, bytes/s, microseconds, bytes. A device is named by its chip in lower case, as
`--target` takes it. A format that has no peak here has no matrix instructions on the chip: asking
for it is the caller's error, never a slow fallback.

What it does not do: find out which GPU is in this machine (environment.py) or price a Linear
(predicted.py).

Example:
    >>> get_device("B200").peak_flops_per_s(FormatName.NVFP4)
    9000000000000000.0
    >>> get_device("./my-gpu.toml")                      # doctest: +SKIP
"""

import dataclasses
import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sensitivity.core.format_name import FormatName
from sensitivity.errors import FormatError, UserError
from sensitivity.latency.constants import BLACKWELL, HOPPER, KernelConstants

BF16, FP8, MXFP8, NVFP4 = FormatName.BF16, FormatName.FP8, FormatName.MXFP8, FormatName.NVFP4
_TORCHAO = "torchao 0.18 testing/training/roofline_utils.py"
_TORCHAO_BANDWIDTH = (7680 / 8) * 3.996e9 * 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """One GPU's limits.

    Attributes:
        name: Lower-case chip name.
        peaks_flops_per_s: Dense matrix peak of each format that the chip has, accumulated in fp32.
        bandwidth_bytes_per_s: Memory bandwidth.
        memory_bytes: Memory that programs can use.
        sm_count: Streaming multiprocessors.
        kernels: What kernels reach on it.
        calibrated: Whether `kernels` was fitted to measurements on this very chip; predictions for
            others say that they are extrapolated.
        sources: Where each number comes from.
    """

    name: str
    peaks_flops_per_s: Mapping[FormatName, float]
    bandwidth_bytes_per_s: float
    memory_bytes: int
    sm_count: int
    kernels: KernelConstants
    calibrated: bool = False
    sources: tuple[str, ...]

    def peak_flops_per_s(self, format: FormatName) -> float:
        """Give the dense peak of a format.

        Raises:
            FormatError: The chip has no matrix instructions for it.
        """
        if format not in self.peaks_flops_per_s:
            others = [
                device.name for device in DEVICES.values() if format in device.peaks_flops_per_s
            ]
            elsewhere = f", or price it on {' or '.join(others)} (--target)" if others else ""
            raise FormatError(
                f"{self.name} has no {format.value}; it has"
                f" {', '.join(known.value for known in self.peaks_flops_per_s)}. Choose one of"
                f" these{elsewhere}."
            )
        return self.peaks_flops_per_s[format]


def _peaks(
    bf16: float, fp8: float | None = None, nvfp4: float | None = None
) -> Mapping[FormatName, float]:
    """Peaks by format; MXFP8 has FP8's rate wherever the chip has block scales (the chips that have
    NVFP4).
    """
    peaks = {BF16: bf16, FP8: fp8, MXFP8: fp8 if nvfp4 else None, NVFP4: nvfp4}
    return MappingProxyType({name: peak for name, peak in peaks.items() if peak is not None})


B200 = Device(
    name="b200",
    peaks_flops_per_s=_peaks(2.25e15, 4.5e15, 9.0e15),
    bandwidth_bytes_per_s=_TORCHAO_BANDWIDTH,
    memory_bytes=180_000_000_000,
    sm_count=148,
    kernels=BLACKWELL,
    calibrated=True,
    sources=(
        (
            f"peaks and bandwidth (7680-bit bus, 3996 MHz, double data rate: 7.67e12): {_TORCHAO},"
            " 'NVIDIA B200'"
        ),
        (
            "180 GB: NVIDIA HGX B200 data sheet (1.44 TB for 8); sm_count 148: NVIDIA B200 device"
            " properties"
        ),
    ),
)

DEVICES: Mapping[str, Device] = MappingProxyType(
    {
        device.name: device
        for device in (
            B200,
            dataclasses.replace(
                B200,
                name="gb200",
                peaks_flops_per_s=_peaks(2.5e15, 5.0e15, 10.0e15),
                bandwidth_bytes_per_s=8.0e12 * 7.67 / 8,
                memory_bytes=186_000_000_000,
                calibrated=False,
                sources=(
                    (
                        "peaks: NVIDIA GB200 NVL72 data sheet, / 72: bf16 180, fp8 360, nvfp4 720"
                        " PFLOP/s dense; 13.4 TB of memory"
                    ),
                    (
                        "bandwidth: 8.0e12 there, taken at the part of it that torchao states for"
                        " the same memory on a B200 (7.67 / 8)"
                    ),
                ),
            ),
            dataclasses.replace(
                B200,
                name="b300",
                peaks_flops_per_s=_peaks(2.25e15, 4.5e15, 13.5e15),
                memory_bytes=270_000_000_000,
                calibrated=False,
                sources=(
                    (
                        "peaks: NVIDIA HGX B300 data sheet, / 8: bf16 18, fp8 36, nvfp4 108 PFLOP/s"
                        " dense; memory 2.1 TB; sources differ on nvfp4 (13 to 15 PFLOP/s) and on"
                        " what 1400 W allow"
                    ),
                    "bandwidth and sm_count as B200",
                ),
            ),
            Device(
                name="h100",
                peaks_flops_per_s=_peaks(989e12, 1979e12),
                bandwidth_bytes_per_s=3.35e12,
                memory_bytes=80_000_000_000,
                sm_count=132,
                kernels=HOPPER,
                sources=(
                    f"peaks: {_TORCHAO}, 'NVIDIA H100'",
                    (
                        "bandwidth 3.35e12: NVIDIA's H100 SXM5 data sheet (80 GB HBM3); torchao's"
                        " 2.4e12 is, in its words, custom to Meta's H100 variant"
                    ),
                    "sm_count 132: the same data sheet",
                ),
            ),
            Device(
                name="h200",
                peaks_flops_per_s=_peaks(989e12, 1979e12),
                bandwidth_bytes_per_s=4.8e12,
                memory_bytes=141_000_000_000,
                sm_count=132,
                kernels=HOPPER,
                sources=(
                    "NVIDIA's H200 SXM data sheet: the H100's chip with 141 GB at 4.8e12 bytes/s",
                ),
            ),
            Device(
                name="rtx5090",
                peaks_flops_per_s=_peaks(209.5e12, 419e12, 1676e12),
                bandwidth_bytes_per_s=1.792e12,
                memory_bytes=32_000_000_000,
                sm_count=170,
                kernels=BLACKWELL,
                sources=(
                    (
                        "NVIDIA RTX Blackwell white paper, GeForce RTX 5090, dense, fp32"
                        " accumulation: bf16 209.5, fp8 419, fp4 1676 TFLOP/s; 1792 GB/s; 170 SMs"
                    ),
                    (
                        "kernel constants are the B200's; its kernels are others (mma.sync instead"
                        " of tcgen05), so treat this as a guess"
                    ),
                ),
            ),
        )
    }
)
"""The devices that come with the package, by name."""

_ALIASES = {
    "5090": "rtx5090",
    "rtx-5090": "rtx5090",
    "rtx_5090": "rtx5090",
    "geforce-rtx-5090": "rtx5090",
}


class _DeviceFile(BaseModel):
    """A device TOML: `like` gives everything that is not stated."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    like: str
    peaks_flops_per_s: (
        dict[Literal["bf16", "fp8", "mxfp8", "nvfp4"], Annotated[float, Field(gt=0)]] | None
    ) = None
    bandwidth_bytes_per_s: Annotated[float, Field(gt=0)] | None = None
    memory_bytes: Annotated[int, Field(gt=0)] | None = None
    sm_count: Annotated[int, Field(gt=0)] | None = None
    kernels: dict[str, float] = Field(default_factory=dict)
    sources: tuple[str, ...] = ()


def load_device(path: Path) -> Device:
    """Read a device from a TOML:

    `name`, `like` (a device that gives what is left out) and any of Device's numbers; `[kernels]`
    may replace constants.

    Raises:
        UserError: The file cannot be read, is no TOML, or has a wrong key or value; the message
            names it.
    """
    try:
        file = _DeviceFile.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(
            f"--target {path} cannot be read ({error}); allowed is a device TOML with `name`,"
            " `like` and numbers: correct it"
        ) from None
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
            for problem in error.errors(include_url=False, include_input=False)[:5]
        )
        allowed = (
            "name, like, peaks_flops_per_s, bandwidth_bytes_per_s, memory_bytes, sm_count, kernels,"
            " sources"
        )
        raise UserError(
            f"--target {path} is no device ({problems}); allowed keys are {allowed}: correct these"
        ) from None
    if file.like.strip().endswith(".toml"):
        raise UserError(
            f"--target {path} is like {file.like!r}; allowed is a device that comes with the"
            f" package ({', '.join(DEVICES)}): name one"
        )
    like = get_device(file.like)
    changes: dict[str, Any] = {
        key: value
        for key in ("bandwidth_bytes_per_s", "memory_bytes", "sm_count")
        if (value := getattr(file, key)) is not None
    }
    if file.peaks_flops_per_s is not None:
        if "bf16" not in file.peaks_flops_per_s:
            raise UserError(
                f"--target {path} has no bf16 in peaks_flops_per_s; bf16 is what everything is"
                " compared with: add it"
            )
        changes["peaks_flops_per_s"] = MappingProxyType(
            {FormatName(name): peak for name, peak in file.peaks_flops_per_s.items()}
        )
    if file.kernels:
        changes["kernels"] = like.kernels.replaced(file.kernels)
    return dataclasses.replace(
        like,
        name=file.name.lower(),
        calibrated=False,
        sources=(f"{path.name}, like {like.name}", *file.sources),
        **changes,
    )


def get_device(name: str) -> Device:
    """Find a device by its chip's name, in any case, or read it from a path that ends in .toml.

    Raises:
        UserError: No such device; the message names the closest one and all of them.
    """
    text = name.strip()
    if text.endswith(".toml"):
        return load_device(Path(text))
    key = _ALIASES.get(text.lower(), text.lower())
    device = DEVICES.get(key)
    if device is None:
        closest = difflib.get_close_matches(key, DEVICES, n=1, cutoff=0.4)
        hint = f" Did you mean {closest[0]!r}?" if closest else ""
        raise UserError(
            f"No device is called {name!r}; known are {', '.join(DEVICES)}, or a path to a device"
            f" TOML.{hint} Name one of these (--target)."
        )
    return device


def find_device(torch_name: str) -> Device | None:
    """The device that torch calls `torch_name` ("NVIDIA H100 80GB HBM3"), None for one that is not
    listed. The longest name that fits is meant: GB200, not B200.
    """
    words = torch_name.lower().replace(" ", "")
    return next(
        (DEVICES[name] for name in sorted(DEVICES, key=len, reverse=True) if name in words), None
    )
