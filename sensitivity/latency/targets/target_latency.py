"""What does a run take on a GPU that somebody measured elsewhere? `TargetLatency`.

Method. A Linear or an attention that was measured on the target costs what it took there. All else
is predicted with the constants that were fitted to the target's own rows. If a shape was measured
in bf16 but not in a format, the format's time is the measured bf16 time times the predicted ratio
of the two.

The source stays "predicted", since the times are not of this machine: driver, versions and cooling
may differ. The note says how many Linears of the run were measured, and where.

    model = predicted_latency(get_device("b200.json"))
    model.estimate(table, formats).note

What it does not do: measure (`workflows.device_measure`).
"""

import dataclasses
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from sensitivity.core.format_name import CompileMode, FormatName
from sensitivity.latency.devices import Device
from sensitivity.latency.estimate import LatencyEstimate
from sensitivity.latency.format_costs import priced_as
from sensitivity.latency.predicted import PredictedLatency
from sensitivity.latency.runtimes import Runtime
from sensitivity.latency.savings import Savings
from sensitivity.latency.shape_times import attention_key
from sensitivity.latency.targets.measured_shapes import Kind, MeasuredShapes
from sensitivity.latency.uncertainty import speedup_interval90
from sensitivity.shapes.census import RunCounts
from sensitivity.shapes.table import LinearProfile, ShapeTable

MEASURED_SDS: Mapping[str, float] = MappingProxyType(
    {"shape_sd": 0.03, "linear_sd": 0.03, "saving_sd": 0.15}
)
"""Relative standard deviations where shapes were measured, in the place of a fit's.

Tables of measured shapes foresaw bf16 runs on an H100 within 3 %. What they said would be saved was
2 to 22 % less than what four denoisers saved end to end on an H200 (FP8, all Linears, batch 1,
November 2026): compiled blocks merge more than a shape and its producer do.
"""


class TargetLatency(PredictedLatency):
    """Predicts from a target's own measurements.

    Args:
        device: A device with `measured` shapes.
        options: Those of `PredictedLatency`.

    Attributes:
        measured: What was measured on the target.
    """

    def __init__(self, device: Device, **options: Any) -> None:
        """See the class."""
        super().__init__(device, **options)
        self.measured = device.measured or MeasuredShapes(origin=device.name)

    def linear_us(self, *, m: int, k: int, n: int, format: FormatName) -> float:
        """Microseconds of a call in a compiled block, as measured on the target if it was."""
        return self._as_measured(m, k, n, format, "compiled")

    def eager_us(self, *, m: int, k: int, n: int, format: FormatName) -> float:
        """Microseconds of a call outside the compiled blocks, as measured if it was."""
        fused = self.runtime.fused_quantizers
        return self._as_measured(m, k, n, format, "compiled" if fused else "eager")

    def sibling_us(self, *, m: int, k: int, n: int, format: FormatName) -> float:
        """Microseconds of one more Linear on a quantized input, as measured if it was."""
        return self._as_measured(m, k, n, format, "sibling")

    def _as_measured(self, m: int, k: int, n: int, format: FormatName, kind: Kind) -> float:
        shape = {"m": m, "k": k, "n": n}
        self.check_format(format)
        if not m:
            return 0.0
        us = self.measured.us(**shape, format=format, kind=kind)
        first_us = self.measured.us(**shape, format=format, kind="compiled")
        if us is not None and (kind != "sibling" or first_us is None):
            return us
        if us is not None and first_us is not None:
            return min(us, first_us)
        beside: Kind = "eager" if kind == "eager" else "compiled"
        known_us = self.measured.us(**shape, format=FormatName.BF16, kind=beside)
        predicted_us = self._predict(m, k, n, format, kind)
        if known_us is None:
            return predicted_us
        if kind == "sibling" and first_us is not None:
            return predicted_us / self._predict(m, k, n, format, "compiled") * first_us
        return predicted_us / self._predict(m, k, n, FormatName.BF16, beside) * known_us

    def _predict(self, m: int, k: int, n: int, format: FormatName, kind: Kind) -> float:
        shape = {"m": m, "k": k, "n": n}
        if kind == "eager":
            return super().eager_us(**shape, format=format)
        if kind == "sibling":
            return super().sibling_us(**shape, format=format)
        return super().linear_us(**shape, format=format)

    def refusal(self, *, m: int, k: int, n: int, bias: bool, format: FormatName) -> str | None:
        """Why the target's kernels refuse a Linear, as was found there or as shipped data knows."""
        known = self.measured.refusals
        found = known.get((m, k, n, bias, format)) or known.get((m, k, n, bias, priced_as(format)))
        return found or super().refusal(m=m, k=k, n=n, bias=bias, format=format)

    def rest_s(self, table: ShapeTable) -> float:
        """Seconds of what is not a Linear: attentions as measured, all else predicted."""
        if table.run is None:
            return super().rest_s(table)
        measured_us, others = 0.0, []
        for counts in table.run.components:
            times = {
                shape: self.measured.attention.get(attention_key(shape))
                for shape in counts.attention
            }
            measured_us += sum(shape.calls * us for shape, us in times.items() if us is not None)
            left = tuple(shape for shape, us in times.items() if us is None)
            others.append(counts.model_copy(update={"attention": left}))
        run = RunCounts(components=tuple(others))
        return measured_us / 1e6 + super().rest_s(dataclasses.replace(table, run=run))

    def interval90(self, savings: Savings) -> tuple[float, float] | None:
        """The 5 % and 95 % quantiles of the speedup.

        For the part of the Linears' bf16 time that was measured, `MEASURED_SDS` stand in the place
        of the deviations of predicted shapes, Linears and savings.
        """
        total_us = measured_us = 0.0
        for (m, k, n, format, compiled, _readers), calls in savings.shapes.items():
            kind: Kind = "compiled" if compiled else "eager"
            us = calls * self._as_measured(m, k, n, FormatName.BF16, kind)
            total_us += us
            measured_us += us * self.measured.has(m=m, k=k, n=n, format=format, kind=kind)
        part = measured_us / total_us if total_us else 0.0
        c = self.constants
        deviations = {
            name: math.sqrt(part * sd**2 + (1 - part) * getattr(c, name) ** 2)
            for name, sd in MEASURED_SDS.items()
        }
        return speedup_interval90(dataclasses.replace(c, **deviations), self._samples, savings)

    def estimate(
        self,
        table: ShapeTable,
        formats: Mapping[str, FormatName],
        *,
        bf16_seconds: float | None = None,
    ) -> LatencyEstimate:
        """Price a run; the note says how many of its Linears were measured on the target."""
        found = super().estimate(table, formats, bf16_seconds=bf16_seconds)
        known = sum(
            self._knows(linear, FormatName(formats.get(linear.fqn, FormatName.BF16)))
            for linear in table.linears
        )
        mode = self.measured.compile_mode
        other = "" if mode in (None, self.compile_mode) else f", in compile mode {mode}"
        note = (
            f"{known} of {len(table.linears)} Linears as measured elsewhere"
            f" ({self.measured.origin}{other})"
        )
        return dataclasses.replace(found, note=f"{found.note}; {note}", measured_linears=known)

    def _knows(self, linear: LinearProfile, format: FormatName) -> bool:
        """Whether all calls of a Linear were measured in a format."""
        kind: Kind = "compiled" if linear.block else "eager"
        return all(
            self.measured.has(m=m, k=linear.k, n=linear.n, format=format, kind=kind)
            for m, _ in linear.m_values
            if m
        )


def predicted_latency(
    device: Device,
    *,
    compile_mode: CompileMode = "reduce-overhead",
    runtime: Runtime | None = None,
) -> PredictedLatency:
    """The model that predicts a device: with its own measurements, if it has some.

    The arguments are those of `PredictedLatency`.
    """
    model = TargetLatency if device.measured is not None else PredictedLatency
    return model(device, compile_mode=compile_mode, runtime=runtime)
