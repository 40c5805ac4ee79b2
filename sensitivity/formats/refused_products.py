"""What becomes of a product whose shape the GPU's kernel refuses? It is emulated, and said once.

A native kernel may refuse a shape that its format takes: FP8 on Hopper with K = 12288, N = 3072, a
bias and M <= 32 ends in `CUBLAS_STATUS_NOT_SUPPORTED`. A search leaves such Linears in bf16 where
the GPU at hand is its target. Pictures may have other M than what is priced, and the target may be
another GPU, so a trial meets such shapes all the same. There the same quantized numbers are
multiplied by emulation: the score has the format's damage, and the trial goes on.

    y = linear_of(x, operand, weight, bias, fmt)        # (..., K) -> (..., N)
    refused_products()      # ("fp8 M=14 K=12288 N=3072 with a bias",)

What it does not do: find refusals beforehand. An error that emulation meets too, and memory that
runs out, are raised.
"""

import logging
from collections.abc import Collection

import torch
from torch import Tensor

from sensitivity.core.format_name import QUANTIZED_FORMATS, FormatName
from sensitivity.core.kernels import Kernels
from sensitivity.core.words import first_line
from sensitivity.errors import SensitivityError
from sensitivity.formats._base import Format, QuantizedOperand
from sensitivity.formats.emulation import emulated_linear
from sensitivity.formats.served import format_in

_Shape = tuple[FormatName, torch.device, int, int, int, bool]
_refused: dict[_Shape, str] = {}
log = logging.getLogger(__name__)


def linear_of(
    x: Tensor,
    operand: QuantizedOperand,
    weight: Tensor,
    bias: Tensor | None,
    fmt: Format,
    *,
    remember: bool = True,
) -> Tensor:
    """The product by the format's kernels, or by emulation where they refuse its shape.

    Args:
        x: (..., K) bf16.
        operand: `fmt.quantize_weight(weight)`.
        weight: (N, K) bf16.
        bias: (N,), or None.
        fmt: the format.
        remember: see `emulated_linear`.

    Returns:
        (..., N) bf16.
    """
    if fmt.kernels is Kernels.EMULATED:
        return emulated_linear(x, operand, bias, fmt, remember=remember)
    (n, k), m = weight.shape, x.numel() // max(1, x.shape[-1])
    shape = (fmt.name, x.device, m, k, n, bias is not None)
    if shape not in _refused:
        try:
            return emulated_linear(x, operand, bias, fmt, remember=remember)
        except (torch.OutOfMemoryError, SensitivityError):
            raise
        except Exception as error:  # whatever torchao, cuBLAS or Triton say
            found = _emulated(x, weight, bias, fmt, remember=remember)
            _note(shape, f"{type(error).__name__}: {first_line(error)}")
            return found
    return _emulated(x, weight, bias, fmt, remember=remember)


def refused_products(formats: Collection[FormatName] = QUANTIZED_FORMATS) -> tuple[str, ...]:
    """The shapes that native kernels of these formats refused in this process, in words."""
    return tuple(_in_words(shape) for shape in _refused if shape[0] in formats)


def forget_refused() -> None:
    """Try refused shapes again."""
    _refused.clear()


def _emulated(
    x: Tensor, weight: Tensor, bias: Tensor | None, fmt: Format, *, remember: bool
) -> Tensor:
    emulated = format_in(fmt.name, fmt.arithmetic)
    operand = emulated.quantize_weight(weight)
    return emulated_linear(x, operand, bias, emulated, remember=remember)


def _note(shape: _Shape, error: str) -> None:
    _refused[shape] = error
    log.warning(
        "the native kernel refused %s (%s): products of this shape are emulated",
        _in_words(shape),
        error,
    )


def _in_words(shape: _Shape) -> str:
    name, _, m, k, n, bias = shape
    return f"{name} M={m} K={k} N={n} {'with' if bias else 'without'} a bias"
