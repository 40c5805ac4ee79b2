"""What draws quantized pictures: the kernels that serve the model, or emulation? `Kernels`.

Native kernels are those that torchao calls on the GPU at hand. Emulation multiplies the same
quantized numbers without them (`formats._base`). Each format of a score has one of the two, since a
GPU may have one format and lack another. Scores of the two are never compared.

    summary({FormatName.FP8: Kernels.NATIVE, FormatName.NVFP4: Kernels.EMULATED})    # EMULATED
    in_words({FormatName.FP8: Kernels.NATIVE})                      # "by native kernels"

What it does not do: say what a device has (`formats.native_formats` does).
"""

from collections.abc import Mapping
from enum import StrEnum

from sensitivity.core.format_name import FormatName


class Kernels(StrEnum):
    """What multiplied quantized numbers.

    `native`: the kernels that torchao calls when the model is served on this GPU. `emulated`: other
    kernels, with the same quantized numbers.
    """

    NATIVE = "native"
    EMULATED = "emulated"


def summary(by_format: Mapping[FormatName, Kernels]) -> Kernels:
    """One word for several formats: native where all are native, and there is one."""
    native = bool(by_format) and set(by_format.values()) == {Kernels.NATIVE}
    return Kernels.NATIVE if native else Kernels.EMULATED


def in_words(by_format: Mapping[FormatName, Kernels] | Kernels) -> str:
    """What drew pictures: "by native kernels", "by emulation", or where formats differ, each one's
    in parentheses.
    """
    if isinstance(by_format, Kernels):
        return "by native kernels" if by_format is Kernels.NATIVE else "by emulation"
    if len(set(by_format.values())) > 1:
        parts = (f"{name} {in_words(kernels)}" for name, kernels in by_format.items())
        return f"({', '.join(parts)})"
    return in_words(summary(by_format))


def to_json(by_format: Mapping[FormatName, Kernels]) -> dict[str, object]:
    """`kernels` as JSON states it, with `kernels_by_format` where formats differ."""
    found: dict[str, object] = {"kernels": summary(by_format).value}
    if len(set(by_format.values())) > 1:
        found["kernels_by_format"] = {
            name.value: kernels.value for name, kernels in by_format.items()
        }
    return found
