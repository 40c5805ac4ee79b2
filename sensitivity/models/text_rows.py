"""How is a text encoder's answer to a batch taken apart into rows, and put together again?

A call is described row by row (`read_call`), its answer is split into one `Row` for each text
(`split_answer`), and rows make the answer to another batch (`fit_row`, `join_rows`).

    call = read_call("text_encoder.forward", (ids,), {"attention_mask": mask})   # ids: (B, L)
    rows = split_answer(encoder(ids, attention_mask=mask), len(call.exact))      # B trees
    answer = join_rows([rows[1], rows[0]], torch.device("cpu"))                  # in another order

Answers are trees: tensors, lists, tuples, and the output classes of transformers and diffusers.
A `TextMemory` decides which rows are kept.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from sensitivity.models.entry_points import reads_text

_PLAIN = (bool, int, float, str, type(None), torch.dtype, torch.device)


@dataclass(frozen=True, kw_only=True)
class TextCall:
    """A call of a text encoder, row by row.

    Attributes:
        exact: a digest of each row's arguments.
        loose: the same without the columns that the attention mask hides at either end; None where
            there is no mask.
        spans: (first, last + 1) attended column of each row.
        length: columns of the mask, 0 without one.
    """

    exact: tuple[bytes, ...]
    loose: tuple[bytes, ...] | None
    spans: tuple[tuple[int, int], ...]
    length: int


@dataclass(frozen=True, kw_only=True)
class Row:
    """The answer to one row of a call.

    Attributes:
        tree: the answer, with tensors of shape (1, ...) on the CPU.
        span: (first, last + 1) attended column.
        length: columns of the mask, 0 without one.
    """

    tree: Any
    span: tuple[int, int]
    length: int

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors of the answer."""
        found: list[Tensor] = []
        _map(self.tree, found.append)
        return found


class Fields:
    """An output object of transformers or diffusers: a class and its named fields."""

    def __init__(self, cls: type, fields: dict[str, Any]) -> None:
        self.cls, self.fields = cls, fields


def read_call(entry_point: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> TextCall | None:
    """Describe a call, so that equal rows of different calls can be found.

    Args:
        entry_point: names the method that is called.
        args, kwargs: its arguments.

    Returns:
        None where the call is given something other than token ids, or arguments that cannot be
        compared.
    """
    leaves, structure = pytree.tree_flatten_with_path((args, kwargs))
    tensors = [(pytree.keystr(path), x) for path, x in leaves if isinstance(x, Tensor)]
    plain = [(pytree.keystr(path), x) for path, x in leaves if not isinstance(x, Tensor)]
    if (
        not reads_text(x for _, x in tensors)
        or tensors[0][1].ndim == 0
        or not all(isinstance(x, _PLAIN) for _, x in plain)
    ):
        return None
    batch = tensors[0][1].shape[0]
    if batch == 0:
        return None
    on_cpu = [(name, x.detach().cpu()) for name, x in tensors]
    masks = [x for name, x in on_cpu if "mask" in name and x.ndim == 2 and x.shape[0] == batch]
    length = masks[0].shape[1] if masks else 0
    spans = tuple(_span(masks[0][i]) if masks else (0, 0) for i in range(batch))
    shared = repr((entry_point, str(structure), plain)).encode()

    def digest(i: int, span: tuple[int, int] | None) -> bytes:
        made = hashlib.sha256(shared)
        for name, x in on_cpu:
            row = _row_of(x, i, batch)
            if span is not None and tuple(x.shape) == (batch, length):
                row = row[span[0] : span[1]]
            made.update(f"{name}{x.dtype}{tuple(row.shape)}".encode())
            made.update(
                row.contiguous().view(torch.uint8).numpy().tobytes()
                if row.ndim
                else repr(row.item()).encode()
            )
        return made.digest()

    return TextCall(
        exact=tuple(digest(i, None) for i in range(batch)),
        loose=tuple(digest(i, spans[i]) for i in range(batch)) if masks else None,
        spans=spans,
        length=length,
    )


def _row_of(x: Tensor, i: int, batch: int) -> Tensor:
    """Row i of a batched tensor; the only row of a shared one; else all of it."""
    if x.ndim and x.shape[0] == batch:
        return x[i]
    return x[0] if x.ndim and x.shape[0] == 1 else x


def _span(mask: Tensor) -> tuple[int, int]:
    """The first attended column of a mask (L,), and the one after the last.

    All columns where none is attended.
    """
    attended = mask.nonzero().flatten()
    return (int(attended[0]), int(attended[-1]) + 1) if len(attended) else (0, len(mask))


def split_answer(answer: Any, batch: int) -> list[Any] | None:
    """An answer as `batch` trees with tensors of shape (1, ...) in host memory.

    Returns:
        None where the answer has no tensors, or one whose first axis is not the batch.
    """
    leaves: list[Tensor] = []
    _map(answer, leaves.append)
    if not leaves or any(x.ndim == 0 or x.shape[0] != batch for x in leaves):
        return None

    def row(i: int) -> Any:
        copies: dict[int, Tensor] = {}  # one tensor may appear twice, as a last hidden state does

        def copied(x: Tensor) -> Tensor:
            if id(x) not in copies:
                copies[id(x)] = x[i : i + 1].detach().to("cpu", copy=True)
            return copies[id(x)]

        return _map(answer, copied)

    return [row(i) for i in range(batch)]


def fit_row(row: Row, call: TextCall, i: int) -> Any:
    """A row's tree, with its text in the columns where row i of the call has it.

    Tensors of shape (1, length, ...) have columns. Zeros fill those that the mask hides.
    """
    (start, end), (old_start, old_end) = call.spans[i], row.span
    if call.length == row.length and start == old_start:
        return row.tree

    def moved(x: Tensor) -> Tensor:
        if x.ndim < 3 or x.shape[1] != row.length:
            return x
        out = x.new_zeros(1, call.length, *x.shape[2:])
        out[:, start:end] = x[:, old_start:old_end]
        return out

    return _map(row.tree, moved)


def join_rows(trees: list[Any], device: torch.device) -> Any:
    """One answer of several rows' trees, in order, with its tensors on `device`.

    Objects have the classes that the encoder gave them.
    """
    first = trees[0]
    if isinstance(first, Tensor):
        return torch.cat([tree.to(device) for tree in trees])
    if isinstance(first, Fields):
        return first.cls(
            **{key: join_rows([tree.fields[key] for tree in trees], device) for key in first.fields}
        )
    if isinstance(first, list | tuple):
        parts = [join_rows(list(column), device) for column in zip(*trees, strict=True)]
        return type(first)(*parts) if hasattr(first, "_fields") else type(first)(parts)
    return first


def _map(tree: Any, change: Callable[[Tensor], Any]) -> Any:
    """The tree with its tensors changed.

    What is neither a tensor, a list, fields nor a plain value becomes None: caches of keys and
    values are not kept.
    """
    if isinstance(tree, Tensor):
        return change(tree)
    if isinstance(tree, Fields):
        return Fields(tree.cls, {key: _map(value, change) for key, value in tree.fields.items()})
    if isinstance(tree, Mapping) and hasattr(tree, "to_tuple"):
        return Fields(type(tree), {str(key): _map(value, change) for key, value in tree.items()})
    if isinstance(tree, list | tuple):
        parts = [_map(value, change) for value in tree]
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    return tree if isinstance(tree, _PLAIN) else None
