"""What shapes did a run have?

`ShapeTable` holds one `LinearProfile` for each Linear that a run called. The recorder fills it, and
pricing, searching and auditing read it. Both have a JSON form (`sensitivity profile` writes it).

Conventions.
- `calls` counts one whole run (for a pipeline: all its steps), not one step.
- A Linear whose M varies inside the run keeps every (M, calls) pair; its `m` is the largest.
- `shared_inputs` are groups of Linears that read one tensor (q, k and v): the cost of quantizing
  the input may be paid once for all of them.
- The FQN of a root module that is itself a Linear is "".

    table = run_shapes(resolve_spec("flux1-dev")).table
    table.fqns[0], table.linears[0].m                       # "time_text_embed...linear_1", 1
    ShapeTable.from_json(table.to_json()) == table          # True
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ConfigDict, TypeAdapter, with_config

from sensitivity.core.fqns import block_of, role_of
from sensitivity.core.record_tables import RecordTable
from sensitivity.shapes.census import RunCounts
from sensitivity.shapes.json_form import Amount, Count, Flag, read_record


def _read_m_values(value: object) -> object:
    """(M, calls) pairs of the JSON's {"<m>": calls}, sorted by M."""
    if (
        not isinstance(value, Mapping)
        or not value
        or not all(isinstance(m, str) and m.isascii() and m.isdigit() for m in value)
    ):
        raise ValueError(f'found {value!r:.80}; expected an object {{"<m>": calls}}')
    return sorted((int(m), calls) for m, calls in value.items())


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True, kw_only=True, slots=True)
class LinearProfile:
    """One Linear that was called.

    Attributes:
        fqn: its first name in the profiled module.
        m: rows of its input, all leading axes flattened; the largest, where M varied.
        k: in_features.
        n: out_features.
        calls: calls in the whole run.
        dtype: the weight's dtype as torch prints it, without `torch.`: "bfloat16".
        bias: whether it has a bias.
        block: `block_of(fqn)`.
        role: `role_of(fqn)`.
        m_values: (M, calls) pairs, sorted by M; calls sum to `calls`.
    """

    fqn: str
    m: Amount
    k: Count
    n: Count
    calls: Count
    dtype: str
    bias: Flag
    block: str
    role: str
    m_values: Annotated[tuple[tuple[Amount, Count], ...], BeforeValidator(_read_m_values)]

    @classmethod
    def observed(
        cls, *, fqn: str, k: int, n: int, m_values: Mapping[int, int], dtype: str, bias: bool
    ) -> "LinearProfile":
        """The profile of what was seen; m, calls, block and role follow from it.

        Args:
            fqn: see the class, as for k, n, dtype and bias.
            m_values: {M: calls}, not empty.
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
        """Floating-point operations of the whole run: 2 x K x N x rows, a multiply-add counted as
        two. The bias is not counted.
        """
        return 2 * self.k * self.n * self.rows

    @property
    def parameters(self) -> int:
        """Elements of weight and bias: K x N, + N with a bias."""
        return self.k * self.n + (self.n if self.bias else 0)

    def to_json(self) -> dict[str, Any]:
        """A row of the table's JSON: all fields, "m_values" ({"<m>": calls}) only where M
        varies."""
        row: dict[str, Any] = {
            "fqn": self.fqn,
            "m": self.m,
            "k": self.k,
            "n": self.n,
            "calls": self.calls,
            "dtype": self.dtype,
            "bias": self.bias,
            "block": self.block,
            "role": self.role,
        }
        if len(self.m_values) > 1:
            row["m_values"] = {str(m): calls for m, calls in self.m_values}
        return row


def _with_m_values(row: object) -> object:
    """A row of the JSON with its "m_values", which are left out where M does not vary."""
    if isinstance(row, Mapping) and {"m", "calls"} <= row.keys():
        return {"m_values": {str(row["m"]): row["calls"]}, **row}
    return row


def _checked_row(linear: LinearProfile) -> LinearProfile:
    largest, calls = max(m for m, _ in linear.m_values), sum(x for _, x in linear.m_values)
    if (largest, calls) != (linear.m, linear.calls):
        raise ValueError(
            f"found `m_values` with the largest M {largest} and {calls} calls in all; expected"
            f" those of `m` ({linear.m}) and `calls` ({linear.calls})"
        )
    return linear


_Row = Annotated[LinearProfile, BeforeValidator(_with_m_values), AfterValidator(_checked_row)]


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
        model: the name of what was profiled, for people.
        batch_size: samples (prompts) that the run made at once, as the caller says.
        settings: what else determines the shapes (resolution, steps, ...); values that JSON can
            hold.
        linears: one row a Linear, in `named_modules()` order.
        uncalled: FQNs of Linears that were never called.
        run: what else the whole pipeline run did, where that was counted.
        shared_inputs: groups of two or more Linears that read one tensor.
        components: the components that the Linears belong to, where there are several. FQNs then
            begin with their names.
    """

    model: str
    batch_size: Count
    settings: Mapping[str, object]
    linears: tuple[_Row, ...]
    uncalled: tuple[str, ...]
    run: RunCounts | None = None
    shared_inputs: tuple[tuple[str, ...], ...] = ()
    components: tuple[str, ...] = ()

    @property
    def fqns(self) -> tuple[str, ...]:
        """FQNs of all Linears: those that were called, then those that were not."""
        return (*(linear.fqn for linear in self.linears), *self.uncalled)

    @property
    def by_fqn(self) -> dict[str, LinearProfile]:
        """{FQN: its row} of the Linears that were called."""
        return {linear.fqn: linear for linear in self.linears}

    def mismatch(self, names: Iterable[str]) -> list[str]:
        """The FQNs that are in `names` or in this table but not in both, sorted.

        Empty if `names` are exactly the Linears of the run.
        """
        return sorted(set(self.fqns) ^ set(names))

    @property
    def readers(self) -> dict[str, int]:
        """{FQN: how many Linears read its input, itself included}. A Linear that is the only reader
        is left out.
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
            group = ShapeGroup(
                m=m,
                k=k,
                n=n,
                linears=len(rows),
                calls=calls,
                flops=flops,
                share=flops / total_flops if total_flops else 0.0,
                roles=tuple(dict.fromkeys(role for role, _ in rows)),
            )
            groups.append(group)
        return tuple(sorted(groups, key=lambda group: (-group.flops, group.m, group.k, group.n)))

    def __repr__(self) -> str:
        return f"ShapeTable({self._words})"

    @property
    def _words(self) -> str:
        uncalled = f", {len(self.uncalled)} never called" if self.uncalled else ""
        return (
            f"{self.model}: {len(self.linears)} Linears of {len(self.by_shape())} shapes{uncalled},"
            f" batch {self.batch_size}"
        )

    def _repr_html_(self) -> str:
        rows = [
            (own.m, own.k, own.n, own.linears, own.calls, f"{own.share:.1%}", ", ".join(own.roles))
            for own in self.by_shape()
        ]
        columns = ("M", "K", "N", "Linears", "calls", "FLOPs", "roles")
        return RecordTable(title=self._words, columns=columns, rows=tuple(rows)).to_html()

    def to_pandas(self) -> Any:
        """A pandas DataFrame with a row for each Linear that was called: its shape, calls and
        FLOPs of the whole run, block and role.

        Raises:
            UserError: pandas is not installed.
        """
        columns = ("fqn", "m", "k", "n", "calls", "flops", "dtype", "bias", "block", "role")
        rows = (tuple(getattr(own, name) for name in columns) for own in self.linears)
        return RecordTable(columns=columns, rows=tuple(rows)).to_pandas()

    def to_json(self) -> dict[str, Any]:
        """The JSON object that `sensitivity profile` writes.

        "shared_inputs", "components" and "run" are there only where the table has them.
        """
        data: dict[str, Any] = {
            "model": self.model,
            "batch_size": self.batch_size,
            "settings": dict(self.settings),
            "linears": [linear.to_json() for linear in self.linears],
            "uncalled": list(self.uncalled),
        }
        if self.shared_inputs:
            data["shared_inputs"] = [list(group) for group in self.shared_inputs]
        if self.components:
            data["components"] = list(self.components)
        if self.run is not None:
            data["run"] = self.run.to_json()
        return data

    @classmethod
    def from_json(cls, data: object) -> "ShapeTable":
        """Read what `to_json` gave. Unknown keys of the table are ignored, since results are
        stamped; unknown keys of its rows are not.

        Raises:
            UserError: a key is missing or unknown, a value has the wrong type or range, or an FQN
                is listed twice.
        """
        return read_record(_TABLE, data, "shape table")


def _checked_table(table: ShapeTable) -> ShapeTable:
    twice = [fqn for fqn, count in Counter(table.fqns).items() if count > 1]
    if twice:
        raise ValueError(
            f"found the FQN {twice[0]!r} twice; expected one entry for each Linear, in `linears` or"
            " in `uncalled`"
        )
    known = {linear.fqn for linear in table.linears}
    strange = [fqn for group in table.shared_inputs for fqn in group if fqn not in known]
    if strange:
        raise ValueError(f"found {strange[0]!r} in `shared_inputs`; expected FQNs of `linears`")
    return table


_TABLE: TypeAdapter[ShapeTable] = TypeAdapter(Annotated[ShapeTable, AfterValidator(_checked_table)])
