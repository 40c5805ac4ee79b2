"""What shapes did a run have?

The records that the profiler fills and everything else reads: `LinearProfile`, `ShapeTable`, and
their JSON.

Conventions.
- `calls` counts one whole run (for a pipeline: all its steps), not one step.
- A Linear whose M varies inside the run keeps every (M, calls) pair; its `m` is the largest.
- `shared_inputs` are groups of Linears that read one tensor (q, k and v): what quantizing the input
  costs may be paid once for all of them.
- The FQN of a root module that is itself a Linear is "".
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sensitivity.core.fqns import block_of, role_of
from sensitivity.errors import UserError
from sensitivity.shapes.census import RunCounts

_TABLE_KEYS = ("model", "batch_size", "settings", "linears", "uncalled")
_ROW_TYPES: Mapping[str, type] = {
    "fqn": str,
    "m": int,
    "k": int,
    "n": int,
    "calls": int,
    "dtype": str,
    "bias": bool,
    "block": str,
    "role": str,
}


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
    def observed(
        cls, *, fqn: str, k: int, n: int, m_values: Mapping[int, int], dtype: str, bias: bool
    ) -> "LinearProfile":
        """Build a row from what was seen (`m_values`:

        M -> calls, not empty); m, calls, block and role follow from it.
        """
        pairs = tuple(sorted(m_values.items()))
        return cls(
            fqn=fqn,
            m=pairs[-1][0],
            k=k,
            n=n,
            calls=sum(m_values.values()),
            dtype=dtype,
            bias=bias,
            block=block_of(fqn),
            role=role_of(fqn),
            m_values=pairs,
        )

    @property
    def rows(self) -> int:
        """Rows of input over the whole run: the sum of M x calls."""
        return sum(m * calls for m, calls in self.m_values)

    @property
    def flops(self) -> int:
        """Floating-point operations of the whole run, a multiply-add counted as two: 2 x K x N x
        rows. The bias is not counted.
        """
        return 2 * self.k * self.n * self.rows

    @property
    def parameters(self) -> int:
        """Elements of weight and bias: K x N, + N with a bias."""
        return self.k * self.n + (self.n if self.bias else 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class ShapeGroup:
    """All calls with one shape (M, K, N): a row of the screen table.

    `share` is this shape's part of all FLOPs, from 0 to 1.
    """

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
        settings: What else determines the shapes (resolution, steps, ...); values that JSON can
            hold.
        linears: One row a Linear, in `named_modules()` order.
        uncalled: FQNs of Linears that were never called.
        run: What else the whole pipeline run did, where that was counted.
        shared_inputs: Groups of two or more Linears that read one tensor.
        components: Components whose Linears these are, where they are of several; FQNs begin with
            their names then.
    """

    model: str
    batch_size: int
    settings: Mapping[str, object]
    linears: tuple[LinearProfile, ...]
    uncalled: tuple[str, ...]
    run: RunCounts | None = None
    shared_inputs: tuple[tuple[str, ...], ...] = ()
    components: tuple[str, ...] = ()

    @property
    def readers(self) -> dict[str, int]:
        """{FQN: how many Linears read its input, itself included}; Linears that read alone are left
        out.
        """
        return {fqn: len(group) for group in self.shared_inputs for fqn in group}

    @property
    def flops(self) -> int:
        """Floating-point operations of all Linears in the whole run."""
        return sum(linear.flops for linear in self.linears)

    def by_shape(self) -> tuple[ShapeGroup, ...]:
        """Group the calls by (M, K, N), most FLOPs first.

        A Linear whose M varies stands in one group for each M.
        """
        members: dict[tuple[int, int, int], list[tuple[str, int]]] = {}
        for linear in self.linears:
            for m, calls in linear.m_values:
                members.setdefault((m, linear.k, linear.n), []).append((linear.role, calls))
        total_flops = self.flops
        groups = []
        for (m, k, n), rows in members.items():
            calls = sum(row_calls for _, row_calls in rows)
            flops = 2 * m * k * n * calls
            share, roles = (
                flops / total_flops if total_flops else 0.0,
                tuple(dict.fromkeys(role for role, _ in rows)),
            )
            groups.append(
                ShapeGroup(
                    m=m,
                    k=k,
                    n=n,
                    linears=len(rows),
                    calls=calls,
                    flops=flops,
                    share=share,
                    roles=roles,
                )
            )
        return tuple(sorted(groups, key=lambda group: (-group.flops, group.m, group.k, group.n)))

    def to_json(self) -> dict[str, Any]:
        """Give the `profile --json` object; "m_values" ({"<m>": calls}) stands only in rows whose M
        varies, "run" only where it was counted, "shared_inputs" and "components" only where
        there are any.
        """
        return (
            {
                "model": self.model,
                "batch_size": self.batch_size,
                "settings": dict(self.settings),
                "linears": [_row_to_json(linear) for linear in self.linears],
                "uncalled": list(self.uncalled),
            }
            | (
                {"shared_inputs": [list(group) for group in self.shared_inputs]}
                if self.shared_inputs
                else {}
            )
            | ({"components": list(self.components)} if self.components else {})
            | ({} if self.run is None else {"run": self.run.to_json()})
        )

    @classmethod
    def from_json(cls, data: object) -> "ShapeTable":
        """Read what `to_json` gave.

        Further keys beside the table's own are allowed (results are stamped), in its rows they are
        not.

        Raises:
            UserError: A key is missing or unknown, a value has the wrong type or range, or an FQN
                stands twice.
        """
        table = _expect(data, dict, "the table")
        model = _expect(_take(table, "model", "the table"), str, "'model'")
        batch_size = _positive(_take(table, "batch_size", "the table"), "'batch_size'")
        settings = _expect(_take(table, "settings", "the table"), dict, "'settings'")
        rows = _expect(_take(table, "linears", "the table"), list, "'linears'")
        linears = tuple(_row_from_json(row, f"'linears'[{i}]") for i, row in enumerate(rows))
        names = _expect(_take(table, "uncalled", "the table"), list, "'uncalled'")
        uncalled = tuple(_expect(name, str, "an entry of 'uncalled'") for name in names)
        twice = [
            fqn
            for fqn, count in Counter([linear.fqn for linear in linears] + list(uncalled)).items()
            if count > 1
        ]
        if twice:
            raise _malformed(
                f"the FQN {twice[0]!r} stands twice",
                "one entry for each Linear, in 'linears' or in 'uncalled'",
            )
        run = None if table.get("run") is None else RunCounts.from_json(table["run"])
        groups = _expect(table.get("shared_inputs", []), list, "'shared_inputs'")
        known = {linear.fqn for linear in linears}
        for group in groups:
            if not all(fqn in known for fqn in _expect(group, list, "an entry of 'shared_inputs'")):
                raise _malformed(
                    f"{group!r:.80} of 'shared_inputs' names a Linear that is not in 'linears'",
                    "FQNs of 'linears'",
                )
        shared = tuple(tuple(group) for group in groups)
        components = tuple(
            _expect(name, str, "an entry of 'components'")
            for name in _expect(table.get("components", []), list, "'components'")
        )
        return cls(
            model=model,
            batch_size=batch_size,
            settings=settings,
            linears=linears,
            uncalled=uncalled,
            run=run,
            shared_inputs=shared,
            components=components,
        )


def _row_to_json(linear: LinearProfile) -> dict[str, Any]:
    row: dict[str, Any] = {key: getattr(linear, key) for key in _ROW_TYPES}
    if len(linear.m_values) > 1:
        row["m_values"] = {str(m): calls for m, calls in linear.m_values}
    return row


def _row_from_json(data: object, where: str) -> LinearProfile:
    row = _expect(data, dict, where)
    unknown = sorted(set(row) - set(_ROW_TYPES) - {"m_values"})
    if unknown:
        raise _malformed(
            f"{where} has the key {unknown[0]!r}", f"only {', '.join(_ROW_TYPES)} and m_values"
        )
    values = {
        key: _expect(_take(row, key, where), kind, f"{key!r} of {where}")
        for key, kind in _ROW_TYPES.items()
    }
    for key in ("k", "n", "calls"):
        _positive(values[key], f"{key!r} of {where}")
    if values["m"] < 0:
        raise _malformed(f"'m' of {where} is {values['m']}", "a number from 0 up")
    given = _expect(
        row.get("m_values", {str(values["m"]): values["calls"]}), dict, f"'m_values' of {where}"
    )
    if not given or not all(isinstance(m, str) and m.isascii() and m.isdigit() for m in given):
        raise _malformed(f"'m_values' of {where} is {given!r}", 'an object {"<m>": calls}')
    m_values = {int(m): _positive(calls, f"'m_values' of {where}") for m, calls in given.items()}
    if max(m_values) != values["m"] or sum(m_values.values()) != values["calls"]:
        allowed = f"'m' ({values['m']}) as the largest M and calls that sum to {values['calls']}"
        raise _malformed(f"'m_values' of {where} is {given!r}", allowed)
    return LinearProfile(**values, m_values=tuple(sorted(m_values.items())))


def _malformed(found: str, allowed: str) -> UserError:
    return UserError(
        f"Malformed shape table: {found}; allowed: {allowed}. Write it anew with `sensitivity"
        " profile --json`."
    )


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
