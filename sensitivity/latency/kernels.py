"""Which kernels does a Linear launch, and how long does each take? `LinearKernels`.

Method. A Linear is a list of kernels that run one after another, as torchao 0.18 launches them once
it is compiled:

    bf16         GEMM (bias in its epilogue)
    fp8, fp8-lb  quantize: row maximum and cast, GEMM
    int8         quantize: row maximum and cast, GEMM, [scale and bias]
    mxfp8        block scales, cast (two kernels, one pass of bytes), GEMM
    nvfp4        [absolute maximum], quantize, GEMM, [scale and bias]; nvfp4-4o6 likewise
    int8-rot     rotate, then as int8
    -a16         dequantize the weight, GEMM of bf16

A kernel in brackets is launched where the Linear stands alone (`isolated`). Inside a compiled block
Inductor fuses it into a neighbour that touches the same numbers: the maximum into the producer of
the input, scale and bias into the consumer of the output. FP8's and INT8's quantizing is fused into
a norm that makes the input, and costs its bytes and a part of a launch. If K > N (the second Linear
of a feed-forward), the input comes from an activation, which is computed twice: for the row's
maximum, and for the cast.

INT8's GEMM writes int32 (`torch._int_mm`), so its output and the consumer's input are twice as
large. A rotation is priced as a kernel of its own, one pass over the input or its arithmetic,
whichever is longer, and what quantizes behind it is fused into no norm. There are kernels that
rotate and quantize in one pass (comfy-kitchen's ConvRot for INT8), but none that torchao calls. A
weight-only format dequantizes the whole weight in each call, as `Recipe.apply` runs it: Inductor
fuses that into no library GEMM, and torchao (FP8, NVFP4), vLLM-Omni and diffusers (Cosmos3) do the
same. Servers whose GEMM dequantizes on the fly (Marlin) are faster where M is small; torchao's own
product with INT8 codes is far slower (`format_costs.NOTES`).

Linears outside the repeated blocks run eagerly, since only the blocks are compiled. There each pass
of torchao's Python quantizer is a kernel (`format_costs.EAGER_PASSES`).

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
from dataclasses import dataclass, replace

from sensitivity.core.format_name import FormatName
from sensitivity.core.rotation_block import rotation_block
from sensitivity.latency.constants import KernelConstants
from sensitivity.latency.devices import Device
from sensitivity.latency.format_costs import (
    EAGER_DEQUANTIZING,
    EAGER_PASSES,
    ELEMENT_BYTES,
    OUTPUT_BYTES,
    ROW_SCALED,
    epilogue_of,
    gemm_format,
)
from sensitivity.latency.tilings import OPERAND_BANDWIDTH, tile_work

BF16_BYTES, FP32_BYTES = 2, 4
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
            format: The format of the Linear.
            compiled: Whether the Linear stands in a compiled block.

        Raises:
            FormatError: The device has no such format.
        """
        self.device.peak_flops_per_s(format)
        if m == 0:
            return ()
        in_graph = compiled or self.isolated
        gemm = self.gemm(m, k, n, format)
        if format is FormatName.BF16:
            return (gemm,)
        if format.is_weight_only:
            before: tuple[Kernel, ...] = (self.dequantize(k, n, format, compiled=in_graph),)
        elif in_graph:
            before = self.quantize(m, k, format, n=n)
        else:
            before = (*self._rotate(m, k, format), *self._quantize_eagerly(m, k, format))
        return (*before, gemm, *self._epilogue(m, n, format, compiled=in_graph))

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
        what, operand = (
            ("dequantizing", "weight") if format.is_weight_only else ("quantizing", "input")
        )
        added = "launches" if fixed_us > added_us / 2 else f"reading and writing the {operand}"
        outside = "" if compiled else ", outside the compiled blocks"
        return (
            f"{bound}: GEMM {bf16.us / gemm.us:.1f}x; {what} takes {added_us / bf16.us:.0%} of"
            f" bf16's time ({added}{outside})"
        )

    def gemm(self, m: int, k: int, n: int, format: FormatName) -> Kernel:
        """The GEMM of a format: its operands as they are stored, bf16 ones where only the weight
        is quantized. The output is bf16; INT8's is int32.
        """
        c = self.constants
        format = gemm_format(format)
        part = {
            FormatName.BF16: 1.0,
            FormatName.FP8: c.fp8_matmul,
            FormatName.INT8: c.int8_matmul,
            FormatName.MXFP8: c.mxfp8_matmul,
            FormatName.NVFP4: c.nvfp4_matmul,
        }[format]
        rate = self.device.peak_flops_per_s(format) * part
        traffic_bytes = (
            _operand_bytes(m, k, format)
            + _operand_bytes(n, k, format)
            + OUTPUT_BYTES.get(format, BF16_BYTES) * m * n
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
        """Quantizing the input (M, K) of a Linear with N outputs; None is an input alone. What is
        rotated is rotated first.
        """
        c = self.constants
        rotate, plain = self._rotate(m, k, format), format.plain
        read, written = BF16_BYTES * m * k, _operand_bytes(m, k, plain)
        if plain in ROW_SCALED:
            behind_norm = n is not None and k <= n and not self.isolated and not rotate
            launches = FUSED_LAUNCH if behind_norm else 1
            reads = 2 if n is not None and k > n else 1
            quantize = self.memory_pass(
                "quantize", reads * read + written, c.pass_bandwidth, launches=launches
            )
            return (*rotate, quantize)
        if plain is FormatName.MXFP8:
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

    def _rotate(self, m: int, k: int, format: FormatName) -> tuple[Kernel, ...]:
        """Rotating the input (M, K) along K, a product of (M K / B, B) with (B, B) in bf16 for
        blocks of B; () for a format that does not rotate, and for a K that no block divides.
        """
        block = rotation_block(k) if format.is_rotated else None
        if block is None:
            return ()
        rate = self.device.peak_flops_per_s(FormatName.BF16) * self.constants.sustained_matmul
        moved = self.memory_pass(
            "rotate", 2 * BF16_BYTES * m * k, self.constants.rotation_bandwidth
        )
        return (replace(moved, math_us=2 * m * k * block / rate * 1e6),)

    def dequantize(self, k: int, n: int, format: FormatName, *, compiled: bool = True) -> Kernel:
        """Dequantizing a weight (N, K) to bf16, in one pass if it is compiled."""
        c, plain = self.constants, format.plain
        if compiled:
            traffic_bytes = _operand_bytes(n, k, plain) + BF16_BYTES * n * k
            return self.memory_pass("dequantize", traffic_bytes, c.dequantize_bandwidth)
        launches, bytes_an_element = EAGER_DEQUANTIZING[plain]
        return self.memory_pass(
            "eager passes", bytes_an_element * n * k, c.pass_bandwidth, launches=launches
        )

    def _quantize_eagerly(self, m: int, k: int, format: FormatName) -> tuple[Kernel, ...]:
        """Quantizing the input outside compiled graphs: many passes, then MSLK's NVFP4 kernel."""
        launches, bytes_an_element = EAGER_PASSES[format.plain]
        passes = self.memory_pass(
            "eager passes",
            bytes_an_element * m * k,
            self.constants.pass_bandwidth,
            launches=launches,
        )
        if format.plain is not FormatName.NVFP4:
            return (passes,)
        return (passes, *self.quantize(m, k, format)[-1:])

    def _epilogue(
        self, m: int, n: int, format: FormatName, *, compiled: bool
    ) -> tuple[Kernel, ...]:
        """Scales and bias after the product, where the GEMM does not apply them.

        Inside a compiled block the consumer of the output applies them, and reads what it has to
        read more than a bf16 output.
        """
        epilogue, bandwidth = epilogue_of(format), self.constants.pass_bandwidth
        if epilogue is None:
            return ()
        if compiled and not self.isolated:
            more_bytes = epilogue.fused_bytes * m * n
            fused = self.memory_pass("scale and bias", more_bytes, bandwidth, launches=0)
            return (fused,) if more_bytes else ()
        passes = epilogue.alone if compiled else epilogue.eager
        return (
            self.memory_pass(
                "scale and bias",
                passes.bytes_an_element * m * n,
                bandwidth,
                launches=passes.launches,
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
    row_scales = FP32_BYTES * rows if format in ROW_SCALED else 0
    return rows * k * ELEMENT_BYTES[format] + row_scales
