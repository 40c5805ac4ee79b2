"""What do today's kernels reach of a chip's limits? The few constants of the predicted latency,
each with its meaning and its source.

`benchmarks/calibrate_latency.py` fits the Blackwell constants to two published tables and to
nothing else: speedups of square Linears, and whole FLUX.1-dev runs on a B200
(`benchmarks/published/`). It prints what it finds with residuals and leave-one-out errors, and the
numbers below are its output. Constants that the tables cannot tell apart are stated here with their
source instead.

    BLACKWELL.gap_us
    HOPPER.replaced({"gap_us": 2.0})
"""

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass

from sensitivity.errors import UserError


@dataclass(frozen=True, kw_only=True, slots=True)
class KernelConstants:
    """Parts of a chip's limits that kernels reach, and their shortest times.

    "The same" repeats the meaning of the line above.

    Attributes:
        sustained_matmul: Part of the bf16 peak that large bf16 GEMMs reach inside a long run, where
            the chip is at its power limit.
        isolated_matmul: The same for a GEMM alone with pauses, where clocks are higher.
        fp8_matmul: Part of its own peak that an FP8 GEMM (a scale for each row) reaches, relative
            to bf16's part of its peak.
        mxfp8_matmul: The same for MXFP8.
        nvfp4_matmul: The same for NVFP4.
        exposed_write: Part of a GEMM's output write that is not hidden behind its arithmetic.
        gemm_ramp_us: Time of a GEMM beyond its arithmetic: filling and draining the pipeline.
        pass_ramp_us: The same for an elementwise or reduction kernel.
        nvfp4_ramp_us: The same for the NVFP4 quantizer (MSLK's Triton kernel).
        gap_us: From the end of a kernel to the work of the next inside a run.
        quantize_bandwidth: Part of the memory bandwidth that compiled FP8 and MXFP8 quantizers
            reach.
        nvfp4_bandwidth: The same for NVFP4's absolute maximum and quantizer.
        pass_bandwidth: The same for plain elementwise kernels.
        attention: Part of the bf16 peak that fused attention reaches.
        fusion_bandwidth: Part of the memory bandwidth at which the denoiser's fused elementwise
            work runs, if it counts as one pass over the input and one over the output of each
            Linear.
        linear_sd: Relative standard deviation of the predicted bf16 Linears, all together, from a
            measured run.
        rest_sd: The same for everything else. Both decide how a measured total is divided.
        saving_sd: Relative standard deviation of the predicted saving, beyond that of the fit.
    """

    sustained_matmul: float
    isolated_matmul: float
    fp8_matmul: float
    mxfp8_matmul: float
    nvfp4_matmul: float
    exposed_write: float
    gemm_ramp_us: float
    pass_ramp_us: float
    nvfp4_ramp_us: float
    gap_us: float
    quantize_bandwidth: float
    nvfp4_bandwidth: float
    pass_bandwidth: float
    attention: float
    fusion_bandwidth: float
    linear_sd: float
    rest_sd: float
    saving_sd: float

    def replaced(self, values: Mapping[str, float]) -> "KernelConstants":
        """A copy with some constants replaced.

        Raises:
            UserError: A constant is unknown, or a value is not above 0.
        """
        names = [field.name for field in dataclasses.fields(self)]
        for name, value in values.items():
            if name not in names:
                closest = difflib.get_close_matches(name, names, n=1)
                hint = f"Did you mean {closest[0]!r}?" if closest else "Choose one of these."
                raise UserError(
                    f"No kernel constant is called {name!r}; expected one of {', '.join(names)}."
                    f" {hint}"
                )
            if not value > 0:
                raise UserError(
                    f"The kernel constant {name} is {value}; expected a number above 0. Correct it"
                    " in the device TOML."
                )
        return dataclasses.replace(self, **values)


BLACKWELL = KernelConstants(
    sustained_matmul=0.634,
    isolated_matmul=0.768,
    fp8_matmul=0.918,
    mxfp8_matmul=0.918,
    nvfp4_matmul=0.992,
    exposed_write=0.5,
    gemm_ramp_us=2.44,
    pass_ramp_us=0.401,
    nvfp4_ramp_us=3.62,
    gap_us=2.66,
    quantize_bandwidth=0.62,
    nvfp4_bandwidth=0.373,
    pass_bandwidth=0.92,
    attention=0.543,
    fusion_bandwidth=0.568,
    linear_sd=0.08,
    rest_sd=0.25,
    saving_sd=0.05,
)
"""B200 and its siblings. All are fitted, except these:

exposed_write is assumed; 0 to 1 changes no prediction by more than 1 %. pass_bandwidth is torchao's
(roofline_utils, pct_achievable_mem_bw). fp8_matmul is taken to be MXFP8's, since nobody published
FP8 there. linear_sd and rest_sd are estimated from what the bf16 runs miss without an anchor (up to
1.7 %, from one model), saving_sd from FLUX's leave-one-out errors (up to 2.3 % of a speedup).
"""

HOPPER = dataclasses.replace(
    BLACKWELL,
    sustained_matmul=0.73,
    isolated_matmul=0.78,
    fp8_matmul=0.98,
    attention=0.6,
    gap_us=1.0,
    fusion_bandwidth=0.8,
    saving_sd=0.1,
)
"""H100 and H200. All are stated, none is fitted:

sustained_matmul and fp8_matmul are from single Linears timed on an H100. isolated_matmul is
torchao's (roofline_utils). attention, fusion_bandwidth and gap_us are from profiles of FLUX.1-dev's
bf16 denoiser compiled on an H100 (cuDNN attention: 440 us for 24 heads of 4608 tokens; Triton
kernels; gaps). Everything else is as on a B200.
"""
