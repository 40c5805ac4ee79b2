"""By which kernels, and in whose arithmetic, are the pictures of a study drawn? `Execution`.

    execution = Execution(device="cuda", formats=(FormatName.FP8, FormatName.NVFP4))
    execution.kernels       # {FP8: native, NVFP4: emulated} on an H100
    execution.words         # "(fp8 by native kernels, nvfp4 by emulation)"
    execution.reasons       # {NVFP4: "nvfp4 needs compute capability 10.0 or higher, ..."}

**Keys.** `key` is part of the key of every score, so that scores of the two kinds are never taken
for one another. It is that of earlier versions where their numbers were the same: MXFP8 and NVFP4
emulated, and FP8 by the GPU's own GEMM where there is one.

What it does not do: run anything but the small Linears of `native_formats`.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from sensitivity.core.arithmetic import Arithmetic
from sensitivity.core.format_name import DEFAULT_FORMATS, FormatName
from sensitivity.core.kernels import Kernels, in_words, summary
from sensitivity.formats import mslk
from sensitivity.formats._base import EMULATE
from sensitivity.formats.emulation import arithmetic_on, changed_kernels
from sensitivity.formats.native_formats import native_format


@dataclass(frozen=True, kw_only=True, slots=True)
class Execution:
    """How quantized Linears are computed.

    Attributes:
        device: where torch runs.
        formats: the formats that are drawn.
        arithmetic: the runtime whose numbers are computed.
        emulate: whether formats are emulated that the device has natively.
    """

    device: str
    formats: tuple[FormatName, ...] = DEFAULT_FORMATS
    arithmetic: Arithmetic = Arithmetic.EAGER
    emulate: bool = False

    @property
    def reasons(self) -> dict[FormatName, str]:
        """Why formats are emulated, of those that are."""
        if self.emulate:
            return dict.fromkeys(self.formats, "`emulate` is on")
        where = torch.device(self.device)
        found = {name: native_format(name, where, self.arithmetic) for name in self.formats}
        return {name: reason for name, reason in found.items() if isinstance(reason, str)}

    @property
    def kernels(self) -> dict[FormatName, Kernels]:
        """What draws each format."""
        emulated = self.reasons
        return {
            name: Kernels.EMULATED if name in emulated else Kernels.NATIVE for name in self.formats
        }

    def kernels_of(self, formats: Collection[FormatName]) -> dict[FormatName, Kernels]:
        """What draws each of these formats; of all if none of these is quantized."""
        own = self.kernels
        return {name: own[name] for name in self.formats if name in formats} or own

    def summary_of(self, formats: Mapping[str, FormatName]) -> Kernels:
        """One word for a skip-list, {FQN: format}: native where each of its formats is."""
        return summary(self.kernels_of(set(formats.values())))

    @property
    def words(self) -> str:
        """What draws the pictures, in words."""
        return in_words(self.kernels)

    def describe(self) -> str:
        """One line: what draws the pictures, why a format is emulated, and what would make pictures
        faster.
        """
        native = [name for name, own in self.kernels.items() if own is Kernels.NATIVE]
        parts = [f"{', '.join(native)} by native kernels"] * bool(native)
        for name, reason in self.reasons.items():
            parts.append(f"{name} by emulation ({reason.removesuffix(f': {EMULATE}')})")
        if (
            any(name.plain is FormatName.NVFP4 for name in native)
            and (advice := mslk.advice()) is not None
        ):
            parts.append(advice)
        return f"pictures: {'; '.join(parts)}"

    @property
    def key(self) -> Any:
        """What identifies it, for the keys of scores."""
        return arithmetic_on(
            self.device, self.arithmetic, emulate=self.emulate, formats=self.formats
        )

    @property
    def changes(self) -> dict[str, str]:
        """What is not as in earlier versions, of its formats and of those that are meant where
        nobody names any; {} where nothing is.
        """
        return changed_kernels(
            self.device,
            self.arithmetic,
            emulate=self.emulate,
            formats=(*DEFAULT_FORMATS, *self.formats),
        )
