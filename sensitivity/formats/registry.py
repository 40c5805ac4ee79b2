"""The one instance of each format, by name."""

from sensitivity.core.format_name import FormatName
from sensitivity.errors import FormatError
from sensitivity.formats._base import Format
from sensitivity.formats.bf16 import BF16
from sensitivity.formats.fp8 import FP8
from sensitivity.formats.mxfp8 import MXFP8
from sensitivity.formats.nvfp4 import NVFP4

_FORMATS: dict[FormatName, Format] = {fmt.name: fmt for fmt in (BF16(), MXFP8(), NVFP4(), FP8())}


def get_format(name: FormatName | str) -> Format:
    """The format of this name. Raises FormatError, naming the formats that exist, for another."""
    try:
        return _FORMATS[FormatName(name)]
    except ValueError:
        known = ", ".join(_FORMATS)
        raise FormatError(
            f"unknown format {str(name)!r}; expected one of {known}: choose one of them"
        ) from None
