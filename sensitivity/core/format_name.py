"""The names of the formats, and the words that go with a latency: its source and the compile mode."""

import difflib
from collections.abc import Mapping
from enum import StrEnum
from typing import Literal

from sensitivity.errors import FormatError

Granularity = Literal["group", "layer"]

Source = Literal["predicted", "measured"]
CompileMode = Literal["reduce-overhead", "default"]


class FormatName(StrEnum):
    """The number formats that a Linear can run in.

    `bf16` is not quantized. `mxfp8`: e4m3 codes, one e8m0 scale for 32 values along K. `nvfp4`:
    e2m1 codes, one e4m3 scale for 16 values along K and one fp32 scale a tensor. `fp8`: e4m3 codes,
    one fp32 scale a row. Weights and activations are both quantized, activations at run time.
    """

    BF16 = "bf16"
    MXFP8 = "mxfp8"
    NVFP4 = "nvfp4"
    FP8 = "fp8"

    @property
    def is_quantized(self) -> bool:
        """Whether a Linear in this format is quantized: all but bf16."""
        return self is not FormatName.BF16


QUANTIZED_FORMATS = tuple(name for name in FormatName if name is not FormatName.BF16)


def parse_formats(names: list[str]) -> tuple[FormatName, ...]:
    """The formats to search, without repeats, in the order given.

    Raises:
        FormatError: a name is no quantized format, or none is given.
    """
    allowed = ", ".join(QUANTIZED_FORMATS)
    for name in names:
        if name not in QUANTIZED_FORMATS:
            what = "is what skipped Linears keep" if name == FormatName.BF16 else "is unknown"
            closest = difflib.get_close_matches(name, QUANTIZED_FORMATS, n=1)
            hint = f"did you mean {closest[0]}?" if closest else "choose one or more of them"
            raise FormatError(f"--format {name!r} {what}; allowed are {allowed}: {hint}")
    if not names:
        raise FormatError(f"no format given; allowed are {allowed}: choose one or more of them")
    return tuple(dict.fromkeys(FormatName(name) for name in names))


def quantized(formats: Mapping[str, FormatName]) -> dict[str, FormatName]:
    """The Linears (by FQN) that are quantized, with their formats, in the order of `formats`."""
    return {fqn: name for fqn, name in formats.items() if name.is_quantized}


def skipped(formats: Mapping[str, FormatName]) -> list[str]:
    """The Linears (by FQN) that stay bf16, in the order of `formats`."""
    return [fqn for fqn, name in formats.items() if not name.is_quantized]
