"""Which kernels does a Linear launch, and how long does each take? `LinearKernels`.

Method. A Linear is a list of kernels that run one after another, as torchao 0.18 launches them once
it is compiled:

    bf16    GEMM (bias in its epilogue)
    fp8     quantize: row maximum and cast, GEMM
    mxfp8   block scales, cast (two kernels, one pass of bytes), GEMM
    nvfp4   [absolute maximum], quantize, GEMM, [scale and bias]

A kernel in brackets is launched where the Linear stands alone (`isolated`). Inside a compiled block
Inductor fuses it into a neighbour that touches the same numbers: the maximum into the producer of
the input, scale and bias into the consumer of the output. FP8's quantizing is fused into a norm
that makes the input, and costs its bytes and a part of a launch. If K > N (the second Linear of a
feed-forward), the input comes from an activation, which is computed twice: for the row's maximum,
and for the cast.

Linears outside the repeated blocks run eagerly, since only the blocks are compiled. There each pass
of torchao's Python quantizer is a kernel (`EAGER_PASSES`).

A kernel takes a ramp, plus the longer of its memory traffic and its arithmetic. `tilings` spreads a
GEMM over whole waves of output tiles; K may be split, so that small M and N still use the chip. Its
arithmetic is limited twice: by what one multiprocessor does with its tiles, and by the power of the
whole chip (`sustained_matmul`). Kernels with scales have one size of tile, do not split K, and
expose each tile's epilogue, so they lose where tiles are few or K is short. With M = 1 the time is
that of reading the weight, which a narrow format shortens, plus the launches, which it adds.

A GEMM that is bound by memory in bf16 gains at most what its bytes shrink, whatever the device and
the constants: a format changes neither tiles nor bandwidths, and no fixed time gets shorter.

What it does not do: merge the quantizing of several Linears, or price anything but Linears.

    kernels = LinearKernels(device, device.kernels)
    [(kernel.name, kernel.us) for kernel in kernels.of(m=4096, k=3072, n=3072, format=NVFP4)]
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from sensitivity.core.format_name import FormatName
from sensitivity.latency.constants import KernelConstants
from sensitivity.latency.devices import Device
from sensitivity.latency.tilings import OPERAND_BANDWIDTH, tile_work

BF16_BYTES, FP32_BYTES = 2, 4
EAGER_PASSES: Mapping[FormatName, tuple[int, float]] = MappingProxyType(
    {FormatName.FP8: (8, 33.0), FormatName.MXFP8: (32, 37.2), FormatName.NVFP4: (5, 6.0)}
)
"""{format: (kernels, bytes for each input element)} of eager quantizing, before MSLK's quantizer in
NVFP4. Counted with a dispatch mode on torchao 0.18.
"""
SCALED_ROWS, SCALED_COLUMNS = 128, 128
"""An output tile of kernels with scales."""
FUSED_LAUNCH = 0.5
"""What FP8's quantizing adds to the norm that it is fused into, in starts of a kernel. Fits to
shapes of an H100 and an H200 gave 0.48 and 0.52.
"""
MX_LAUNCHES = 2
"""Kernels of compiled MXFP8 quantizing: block scales, and the cast."""
FEW_TILES = 0.3
"""Below this part of the full rate a GEMM is said to be bound by its few output tiles."""
ELEMENT_BYTES: Mapping[FormatName, float] = MappingProxyType(
    {
        FormatName.BF16: 2.0,
        FormatName.FP8: 1.0,
        FormatName.MXFP8: 1 + 1 / 32,
        FormatName.NVFP4: 1 / 2 + 1 / 16,
    }
)
"""Bytes of an element with its block scales: e4m3 and one byte for 32, e2m1 and one byte for 16.
FP8's row scales are counted apart.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Kernel:
    """One kernel, or several that are launched one after another.

    Attributes:
        name: What it does.
        fixed_us: Ramps.
        math_us: Arithmetic.
        memory_us: Memory traffic.
    """

    name: str
    fixed_us: float
    math_us: float = 0.0
    memory_us: float = 0.0

    @property
    def us(self) -> float:
        """Its microseconds: the fixed part, and the longer of arithmetic and traffic."""
        return self.fixed_us + max(self.math_us, self.memory_us)


@dataclass(frozen=True, slots=True)
class LinearKernels:
    """The kernels of Linears on one device.

    Attributes:
        device: The GPU.
        constants: What kernels reach of its limits.
        isolated: Whether Linears stand alone instead of inside a run.
    """

    device: Device
    constants: KernelConstants
    isolated: bool = False

    def of(
        self, *, m: int, k: int, n: int, format: FormatName, compiled: bool = True
    ) -> tuple[Kernel, ...]:
        """List what one call launches, in order; () if m is 0.

        Args:
            m, k, n: The input is (M, K) in bf16, the weight (N, K) in the format, the output
                (M, N) in bf16.
            format: The format of both operands.
            compiled: Whether the Linear stands in a compiled block.

        Raises:
            FormatError: The device has no such format.
        """
        self.device.peak_flops_per_s(format)
        if m == 0:
            return ()
        gemm = self.gemm(m, k, n, format)
        if format is FormatName.BF16:
            return (gemm,)
        if not compiled and not self.isolated:
            return (
                *self._quantize_eagerly(m, k, format),
                gemm,
                *self._epilogue(m, n, format, passes=2),
            )
        return (
            *self.quantize(m, k, format, n=n),
            gemm,
            *(self._epilogue(m, n, format, passes=1) if self.isolated else ()),
        )

    def why(self, *, m: int, k: int, n: int, format: FormatName, compiled: bool = True) -> str:
        """A clause on what decides a quantized Linear's gain or loss; "" for bf16 and for M = 0.

        It weighs what the GEMM saves against what quantizing adds, and says what bounds each.
        """
        kernels = self.of(m=m, k=k, n=n, format=format, compiled=compiled)
        if not kernels or format is FormatName.BF16:
            return ""
        bf16 = self.gemm(m, k, n, FormatName.BF16)
        gemm = next(kernel for kernel in kernels if kernel.name == "GEMM")
        added_us = sum(kernel.us for kernel in kernels) - gemm.us
        fixed_us = sum(kernel.fixed_us for kernel in kernels if kernel.name != "GEMM")
        bound = "reading the weight" if bf16.memory_us >= bf16.math_us else "arithmetic"
        if bf16.memory_us < bf16.math_us and self.tile_efficiency(m, k, n) < FEW_TILES:
            bound = "few output tiles for the chip"
        added = "launches" if fixed_us > added_us / 2 else "reading and writing the input"
        outside = "" if compiled else ", outside the compiled blocks"
        return (
            f"{bound}: GEMM {bf16.us / gemm.us:.1f}x; quantizing takes {added_us / bf16.us:.0%} of"
            f" bf16's time ({added}{outside})"
        )

    def gemm(self, m: int, k: int, n: int, format: FormatName) -> Kernel:
        """A GEMM that reads both operands in the format and writes bf16."""
        c = self.constants
        part = {
            FormatName.BF16: 1.0,
            FormatName.FP8: c.fp8_matmul,
            FormatName.MXFP8: c.mxfp8_matmul,
            FormatName.NVFP4: c.nvfp4_matmul,
        }[format]
        rate = self.device.peak_flops_per_s(format) * part
        traffic_bytes = (
            _operand_bytes(m, k, format) + _operand_bytes(n, k, format) + BF16_BYTES * m * n
        )
        power = c.isolated_matmul if self.isolated else c.sustained_matmul
        products = max(m * k * n / power, self.device.sm_count * self._tile_work(m, k, n))
        math_us = 2 * products / rate * 1e6
        memory_us = self.bytes_us(traffic_bytes, c.read_bandwidth)
        if format is not FormatName.BF16:
            waves = self._scaled_waves(m, n)
            flops = 2 * waves * SCALED_ROWS * SCALED_COLUMNS * k * self.device.sm_count
            tiles_us = flops / self.device.peak_flops_per_s(format) * 1e6
            math_us = max(math_us, tiles_us + waves * c.epilogue_us)
            memory_us += waves * c.epilogue_us
        return Kernel(name="GEMM", fixed_us=c.gemm_ramp_us, math_us=math_us, memory_us=memory_us)

    def _scaled_waves(self, m: int, n: int) -> int:
        """Waves of output tiles in a kernel with scales.

        Such a kernel has one size of tile and does not split K, and the epilogue of a tile, which
        applies scales, is not hidden behind the next tile.
        """
        tiles = math.ceil(m / SCALED_ROWS) * math.ceil(n / SCALED_COLUMNS)
        return math.ceil(tiles / self.device.sm_count)

    def tile_efficiency(self, m: int, k: int, n: int) -> float:
        """The part of the full rate that whole waves of output tiles reach; see `tilings`."""
        return m * k * n / (self.device.sm_count * self._tile_work(m, k, n))

    def _tile_work(self, m: int, k: int, n: int) -> float:
        peak = self.device.peak_flops_per_s(FormatName.BF16)
        operands_per_s = self.device.bandwidth_bytes_per_s * OPERAND_BANDWIDTH
        return tile_work(
            m=m,
            k=k,
            n=n,
            sm_count=self.device.sm_count,
            reads_per_product=peak / operands_per_s,
        )

    def quantize(
        self, m: int, k: int, format: FormatName, *, n: int | None = None
    ) -> tuple[Kernel, ...]:
        """Quantizing the input (M, K) of a Linear with N outputs; None is an input alone."""
        c = self.constants
        read, written = BF16_BYTES * m * k, _operand_bytes(m, k, format)
        if format is FormatName.FP8:
            behind_norm = n is not None and k <= n and not self.isolated
            launches = FUSED_LAUNCH if behind_norm else 1
            reads = 2 if n is not None and k > n else 1
            return (
                self.memory_pass(
                    "quantize", reads * read + written, c.pass_bandwidth, launches=launches
                ),
            )
        if format is FormatName.MXFP8:
            return (
                self.memory_pass(
                    "quantize", read + written, c.quantize_bandwidth, launches=MX_LAUNCHES
                ),
            )
        quantize = Kernel(
            name="quantize",
            fixed_us=c.pass_ramp_us,
            memory_us=self.bytes_us(read + written, c.nvfp4_bandwidth),
        )
        if not self.isolated:
            return (quantize,)
        return (self.memory_pass("absolute maximum", read, c.nvfp4_bandwidth), quantize)

    def _quantize_eagerly(self, m: int, k: int, format: FormatName) -> tuple[Kernel, ...]:
        """Quantizing the input outside compiled graphs: many passes, then MSLK's NVFP4 kernel."""
        launches, bytes_an_element = EAGER_PASSES[format]
        passes = self.memory_pass(
            "eager passes",
            bytes_an_element * m * k,
            self.constants.pass_bandwidth,
            launches=launches,
        )
        if format is not FormatName.NVFP4:
            return (passes,)
        return (passes, *self.quantize(m, k, format)[-1:])

    def _epilogue(self, m: int, n: int, format: FormatName, *, passes: int) -> tuple[Kernel, ...]:
        """NVFP4's scale and bias after the product, read and written in bf16."""
        if format is not FormatName.NVFP4:
            return ()
        return (
            self.memory_pass(
                "scale and bias",
                passes * 2 * BF16_BYTES * m * n,
                self.constants.pass_bandwidth,
                launches=passes,
            ),
        )

    def memory_pass(
        self, name: str, traffic_bytes: float, bandwidth: float, *, launches: float = 1
    ) -> Kernel:
        """A kernel that moves bytes at a part `bandwidth` of the device's bandwidth."""
        return Kernel(
            name=name,
            fixed_us=launches * self.constants.pass_ramp_us,
            memory_us=self.bytes_us(traffic_bytes, bandwidth),
        )

    def bytes_us(self, traffic_bytes: float, part: float) -> float:
        """Microseconds of memory traffic at a part of the device's bandwidth."""
        return traffic_bytes / (self.device.bandwidth_bytes_per_s * part) * 1e6


def _operand_bytes(rows: int, k: int, format: FormatName) -> float:
    row_scales = FP32_BYTES * rows if format is FormatName.FP8 else 0
    return rows * k * ELEMENT_BYTES[format] + row_scales
