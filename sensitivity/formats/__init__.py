"""The arithmetic of the number formats: emulated exactly, or run by native kernels."""

from sensitivity.formats._base import Format, QuantizedOperand
from sensitivity.formats.registry import get_format

__all__ = ["Format", "QuantizedOperand", "get_format"]
