"""What does one torch operation give when some of its tensors have no values?

`run_real` is for operations whose tensors are all real, `run_on_meta` for those with a meta tensor.
`ShapeMode` calls one of them for each operation of a run.

Conventions where a meta tensor has no value to give:
- A number that is read from a meta tensor is 1. `any` is False (as if nothing were NaN), `all` and
  `equal` are True, `nonzero` finds every element, and a meta mask selects everything. A real mask
  selects from a meta tensor what it selects.
- A tensor that is made "on the device of x", where x is meta, is made on the CPU with values, up to
  `REAL_ELEMENTS`. Larger results become meta tensors. They are not even computed where they, or
  their broadcast inputs, would hold more than `TRANSIENT_ELEMENTS`.
- Moving to the meta device leaves real tensors real; moving from it leaves meta tensors meta.
- A real tensor that is written with meta values keeps its own: they are as good as any.
- Indices of the largest values, or of values in order, are real, up to `REAL_ELEMENTS`: row by row
  they go round, so that each is chosen equally often. So every expert of a mixture gets its share
  of the tokens, tokens x k / experts, which is what balanced training aims at.
"""

import math
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from sensitivity.models.meta_tensors import (
    CPU,
    META,
    REAL_ELEMENTS,
    TRANSIENT_ELEMENTS,
    is_meta,
    to_meta,
)

_aten = torch.ops.aten
UNINITIALISED = {
    _aten.empty.memory_format,
    _aten.empty_like.default,
    _aten.empty_strided.default,
    _aten.new_empty.default,
    _aten.new_empty_strided.default,
}
"""Operations that make a tensor without filling it."""
_FILLED = {
    _aten.zeros_like.default,
    _aten.ones_like.default,
    _aten.full_like.default,
    _aten.new_zeros.default,
    _aten.new_ones.default,
    _aten.new_full.default,
}
"""Operations that take a shape from a tensor, and fill it with a known number."""
CHOOSING = {_aten.topk.default, _aten.sort.default, _aten.sort.stable}
"""Operations whose second result says which of several values were chosen, or in which order."""
_KEYABLE = (
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
MAX_FORMS = 2**16
_Form = tuple[torch.Size, tuple[int, ...], torch.dtype]
_forms: dict[Any, _Form | list[_Form]] = {}
"""{an operation and the forms of its arguments: (shape, stride, dtype) of its result, or a list of
them where it has several results}. For an operation that writes in place: the form of what it
wrote, which stayed as it was.

Repeated blocks ask the same again and again, and torch's own answer is slow Python.
"""


def run_real(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], inputs: list[Tensor]) -> Any:
    """Run an operation whose tensors are all real.

    The result is real too, unless it is large or the CPU lacks the operation.

    Args:
        func: an ATen operation.
        args, kwargs: its arguments.
        inputs: the tensors among them.
    """
    if kwargs.get("device") is not None:
        makes_empty = not inputs and func in UNINITIALISED  # only meta has a use for it
        if torch.device(kwargs["device"]).type != "cpu" and not makes_empty:
            kwargs["device"] = CPU
    if not inputs and _asks_for_large(args):
        no_generator = {"generator": None} if "generator" in kwargs else {}
        return func(*args, **{**kwargs, "device": META, **no_generator})
    if not func.is_view and _is_too_large(inputs):
        return run_on_meta(func, args, kwargs)
    try:
        out = func(*args, **kwargs)
    except (NotImplementedError, RuntimeError):
        if not inputs:
            raise
        return run_on_meta(func, args, kwargs)
    is_new = isinstance(out, Tensor) and not func.is_view and not func._schema.is_mutable
    return to_meta(out) if is_new and out.numel() > REAL_ELEMENTS else out


def _asks_for_large(args: tuple[Any, ...]) -> bool:
    """Whether the first argument is a size of more than `REAL_ELEMENTS`."""
    size = args[0] if args else None
    return (
        isinstance(size, list | tuple)
        and all(isinstance(n, int) for n in size)
        and math.prod(size) > REAL_ELEMENTS
    )


def _is_too_large(inputs: list[Tensor]) -> bool:
    """Whether expanded or broadcast inputs have more than `TRANSIENT_ELEMENTS`."""
    if math.prod(x.numel() for x in inputs) <= TRANSIENT_ELEMENTS:
        return False
    shapes = [x.shape for x in inputs]
    with suppress(RuntimeError):  # shapes that do not broadcast
        shapes.append(torch.broadcast_shapes(*shapes))  # type: ignore[no-untyped-call]
    return max(map(math.prod, shapes)) > TRANSIENT_ELEMENTS


def run_on_meta(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run an operation for its result's shape alone.

    Exceptions are the conventions at the top of this module.
    """
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
    if func in CHOOSING:
        return _chosen(func, args, kwargs)
    if func in _FILLED:
        return _filled(func, args, kwargs)
    if func is _aten.index.Tensor:
        args = (args[0], _indices(args[1]))
    written = _written(func, args, kwargs)
    if written is not None and not is_meta(written):
        return written
    if kwargs.get("device") is not None:
        kwargs["device"] = META
    key = None if func.is_view else _form((func, args, kwargs))
    known = _forms.get(key) if key is not None else None
    if known is not None:
        return written if written is not None else _made(known)
    before = None if written is None else _form(written)
    out = func(*_all_meta(args), **{name: _all_meta([x])[0] for name, x in kwargs.items()})
    form = _form_of_result(func, out, written, before)
    if key is not None and form is not None and len(_forms) < MAX_FORMS:
        _forms[key] = form
    return out


def _form_of_result(
    func: Any, out: Any, written: Tensor | None, before: _Form | None
) -> _Form | list[_Form] | None:
    """What `_forms` keeps of a result; None where it keeps nothing.

    Args:
        func: the operation.
        out: its result.
        written: the tensor that it wrote.
        before: the form of that tensor before it was written.
    """
    if func._schema.is_mutable:
        stayed = out is written and _form(out) == before
        return before if stayed else None
    if isinstance(out, Tensor):
        return out.shape, out.stride(), out.dtype
    if type(out) is tuple and out and all(isinstance(x, Tensor) for x in out):
        return [(x.shape, x.stride(), x.dtype) for x in out]
    return None


def _made(form: _Form | list[_Form]) -> Tensor | tuple[Tensor, ...]:
    """A new result of that form."""
    if isinstance(form, list):
        return tuple(
            torch.empty_strided(shape, stride, dtype=dtype, device=META)
            for shape, stride, dtype in form
        )
    shape, stride, dtype = form
    return torch.empty_strided(shape, stride, dtype=dtype, device=META)


def _form(value: Any) -> Any:
    """What decides the shape of an operation's result, as a key; None where it has none."""
    if isinstance(value, Tensor):
        return (value.shape, value.stride(), value.dtype)
    if isinstance(value, dict):
        value = tuple(value.items())
    if isinstance(value, list | tuple):
        parts = tuple(_form(part) for part in value)
        return None if None in parts else (type(value), parts)
    is_plain = value is None or isinstance(value, _KEYABLE) or value is torch.strided
    return (type(value), value) if is_plain else None


def _filled(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Zeros, ones or a number in the shape of a meta tensor: real up to `REAL_ELEMENTS`."""
    out: Tensor = func(*args, **{**kwargs, "device": META})
    if out.numel() > REAL_ELEMENTS:
        return out
    name = func._schema.name
    number = 0 if "zeros" in name else 1 if "ones" in name else args[-1]
    return out if is_meta(number) else torch.full(out.shape, number, dtype=out.dtype)


def _chosen(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Values without content, and indices of which each occurs equally often."""
    values, indices = func(*args, **kwargs)
    if indices.numel() > REAL_ELEMENTS or indices.ndim == 0:
        return values, indices
    arguments = dict(zip((x.name for x in func._schema.arguments), args, strict=False)) | kwargs
    dim = arguments.get("dim", -1)
    choices, rows = args[0].shape[dim], indices.movedim(dim, -1).shape
    chosen = rows[-1] if func is _aten.topk.default else 1  # an order begins with the next one
    first = torch.arange(math.prod(rows[:-1])).unsqueeze(1) * chosen
    balanced = (first + torch.arange(rows[-1])) % max(choices, 1)
    return values, balanced.reshape(rows).movedim(-1, dim).contiguous()


def _indices(indices: list[Tensor | None]) -> list[Tensor | None]:
    """Masks as the indices that they select: only a real mask knows how many there are."""
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
    """The tensor that an in-place operation, or one with `out`, writes."""
    if not func._schema.is_mutable:
        return None
    for i, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[i] if i < len(args) else kwargs.get(argument.name)
            return value if isinstance(value, Tensor) else None
    return None


def _all_meta(values: Iterable[Any]) -> list[Any]:
    """The values with every tensor on meta, also those in lists and tuples."""
    out: list[Any] = []
    for x in values:
        if isinstance(x, Tensor):
            out.append(x if is_meta(x) else to_meta(x))
        elif type(x) in (list, tuple):
            out.append(type(x)(_all_meta(x)))
        else:
            out.append(x)
    return out
