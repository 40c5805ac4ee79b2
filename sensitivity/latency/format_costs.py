"""What does each format add to a matrix product? The tables that `kernels` prices with.

Method. A format runs one GEMM (`gemm_format`): that of its plain format, or bf16's where only the
weight is quantized. What comes before and after it is counted in passes over memory. Inside a
compiled block Inductor fuses passes that touch the same numbers. Outside of it every operator of
torchao's Python is a kernel. Those were counted with a dispatch mode on torchao 0.18, each with the
bytes that it reads and writes.

    gemm_format(FormatName.INT8_ROT), gemm_format(FormatName.FP8_A16)       # int8, bf16
    EPILOGUES[FormatName.NVFP4].alone.bytes_an_output                       # 4

What it does not do: know a device, or the time of anything.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from sensitivity.core.format_name import FormatName

ELEMENT_BYTES: Mapping[FormatName, float] = MappingProxyType(
    {
        FormatName.BF16: 2.0,
        FormatName.FP8: 1.0,
        FormatName.INT8: 1.0,
        FormatName.MXFP8: 1 + 1 / 32,
        FormatName.NVFP4: 1 / 2 + 1 / 16,
    }
)
"""Bytes of an element with its block scales: e4m3 and one byte for 32, e2m1 and one byte for 16.
Row scales of FP8 and INT8 are counted apart.
"""
ROW_SCALED = frozenset({FormatName.FP8, FormatName.INT8})
"""Plain formats with one fp32 scale a row."""


class Passes(NamedTuple):
    """Passes over memory, one kernel each.

    Attributes:
        launches: How many.
        bytes_an_element: What they read and write together, for each element.
    """

    launches: int
    bytes_an_element: float


class Epilogue(NamedTuple):
    """What a product needs before its output is finished.

    Attributes:
        alone: The passes of a compiled Linear by itself.
        eager: Those outside of compiled graphs.
        fused_bytes: What the next kernel of a compiled block reads more for each output than a
            finished bf16 output.
    """

    alone: Passes
    eager: Passes
    fused_bytes: float = 0.0


EAGER_PASSES: Mapping[FormatName, Passes] = MappingProxyType(
    {
        FormatName.FP8: Passes(8, 33.0),
        FormatName.INT8: Passes(20, 39.1),
        FormatName.MXFP8: Passes(32, 37.2),
        FormatName.NVFP4: Passes(5, 6.0),
    }
)
"""Eager quantizing, for each element of the input; NVFP4's before MSLK's quantizer."""
EAGER_DEQUANTIZING: Mapping[FormatName, Passes] = MappingProxyType(
    {
        FormatName.FP8: Passes(3, 19.0),
        FormatName.INT8: Passes(5, 19.0),
        FormatName.MXFP8: Passes(10, 8.3),
        FormatName.NVFP4: Passes(30, 124.3),
    }
)
"""Eager dequantizing, for each element of the weight, by plain format."""
EPILOGUES: Mapping[FormatName, Epilogue] = MappingProxyType(
    {
        FormatName.NVFP4: Epilogue(alone=Passes(1, 4), eager=Passes(2, 8)),
        FormatName.INT8: Epilogue(alone=Passes(1, 6), eager=Passes(5, 34), fused_bytes=2),
    }
)
"""Scales and bias after the product, for each element of the output. The GEMM writes bf16; INT8's
writes int32 (`torch._int_mm`), and what applies the scales reads that. Formats that are not here
apply scales and bias inside the GEMM.
"""
NOTES: Mapping[FormatName, str] = MappingProxyType(
    {
        FormatName.INT8_A16: (
            "int8-a16 as `Recipe.apply` runs it, dequantizing; torchao's Int8WeightOnlyConfig,"
            " compiled, takes 10.7 ms for M=512 K=N=3072 on an H200, and bf16 0.02 ms (torch 2.11,"
            " torchao 0.18)"
        )
    }
)
"""Clauses for the notes of estimates. Compiled, torchao's product of bf16 and INT8 codes ran at 0.9
TFLOP/s on an H200, and so `formats.weight_only` dequantizes instead. The likely reason: Inductor
rewrites it to `aten._weight_int8pack_mm` (`fx_passes/quantization.py`), which has a simple kernel
on CUDA since pytorch/pytorch#159325.
"""
OUTPUT_BYTES: Mapping[FormatName, int] = MappingProxyType({FormatName.INT8: 4})
"""Bytes of an element of the GEMM's output where it is not bf16, by plain format."""


def gemm_format(format: FormatName) -> FormatName:
    """The format of both operands of the GEMM that a Linear in a format runs."""
    return FormatName.BF16 if format.is_weight_only else format.plain


def priced_as(format: FormatName) -> FormatName:
    """The format whose seconds a format has: another one for variants that run the same kernels on
    other numbers, four-over-six scales and a bound of FP8's row maxima.
    """
    return format.plain if format in (FormatName.NVFP4_4O6, FormatName.FP8_LB) else format


def epilogue_of(format: FormatName) -> Epilogue | None:
    """What follows a format's product; None if the GEMM writes the finished output."""
    return None if format.is_weight_only else EPILOGUES.get(format.plain)


def notes_on(formats: Iterable[FormatName]) -> list[str]:
    """What has to be said beside a price in these formats: where a kernel that people would take it
    to be for costs something else.
    """
    return [NOTES[name] for name in dict.fromkeys(formats) if name in NOTES]
