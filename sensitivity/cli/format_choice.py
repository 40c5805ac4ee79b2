"""Which formats can be named on the command line? `QuantizedFormat`.

    QuantizedFormat("int8-rot") == FormatName.INT8_ROT        # True

They are those of `core.format_name.QUANTIZED_FORMATS`, spelled out for typer and the type checker.

What it does not do: say which GPU or consumer has a format.
"""

from enum import StrEnum

from sensitivity.core.format_name import FormatName


class QuantizedFormat(StrEnum):
    """The formats that a Linear can be quantized to; bf16 is what skipped Linears keep."""

    NVFP4 = FormatName.NVFP4.value
    MXFP8 = FormatName.MXFP8.value
    FP8 = FormatName.FP8.value
    INT8 = FormatName.INT8.value
    NVFP4_4O6 = FormatName.NVFP4_4O6.value
    INT8_ROT = FormatName.INT8_ROT.value
    FP8_LB = FormatName.FP8_LB.value
    NVFP4_A16 = FormatName.NVFP4_A16.value
    MXFP8_A16 = FormatName.MXFP8_A16.value
    FP8_A16 = FormatName.FP8_A16.value
    INT8_A16 = FormatName.INT8_A16.value
