"""How does a GPU quantize to MXFP8, NVFP4, FP8 and INT8 in one pass, so that an emulated step keeps
up with a bf16 one?

torchao's primitives, run eagerly, read and write a tensor about twenty times. The kernels here read
it once (NVFP4 twice, since its scale is the whole tensor's) and compute the same numbers. The
formats decide when to call them. Graphs that torch compiles call them inside an opaque operator
(`switchable_linear`).

**Numbers.** The arithmetic is torchao's, in torchao's order: fp32, divisions rounded to nearest, no
fused multiply-add (`enable_fp_fusion=False`). Rounding to a grid is explained in `cpu_kernels`: add
and subtract 1.5 * 2^23 * spacing. Maxima are taken over the bits of |x|, which order like |x| and
put NaN above everything.

Conventions: x is (rows, K), bf16, contiguous, on CUDA, K a multiple of the block. Values come back
in bf16, exact, block scales folded in. Zeros, NaN and inf behave as in torchao (`_base`). Numbers
below 2^-100 may underflow differently. The tests hold the kernels to torchao bit for bit: in
Triton's interpreter (`tests/formats/test_triton_kernels.py`) and on a GPU (`tests/gpu`). What it
does not do: choose the device, call torchao, or differentiate.

    values = quantize_mxfp8(x)                # x: (4608, 3072)
    values, scale = quantize_nvfp4(x)
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

ELEMENTS = 4096  # of one program of the blockwise kernels
ROW_CHUNK = 4096  # of one step along a row
EXACT = {"enable_fp_fusion": False}


@triton.jit
def _bits(x):
    """|x| of bf16 as fp32 bits: int32 that orders like |x|, NaN above all."""
    return x.to(tl.float32).to(tl.int32, bitcast=True) & 0x7FFFFFFF


@triton.jit
def _round(y, lowest: tl.constexpr, magic: tl.constexpr):
    """fp32 rounded to a floating-point grid, ties to even.

    `lowest` is the grid's least normal power of two, `magic` 1.5 * 2^(23 - mantissa bits).
    """
    power = (y.to(tl.int32, bitcast=True) & 0x7F800000).to(tl.float32, bitcast=True)
    c = tl.maximum(power, lowest) * magic
    return (y + c) - c


@triton.jit
def _nearest_bf16(y):
    """fp32 rounded to the nearest bf16 number, ties to even, still fp32.

    A cast to bf16 would do on a GPU; Triton's interpreter truncates there.
    """
    bits = y.to(tl.int32, bitcast=True)
    return tl.where(
        y != y, y, ((bits + 0x7FFF + ((bits >> 16) & 1)) & -65536).to(tl.float32, bitcast=True)
    )


@triton.jit
def _mxfp8(x_ptr, out_ptr, numel, BLOCKS: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * (BLOCKS * 32) + (
        tl.arange(0, BLOCKS)[:, None] * 32 + tl.arange(0, 32)[None, :]
    )
    x = tl.load(x_ptr + at, mask=at < numel, other=0.0)
    descale = tl.div_rn(tl.max(_bits(x), axis=1).to(tl.float32, bitcast=True), 448.0)
    bits = descale.to(tl.int32, bitcast=True)
    exponent = ((bits + 0x7FFFFF) >> 23) - 127  # of the power of two that is not below it
    exponent = tl.minimum(tl.maximum(exponent, -127), 127)
    inverse = tl.where(
        exponent == 127, 2.0**-127, ((127 - exponent) << 23).to(tl.float32, bitcast=True)
    )
    inverse = tl.where(exponent == -127, 1.0, inverse)
    inverse = tl.where(descale != descale, descale, inverse)
    y = x.to(tl.float32) * inverse[:, None]
    y = tl.where(y > 448.0, 448.0, tl.where(y < -448.0, -448.0, y))
    scale = tl.where(
        exponent == -127, 2.0**-127, ((exponent + 127) << 23).to(tl.float32, bitcast=True)
    )
    tl.store(
        out_ptr + at,
        (_round(y, 2.0**-6, 1.5 * 2.0**20) * scale[:, None]).to(tl.bfloat16),
        mask=at < numel,
    )


@triton.jit
def _amax(x_ptr, out_ptr, numel, SIZE: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    tl.atomic_max(out_ptr, tl.max(_bits(tl.load(x_ptr + at, mask=at < numel, other=0.0)), axis=0))


@triton.jit
def _nvfp4(x_ptr, amax_ptr, out_ptr, numel, BLOCKS: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * (BLOCKS * 16) + (
        tl.arange(0, BLOCKS)[:, None] * 16 + tl.arange(0, 16)[None, :]
    )
    x = tl.load(x_ptr + at, mask=at < numel, other=0.0)
    whole = tl.div_rn(tl.load(amax_ptr).to(tl.float32, bitcast=True), 2688.0)
    scale = tl.div_rn(tl.div_rn(tl.max(_bits(x), axis=1).to(tl.float32, bitcast=True), 6.0), whole)
    scale = _round(tl.minimum(tl.maximum(scale, 2.0**-6), 448.0), 2.0**-6, 1.5 * 2.0**20)
    y = x.to(tl.float32) * tl.div_rn(tl.div_rn(1.0, whole), scale)[:, None]
    y = tl.where(y > 6.0, 6.0, tl.where(y < -6.0, -6.0, y))
    tl.store(
        out_ptr + at,
        (_round(y, 1.0, 1.5 * 2.0**22) * scale[:, None]).to(tl.bfloat16),
        mask=at < numel,
    )


@triton.jit
def _row_amax(x_ptr, row, k, SIZE: tl.constexpr):
    """The largest |x| of a row as fp32; NaN if it has one."""
    largest = tl.zeros((SIZE,), tl.int32)
    for start in range(0, k, SIZE):
        at = start + tl.arange(0, SIZE)
        largest = tl.maximum(largest, _bits(tl.load(x_ptr + row + at, mask=at < k, other=0.0)))
    return tl.max(largest, axis=0).to(tl.float32, bitcast=True)


@triton.jit
def _fp8_rows(x_ptr, out_ptr, scale_ptr, k, LEAST: tl.constexpr, SIZE: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * k
    amax = _row_amax(x_ptr, row, k, SIZE)
    amax = tl.where(amax < LEAST, LEAST, amax)  # keeps NaN
    scale = _nearest_bf16(tl.div_rn(amax, 448.0))  # torchao divides in bf16
    tl.store(scale_ptr + tl.program_id(0), scale)
    for start in range(0, k, SIZE):
        at = start + tl.arange(0, SIZE)
        y = tl.div_rn(tl.load(x_ptr + row + at, mask=at < k, other=0.0).to(tl.float32), scale)
        y = tl.where(y > 448.0, 448.0, tl.where(y < -448.0, -448.0, y))
        tl.store(
            out_ptr + row + at,
            _round(y, 2.0**-6, 1.5 * 2.0**20).to(out_ptr.dtype.element_ty),
            mask=at < k,
        )


@triton.jit
def _int8_rows(x_ptr, out_ptr, scale_ptr, k, SIZE: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * k
    scale = _nearest_bf16(tl.div_rn(_row_amax(x_ptr, row, k, SIZE), 127.5))
    scale = tl.where(scale < 2.0**-23, 2.0**-23, scale)
    tl.store(scale_ptr + tl.program_id(0), scale)
    inverse = tl.div_rn(1.0, scale)
    for start in range(0, k, SIZE):
        at = start + tl.arange(0, SIZE)
        y = tl.load(x_ptr + row + at, mask=at < k, other=0.0).to(tl.float32) * inverse
        y = (y + 1.5 * 2.0**23) - 1.5 * 2.0**23  # to the nearest integer, ties to even
        y = tl.where(y > 127.0, 127.0, tl.where(y < -128.0, -128.0, y))
        y = tl.where(y != y, 0.0, y)
        tl.store(out_ptr + row + at, y.to(tl.int8), mask=at < k)


@triton.jit
def _finish(
    product_ptr,
    out_ptr,
    rows_ptr,
    columns_ptr,
    bias_ptr,
    n,
    BY_ROW: tl.constexpr,
    BY_COLUMN: tl.constexpr,
    BIAS: tl.constexpr,
    SIZE: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * SIZE + tl.arange(0, SIZE)
    y = tl.load(product_ptr + row * n + at, mask=at < n, other=0.0) * tl.load(
        rows_ptr + (row if BY_ROW else 0)
    )
    if BY_COLUMN:
        y = y * tl.load(columns_ptr + at, mask=at < n, other=0.0)
    if BIAS:
        y = y + tl.load(bias_ptr + at, mask=at < n, other=0.0).to(tl.float32)
    tl.store(out_ptr + row * n + at, _nearest_bf16(y).to(tl.bfloat16), mask=at < n)


def quantize_mxfp8(x: Tensor) -> Tensor:
    """x: (rows, K), K % 32 == 0. Returns values (rows, K)."""
    out = torch.empty_like(x)
    _mxfp8[(triton.cdiv(x.numel(), ELEMENTS),)](x, out, x.numel(), BLOCKS=ELEMENTS // 32, **EXACT)
    return out


def quantize_nvfp4(x: Tensor) -> tuple[Tensor, Tensor]:
    """x: (rows, K), K % 16 == 0. Returns values (rows, K) and the tensor's scale, () fp32, NaN for
    a tensor of zeros.
    """
    out, bits = torch.empty_like(x), torch.zeros((), dtype=torch.int32, device=x.device)
    grid = (triton.cdiv(x.numel(), ELEMENTS),)
    _amax[grid](x, bits, x.numel(), SIZE=ELEMENTS)
    _nvfp4[grid](x, bits, out, x.numel(), BLOCKS=ELEMENTS // 16, **EXACT)
    amax = bits.view(torch.float32)
    # A tensor, since CUDA multiplies by the reciprocal of a Python number, at times an ulp off.
    whole = amax / torch.full_like(amax, 2688.0)
    return out, torch.where(amax == 0, torch.nan, whole)


def quantize_fp8_rows(
    x: Tensor, *, codes: bool = False, lower_bound: float | None = None
) -> tuple[Tensor, Tensor]:
    """x: (rows, K). Returns values (rows, K), in bf16 or as e4m3 `codes`, and scales (rows, 1).

    lower_bound: what the largest value of a row counts as at least, in bf16, as torchao clamps.
    """
    least = 0.0 if lower_bound is None else torch.tensor(lower_bound).bfloat16().item()
    out = torch.empty_like(x, dtype=torch.float8_e4m3fn if codes else torch.bfloat16)
    scale = torch.empty(x.shape[0], 1, dtype=torch.float32, device=x.device)
    _fp8_rows[(x.shape[0],)](x, out, scale, x.shape[1], LEAST=least, SIZE=_row_size(x), **EXACT)
    return out, scale


def quantize_int8_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """x: (rows, K). Returns codes (rows, K) int8 and scales (rows, 1)."""
    out = torch.empty_like(x, dtype=torch.int8)
    scale = torch.empty(x.shape[0], 1, dtype=torch.float32, device=x.device)
    _int8_rows[(x.shape[0],)](x, out, scale, x.shape[1], SIZE=_row_size(x), **EXACT)
    return out, scale


def _row_size(x: Tensor) -> int:
    """How many elements of a row one step of a kernel reads."""
    return min(ROW_CHUNK, int(triton.next_power_of_2(x.shape[1])))


def scale_and_round(
    product: Tensor, scale: Tensor, columns: Tensor | None, bias: Tensor | None
) -> Tensor:
    """bf16(product * scale * columns + bias), each step in fp32.

    Args:
        product: (rows, N) fp32, contiguous.
        scale: () or (rows, 1) fp32.
        columns: (N,) fp32, or None.
        bias: (N,), or None.
    """
    rows, n = product.shape
    out = torch.empty(rows, n, dtype=torch.bfloat16, device=product.device)
    size = min(2048, triton.next_power_of_2(n))
    _finish[(rows, triton.cdiv(n, size))](
        product,
        out,
        scale,
        product if columns is None else columns,
        product if bias is None else bias,
        n,
        BY_ROW=scale.numel() > 1,
        BY_COLUMN=columns is not None,
        BIAS=bias is not None,
        SIZE=size,
        **EXACT,
    )
    return out
