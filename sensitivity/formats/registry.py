"""The one instance of each format, by name."""

from sensitivity.core.format_name import FormatName
from sensitivity.errors import FormatError
from sensitivity.formats._base import Format
from sensitivity.formats.bf16 import BF16
from sensitivity.formats.four_over_six import FourOverSix
from sensitivity.formats.fp8 import FP8, LOWER_BOUND
from sensitivity.formats.int8 import INT8
from sensitivity.formats.mxfp8 import MXFP8
from sensitivity.formats.nvfp4 import NVFP4
from sensitivity.formats.variant import Rotated, variant_of
from sensitivity.formats.weight_only import WeightOnly

_MXFP8, _NVFP4, _FP8, _INT8 = MXFP8(), NVFP4(), FP8(), INT8()
_FORMATS: dict[FormatName, Format] = {
    fmt.name: fmt
    for fmt in (
        BF16(),
        _MXFP8,
        _NVFP4,
        _FP8,
        _INT8,
        variant_of(FourOverSix, _NVFP4),
        variant_of(Rotated, _INT8),
        FP8(name=FormatName.FP8_LB, lower_bound=LOWER_BOUND),
        WeightOnly(_NVFP4),
        WeightOnly(_MXFP8),
        WeightOnly(_FP8),
        WeightOnly(_INT8),
    )
}


def get_format(name: FormatName | str) -> Format:
    """The format of this name. Raises FormatError, naming the formats that exist, for another."""
    try:
        return _FORMATS[FormatName(name)]
    except ValueError:
        known = ", ".join(_FORMATS)
        raise FormatError(
            f"unknown format {str(name)!r}; expected one of {known}: choose one of them"
        ) from None
