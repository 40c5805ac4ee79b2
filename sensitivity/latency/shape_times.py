"""Which Linear shapes are measured on a GPU, and what did they take? The records.

`LinearShape` names one Linear in one format, `ShapeTime` has its times, `ShapeTimes` those of one
machine. `shapes_of` and `attentions_of` list what a table needs. `timing.shape_timing` measures
the rows, a `ShapeTimeCache` keeps them, and `measured` prices with them.

Conventions. Microseconds a call. A row has its raw repetitions, or the reason why there are none
(the format refuses the shape, out of memory, it did not compile); its price is derived. A row's key
names the shape and the format. Machine, versions and compile mode are those of all rows of a
`ShapeTimes`.

    row = ShapeTime(key=str(shape), us=(12.1, 12.0), rested_us=(11.0, 11.2), copies=4)
    ShapeTime.from_json(row.to_json()) == row
"""

import dataclasses
import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypedDict

from pydantic import TypeAdapter, ValidationError

from sensitivity.core.format_name import CompileMode, FormatName
from sensitivity.errors import MeasurementError, StoreError
from sensitivity.formats.registry import get_format
from sensitivity.latency.runtimes import DEFAULT, Runtime, get_runtime
from sensitivity.shapes.census import AttentionShape
from sensitivity.shapes.table import ShapeTable


class SizesAndBias(TypedDict):
    """What a kernel sees of a Linear besides its format."""

    m: int
    k: int
    n: int
    bias: bool


PROBING = "probing "
"""Stands before the key of a shape that is probed, where progress is told (`shape_timing`)."""


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class LinearShape:
    """One Linear in one format.

    Attributes:
        m: Rows of the input.
        k: in_features.
        n: out_features.
        bias: Whether it has a bias.
        format: The format of weight and input.
        eager: Whether it stands outside the compiled blocks.
        sibling: Whether it is one more Linear on an input that another has quantized.
    """

    m: int
    k: int
    n: int
    bias: bool
    format: FormatName
    eager: bool = False
    sibling: bool = False

    @property
    def sizes(self) -> SizesAndBias:
        """M, K, N and bias, by name."""
        return {"m": self.m, "k": self.k, "n": self.n, "bias": self.bias}

    @property
    def kind(self) -> str:
        """One of "eager", "sibling" and "compiled"."""
        return "eager" if self.eager else "sibling" if self.sibling else "compiled"

    def __str__(self) -> str:
        """The key that its times are stored under."""
        how = "linear" if self.kind == "compiled" else f"{self.kind}-linear"
        return f"{how} m={self.m} k={self.k} n={self.n} bias={int(self.bias)} {self.format.value}"

    @property
    def call_bytes(self) -> int:
        """Bytes that one call reads and writes: input and output in bf16, weight as stored."""
        return 2 * self.m * (self.k + self.n) + get_format(self.format).weight_bytes(
            k=self.k, n=self.n
        )


def parse_linear(key: str) -> LinearShape | None:
    """The shape that a Linear's key names; None for the key of something else."""
    kind, *fields, name = key.split()
    if kind not in ("linear", "eager-linear", "sibling-linear"):
        return None
    values = dict(part.split("=") for part in fields)
    m, k, n = (int(values[axis]) for axis in "mkn")
    return LinearShape(
        m=m,
        k=k,
        n=n,
        bias=values["bias"] == "1",
        format=FormatName(name),
        eager=kind == "eager-linear",
        sibling=kind == "sibling-linear",
    )


def attention_key(shape: AttentionShape) -> str:
    """The key that an attention's times are stored under."""
    return (
        f"attention batch={shape.batch} heads={shape.heads} q={shape.q_len} kv={shape.kv_len}"
        f" dim={shape.head_dim}"
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class ShapeTime:
    """One row: the microseconds a call of every repetition, or why there are none.

    A compiled Linear is timed behind an elementwise producer, whose median is subtracted; a sibling
    is timed with a first Linear, whose median is subtracted.

    Attributes:
        key: `str(LinearShape)` or `attention_key`.
        us: Raw repetitions under steady load; () if the row failed.
        rested_us: Raw repetitions on a rested GPU.
        producer_us: Raw repetitions of the producer alone under steady load; () without one.
        reason: Why it failed; None if it did not.
        copies: Sets of inputs and weights that were rotated through.
    """

    key: str
    us: tuple[float, ...] = ()
    rested_us: tuple[float, ...] = ()
    producer_us: tuple[float, ...] = ()
    reason: str | None = None
    copies: int = 0

    @property
    def steady_us(self) -> float:
        """The steady median: what a call takes in a run, where the GPU is at its power limit.

        Runs are priced by it. The speedups of runs on an H200 and an H100 (FLUX.1-dev, Z-Image, SD
        3.5 Large and Qwen-Image, FP8) are 1 to 5 % too low by `price_us`, and within 4 % by this.

        Raises:
            MeasurementError: The row has no times; the message says why.
        """
        if not self.us:
            raise MeasurementError(
                f"{self.key} has no time ({self.reason}); expected a shape that was measured."
                " Leave it in bf16, or measure it again."
            )
        return statistics.median(self.us)

    @property
    def price_us(self) -> float:
        """The geometric mean of the steady and the rested median, which constants are fitted to.

        If one of them is missing or not above 0, it is the steady median alone. Raises as
        `steady_us`.
        """
        steady_us = self.steady_us
        if self.rested_us and min(*self.us, *self.rested_us) > 0:
            return math.sqrt(steady_us * statistics.median(self.rested_us))
        return steady_us

    def to_json(self) -> dict[str, Any]:
        """The row that the store keeps and that results show."""
        row: dict[str, Any] = _ROW.dump_python(self, mode="json")
        return row

    @classmethod
    def from_json(cls, data: object) -> "ShapeTime":
        """Read what `to_json` gave.

        Raises:
            StoreError: A key is missing, or a value has the wrong type.
        """
        try:
            return _ROW.validate_python(data)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"])) or "the row"
            raise StoreError(
                f"A stored time is malformed: {where}: {first['msg']}; expected what an earlier"
                " measurement wrote: measure again into another database."
            ) from None


_ROW = TypeAdapter(ShapeTime)


@dataclass(frozen=True, kw_only=True, slots=True)
class ShapeTimes:
    """The rows of one machine and compile mode.

    Attributes:
        machine: GPU, driver, versions and method.
        compile_mode: How the priced run is compiled.
        rows: {key: row}.
        reused: Keys of the rows that were read from a cache instead of measured now.
    """

    machine: Mapping[str, str]
    compile_mode: CompileMode
    rows: Mapping[str, ShapeTime]
    reused: frozenset[str] = frozenset()

    @property
    def failed(self) -> dict[str, str]:
        """{key: reason} of rows without times."""
        return {key: row.reason for key, row in self.rows.items() if row.reason is not None}

    def to_json(self) -> dict[str, Any]:
        """Machine, compile mode, and every row with its raw repetitions."""
        return {
            "machine": dict(self.machine),
            "compile_mode": self.compile_mode,
            "rows": [row.to_json() for row in self.rows.values()],
        }


class ShapeTimeCache(Protocol):
    """Where finished rows are kept (`Store` and `SharedShapeTimes` in `search.store`).

    Saving a key again replaces its row.
    """

    def find_shape_times(
        self, machine: Mapping[str, str], compile_mode: str
    ) -> dict[str, dict[str, Any]]:
        """{key: row} of one machine and compile mode."""
        ...

    def save_shape_time(
        self, machine: Mapping[str, str], compile_mode: str, key: str, row: Mapping[str, Any]
    ) -> None:
        """Keep one row for good."""
        ...


def shapes_of(
    table: ShapeTable, formats: Sequence[FormatName], runtime: Runtime | None = None
) -> tuple[LinearShape, ...]:
    """Every unique shape of a table in bf16 and in `formats`, most arithmetic first.

    A Linear whose M varies gives one shape for each M. Linears that `runtime` does not compile give
    eager shapes; where None is given, those outside blocks. Compiled Linears that share an input
    give sibling shapes as well.
    """
    readers, how = table.readers, runtime or get_runtime(DEFAULT)
    unique = {
        (
            m,
            linear.k,
            linear.n,
            linear.bias,
            not how.has_compiled_kernels(linear.block),
            how.has_compiled_kernels(linear.block) and linear.fqn in readers,
        )
        for linear in table.linears
        for m, _ in linear.m_values
        if m
    }
    ordered = sorted(unique, key=lambda s: (-s[0] * s[1] * s[2], s))
    wanted = tuple(dict.fromkeys((FormatName.BF16, *formats)))
    shapes: dict[LinearShape, None] = {}
    for m, k, n, bias, eager, shared in ordered:
        for name in wanted:
            shape = LinearShape(m=m, k=k, n=n, bias=bias, format=name, eager=eager)
            shapes[shape] = None
            if shared and name.is_quantized:
                shapes[dataclasses.replace(shape, sibling=True)] = None
    return tuple(shapes)


def attentions_of(
    table: ShapeTable, *, components: Collection[str] | None = None
) -> tuple[AttentionShape, ...]:
    """The attentions that were counted in a run, of some components or of all.

    Each shape stands once for a component. () if the table has no counts.
    """
    counted = table.run.components if table.run is not None else ()
    return tuple(
        shape
        for counts in counted
        if components is None or counts.component in components
        for shape in counts.attention
    )
