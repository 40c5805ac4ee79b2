"""How long does everything in a run take that is not a Linear of the table? `RestOfRun`.

Method. Attention and other products run at their part of the bf16 peak. In the denoiser,
elementwise work is fused: it counts as one pass over the input and one over the output of each
Linear. Other components are not compiled, so each of their kernels counts with its own bytes and
gap.

If the table has counts of the run (`shapes.census`), these are priced. If it has none, attention is
found by diffusers' names of Linears (`to_q`, `to_k`), and the denoiser alone is priced.

What it does not do: masks, sharding over GPUs, varying sequence lengths inside one attention module
(averaged if there are no counts), shapes of convolutions, a CPU that is too slow.

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


@dataclass(frozen=True, slots=True)
class RestOfRun:
    """Prices what is not a Linear. `kernels` has the device, its constants and the gaps."""

    kernels: LinearKernels

    def seconds(self, table: ShapeTable) -> float:
        """Seconds of everything that is not a Linear of the table."""
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
        return (
            sum(shape.flops for shape in counts.attention) + counts.matmul_flops
        ) / self._attention_rate + calls * self._product_us / 1e6

    def _eager_component_s(self, counts: ComponentCounts) -> float:
        """A component that is not compiled.

        Its products run at the sustained rate, its other kernels take their bytes, all have gaps.
        """
        c, kernels = self.kernels.constants, self.kernels
        rate = kernels.device.peak_flops_per_s(FormatName.BF16) * c.sustained_matmul
        bytes_us = kernels.bytes_us(counts.eager_bytes, c.pass_bandwidth)
        fixed_us = counts.kernels * (c.pass_ramp_us + kernels.gap_us)
        return (
            (counts.linear_flops + counts.conv_flops) / rate
            + self._counted_attention_s(counts)
            + (bytes_us + fixed_us) / 1e6
        )

    @property
    def _attention_rate(self) -> float:
        """FLOP/s that fused attention reaches."""
        peak = self.kernels.device.peak_flops_per_s(FormatName.BF16)
        return peak * self.kernels.constants.attention

    @property
    def _product_us(self) -> float:
        """Ramp and gap of one product."""
        return self.kernels.constants.gemm_ramp_us + self.kernels.gap_us

    def _pass_us(self, rows: int, width: int) -> float:
        if not rows:
            return 0.0
        traffic_bytes = 2 * BF16_BYTES * rows * width
        bandwidth = self.kernels.constants.fusion_bandwidth
        return self.kernels.memory_pass("pass", traffic_bytes, bandwidth).us


def _mean_rows(linears: Iterable[LinearProfile]) -> float:
    return sum(linear.rows / linear.calls for linear in linears)
