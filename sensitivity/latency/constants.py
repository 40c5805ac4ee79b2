"""What do today's kernels reach of a chip's limits? The few constants of the predicted latency,
each with its meaning and its source.

`benchmarks/calibrate_latency.py` fits the constants of a chip to measured rows, prints residuals
and leave-one-out errors, and writes `fit_b200.json` and others. The numbers below are its output.

    BLACKWELL.pass_ramp_us
    HOPPER.replaced({"pass_ramp_us": 3.0})
    AMPERE.unfitted_sds["int8_matmul"]
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
        int8_matmul: As `fp8_matmul`, for an INT8 GEMM (`torch._int_mm`).
        rotation_bandwidth: Part of the memory bandwidth at which an activation is rotated. It
            includes what the quantizing behind it loses, which is fused into no norm then.
        dequantize_bandwidth: The same for dequantizing a weight to bf16, compiled.
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
        int8_sd: Standard deviation of the logarithm of `int8_matmul` where no fit has it.
        rotation_sd: The same of `rotation_bandwidth`.
        dequantize_sd: The same of `dequantize_bandwidth`.
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
    int8_matmul: float
    rotation_bandwidth: float
    dequantize_bandwidth: float
    attention: float
    fusion_bandwidth: float
    linear_sd: float
    rest_sd: float
    shape_sd: float
    saving_sd: float
    int8_sd: float
    rotation_sd: float
    dequantize_sd: float

    @property
    def unfitted_sds(self) -> Mapping[str, float]:
        """The constants that no shipped fit has, with the standard deviations of their logarithms.

        They stand apart from `PRIOR_SDS`, since samples of the other constants are drawn in its
        order.
        """
        return {
            "int8_matmul": self.int8_sd,
            "rotation_bandwidth": self.rotation_sd,
            "dequantize_bandwidth": self.dequantize_sd,
        }

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
    int8_matmul=0.44,
    rotation_bandwidth=0.34,
    dequantize_bandwidth=0.484,
    attention=0.536,
    fusion_bandwidth=0.568,
    linear_sd=0.05,
    rest_sd=0.2,
    shape_sd=0.09,
    saving_sd=0.05,
    int8_sd=0.5,
    rotation_sd=0.4,
    dequantize_sd=0.4,
)
"""B200 and its siblings, fitted to 267 GEMMs and quantizers of public benchmarks, then to 15 square
Linears and 9 runs of FLUX.1-dev on a B200.

The deviations are stated. linear_sd and rest_sd: bf16 runs of FLUX.1-dev without an anchor come out
within 0.2 %, but they are of one model. shape_sd: GEMM rows that were left out with their source.
saving_sd: speedups of FLUX.1-dev come out within 3.0 % (a tenth of the saving) if no run of it is
fitted.

Not measured: int8_matmul and rotation_bandwidth are Hopper's. `torch._int_mm` may find no kernels
that were made for these chips: on a GB300 it ran Ampere's (pytorch/pytorch#187094).
dequantize_bandwidth is that of the slowest compiled pass that was fitted, MXFP8's quantizer, which
is the same work the other way round. Hopper's pass from FP8 is nearly twice as fast. Guesses like
these three were off by a factor of two on Hopper, so the deviations are wide.
"""

HOPPER = dataclasses.replace(
    BLACKWELL,
    sustained_matmul=0.728,
    isolated_matmul=0.73,
    fp8_matmul=0.922,
    int8_matmul=0.44,
    rotation_bandwidth=0.34,
    dequantize_bandwidth=0.84,
    epilogue_us=1.3,
    gemm_ramp_us=3.34,
    pass_ramp_us=1.87,
    read_bandwidth=0.831,
    pass_bandwidth=0.776,
    attention=0.629,
    fusion_bandwidth=0.775,
    shape_sd=0.07,
    saving_sd=0.12,
    int8_sd=0.2,
    rotation_sd=0.25,
    dequantize_sd=0.2,
)
"""H100 and H200, fitted to 80 Linears of FLUX.1-dev timed behind their producers on an H100, and to
its denoiser end to end (batch 1 and 4). What Hopper has no kernels for is as on a B200. The rows
of an H200 showed what kernels with scales do with few tiles (`epilogue_us`); they were not fitted.

int8_matmul, rotation_bandwidth and dequantize_bandwidth are from single rows of one H200 (torch
2.11, torchao 0.18, CUDA 13.0, `benchmarks/format_variants.py`, 29 November 2026): Linears behind
their producers, without the producer, under steady load and rested together. Bare INT8 products
reach 0.37 and 0.48 of what bf16's part of the peak allows (M x K x N 512 x 3072 x 3072 and
4608 x 3072 x 12288), so INT8 is slower than bf16. Rotations add what a pass at 0.35 and 0.34 of
the bandwidth takes. Dequantizing FP8 reads and writes at 0.79 (K x N 3072 x 18432), 1.06 (3072 x
3072, which stays in the L2 cache) and 0.89 (3072 x 12288). The values are means, weighted by how
much of a row each decides; the deviations are wide enough for these rows, and for shapes and
formats that were not timed.

The deviations are stated. shape_sd: rows of a (K, N) that were left out. saving_sd: runs save up to
a quarter more than their shapes do, at batch 4.
"""
AMPERE = dataclasses.replace(
    HOPPER, int8_matmul=0.922, int8_sd=0.25, rotation_sd=0.4, dequantize_sd=0.3
)
"""Ampere and Ada, on which nothing was measured: Hopper's constants, but for INT8.

int8_matmul is the part that FP8 reaches on Hopper (`fp8_matmul`), not INT8's: cuBLAS has kernels
made for Ampere, which `torch._int_mm` was seen to run even on a GB300 (pytorch/pytorch#187094). It
says 0.67 of the INT8 peak for large products; published CUTLASS products on an A100 reach 0.74 to
0.80 (sgl-project/sglang#2752, M = 2048). The deviations are wider than Hopper's, since all of this
is taken over.
"""

FITTED: Mapping[str, KernelConstants] = MappingProxyType({"b200": BLACKWELL, "h100": HOPPER})
"""The chips whose constants were fitted to measurements on them; `posterior` has the samples."""
