"""How long does a run take on a GPU that is not here? `PredictedLatency`, from shapes and a few
constants.

Method. A Linear is the sum of its kernels (`kernels.py`), and everything else is priced from counts
of the run (`rest_of_run.py`). The constants come from the device (`devices.py`, `constants.py`).

Siblings. One input that feeds q, k and v is quantized three times in NVFP4 and MXFP8: NVFP4's
quantizer is an opaque operator that Inductor does not merge, and MXFP8's published runs fit three
times better than once. FP8's and INT8's quantizing is merged, with the rotation before it. Nothing
of a weight-only format is shared, since each Linear dequantizes its own weight.

Anchor. A measured bf16 total differs from the prediction. The difference goes to Linears and rest
in the ratio of the variances that are stated for the two (`linear_sd`, `rest_sd`).

Interval. The 5 % and 95 % quantiles of the speedup come from what is not known of constants, of the
kernels that libraries choose, and of the run (`uncertainty`).

Runtimes. The GPU's time is priced alike with CUDA graphs and without: the published tables (graphs
at batch 1, none at 4 and 8) do not tell two gaps apart. A runtime that compiles nothing has the
kernels of eager Linears, and nothing of it is fused. What the host takes is priced beside it
(`host`).

    model = PredictedLatency(get_device("b200"))
    model.linear_us(m=4096, k=3072, n=12288, format=FormatName.NVFP4)
    model.why(m=1, k=3072, n=18432, format=FormatName.NVFP4)
"""

import math
from functools import cached_property
from typing import get_args

from sensitivity.core.format_name import CompileMode, FormatName, Source
from sensitivity.errors import UserError
from sensitivity.latency._base import LatencyModel
from sensitivity.latency.constants import KernelConstants
from sensitivity.latency.devices import Device
from sensitivity.latency.format_costs import ROW_SCALED, gemm_format
from sensitivity.latency.kernels import LinearKernels
from sensitivity.latency.posterior import samples_for
from sensitivity.latency.refusals import refusal_of
from sensitivity.latency.rest_of_run import RestOfRun
from sensitivity.latency.runtimes import Runtime, runtime_of
from sensitivity.latency.savings import Savings
from sensitivity.latency.uncertainty import row_intervals90, speedup_interval90
from sensitivity.shapes.table import ShapeTable


class PredictedLatency(LatencyModel):
    """Predicts from a device's limits.

    Args:
        device: The GPU that is priced; `get_device` finds it by name.
        compile_mode: "reduce-overhead" (CUDA graphs) or "default".
        runtime: How the run is run; None is what compiles blocks in `compile_mode`.
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
        runtime: Runtime | None = None,
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
        self._runtime = (runtime or runtime_of(compile_mode)).on_host(device.host_factor)
        self.compile_mode = self._runtime.compile_mode
        self.constants = constants or device.kernels
        self.kernels = LinearKernels(device, self.constants, isolated)
        self.rest = RestOfRun(self.kernels, compiled=self._runtime.compiled != "nothing")
        self._times: dict[tuple[int, int, int, FormatName, bool], float] = {}
        self._reasons: dict[tuple[int, int, int, FormatName, bool], str] = {}
        if not device.calibrated:
            self.covers += f"; the kernel constants were not fitted on {device.name}"

    @property
    def runtime(self) -> Runtime:
        """How the priced run is run."""
        return self._runtime

    def check_format(self, format: FormatName) -> None:
        """Raise FormatError if the device cannot compute in the format (`Device.has`)."""
        self.device.peak_flops_per_s(format)

    def refusal(self, *, m: int, k: int, n: int, bias: bool, format: FormatName) -> str | None:
        """Why the device's kernels refuse a Linear, as shipped data knows (`refusals`)."""
        return refusal_of(self.device, m=m, k=k, n=n, bias=bias, format=format)

    def linear_us(self, *, m: int, k: int, n: int, format: FormatName) -> float:
        """Microseconds of one call in a compiled block: the sum over its kernels.

        Raises:
            FormatError: The device has no such format.
        """
        return self._us(m, k, n, format, compiled=True)

    def eager_us(self, *, m: int, k: int, n: int, format: FormatName) -> float:
        """Microseconds of one call outside the compiled blocks. Raises as `linear_us`.

        With fused quantizers the kernels are those of a compiled Linear.
        """
        return self._us(m, k, n, format, compiled=self._runtime.fused_quantizers)

    def sibling_us(self, *, m: int, k: int, n: int, format: FormatName) -> float:
        """Microseconds of one more Linear on an input that is already quantized.

        Only FP8's and INT8's quantizing is merged (see the module).
        """
        one_us = self._us(m, k, n, format, compiled=True)
        if gemm_format(format) not in ROW_SCALED:
            return one_us
        quantizing = self.kernels.quantize(m, k, format, n=n)
        return one_us - sum(kernel.us for kernel in quantizing) if m else 0.0

    def _us(self, m: int, k: int, n: int, format: FormatName, *, compiled: bool) -> float:
        key = (m, k, n, format, compiled)
        if key not in self._times:
            kernels = self.kernels.of(m=m, k=k, n=n, format=format, compiled=compiled)
            self._times[key] = sum(kernel.us for kernel in kernels)
        return self._times[key]

    def why(self, *, m: int, k: int, n: int, format: FormatName, compiled: bool = True) -> str:
        """A clause on what decides a quantized Linear's gain or loss; "" for bf16 and for M = 0."""
        key = (m, k, n, format, compiled)
        if key not in self._reasons:
            self._reasons[key] = self.kernels.why(m=m, k=k, n=n, format=format, compiled=compiled)
        return self._reasons[key]

    def rest_s(self, table: ShapeTable) -> float:
        """Seconds of everything that is not a Linear of the table; see `rest_of_run`."""
        return self.rest.seconds(table)

    def others_s(self, table: ShapeTable) -> float:
        """Seconds of the components that are no denoisers."""
        return self.rest.others_s(table)

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
        """The 5 % and 95 % quantiles of the speedup (see the module)."""
        return speedup_interval90(self.constants, self._samples, savings)

    def row_intervals90(
        self, *, m: int, k: int, n: int, format: FormatName, compiled: bool = True
    ) -> tuple[tuple[float, float], tuple[float, float]]:
        """(interval of a call's microseconds, interval of its gain over bf16 in microseconds)."""
        return row_intervals90(
            self.constants, self._samples, m=m, k=k, n=n, format=format, compiled=compiled
        )

    @cached_property
    def _samples(self) -> tuple["PredictedLatency", ...]:
        """This model with each sample of its constants; the model alone if there are none."""
        samples = samples_for(self.device, self.constants) or (self.constants,)
        return tuple(
            type(self)(
                self.device,
                runtime=self.runtime,
                isolated=self.kernels.isolated,
                constants=constants,
            )
            for constants in samples
        )
