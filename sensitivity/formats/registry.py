"""The one instance of each format, by name."""

from sensitivity.core.format_name import FormatName
from sensitivity.errors import FormatError
from sensitivity.formats._base import BF16, Format
from sensitivity.formats.fp8 import FP8
from sensitivity.formats.mxfp8 import MXFP8
from sensitivity.formats.nvfp4 import NVFP4

_FORMATS: dict[FormatName, Format] = {fmt.name: fmt for fmt in (BF16(), MXFP8(), NVFP4(), FP8())}


def get_format(name: FormatName | str) -> Format:
    """The format of this name. Raises FormatError, naming the formats that exist, for another."""
    try:
        return _FORMATS[FormatName(name)]
    except ValueError:
        allowed = ", ".join(_FORMATS)
        raise FormatError(
            f"unknown format {str(name)!r}; formats are {allowed}: choose one of them"
        ) from None
