"""How much would the operations of a run compute and move on a GPU?

`OperationCounter` is the part of a `ShapeMode` that counts. It adds up, for each component of a
pipeline, what eager kernels would do:

    with ShapeMode() as mode, mode.counting("transformer"):
        transformer(...)
    mode.tally["transformer"]["linear_flops"]       # 2 M K N of each Linear's call, added up
    mode.peak_bytes["transformer"]                  # of activations that were alive together

Conventions. Views and uninitialised tensors cost nothing. Every other operation is one kernel.
Linears, convolutions, other matrix products and attention are counted by their arithmetic, in FLOP
(a multiplication and an addition are 2). All other kernels are counted by the bytes that they read
and write, each element once; expanded axes count as one element. A lookup reads its indices and the
rows that it returns, not its whole table.
"""

import math
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from sensitivity.models.meta_operations import UNINITIALISED
from sensitivity.models.meta_tensors import tensors_in

Tally = Counter[Any]
"""{"linear_flops", "conv_flops", "matmul_flops", "eager_bytes", "group_norm_bytes", "kernels":
number, ("attention",
batch, heads, q_len, kv_len, head_dim): calls}
"""

_aten = torch.ops.aten
_FREE = UNINITIALISED | {
    _aten._unsafe_view.default,
    _aten.detach.default,
    _aten.alias.default,
    _aten.lift_fresh.default,
    _aten.lift_fresh_copy.default,
    _aten._local_scalar_dense.default,
    _aten.is_nonzero.default,
    _aten.equal.default,
}
_PRODUCTS = {  # {operation: positions of its two factors}
    _aten.mm.default: (0, 1),
    _aten.bmm.default: (0, 1),
    _aten.addmm.default: (1, 2),
    _aten.baddbmm.default: (1, 2),
}
_CONVOLUTIONS = {_aten.convolution.default, _aten._convolution.default}
_LOOKUPS = {
    _aten.embedding.default,
    _aten.index.Tensor,
    _aten.index_select.default,
    _aten.gather.default,
}
_WRITERS = {_aten.copy_.default, _aten.fill_.Scalar, _aten.fill_.Tensor, _aten.zero_.default}
"""Operations that write their first tensor without reading it."""


class OperationCounter:
    """Counts operations while `counting` is open.

    Attributes:
        tally: {component: what its operations do}.
        peak_bytes: {component: bytes of the storages that were alive together, at most}, without
            parameters.
        component: the one that is counted now; None outside of `counting`.
    """

    def __init__(self) -> None:
        self.tally: dict[str, Tally] = {}
        self.peak_bytes: Counter[str] = Counter()
        self.component: str | None = None
        self._live: dict[int, int] = {}  # {storage: its bytes}
        self._live_bytes = 0

    @contextmanager
    def counting(self, component: str, arguments: Iterable[Any] = ()) -> Iterator[None]:
        """Count for `component` inside the context. It cannot be nested.

        Args:
            component: the key in `tally` and `peak_bytes`.
            arguments: what the component is called with; its tensors count as alive.
        """
        self.component, self._live, self._live_bytes = component, {}, 0
        self.tally.setdefault(component, Counter())
        for x in tensors_in(arguments):
            self._track(x)
        try:
            yield
        finally:
            self.component, self._live, self._live_bytes = None, {}, 0

    def count_operation(
        self, func: Any, args: tuple[Any, ...], inputs: list[Tensor], out: Any
    ) -> None:
        """Count an ATen operation that was run.

        Args:
            func: the operation.
            args: its positional arguments.
            inputs: all tensors among its arguments.
            out: its result.
        """
        if self.component is None or func.is_view or func in _FREE:
            return
        outputs = tensors_in([out])
        for x in outputs:
            self._track(x)
        tally = self.tally[self.component]
        tally["kernels"] += 1
        if func in _PRODUCTS:
            left, right = (args[i] for i in _PRODUCTS[func])  # (..., M, K) and (..., K, N)
            tally["matmul_flops"] += 2 * left.numel() * right.shape[-1]
        elif func in _CONVOLUTIONS:
            x, weight, transposed = args[0], args[1], args[6]
            pixels = (
                x.numel() // x.shape[1] if transposed else outputs[0].numel() // outputs[0].shape[1]
            )
            # the weight has as many elements as one pixel has multiplications, groups included
            tally["conv_flops"] += 2 * pixels * weight.numel()
        elif func in _LOOKUPS:
            indices = [x for x in inputs if not x.is_floating_point()]
            tally["eager_bytes"] += 2 * sum(map(_bytes, outputs)) + sum(map(_bytes, indices))
        else:
            read = inputs[1:] if func in _WRITERS else inputs
            moved = sum(map(_bytes, read)) + sum(map(_bytes, outputs))
            tally["eager_bytes"] += moved
            if func is _aten.native_group_norm.default:
                tally["group_norm_bytes"] += moved

    def count_linear(self, out: Tensor, flops: int) -> Tensor:
        """Count a call of `F.linear`; returns `out`."""
        return self._count_kernel(out, "linear_flops", flops)

    def count_attention(self, out: Tensor, query: Tensor, key: Tensor) -> Tensor:
        """Count a call of fused attention; returns `out`.

        Args:
            out: the result.
            query: (..., H, L, D).
            key: (..., H, S, D).
        """
        batch, (heads, q_len, head_dim) = math.prod(query.shape[:-3]), query.shape[-3:]
        return self._count_kernel(
            out, ("attention", batch, heads, q_len, key.shape[-2], head_dim), 1
        )

    def count_norm(self, out: Tensor, inputs: list[Tensor]) -> Tensor:
        """Count a call of a fused norm; returns `out`."""
        return self._count_kernel(out, "eager_bytes", sum(map(_bytes, inputs)) + _bytes(out))

    def _count_kernel(self, out: Tensor, key: Any, amount: int) -> Tensor:
        if self.component is not None:
            self.tally[self.component].update({"kernels": 1, key: amount})
            self._track(out)
        return out

    def _track(self, x: Tensor) -> None:
        """Add x's storage to the live ones, until it is freed."""
        if isinstance(x, torch.nn.Parameter):
            return
        storage, live = x.untyped_storage(), self._live
        key = storage._cdata
        if key in live:
            return
        live[key] = size = storage.nbytes()
        self._live_bytes += size
        component = str(self.component)
        self.peak_bytes[component] = max(self.peak_bytes[component], self._live_bytes)

        def freed() -> None:
            if self._live is live and live.pop(key, None) is not None:
                self._live_bytes -= size

        weakref.finalize(storage, freed).atexit = False


def _bytes(x: Tensor) -> int:
    """What a kernel moves for x: each element once; axes that were expanded count as one."""
    sizes = (n for n, stride in zip(x.shape, x.stride(), strict=True) if stride or n == 0)
    return math.prod(sizes) * x.element_size()
