"""What are the number formats called, and the few words that other rooms share with them?

    parse_formats(["nvfp4", "fp8"])     # (FormatName.NVFP4, FormatName.FP8)
    FormatName.BF16.is_quantized        # False
    skipped({"a": FormatName.BF16, "b": FormatName.FP8})     # ["a"]

The arithmetic of each format is in the room `formats`.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Literal, Protocol, TypeVar

from sensitivity.core.words import did_you_mean
from sensitivity.errors import FormatError

Granularity = Literal["group", "layer"]
"""What a search decides on: groups of Linears that change format together, or single Linears."""
Source = Literal["predicted", "measured"]
"""Where a number comes from: a model of the hardware, or a run on it."""
CompileMode = Literal["reduce-overhead", "default"]
"""The mode of `torch.compile`; reduce-overhead records CUDA graphs."""


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


QUANTIZED_FORMATS = tuple(name for name in FormatName if name.is_quantized)


def parse_formats(names: Sequence[str]) -> tuple[FormatName, ...]:
    """The quantized formats of these names, without repeats, in the order given. One name may stand
    for a list of one.

    Raises:
        FormatError: a name is not a quantized format, or there is none.
    """
    names = (names,) if isinstance(names, str) else names
    expected = f"expected one or more of {', '.join(QUANTIZED_FORMATS)}"
    for name in names:
        if name not in QUANTIZED_FORMATS:
            what = "is what skipped Linears keep" if name == FormatName.BF16 else "is unknown"
            hint = did_you_mean(name, QUANTIZED_FORMATS, otherwise="choose among them")
            raise FormatError(f"`format` {name!r} {what}; {expected}: {hint}")
    if not names:
        raise FormatError(f"no `format` is given; {expected}: choose among them")
    return tuple(dict.fromkeys(FormatName(name) for name in names))


def parse_format(name: str) -> FormatName:
    """The format of this name, bf16 among them. Raises FormatError where it is none."""
    try:
        return FormatName(name)
    except ValueError:
        hint = did_you_mean(str(name), FormatName, otherwise="choose one of them")
        raise FormatError(
            f"unknown format {name!r}; expected one of {', '.join(FormatName)}: {hint}"
        ) from None


class AnyFormat(Protocol):
    """What every format says of itself: those of this tool, and those that only a list names."""

    @property
    def is_quantized(self) -> bool:
        """Whether a Linear in this format is quantized."""


AFormat = TypeVar("AFormat", bound=AnyFormat)


def quantized(formats: Mapping[str, AFormat]) -> dict[str, AFormat]:
    """The Linears (by FQN) that are quantized, with their formats, in the order of `formats`."""
    return {fqn: name for fqn, name in formats.items() if name.is_quantized}


def skipped(formats: Mapping[str, AFormat]) -> list[str]:
    """The Linears (by FQN) that stay bf16, in the order of `formats`."""
    return [fqn for fqn, name in formats.items() if not name.is_quantized]
