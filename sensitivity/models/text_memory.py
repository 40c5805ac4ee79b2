"""How is each text encoded only once, whatever the pipeline?

`TextMemory` remembers the text encoders' answer to each row of token ids, and gives it again.

    encoders = {"text_encoder": pipe.text_encoder}
    memory = TextMemory(encoders, denoisers=[pipe.transformer], device="cpu")
    memory.learn("a red ring", lambda: pipe("a red ring"))  # runs up to the denoiser's first call
    pipe(["a red ring", "a blue star"])                     # the batch holds a new text: encoded

Method. The pipeline's own code runs for one prompt, until it calls the denoiser. On the way, every
call of a component or of one of its parts that is given token ids (with masks and flags, but no
embeddings) is remembered row by row in host memory. Later calls are answered by joining rows, in
any order and any batch. So what the denoiser is given for a prompt does not depend on the other
prompts of its batch. Where a pipeline pads to the longest prompt of a batch, a row is found by the
columns that its attention mask leaves, and padding is filled with zeros.

Check. The first prompt is run a second time from memory, and the denoiser's arguments are compared
bit by bit. If they differ, or some call is not found, the pipeline uses its encoders in a way that
this method does not see. The memory then closes itself (`works` is False), and the pipeline
encodes text in every call.

With `kept`, rows are kept on disk as well (`kept_texts`). The pipeline's code runs for a prompt
whose rows are there, and its encoders do not. Rows are kept only after the check.

What it does not do: encoders of pictures or sound, and calls after the denoiser's first.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from sensitivity.models.entry_points import entry_points, intercept
from sensitivity.models.kept_texts import KeptRow, KeptTexts
from sensitivity.models.text_rows import (
    Row,
    TextCall,
    fit_row,
    join_rows,
    read_call,
    split_answer,
)

_Mode = Literal["answer", "remember", "check"]
"""What happens to a call that is not in the memory: it is encoded, encoded and remembered, or ends
the check.
"""


class _DenoiserReached(BaseException):
    """The denoiser was called. No pipeline catches a BaseException."""

    def __init__(self, arguments: Any) -> None:
        super().__init__("the denoiser was called")
        self.arguments = arguments


class _NotRemembered(BaseException):
    """A call during the check is not in the memory."""


class TextMemory:
    """Answers calls of the components that run before the denoiser.

    Args:
        components: {name: module} that may be text encoders. Calls that cannot be remembered reach
            them as before.
        denoisers: the modules whose first call ends the encoding of text.
        device: where answers are put.

    Attributes:
        denoisers: as given; they may be replaced.
        works: False once the memory closed itself.
        kept: keeps rows for other processes; None: nobody does. It may be set at any time.
    """

    def __init__(
        self, components: Mapping[str, nn.Module], *, denoisers: Sequence[nn.Module], device: str
    ) -> None:
        self.denoisers, self.device, self.works = tuple(denoisers), torch.device(device), True
        self._rows: dict[bytes, Row] = {}
        self._loose: dict[bytes, Row] = {}
        self._prompts: set[str] = set()
        self._remembered: set[str] = set()
        self._passed: set[str] = set()
        self.kept: KeptTexts | None = None
        self._learnt: list[KeptRow] = []  # rows that the prompt at hand has added
        self._mode: _Mode = "answer"
        self._inside = False  # a component runs, and may call its own parts
        self._undo = [
            intercept(part, method, partial(self._call, name, f"{name}.{fqn}.{method}"))
            for name, module in components.items()
            for fqn, part, method in entry_points(module)
        ]

    @property
    def answered(self) -> frozenset[str]:
        """Components that need not run for the prompts that were learnt."""
        return frozenset(self._remembered - self._passed)

    @property
    def passed(self) -> frozenset[str]:
        """Components that got a call, before the denoiser's, that cannot be remembered."""
        return frozenset(self._passed)

    @property
    def nbytes(self) -> int:
        """Host memory that the answers take, in bytes."""
        storages = {
            x.untyped_storage().data_ptr(): x.untyped_storage().nbytes()
            for row in self._rows.values()
            for x in row.tensors
        }
        return sum(storages.values())

    @torch.no_grad()
    def learn(self, prompt: str, call: Callable[[], object]) -> None:
        """Remember what a pipeline call encodes before its denoiser runs.

        Args:
            prompt: the text; nothing happens if it was learnt before.
            call: calls the pipeline with this prompt alone. What it raises is raised again.
        """
        if not self.works or prompt in self._prompts:
            return
        known = [] if self.kept is None else self.kept.read(prompt)
        for row in known:
            self._add(row)
        self._learnt = []
        first = self._until_denoiser(call, "remember")
        if not self._prompts:
            try:
                again = self._until_denoiser(call, "check")
            except _NotRemembered:
                self.close()
                return
            if not _are_equal(first, again):
                self.close()
                return
        self._prompts.add(prompt)
        if self.kept is not None and self._learnt:
            self.kept.write(prompt, [*known, *self._learnt])

    def close(self) -> None:
        """Forget everything, and intercept no calls any more."""
        self.works = False
        for undo in self._undo:
            undo()
        for kept in (self._rows, self._loose, self._prompts, self._remembered):
            kept.clear()

    def _until_denoiser(self, call: Callable[[], object], mode: _Mode) -> Any:
        """The arguments of the denoiser's first call; None where there was none."""
        with _stopped_at(self.denoisers), self._in(mode):
            try:
                call()
            except _DenoiserReached as reached:
                return reached.arguments
        return None

    @contextmanager
    def _in(self, mode: _Mode) -> Iterator[None]:
        self._mode = mode
        try:
            yield
        finally:
            self._mode, self._inside = "answer", False

    def _call(
        self,
        component: str,
        entry_point: str,
        original: Callable[..., Any],
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        if self._inside:
            return original(*args, **kwargs)
        call = read_call(entry_point, args, kwargs)
        if call is not None:
            rows = [self._find(call, i) for i in range(len(call.exact))]
            known = [row for row in rows if row is not None]
            if len(known) == len(rows):
                return join_rows([fit_row(x, call, i) for i, x in enumerate(known)], self.device)
        if self._mode == "check" and component not in self._passed:
            raise _NotRemembered
        self._inside = True
        try:
            answer = original(*args, **kwargs)
        finally:
            self._inside = False
        if self._mode == "remember":
            self._keep(component, call, answer)
        return answer

    def _find(self, call: TextCall, i: int) -> Row | None:
        row = self._rows.get(call.exact[i])
        # What is learnt, and checked, is what the pipeline encodes for this very prompt.
        if row is None and call.loose is not None and self._mode == "answer":
            row = self._loose.get(call.loose[i])
        return row

    def _keep(self, component: str, call: TextCall | None, answer: Any) -> None:
        trees = split_answer(answer, len(call.exact)) if call is not None else None
        if call is None or trees is None:
            self._passed.add(component)
            return
        for i, tree in enumerate(trees):
            row = Row(tree=tree, span=call.spans[i], length=call.length)
            loose = None if call.loose is None else call.loose[i]
            kept = KeptRow(component=component, exact=call.exact[i], loose=loose, row=row)
            self._learnt.append(kept)
            self._add(kept)

    def _add(self, kept: KeptRow) -> None:
        self._remembered.add(kept.component)
        self._rows[kept.exact] = kept.row
        if kept.loose is not None:
            self._loose.setdefault(kept.loose, kept.row)


@contextmanager
def _stopped_at(denoisers: Sequence[nn.Module]) -> Iterator[None]:
    def stop(_module: nn.Module, args: Any, kwargs: Any) -> None:
        raise _DenoiserReached((args, kwargs))

    hooks = [
        denoiser.register_forward_pre_hook(stop, prepend=True, with_kwargs=True)
        for denoiser in denoisers
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _are_equal(first: Any, second: Any) -> bool:
    """Whether two trees of arguments have equal tensors, to the last bit, and the same types.

    NaN equals NaN.
    """
    (left, shape), (right, other) = pytree.tree_flatten(first), pytree.tree_flatten(second)
    if shape != other:
        return False
    for x, y in zip(left, right, strict=True):
        if not (isinstance(x, Tensor) and isinstance(y, Tensor)):
            equal = type(x) is type(y)
        else:
            equal = x.shape == y.shape and x.dtype == y.dtype
            equal = equal and bool(((x == y) | ((x != x) & (y != y))).all())
        if not equal:
            return False
    return True
