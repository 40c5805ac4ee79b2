"""Which Linears does a run call, how often, and with which shapes?

Method. A forward pre-hook on every `nn.Linear` (subclasses too) notes the rows of its input: M is the product of all axes but the last,
however many there are. K and N are the module's `in_features` and `out_features`, never the weight's storage, so packed or quantized
weights keep their logical shape. Only shapes are read: a model on the meta device, or under FakeTensorMode, gives the same table.

Conventions.
- `calls` counts one whole run of what was given (for a pipeline: all its steps), not one step.
- A Linear whose M varies inside the run keeps every (M, calls) pair; its `m` is the largest.
- A Linear that is reachable under two names is one row under its first name in `named_modules()` order, and each call counts once.
  Two modules that share one weight tensor stay two rows.
- The FQN of a root module that is itself a Linear is "".
- A call counts when it starts. A forward that raises gives no table but a MeasurementError that says how far it got.
- Compiled modules run eagerly while they are recorded: a graph that was compiled before the hooks came would not call them.

What it does not do: measure time or memory (latency/), or see arithmetic outside Linears. A Linear whose weight is used without calling
the module (`nn.MultiheadAttention.out_proj`, for one) is listed in `uncalled`.

Example:
    >>> from torch import nn, zeros
    >>> table = profile_module(nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2)), zeros(2, 3, 8))
    >>> [(linear.fqn, linear.m, linear.k, linear.n) for linear in table.linears]
    [('0', 6, 8, 4), ('2', 6, 4, 2)]
"""

import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sensitivity.census import RunCounts
from sensitivity.errors import MeasurementError, SensitivityError, UserError

_TABLE_KEYS = ("model", "batch_size", "settings", "linears", "uncalled")
_ROW_TYPES: Mapping[str, type] = {
    "fqn": str, "m": int, "k": int, "n": int, "calls": int, "dtype": str, "bias": bool, "block": str, "role": str,
}  # fmt: skip


def block_of(fqn: str) -> str:
    """Name the repeated block that a Linear sits in: its FQN up to and including the first numeric component, or "" if there is none.

    `transformer_blocks.3.attn.to_q` -> `transformer_blocks.3`; `x_embedder` -> "".
    """
    parts = fqn.split(".")
    index = _block_index(parts)
    return "" if index is None else ".".join(parts[: index + 1])


def role_of(fqn: str) -> str:
    """Name what a Linear does, the same in every block: its FQN without the block's index. Indices further inside are kept.

    `transformer_blocks.3.attn.to_out.0` -> `transformer_blocks.attn.to_out.0`. An FQN that is nothing but an index stays as it is.
    """
    parts = fqn.split(".")
    index = _block_index(parts)
    return fqn if index is None or len(parts) == 1 else ".".join(parts[:index] + parts[index + 1 :])


def _block_index(parts: list[str]) -> int | None:
    return next((i for i, part in enumerate(parts) if part.isascii() and part.isdigit()), None)


@dataclass(frozen=True, kw_only=True, slots=True)
class LinearProfile:
    """One Linear that was called.

    Attributes:
        fqn: Its first name in the profiled module.
        m: Rows of its input, all leading axes flattened; the largest, where M varied.
        k: in_features.
        n: out_features.
        calls: Calls in the whole run.
        dtype: The weight's dtype as torch prints it, without `torch.`: "bfloat16".
        bias: Whether it has a bias.
        block: `block_of(fqn)`.
        role: `role_of(fqn)`.
        m_values: (M, calls) pairs, sorted by M; calls sum to `calls`.
    """

    fqn: str
    m: int
    k: int
    n: int
    calls: int
    dtype: str
    bias: bool
    block: str
    role: str
    m_values: tuple[tuple[int, int], ...]

    @classmethod
    def observed(cls, *, fqn: str, k: int, n: int, m_values: Mapping[int, int], dtype: str, bias: bool) -> "LinearProfile":
        """Build a row from what was seen (`m_values`: M -> calls, not empty); m, calls, block and role follow from it."""
        pairs = tuple(sorted(m_values.items()))
        return cls(
            fqn=fqn, m=pairs[-1][0], k=k, n=n, calls=sum(m_values.values()), dtype=dtype, bias=bias,
            block=block_of(fqn), role=role_of(fqn), m_values=pairs,
        )  # fmt: skip

    @property
    def rows(self) -> int:
        """Rows of input over the whole run: the sum of M x calls."""
        return sum(m * calls for m, calls in self.m_values)

    @property
    def flops(self) -> int:
        """Floating-point operations of the whole run, a multiply-add counted as two: 2 x K x N x rows. The bias is not counted."""
        return 2 * self.k * self.n * self.rows

    @property
    def parameters(self) -> int:
        """Elements of weight and bias: K x N, + N with a bias."""
        return self.k * self.n + (self.n if self.bias else 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class ShapeGroup:
    """All calls with one shape (M, K, N): a row of the screen table. `share` is this shape's part of all FLOPs, from 0 to 1."""

    m: int
    k: int
    n: int
    linears: int
    calls: int
    flops: int
    share: float
    roles: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ShapeTable:
    """The shapes of every Linear that one run called, and the names of those that it never called.

    Attributes:
        model: Name of what was profiled, for people.
        batch_size: Samples (prompts) the run made at once, as the caller says.
        settings: What else determines the shapes (resolution, steps, ...); values that JSON can hold.
        linears: One row a Linear, in `named_modules()` order.
        uncalled: FQNs of Linears that were never called.
        run: What else the whole pipeline run did, where that was counted.
    """

    model: str
    batch_size: int
    settings: Mapping[str, object]
    linears: tuple[LinearProfile, ...]
    uncalled: tuple[str, ...]
    run: RunCounts | None = None

    @property
    def flops(self) -> int:
        """Floating-point operations of all Linears in the whole run."""
        return sum(linear.flops for linear in self.linears)

    def by_shape(self) -> tuple[ShapeGroup, ...]:
        """Group the calls by (M, K, N), most FLOPs first. A Linear whose M varies stands in one group for each M."""
        members: dict[tuple[int, int, int], list[tuple[str, int]]] = {}
        for linear in self.linears:
            for m, calls in linear.m_values:
                members.setdefault((m, linear.k, linear.n), []).append((linear.role, calls))
        total_flops = self.flops
        groups = []
        for (m, k, n), rows in members.items():
            calls = sum(row_calls for _, row_calls in rows)
            flops = 2 * m * k * n * calls
            share, roles = flops / total_flops if total_flops else 0.0, tuple(dict.fromkeys(role for role, _ in rows))
            groups.append(ShapeGroup(m=m, k=k, n=n, linears=len(rows), calls=calls, flops=flops, share=share, roles=roles))
        return tuple(sorted(groups, key=lambda group: (-group.flops, group.m, group.k, group.n)))

    def to_json(self) -> dict[str, Any]:
        """Give the `profile --json` object; "m_values" ({"<m>": calls}) stands only in rows whose M varies, "run" only where it was counted."""
        return {
            "model": self.model,
            "batch_size": self.batch_size,
            "settings": dict(self.settings),
            "linears": [_row_to_json(linear) for linear in self.linears],
            "uncalled": list(self.uncalled),
        } | ({} if self.run is None else {"run": self.run.to_json()})

    @classmethod
    def from_json(cls, data: object) -> "ShapeTable":
        """Read what `to_json` gave. Further keys beside the table's own are allowed (results are stamped), in its rows they are not.

        Raises:
            UserError: A key is missing or unknown, a value has the wrong type or range, or an FQN stands twice.
        """
        table = _expect(data, dict, "the table")
        model = _expect(_take(table, "model", "the table"), str, "'model'")
        batch_size = _positive(_take(table, "batch_size", "the table"), "'batch_size'")
        settings = _expect(_take(table, "settings", "the table"), dict, "'settings'")
        rows = _expect(_take(table, "linears", "the table"), list, "'linears'")
        linears = tuple(_row_from_json(row, f"'linears'[{i}]") for i, row in enumerate(rows))
        names = _expect(_take(table, "uncalled", "the table"), list, "'uncalled'")
        uncalled = tuple(_expect(name, str, "an entry of 'uncalled'") for name in names)
        twice = [fqn for fqn, count in Counter([linear.fqn for linear in linears] + list(uncalled)).items() if count > 1]
        if twice:
            raise _malformed(f"the FQN {twice[0]!r} stands twice", "one entry for each Linear, in 'linears' or in 'uncalled'")
        run = None if table.get("run") is None else RunCounts.from_json(table["run"])
        return cls(model=model, batch_size=batch_size, settings=settings, linears=linears, uncalled=uncalled, run=run)


def _row_to_json(linear: LinearProfile) -> dict[str, Any]:
    row: dict[str, Any] = {key: getattr(linear, key) for key in _ROW_TYPES}
    if len(linear.m_values) > 1:
        row["m_values"] = {str(m): calls for m, calls in linear.m_values}
    return row


def _row_from_json(data: object, where: str) -> LinearProfile:
    row = _expect(data, dict, where)
    unknown = sorted(set(row) - set(_ROW_TYPES) - {"m_values"})
    if unknown:
        raise _malformed(f"{where} has the key {unknown[0]!r}", f"only {', '.join(_ROW_TYPES)} and m_values")
    values = {key: _expect(_take(row, key, where), kind, f"{key!r} of {where}") for key, kind in _ROW_TYPES.items()}
    for key in ("k", "n", "calls"):
        _positive(values[key], f"{key!r} of {where}")
    if values["m"] < 0:
        raise _malformed(f"'m' of {where} is {values['m']}", "a number from 0 up")
    given = _expect(row.get("m_values", {str(values["m"]): values["calls"]}), dict, f"'m_values' of {where}")
    if not given or not all(isinstance(m, str) and m.isascii() and m.isdigit() for m in given):
        raise _malformed(f"'m_values' of {where} is {given!r}", 'an object {"<m>": calls}')
    m_values = {int(m): _positive(calls, f"'m_values' of {where}") for m, calls in given.items()}
    if max(m_values) != values["m"] or sum(m_values.values()) != values["calls"]:
        allowed = f"'m' ({values['m']}) as the largest M and calls that sum to {values['calls']}"
        raise _malformed(f"'m_values' of {where} is {given!r}", allowed)
    return LinearProfile(**values, m_values=tuple(sorted(m_values.items())))


def _malformed(found: str, allowed: str) -> UserError:
    return UserError(f"Malformed shape table: {found}; allowed: {allowed}. Write it anew with `sensitivity profile --json`.")


def _take(data: Mapping[str, object], key: str, where: str) -> object:
    if key not in data:
        keys = _TABLE_KEYS if where == "the table" else tuple(_ROW_TYPES)
        raise _malformed(f"{where} has no {key!r}", f"all of {', '.join(keys)}")
    return data[key]


def _expect(value: object, kind: type, where: str) -> Any:
    if type(value) is not kind:  # type, not isinstance: JSON's true is not the number 1
        raise _malformed(f"{where} is {value!r:.80}", f"a value of type {kind.__name__}")
    return value


def _positive(value: object, where: str) -> int:
    number: int = _expect(value, int, where)
    if number < 1:
        raise _malformed(f"{where} is {number}", "a number from 1 up")
    return number


class LinearRecorder:
    """What the hooks of `record_linears` saw so far. `last` is the FQN of the last Linear reached, None before the first."""

    def __init__(self, module: nn.Module) -> None:
        """Name every Linear below `module`; no hook is set here."""
        self._linears = {fqn: child for fqn, child in module.named_modules() if isinstance(child, nn.Linear)}
        self._seen: dict[str, Counter[int]] = {fqn: Counter() for fqn in self._linears}
        self.last: str | None = None

    @property
    def called(self) -> int:
        """How many different Linears were called so far."""
        return sum(1 for rows in self._seen.values() if rows)

    @property
    def progress(self) -> str:
        """How far the run got, as a clause for messages."""
        reached = "no Linear was reached" if self.last is None else f"the last Linear reached was {self.last!r}"
        return f"{reached}; {self.called} of {len(self._linears)} Linears had been called"

    def table(self, *, model: str, batch_size: int = 1, settings: Mapping[str, object] | None = None) -> ShapeTable:
        """Give the ShapeTable of all calls so far; it may be asked for inside the context or after it."""
        linears = tuple(
            LinearProfile.observed(
                fqn=fqn, k=linear.in_features, n=linear.out_features, m_values=self._seen[fqn],
                dtype=str(linear.weight.dtype).removeprefix("torch."), bias=linear.bias is not None,
            )
            for fqn, linear in self._linears.items() if self._seen[fqn]
        )  # fmt: skip
        uncalled = tuple(fqn for fqn, rows in self._seen.items() if not rows)
        return ShapeTable(model=model, batch_size=batch_size, settings=dict(settings or {}), linears=linears, uncalled=uncalled)

    def snapshot(self) -> dict[str, Counter[int]]:
        """All calls so far: {fqn: {M: calls}}."""
        return {fqn: rows.copy() for fqn, rows in self._seen.items() if rows}

    def since(self, earlier: Mapping[str, Counter[int]]) -> dict[str, Counter[int]]:
        """The calls since a snapshot."""
        return {fqn: new for fqn, rows in self._seen.items() if (new := rows - earlier.get(fqn, Counter()))}

    def add(self, calls: Mapping[str, Counter[int]]) -> None:
        """Count these calls again: for a run that is known to do the same."""
        for fqn, rows in calls.items():
            self._seen[fqn].update(rows)

    def _hook(self, fqn: str) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        def note(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self.last = fqn
            x = next((value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)), None)
            if x is None:
                raise MeasurementError(f"{fqn!r} was called without a tensor; allowed: an input of shape (..., K). {self.progress}.")
            self._seen[fqn][math.prod(int(size) for size in x.shape[:-1])] += 1  # x: (..., K); M = numel / K, also where numel is 0

        return note


@contextmanager
def record_linears(module: nn.Module) -> Iterator[LinearRecorder]:
    """Record every Linear call below `module` while the context is open; its recorder's `.table(...)` gives the result.

    The module is in eval mode inside. Every submodule's own training flag is restored and all hooks are removed, whatever happens.
    Contexts nest.

    Raises:
        MeasurementError: The body raised; the cause is chained, and the message says how far it got. Errors of this library pass unchanged.
    """
    recorder = LinearRecorder(module)
    modes = [(child, child.training) for child in module.modules()]
    handles = []
    try:
        for fqn, linear in recorder._linears.items():
            handles.append(linear.register_forward_pre_hook(recorder._hook(fqn), with_kwargs=True))
        module.eval()
        with _eager():
            yield recorder
    except SensitivityError:
        raise
    except Exception as error:
        raise MeasurementError(
            f"The run raised {type(error).__name__} while its Linears were recorded ({error}): {recorder.progress}. "
            "Make the run succeed without the profiler first, then profile it again."
        ) from error
    finally:
        for handle in handles:
            handle.remove()
        for child, training in modes:
            child.training = training


@contextmanager
def _eager() -> Iterator[None]:
    """Ignore torch.compile inside. Where torch._dynamo was never imported nothing can be compiled, and importing it would cost seconds."""
    if "torch._dynamo" not in sys.modules:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def profile_run(
    module: nn.Module,
    run: Callable[[], object],
    *,
    model: str,
    batch_size: int = 1,
    settings: Mapping[str, object] | None = None,
) -> ShapeTable:
    """Call `run()` once without gradients and give the shapes of every Linear of `module` that it called.

    Args:
        module: The denoiser, or any module that `run` exercises.
        run: What to run, a whole pipeline call for example; its result is dropped.
        model: Name for the table.
        batch_size: Samples that `run` makes at once.
        settings: What else determines the shapes; copied into the table.

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
    """Call `module(*args, **kwargs)` once without gradients and give the shapes of its Linears. No configuration is needed.

    `model` defaults to the class name. A forward with an argument called model, batch_size or settings needs `profile_run`.

    Raises:
        MeasurementError: The forward raised; the message says how far it got.
    """
    name = type(module).__name__ if model is None else model
    return profile_run(module, lambda: module(*args, **kwargs), model=name, batch_size=batch_size, settings=settings)
