"""What do today's kernels reach of a chip's limits? The few constants of the predicted latency,
each with its meaning and its source.

`benchmarks/calibrate_latency.py` fits the constants of a chip to measured rows, prints residuals
and leave-one-out errors, and writes `fit_b200.json` and others. The numbers below are its output.

    BLACKWELL.pass_ramp_us
    HOPPER.replaced({"pass_ramp_us": 3.0})
"""

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from sensitivity.errors import UserError

MOST_SD = 3.0
"""The largest relative standard deviation that intervals are made of."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KernelConstants:
    """Parts of a chip's limits that kernels reach, and their shortest times.

    "The same" repeats the meaning of the line above.

    Attributes:
        sustained_matmul: Part of the bf16 peak that the chip keeps up on large bf16 GEMMs, where it
            is at its power limit.
        isolated_matmul: The same for a GEMM alone with pauses, where clocks are higher.
        fp8_matmul: Part of its own peak that an FP8 GEMM (a scale for each row) reaches, relative
            to bf16's part of its peak.
        mxfp8_matmul: The same for MXFP8.
        nvfp4_matmul: The same for NVFP4.
        epilogue_us: What a wave of output tiles takes beyond its arithmetic in a GEMM with scales.
        gemm_ramp_us: Time of a GEMM beyond its arithmetic: filling and draining the pipeline, and
            the gap to the next kernel.
        pass_ramp_us: The same for an elementwise or reduction kernel.
        read_bandwidth: Part of the memory bandwidth that GEMMs reach.
        pass_bandwidth: The same for plain elementwise kernels and FP8 quantizers.
        quantize_bandwidth: The same for the compiled MXFP8 quantizer.
        nvfp4_bandwidth: The same for NVFP4's absolute maximum and quantizer.
        attention: Part of the bf16 peak that fused attention reaches.
        fusion_bandwidth: Part of the memory bandwidth at which the denoiser's fused elementwise
            work runs, if it counts as one pass over the input and one over the output of each
            Linear.
        linear_sd: Relative standard deviation of the predicted bf16 Linears, all together, from a
            measured run.
        rest_sd: The same for everything else. Both decide how a measured total is divided.
        shape_sd: Relative standard deviation of the predicted time of one shape in one format: the
            kernel that a library chooses for it is not known.
        saving_sd: Relative standard deviation of the predicted saving of all shapes together,
            beyond that of the fit.
    """

    sustained_matmul: float
    isolated_matmul: float
    fp8_matmul: float
    mxfp8_matmul: float
    nvfp4_matmul: float
    epilogue_us: float
    gemm_ramp_us: float
    pass_ramp_us: float
    read_bandwidth: float
    pass_bandwidth: float
    quantize_bandwidth: float
    nvfp4_bandwidth: float
    attention: float
    fusion_bandwidth: float
    linear_sd: float
    rest_sd: float
    shape_sd: float
    saving_sd: float

    def replaced(self, values: Mapping[str, float]) -> "KernelConstants":
        """A copy with some constants replaced.

        Raises:
            UserError: A constant is unknown, a value is not above 0, or a deviation is over
                `MOST_SD`.
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
            if name.endswith("_sd") and value > MOST_SD:
                raise UserError(
                    f"The kernel constant {name} is {value}; expected a relative standard deviation"
                    f" of at most {MOST_SD}. Correct it, or leave it out."
                )
        return dataclasses.replace(self, **values)


PRIOR_SDS: Mapping[str, float] = MappingProxyType(
    {
        "sustained_matmul": 0.1,
        "isolated_matmul": 0.1,
        "fp8_matmul": 0.15,
        "mxfp8_matmul": 0.15,
        "nvfp4_matmul": 0.15,
        "epilogue_us": 0.6,
        "gemm_ramp_us": 0.3,
        "pass_ramp_us": 0.2,
        "read_bandwidth": 0.05,
        "pass_bandwidth": 0.1,
        "quantize_bandwidth": 0.3,
        "nvfp4_bandwidth": 0.3,
    }
)
"""Standard deviations of the logarithms of the constants of Linears before anything is measured on
a chip. Fits start from them, and a chip without a fit is as uncertain as this.
"""
SHAPE_CORRELATION = 0.4
"""How the errors of a shape's bf16 and quantized time go together: 0.42 and 0.44 in FLUX's shapes
on an H100, each (K, N) predicted from the others.
"""

BLACKWELL = KernelConstants(
    sustained_matmul=0.635,
    isolated_matmul=0.676,
    fp8_matmul=0.988,
    mxfp8_matmul=0.966,
    nvfp4_matmul=0.907,
    epilogue_us=0.409,
    gemm_ramp_us=4.05,
    pass_ramp_us=1.94,
    read_bandwidth=0.883,
    pass_bandwidth=0.857,
    quantize_bandwidth=0.484,
    nvfp4_bandwidth=0.481,
    attention=0.536,
    fusion_bandwidth=0.568,
    linear_sd=0.05,
    rest_sd=0.2,
    shape_sd=0.09,
    saving_sd=0.05,
)
"""B200 and its siblings, fitted to 267 GEMMs and quantizers of public benchmarks, then to 15 square
Linears and 9 runs of FLUX.1-dev on a B200.

The deviations are stated. linear_sd and rest_sd: bf16 runs of FLUX.1-dev without an anchor come out
within 0.2 %, but they are of one model. shape_sd: GEMM rows that were left out with their source.
saving_sd: speedups of FLUX.1-dev come out within 3.0 % (a tenth of the saving) if no run of it is
fitted.
"""

HOPPER = dataclasses.replace(
    BLACKWELL,
    sustained_matmul=0.728,
    isolated_matmul=0.73,
    fp8_matmul=0.922,
    epilogue_us=1.3,
    gemm_ramp_us=3.34,
    pass_ramp_us=1.87,
    read_bandwidth=0.831,
    pass_bandwidth=0.776,
    attention=0.629,
    fusion_bandwidth=0.775,
    shape_sd=0.07,
    saving_sd=0.12,
)
"""H100 and H200, fitted to 80 Linears of FLUX.1-dev timed behind their producers on an H100, and to
its denoiser end to end (batch 1 and 4). What Hopper has no kernels for is as on a B200. The rows
of an H200 showed what kernels with scales do with few tiles (`epilogue_us`); they were not fitted.

The deviations are stated. shape_sd: rows of a (K, N) that were left out. saving_sd: runs save up to
a quarter more than their shapes do, at batch 4.
"""

FITTED: Mapping[str, KernelConstants] = MappingProxyType({"b200": BLACKWELL, "h100": HOPPER})
"""The chips whose constants were fitted to measurements on them; `posterior` has the samples."""
