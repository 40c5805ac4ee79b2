"""The contract of everything that prices a run: records, and the sum that all latency models share.

Method. A model says two things: the microseconds of one Linear call of a shape in a format, and the
seconds of what is not a Linear. `LatencyModel.estimate` adds them up over a ShapeTable: run = sum
over Linears of calls x time + rest. The rest does not depend on formats. A caller who has measured
the bf16 run gives its seconds, and the model divides them into Linears and rest (`divide_anchor`):
a table of measured Linears keeps them and the rest is what remains; a prediction corrects both.

Conventions.
- `_us` is one call, `_s` is the whole run that the table was profiled on (`calls` counts the whole
  run).
- A Linear whose M varies is priced for each M with its calls; its row shows the mean over the calls
  beside its largest M, so that calls x time is its part of the total in every row.
- Linears that read one tensor (q, k and v) are one quantizing and several products where the
  compiler merges the quantizing: `sibling_us` is the time of one more of them, and each of r
  readers costs (linear_us + (r - 1) x sibling_us) / r.
- A Linear outside the repeated blocks (no block in its FQN) runs eagerly where blocks are compiled
  one by one: `eager_us` prices it.
- A Linear that a format map leaves out is bf16; a Linear that was never called costs nothing and
  may stand in the map.
- `source` is "predicted" or "measured" and says where the Linears' times come from.
- Rows of a batch axis are Linears with M = batch (modulation, time, guidance and pooled-text
  embedders); see `batch_rows`.

What it does not do: check that a format takes a shape (formats.py: K % 32, K % 16, N % 16), or
measure.

Example: a model that knows one rate.
    >>> class TenTeraflops(LatencyModel):
    ...     target, source, compile_mode, covers = "toy", "predicted", "default", "Linears only"
    ...     def linear_us(self, *, m, k, n, format):
    ...         return 2 * m * k * n / 10e12 * 1e6
    ...     def rest_s(self, table):
    ...         return 0.0
    >>> TenTeraflops().linear_us(m=1000, k=1000, n=1000, format=FormatName.BF16)
    200.0
"""

import dataclasses
import difflib
import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sensitivity.core.format_name import CompileMode, FormatName, Source
from sensitivity.errors import PatternError, UserError
from sensitivity.latency.memory import MemoryEstimate
from sensitivity.shapes.table import LinearProfile, ShapeTable

SCALE_SETTING = "stands_for_factor"


@dataclass(frozen=True, kw_only=True, slots=True)
class LinearCost:
    """What one Linear costs a call.

    `quantized_us` is its time in `format`, equal to `bf16_us` where that is bf16; m is its largest
    M. `why` says in a clause what decides the difference, "" where the model does not know.
    """

    fqn: str
    m: int
    k: int
    n: int
    calls: int
    format: FormatName
    bf16_us: float
    quantized_us: float
    why: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShapeScale:
    """How a table that stands for a larger model is scaled: token rows, K and N times `factor`,
    rows of the batch axis as they are.
    """

    factor: int

    def __post_init__(self) -> None:
        """Raise UserError unless the factor is a whole number from 1 up."""
        if type(self.factor) is not int or self.factor < 1:
            raise UserError(
                f"The scale's factor is {self.factor!r}; allowed: a whole number from 1 up. Correct"
                " the study's scale."
            )

    def __str__(self) -> str:
        """Say it in words, for notes."""
        return (
            f"priced at the scale it stands for: token rows, K and N x {self.factor}, batch rows"
            " unscaled"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class LatencyEstimate:
    """What a run takes in bf16 and in the given formats.

    Attributes:
        target: The GPU that was priced.
        source: Where the Linears' times come from.
        batch_size: Samples a run.
        compile_mode: How the run is compiled; "reduce-overhead" replays CUDA graphs.
        bf16_s: Seconds of the whole run with every Linear in bf16.
        quantized_s: The same with the formats given.
        linears: One row a called Linear, in the table's order.
        note: What the seconds cover and where they come from, for people.
        scale: How the table was scaled, None where it was not.
        interval90: 5 % and 95 % quantiles of the speedup, None where the model states none.
        memory: Bytes of weights and peak, None where nobody estimated them.
    """

    target: str
    source: Source
    batch_size: int
    compile_mode: CompileMode
    bf16_s: float
    quantized_s: float
    linears: tuple[LinearCost, ...]
    note: str
    scale: ShapeScale | None = None
    interval90: tuple[float, float] | None = None
    memory: MemoryEstimate | None = None

    @property
    def speedup(self) -> float:
        """bf16_s / quantized_s: above 1 is faster."""
        return self.bf16_s / self.quantized_s

    def to_json(self) -> dict[str, Any]:
        """Give the `latency --json` object.

        Beside the contract's keys: "speedup_interval90" and "memory" where they are known, "note"
        and "scale" in an estimate for a larger model than was profiled.
        """
        data: dict[str, Any] = {
            "target": self.target,
            "source": self.source,
            "batch_size": self.batch_size,
            "compile_mode": self.compile_mode,
            "bf16_s": self.bf16_s,
            "quantized_s": self.quantized_s,
            "speedup": self.speedup,
            "linears": [
                {key: value for key, value in dataclasses.asdict(linear).items() if key != "why"}
                | {"format": linear.format.value}
                for linear in self.linears
            ],
        }
        if self.interval90 is not None:
            data["speedup_interval90"] = list(self.interval90)
        if self.memory is not None:
            data["memory"] = self.memory.to_json()
        if self.scale is not None:
            data |= {"note": self.note, "scale": dataclasses.asdict(self.scale)}
        return data


@dataclass(frozen=True, kw_only=True, slots=True)
class Savings:
    """What an interval is made from.

    Attributes:
        shapes: Calls by (M, K, N, format, whether it is in a compiled block, Linears that read its
            input).
        linears_s: Seconds of all Linears in bf16, anchored where there is an anchor.
        rest_s: Seconds of everything else.
        anchored: Whether their sum was measured.
    """

    shapes: Mapping[tuple[int, int, int, FormatName, bool, int], int]
    linears_s: float
    rest_s: float
    anchored: bool

    def fraction(self, model: "LatencyModel") -> float:
        """Part of the bf16 Linears' time that the formats save, by a model."""
        bf16_us = quantized_us = 0.0
        for (m, k, n, format, compiled, readers), calls in self.shapes.items():
            bf16_us += calls * model.call_us(
                m=m, k=k, n=n, format=FormatName.BF16, compiled=compiled, readers=readers
            )
            quantized_us += calls * model.call_us(
                m=m, k=k, n=n, format=format, compiled=compiled, readers=readers
            )
        return 1 - quantized_us / bf16_us


class LatencyModel(ABC):
    """Prices Linears and the rest of a run on one target.

    Subclasses set the four attributes and two methods; `estimate` is theirs to keep.

    Attributes:
        target: The GPU that is priced, as `--target` names it.
        source: "predicted" or "measured".
        compile_mode: How the priced run is compiled.
        covers: What `rest_s` counts and what it leaves out, a clause for notes.
    """

    target: str
    source: Source
    compile_mode: CompileMode
    covers: str

    @abstractmethod
    def linear_us(self, *, m: int, k: int, n: int, format: FormatName) -> float:
        """Give the microseconds of one call, with everything that the format adds to it; 0 where m
        is 0.

        Raises:
            FormatError: The target cannot compute in this format.
        """

    def eager_us(self, *, m: int, k: int, n: int, format: FormatName) -> float:
        """Give the microseconds of one call outside the compiled blocks; as inside them, where the
        model does not know better.
        """
        return self.linear_us(m=m, k=k, n=n, format=format)

    def sibling_us(self, *, m: int, k: int, n: int, format: FormatName) -> float:
        """Give the microseconds of one more Linear on an input that is quantized already; the full
        price, where nothing is merged.
        """
        return self.linear_us(m=m, k=k, n=n, format=format)

    def why(self, *, m: int, k: int, n: int, format: FormatName, compiled: bool = True) -> str:  # noqa: ARG002 - for models that know
        """Say in a clause what decides a quantized Linear's gain or loss; "" where the model does
        not know.
        """
        return ""

    @abstractmethod
    def rest_s(self, table: ShapeTable) -> float:
        """Give the seconds of the whole run that are not Linears; they do not depend on formats."""

    def estimate(
        self,
        table: ShapeTable,
        formats: Mapping[str, FormatName],
        *,
        bf16_seconds: float | None = None,
    ) -> LatencyEstimate:
        """Price a run in bf16 and with `formats`.

        Args:
            table: The run's shapes; scaled by `stand_for` where it stands for a larger model.
            formats: FQN -> format; Linears left out are bf16.
            bf16_seconds: Measured seconds of the whole bf16 run, as an anchor; then `rest_s` is not
                asked.

        Raises:
            PatternError: `formats` names FQNs that the table does not have.
            FormatError: The target cannot compute in one of the formats.
            UserError: The table has nothing to price, or the anchor is shorter than its bf16
                Linears alone.
        """
        if not any(linear.rows for linear in table.linears):
            raise UserError(
                f"The shape table of {table.model!r} has no Linear call with rows; allowed: one or"
                " more. Profile a run that calls them."
            )
        _check_names(table, formats)
        chosen = {
            linear.fqn: FormatName(formats.get(linear.fqn, FormatName.BF16))
            for linear in table.linears
        }
        readers = table.readers
        costs = tuple(
            self._cost(linear, chosen[linear.fqn], readers.get(linear.fqn, 1))
            for linear in table.linears
        )
        savings, anchor = self.savings(table, chosen), self.covers
        linears_s, rest_s = savings.linears_s, savings.rest_s
        if bf16_seconds is not None:
            factor, rest_s = self.divide_anchor(bf16_seconds, linears_s, rest_s)
            costs = tuple(
                dataclasses.replace(
                    cost, bf16_us=cost.bf16_us * factor, quantized_us=cost.quantized_us * factor
                )
                for cost in costs
            )
            linears_s, anchor = linears_s * factor, "bf16_s as the caller measured it"
        scale, quantized_linears_s = (
            _scale_of(table),
            sum(cost.calls * cost.quantized_us for cost in costs) / 1e6,
        )
        return LatencyEstimate(
            target=self.target,
            source=self.source,
            batch_size=table.batch_size,
            compile_mode=self.compile_mode,
            bf16_s=sum(cost.calls * cost.bf16_us for cost in costs) / 1e6 + rest_s,
            quantized_s=quantized_linears_s + rest_s,
            linears=costs,
            note="; ".join(
                [f"{self.source} for {self.target}", anchor] + ([str(scale)] if scale else [])
            ),
            scale=scale,
            interval90=self.interval90(
                dataclasses.replace(
                    savings, linears_s=linears_s, rest_s=rest_s, anchored=bf16_seconds is not None
                )
            ),
        )

    def divide_anchor(
        self, bf16_seconds: float, linears_s: float, rest_s: float
    ) -> tuple[float, float]:  # noqa: ARG002 - for models that correct both
        """Divide a measured bf16 total:

        (factor on the Linears' times, seconds of the rest). Here the Linears are right and the rest
        is what remains.

        Raises:
            UserError: The total is shorter than the Linears.
        """
        return 1.0, _rest_of(bf16_seconds, linears_s)

    def interval90(self, savings: Savings) -> tuple[float, float] | None:  # noqa: ARG002 - for models that know
        """Give the 5 % and 95 % quantiles of the speedup; None where the model does not know them."""
        return None

    def savings(self, table: ShapeTable, formats: Mapping[str, FormatName]) -> Savings:
        """Give a run's shapes with their calls and formats, and the seconds that the model predicts
        for its bf16 parts.
        """
        shapes: Counter[tuple[int, int, int, FormatName, bool, int]] = Counter()
        readers = table.readers
        for linear in table.linears:
            format = FormatName(formats.get(linear.fqn, FormatName.BF16))
            for m, calls in linear.m_values:
                shapes[
                    m, linear.k, linear.n, format, bool(linear.block), readers.get(linear.fqn, 1)
                ] += calls
        linears_us = sum(
            calls
            * self.call_us(m=m, k=k, n=n, format=FormatName.BF16, compiled=compiled, readers=r)
            for (m, k, n, _, compiled, r), calls in shapes.items()
        )
        return Savings(
            shapes=shapes, linears_s=linears_us / 1e6, rest_s=self.rest_s(table), anchored=False
        )

    def _cost(self, linear: LinearProfile, format: FormatName, readers: int) -> LinearCost:
        bf16_us = self.mean_us(linear, FormatName.BF16, readers)
        quantized = format is not FormatName.BF16
        return LinearCost(
            fqn=linear.fqn,
            m=linear.m,
            k=linear.k,
            n=linear.n,
            calls=linear.calls,
            format=format,
            bf16_us=bf16_us,
            quantized_us=self.mean_us(linear, format, readers) if quantized else bf16_us,
            why=(
                self.why(
                    m=linear.m, k=linear.k, n=linear.n, format=format, compiled=bool(linear.block)
                )
                if quantized
                else ""
            ),
        )

    def mean_us(self, linear: LinearProfile, format: FormatName, readers: int = 1) -> float:
        """Give the mean microseconds of a Linear's calls in a format, one of `readers` Linears that
        read its input.
        """
        return (
            sum(
                calls
                * self.call_us(
                    m=m,
                    k=linear.k,
                    n=linear.n,
                    format=format,
                    compiled=bool(linear.block),
                    readers=readers,
                )
                for m, calls in linear.m_values
            )
            / linear.calls
        )

    def call_us(
        self, *, m: int, k: int, n: int, format: FormatName, compiled: bool, readers: int
    ) -> float:
        """Give the microseconds of one call: eager outside the blocks; inside, its part of what
        `readers` Linears on one input cost.
        """
        if not compiled:
            return self.eager_us(m=m, k=k, n=n, format=format)
        first_us = self.linear_us(m=m, k=k, n=n, format=format)
        if readers == 1 or format is FormatName.BF16:
            return first_us
        return (first_us + (readers - 1) * self.sibling_us(m=m, k=k, n=n, format=format)) / readers


def _check_names(table: ShapeTable, formats: Mapping[str, FormatName]) -> None:
    known = {linear.fqn for linear in table.linears} | set(table.uncalled)
    unknown = [fqn for fqn in formats if fqn not in known]
    if unknown:
        closest = difflib.get_close_matches(unknown[0], known, n=1)
        hint = f" (closest: {closest[0]!r})" if closest else ""
        raise PatternError(
            f"{len(unknown)} FQNs of the format map are no Linear of {table.model!r}, the first is"
            f" {unknown[0]!r}{hint}; allowed: the {len(known)} FQNs of its shape table. Remove"
            " them, or profile the model that they belong to."
        )


def _rest_of(bf16_seconds: float, bf16_linears_s: float) -> float:
    if not math.isfinite(bf16_seconds) or bf16_seconds < bf16_linears_s:
        raise UserError(
            f"The measured bf16 run takes {bf16_seconds:.4g} s; allowed: no less than the"
            f" {bf16_linears_s:.4g} s of its Linears alone. Give the seconds of the whole run that"
            " was profiled (all steps, same batch size and target), or leave --bf16-seconds out."
        )
    return bf16_seconds - bf16_linears_s


def batch_rows(table: ShapeTable) -> int:
    """Give the batch axis of one forward:

    M of the Linears that see no tokens (modulation, time, guidance, pooled text).

    It is the batch size where a Linear has that M, else twice that where one has (guidance by a
    doubled batch), else the batch size.
    """
    rows = {m for linear in table.linears for m, _ in linear.m_values}
    return next(
        (m for m in (table.batch_size, 2 * table.batch_size) if m in rows), table.batch_size
    )


def stand_for(table: ShapeTable, scale: ShapeScale) -> ShapeTable:
    """Scale a small model's table to the model that it stands for.

    Token rows, K and N are multiplied by the factor; rows of the batch axis (M =
    `batch_rows(table)`) keep their M. Names, calls and dtypes stay; counts of the run grow as
    `RunCounts.scaled` says. The factor is written into the table's settings, and every estimate
    made from it says so; scaling twice multiplies.
    """
    batch = batch_rows(table)
    linears = []
    for linear in table.linears:
        scaled: Counter[int] = Counter()
        for m, calls in linear.m_values:
            scaled[m if m == batch else m * scale.factor] += calls
        pairs = tuple(sorted(scaled.items()))
        linears.append(
            dataclasses.replace(
                linear,
                m=pairs[-1][0],
                k=linear.k * scale.factor,
                n=linear.n * scale.factor,
                m_values=pairs,
            )
        )
    before = _scale_of(table)
    factor = scale.factor * (before.factor if before else 1)
    run = None if table.run is None else table.run.scaled(scale.factor)
    return dataclasses.replace(
        table, linears=tuple(linears), settings={**table.settings, SCALE_SETTING: factor}, run=run
    )


def _scale_of(table: ShapeTable) -> ShapeScale | None:
    factor = table.settings.get(SCALE_SETTING)
    return None if factor is None else ShapeScale(factor=factor)  # type: ignore[arg-type]  # checked there
