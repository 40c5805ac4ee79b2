"""What can a GPU do at best, and how much of that do real kernels reach?

Method. Constants with their sources, no measurement. Peaks are dense (no structured sparsity); the achievable fractions turn a peak into
what large kernels were seen to reach; the launch floor is the shortest time a kernel takes, however little it does.

Conventions. FLOP/s, bytes/s, microseconds. A device is named by its chip in lower case, as `--target` takes it. A format that has no peak
here has no matrix instructions on the chip: asking for it is the caller's error, never a slow fallback.

What it does not do: find out which GPU is in this machine (environment.py) or price a Linear (roofline.py).

Example:
    >>> get_device("B200").peak_flops_per_s(FormatName.NVFP4)
    9000000000000000.0
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from sensitivity.errors import FormatError, UserError
from sensitivity.spec import FormatName

_TORCHAO = "torchao 0.18 testing/training/roofline_utils.py"


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """One GPU's limits.

    Attributes:
        name: Lower-case chip name.
        peaks_flops_per_s: Dense matrix peak of each format that the chip has.
        bandwidth_bytes_per_s: Memory bandwidth.
        achievable_matmul: Part of a peak that large GEMMs reach.
        achievable_attention: Part of the bf16 peak that fused attention reaches.
        achievable_bandwidth: Part of the bandwidth that large elementwise kernels reach.
        launch_floor_us: Shortest GPU time of a kernel.
        sm_count: Streaming multiprocessors.
        sources: Where each number comes from.
    """

    name: str
    peaks_flops_per_s: Mapping[FormatName, float]
    bandwidth_bytes_per_s: float
    achievable_matmul: float
    achievable_attention: float
    achievable_bandwidth: float
    launch_floor_us: float
    sm_count: int
    sources: tuple[str, ...]

    def peak_flops_per_s(self, format: FormatName) -> float:
        """Give the dense peak of a format.

        Raises:
            FormatError: The chip has no matrix instructions for it.
        """
        if format not in self.peaks_flops_per_s:
            others = [device.name for device in DEVICES.values() if format in device.peaks_flops_per_s]
            elsewhere = f", or price it on {' or '.join(others)} (--target)" if others else ""
            raise FormatError(
                f"{self.name} has no {format.value}; it has {', '.join(known.value for known in self.peaks_flops_per_s)}. "
                f"Choose one of these{elsewhere}."
            )
        return self.peaks_flops_per_s[format]

    def matmul_flops_per_s(self, format: FormatName) -> float:
        """Give what a large GEMM in this format reaches: peak x achievable part."""
        return self.peak_flops_per_s(format) * self.achievable_matmul

    @property
    def memory_bytes_per_s(self) -> float:
        """What a large elementwise kernel reaches: bandwidth x achievable part."""
        return self.bandwidth_bytes_per_s * self.achievable_bandwidth


_ACHIEVABLE_SOURCES = (
    f"achievable_matmul 0.78, achievable_bandwidth 0.92: {_TORCHAO}, pct_achievable_*; seen on H100, copied to B200 there",
    f"launch_floor_us 2.0: {_TORCHAO}, KERNEL_LAUNCH_OVERHEAD_SEC; a one-element Triton kernel's GPU time in an H100 trace",
    "achievable_attention 0.6: cuDNN and FlashAttention-3 forward, bf16, head dim 128, 4k to 16k tokens on H100 reach about 0.6 of 989e12 "
    "(Shah et al. 2024, arXiv:2407.08608, figure 5, read off the plot); assumed to hold on B200",
)

B200 = Device(
    name="b200",
    peaks_flops_per_s=MappingProxyType(
        {FormatName.BF16: 2.25e15, FormatName.FP8: 4.5e15, FormatName.MXFP8: 4.5e15, FormatName.NVFP4: 9.0e15},
    ),
    bandwidth_bytes_per_s=(7680 / 8) * 3.996e9 * 2,
    achievable_matmul=0.78,
    achievable_attention=0.6,
    achievable_bandwidth=0.92,
    launch_floor_us=2.0,
    sm_count=148,
    sources=(
        f"peaks and bandwidth (7680-bit bus, 3996 MHz, double data rate: 7.67e12): {_TORCHAO}, 'NVIDIA B200'",
        "sm_count 148: NVIDIA B200 device properties",
        *_ACHIEVABLE_SOURCES,
    ),
)

H100 = Device(
    name="h100",
    peaks_flops_per_s=MappingProxyType({FormatName.BF16: 989e12, FormatName.FP8: 1979e12}),
    bandwidth_bytes_per_s=3.35e12,
    achievable_matmul=0.78,
    achievable_attention=0.6,
    achievable_bandwidth=0.92,
    launch_floor_us=2.0,
    sm_count=132,
    sources=(
        f"peaks: {_TORCHAO}, 'NVIDIA H100'",
        "bandwidth 3.35e12: NVIDIA's H100 SXM5 data sheet (80 GB HBM3); torchao's 2.4e12 is, in its words, custom to Meta's H100 variant",
        "sm_count 132: NVIDIA's H100 SXM5 data sheet",
        *_ACHIEVABLE_SOURCES,
    ),
)

DEVICES: Mapping[str, Device] = MappingProxyType({device.name: device for device in (B200, H100)})


def get_device(name: str) -> Device:
    """Find a device by its chip's name, in any case.

    Raises:
        UserError: No such device; the message names the closest one and all of them.
    """
    device = DEVICES.get(name.strip().lower())
    if device is None:
        closest = difflib.get_close_matches(name.strip().lower(), DEVICES, n=1, cutoff=0.4)
        hint = f" Did you mean {closest[0]!r}?" if closest else ""
        raise UserError(f"No device is called {name!r}; known are {', '.join(DEVICES)}.{hint} Name one of these (--target).")
    return device
