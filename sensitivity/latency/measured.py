"""What does a run take by times that were measured shape by shape? `MeasuredLatency`.

Method. Linears, and attention if it was measured, cost what their rows say under steady load
(`shape_times`), as in a run. What was not measured comes from another model, and `covers` says that
it is predicted. Linears outside the compiled blocks run eagerly, and were measured so.

What it does not do: guess. A shape that was not measured, or whose measurement failed, raises
MeasurementError when it is priced. As long as nobody prices it, it does no harm: `refusal` has the
reason, and lists leave such a Linear in bf16. If bf16 itself has no time there, the Linear has none
in any format, and bf16's is predicted: `covers` counts such shapes.

    times = measure_shapes(shapes_of(table, (FormatName.FP8,)), device="cuda")
    model = MeasuredLatency(times, target="h100", rest=PredictedLatency(get_device("h100")))
    model.estimate(table, formats).speedup
"""

import dataclasses

from sensitivity.core.format_name import FormatName
from sensitivity.errors import MeasurementError, UserError
from sensitivity.latency._base import LatencyModel
from sensitivity.latency.runtimes import RUNTIMES, Runtime
from sensitivity.latency.shape_times import ShapeTime, ShapeTimes, attention_key, parse_linear
from sensitivity.latency.timing.host_timing import factor_of, is_host_row
from sensitivity.shapes.census import RunCounts
from sensitivity.shapes.table import ShapeTable


class MeasuredLatency(LatencyModel):
    """Prices Linears, and attention if it was measured, by what they took.

    Args:
        times: Measured rows.
        target: The name of the GPU.
        rest: A model of the same target that prices what was not measured.
    """

    source = "measured"

    def __init__(self, times: ShapeTimes, *, target: str, rest: LatencyModel) -> None:
        """See the class."""
        self.times = times
        self.target = target
        self.compile_mode = rest.compile_mode
        self._rest = rest
        host = {key: row for key, row in times.rows.items() if is_host_row(key)}
        factor, known = factor_of(host), RUNTIMES.get(rest.runtime.name)
        self._runtime = rest.runtime
        if factor is not None and known is not None:
            self._runtime = known.on_host(factor)
        has_attention = any(
            parse_linear(key) is None and row.us
            for key, row in times.rows.items()
            if key not in host
        )
        what = "Linears and attention" if has_attention else "Linears"
        self.covers = (
            f"{what} measured one by one on {times.machine['device']}, the rest predicted"
            f" ({rest.covers})"
        )
        self._rows: dict[tuple[int, int, int, FormatName, str], ShapeTime] = {}
        self._reasons: dict[tuple[int, int, int, bool, FormatName], str | None] = {}
        # Sorted, bias=1 comes after bias=0: if both were measured, the Linear with a bias counts.
        for key, row in sorted(times.rows.items()):
            shape = parse_linear(key)
            if shape is None:
                continue
            place = (shape.m, shape.k, shape.n, shape.format, shape.kind)
            if row.us or place not in self._rows:
                self._rows[place] = row
            if not shape.sibling:
                one = (shape.m, shape.k, shape.n, shape.bias, shape.format)
                self._reasons[one] = self._reasons.get(one) or (None if row.us else row.reason)
        untimed = sum(bool(why) for one, why in self._reasons.items() if one[-1] is FormatName.BF16)
        if untimed:
            self.covers += f"; {untimed} shapes without a time in bf16 are predicted"

    @property
    def runtime(self) -> Runtime:
        """How the priced run is run: as the model of the rest prices it, on the host that was
        timed, if it was.
        """
        return self._runtime

    def check_format(self, format: FormatName) -> None:
        """Raise FormatError if the GPU has no such format, whether or not it was measured."""
        self._rest.check_format(format)

    def refusal(self, *, m: int, k: int, n: int, bias: bool, format: FormatName) -> str | None:
        """Why a Linear has no time in a format: its kernel refused it, or timing it failed.

        What was not tried here is refused if the model of the rest knows so.
        """
        if not format.is_quantized:
            return None
        shape = (m, k, n, bias, format)
        bf16 = self._reasons.get((m, k, n, bias, FormatName.BF16))
        if bf16 is not None:
            return f"not measured in bf16: {bf16}"
        if shape in self._reasons:
            return self._reasons[shape]
        return self._rest.refusal(m=m, k=k, n=n, bias=bias, format=format)

    def linear_us(self, *, m: int, k: int, n: int, format: FormatName) -> float:
        """Measured microseconds of a compiled Linear; 0 if m is 0.

        Raises:
            FormatError: The GPU has no such format.
            MeasurementError: The shape was not measured, or its measurement failed; the message
                names it.
        """
        return self._row_us(m, k, n, format, "compiled")

    def eager_us(self, *, m: int, k: int, n: int, format: FormatName) -> float:
        """Measured microseconds of a Linear outside the compiled blocks. Raises as `linear_us`."""
        kind = "compiled" if self.runtime.fused_quantizers else "eager"
        return self._row_us(m, k, n, format, kind)

    def sibling_us(self, *, m: int, k: int, n: int, format: FormatName) -> float:
        """Measured microseconds of one more Linear on a quantized input.

        `linear_us` if that is less, or if no sibling was measured. Raises as `linear_us`.
        """
        first_us = self.linear_us(m=m, k=k, n=n, format=format)
        row = self._rows.get((m, k, n, format, "sibling"))
        return min(first_us, row.steady_us) if row is not None and row.us else first_us

    def _row_us(self, m: int, k: int, n: int, format: FormatName, kind: str) -> float:
        if m == 0:
            return 0.0
        row = self._rows.get((m, k, n, format, kind))
        if row is None:
            self.check_format(format)
            raise MeasurementError(
                f"M={m} K={k} N={n} in {format.value}{' (eager)' if kind == 'eager' else ''} was"
                f" not measured on {self.times.machine['device']}; expected one of the"
                f" {len(self._rows)} shapes that were. Measure this one too (`measure_shapes`), or"
                " price with the predicted model."
            )
        if not row.us and format is FormatName.BF16:
            price = self._rest.eager_us if kind == "eager" else self._rest.linear_us
            return price(m=m, k=k, n=n, format=format)
        return row.steady_us

    def divide_anchor(
        self, bf16_seconds: float, linears_s: float, rest_s: float
    ) -> tuple[float, float]:
        """Divide a measured bf16 total into (factor on the Linears, seconds of the rest).

        Both change by the same factor, since what the parts miss is the clock of the real run.

        Raises:
            UserError: The total differs from the sum of the parts by more than a factor of 2.
        """
        factor = bf16_seconds / (linears_s + rest_s)
        if not 0.5 <= factor <= 2:
            raise UserError(
                f"The measured bf16 run (`bf16_seconds`) takes {bf16_seconds:.4g} s; expected it"
                f" within a factor of 2 of the {linears_s + rest_s:.4g} s that its parts take. Give"
                " the seconds of the whole run that was profiled (all steps, same batch size and"
                " GPU), or leave `bf16_seconds` out."
            )
        return factor, rest_s * factor

    def others_s(self, table: ShapeTable) -> float:
        """Predicted seconds of the components that are no denoisers."""
        return self._rest.others_s(table)

    def rest_s(self, table: ShapeTable) -> float:
        """Seconds of what is not a Linear: measured attentions, and all else as predicted."""
        if table.run is None:
            return self._rest.rest_s(table)
        measured_us, others = 0.0, []
        for counts in table.run.components:
            rows = {shape: self.times.rows.get(attention_key(shape)) for shape in counts.attention}
            found = {shape: row for shape, row in rows.items() if row is not None and row.us}
            measured_us += sum(shape.calls * row.steady_us for shape, row in found.items())
            unmeasured = tuple(shape for shape in counts.attention if shape not in found)
            others.append(counts.model_copy(update={"attention": unmeasured}))
        return measured_us / 1e6 + self._rest.rest_s(
            dataclasses.replace(table, run=RunCounts(components=tuple(others)))
        )
