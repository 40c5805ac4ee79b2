"""How does a model run without its weights?

`ShapeMode` is a context in which modules with meta weights run. Values are computed where they are
cheap and only shapes elsewhere. What a real run would do is counted on the way.

    with ShapeMode() as mode, mode.counting("transformer"):
        transformer(...)
    mode.tally["transformer"]["linear_flops"]

An operation whose tensors are all real runs on the CPU. Masks, ids, timesteps and schedulers keep
their values, so control flow that depends on them works. An operation that touches a meta tensor
runs on meta. `meta_operations` says what stands for a value that a meta tensor does not have, and
`operation_counts` how operations are counted.

`F.linear`, `F.scaled_dot_product_attention` and `F.rms_norm` are answered here instead of by torch,
each as one kernel: what torch makes of them on meta is not what a GPU runs.

What it does not do: gradients, compiled graphs, kernels of other libraries.
"""

from collections.abc import Callable, Iterable
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import flex_attention
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from sensitivity.models.meta_operations import run_on_meta, run_real
from sensitivity.models.meta_tensors import CPU, META, is_meta, tensors_in
from sensitivity.models.operation_counts import OperationCounter

_AUTOCAST = torch.autocast.__init__
_FLEX_ATTENTION = flex_attention.flex_attention


class ShapeMode(OperationCounter, TorchDispatchMode):
    """A context in which modules with meta weights run. Each object is entered once.

    Attributes:
        routing: {component: {(k, n)}} of the choices of k among n that only weights decide. Each of
            the n was taken to be chosen equally often.
    """

    def __init__(self) -> None:
        """Nothing is counted until `counting`."""
        TorchDispatchMode.__init__(self)  # type: ignore[no-untyped-call]
        OperationCounter.__init__(self)
        self._functions = _Functions(self)
        self.routing: dict[str | None, set[tuple[int, int]]] = {}

    def __enter__(self) -> Self:
        """Intercept operations and, inside of that, functions."""
        super().__enter__()  # type: ignore[no-untyped-call]
        self._functions.__enter__()  # type: ignore[no-untyped-call]
        torch.autocast.__init__ = _autocast_of_meta  # type: ignore[method-assign]
        flex_attention.flex_attention = _flex_attention_of_meta
        return self

    def __exit__(self, *error: Any) -> None:
        """Intercept nothing any more."""
        torch.autocast.__init__ = _AUTOCAST  # type: ignore[method-assign]
        flex_attention.flex_attention = _FLEX_ATTENTION
        self._functions.__exit__(*error)  # type: ignore[no-untyped-call]
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run one operation where its tensors are, and count it."""
        kwargs = dict(kwargs or {})
        inputs = tensors_in(args) + tensors_in(kwargs.values())
        if any(map(is_meta, inputs)):
            out = run_on_meta(func, args, kwargs)
            if func is torch.ops.aten.topk.default:
                dim = args[2] if len(args) > 2 else -1
                choice = (out[1].shape[dim], args[0].shape[dim])
                self.routing.setdefault(self.component, set()).add(choice)
        else:
            out = run_real(func, args, kwargs, inputs)
        self.count_operation(func, args, inputs, out)
        return out


def _autocast_of_meta(self: torch.autocast, device_type: str, *args: Any, **kwargs: Any) -> None:
    """`torch.autocast` as on the CPU where its device is meta, for which torch has none."""
    _AUTOCAST(self, "cpu" if device_type == "meta" else device_type, *args, **kwargs)


def _flex_attention_of_meta(
    query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any
) -> Any:
    """`flex_attention` as a fused kernel without a mask where its tensors are meta, which it
    refuses.
    """
    if is_meta(query):
        return functional.scaled_dot_product_attention(query, key, value)
    return _FLEX_ATTENTION(query, key, value, *args, **kwargs)


class _Functions(TorchFunctionMode):
    """Answers the functions that torch would decompose on meta into what no GPU runs."""

    makers = (torch.tensor, torch.as_tensor)

    def __init__(self, counter: OperationCounter) -> None:
        super().__init__()
        self.counter = counter
        self.answers: dict[Any, Callable[..., Tensor]] = {
            functional.linear: self._linear,
            functional.scaled_dot_product_attention: self._attention,
            functional.rms_norm: self._rms_norm,
            torch.rms_norm: self._rms_norm,
            torch.quantile: self._quantile,
        }

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        answer = self.answers.get(func)
        if answer is not None:
            if any(is_meta(x) for x in (*args, *kwargs.values())):
                return answer(*args, **kwargs)
        elif (
            func in self.makers and kwargs.get("device") is not None and not any(map(is_meta, args))
        ):
            kwargs = {**kwargs, "device": CPU}
        return func(*args, **kwargs)

    def _new(self, shape: Iterable[int], dtype: torch.dtype) -> Tensor:
        with torch._C._DisableTorchDispatch():
            return torch.empty(tuple(shape), dtype=dtype, device=META)

    def _linear(
        self, input: Tensor, weight: Tensor, _bias: Tensor | None = None, **_named: Any
    ) -> Tensor:
        """input: (..., K), weight: (N, K) -> (..., N)."""
        if input.shape[-1] != weight.shape[-1]:
            raise RuntimeError(
                f"a Linear of {weight.shape[-1]} features got an input of shape"
                f" {tuple(input.shape)}"
            )
        out = self._new((*input.shape[:-1], weight.shape[0]), weight.dtype)
        return self.counter.count_linear(out, 2 * input.numel() * weight.shape[0])

    def _attention(
        self, query: Tensor, key: Tensor, value: Tensor, *_args: Any, **_kwargs: Any
    ) -> Tensor:
        """query: (..., H, L, D), value: (..., H, S, Dv) -> (..., H, L, Dv).

        Fused kernels lay the result out as (..., L, H, Dv) in memory, and so does this.
        """
        *batch, heads, length, _ = query.shape
        out = self._new((*batch, length, heads, value.shape[-1]), query.dtype).transpose(-3, -2)
        return self.counter.count_attention(out, query, key)

    def _quantile(
        self,
        input: Tensor,
        q: float | Tensor,
        dim: int | None = None,
        keepdim: bool = False,
        **_named: Any,
    ) -> Tensor:
        """One value along `dim` for each fraction: (fractions, ...), or (...) for a number."""
        one = input.amax() if dim is None else input.amax(dim, keepdim)
        return one.expand(len(q), *one.shape) if isinstance(q, Tensor) and q.ndim else one

    def _rms_norm(
        self, input: Tensor, _shape: Any, weight: Tensor | None = None, *_eps: Any, **_named: Any
    ) -> Tensor:
        if weight is None:
            return self.counter.count_norm(self._new(input.shape, input.dtype), [input])
        out = self._new(input.shape, torch.promote_types(input.dtype, weight.dtype))
        return self.counter.count_norm(out, [input, weight])
