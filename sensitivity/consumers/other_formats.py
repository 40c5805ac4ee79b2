"""How is a format called that this tool does not have? `OtherFormat`.

    OtherFormat("int4 weight-only").is_quantized       # True

Consumers have more formats than this tool: int4, int8 and fp8 with one scale a tensor or in groups,
NVFP4 with a low-rank part. A list in such a format still has names that can be checked. It has no
price and no emulation here, and it is never taken for the nearest format of this tool.

Convention: its words are never the name of a format of this tool, since equal texts are equal.

What this module does not do: know which consumer has which format (its reader does).
"""

from sensitivity.core.format_name import FormatName


class OtherFormat(str):
    """A format by the words of its consumer; equal words are one format."""

    __slots__ = ()

    @property
    def value(self) -> str:
        """The words, as `FormatName.value` is the name."""
        return str(self)

    @property
    def is_quantized(self) -> bool:
        """True: no format of this kind is bf16."""
        return True


ListedFormat = FormatName | OtherFormat
"""The format that a list gives to a Linear."""


def weight_only(what: str) -> OtherFormat:
    """The format of weights that are quantized while activations and the product are not."""
    return OtherFormat(f"{what} weight-only")
