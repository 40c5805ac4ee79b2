"""How long does a run take on a GPU that is not here?

The predicted latency, from shapes and a few constants.

Method. A Linear is a list of kernels that run one after another (`linear_kernels`), as torchao 0.18
launches them once compiled:

    bf16    GEMM (bias in its epilogue)
    fp8     [quantize: row amax and cast], GEMM
    mxfp8   block scales, cast (two kernels, one pass of bytes), GEMM
    nvfp4   [absolute maximum], quantize, GEMM, [scale and bias]

What stands in brackets is a kernel of its own where the Linear stands alone (`isolated`). Inside a
compiled block Inductor fuses it into a neighbour that touches the same numbers anyway: the maximum
into the producer of the input, scale and bias into the consumer of the output, FP8's whole
quantizing into the producer where a row is short (`ROW_ON_CHIP`). One input that feeds q, k and v
is quantized three times: NVFP4's quantizer is an opaque operator, which Inductor does not merge,
and for MXFP8 the published runs fit three times better than once; FP8's is merged (`sibling_us`).

A kernel takes a ramp, plus the longer of its memory traffic and its arithmetic, plus the gap to the
next kernel. Arithmetic of a GEMM is spread over whole waves of output tiles (`TILES`, the best of
them), so small M or N leave much of the chip idle; a part of the output's write is not hidden. So
the time of M = 1 is that of reading the weight, which a narrow format shortens, plus launches,
which it adds.

Linears outside the repeated blocks run eagerly, since only the blocks are compiled: each pass of
torchao's Python quantizer is a kernel (`EAGER_PASSES`, counted).

The rest (`rest_s`): attention and other products at their part of the peak; in the denoiser one
pass over each Linear's input and output (fused elementwise work); in other components, which are
not compiled, every kernel's bytes. All counted in the same run as the shapes (census.py) where the
table has counts; from diffusers' names (`to_q`, `to_k`) where it has none, then for the denoiser
alone.

A measured bf16 total is divided by what each prediction is worth: the difference goes to Linears
and rest in the ratio of their variances.

Conventions. Constants come from `devices.py`. CUDA graphs or not changes nothing here while the GPU
is the slower side: the published tables (graphs at batch 1, none at 4 and 8) do not tell two gaps
apart; a run that waits for the CPU is slower than predicted.

What it does not do: masks, sharding over GPUs, varying sequence lengths inside one attention module
(averaged without counts), convolutions' shapes, a CPU that is too slow.

    model = PredictedLatency(get_device("b200"))
    model.linear_us(m=4096, k=3072, n=12288, format=FormatName.NVFP4)
    model.why(m=1, k=3072, n=18432, format=FormatName.NVFP4)
"""

import math
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

from sensitivity.core.format_name import CompileMode, FormatName, Source
from sensitivity.errors import UserError
from sensitivity.latency._base import LatencyModel, Savings, batch_rows
from sensitivity.latency.constants import KernelConstants
from sensitivity.latency.devices import Device
from sensitivity.latency.posterior import draws_for
from sensitivity.shapes.census import ComponentCounts
from sensitivity.shapes.table import LinearProfile, ShapeTable

BF16_BYTES, FP32_BYTES = 2, 4
TILES = (
    (128, 64, 0.7),
    (128, 128, 0.85),
    (256, 128, 0.95),
    (192, 192, 0.97),
    (256, 192, 1.0),
    (256, 256, 1.0),
)
"""(rows, columns, part of the full rate) of output tiles; a smaller tile reuses each operand less.

Sizes: CUTLASS's and cuBLAS's usual ones for tcgen05 with one and two multiprocessors; rates
assumed.
"""
EAGER_PASSES: Mapping[FormatName, tuple[int, float]] = MappingProxyType(
    {FormatName.FP8: (8, 33.0), FormatName.MXFP8: (32, 37.2), FormatName.NVFP4: (5, 6.0)}
)
"""{format:

(kernels, bytes an input element)} of quantizing eagerly before the quantizer proper (NVFP4:
MSLK's), counted with a dispatch mode on torchao 0.18.
"""
ROW_ON_CHIP = 8192
"""Elements of a row that a kernel still holds while it looks for its maximum:

FP8 (a scale for each row) is then quantized on the way by the kernel that makes the row. Seen in
the profile of FLUX.1-dev compiled on an H100: rows of 3072 cost nothing, rows of 12288 and 15360 a
pass of their own.
"""
FEW_TILES = 0.3
"""Part of the rate below which a GEMM is said to be bound by its few output tiles."""
JITTERS = 200

# Bytes an element, block scales included: e4m3 + one byte for 32; e2m1 + one byte for 16. fp8's row
# scales are added apart.
_ELEMENT_BYTES: Mapping[FormatName, float] = MappingProxyType(
    {
        FormatName.BF16: 2.0,
        FormatName.FP8: 1.0,
        FormatName.MXFP8: 1 + 1 / 32,
        FormatName.NVFP4: 1 / 2 + 1 / 16,
    }
)
_QUERIES = ("to_q", "q_proj", "add_q_proj")
_KEYS = ("to_k", "k_proj", "add_k_proj")


@dataclass(frozen=True, kw_only=True, slots=True)
class Kernel:
    """One kernel (or `launches` of them, one after another) and its microseconds: ramps and gaps,
    arithmetic, memory; the longer of the last two counts.
    """

    name: str
    fixed_us: float
    math_us: float = 0.0
    memory_us: float = 0.0

    @property
    def us(self) -> float:
        """Its time."""
        return self.fixed_us + max(self.math_us, self.memory_us)


class PredictedLatency(LatencyModel):
    """Predicts from a device's limits.

    Args:
        device: The GPU that is priced; `get_device` finds it by name.
        compile_mode: "reduce-overhead" (CUDA graphs) or "default"; see the module's conventions.
        isolated: Price Linears that stand alone (kernel times, no gaps) instead of inside a
            compiled run.
        constants: Other constants than the device's own (for fits).

    Raises:
        UserError: Another compile mode.
    """

    source: Source = "predicted"
    covers = "attention and elementwise work are predicted too"

    def __init__(
        self,
        device: Device,
        *,
        compile_mode: CompileMode = "reduce-overhead",
        isolated: bool = False,
        constants: KernelConstants | None = None,
    ) -> None:
        """See the class."""
        if compile_mode not in ("reduce-overhead", "default"):
            raise UserError(
                f"The compile mode is {compile_mode!r}; allowed: reduce-overhead, default. Choose"
                " one of these."
            )
        self.device = device
        self.target = device.name
        self.compile_mode = compile_mode
        self.isolated = isolated
        self.constants = constants or device.kernels
        self._times: dict[tuple[int, int, int, FormatName, bool], float] = {}
        if not device.calibrated:
            self.covers += f"; the kernel constants were not fitted on {device.name}"

    def linear_us(self, *, m: int, k: int, n: int, format: FormatName) -> float:
        """Give the microseconds of one call in a compiled block: the sum over `linear_kernels`; 0
        where m is 0, since nothing is launched.

        Raises:
            FormatError: The device has no such format.
        """
        return self._us(m, k, n, format, True)

    def eager_us(self, *, m: int, k: int, n: int, format: FormatName) -> float:
        """Give the same outside the compiled blocks."""
        return self._us(m, k, n, format, False)

    def sibling_us(self, *, m: int, k: int, n: int, format: FormatName) -> float:
        """Give the time of one more Linear on a quantized input:

        FP8's quantizing is merged, that of the other formats is not (see the module's text).
        """
        one_us = self._us(m, k, n, format, True)
        if format is not FormatName.FP8:
            return one_us
        return one_us - sum(kernel.us for kernel in self._quantize(m, k, format)) if m else 0.0

    def _us(self, m: int, k: int, n: int, format: FormatName, compiled: bool) -> float:
        key = (m, k, n, format, compiled)
        if key not in self._times:
            self._times[key] = sum(
                kernel.us
                for kernel in self.linear_kernels(m=m, k=k, n=n, format=format, compiled=compiled)
            )
        return self._times[key]

    def linear_kernels(
        self, *, m: int, k: int, n: int, format: FormatName, compiled: bool = True
    ) -> tuple[Kernel, ...]:
        """List what one call launches, in order.

        M x K is the input (bf16), N x K the weight (in the format), M x N the output (bf16).

        Raises:
            FormatError: The device has no such format.
        """
        self.device.peak_flops_per_s(format)
        if m == 0:
            return ()
        gemm = self._gemm(m, k, n, format)
        if format is FormatName.BF16:
            return (gemm,)
        if not compiled and not self.isolated:
            return (
                *self._quantize_eagerly(m, k, format),
                gemm,
                *self._epilogue(m, n, format, passes=2),
            )
        return (
            *self._quantize(m, k, format),
            gemm,
            *(self._epilogue(m, n, format, passes=1) if self.isolated else ()),
        )

    def _gemm(self, m: int, k: int, n: int, format: FormatName) -> Kernel:
        """A GEMM that reads both operands in the format and writes bf16, on whole waves of its best
        tile.
        """
        c = self.constants
        relative = {
            FormatName.BF16: 1.0,
            FormatName.FP8: c.fp8_matmul,
            FormatName.MXFP8: c.mxfp8_matmul,
            FormatName.NVFP4: c.nvfp4_matmul,
        }
        part = (c.isolated_matmul if self.isolated else c.sustained_matmul) * relative[format]
        rate = (
            self.device.peak_flops_per_s(format)
            * part
            * _wave_efficiency(m, n, self.device.sm_count)
        )
        write_bytes = BF16_BYTES * m * n
        traffic_bytes = (
            self._operand_bytes(m, k, format) + self._operand_bytes(n, k, format) + write_bytes
        )
        return Kernel(
            name="GEMM",
            fixed_us=c.gemm_ramp_us + self._gap_us,
            math_us=2 * m * k * n / rate * 1e6
            + c.exposed_write * self._bytes_us(write_bytes, c.pass_bandwidth),
            memory_us=self._bytes_us(traffic_bytes, c.pass_bandwidth),
        )

    def _quantize(self, m: int, k: int, format: FormatName) -> tuple[Kernel, ...]:
        """Quantizing the input in a compiled graph."""
        c = self.constants
        read, written = BF16_BYTES * m * k, self._operand_bytes(m, k, format)
        if format is FormatName.FP8 and not self.isolated and k <= ROW_ON_CHIP:
            return ()
        if format is not FormatName.NVFP4:
            launches = 2 if format is FormatName.MXFP8 else 1
            return (
                self._pass("quantize", read + written, c.quantize_bandwidth, launches=launches),
            )
        quantize = Kernel(
            name="quantize",
            fixed_us=c.nvfp4_ramp_us + self._gap_us,
            memory_us=self._bytes_us(read + written, c.nvfp4_bandwidth),
        )
        return (
            (self._pass("absolute maximum", read, c.nvfp4_bandwidth), quantize)
            if self.isolated
            else (quantize,)
        )

    def _quantize_eagerly(self, m: int, k: int, format: FormatName) -> tuple[Kernel, ...]:
        """Quantizing the input outside compiled graphs: many passes, and for NVFP4 MSLK's kernel
        after them.
        """
        launches, bytes_an_element = EAGER_PASSES[format]
        passes = self._pass(
            "eager passes",
            bytes_an_element * m * k,
            self.constants.pass_bandwidth,
            launches=launches,
        )
        return (
            (passes, *self._quantize(m, k, format)[-1:])
            if format is FormatName.NVFP4
            else (passes,)
        )

    def _epilogue(self, m: int, n: int, format: FormatName, *, passes: int) -> tuple[Kernel, ...]:
        """NVFP4's scale and bias after the product, read and written in bf16."""
        if format is not FormatName.NVFP4:
            return ()
        return (
            self._pass(
                "scale and bias",
                passes * 2 * BF16_BYTES * m * n,
                self.constants.pass_bandwidth,
                launches=passes,
            ),
        )

    def _pass(
        self, name: str, traffic_bytes: float, bandwidth: float, *, launches: int = 1
    ) -> Kernel:
        fixed_us = launches * (self.constants.pass_ramp_us + self._gap_us)
        return Kernel(
            name=name, fixed_us=fixed_us, memory_us=self._bytes_us(traffic_bytes, bandwidth)
        )

    @property
    def _gap_us(self) -> float:
        return 0.0 if self.isolated else self.constants.gap_us

    def _bytes_us(self, traffic_bytes: float, part: float) -> float:
        return traffic_bytes / (self.device.bandwidth_bytes_per_s * part) * 1e6

    @staticmethod
    def _operand_bytes(rows: int, k: int, format: FormatName) -> float:
        row_scales = FP32_BYTES * rows if format is FormatName.FP8 else 0
        return rows * k * _ELEMENT_BYTES[format] + row_scales

    def why(self, *, m: int, k: int, n: int, format: FormatName, compiled: bool = True) -> str:
        """Say in a clause what decides a quantized Linear's gain or loss: what its GEMM saves
        against what quantizing adds, and by what each is bound.
        """
        kernels = self.linear_kernels(m=m, k=k, n=n, format=format, compiled=compiled)
        if not kernels or format is FormatName.BF16:
            return ""
        bf16, gemm = (
            self._gemm(m, k, n, FormatName.BF16),
            next(kernel for kernel in kernels if kernel.name == "GEMM"),
        )
        added_us = sum(kernel.us for kernel in kernels) - gemm.us
        fixed_us = sum(kernel.fixed_us for kernel in kernels if kernel.name != "GEMM")
        bound = "reading the weight" if bf16.memory_us >= bf16.math_us else "arithmetic"
        if (
            bf16.memory_us < bf16.math_us
            and _wave_efficiency(m, n, self.device.sm_count) < FEW_TILES
        ):
            bound = "few output tiles for the chip"
        added = "launches" if fixed_us > added_us / 2 else "reading and writing the input"
        outside = "" if compiled else ", outside the compiled blocks"
        return (
            f"{bound}: GEMM {bf16.us / gemm.us:.1f}x; quantizing takes {added_us / bf16.us:.0%} of"
            f" bf16's time ({added}{outside})"
        )

    def divide_anchor(
        self, bf16_seconds: float, linears_s: float, rest_s: float
    ) -> tuple[float, float]:
        """Divide a measured total:

        (factor on the Linears, seconds of the rest); see the module's text.

        Raises:
            UserError: The total is so far from the prediction (Linears by a factor of 2, or no rest
                at all) that it is of another run.
        """
        linear_var, rest_var = (
            (self.constants.linear_sd * linears_s) ** 2,
            (self.constants.rest_sd * rest_s) ** 2,
        )
        to_linears_s = (bf16_seconds - linears_s - rest_s) * linear_var / (linear_var + rest_var)
        factor, rest_s = 1 + to_linears_s / linears_s, bf16_seconds - linears_s - to_linears_s
        if not (math.isfinite(bf16_seconds) and 0.5 <= factor <= 2 and rest_s > 0):
            raise UserError(
                f"The measured bf16 run takes {bf16_seconds:.4g} s, and its Linears alone are"
                f" predicted to take {linears_s:.4g} s on a {self.target}; allowed is what such a"
                " run can take. Give the seconds of the whole run that was profiled (all steps,"
                " same batch size and target), or leave --bf16-seconds out."
            )
        return factor, rest_s

    def interval90(self, savings: Savings) -> tuple[float, float] | None:
        """Give the 5 % and 95 % quantiles of the speedup: draws of the fitted constants, and the
        stated deviations of Linears, rest and saving.

        What was anchored keeps its total; the division into Linears and rest is then uncertain by
        both deviations together.
        """
        noise = random.Random(0)
        c = self.constants
        speedups = []
        fractions = [savings.fraction(model) for model in self._draws] or [savings.fraction(self)]
        for i in range(JITTERS):
            to_linears, to_rest, to_saving = (noise.gauss(0, 1) for _ in range(3))
            linears_s, rest_s = savings.linears_s, savings.rest_s
            if savings.anchored:
                a, b = c.linear_sd * linears_s, c.rest_sd * rest_s
                total_s, linears_s = (
                    linears_s + rest_s,
                    linears_s + to_linears * (a * b / math.hypot(a, b) if b else 0.0),
                )
            else:
                linears_s *= math.exp(c.linear_sd * to_linears)
                total_s = linears_s + rest_s * math.exp(c.rest_sd * to_rest)
            saved_s = linears_s * fractions[i % len(fractions)] * (1 + c.saving_sd * to_saving)
            speedups.append(total_s / max(total_s - saved_s, total_s / 100))
        speedups.sort()
        return speedups[round(0.05 * (JITTERS - 1))], speedups[round(0.95 * (JITTERS - 1))]

    @cached_property
    def _draws(self) -> tuple["PredictedLatency", ...]:
        return tuple(
            PredictedLatency(
                self.device,
                compile_mode=self.compile_mode,
                isolated=self.isolated,
                constants=constants,
            )
            for constants in draws_for(self.constants)
        )

    def rest_s(self, table: ShapeTable) -> float:
        """Give the seconds of everything that is no Linear of the table; see the module's text for
        what is counted.
        """
        if table.run is None:
            return self.attention_s(table) + self.elementwise_s(table)
        compiled = table.components or (
            max(table.run.components, key=lambda counts: counts.linear_flops).component,
        )
        attention_s = sum(
            self._counted_attention_s(counts)
            for counts in table.run.components
            if counts.component in compiled
        )
        others_s = sum(
            self._eager_component_s(counts)
            for counts in table.run.components
            if counts.component not in compiled
        )
        return attention_s + self.elementwise_s(table) + others_s

    def _counted_attention_s(self, counts: ComponentCounts) -> float:
        rate = self.device.peak_flops_per_s(FormatName.BF16) * self.constants.attention
        fixed_us = self.constants.gemm_ramp_us + self._gap_us
        calls = sum(shape.calls for shape in counts.attention)
        return (
            sum(shape.flops for shape in counts.attention) + counts.matmul_flops
        ) / rate + calls * fixed_us / 1e6

    def _eager_component_s(self, counts: ComponentCounts) -> float:
        """A component that is not compiled: its products at the sustained rate, its other kernels
        by their bytes, all with gaps.
        """
        rate = self.device.peak_flops_per_s(FormatName.BF16) * self.constants.sustained_matmul
        bytes_us = self._bytes_us(counts.eager_bytes, self.constants.pass_bandwidth)
        fixed_us = counts.kernels * (self.constants.pass_ramp_us + self._gap_us)
        return (
            (counts.linear_flops + counts.conv_flops) / rate
            + self._counted_attention_s(counts)
            + (bytes_us + fixed_us) / 1e6
        )

    def attention_s(self, table: ShapeTable) -> float:
        """Give the seconds of softmax(Q K^T) V by the names of Linears: two products of 2 x S_q x
        S_kv x width FLOPs for each sample of the batch.

        S_q and S_kv are the rows of all query and key Linears of one attention module, / batch. 0
        where no Linear has a known name.
        """
        batch = batch_rows(table)
        modules: dict[str, list[LinearProfile]] = {}
        for linear in table.linears:
            parent, _, name = linear.fqn.rpartition(".")
            if name in _QUERIES + _KEYS:
                modules.setdefault(parent, []).append(linear)
        total_s = 0.0
        for members in modules.values():
            queries = [linear for linear in members if linear.fqn.rpartition(".")[2] in _QUERIES]
            keys = [linear for linear in members if linear.fqn.rpartition(".")[2] in _KEYS]
            if not queries or not keys:
                continue
            calls, width = (
                max(linear.calls for linear in queries),
                max(linear.n for linear in queries),
            )
            flops = 4 * batch * (_mean_rows(queries) / batch) * (_mean_rows(keys) / batch) * width
            math_s = flops / (
                self.device.peak_flops_per_s(FormatName.BF16) * self.constants.attention
            )
            total_s += calls * (math_s + (self.constants.gemm_ramp_us + self._gap_us) / 1e6)
        return total_s

    def elementwise_s(self, table: ShapeTable) -> float:
        """Give the seconds of one pass over each Linear's input, shared by siblings that read the
        same, and one over each output.
        """
        inputs: dict[tuple[str, int, int], int] = {}
        total_us = 0.0
        for linear in table.linears:
            parent = linear.fqn.rpartition(".")[0]
            for m, calls in linear.m_values:
                total_us += calls * self._pass_us(m, linear.n)
                inputs[parent, m, linear.k] = max(calls, inputs.get((parent, m, linear.k), 0))
        return (
            total_us + sum(calls * self._pass_us(m, k) for (_, m, k), calls in inputs.items())
        ) / 1e6

    def _pass_us(self, rows: int, width: int) -> float:
        return (
            self._pass("pass", 2 * BF16_BYTES * rows * width, self.constants.fusion_bandwidth).us
            if rows
            else 0.0
        )


def _wave_efficiency(m: int, n: int, sm_count: int) -> float:
    """The part of the rate that whole waves of whole tiles use, for the best of `TILES`."""

    def efficiency(rows: int, columns: int, rate: float) -> float:
        waves = math.ceil(math.ceil(m / rows) * math.ceil(n / columns) / sm_count)
        return m * n / (waves * sm_count * rows * columns) * rate

    return max(efficiency(*tile) for tile in TILES)


def _mean_rows(linears: Iterable[LinearProfile]) -> float:
    return sum(linear.rows / linear.calls for linear in linears)
