"""What does a run take, in bf16 and in the given formats? The records that a latency model returns.

`LinearCost` is one Linear, `HostTime` what the host takes, `LatencyEstimate` the whole run.

Conventions. `_us` is one call, `_s` is the whole run that the table was profiled on. A Linear whose
M varies has its largest M beside the mean time of its calls, so that calls x time is its part of
the total in every row.

    estimate = model.estimate(table, {"blocks.0.attn.to_q": FormatName.NVFP4})
    estimate.speedup, estimate.linears[0].quantized_us
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

from sensitivity.core.format_name import CompileMode, FormatName, Source
from sensitivity.core.short_reprs import ShortRepr
from sensitivity.latency.memory import MemoryEstimate
from sensitivity.latency.scale import ShapeScale


@dataclass(frozen=True, kw_only=True, slots=True)
class LinearCost:
    """What one call of a Linear costs.

    Attributes:
        fqn: Its name.
        m: Rows of its input; the largest M where M varies.
        k: in_features.
        n: out_features.
        calls: Calls in the whole run.
        format: The format that it runs in.
        bf16_us: Microseconds of a call in bf16.
        quantized_us: Microseconds of a call in `format`; `bf16_us` where that is bf16.
        why: A clause on what decides the difference; "" where the model cannot tell.
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

    def times(self, factor: float) -> "LinearCost":
        """The same Linear with both times multiplied by `factor`."""
        return dataclasses.replace(
            self, bf16_us=self.bf16_us * factor, quantized_us=self.quantized_us * factor
        )

    def to_json(self) -> dict[str, Any]:
        """A row of "linears" in the JSON of `sensitivity latency`; "why" only where it is known."""
        row = dataclasses.asdict(self) | {"format": self.format.value}
        if not self.why:
            del row["why"]
        return row


@dataclass(frozen=True, kw_only=True, slots=True)
class HostTime:
    """What launching the denoisers costs the host, beside what they cost the GPU.

    All seconds are of the whole run. The slower of the two decides.

    Attributes:
        calls: Calls of denoisers in the run.
        regions: Compiled regions that a run calls; 0 where nothing is compiled, or one CUDA graph
            replays each denoiser call.
        bf16_s: Of the host, with every Linear in bf16.
        quantized_s: Of the host, in the given formats.
        gpu_bf16_s: Of the GPU in the denoisers, with every Linear in bf16.
        gpu_quantized_s: The same in the given formats.
        steps_lost_s: `lost_s` of a run whose steps differ in precision, since the slower of the two
            decides in each kind of step; None where all steps are alike.
    """

    calls: int
    regions: int
    bf16_s: float
    quantized_s: float
    gpu_bf16_s: float
    gpu_quantized_s: float
    steps_lost_s: float | None = None

    @property
    def bf16_lost_s(self) -> float:
        """Seconds of the bf16 run in which the GPU waits for the host."""
        return max(0.0, self.bf16_s - self.gpu_bf16_s)

    @property
    def lost_s(self) -> float:
        """Seconds of the run in the given formats in which the GPU waits for the host."""
        if self.steps_lost_s is not None:
            return self.steps_lost_s
        return max(0.0, self.quantized_s - self.gpu_quantized_s)

    def __str__(self) -> str:
        """Whether the host is the limit in the given formats, else in bf16, and by how much."""
        for host_s, gpu_s, formats in (
            (self.quantized_s, self.gpu_quantized_s, "quantized"),
            (self.bf16_s, self.gpu_bf16_s, "in bf16"),
        ):
            if host_s > gpu_s:
                a_call = 1e3 / self.calls
                return (
                    f"limited by the host {formats}: {_milliseconds((host_s - gpu_s) * a_call)} a"
                    f" denoiser call ({_milliseconds(host_s * a_call)} to launch it,"
                    f" {_milliseconds(gpu_s * a_call)} on the GPU)"
                )
        return ""

    def to_json(self) -> dict[str, Any]:
        """Every field but `steps_lost_s`, and the seconds that the GPU waits."""
        waits = {"bf16_lost_s": self.bf16_lost_s, "lost_s": self.lost_s}
        data = dataclasses.asdict(self) | waits
        del data["steps_lost_s"]
        return data


def _milliseconds(ms: float) -> str:
    """Whole milliseconds; below one its first two digits, since 0 ms is nothing."""
    return f"{ms:.0f} ms" if ms >= 1 else f"{ms:.2g} ms"


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class LatencyEstimate(ShortRepr):
    """What a run takes in bf16 and in the given formats.

    Attributes:
        target: The GPU that is priced.
        source: Where the Linears' times come from.
        batch_size: Samples in a run.
        compile_mode: How the run is compiled; "reduce-overhead" replays CUDA graphs.
        runtime: The name of the way of running that the seconds are of (`runtimes`).
        bf16_s: Seconds of the whole run with every Linear in bf16.
        quantized_s: Seconds of the whole run in the given formats.
        linears: One row for each Linear that was called, in the table's order.
        note: A sentence on what the seconds cover and where they come from.
        scale: How the table was scaled; None if it was not.
        interval90: 5 % and 95 % quantiles of the speedup; None if the model gives none.
        memory: Bytes of weights and at the peak; None if they were not estimated.
        host: What the host takes beside the GPU; None if the table does not tell.
        measured_linears: How many Linears of a predicted run cost what they took on the target when
            somebody measured it there; None if nobody did.
    """

    target: str
    source: Source
    batch_size: int
    compile_mode: CompileMode
    runtime: str
    bf16_s: float
    quantized_s: float
    linears: tuple[LinearCost, ...]
    note: str
    scale: ShapeScale | None = None
    interval90: tuple[float, float] | None = None
    memory: MemoryEstimate | None = None
    host: HostTime | None = None
    measured_linears: int | None = None

    @property
    def speedup(self) -> float:
        """bf16_s / quantized_s: above 1 is faster."""
        return self.bf16_s / self.quantized_s

    def to_json(self) -> dict[str, Any]:
        """The JSON of `sensitivity latency`.

        "speedup_interval90", "host", "memory" and "measured_linears" are there if they are known,
        "note" with "measured_linears" or if the table was scaled, "scale" if it was.
        """
        data: dict[str, Any] = {
            "target": self.target,
            "source": self.source,
            "batch_size": self.batch_size,
            "compile_mode": self.compile_mode,
            "runtime": self.runtime,
            "bf16_s": self.bf16_s,
            "quantized_s": self.quantized_s,
            "speedup": self.speedup,
            "linears": [linear.to_json() for linear in self.linears],
        }
        if self.interval90 is not None:
            data["speedup_interval90"] = list(self.interval90)
        if self.host is not None:
            data["host"] = self.host.to_json()
        if self.memory is not None:
            data["memory"] = self.memory.to_json()
        if self.measured_linears is not None:
            data |= {"measured_linears": self.measured_linears, "note": self.note}
        if self.scale is not None:
            data |= {"note": self.note, "scale": dataclasses.asdict(self.scale)}
        return data
