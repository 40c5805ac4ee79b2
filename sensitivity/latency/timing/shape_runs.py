"""How is one Linear shape, or one attention, made into something that can be timed?

Method. bf16 `nn.Linear`s, and for each format the same Linears quantized natively by torchao, are
compiled (`fullgraph`, static shapes). Inputs (random normal), weights and outputs rotate through
more memory than two L2 caches.

A Linear of a compiled block never stands alone: the kernel that makes its input is one that
Inductor fuses the quantizing into. So a producer stands before each compiled Linear: a GELU if K >
N (the second Linear of a feed-forward), else a layer norm with modulation. Without it FP8 comes out
too slow (LOG.md). The producer is also prepared alone, so that its time can be subtracted.

Linears that read one input (q, k and v) are quantized once if Inductor merges it. For these, two
Linears behind one producer are prepared.

Linears outside the compiled blocks are not compiled here either. Of these the GPU's time is
measured, not Python's.

What it does not do: time anything (`shape_timing`), or see what follows a Linear.

    runs = ShapeRuns(device=device, stopwatch=watch, backend="inductor", quantize=quantize_native)
    runs.linear(shape, copies=4)()                   # microseconds a call
"""

import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sensitivity.core.format_name import FormatName
from sensitivity.latency.shape_times import LinearShape
from sensitivity.latency.timing.stopwatch import Run, Stopwatch, copies_past_cache
from sensitivity.shapes.census import AttentionShape

Quantize = Callable[[nn.Module, Mapping[str, FormatName]], None]
MakeLinear = Callable[[LinearShape, torch.device, torch.Generator], nn.Linear]


def random_linear(
    shape: LinearShape, device: torch.device, generator: torch.Generator
) -> nn.Linear:
    """A bf16 Linear with normal weights of standard deviation 0.02."""
    linear = nn.Linear(
        shape.k, shape.n, bias=shape.bias, device="meta", dtype=torch.bfloat16
    ).to_empty(device=device)
    linear.requires_grad_(False)
    for parameter in linear.parameters():
        parameter.normal_(0, 0.02, generator=generator)
    return linear


@dataclass(frozen=True, kw_only=True)
class ShapeRuns:
    """Prepares runs of shapes on one device.

    Attributes:
        device: Where they run.
        stopwatch: What times them.
        backend: torch.compile's.
        quantize: Quantizes the Linears of a module in place.
        make_linear: Gives a bf16 Linear of a shape.
    """

    device: torch.device
    stopwatch: Stopwatch
    backend: Any
    quantize: Quantize
    make_linear: MakeLinear = random_linear

    def linear(self, shape: LinearShape, copies: int) -> Run:
        """A Linear behind its producer, two of them for a sibling, or an eager one alone."""
        generator = torch.Generator(self.device).manual_seed(0)
        linears = [
            self.make_linear(shape, self.device, generator)
            for _ in range(2 * copies if shape.sibling else copies)
        ]
        if shape.format.is_quantized:
            self.quantize(
                nn.ModuleList(linears), {str(i): shape.format for i in range(len(linears))}
            )
        inputs = self._inputs(shape, copies)
        if shape.eager:
            return self.stopwatch.prepare(lambda i: linears[i](inputs[i][0]), copies)
        call = self._compiled(_CALLS[_producer(shape), shape.sibling], shape.format.value)
        return self.stopwatch.prepare(lambda i: call(*linears[i::copies], *inputs[i]), copies)

    def producer(self, shape: LinearShape) -> Run:
        """The producer alone, on as many inputs as the bf16 Linear has."""
        copies = copies_past_cache(shape.call_bytes, self.device)
        inputs = self._inputs(shape, copies)
        call = self._compiled(_producer(shape), "alone")
        return self.stopwatch.prepare(lambda i: call(*inputs[i]), copies)

    def attention(self, shape: AttentionShape, copies: int) -> Run:
        """An attention with its tensors as diffusers passes them.

        They are (batch, tokens, heads, dim) in memory, seen as (batch, heads, tokens, dim).
        """
        generator = torch.Generator(self.device).manual_seed(0)

        def normal(tokens: int) -> Tensor:
            size = (shape.batch, tokens, shape.heads, shape.head_dim)
            return self._normal(size, generator).transpose(1, 2)

        tensors = [
            (normal(shape.q_len), normal(shape.kv_len), normal(shape.kv_len)) for _ in range(copies)
        ]
        return self.stopwatch.prepare(
            lambda i: nn.functional.scaled_dot_product_attention(*tensors[i]), copies
        )

    def _inputs(self, shape: LinearShape, copies: int) -> list[tuple[Tensor, Tensor, Tensor]]:
        """(rows (M, K), scale (K,), shift (K,)) of each copy, random normal."""
        generator = torch.Generator(self.device).manual_seed(0)
        sizes = ((shape.m, shape.k), (shape.k,), (shape.k,))
        return [
            (
                self._normal(sizes[0], generator),
                self._normal(sizes[1], generator),
                self._normal(sizes[2], generator),
            )
            for _ in range(copies)
        ]

    def _normal(self, size: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return torch.randn(size, device=self.device, dtype=torch.bfloat16, generator=generator)

    def _compiled(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        return torch.compile(
            _own_code(function, name), fullgraph=True, dynamic=False, backend=self.backend
        )


def _norm(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return nn.functional.layer_norm(x, x.shape[-1:]) * (1 + scale) + shift


def _gelu(x: Tensor, _scale: Tensor, _shift: Tensor) -> Tensor:
    return nn.functional.gelu(x, approximate="tanh")


def _producer(shape: LinearShape) -> Callable[..., Tensor]:
    return _gelu if shape.k > shape.n else _norm


def _call_behind_norm(linear: nn.Linear, *inputs: Tensor) -> Tensor:
    return linear(_norm(*inputs))  # type: ignore[no-any-return]


def _call_behind_gelu(linear: nn.Linear, *inputs: Tensor) -> Tensor:
    return linear(_gelu(*inputs))  # type: ignore[no-any-return]


def _call_two_behind_norm(
    first: nn.Linear, second: nn.Linear, *inputs: Tensor
) -> tuple[Tensor, Tensor]:
    x = _norm(*inputs)
    return first(x), second(x)


def _call_two_behind_gelu(
    first: nn.Linear, second: nn.Linear, *inputs: Tensor
) -> tuple[Tensor, Tensor]:
    x = _gelu(*inputs)
    return first(x), second(x)


_CALLS: Mapping[tuple[Callable[..., Tensor], bool], Callable[..., Any]] = {
    (_norm, False): _call_behind_norm,
    (_gelu, False): _call_behind_gelu,
    (_norm, True): _call_two_behind_norm,
    (_gelu, True): _call_two_behind_gelu,
}
"""{(producer, whether two Linears read it): what is compiled}."""


def _own_code(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """The function with a code object of its own.

    torch keeps compiled graphs by code object, and counts them against its recompile limit so.
    """
    assert isinstance(function, types.FunctionType)
    return types.FunctionType(
        function.__code__.replace(co_name=f"{function.__name__}_{name}"), globals()
    )
