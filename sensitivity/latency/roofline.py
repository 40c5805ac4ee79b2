"""How long would each kernel take if it ran at the device's achievable limits? The predicted latency, from shapes alone.

Method. A Linear is a list of kernels that run one after another; each takes the longest of its arithmetic, its memory traffic and the
launch floor. What a format adds to the GEMM is listed in `linear_kernels`, as torchao 0.18 launches it once compiled:

    bf16    GEMM (bias in its epilogue)
    fp8     row amax + quantize (one kernel), GEMM
    mxfp8   block quantize (one kernel), GEMM
    nvfp4   amax (two kernels where Inductor splits the reduction), quantize, GEMM, scalar multiply + bias add (one pass over M x N)

so that a Linear with one row pays several floors in NVFP4 where a plain roofline sees only its smaller weight. Arithmetic has a second
floor: a GEMM is spread no finer than one 128 x 128 output tile a streaming multiprocessor, so small outputs leave much of the chip idle.

The rest of the denoiser, from the table too (`rest_s`):
- attention: 4 x batch x S_q x S_kv x width FLOPs a call at the bf16 peak x achievable_attention. Queries and keys are found by the names
  that diffusers gives (`to_q`, `add_q_proj`; `to_k`, `add_k_proj`); those of one module attend jointly, and a sequence is M / batch.
- elementwise: one pass (read and write) over each Linear's input and one over its output. Linears under one parent with equal M and K
  read the same tensor (q, k, v) and share its pass.

Conventions. Constants come from `devices.py`, none is fitted to a measured run. "reduce-overhead" (CUDA graphs) has the device's launch
floor; "default" has that of launches into a stream. Kernels are isolated: where Inductor fuses a quantize or an epilogue into a neighbour,
this overcounts.

What it does not do: text encoders, VAE, scheduler, guidance arithmetic (anchor with `bf16_seconds` to have them), varying sequence lengths
inside one attention module (averaged), masks, sharding over GPUs.

Example: a large square GEMM runs at 0.78 of the peak.
    >>> from sensitivity.latency.devices import get_device
    >>> round(RooflineLatency(get_device("b200")).linear_us(m=8192, k=8192, n=8192, format=FormatName.BF16), 1)
    626.5
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from sensitivity.errors import UserError
from sensitivity.latency._base import CompileMode, LatencyModel, Source, batch_rows
from sensitivity.latency.devices import Device
from sensitivity.profiler import LinearProfile, ShapeTable
from sensitivity.spec import FormatName

BF16_BYTES, FP32_BYTES = 2, 4
GEMM_TILE = 128
"""Rows and columns of the smallest output tile at full rate (tcgen05.mma has M = 128; CUTLASS's and cuBLAS's usual smallest tile)."""
ONE_KERNEL_REDUCTION_ELEMENTS = 32768
"""Inductor reduces up to this many elements to a scalar in one kernel on compute capability 10, above it in two
(torch 2.15 `_inductor/choices.py`, `_inner_reduction_no_split_threshold`)."""
STREAM_LAUNCH_US = 3.8
"""Kernel to kernel, launched into a stream without synchronizing (NVIDIA, "Getting Started with CUDA Graphs", 2019, measured on a V100)."""

# Bytes an element, block scales included: e4m3 + one byte for 32; e2m1 + one byte for 16. fp8's row scales are added apart.
_ELEMENT_BYTES: Mapping[FormatName, float] = MappingProxyType(
    {FormatName.BF16: 2.0, FormatName.FP8: 1.0, FormatName.MXFP8: 1 + 1 / 32, FormatName.NVFP4: 1 / 2 + 1 / 16}
)
_QUERIES = ("to_q", "q_proj", "add_q_proj")
_KEYS = ("to_k", "k_proj", "add_k_proj")


@dataclass(frozen=True, kw_only=True, slots=True)
class Kernel:
    """One kernel: what it reads and writes in bytes, and the seconds of its arithmetic at the achievable rate (0 for elementwise)."""

    name: str
    traffic_bytes: float
    math_s: float = 0.0


class RooflineLatency(LatencyModel):
    """Predicts from a device's limits.

    Args:
        device: The GPU that is priced; `get_device` finds it by name.
        compile_mode: "reduce-overhead" (CUDA graphs) or "default".

    Raises:
        UserError: Another compile mode.
    """

    source: Source = "predicted"
    covers = "the rest is predicted for the denoiser alone (attention, elementwise); text encoders and VAE are not counted"

    def __init__(self, device: Device, *, compile_mode: CompileMode = "reduce-overhead") -> None:
        """See the class."""
        floors_us = {"reduce-overhead": device.launch_floor_us, "default": max(device.launch_floor_us, STREAM_LAUNCH_US)}
        if compile_mode not in floors_us:
            raise UserError(f"The compile mode is {compile_mode!r}; allowed: {', '.join(floors_us)}. Choose one of these.")
        self.device = device
        self.target = device.name
        self.compile_mode = compile_mode
        self.launch_floor_us = floors_us[compile_mode]

    def linear_us(self, *, m: int, k: int, n: int, format: FormatName) -> float:
        """Give the microseconds of one call: the sum over `linear_kernels`; 0 where m is 0, since nothing is launched.

        Raises:
            FormatError: The device has no such format.
        """
        return sum(self.kernel_us(kernel) for kernel in self.linear_kernels(m=m, k=k, n=n, format=format))

    def kernel_us(self, kernel: Kernel) -> float:
        """Give max(arithmetic, traffic / achievable bandwidth, launch floor) in microseconds."""
        return max(kernel.math_s * 1e6, kernel.traffic_bytes / self.device.memory_bytes_per_s * 1e6, self.launch_floor_us)

    def linear_kernels(self, *, m: int, k: int, n: int, format: FormatName) -> tuple[Kernel, ...]:
        """List what one call launches, in order. M x K is the input (bf16), N x K the weight (in the format), M x N the output (bf16).

        Raises:
            FormatError: The device has no such format.
        """
        self.device.peak_flops_per_s(format)
        if m == 0:
            return ()
        gemm = self._gemm(m, k, n, format)
        read_input = Kernel(name="amax", traffic_bytes=BF16_BYTES * m * k)
        quantize = Kernel(name="quantize", traffic_bytes=BF16_BYTES * m * k + self._operand_bytes(m, k, format))
        match format:
            case FormatName.BF16:
                return (gemm,)
            case FormatName.FP8 | FormatName.MXFP8:
                return (quantize, gemm)
            case FormatName.NVFP4:
                second = (Kernel(name="amax of amaxes", traffic_bytes=0.0),) if m * k > ONE_KERNEL_REDUCTION_ELEMENTS else ()
                epilogue = Kernel(name="multiply, add bias", traffic_bytes=2 * BF16_BYTES * m * n)
                return (read_input, *second, quantize, gemm, epilogue)

    def _gemm(self, m: int, k: int, n: int, format: FormatName) -> Kernel:
        """A GEMM that reads both operands in the format and writes bf16; its arithmetic takes at least one tile on one multiprocessor."""
        rate = self.device.matmul_flops_per_s(format)
        tile_s = 2 * min(m, GEMM_TILE) * min(n, GEMM_TILE) * k / (rate / self.device.sm_count)
        traffic_bytes = self._operand_bytes(m, k, format) + self._operand_bytes(n, k, format) + BF16_BYTES * m * n
        return Kernel(name="gemm", traffic_bytes=traffic_bytes, math_s=max(2 * m * k * n / rate, tile_s))

    @staticmethod
    def _operand_bytes(rows: int, k: int, format: FormatName) -> float:
        row_scales = FP32_BYTES * rows if format is FormatName.FP8 else 0
        return rows * k * _ELEMENT_BYTES[format] + row_scales

    def rest_s(self, table: ShapeTable) -> float:
        """Give attention + elementwise seconds of the denoiser; an approximation, see the module's text for what it assumes."""
        return self.attention_s(table) + self.elementwise_s(table)

    def attention_s(self, table: ShapeTable) -> float:
        """Give the seconds of softmax(Q K^T) V: two products of 2 x S_q x S_kv x width FLOPs for each sample of the batch.

        S_q and S_kv are the rows of all query and key Linears of one attention module, / batch. 0 where no Linear has a known name.
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
            calls, width = max(linear.calls for linear in queries), max(linear.n for linear in queries)
            flops = 4 * batch * (_mean_rows(queries) / batch) * (_mean_rows(keys) / batch) * width
            math_s = flops / (self.device.peak_flops_per_s(FormatName.BF16) * self.device.achievable_attention)
            traffic_bytes = 2 * BF16_BYTES * (_mean_rows(queries) + _mean_rows(keys)) * width  # Q, K, V in, output out
            total_s += calls * self.kernel_us(Kernel(name="attention", traffic_bytes=traffic_bytes, math_s=math_s)) / 1e6
        return total_s

    def elementwise_s(self, table: ShapeTable) -> float:
        """Give the seconds of one pass over each Linear's input, shared by siblings that read the same, and one over each output."""
        inputs: dict[tuple[str, int, int], int] = {}
        total_us = 0.0
        for linear in table.linears:
            parent = linear.fqn.rpartition(".")[0]
            for m, calls in linear.m_values:
                total_us += calls * self._pass_us(m, linear.n)
                inputs[parent, m, linear.k] = max(calls, inputs.get((parent, m, linear.k), 0))
        return (total_us + sum(calls * self._pass_us(m, k) for (_, m, k), calls in inputs.items())) / 1e6

    def _pass_us(self, rows: int, width: int) -> float:
        return self.kernel_us(Kernel(name="pass", traffic_bytes=2 * BF16_BYTES * rows * width)) if rows else 0.0


def _mean_rows(linears: Iterable[LinearProfile]) -> float:
    return sum(linear.rows / linear.calls for linear in linears)
