"""How does one Linear compute in a format that it is not stored in?

`emulated_linear` takes any activation and a quantized weight, and uses the format's own arithmetic.

    fmt = as_run_on(FormatName.MXFP8, weight.device)
    y = emulated_linear(x, fmt.quantize_weight(weight), bias, fmt)      # (..., K) -> (..., N)

FP8 is not emulated on a GPU that supports it: there it runs as torchao runs it. What it does not
do: hold weights (`switch` does), or give latencies.
"""

from typing import Any

import torch
from torch import Tensor

from sensitivity.core.arithmetic import Arithmetic
from sensitivity.core.format_name import FormatName
from sensitivity.formats._base import Format, QuantizedOperand
from sensitivity.formats.fp8 import HardwareFP8
from sensitivity.formats.kernel_choice import has_triton, is_eager_cpu
from sensitivity.formats.last_result import LastResult
from sensitivity.formats.served import CompiledHardwareFP8, format_in

_HARDWARE_FP8: dict[Arithmetic, Format] = {
    Arithmetic.EAGER: HardwareFP8(),
    Arithmetic.COMPILED: CompiledHardwareFP8(),
}

_last_activation = LastResult[QuantizedOperand]()


def as_run_on(
    name: FormatName, device: torch.device, arithmetic: Arithmetic = Arithmetic.EAGER
) -> Format:
    """The format as a search runs it on `device`: FP8 by the GPU's own GEMM where there is one, all
    else emulated.

    Raises:
        FormatError: the arithmetic of this format is not known exactly.
    """
    emulated = format_in(name, arithmetic)
    if name is FormatName.FP8 and _has_fp8(device):
        return _HARDWARE_FP8[arithmetic]
    return emulated


def _has_fp8(device: torch.device) -> bool:
    """Whether FP8 products run on `device` itself."""
    hardware = _HARDWARE_FP8[Arithmetic.EAGER]
    return device.type == "cuda" and has_triton() and hardware.native_refusal(device) is None


def arithmetic_on(device: str, arithmetic: Arithmetic = Arithmetic.EAGER) -> Any:
    """What identifies the arithmetic of quantized Linears on a device, for the keys of scores.

    1 means eager torchao's, emulated with the CPU's kernels or torchao's primitives.
    """
    where = torch.device(device)
    if where.type != "cuda" or not has_triton():
        found: Any = 1
    else:
        found = {
            "quantizers": "triton",
            "fp8": "native" if _has_fp8(where) else "emulated",
        }
    return found if arithmetic is Arithmetic.EAGER else {"arithmetic": arithmetic, "on": found}


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
        rows = _last_activation.of(x, f"{fmt.name} {fmt.arithmetic}", quantize)
    else:
        rows = quantize()
    return fmt.linear(rows, weight, bias).view(*lead, n)
