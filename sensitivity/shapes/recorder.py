"""Which Linears does a run call, how often, and with which shapes?

Method. A forward pre-hook on every `nn.Linear` (subclasses too) notes the rows of its input: M is
the product of all axes but the last, however many there are. K and N are the module's `in_features`
and `out_features`, never the weight's storage, so packed or quantized weights keep their logical
shape. Only shapes are read: a model on the meta device, or under FakeTensorMode, gives the same
table.

Conventions.
- `calls` counts one whole run of what was given (for a pipeline: all its steps), not one step.
- A Linear whose M varies inside the run keeps every (M, calls) pair; its `m` is the largest.
- A Linear that is reachable under two names is one row under its first name in `named_modules()`
  order, and each call counts once. Two modules that share one weight tensor stay two rows.
- The FQN of a root module that is itself a Linear is "".
- A call counts when it starts. A forward that raises gives a MeasurementError that says how far it
  got, and no table.
- Compiled modules run eagerly while they are recorded: a graph that was compiled before would not
  call the hooks.

What it does not do: measure time or memory, or see arithmetic outside Linears. A Linear whose
weight is used without calling the module (`nn.MultiheadAttention.out_proj`, for one) is listed in
`uncalled`.

    >>> from torch import nn, zeros
    >>> net = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> table = profile_module(net, zeros(2, 3, 8))
    >>> [(linear.fqn, linear.m, linear.k, linear.n) for linear in table.linears]
    [('0', 6, 8, 4), ('2', 6, 4, 2)]
"""

import math
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn

from sensitivity.core.fqns import is_in
from sensitivity.errors import MeasurementError, SensitivityError
from sensitivity.models.compiled_regions import running_eagerly
from sensitivity.models.denoisers import Denoisers, parts_of
from sensitivity.shapes.table import LinearProfile, ShapeTable

RECENT_INPUTS = 8
"""How many tensors are remembered, to see whether a later Linear reads one of them again."""


class LinearRecorder:
    """What the hooks of `record_linears` have seen so far.

    Attributes:
        components: names of the components, where several denoisers are recorded together.
        last: FQN of the last Linear that was reached; None before the first.
    """

    def __init__(self, module: nn.Module) -> None:
        self._linears = {
            fqn: child for fqn, child in module.named_modules() if isinstance(child, nn.Linear)
        }
        self._seen: dict[str, Counter[int]] = {fqn: Counter() for fqn in self._linears}
        self.components = tuple(parts_of(module)) if isinstance(module, Denoisers) else ()
        self._readers: deque[tuple[ref[Tensor], list[str]]] = deque(maxlen=RECENT_INPUTS)
        self._shared: dict[str, list[str]] = {}
        self.last: str | None = None

    @property
    def called(self) -> int:
        """How many different Linears were called so far."""
        return sum(1 for rows in self._seen.values() if rows)

    @property
    def progress(self) -> str:
        """How far the run got, in words for messages."""
        if self.last is None:
            reached = "no Linear was reached"
        else:
            reached = f"the last Linear reached was {self.last!r}"
        return f"{reached}; {self.called} of {len(self._linears)} Linears had been called"

    def table(
        self, *, model: str, batch_size: int = 1, settings: Mapping[str, object] | None = None
    ) -> ShapeTable:
        """The table of all calls so far, inside the context or after it.

        Args:
            model: name for the table.
            batch_size: samples that the run makes at once.
            settings: what else determines the shapes; copied into the table.
        """
        linears = tuple(
            LinearProfile.observed(
                fqn=fqn,
                k=linear.in_features,
                n=linear.out_features,
                m_values=self._seen[fqn],
                dtype=str(linear.weight.dtype).removeprefix("torch."),
                bias=linear.bias is not None,
            )
            for fqn, linear in self._linears.items()
            if self._seen[fqn]
        )
        uncalled = tuple(fqn for fqn, rows in self._seen.items() if not rows)
        groups = dict.fromkeys(
            tuple(sorted(readers)) for readers in self._shared.values() if len(readers) > 1
        )
        return ShapeTable(
            model=model,
            batch_size=batch_size,
            settings=dict(settings or {}),
            linears=linears,
            uncalled=uncalled,
            shared_inputs=tuple(groups),
            components=self.components,
        )

    def snapshot(self) -> dict[str, Counter[int]]:
        """All calls so far: {fqn: {M: calls}}."""
        return {fqn: rows.copy() for fqn, rows in self._seen.items() if rows}

    def since(self, earlier: Mapping[str, Counter[int]]) -> dict[str, Counter[int]]:
        """The calls since a snapshot."""
        return {
            fqn: new
            for fqn, rows in self._seen.items()
            if (new := rows - earlier.get(fqn, Counter()))
        }

    def add(self, calls: Mapping[str, Counter[int]]) -> None:
        """Count these calls once more, for a run that is known to repeat them."""
        for fqn, rows in calls.items():
            self._seen[fqn].update(rows)

    def _hook(self, fqn: str) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        def note(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self.last = fqn
            given = (value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
            x = next(given, None)
            if x is None:
                raise MeasurementError(
                    f"{fqn!r} was called without a tensor; expected an input of shape (..., K)."
                    f" {self.progress}."
                )
            rows = math.prod(int(size) for size in x.shape[:-1])  # x: (..., K), may be empty
            self._seen[fqn][rows] += 1
            self._note_reader(fqn, x)

        return note

    def _note_reader(self, fqn: str, x: Tensor) -> None:
        """At a Linear's first call, group it with the Linears of its component that read the same
        tensor before.
        """
        if fqn in self._shared:
            return
        component = next((name for name in self.components if is_in(fqn, name)), "")
        same = (
            readers
            for tensor, readers in self._readers
            if tensor() is x and is_in(readers[0], component)
        )
        readers = next(same, None)
        if readers is None:
            readers = []
            self._readers.append((ref(x), readers))
        readers.append(fqn)
        self._shared[fqn] = readers


@contextmanager
def record_linears(module: nn.Module) -> Iterator[LinearRecorder]:
    """Record every call of a Linear below `module` while the context is open.

    The recorder's `table` gives the result. The module is in eval mode inside. Afterwards every
    submodule has its own training mode again and all hooks are removed, whatever happened. Contexts
    nest.

    Raises:
        MeasurementError: the body raised; the cause is chained, and the message says how far it
            got. Errors of this library pass unchanged.
    """
    recorder = LinearRecorder(module)
    modes = [(child, child.training) for child in module.modules()]
    handles = []
    try:
        for fqn, linear in recorder._linears.items():
            handles.append(linear.register_forward_pre_hook(recorder._hook(fqn), with_kwargs=True))
        module.eval()
        with running_eagerly():
            yield recorder
    except SensitivityError:
        raise
    except Exception as error:
        raise MeasurementError(
            f"The run raised {type(error).__name__} while its Linears were recorded ({error}):"
            f" {recorder.progress}. Make the run succeed without the recorder first, then profile"
            " it again."
        ) from error
    finally:
        for handle in handles:
            handle.remove()
        for child, training in modes:
            child.training = training


def profile_run(
    module: nn.Module,
    run: Callable[[], object],
    *,
    model: str,
    batch_size: int = 1,
    settings: Mapping[str, object] | None = None,
) -> ShapeTable:
    """Call `run()` once, without gradients, and return the shapes of the Linears of `module`.

    Args:
        module: the denoiser, or any module that `run` uses.
        run: what to run, such as a whole pipeline call; its result is dropped.
        model: name for the table.
        batch_size: samples that `run` makes at once.
        settings: what else determines the shapes; copied into the table.

    Raises:
        MeasurementError: `run` raised; the message says how far it got.
    """
    with record_linears(module) as recorder, torch.no_grad():
        run()
    return recorder.table(model=model, batch_size=batch_size, settings=settings)


def profile_module(
    module: nn.Module,
    *args: object,
    model: str | None = None,
    batch_size: int = 1,
    settings: Mapping[str, object] | None = None,
    **kwargs: object,
) -> ShapeTable:
    """Call `module(*args, **kwargs)` once, without gradients, and return the shapes of its Linears.

    A forward with an argument called model, batch_size or settings needs `profile_run`.

    Args:
        module: any module.
        args: positional arguments of its forward.
        model: name for the table; the module's class by default.
        batch_size: samples that the call makes at once.
        settings: what else determines the shapes; copied into the table.
        kwargs: keyword arguments of its forward.

    Raises:
        MeasurementError: the forward raised; the message says how far it got.
    """
    name = type(module).__name__ if model is None else model
    return profile_run(
        module,
        lambda: module(*args, **kwargs),
        model=name,
        batch_size=batch_size,
        settings=settings,
    )
