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

    `bf16` is not quantized. In the **plain** formats weights and activations are both quantized,
    activations at run time. `mxfp8`: e4m3 codes, one e8m0 scale for 32 values along K. `nvfp4`:
    e2m1 codes, one e4m3 scale for 16 values along K and one fp32 scale a tensor. `fp8`: e4m3 codes,
    one fp32 scale a row. `int8`: integers from -128 to 127, one fp32 scale a row.

    The others are **variants** of these. `nvfp4-4o6`: the scale of each block of the weight maps
    its largest value to 4 or to 6, whichever errs less ("four over six"). `int8-rot`: weight and
    activation are multiplied by a Hadamard matrix along K before they are quantized. `fp8-lb`: the
    largest value of an activation row counts as 1e-12 at least, so that rows of zeros stay finite
    (torchao's `activation_value_lb`). `-a16`: the weight alone is quantized (W4A16, W8A16).
    """

    BF16 = "bf16"
    MXFP8 = "mxfp8"
    NVFP4 = "nvfp4"
    FP8 = "fp8"
    INT8 = "int8"
    NVFP4_4O6 = "nvfp4-4o6"
    INT8_ROT = "int8-rot"
    FP8_LB = "fp8-lb"
    NVFP4_A16 = "nvfp4-a16"
    MXFP8_A16 = "mxfp8-a16"
    FP8_A16 = "fp8-a16"
    INT8_A16 = "int8-a16"

    @property
    def is_quantized(self) -> bool:
        """Whether a Linear in this format is quantized: all but bf16."""
        return self is not FormatName.BF16

    @property
    def plain(self) -> "FormatName":
        """The plain format that this one is a variant of; a plain one, and bf16, itself."""
        return FormatName(self.value.partition("-")[0])

    @property
    def is_weight_only(self) -> bool:
        """Whether activations are not quantized."""
        return self.value.endswith("-a16")

    @property
    def is_rotated(self) -> bool:
        """Whether weight and activation are rotated along K."""
        return self.value.endswith("-rot")

    @property
    def weight_only(self) -> "FormatName":
        """The format with the same codes for weights and activations in bf16; of bf16, bf16."""
        return FormatName(f"{self.plain}-a16") if self.is_quantized else self


QUANTIZED_FORMATS = tuple(name for name in FormatName if name.is_quantized)
DEFAULT_FORMATS = (FormatName.MXFP8, FormatName.NVFP4, FormatName.FP8)
"""What is meant where nobody names formats: those that servers of today run."""


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
