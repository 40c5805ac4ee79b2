"""How is a GEMM or a quantizer alone made into something that can be timed? `KernelRuns`.

Method. The quantizer is torchao's own, compiled as it is in a compiled block, but alone: nothing is
fused into it. The GEMM is the one that torchao calls, on operands that are quantized already. It is
not compiled, since it is one library call. INT8's is `torch._int_mm` alone, whose int32 output
Inductor scales in the next kernel. A variant has the parts of its plain format; what it adds is
measured with whole Linears. Operands, scales and outputs rotate through more memory
than two L2 caches.

    runs = KernelRuns(device=device, stopwatch=watch)
    runs.gemm(GemmShape(m=512, k=3072, n=3072, bias=True, format=FormatName.FP8), copies=8)()

What it does not do: time anything (`device_jobs`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sensitivity.core.format_name import FormatName
from sensitivity.formats.torchao_parts import GEMMS, Gemm, Quantizer, quantizers
from sensitivity.latency.format_costs import gemm_format
from sensitivity.latency.kernel_shapes import GemmShape, QuantizerShape
from sensitivity.latency.timing.stopwatch import Run, Stopwatch


@dataclass(frozen=True, kw_only=True)
class KernelRuns:
    """Prepares runs of single kernels on one device.

    Attributes:
        device: Where they run.
        stopwatch: What times them.
        backend: torch.compile's, for quantizers.
        quantizers: torchao's, by format.
        gemms: Products of quantized operands, by format.
    """

    device: torch.device
    stopwatch: Stopwatch
    backend: Any = "inductor"
    quantizers: Mapping[FormatName, Quantizer] = field(default_factory=quantizers)
    gemms: Mapping[FormatName, Gemm] = field(
        default_factory=lambda: {**GEMMS, FormatName.INT8: _int8_product}
    )

    def gemm(self, shape: GemmShape, copies: int) -> Run:
        """A GEMM alone. bf16, and a weight-only format's, is `F.linear`."""
        generator = torch.Generator(self.device).manual_seed(0)
        bias = self._normal((shape.n,), generator) if shape.bias else None
        pairs = [
            (
                self._normal((shape.m, shape.k), generator),
                self._normal((shape.n, shape.k), generator),
            )
            for _ in range(copies)
        ]
        name = gemm_format(shape.format)
        if name is FormatName.BF16:
            return self.stopwatch.prepare(
                lambda i: nn.functional.linear(pairs[i][0], pairs[i][1], bias), copies
            )
        quantize, multiply = self.quantizers[name], self.gemms[name]
        operands = []
        while pairs:
            x, w = pairs.pop()
            operands.append((*quantize(x), *quantize(w)))
        return self.stopwatch.prepare(lambda i: multiply(*operands[i], bias), copies)

    def quantizer(self, shape: QuantizerShape, copies: int) -> Run:
        """torchao's quantizer of activations alone, compiled."""
        generator = torch.Generator(self.device).manual_seed(0)
        inputs = [self._normal((shape.m, shape.k), generator) for _ in range(copies)]
        call = torch.compile(
            self.quantizers[shape.format.plain],
            fullgraph=True,
            dynamic=False,
            backend=self.backend,
        )
        return self.stopwatch.prepare(lambda i: call(inputs[i]), copies)

    def _normal(self, size: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return torch.randn(size, device=self.device, dtype=torch.bfloat16, generator=generator)


def _int8_product(
    x: Tensor, _x_scale: Tensor, w: Tensor, _w_scale: Tensor, _bias: Tensor | None
) -> Tensor:
    """INT8's product alone, (M, N) int32."""
    return torch._int_mm(x, w.t())
