"""What were the Linear shapes of a model measured to take on a GPU, in bf16 and quantized?

Records, and the latency model that reads them.

`measure.py` makes the rows, `store.py` keeps them; here they become prices.

Conventions. Microseconds a call. A row has its raw repetitions or a reason (refused by the format,
out of memory, did not compile); its price is derived. A row's key names the shape and the format;
machine, versions and compile mode are those of the whole `ShapeTimes`. What is not a Linear comes
from another model (`rest`), and `covers` says that it is predicted; an attention of the table's
census that was measured takes the place of its prediction. Linears outside the compiled blocks run
eagerly, and are measured so.

What it does not do: guess. A shape that was not measured, or failed, raises MeasurementError when
it is priced, and costs nothing while it is not.

    times = measure_shapes(shapes_of(table, (FormatName.FP8,)), device="cuda", cache=SharedShapeTimes(default_shape_times_path()))
    model = TableLatency(times, target="h100", rest=latency_model(spec, "h100"))
    model.estimate(table, formats).speedup
"""

import dataclasses
import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sensitivity.core.format_name import CompileMode, FormatName
from sensitivity.errors import MeasurementError, UserError
from sensitivity.formats.registry import get_format
from sensitivity.latency._base import LatencyModel
from sensitivity.shapes.census import AttentionShape, RunCounts
from sensitivity.shapes.table import ShapeTable


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class LinearShape:
    """One Linear in one format:

    M rows of input, K in_features, N out_features; eager where it stands outside the compiled
    blocks; sibling where it is one more Linear on an input that another has quantized.
    """

    m: int
    k: int
    n: int
    bias: bool
    format: FormatName
    eager: bool = False
    sibling: bool = False

    def __str__(self) -> str:
        """The key that it is stored under."""
        how = "eager-linear" if self.eager else "sibling-linear" if self.sibling else "linear"
        return f"{how} m={self.m} k={self.k} n={self.n} bias={int(self.bias)} {self.format.value}"

    @property
    def call_bytes(self) -> int:
        """Bytes that one call reads and writes: input and output in bf16, weight as stored."""
        return 2 * self.m * (self.k + self.n) + get_format(self.format).weight_bytes(
            k=self.k, n=self.n
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

    Attributes:
        key: `str(LinearShape)` or `attention_key`.
        us: raw repetitions under steady load; empty where the row failed. Of a compiled Linear:
            less the median of its producer; of a sibling: less that of the first.
        rested_us: the same on a rested GPU.
        producer_us: raw repetitions of the elementwise producer alone under steady load, where one
            stood before the Linear.
        reason: why it failed, None where it did not.
        copies: sets of inputs and weights that were rotated through.
        reused: read from the cache instead of measured now.
    """

    key: str
    us: tuple[float, ...] = ()
    rested_us: tuple[float, ...] = ()
    producer_us: tuple[float, ...] = ()
    reason: str | None = None
    copies: int = 0
    reused: bool = False

    @property
    def price_us(self) -> float:
        """The geometric mean of the medians under steady load and rested: the clock of a real run
        lies between.

        Raises:
            MeasurementError: The row has no times; the message says why.
        """
        if not self.us:
            raise MeasurementError(
                f"{self.key} has no time ({self.reason}); allowed are measured shapes: leave it in"
                " bf16, or measure it again"
            )
        steady_us = statistics.median(self.us)
        return (
            math.sqrt(steady_us * statistics.median(self.rested_us))
            if self.rested_us and min(*self.us, *self.rested_us) > 0
            else steady_us
        )

    def to_json(self) -> dict[str, Any]:
        """What the store keeps, and what `--json` shows."""
        return {
            "key": self.key,
            "us": list(self.us),
            "rested_us": list(self.rested_us),
            "producer_us": list(self.producer_us),
            "reason": self.reason,
            "copies": self.copies,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], *, reused: bool = False) -> "ShapeTime":
        """Read what `to_json` gave."""
        producer_us = tuple(data["producer_us"])
        return cls(
            key=data["key"],
            us=tuple(data["us"]),
            producer_us=producer_us,
            reason=data["reason"],
            copies=data["copies"],
            reused=reused,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ShapeTimes:
    """Rows of one machine and compile mode, by key."""

    machine: Mapping[str, str]
    compile_mode: CompileMode
    rows: Mapping[str, ShapeTime]

    @property
    def failed(self) -> dict[str, str]:
        """{key: reason} of rows without times."""
        return {key: row.reason for key, row in self.rows.items() if row.reason is not None}

    def to_json(self) -> dict[str, Any]:
        """Machine, compile mode and every row with its raw repetitions."""
        return {
            "machine": dict(self.machine),
            "compile_mode": self.compile_mode,
            "rows": [row.to_json() for row in self.rows.values()],
        }


class ShapeTimeCache(Protocol):
    """Where finished rows are kept (`store.Store`, `store.SharedShapeTimes`).

    Saving a key again replaces it.
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


def shapes_of(table: ShapeTable, formats: Sequence[FormatName]) -> tuple[LinearShape, ...]:
    """Every unique shape of a table (each M of a Linear whose M varies) in bf16 and `formats`, most
    arithmetic first.

    Linears outside blocks are eager ones; those that share an input are measured as siblings as
    well.
    """
    readers = table.readers
    unique = {
        (
            m,
            linear.k,
            linear.n,
            linear.bias,
            not linear.block,
            bool(linear.block) and linear.fqn in readers,
        )
        for linear in table.linears
        for m, _ in linear.m_values
        if m
    }
    ordered = sorted(unique, key=lambda s: (-s[0] * s[1] * s[2], s))
    wanted = tuple(dict.fromkeys((FormatName.BF16, *formats)))
    shapes = []
    for m, k, n, bias, eager, shared in ordered:
        for name in wanted:
            shape = LinearShape(m=m, k=k, n=n, bias=bias, format=name, eager=eager)
            shapes += (
                [shape, dataclasses.replace(shape, sibling=True)]
                if shared and name is not FormatName.BF16
                else [shape]
            )
    return tuple(dict.fromkeys(shapes))


def attentions_of(
    table: ShapeTable, *, components: Collection[str] | None = None
) -> tuple[AttentionShape, ...]:
    """The attentions of a table's census, of some components or of all, each shape once for a
    component; none where the table has no census.
    """
    counted = table.run.components if table.run is not None else ()
    return tuple(
        shape
        for counts in counted
        if components is None or counts.component in components
        for shape in counts.attention
    )


def parse_linear(key: str) -> LinearShape | None:
    """The shape of a Linear's key; None for another."""
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


class TableLatency(LatencyModel):
    """Prices Linears, and attention where it was measured, by what they took, and the rest of the
    run by another model.

    Args:
        times: measured rows.
        target: the GPU's name, as `--target` has it.
        rest: prices what was not measured.
    """

    source = "measured"

    def __init__(self, times: ShapeTimes, *, target: str, rest: LatencyModel) -> None:
        """See the class."""
        self.times, self.target, self.compile_mode, self._rest = (
            times,
            target,
            times.compile_mode,
            rest,
        )
        what = (
            "Linears and attention"
            if any(parse_linear(key) is None and row.us for key, row in times.rows.items())
            else "Linears"
        )
        self.covers = (
            f"{what} measured one by one on {times.machine['device']}, the rest predicted"
            f" ({rest.covers})"
        )
        self._us: dict[tuple[int, int, int, FormatName, str], ShapeTime] = {}
        for key, row in sorted(
            times.rows.items()
        ):  # bias=1 after bias=0: where both were measured, the Linear with a bias is meant
            shape = parse_linear(key)
            if shape is not None:
                self._us[shape.m, shape.k, shape.n, shape.format, _kind(shape)] = row

    def linear_us(self, *, m: int, k: int, n: int, format: FormatName) -> float:
        """Give the measured microseconds of a compiled Linear; 0 where m is 0.

        Raises:
            MeasurementError: The shape was not measured, or its measurement failed; the message
                names it.
        """
        return self._row_us(m, k, n, format, "compiled")

    def eager_us(self, *, m: int, k: int, n: int, format: FormatName) -> float:
        """Give the same of a Linear outside the compiled blocks. Raises as `linear_us`."""
        return self._row_us(m, k, n, format, "eager")

    def sibling_us(self, *, m: int, k: int, n: int, format: FormatName) -> float:
        """Give the same of one more Linear on a quantized input, or the full price where that was
        not measured. Raises as `linear_us`.
        """
        first_us, row = (
            self.linear_us(m=m, k=k, n=n, format=format),
            self._us.get((m, k, n, format, "sibling")),
        )
        return min(first_us, row.price_us) if row is not None and row.us else first_us

    def _row_us(self, m: int, k: int, n: int, format: FormatName, kind: str) -> float:
        if m == 0:
            return 0.0
        row = self._us.get((m, k, n, format, kind))
        if row is None:
            raise MeasurementError(
                f"M={m} K={k} N={n} in {format.value}{' (eager)' if kind == 'eager' else ''} was"
                f" not measured on {self.times.machine['device']}; {len(self._us)} shapes were:"
                " measure this one too (`measure_shapes`), or price with the predicted model"
            )
        return row.price_us

    def divide_anchor(
        self, bf16_seconds: float, linears_s: float, rest_s: float
    ) -> tuple[float, float]:
        """Give (factor on the Linears, seconds of the rest): all alike, since what the parts miss
        is the clock that the run has.

        Raises:
            UserError: The total differs from the table's by more than a factor of 2.
        """
        factor = bf16_seconds / (linears_s + rest_s)
        if not 0.5 <= factor <= 2:
            raise UserError(
                f"The measured bf16 run takes {bf16_seconds:.4g} s; allowed is within a factor of 2"
                f" of the {linears_s + rest_s:.4g} s that its parts take. Give the seconds of the"
                " whole run that was profiled (all steps, same batch size and GPU), or leave"
                " --bf16-seconds out."
            )
        return factor, rest_s * factor

    def rest_s(self, table: ShapeTable) -> float:
        """Give the seconds of what is no Linear: measured attentions, and what the other model
        predicts for all else.
        """
        if table.run is None:
            return self._rest.rest_s(table)
        measured_us, others = 0.0, []
        for counts in table.run.components:
            rows = {shape: self.times.rows.get(attention_key(shape)) for shape in counts.attention}
            found = {shape: row for shape, row in rows.items() if row is not None and row.us}
            measured_us += sum(shape.calls * row.price_us for shape, row in found.items())
            others.append(
                counts.model_copy(
                    update={
                        "attention": tuple(
                            shape for shape in counts.attention if shape not in found
                        )
                    }
                )
            )
        return measured_us / 1e6 + self._rest.rest_s(
            dataclasses.replace(table, run=RunCounts(components=tuple(others)))
        )


def _kind(shape: LinearShape) -> str:
    return "eager" if shape.eager else "sibling" if shape.sibling else "compiled"
