"""What were the Linear shapes of a model measured to take on a GPU, in bf16 and quantized? Records, and the latency model that reads them.

`measure.py` makes the rows, `store.py` keeps them; here they become prices.

Conventions. Microseconds a call. A row has its raw repetitions or a reason (refused by the format, out of memory, did not compile); the median is derived.
A row's key names the shape and the format; machine, versions and compile mode are those of the whole `ShapeTimes`. What is not a Linear comes from another
model (`rest`), and `covers` says that it is predicted; an attention of the table's census that was measured takes the place of its prediction. Linears outside
the compiled blocks run eagerly, and are measured so.

What it does not do: guess. A shape that was not measured, or failed, raises MeasurementError when it is priced, and costs nothing while it is not.

    times = measure_shapes(shapes_of(table, (FormatName.FP8,)), device="cuda", cache=SharedShapeTimes(default_shape_times_path()))
    model = TableLatency(times, target="h100", rest=latency_model(spec, "h100"))
    model.estimate(table, formats).speedup
"""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sensitivity.census import AttentionShape, RunCounts
from sensitivity.errors import MeasurementError
from sensitivity.formats import get_format
from sensitivity.latency._base import CompileMode, LatencyModel
from sensitivity.profiler import ShapeTable
from sensitivity.spec import FormatName


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class LinearShape:
    """One Linear in one format: M rows of input, K in_features, N out_features; eager where it stands outside the compiled blocks."""

    m: int
    k: int
    n: int
    bias: bool
    format: FormatName
    eager: bool = False

    def __str__(self) -> str:
        """The key that it is stored under."""
        how = "eager-linear" if self.eager else "linear"
        return f"{how} m={self.m} k={self.k} n={self.n} bias={int(self.bias)} {self.format.value}"

    @property
    def call_bytes(self) -> int:
        """Bytes that one call reads and writes: input and output in bf16, weight as stored."""
        return 2 * self.m * (self.k + self.n) + get_format(self.format).weight_bytes(k=self.k, n=self.n)


def attention_key(shape: AttentionShape) -> str:
    """The key that an attention's times are stored under."""
    return f"attention batch={shape.batch} heads={shape.heads} q={shape.q_len} kv={shape.kv_len} dim={shape.head_dim}"


@dataclass(frozen=True, kw_only=True, slots=True)
class ShapeTime:
    """One row: the microseconds a call of every repetition, or why there are none.

    Attributes:
        key: `str(LinearShape)` or `attention_key`.
        us: raw repetitions; empty where the row failed.
        reason: why it failed, None where it did not.
        copies: sets of inputs and weights that were rotated through.
        reused: read from the cache instead of measured now.
    """

    key: str
    us: tuple[float, ...] = ()
    reason: str | None = None
    copies: int = 0
    reused: bool = False

    @property
    def median_us(self) -> float:
        """The median repetition. Raises MeasurementError, with the reason, for a row that has none."""
        if not self.us:
            raise MeasurementError(
                f"{self.key} has no time ({self.reason}); allowed are measured shapes: leave it in bf16, or measure it again"
            )
        return statistics.median(self.us)

    def to_json(self) -> dict[str, Any]:
        """What the store keeps, and what `--json` shows."""
        return {"key": self.key, "us": list(self.us), "reason": self.reason, "copies": self.copies}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], *, reused: bool = False) -> "ShapeTime":
        """Read what `to_json` gave."""
        return cls(key=data["key"], us=tuple(data["us"]), reason=data["reason"], copies=data["copies"], reused=reused)


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
        return {"machine": dict(self.machine), "compile_mode": self.compile_mode, "rows": [row.to_json() for row in self.rows.values()]}


class ShapeTimeCache(Protocol):
    """Where finished rows are kept (`store.Store`, `store.SharedShapeTimes`). Saving a key again replaces it."""

    def find_shape_times(self, machine: Mapping[str, str], compile_mode: str) -> dict[str, dict[str, Any]]:
        """{key: row} of one machine and compile mode."""
        ...

    def save_shape_time(self, machine: Mapping[str, str], compile_mode: str, key: str, row: Mapping[str, Any]) -> None:
        """Keep one row for good."""
        ...


def shapes_of(table: ShapeTable, formats: Sequence[FormatName]) -> tuple[LinearShape, ...]:
    """Every unique shape of a table (each M of a Linear whose M varies) in bf16 and `formats`, most arithmetic first; outside blocks: eager ones."""
    unique = {(m, linear.k, linear.n, linear.bias, not linear.block) for linear in table.linears for m, _ in linear.m_values if m}
    ordered = sorted(unique, key=lambda s: (-s[0] * s[1] * s[2], s))
    wanted = tuple(dict.fromkeys((FormatName.BF16, *formats)))
    return tuple(LinearShape(m=m, k=k, n=n, bias=bias, format=name, eager=eager) for m, k, n, bias, eager in ordered for name in wanted)


def attentions_of(table: ShapeTable, *, component: str | None = None) -> tuple[AttentionShape, ...]:
    """The attentions of a table's census, of one component or of all; none where the table has no census."""
    components = table.run.components if table.run is not None else ()
    return tuple(shape for counts in components if component in (None, counts.component) for shape in counts.attention)


def parse_linear(key: str) -> LinearShape | None:
    """The shape of a Linear's key; None for an attention's."""
    kind, *fields, name = key.split()
    if kind not in ("linear", "eager-linear"):
        return None
    values = dict(part.split("=") for part in fields)
    m, k, n = (int(values[axis]) for axis in "mkn")
    return LinearShape(m=m, k=k, n=n, bias=values["bias"] == "1", format=FormatName(name), eager=kind != "linear")


class TableLatency(LatencyModel):
    """Prices Linears, and attention where it was measured, by what they took, and the rest of the run by another model.

    Args:
        times: measured rows.
        target: the GPU's name, as `--target` has it.
        rest: prices what was not measured.
    """

    source = "measured"

    def __init__(self, times: ShapeTimes, *, target: str, rest: LatencyModel) -> None:
        """See the class."""
        self.times, self.target, self.compile_mode, self._rest = times, target, times.compile_mode, rest
        what = "Linears and attention" if any(parse_linear(key) is None and row.us for key, row in times.rows.items()) else "Linears"
        self.covers = f"{what} measured one by one on {times.machine['device']}, the rest predicted ({rest.covers})"
        self._us: dict[tuple[int, int, int, FormatName, bool], ShapeTime] = {}
        for key, row in sorted(times.rows.items()):  # bias=1 after bias=0: where both were measured, the Linear with a bias is meant
            shape = parse_linear(key)
            if shape is not None:
                self._us[shape.m, shape.k, shape.n, shape.format, shape.eager] = row

    def linear_us(self, *, m: int, k: int, n: int, format: FormatName) -> float:
        """Give the median measured microseconds of a compiled Linear; 0 where m is 0.

        Raises:
            MeasurementError: The shape was not measured, or its measurement failed; the message names it.
        """
        return self._median_us(m, k, n, format, eager=False)

    def eager_us(self, *, m: int, k: int, n: int, format: FormatName) -> float:
        """Give the same of a Linear outside the compiled blocks. Raises as `linear_us`."""
        return self._median_us(m, k, n, format, eager=True)

    def _median_us(self, m: int, k: int, n: int, format: FormatName, *, eager: bool) -> float:
        if m == 0:
            return 0.0
        row = self._us.get((m, k, n, format, eager))
        if row is None:
            raise MeasurementError(
                f"M={m} K={k} N={n} in {format.value}{' (eager)' if eager else ''} was not measured on {self.times.machine['device']}; "
                f"{len(self._us)} shapes were: measure this one too (`measure_shapes`), or price with the predicted model"
            )
        return row.median_us

    def rest_s(self, table: ShapeTable) -> float:
        """Give the seconds of what is no Linear: measured attentions, and what the other model predicts for all else."""
        if table.run is None:
            return self._rest.rest_s(table)
        measured_us, others = 0.0, []
        for counts in table.run.components:
            rows = {shape: self.times.rows.get(attention_key(shape)) for shape in counts.attention}
            found = {shape: row for shape, row in rows.items() if row is not None and row.us}
            measured_us += sum(shape.calls * row.median_us for shape, row in found.items())
            others.append(counts.model_copy(update={"attention": tuple(shape for shape in counts.attention if shape not in found)}))
        return measured_us / 1e6 + self._rest.rest_s(dataclasses.replace(table, run=RunCounts(components=tuple(others))))
