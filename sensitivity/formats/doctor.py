"""Which formats run natively here, what is missing for that, and how is it installed? `examine`.

    for name, found in examine("cuda").items():
        found.is_native, found.reason, found.missing

Method. The compute capability decides first. Where it allows a format, one small Linear is run and
compared with emulation (`native_formats`), since a quantizer may be missing or broken. A missing
package is named with the command that installs it. A variant runs where its plain format does, so
only plain formats are tried; weight-only formats are never run natively here.

What it does not do: install anything.
"""

from dataclasses import dataclass

import torch

from sensitivity.core.arithmetic import Arithmetic
from sensitivity.core.format_name import QUANTIZED_FORMATS, FormatName
from sensitivity.core.words import first_line
from sensitivity.formats import mslk
from sensitivity.formats.kernel_choice import has_triton
from sensitivity.formats.native_formats import WEIGHT_ONLY, native_format
from sensitivity.formats.registry import get_format


@dataclass(frozen=True, kw_only=True, slots=True)
class Examined:
    """What was found of one format.

    Attributes:
        reason: Why it does not run natively; None if it does.
        missing: {package: what it is for, and how it is installed}, of packages that would make the
            format run or run faster on this device.
    """

    reason: str | None
    missing: dict[str, str]

    @property
    def is_native(self) -> bool:
        """Whether it runs natively."""
        return self.reason is None


def examine(device: str) -> dict[FormatName, Examined]:
    """Look at every quantized format on a device ("cpu", "cuda", "cuda:1")."""
    where = torch.device(device)
    if where.type == "cuda" and where.index is None:
        where = torch.device("cuda", torch.cuda.current_device())
    plain = {
        name: _examine(name, where) for name in dict.fromkeys(n.plain for n in QUANTIZED_FORMATS)
    }
    return {name: _variant(name, plain[name.plain], where) for name in QUANTIZED_FORMATS}


def _variant(name: FormatName, plain: Examined, device: torch.device) -> Examined:
    """What holds for a variant, from what was found of its plain format."""
    if name is name.plain:
        return plain
    if name.is_weight_only:
        return Examined(reason=get_format(name).native_refusal(device) or WEIGHT_ONLY, missing={})
    reason = get_format(name).native_refusal(device) or plain.reason
    return Examined(reason=reason, missing=plain.missing)


def _examine(name: FormatName, device: torch.device) -> Examined:
    reason = get_format(name).native_refusal(device)
    if reason is not None:
        return Examined(reason=reason, missing={})
    missing = {}
    if name is FormatName.NVFP4 and (advice := mslk.advice()) is not None:
        missing["mslk"] = advice
    if not has_triton():
        missing["triton"] = "triton is missing: quantizers are slow; run `pip install triton`"
    try:
        found = native_format(name, device, Arithmetic.EAGER)
    except (RuntimeError, AssertionError, ImportError) as error:
        found = first_line(error)
    return Examined(reason=found if isinstance(found, str) else None, missing=missing)
