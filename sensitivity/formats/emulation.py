"""How does one Linear compute in a format that it is not stored in?

`emulated_linear` takes any activation and a quantized weight, and uses the format's own arithmetic.

    fmt = as_run_on(FormatName.MXFP8, weight.device)
    y = emulated_linear(x, fmt.quantize_weight(weight), bias, fmt)      # (..., K) -> (..., N)

Where a device has a format, `as_run_on` gives it by the kernels that serve a model there
(`native_formats`), unless emulation is asked for. What it does not do: hold weights (`switch`
does), or give latencies.
"""

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from sensitivity.core.arithmetic import Arithmetic
from sensitivity.core.format_name import DEFAULT_FORMATS, QUANTIZED_FORMATS, FormatName
from sensitivity.core.kernels import Kernels
from sensitivity.formats import mslk
from sensitivity.formats._base import Format, QuantizedOperand
from sensitivity.formats.kernel_choice import has_triton, is_eager_cpu
from sensitivity.formats.last_result import LastResult
from sensitivity.formats.native_formats import is_native, native_format
from sensitivity.formats.registry import get_format
from sensitivity.formats.served import format_in, is_known

_last_activation = LastResult[QuantizedOperand]()


def as_run_on(
    name: FormatName,
    device: torch.device,
    arithmetic: Arithmetic = Arithmetic.EAGER,
    *,
    emulate: bool = False,
) -> Format:
    """The format as pictures are drawn on `device`: by native kernels where there are some, else
    emulated.

    Args:
        name: the format.
        device: where it runs.
        arithmetic: the runtime whose numbers are computed.
        emulate: keep to emulation.

    Raises:
        FormatError: the arithmetic of this format is not known exactly.
    """
    emulated = format_in(name, arithmetic)
    native = None if emulate else native_format(name, device, arithmetic)
    return native if isinstance(native, Format) else emulated


def changed_kernels(
    device: str,
    arithmetic: Arithmetic = Arithmetic.EAGER,
    *,
    emulate: bool = False,
    formats: Collection[FormatName] = DEFAULT_FORMATS,
) -> dict[str, str]:
    """Which formats are not drawn as they always were, for the keys of results; {} where all are.

    Every version emulated MXFP8 and NVFP4, and ran FP8 by the GPU's own GEMM where there is one.
    """
    where, found = torch.device(device), dict[str, str]()
    for name in QUANTIZED_FORMATS:
        if name not in formats or not is_known(name, arithmetic):
            continue
        native = not emulate and is_native(name, where, arithmetic)
        now = Kernels.NATIVE if native else Kernels.EMULATED
        if now is not _as_it_was(name, where):
            found[name.value] = now.value
    if arithmetic is Arithmetic.MSLK and found.get(FormatName.NVFP4) == Kernels.NATIVE:
        found["mslk"] = mslk.version() or ""
    return found


def arithmetic_on(
    device: str,
    arithmetic: Arithmetic = Arithmetic.EAGER,
    *,
    emulate: bool = False,
    formats: Collection[FormatName] = DEFAULT_FORMATS,
) -> Any:
    """What identifies the arithmetic of quantized Linears on a device, for the keys of scores.

    1 means eager torchao's, emulated with the CPU's kernels or torchao's primitives. The kernels of
    formats that are not among `formats` do not matter.
    """
    where = torch.device(device)
    found: Any = 1
    if where.type == "cuda" and has_triton():
        found = {"quantizers": "triton", "fp8": _as_it_was(FormatName.FP8, where).value}
    changed = changed_kernels(device, arithmetic, emulate=emulate, formats=formats)
    if changed:
        found = ({"quantizers": "torchao"} if found == 1 else found) | changed
    return found if arithmetic is Arithmetic.EAGER else {"arithmetic": arithmetic, "on": found}


def _as_it_was(name: FormatName, where: torch.device) -> Kernels:
    """What drew a format in versions that emulated all but FP8."""
    if name is not FormatName.FP8 or where.type != "cuda" or not has_triton():
        return Kernels.EMULATED
    refused = get_format(name).native_refusal(where) is not None
    return Kernels.EMULATED if refused else Kernels.NATIVE


def emulated_linear(
    x: Tensor, weight: QuantizedOperand, bias: Tensor | None, fmt: Format, *, remember: bool = True
) -> Tensor:
    """Quantize x, multiply it with a quantized weight, and add the bias.

    All rows of x are quantized as one tensor.

    Args:
        x: (..., K) bf16.
        weight: `fmt.quantize_weight` of a weight (N, K).
        bias: (N,), or None.
        fmt: the format.
        remember: on the CPU, keep the quantized x until the next call, for other Linears that read
            the same x (to_q, to_k, to_v). Must be False in compiled graphs: they write into their
            buffers without advancing the version counter.

    Returns:
        (..., N) bf16.
    """
    lead, k, n = x.shape[:-1], x.shape[-1], weight.values.shape[0]
    if x.numel() == 0:
        return x.new_empty(*lead, n)

    def quantize() -> QuantizedOperand:
        return fmt.quantize_activation(x.reshape(-1, k))

    if remember and is_eager_cpu(x):
        rows = _last_activation.of(x, f"{fmt.name} {fmt.arithmetic} {fmt.kernels}", quantize)
    else:
        rows = quantize()
    return fmt.linear(rows, weight, bias).view(*lead, n)


def linear_with_a16(
    x: Tensor, weight: QuantizedOperand, bias: Tensor | None, fmt: Format
) -> Tensor:
    """Multiply x, as it is, with a quantized weight, and add the bias (W x A16).

    Args:
        x: (..., K) bf16.
        weight: `fmt.quantize_weight` of a weight (N, K).
        bias: (N,), or None.
        fmt: the format.

    Returns:
        (..., N) bf16.
    """
    lead, k, n = x.shape[:-1], x.shape[-1], weight.values.shape[0]
    if x.numel() == 0:
        return x.new_empty(*lead, n)
    return fmt.linear_a16(x.reshape(-1, k), weight, bias).view(*lead, n)
