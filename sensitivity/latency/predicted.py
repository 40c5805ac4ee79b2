"""How long does a run take on a GPU that is not here? `PredictedLatency`, from shapes and a few
constants.

Method. A Linear is the sum of its kernels (`kernels.py`), and everything else is priced from counts
of the run (`rest_of_run.py`). The constants come from the device (`devices.py`, `constants.py`).

Siblings. One input that feeds q, k and v is quantized three times in NVFP4 and MXFP8: NVFP4's
quantizer is an opaque operator that Inductor does not merge, and MXFP8's published runs fit three
times better than once. FP8's quantizing is merged.

Anchor. A measured bf16 total differs from the prediction. The difference goes to Linears and rest
in the ratio of the variances that are stated for the two (`linear_sd`, `rest_sd`).

Interval. The 5 % and 95 % quantiles of the speedup come from samples of the fitted constants
(`posterior.py`) and from the stated deviations of Linears, rest and saving.

CUDA graphs. "reduce-overhead" and "default" are priced alike, since the GPU is the slower side. The
published tables (graphs at batch 1, none at 4 and 8) do not tell two gaps apart. A run that waits
for the CPU is slower than predicted.

    model = PredictedLatency(get_device("b200"))
    model.linear_us(m=4096, k=3072, n=12288, format=FormatName.NVFP4)
    model.why(m=1, k=3072, n=18432, format=FormatName.NVFP4)
"""

import math
import random
from functools import cached_property
from typing import get_args

from sensitivity.core.format_name import CompileMode, FormatName, Source
from sensitivity.errors import UserError
from sensitivity.latency._base import LatencyModel, Savings
from sensitivity.latency.constants import KernelConstants
from sensitivity.latency.devices import Device
from sensitivity.latency.kernels import LinearKernels
from sensitivity.latency.posterior import posterior_samples
from sensitivity.latency.rest_of_run import RestOfRun
from sensitivity.shapes.table import ShapeTable

SPEEDUP_SAMPLES = 200
"""Sampled speedups from which the interval's quantiles are taken."""


class PredictedLatency(LatencyModel):
    """Predicts from a device's limits.

    Args:
        device: The GPU that is priced; `get_device` finds it by name.
        compile_mode: "reduce-overhead" (CUDA graphs) or "default".
        isolated: Whether Linears that stand alone are priced (kernel times, no gaps) instead of
            Linears inside a compiled run.
        constants: Other constants than the device's own, for fits.

    Attributes:
        kernels: The kernels of Linears.
        rest: What is not a Linear.

    Raises:
        UserError: Unknown compile mode.
    """

    source: Source = "predicted"
    covers = "attention and elementwise work are predicted too"

    def __init__(
        self,
        device: Device,
        *,
        compile_mode: CompileMode = "reduce-overhead",
        isolated: bool = False,
        constants: KernelConstants | None = None,
    ) -> None:
        """See the class."""
        if compile_mode not in get_args(CompileMode):
            raise UserError(
                f"The compile mode is {compile_mode!r}; expected one of"
                f" {', '.join(get_args(CompileMode))}. Choose one of these."
            )
        self.device = device
        self.target = device.name
        self.compile_mode = compile_mode
        self.constants = constants or device.kernels
        self.kernels = LinearKernels(device, self.constants, isolated)
        self.rest = RestOfRun(self.kernels)
        self._times: dict[tuple[int, int, int, FormatName, bool], float] = {}
        if not device.calibrated:
            self.covers += f"; the kernel constants were not fitted on {device.name}"

    def check_format(self, format: FormatName) -> None:
        """Raise FormatError if the device has no matrix instructions for the format."""
        self.device.peak_flops_per_s(format)

    def linear_us(self, *, m: int, k: int, n: int, format: FormatName) -> float:
        """Microseconds of one call in a compiled block: the sum over its kernels.

        Raises:
            FormatError: The device has no such format.
        """
        return self._us(m, k, n, format, compiled=True)

    def eager_us(self, *, m: int, k: int, n: int, format: FormatName) -> float:
        """Microseconds of one call outside the compiled blocks. Raises as `linear_us`."""
        return self._us(m, k, n, format, compiled=False)

    def sibling_us(self, *, m: int, k: int, n: int, format: FormatName) -> float:
        """Microseconds of one more Linear on an input that is already quantized.

        Only FP8's quantizing is merged (see the module).
        """
        one_us = self._us(m, k, n, format, compiled=True)
        if format is not FormatName.FP8:
            return one_us
        return (
            one_us - sum(kernel.us for kernel in self.kernels.quantize(m, k, format)) if m else 0.0
        )

    def _us(self, m: int, k: int, n: int, format: FormatName, *, compiled: bool) -> float:
        key = (m, k, n, format, compiled)
        if key not in self._times:
            kernels = self.kernels.of(m=m, k=k, n=n, format=format, compiled=compiled)
            self._times[key] = sum(kernel.us for kernel in kernels)
        return self._times[key]

    def why(self, *, m: int, k: int, n: int, format: FormatName, compiled: bool = True) -> str:
        """A clause on what decides a quantized Linear's gain or loss; "" for bf16 and for M = 0."""
        return self.kernels.why(m=m, k=k, n=n, format=format, compiled=compiled)

    def rest_s(self, table: ShapeTable) -> float:
        """Seconds of everything that is not a Linear of the table; see `rest_of_run`."""
        return self.rest.seconds(table)

    def divide_anchor(
        self, bf16_seconds: float, linears_s: float, rest_s: float
    ) -> tuple[float, float]:
        """Divide a measured bf16 total into (factor on the Linears, seconds of the rest).

        Raises:
            UserError: The total is so far from the prediction that it must be of another run: the
                Linears would be wrong by more than a factor of 2, or no rest would remain.
        """
        linear_var = (self.constants.linear_sd * linears_s) ** 2
        rest_var = (self.constants.rest_sd * rest_s) ** 2
        to_linears_s = (bf16_seconds - linears_s - rest_s) * linear_var / (linear_var + rest_var)
        factor, rest_s = 1 + to_linears_s / linears_s, bf16_seconds - linears_s - to_linears_s
        if not (math.isfinite(bf16_seconds) and 0.5 <= factor <= 2 and rest_s > 0):
            raise UserError(
                f"The measured bf16 run (`bf16_seconds`) takes {bf16_seconds:.4g} s, and its"
                f" Linears alone are predicted to take {linears_s:.4g} s on a {self.target};"
                " expected what such a run can take. Give the seconds of the whole run that was"
                " profiled (all steps, same batch size and target), or leave `bf16_seconds` out."
            )
        return factor, rest_s

    def interval90(self, savings: Savings) -> tuple[float, float] | None:
        """The 5 % and 95 % quantiles of the speedup (see the module).

        A total that was measured stays. How it divides into Linears and rest is then uncertain by
        both deviations together.
        """
        noise = random.Random(0)
        c = self.constants
        speedups = []
        fractions = [savings.fraction(model) for model in self._posterior_models]
        fractions = fractions or [savings.fraction(self)]
        for i in range(SPEEDUP_SAMPLES):
            to_linears, to_rest, to_saving = (noise.gauss(0, 1) for _ in range(3))
            linears_s, rest_s = savings.linears_s, savings.rest_s
            if savings.anchored:
                a, b = c.linear_sd * linears_s, c.rest_sd * rest_s
                total_s = linears_s + rest_s
                linears_s += to_linears * (a * b / math.hypot(a, b) if b else 0.0)
            else:
                linears_s *= math.exp(c.linear_sd * to_linears)
                total_s = linears_s + rest_s * math.exp(c.rest_sd * to_rest)
            saved_s = linears_s * fractions[i % len(fractions)] * (1 + c.saving_sd * to_saving)
            speedups.append(total_s / max(total_s - saved_s, total_s / 100))
        speedups.sort()
        last = SPEEDUP_SAMPLES - 1
        return speedups[round(0.05 * last)], speedups[round(0.95 * last)]

    @cached_property
    def _posterior_models(self) -> tuple["PredictedLatency", ...]:
        """This model with each sample of its constants; () if they were not fitted."""
        return tuple(
            PredictedLatency(
                self.device,
                compile_mode=self.compile_mode,
                isolated=self.kernels.isolated,
                constants=constants,
            )
            for constants in posterior_samples(self.constants)
        )
