"""How is text encoded only once, whatever the pipeline?

`TextMemory`: remembers what text encoders gave for each row of ids, and says it again.

    memory = TextMemory({"text_encoder": pipe.text_encoder}, denoisers=[pipe.transformer], device="cpu")
    memory.learn("a red ring", lambda: pipe("a red ring"))      # runs up to the denoiser's first call
    pipe(["a red ring", "a blue star"])                         # "a red ring" is remembered; the other is encoded as the pipeline would

Method. The pipeline's own code runs, for one prompt at a time, until it calls the denoiser. On the
way every call of a component, or of one of its parts, that is given token ids (and masks, and
flags, no embeddings) is remembered row by row in host memory. Later calls are answered by joining
rows, in any order and any batch, so that what a prompt is to the denoiser does not depend on the
prompts beside it. Where a pipeline pads to the longest prompt of a batch, a row is found by what
its attention mask leaves of it, and zeros stand where it was padded.

The first prompt is run a second time from memory, and the denoiser's arguments are compared bit by
bit. If they differ, or a call is not found again, the pipeline does something that this method does
not see: the memory then forgets everything and steps aside (`works` is False), and the pipeline
encodes as it always did.

What it does not do: encoders that take pictures or sounds of any size, and calls after the
denoiser's first.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from sensitivity.models.entrances import entrances, reads_text, surround

_PLAIN = (bool, int, float, str, type(None), torch.dtype, torch.device)


class _Reached(BaseException):
    """The denoiser was called: no exception that a pipeline may catch."""

    def __init__(self, arguments: Any) -> None:
        super().__init__("the denoiser was called")
        self.arguments = arguments


class _Unknown(BaseException):
    """A call is not in the memory, and was to be."""


@dataclass(frozen=True)
class _Request:
    """A call, row by row: what two rows must share to have one answer.

    Attributes:
        exact: a digest of each row's arguments.
        loose: the same without the columns that the mask hides at either end; None where there is
            no mask.
        spans: (first, last + 1) attended column of each row.
        length: columns of the mask, 0 without one.
    """

    exact: tuple[bytes, ...]
    loose: tuple[bytes, ...] | None
    spans: tuple[tuple[int, int], ...]
    length: int


@dataclass(frozen=True)
class _Row:
    """An answer to one row: a tree with tensors of shape (1, ...) on the CPU, and where in `length`
    columns its text was.
    """

    tree: Any
    span: tuple[int, int]
    length: int


class TextMemory:
    """Stands in front of components that run before the denoiser.

    Args:
        components: {name: module} that may be text encoders; calls that cannot be remembered pass
            through.
        denoisers: the modules whose first call ends the text's part of a run.
        device: where answers go.

    Attributes:
        answered: names of components all of whose calls were remembered so far.
        works: False once the memory stepped aside.
    """

    def __init__(
        self, components: Mapping[str, nn.Module], *, denoisers: Sequence[nn.Module], device: str
    ) -> None:
        self.denoisers, self.device, self.works = tuple(denoisers), torch.device(device), True
        self._rows: dict[bytes, _Row] = {}
        self._loose: dict[bytes, _Row] = {}
        self._known: set[str] = set()
        self._remembered: set[str] = set()
        self._passed: set[str] = set()
        self._mode = "answer"
        self._inside = False
        self._undo = [
            surround(part, method, partial(self._enter, name, f"{name}.{fqn}.{method}"))
            for name, module in components.items()
            for fqn, part, method in entrances(module)
        ]

    @property
    def answered(self) -> frozenset[str]:
        """Components whose weights are not needed any more for the prompts that were learnt."""
        return frozenset(self._remembered - self._passed)

    @property
    def passed(self) -> frozenset[str]:
        """Components with calls, before the denoiser's, that cannot be remembered."""
        return frozenset(self._passed)

    @property
    def nbytes(self) -> int:
        """Host memory that the answers take."""
        leaves = (
            x
            for row in self._rows.values()
            for x in pytree.tree_leaves(_open(row.tree))
            if isinstance(x, Tensor)
        )
        return sum(
            {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in leaves}.values()
        )

    @torch.no_grad()
    def learn(self, prompt: str, call: Callable[[], object]) -> None:
        """Remember what `call`, a pipeline call of one prompt, encodes before its denoiser runs;
        nothing for a prompt that is known.
        """
        if not self.works or prompt in self._known:
            return
        first = self._until_denoiser(call, "remember")
        if not self._known:
            try:
                again = self._until_denoiser(call, "insist")
            except _Unknown:
                self.close()
                return
            if not _same(first, again):
                self.close()
                return
        self._known.add(prompt)

    def close(self) -> None:
        """Step aside: the components are as they were, and everything is forgotten."""
        self.works = False
        for undo in self._undo:
            undo()
        for kept in (self._rows, self._loose, self._known, self._remembered):
            kept.clear()

    def _until_denoiser(self, call: Callable[[], object], mode: str) -> Any:
        """The arguments of the denoiser's first call; None where there was none."""
        with _stopped_at(self.denoisers), self._in(mode):
            try:
                call()
            except _Reached as reached:
                return reached.arguments
        return None

    @contextmanager
    def _in(self, mode: str) -> Iterator[None]:
        self._mode = mode
        try:
            yield
        finally:
            self._mode, self._inside = "answer", False

    def _enter(
        self, component: str, entrance: str, original: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        if self._inside:  # a part of a component that runs
            return original(*args, **kwargs)
        request = _read(entrance, args, kwargs)
        known = (
            [self._find(request, i) for i in range(len(request.exact))]
            if request is not None
            else []
        )
        if request is not None and known and all(row is not None for row in known):
            return _join(
                [_fitted(row, request, i) for i, row in enumerate(known) if row is not None],
                self.device,
            )
        if self._mode == "insist" and component not in self._passed:
            raise _Unknown
        self._inside = True
        try:
            out = original(*args, **kwargs)
        finally:
            self._inside = False
        if self._mode == "remember":
            self._keep(component, request, out)
        return out

    def _find(self, request: _Request, i: int) -> _Row | None:
        row = self._rows.get(request.exact[i])
        if (
            row is None and request.loose is not None and self._mode == "answer"
        ):  # what is learnt is what the pipeline encodes for one prompt
            row = self._loose.get(request.loose[i])
        return row

    def _keep(self, component: str, request: _Request | None, out: Any) -> None:
        rows = _split(out, len(request.exact)) if request is not None else None
        if request is None or rows is None:
            self._passed.add(component)
            return
        self._remembered.add(component)
        for i, tree in enumerate(rows):
            row = _Row(tree=tree, span=request.spans[i], length=request.length)
            self._rows[request.exact[i]] = row
            if request.loose is not None:
                self._loose.setdefault(request.loose[i], row)


@contextmanager
def _stopped_at(denoisers: Sequence[nn.Module]) -> Iterator[None]:
    def stop(_module: nn.Module, args: Any, kwargs: Any) -> None:
        raise _Reached((args, kwargs))

    hooks = [
        denoiser.register_forward_pre_hook(stop, prepend=True, with_kwargs=True)
        for denoiser in denoisers
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _read(entrance: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Request | None:
    """What to look a call up by; None where it is given something other than ids, or arguments that
    cannot be compared.
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
    here = [(name, x.detach().cpu()) for name, x in tensors]
    masks = [x for name, x in here if "mask" in name and x.ndim == 2 and x.shape[0] == batch]
    length = masks[0].shape[1] if masks else 0
    spans = tuple(_span(masks[0][i]) if masks else (0, 0) for i in range(batch))
    shared = repr((entrance, str(structure), plain)).encode()

    def digest(i: int, span: tuple[int, int] | None) -> bytes:
        made = hashlib.sha256(shared)
        for name, x in here:
            row = (
                x[i]
                if x.ndim and x.shape[0] == batch
                else x[0]
                if x.ndim and x.shape[0] == 1
                else x
            )
            if span is not None and x.ndim == 2 and tuple(x.shape) == (batch, length):
                row = row[span[0] : span[1]]
            made.update(f"{name}{x.dtype}{tuple(row.shape)}".encode())
            made.update(
                row.contiguous().view(torch.uint8).numpy().tobytes()
                if row.ndim
                else repr(row.item()).encode()
            )
        return made.digest()

    exact = tuple(digest(i, None) for i in range(batch))
    return _Request(
        exact=exact,
        loose=tuple(digest(i, spans[i]) for i in range(batch)) if masks else None,
        spans=spans,
        length=length,
    )


def _span(mask: Tensor) -> tuple[int, int]:
    """mask:

    (L,). The first attended column, and the one after the last; all of them where none is.
    """
    attended = mask.nonzero().flatten()
    return (int(attended[0]), int(attended[-1]) + 1) if len(attended) else (0, len(mask))


class _Fields:
    """An output of transformers' or diffusers' kind: a class made of named fields."""

    def __init__(self, cls: type, fields: dict[str, Any]) -> None:
        self.cls, self.fields = cls, fields


def _open(tree: Any) -> Any:
    """The same with plain dicts for `_Fields`."""
    if isinstance(tree, _Fields):
        return {key: _open(value) for key, value in tree.fields.items()}
    if isinstance(tree, list | tuple):
        return [_open(value) for value in tree]
    return tree


def _map(tree: Any, change: Callable[[Tensor], Any]) -> Any:
    """The tree with its tensors changed; what is neither tensor, list nor fields (caches of keys
    and values) becomes None.
    """
    if isinstance(tree, Tensor):
        return change(tree)
    if isinstance(tree, _Fields):
        return _Fields(tree.cls, {key: _map(value, change) for key, value in tree.fields.items()})
    if isinstance(tree, Mapping) and hasattr(tree, "to_tuple"):
        return _Fields(type(tree), {str(key): _map(value, change) for key, value in tree.items()})
    if isinstance(tree, list | tuple):
        parts = [_map(value, change) for value in tree]
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    return tree if isinstance(tree, _PLAIN) else None


def _split(out: Any, batch: int) -> list[Any] | None:
    """`batch` trees with tensors of shape (1, ...) in host memory; None where a tensor is not one
    of rows.
    """
    leaves: list[Tensor] = []
    _map(out, leaves.append)
    if not leaves or any(x.ndim == 0 or x.shape[0] != batch for x in leaves):
        return None

    def row(i: int) -> Any:
        copies: dict[
            int, Tensor
        ] = {}  # the last hidden state is among the hidden states: kept once

        def copied(x: Tensor) -> Tensor:
            if id(x) not in copies:
                copies[id(x)] = x[i : i + 1].detach().to("cpu", copy=True)
            return copies[id(x)]

        return _map(out, copied)

    return [row(i) for i in range(batch)]


def _fitted(row: _Row, request: _Request, i: int) -> Any:
    """The row's tree with its text in the columns where the request has it.

    Tensors of shape (1, length, ...) have columns.
    """
    (start, end), (old_start, old_end) = request.spans[i], row.span
    if request.length == row.length and start == old_start:
        return row.tree

    def moved(x: Tensor) -> Tensor:
        if x.ndim < 3 or x.shape[1] != row.length:
            return x
        out = x.new_zeros(1, request.length, *x.shape[2:])
        out[:, start:end] = x[:, old_start:old_end]
        return out

    return _map(row.tree, moved)


def _join(trees: list[Any], device: torch.device) -> Any:
    """The trees as one, rows in order, tensors on `device`, classes as they were."""
    first = trees[0]
    if isinstance(first, Tensor):
        return torch.cat([tree.to(device) for tree in trees])
    if isinstance(first, _Fields):
        return first.cls(
            **{key: _join([tree.fields[key] for tree in trees], device) for key in first.fields}
        )
    if isinstance(first, list | tuple):
        parts = [_join(list(column), device) for column in zip(*trees, strict=True)]
        return type(first)(*parts) if hasattr(first, "_fields") else type(first)(parts)
    return first


def _same(first: Any, second: Any) -> bool:
    """Whether two trees of arguments are equal to the last bit."""
    (left, shape), (right, other) = pytree.tree_flatten(first), pytree.tree_flatten(second)
    if shape != other:
        return False
    return all(
        (
            x.shape == y.shape
            and x.dtype == y.dtype
            and bool(((x == y) | ((x != x) & (y != y))).all())
            if isinstance(x, Tensor) and isinstance(y, Tensor)
            else type(x) is type(y)
        )
        for x, y in zip(left, right, strict=True)
    )
