"""The contract of everything that prices a run: `LatencyModel`.

Method. A model gives two things: the microseconds of one Linear call of a shape in a format, and
the seconds of what is not a Linear (the rest, which does not depend on formats).
`LatencyModel.estimate` adds them up over a shape table: run = sum over Linears of calls x time +
rest.

Anchor. A caller who has measured the bf16 run passes its seconds. The model then divides that total
into Linears and rest (`divide_anchor`). A model that has measured its Linears keeps them, and the
rest is what remains; a model that predicts both corrects both.

Conventions.
- `_us` is one call, `_s` is the whole run that the table was profiled on.
- A Linear whose M varies is priced for each M with its calls.
- Linears that read one tensor (q, k and v) are quantized once if the compiler merges their
  quantizing. `sibling_us` is the time of one more of them. Each of r readers then costs
  (linear_us + (r - 1) x sibling_us) / r.
- A Linear outside the repeated blocks has no block in its FQN. It runs eagerly, since only the
  blocks are compiled, and `eager_us` prices it.
- Formats may be an `Assignment` with a step policy. A quantized Linear then costs the mean of what
  it costs at quantized and at edge steps, weighted by their number (`step_mix`).
- A Linear that a format map leaves out is bf16. A Linear that was never called costs nothing; a
  format map may name it.
- `source` is "predicted" or "measured": where the Linears' times come from.

What it does not do: check whether a format takes a shape (`sensitivity.formats`), or measure.

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
import math
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Mapping

from sensitivity.core.assignment import Assignment
from sensitivity.core.format_name import CompileMode, FormatName, Source
from sensitivity.core.step_policy import EdgeMode
from sensitivity.errors import FormatError, UserError
from sensitivity.latency.estimate import LatencyEstimate, LinearCost
from sensitivity.latency.format_costs import notes_on
from sensitivity.latency.host import HostWork, StepKind, host_work, with_host
from sensitivity.latency.run_checks import check_has_rows, check_names
from sensitivity.latency.runtimes import Runtime, runtime_of
from sensitivity.latency.savings import Savings
from sensitivity.latency.scale import scale_of
from sensitivity.latency.step_mix import StepMix, edge_terms, mixed_costs
from sensitivity.shapes.table import LinearProfile, ShapeTable


class LatencyModel(ABC):
    """Prices Linears and the rest of a run on one target.

    Subclasses set the four attributes and implement `linear_us` and `rest_s`. They inherit
    `estimate`.

    Attributes:
        target: The name of the GPU that is priced, "b200".
        source: "predicted" or "measured".
        compile_mode: How the priced run is compiled.
        covers: A clause for notes: what `rest_s` counts and what it leaves out.
    """

    target: str
    source: Source
    compile_mode: CompileMode
    covers: str

    @property
    def runtime(self) -> Runtime:
        """How the priced run is run. By default what compiles blocks in `compile_mode`."""
        return runtime_of(self.compile_mode)

    def check_format(self, format: FormatName) -> None:  # noqa: B027 - most models take all
        """Raise FormatError if the target cannot compute in `format`. By default it can in all.

        The message names the formats that the target has. Nothing is priced.
        """

    def supports(self, format: FormatName) -> bool:
        """Whether the target can compute in `format`; `check_format` has the reason if not."""
        try:
            self.check_format(format)
        except FormatError:
            return False
        return True

    def refusal(self, *, m: int, k: int, n: int, bias: bool, format: FormatName) -> str | None:
        """Why the target's kernels refuse a Linear that the format itself takes; None if they run.

        By default None. A Linear with a reason cannot run in the format, so it stays bf16.
        """
        return None

    def refuses(self, linear: LinearProfile, format: FormatName) -> str | None:
        """Why a Linear of a run cannot be in a format by `refusal`; None if it can.

        If M varies, one M that is refused is enough; the largest is named.
        """
        reasons = (
            self.refusal(m=m, k=linear.k, n=linear.n, bias=linear.bias, format=format)
            for m, _ in reversed(linear.m_values)
            if m
        )
        return next((reason for reason in reasons if reason), None)

    @abstractmethod
    def linear_us(self, *, m: int, k: int, n: int, format: FormatName) -> float:
        """Microseconds of one call, with everything that the format adds to it; 0 if m is 0.

        Raises:
            FormatError: The target cannot compute in this format.
        """

    def eager_us(self, *, m: int, k: int, n: int, format: FormatName) -> float:
        """Microseconds of one call outside the compiled blocks. By default `linear_us`."""
        return self.linear_us(m=m, k=k, n=n, format=format)

    def sibling_us(self, *, m: int, k: int, n: int, format: FormatName) -> float:
        """Microseconds of one more Linear on an input that is already quantized.

        By default `linear_us`, as if nothing were merged.
        """
        return self.linear_us(m=m, k=k, n=n, format=format)

    def why(self, *, m: int, k: int, n: int, format: FormatName, compiled: bool = True) -> str:
        """A clause on what decides a quantized Linear's gain or loss. By default "": unknown."""
        return ""

    @abstractmethod
    def rest_s(self, table: ShapeTable) -> float:
        """Seconds of the whole run that are not Linears; they do not depend on formats."""

    def others_s(self, table: ShapeTable) -> float:
        """Seconds of `rest_s` that are not the denoisers'. By default 0: not told apart."""
        return 0.0

    def host_work(self, table: ShapeTable) -> HostWork | None:
        """What the run's denoisers launch; None where the table does not tell."""
        return host_work(table, self.runtime)

    def divide_anchor(
        self,
        bf16_seconds: float,
        linears_s: float,
        rest_s: float,
    ) -> tuple[float, float]:
        """Divide a measured bf16 total into (factor on the Linears' times, seconds of the rest).

        By default the Linears are right, and the rest is what remains.

        Raises:
            UserError: The total is shorter than the Linears.
        """
        if not math.isfinite(bf16_seconds) or bf16_seconds < linears_s:
            raise UserError(
                f"The measured bf16 run (`bf16_seconds`) takes {bf16_seconds:.4g} s; expected at"
                f" least the {linears_s:.4g} s of its Linears alone. Give the seconds of the whole"
                " run that was profiled (all steps, same batch size and target), or leave"
                " `bf16_seconds` out."
            )
        return 1.0, bf16_seconds - linears_s

    def interval90(self, savings: Savings) -> tuple[float, float] | None:
        """The 5 % and 95 % quantiles of the speedup. By default None: unknown."""
        return None

    def estimate(
        self,
        table: ShapeTable,
        formats: Mapping[str, FormatName],
        *,
        bf16_seconds: float | None = None,
    ) -> LatencyEstimate:
        """Price a run in bf16 and with `formats`.

        Args:
            table: The run's shapes, scaled by `stand_for` if they stand for a larger model.
            formats: FQN -> format; Linears left out are bf16. An `Assignment` may have a step
                policy.
            bf16_seconds: Measured seconds of the whole bf16 run, as an anchor.

        Raises:
            PatternError: `formats` names FQNs that the table does not have.
            FormatError: The target cannot compute in one of the formats.
            UserError: The table has nothing to price, the anchor cannot be that of this run, or
                there is a step policy and the table does not say how many steps its run has.
        """
        check_has_rows(table)
        check_names(table, formats)
        chosen = Assignment(
            {
                linear.fqn: FormatName(formats.get(linear.fqn, FormatName.BF16))
                for linear in table.linears
            },
            Assignment.of(formats).policy,
        )
        mix = StepMix.of(table, chosen.policy)
        savings, anchor = self.savings(table, chosen), self.covers
        work, others_s = self.host_work(table), self.others_s(table)
        gpu_s = savings.linears_s + savings.rest_s
        waits = work is not None and work.seconds({}) + others_s > gpu_s
        factor = 1.0
        if bf16_seconds is not None and not (waits and bf16_seconds > gpu_s):
            factor, rest_s = self.divide_anchor(bf16_seconds, savings.linears_s, savings.rest_s)
            others_s *= rest_s / savings.rest_s if savings.rest_s else 1.0
            savings = dataclasses.replace(
                savings, linears_s=savings.linears_s * factor, rest_s=rest_s, anchored=True
            )
        if bf16_seconds is not None:
            anchor = "bf16_s as the caller measured it"
        costs = self._costs(table, chosen, None, factor)
        kinds = [StepKind(share=mix.share, formats=chosen, gpu_s=_gpu_s(costs, savings))]
        if mix.mode is not None:
            edge = self._costs(table, chosen, mix.mode, factor)
            launched = chosen if mix.mode is EdgeMode.A16 else {}
            at_edges = StepKind(share=1 - mix.share, formats=launched, gpu_s=_gpu_s(edge, savings))
            costs, kinds = mixed_costs(costs, edge, mix.share), [*kinds, at_edges]
        return with_host(
            self._summed(table, costs, savings, [anchor, *mix.notes, *notes_on(chosen.values())]),
            work,
            kinds,
            others_s=others_s,
            anchor_s=bf16_seconds,
        )

    def _costs(
        self,
        table: ShapeTable,
        formats: Mapping[str, FormatName],
        edge: EdgeMode | None,
        factor: float,
    ) -> tuple[LinearCost, ...]:
        """What each Linear costs at quantized steps, or at edge steps of a mode; both times are
        multiplied by `factor`.
        """
        readers, alike = table.readers, dict[object, LinearCost]()
        costs = tuple(
            self._cost(linear, formats[linear.fqn], readers.get(linear.fqn, 1), edge, alike)
            for linear in table.linears
        )
        return costs if factor == 1.0 else tuple(cost.times(factor) for cost in costs)

    def _summed(
        self, table: ShapeTable, costs: tuple[LinearCost, ...], savings: Savings, said: list[str]
    ) -> LatencyEstimate:
        """The estimate of a run whose Linears cost `costs`."""
        scale = scale_of(table)
        origins = [f"{self.source} for {self.target}", *said, *([str(scale)] if scale else [])]
        stopped = [
            (linear.fqn, why)
            for linear, cost in zip(table.linears, costs, strict=True)
            if cost.format.is_quantized and (why := self.refuses(linear, cost.format))
        ]
        if stopped:
            fqn, why = stopped[0]
            origins.append(f"{len(stopped)} Linears cannot run so, the first is {fqn}: {why}")
        return LatencyEstimate(
            target=self.target,
            source=self.source,
            batch_size=table.batch_size,
            compile_mode=self.compile_mode,
            runtime=self.runtime.name,
            bf16_s=sum(cost.calls * cost.bf16_us for cost in costs) / 1e6 + savings.rest_s,
            quantized_s=_gpu_s(costs, savings),
            linears=costs,
            note="; ".join(origins),
            scale=scale,
            interval90=self.interval90(savings),
        )

    def savings(self, table: ShapeTable, formats: Mapping[str, FormatName]) -> Savings:
        """A run's shapes with their calls and formats, and the seconds of its bf16 parts.

        Raises UserError as `estimate` for a step policy.
        """
        shapes: dict[tuple[int, int, int, FormatName, bool, int], float] = defaultdict(float)
        readers, mix = table.readers, StepMix.of(table, Assignment.of(formats).policy)
        for linear in table.linears:
            own = FormatName(formats.get(linear.fqn, FormatName.BF16))
            compiled, together = self.compiles(linear), readers.get(linear.fqn, 1)
            for m, calls in linear.m_values:
                for format, part in mix.terms(own).items():
                    shapes[m, linear.k, linear.n, format, compiled, together] += calls * part
        linears_us = sum(
            calls
            * self.call_us(m=m, k=k, n=n, format=FormatName.BF16, compiled=compiled, readers=r)
            for (m, k, n, _, compiled, r), calls in shapes.items()
        )
        return Savings(
            shapes=shapes, linears_s=linears_us / 1e6, rest_s=self.rest_s(table), anchored=False
        )

    def _cost(
        self,
        linear: LinearProfile,
        format: FormatName,
        readers: int,
        edge: EdgeMode | None,
        alike: dict[object, LinearCost],
    ) -> LinearCost:
        """What a Linear costs; `alike` holds the costs of other rows, most of which have twins."""
        row = (linear.m_values, linear.k, linear.n, self.compiles(linear), format, readers)
        if (known := alike.get(row)) is not None:
            return dataclasses.replace(known, fqn=linear.fqn)
        bf16_us = self.mean_us(linear, FormatName.BF16, readers)
        quantized_us, why = bf16_us, ""
        if format.is_quantized:
            quantized_us = (
                self.mean_us(linear, format, readers)
                if edge is None
                else self.edge_us(linear, format, edge, readers)
            )
            why = self.why(
                m=linear.m, k=linear.k, n=linear.n, format=format, compiled=self.compiles(linear)
            )
        alike[row] = LinearCost(
            fqn=linear.fqn,
            m=linear.m,
            k=linear.k,
            n=linear.n,
            calls=linear.calls,
            format=format,
            bf16_us=bf16_us,
            quantized_us=quantized_us,
            why=why,
        )
        return alike[row]

    def compiles(self, linear: LinearProfile) -> bool:
        """Whether a Linear runs in a compiled region."""
        return self.runtime.compiles(linear.block)

    def mean_us(self, linear: LinearProfile, format: FormatName, readers: int = 1) -> float:
        """Mean microseconds of a Linear's calls in a format; `readers` Linears read its input."""
        return (
            sum(
                calls
                * self.call_us(
                    m=m,
                    k=linear.k,
                    n=linear.n,
                    format=format,
                    compiled=self.compiles(linear),
                    readers=readers,
                )
                for m, calls in linear.m_values
            )
            / linear.calls
        )

    def edge_us(
        self, linear: LinearProfile, format: FormatName, mode: EdgeMode, readers: int = 1
    ) -> float:
        """Mean microseconds of a Linear's calls at the edge steps of a step policy, where its
        format is `format` at all other steps; `readers` Linears read its input.
        """
        if not format.is_quantized:
            return self.mean_us(linear, format, readers)
        terms = edge_terms(format, mode).items()
        return sum(count * self.mean_us(linear, name, readers) for name, count in terms)

    def call_us(
        self, *, m: int, k: int, n: int, format: FormatName, compiled: bool, readers: int
    ) -> float:
        """Microseconds of one call, inside or outside the compiled blocks.

        Inside, it is one of `readers` Linears on one input, and takes its part of what they cost
        together.
        """
        if not compiled:
            return self.eager_us(m=m, k=k, n=n, format=format)
        first_us = self.linear_us(m=m, k=k, n=n, format=format)
        if readers == 1 or format is FormatName.BF16:
            return first_us
        return (first_us + (readers - 1) * self.sibling_us(m=m, k=k, n=n, format=format)) / readers


def _gpu_s(costs: tuple[LinearCost, ...], savings: Savings) -> float:
    """Seconds of the GPU in a run whose Linears cost `costs`, in their formats."""
    return sum(cost.calls * cost.quantized_us for cost in costs) / 1e6 + savings.rest_s
