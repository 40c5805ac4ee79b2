"""How long does everything in a run take that is not a Linear of the table? `RestOfRun`.

Method. Attention and other products run at their part of the bf16 peak. In the denoiser,
elementwise work is fused: it counts as one pass over the input and one over the output of each
Linear. Other components are not compiled, so each of their kernels counts with its own bytes and
gap. Python launches these kernels one by one: a component takes the longer of that and of the GPU's
time. Convolutions of a decoder run far below the peak (`RestCosts`). What is left of a pipeline
call (checks, tokenizers, latents, the picture's way to the host) is a constant.

A step of the scheduler counts as nothing: the host launches it while the GPU works. Where the host
is the limit, it is among the host's costs (`host`).

If the table has counts of the run (`shapes.census`), these are priced. If it has none, attention is
found by diffusers' names of Linears (`to_q`, `to_k`), and the denoiser alone is priced.

What it does not do: masks, sharding over GPUs, varying sequence lengths inside one attention module
(averaged if there are no counts), shapes of convolutions, a compiled decoder.

    RestOfRun(LinearKernels(device, device.kernels)).seconds(table)
"""

from collections.abc import Iterable
from dataclasses import dataclass

from sensitivity.core.format_name import FormatName
from sensitivity.latency.kernels import BF16_BYTES, LinearKernels
from sensitivity.latency.scale import batch_rows
from sensitivity.shapes.census import ComponentCounts
from sensitivity.shapes.table import LinearProfile, ShapeTable

_QUERIES = ("to_q", "q_proj", "add_q_proj")
_KEYS = ("to_k", "k_proj", "add_k_proj")


@dataclass(frozen=True, kw_only=True, slots=True)
class RestCosts:
    """What no limit of the GPU explains in a pipeline call around its denoiser.

    Attributes:
        convolution_flops_per_s: What eager bf16 convolutions of a decoder reach, with the layout
            changes around them. Their channels are few and their pictures large.
        group_norm_bytes_per_s: At which rate a decoder's group norms move their bytes. Eager torch
            gives each group of a picture to one multiprocessor, so most of the chip is idle.
        denoiser_convolutions: Part of the rate of large GEMMs that a denoiser's convolutions reach,
            with the norms between them. They are never compiled here.
        kernel_us: The host's time to launch one kernel of a component that is not compiled.
        call_us: The host's time of a pipeline call outside of its components.
        sources: Where they come from.
    """

    convolution_flops_per_s: float
    group_norm_bytes_per_s: float
    denoiser_convolutions: float
    kernel_us: float
    call_us: float
    sources: tuple[str, ...]


REST_COSTS = RestCosts(
    convolution_flops_per_s=2.6e14,
    group_norm_bytes_per_s=1.8e11,
    denoiser_convolutions=0.5,
    kernel_us=25.0,
    call_us=15_000.0,
    sources=(
        """convolutions and group norms: decoding 1024 x 1024 in bf16 takes 84.9 ms on an H200 \
with group norms (FLUX.1, SD 3.5 and SDXL; 9.9e12 FLOPs of convolutions, 7.3e9 bytes of group \
norms) and 66.9 ms without (Qwen-Image; 1.13e13 FLOPs; \
benchmarks/results/2026-11-29-rest-of-run-h200.json). Others saw 89.9 to 97.6 ms \
(sgl-project/sglang#33818, #33451), and 117 ms on a B200 (unslothai/unsloth#10889), priced 82""",
        """a denoiser's convolutions: SDXL's UNet (3.2e12 FLOPs of them a step) in one CUDA graph \
takes 36.8 ms on an H200 in bf16, of which Linears, attention and norms explain 28 \
(benchmarks/runtimes.py)""",
        """kernel_us: a virtual Xeon launched seven text encoders (CLIP, T5-XXL, Qwen2.5-VL) in \
22 to 36 us a kernel (the same file); FLUX.1's two take 30.5 ms in a server \
(sgl-project/sglang#22365)""",
        """call_us: a call takes 14 (FLUX.1) and 19 ms (SD 3.5) beside its components, with \
tensors as output; pictures take 25 ms more. A step of the scheduler adds less than 0.1 ms (the \
same file)""",
    ),
)


SOFTMAX_WORTH = 80
"""The softmax of attention takes as long as this many more elements of a head.

FlashAttention-3 forward on an H100 (arXiv:2407.08608, figure 5, read off the plot): heads of 64
reach 0.7 of the rate of heads of 128.
"""


def softmax_factor(head_dim: int) -> float:
    """How much longer attention takes for its FLOPs than with heads of 128."""
    return (1 + SOFTMAX_WORTH / head_dim) / (1 + SOFTMAX_WORTH / 128)


@dataclass(frozen=True, slots=True)
class RestOfRun:
    """Prices what is not a Linear.

    Attributes:
        kernels: The device, its constants and the gaps.
        compiled: Whether the denoisers are compiled, so that elementwise work is fused.
        costs: What no limit of the device explains.
    """

    kernels: LinearKernels
    compiled: bool = True
    costs: RestCosts = REST_COSTS

    def seconds(self, table: ShapeTable) -> float:
        """Seconds of everything that is not a Linear of the table."""
        if table.run is None:
            return self.attention_s(table) + self.elementwise_s(table)
        denoisers = [x for x in table.run.components if x.component in _denoisers(table)]
        others_s = self.others_s(table)
        if not self.compiled:
            linears = sum(linear.calls for linear in table.linears)
            return others_s + self._eager_rest_s(denoisers, linears)
        attention_s = sum(self._counted_attention_s(counts) for counts in denoisers)
        convolutions_s = sum(self._convolutions_s(counts) for counts in denoisers)
        return attention_s + convolutions_s + self.elementwise_s(table) + others_s

    def others_s(self, table: ShapeTable) -> float:
        """Seconds of the components that are no denoisers, and of the call around all of them; 0
        if the table has no counts.
        """
        if table.run is None:
            return 0.0
        others = [x for x in table.run.components if x.component not in _denoisers(table)]
        if not others:
            return 0.0  # the denoiser alone was counted
        return self.costs.call_us / 1e6 + sum(self.component_s(counts) for counts in others)

    def component_s(self, counts: ComponentCounts) -> float:
        """Seconds of a component that is not compiled: the longer of what the GPU takes, and of
        what the host takes to launch it.
        """
        return max(self._eager_component_s(counts), counts.kernels * self.costs.kernel_us / 1e6)

    def attention_s(self, table: ShapeTable) -> float:
        """Seconds of softmax(Q K^T) V, found by the names of Linears.

        Two products of 2 x S_q x S_kv x width FLOPs for each sample of the batch. S_q and S_kv are
        the rows of all query and key Linears of one attention module, divided by the batch. 0 if no
        Linear has a known name.
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
            calls = max(linear.calls for linear in queries)
            width = max(linear.n for linear in queries)
            flops = 4 * batch * (_mean_rows(queries) / batch) * (_mean_rows(keys) / batch) * width
            math_s = flops / self._attention_rate
            total_s += calls * (math_s + self._product_us / 1e6)
        return total_s

    def elementwise_s(self, table: ShapeTable) -> float:
        """Seconds of one pass over each Linear's input and one over its output.

        Siblings that read one input share its pass.
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

    def _counted_attention_s(self, counts: ComponentCounts) -> float:
        calls = sum(shape.calls for shape in counts.attention)
        fused = sum(shape.flops * softmax_factor(shape.head_dim) for shape in counts.attention)
        products_s = (fused + counts.matmul_flops) / self._attention_rate
        return products_s + calls * self._product_us / 1e6

    def _eager_component_s(self, counts: ComponentCounts) -> float:
        """The GPU's seconds of a component that is not compiled.

        Its products run at the sustained rate, its convolutions at their own, its other kernels
        take their bytes, group norms at their own rate, all have gaps.
        """
        c, kernels = self.kernels.constants, self.kernels
        rate = kernels.device.peak_flops_per_s(FormatName.BF16) * c.sustained_matmul
        plain_bytes = counts.eager_bytes - counts.group_norm_bytes
        bytes_us = kernels.bytes_us(plain_bytes, c.pass_bandwidth)
        fixed_us = counts.kernels * c.pass_ramp_us
        return (
            counts.linear_flops / rate
            + counts.conv_flops / min(rate, self.costs.convolution_flops_per_s)
            + counts.group_norm_bytes / self.costs.group_norm_bytes_per_s
            + self._counted_attention_s(counts)
            + (bytes_us + fixed_us) / 1e6
        )

    def _eager_rest_s(self, denoisers: Iterable[ComponentCounts], linears: int) -> float:
        """Denoisers that are not compiled, without the kernels of `linears` calls of Linears.

        Their group norms move their bytes as other kernels do: they have many small groups.
        """
        total_s = -linears * self.kernels.constants.pass_ramp_us / 1e6
        for counts in denoisers:
            none = {"linear_flops": 0, "conv_flops": 0, "group_norm_bytes": 0}
            rest = counts.model_copy(update=none)
            total_s += self._eager_component_s(rest) + self._convolutions_s(counts)
        return total_s

    def _convolutions_s(self, counts: ComponentCounts) -> float:
        """The convolutions of a denoiser."""
        peak = self.kernels.device.peak_flops_per_s(FormatName.BF16)
        rate = peak * self.kernels.constants.sustained_matmul
        return counts.conv_flops / (rate * self.costs.denoiser_convolutions)

    @property
    def _attention_rate(self) -> float:
        """FLOP/s that fused attention reaches."""
        peak = self.kernels.device.peak_flops_per_s(FormatName.BF16)
        return peak * self.kernels.constants.attention

    @property
    def _product_us(self) -> float:
        """Ramp and gap of one product."""
        return self.kernels.constants.gemm_ramp_us

    def _pass_us(self, rows: int, width: int) -> float:
        if not rows:
            return 0.0
        traffic_bytes = 2 * BF16_BYTES * rows * width
        bandwidth = self.kernels.constants.fusion_bandwidth
        return self.kernels.memory_pass("pass", traffic_bytes, bandwidth).us


def _denoisers(table: ShapeTable) -> tuple[str, ...]:
    """The components whose Linears are in the table; the table has counts."""
    assert table.run is not None
    return table.components or (
        max(table.run.components, key=lambda counts: counts.linear_flops).component,
    )


def _mean_rows(linears: Iterable[LinearProfile]) -> float:
    return sum(linear.rows / linear.calls for linear in linears)
