"""How are quantized operands multiplied with fp32 accumulation and one rounding?

Two ways, which give the same kind of result:

- `fused_linear` is one bf16 GEMM. oneDNN keeps the whole sum in fp32, multiplies by alpha, adds the
  bias and rounds once. It serves where the outer scale is one number. `fused_linear_is_exact` tests
  whether this CPU really rounds once, and `fits_fused_linear` whether the operands allow it.
- `product_fp32` returns the product in fp32, and `scale_and_round` applies scales and bias and
  rounds. It serves every device and every scale.

Conventions: a is (rows, K), b is (N, K), every element exact in bf16. What it does not do: choose
between the two (the formats do), quantize, or differentiate.

    y = scale_and_round(product_fp32(a, b), (scale,), bias)     # bf16(a @ b.T * scale + bias)

`linear_a16` multiplies quantized numbers with an activation that is not quantized.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn

from sensitivity.formats.kernel_choice import is_eager_cpu, is_eager_cuda, load_triton_kernels


def product_fp32(a: Tensor, b: Tensor) -> Tensor:
    """a @ b.T, accumulated and returned in fp32: (rows, N). On any device.

    Args:
        a: (rows, K).
        b: (N, K).
    """
    if a.is_cuda:
        return torch.mm(a, b.t(), out_dtype=torch.float32)
    if is_eager_cpu(a):
        with _bf16_products(), torch.autocast("cpu", enabled=False):
            return torch.mm(a.float(), b.float().t())
    return nn.functional.linear(a.float(), b.float())


def scale_and_round(product: Tensor, scales: tuple[Tensor, ...], bias: Tensor | None) -> Tensor:
    """bf16(product * scales + bias), computed in fp32 and rounded once.

    Args:
        product: (rows, N) fp32.
        scales: fp32, each broadcasts to the product.
        bias: (N,), or None.
    """
    if scales and is_eager_cuda(product):
        rows, *columns = scales
        return cast(
            Tensor,
            load_triton_kernels().scale_and_round(
                product, rows, columns[0].flatten() if columns else None, bias
            ),
        )
    for scale in scales:
        product = product * scale
    if bias is not None:
        product = product + bias.float()
    return product.bfloat16()


def fits_fused_linear(a: Tensor, b: Tensor, bias: Tensor | None) -> bool:
    """Whether `fused_linear` computes this product on this machine with one rounding."""
    return (
        is_eager_cpu(a)
        and a.dtype == b.dtype == torch.bfloat16
        and (bias is None or bias.dtype == torch.bfloat16)
        and fused_linear_is_exact()
    )


def fused_linear(a: Tensor, b: Tensor, bias: Tensor | None, *, alpha: float = 1.0) -> Tensor:
    """bf16(alpha * a @ b.T + bias): accumulated, scaled and added in fp32, rounded once.

    With alpha = 1 these are the calls of torchao's emulated MX linear (`_addmm_mx_dispatch`), so
    the results have the same bits.

    Args:
        a: (rows, K) bf16.
        b: (N, K) bf16.
        bias: (N,) bf16, or None.
        alpha: the product of the operands' outer scales.
    """
    if bias is not None:
        return torch.addmm(bias, a, b.t(), alpha=alpha)
    if alpha == 1.0:
        return torch.mm(a, b.t())
    return torch.addmm(a.new_zeros(1), a, b.t(), beta=0.0, alpha=alpha)


def linear_a16(x: Tensor, values: Tensor, scale: Tensor | None, bias: Tensor | None) -> Tensor:
    """bf16(x @ (values * scale).T + bias), accumulated, scaled and added in fp32, rounded once: a
    quantized weight and an activation that is not quantized (W x A16).

    Args:
        x: (rows, K) bf16.
        values: (N, K), each exact in bf16.
        scale: fp32, of the weight: None, () or (N, 1).
        bias: (N,), or None.
    """
    if scale is None or scale.dim() == 0:
        values = values.to(x.dtype)
        alpha = 1.0 if scale is None else float(scale) if is_eager_cpu(scale) else None
        if alpha is not None and fits_fused_linear(x, values, bias):
            return fused_linear(x, values, bias, alpha=alpha)
        return scale_and_round(product_fp32(x, values), () if scale is None else (scale,), bias)
    if x.is_cuda:
        values = values.to(x.dtype)
    columns = (torch.ones((), device=x.device), scale.t())  # no scale for rows
    return scale_and_round(product_fp32(x, values), columns, bias)


@functools.lru_cache(maxsize=1)
def fused_linear_is_exact() -> bool:
    """Whether this CPU's bf16 GEMM rounds only once.

    It is tested with small integers: their products are exact in fp32, so there is one right
    answer.
    """
    generator = torch.Generator().manual_seed(0)

    def integers(rows: int, columns: int) -> Tensor:
        return torch.randint(-8, 9, (rows, columns), generator=generator).bfloat16()

    for rows in (1, 3, 64):
        a, b, bias = integers(rows, 192), integers(64, 192), integers(1, 64)[0] * 0.375
        product = a.float() @ b.float().t()  # at most 14 bits
        # 16 bits after scaling: exact in fp32, in any order, with or without fma
        for alpha in (1.0, 0.375):
            for addend in (None, bias):
                expected = alpha * product if addend is None else alpha * product + addend.float()
                if not torch.equal(fused_linear(a, b, addend, alpha=alpha), expected.bfloat16()):
                    return False
    return True


@contextmanager
def full_precision_reductions() -> Iterator[None]:
    """On CUDA: bf16 GEMMs that split K add the parts in fp32, so that there is one rounding."""
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_bf16_reduced_precision_reduction
    matmul.allow_bf16_reduced_precision_reduction = False
    try:
        yield
    finally:
        matmul.allow_bf16_reduced_precision_reduction = before


@contextmanager
def _bf16_products() -> Iterator[None]:
    """Let oneDNN multiply fp32 operands as bf16 with an fp32 result. It loses nothing for operands
    that are exact in bf16. The setting is restored at the end.

    The setting belongs to the process, not to the thread: an fp32 GEMM that another thread runs
    meanwhile may be rounded to bf16.
    """
    flags = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = flags.fp32_precision
    flags.fp32_precision = "bf16"
    try:
        yield
    finally:
        flags.fp32_precision = before
