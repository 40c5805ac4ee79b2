"""How does a model run without its weights?

`ShapeMode`: values where they are cheap, shapes elsewhere, and a tally of what a real run would do.

Weights are meta tensors. An operation whose tensors are all real runs on the CPU, so masks, ids,
timesteps and schedulers keep their values and control flow that depends on them works. An operation
that touches a meta tensor runs on meta, whatever else it touches. Three kinds of calls are answered
here instead of by torch, each as one kernel, since their forms on meta are not those of a GPU:
`F.linear`, `F.scaled_dot_product_attention`, `F.rms_norm`.

    with ShapeMode() as mode, mode.counting("transformer"):
        transformer(...)
    mode.tally["transformer"]["linear_flops"]

Conventions where a meta tensor has no value to give:
- Tensors made "on the device of x", where x is meta, are made on the CPU with values, up to
  `REAL_ELEMENTS`; larger results are demoted to meta, and not computed at all where they, or the
  inputs as they are expanded, would hold more than `TRANSIENT_ELEMENTS`.
- Moving to the meta device leaves real tensors real; moving from it leaves meta tensors meta.
- A real tensor that is written with meta values keeps its old ones: they are as good as any.
- A number that is asked of a meta tensor is 1, `any` is False (nothing is NaN), `all` and `equal`
  are True, `nonzero` finds every element, and a meta mask selects everything. A real mask selects
  from a meta tensor what it selects.

What it does not do: gradients, compiled graphs, kernels of other libraries.
"""

import math
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

REAL_ELEMENTS = 2**20
TRANSIENT_ELEMENTS = 2**24
META = torch.device("meta")
CPU = torch.device("cpu")

Tally = Counter[Any]
"""{"linear_flops", "conv_flops", "matmul_flops", "eager_bytes", "kernels": number, ("attention",
batch, heads, q_len, kv_len, head_dim): calls}
"""

_aten = torch.ops.aten
_FREE = {
    _aten._unsafe_view.default,
    _aten.detach.default,
    _aten.alias.default,
    _aten.lift_fresh.default,
    _aten.empty.memory_format,
    _aten.empty_like.default,
    _aten.empty_strided.default,
    _aten.new_empty.default,
    _aten.new_empty_strided.default,
    _aten._local_scalar_dense.default,
    _aten.is_nonzero.default,
    _aten.lift_fresh_copy.default,
    _aten.equal.default,
}
_PRODUCTS = {
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
_CONSTANTS = {  # of a meta tensor's shape, with known values: {op: the same as a factory}
    _aten.zeros_like.default,
    _aten.ones_like.default,
    _aten.full_like.default,
    _aten.new_zeros.default,
    _aten.new_ones.default,
    _aten.new_full.default,
}


def is_meta(x: object) -> bool:
    """Whether x is a tensor without values."""
    return isinstance(x, Tensor) and x.device.type == "meta"


def to_meta(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """A meta tensor with x's shape and strides."""
    return torch.empty_strided(x.shape, x.stride(), dtype=dtype or x.dtype, device=META)


def tensors_in(values: Iterable[Any]) -> Iterator[Tensor]:
    """The tensors among the values and in their lists, tuples and dicts."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from tensors_in(value)
        elif isinstance(value, dict):
            yield from tensors_in(value.values())


def _bytes(x: Tensor) -> int:
    """What a kernel moves for x: each element once; axes that were expanded count as one."""
    return (
        math.prod(
            size for size, stride in zip(x.shape, x.stride(), strict=True) if stride or size == 0
        )
        * x.element_size()
    )


class ShapeMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A context in which modules with meta weights run; see the module's docstring.

    One use only.
    """

    def __init__(self) -> None:
        """Nothing is counted until `counting`."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.tally: dict[str, Tally] = {}
        self.peak_bytes: Counter[str] = Counter()
        self.component: str | None = None
        self._live: dict[int, int] = {}
        self._live_bytes = 0
        self._functions = _Functions(self)

    def __enter__(self) -> Self:
        """Both modes, the function mode inside."""
        super().__enter__()  # type: ignore[no-untyped-call]
        self._functions.__enter__()  # type: ignore[no-untyped-call]
        torch.autocast.__init__ = _autocast_of_meta  # type: ignore[method-assign]
        return self

    def __exit__(self, *error: Any) -> None:
        """Leave both."""
        torch.autocast.__init__ = _AUTOCAST  # type: ignore[method-assign]
        self._functions.__exit__(*error)  # type: ignore[no-untyped-call]
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    @contextmanager
    def counting(self, component: str, arguments: Iterable[Any] = ()) -> Iterator[None]:
        """Count for `component` inside; inside of that, nothing else may be opened."""
        self.component, self._live, self._live_bytes = component, {}, 0
        self.tally.setdefault(component, Counter())
        for x in tensors_in(arguments):
            self._track(x)
        try:
            yield
        finally:
            self.component, self._live, self._live_bytes = None, {}, 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run one operation where its tensors are, and count it."""
        kwargs = dict(kwargs or {})
        inputs = list(tensors_in(args)) + list(tensors_in(kwargs.values()))
        meta = any(x.device.type == "meta" for x in inputs)
        out = _on_meta(func, args, kwargs) if meta else _on_cpu(func, args, kwargs, inputs)
        if self.component is not None:
            self._count(func, args, inputs, out)
        return out

    def _count(self, func: Any, args: tuple[Any, ...], inputs: list[Tensor], out: Any) -> None:
        if func.is_view or func in _FREE:
            return
        outputs = list(tensors_in([out]))
        for x in outputs:
            self._track(x)
        tally = self.tally[str(self.component)]
        tally["kernels"] += 1
        if func in _PRODUCTS:
            left, right = (args[i] for i in _PRODUCTS[func])
            tally["matmul_flops"] += (
                2 * left.numel() * right.shape[-1]
            )  # left: (..., M, K), right: (..., K, N)
        elif func in _CONVOLUTIONS:
            x, weight, transposed = args[0], args[1], args[6]
            pixels = (
                x.numel() // x.shape[1] if transposed else outputs[0].numel() // outputs[0].shape[1]
            )
            tally["conv_flops"] += (
                2 * pixels * weight.numel()
            )  # weight holds the MACs of one pixel, groups included
        elif func in _LOOKUPS:
            tally["eager_bytes"] += 2 * sum(map(_bytes, outputs)) + sum(
                _bytes(x) for x in inputs if not x.is_floating_point()
            )
        else:
            read = inputs[1:] if func in _WRITERS else inputs
            tally["eager_bytes"] += sum(map(_bytes, read)) + sum(map(_bytes, outputs))

    def count_function(
        self, name: str, out: Tensor, inputs: list[Tensor], flops: int = 0
    ) -> Tensor:
        """Count a call that `_Functions` answered: `out`, a new meta tensor, is given back."""
        if self.component is not None:
            tally = self.tally[self.component]
            tally["kernels"] += 1
            if name == "linear":
                tally["linear_flops"] += flops
            elif name == "attention":
                q, k = inputs[0], inputs[1]
                tally[
                    "attention",
                    math.prod(q.shape[:-3]),
                    q.shape[-3],
                    q.shape[-2],
                    k.shape[-2],
                    q.shape[-1],
                ] += 1
            else:
                tally["eager_bytes"] += sum(map(_bytes, inputs)) + _bytes(out)
            self._track(out)
        return out

    def _track(self, x: Tensor) -> None:
        """Add x's storage to the live ones, until it dies."""
        if isinstance(x, torch.nn.Parameter):
            return
        storage, live = x.untyped_storage(), self._live
        key = storage._cdata
        if key in live:
            return
        live[key] = size = storage.nbytes()
        self._live_bytes += size
        self.peak_bytes[str(self.component)] = max(
            self.peak_bytes[str(self.component)], self._live_bytes
        )

        def died() -> None:
            if self._live is live and live.pop(key, None) is not None:
                self._live_bytes -= size

        weakref.finalize(storage, died).atexit = False


_AUTOCAST = torch.autocast.__init__


def _autocast_of_meta(self: torch.autocast, device_type: str, *args: Any, **kwargs: Any) -> None:
    """`torch.autocast(x.device.type)` where x is meta: there is none for meta, the CPU's stands in."""
    _AUTOCAST(self, "cpu" if device_type == "meta" else device_type, *args, **kwargs)


class _Functions(TorchFunctionMode):
    """Answers the calls whose decomposition on meta is not what a GPU runs."""

    def __init__(self, mode: ShapeMode) -> None:
        super().__init__()
        self.mode = mode
        self.answers: dict[Any, Callable[..., Tensor]] = {
            F.linear: self._linear,
            F.scaled_dot_product_attention: self._attention,
            F.rms_norm: self._rms_norm,
            torch.rms_norm: self._rms_norm,
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
        if (
            func in (torch.tensor, torch.as_tensor)
            and kwargs.get("device") is not None
            and not any(map(is_meta, args))
        ):
            kwargs = {**kwargs, "device": CPU}
        if answer is not None and any(is_meta(x) for x in (*args, *kwargs.values())):
            return answer(*args, **kwargs)
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
        return self.mode.count_function("linear", out, [input], 2 * input.numel() * weight.shape[0])

    def _attention(
        self, query: Tensor, key: Tensor, value: Tensor, *_args: Any, **_kwargs: Any
    ) -> Tensor:
        """query:

        (..., H, L, D), value: (..., S, Dv) -> (..., H, L, Dv), laid out as fused kernels do: (...,
        L, H, Dv) in memory.
        """
        *batch, heads, length, _ = query.shape
        out = self._new((*batch, length, heads, value.shape[-1]), query.dtype).transpose(-3, -2)
        return self.mode.count_function("attention", out, [query, key])

    def _rms_norm(
        self, input: Tensor, _shape: Any, weight: Tensor | None = None, *_eps: Any, **_named: Any
    ) -> Tensor:
        out = self._new(
            input.shape,
            input.dtype if weight is None else torch.promote_types(input.dtype, weight.dtype),
        )
        return self.mode.count_function("norm", out, [input] if weight is None else [input, weight])


def _on_cpu(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], inputs: list[Tensor]) -> Any:
    """All tensors are real: so is the result, unless it is large or the CPU lacks the operation."""
    if "device" in kwargs and kwargs["device"] is not None:
        wanted = torch.device(kwargs["device"])
        empty = not inputs and func in _FREE  # nothing but meta may be made of it
        if wanted.type != "cpu" and not empty:
            kwargs["device"] = CPU
    if not inputs and _is_large(args):
        return func(
            *args,
            **{**kwargs, "device": META} | ({"generator": None} if "generator" in kwargs else {}),
        )
    if not func.is_view and _grows(inputs):
        return _on_meta(func, args, kwargs)
    try:
        out = func(*args, **kwargs)
    except (NotImplementedError, RuntimeError):
        if not inputs:
            raise
        return _on_meta(func, args, kwargs)
    if (
        isinstance(out, Tensor)
        and out.numel() > REAL_ELEMENTS
        and not func.is_view
        and not func._schema.is_mutable
    ):
        return to_meta(out)
    return out


def _is_large(args: tuple[Any, ...]) -> bool:
    """Whether a factory is asked for a size, its first argument, that is not worth values."""
    size = args[0] if args else None
    return (
        isinstance(size, list | tuple)
        and all(isinstance(n, int) for n in size)
        and math.prod(size) > REAL_ELEMENTS
    )


def _grows(inputs: list[Tensor]) -> bool:
    """Whether expanded or broadcast inputs are too large to compute with, whatever becomes of the
    values.
    """
    if math.prod(x.numel() for x in inputs) <= TRANSIENT_ELEMENTS:
        return False
    shapes = [x.shape for x in inputs]
    with suppress(RuntimeError):  # shapes that do not broadcast
        shapes.append(torch.broadcast_shapes(*shapes))  # type: ignore[no-untyped-call]
    return max(map(math.prod, shapes)) > TRANSIENT_ELEMENTS


def _on_meta(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Some tensor is meta: shapes only, but for the answers of the module's docstring."""
    if func in (_aten._local_scalar_dense.default, _aten.is_nonzero.default):
        return 1.0 if args[0].is_floating_point() else args[0].dtype == torch.bool or 1
    if func is _aten.equal.default:
        return True
    name = func._schema.name
    if name in ("aten::any", "aten::all"):
        shape = func(*args, **kwargs).shape
        return torch.full(shape, name == "aten::all", dtype=torch.bool)
    if func is _aten.nonzero.default:
        return torch.empty((args[0].numel(), args[0].ndim), dtype=torch.int64, device=META)
    if func is _aten.masked_select.default:
        args = (args[0], [args[1]])
        func = _aten.index.Tensor
    if func in _CONSTANTS:
        return _constant(func, args, kwargs)
    if func is _aten.index.Tensor:
        args = (args[0], _indices(args[1]))
    written = _written(func, args, kwargs)
    if written is not None and not is_meta(written):
        return written
    if kwargs.get("device") is not None:
        kwargs["device"] = META
    key = None if func.is_view or func._schema.is_mutable else _key((func, args, kwargs))
    form = _FORMS.get(key) if key is not None else None
    if form is not None:
        return torch.empty_strided(form[0], form[1], dtype=form[2], device=META)
    out = func(*_all_meta(args), **{name: _all_meta([value])[0] for name, value in kwargs.items()})
    if key is not None and isinstance(out, Tensor) and len(_FORMS) < FORMS_KEPT:
        _FORMS[key] = (out.shape, out.stride(), out.dtype)
    return out


FORMS_KEPT = 2**16
_FORMS: dict[Any, tuple[Any, Any, torch.dtype]] = {}
"""What an operation makes of arguments of one form: repeated blocks ask the same, and torch's own
answer is slow Python.
"""


def _key(value: Any) -> Any:
    """The form of an operation's arguments, hashable; None where it has none."""
    if isinstance(value, Tensor):
        return (value.shape, value.stride(), value.dtype)
    if isinstance(value, dict):
        value = tuple(value.items())
    if isinstance(value, list | tuple):
        parts = tuple(_key(part) for part in value)
        return None if None in parts else (type(value), parts)
    return (
        (type(value), value)
        if value is None or isinstance(value, _PLAIN) or value is torch.strided
        else None
    )


_PLAIN = (
    bool,
    int,
    float,
    str,
    torch.dtype,
    torch.device,
    torch.memory_format,
    torch.layout,
    torch._ops.OpOverload,
)


def _constant(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Zeros, ones or a number in the shape of a meta tensor: real up to `REAL_ELEMENTS`."""
    kwargs = {**kwargs, "device": META}
    out: Tensor = func(*args, **kwargs)
    if out.numel() > REAL_ELEMENTS:
        return out
    name = func._schema.name
    number = 0 if "zeros" in name else 1 if "ones" in name else args[-1]
    return torch.full(out.shape, number, dtype=out.dtype) if not is_meta(number) else out


def _indices(indices: list[Tensor | None]) -> list[Tensor | None]:
    """Masks as the indices that they select, since only real masks know how many."""
    out: list[Tensor | None] = []
    for index in indices:
        if index is None or index.dtype not in (torch.bool, torch.uint8):
            out.append(index)
        elif is_meta(index):
            out.extend(
                torch.empty(index.numel(), dtype=torch.int64, device=META)
                for _ in range(index.ndim)
            )
        else:
            out.extend(index.nonzero().unbind(1))
    return out


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """The tensor that an in-place operation or one with `out` writes."""
    if not func._schema.is_mutable:
        return None
    for i, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[i] if i < len(args) else kwargs.get(argument.name)
            return value if isinstance(value, Tensor) else None
    return None


def _all_meta(values: Iterable[Any]) -> list[Any]:
    return [
        (
            (to_meta(x) if x.device.type != "meta" else x)
            if isinstance(x, Tensor)
            else type(x)(_all_meta(x))
            if type(x) in (list, tuple)
            else x
        )
        for x in values
    ]
