"""The arithmetic of the number formats, emulated exactly or run by native kernels.

get_format("nvfp4").refusal(k=40, n=64, dtype=torch.bfloat16)
# "K = 40 is not a multiple of 32, as nvfp4 needs"
"""

from sensitivity.formats._base import Format, QuantizedOperand
from sensitivity.formats.registry import get_format

__all__ = ["Format", "QuantizedOperand", "get_format"]
