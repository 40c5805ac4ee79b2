"""How does a CPU quantize to MXFP8, NVFP4, FP8 and INT8 fast enough to search with?

torchao's primitives unpack codes bit by bit, in many passes over memory. The kernels here compute
the same numbers in a few vectorised passes. The formats decide when to call them, and call
torchao's primitives for everything else (other devices, compiled graphs, unusual inputs).

**Rounding.** To round y to a grid of spacing u (a power of two), add and subtract a large c:

    c = 1.5 * 2^23 * u

fp32 numbers near y + c are u apart, so the addition itself rounds to nearest, ties to even, and the
subtraction is exact. A floating-point grid with m mantissa bits has u = p * 2^-m, where p is the
power of two below |y| (its exponent bits), but at least the smallest normal p_min. Hence

    c = p * 1.5 * 2^(23-m)

with m = 1, p_min = 1 for e2m1 and m = 3, p_min = 2^-6 for e4m3. bf16 has 16 bits fewer, so there
c = p * 1.5 * 2^(7-m). MXFP8 uses that: its scales are powers of two, so x is rounded in place on
the grid (scale * e4m3) and never divided.

**Block maxima.** |x| as int16 bits orders like |x|. A running maximum over shifted, contiguous
copies (8, 4, 2, 1 elements) leaves the maximum of every block of 16 at its first element. These are
log2(16) fully vectorised passes, twice as fast as a reduction along an axis of 16.

**Memory.** Work goes through chunks of about `CHUNK_ELEMENTS`, so that intermediate arrays stay in
cache.

Conventions: x is (rows, K), bf16, contiguous, on the CPU, K a multiple of the block. Results are
torchao's bit for bit (`tests/formats` holds them to that), with one exception: the sign of a zero
is not kept (-0.1 may round to +0.0, where a code would say -0.0), which no sum or product can show.
What it does not do: choose the device, call torchao, or differentiate.

    fast = quantize_nvfp4(x)        # (values, scale), or None where torchao's primitives must do it
                                    # x: (2304, 192): 0.3 ms on 2 cores, 3.3 ms in torchao
"""

from collections.abc import Iterator

import torch
from torch import Tensor

CHUNK_ELEMENTS = 448 * 1024
"""Elements of one chunk. Two fp32 arrays of it (3.5 MiB) stay in the L2 and L3 caches of one CPU.
Timed fastest of 2^14 to 2^21.
"""

F32_EXPONENT = 0x7F800000
BF16_EXPONENT = 0x7F80
BF16_MAGNITUDE = 0x7FFF
E4M3_MAX = 448.0
E4M3_MIN_NORMAL = 2.0**-6
E2M1_MAX = 6.0
ROUND_E2M1 = 1.5 * 2.0**22
ROUND_E4M3 = 1.5 * 2.0**20
ROUND_E4M3_IN_BF16 = 1.5 * 2.0**4
INT8_MIN, INT8_MAX, INT8_HALF_RANGE = -128.0, 127.0, 127.5
INT8_LEAST_SCALE = 2.0**-23
SAFE_MIN = 2.0**-60
SAFE_MAX = 2.0**100
"""Between these magnitudes no intermediate of the fast kernels over- or underflows."""


def _row_chunks(rows: int, k: int) -> Iterator[slice]:
    """Even slices of rows, each of at most about CHUNK_ELEMENTS elements (at least one row)."""
    count = max(1, -(-rows * k // CHUNK_ELEMENTS))
    size = -(-rows // count)
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))


def _block_amax_bits(x: Tensor, block: int) -> Tensor:
    """The bits of the largest |x| of each block, (rows, K / block) int16; NaN counts as larger than
    inf. x: (rows, K) bf16.
    """
    rows, k = x.shape
    bits = x.view(torch.int16).view(-1)
    result = torch.empty(rows * k // block, dtype=torch.int16)
    work: Tensor | None = None
    for chunk in _row_chunks(rows, k):
        lo, hi = chunk.start * k, chunk.stop * k
        if work is None:
            work = torch.empty(2, hi - lo, dtype=torch.int16)
        source, target = work[0, : hi - lo], work[1, : hi - lo]
        torch.bitwise_and(bits[lo:hi], BF16_MAGNITUDE, out=source)
        valid, step = hi - lo, block // 2
        while step:
            torch.maximum(source[: valid - step], source[step:valid], out=target[: valid - step])
            source, target = target, source
            valid -= step
            step //= 2
        result[lo // block : hi // block] = source[:valid:block]
    return result.view(rows, k // block)


def _round_(y: Tensor, exponents: Tensor, *, p_min: float, magic: float) -> Tensor:
    """Round fp32 y in place to a floating-point grid, as the module's docstring explains.

    exponents: fp32 scratch of the same shape.
    """
    torch.bitwise_and(y.view(torch.int32), F32_EXPONENT, out=exponents.view(torch.int32))
    exponents.clamp_(min=p_min)
    return y.add_(exponents, alpha=magic).sub_(exponents, alpha=magic)


def round_to_e2m1_(y: Tensor) -> Tensor:
    """Round fp32 numbers of -6 to 6 to e2m1 in place, ties to even; on any device."""
    return _round_(y, torch.empty_like(y), p_min=1.0, magic=ROUND_E2M1)


def quantize_nvfp4(x: Tensor) -> tuple[Tensor, Tensor] | None:
    """NVFP4 of (rows, K) bf16: values = code * block scale, (rows, K) bf16, and the per-tensor
    scale, () fp32.

    None where this arithmetic is not proved equal to torchao's: NaN, inf, all zeros, or a largest
    magnitude outside [SAFE_MIN, SAFE_MAX].

    Formulas of torchao's `nvfp4_quantize` with two-level scales: tensor scale T = amax / (448 * 6);
    block scale s = e4m3(clamp(bmax / 6 / T, 2^-6, 448)); code = e2m1(x * ((1 / T) / s)). No clamp
    to 6 is needed: s is at most half a step of e4m3 too small, so |code| <= 6.4 before rounding.
    """
    rows, k = x.shape
    blocks = k // 16
    block_amax = _block_amax_bits(x, 16).view(torch.bfloat16).float()
    amax = block_amax.max()
    if not SAFE_MIN <= amax.item() <= SAFE_MAX:
        return None
    tensor_scale = amax / (E4M3_MAX * E2M1_MAX)
    scale = block_amax.div_(E2M1_MAX).div_(tensor_scale).clamp_(E4M3_MIN_NORMAL, E4M3_MAX)
    _round_(scale, torch.empty_like(scale), p_min=E4M3_MIN_NORMAL, magic=ROUND_E4M3)
    reciprocal = (1.0 / tensor_scale) / scale
    values = torch.empty_like(x)
    work: Tensor | None = None
    for chunk in _row_chunks(rows, k):
        count = chunk.stop - chunk.start
        if work is None:
            work = torch.empty(2, count, blocks, 16)
        y, exponents = work[0, :count], work[1, :count]
        torch.mul(x[chunk].view(count, blocks, 16), reciprocal[chunk].unsqueeze(-1), out=y)
        _round_(y, exponents, p_min=1.0, magic=ROUND_E2M1)
        values[chunk].view(count, blocks, 16).copy_(y.mul_(scale[chunk].unsqueeze(-1)))
    return values, tensor_scale


def quantize_mxfp8(x: Tensor) -> Tensor | None:
    """MXFP8 of (rows, K) bf16: values = code * block scale, (rows, K) bf16.

    None where this arithmetic is not proved equal to torchao's: NaN, inf, a magnitude above
    SAFE_MAX, or a block that is not zero and lies below SAFE_MIN.

    Formulas of torchao's `to_mx` with ScaleCalculationMode.RCEIL: block scale
    2^ceil(log2(bmax / 448)), code = e4m3(x / scale). 448 is 1.75 * 2^8, so adding 0x1F to the 7
    mantissa bits of bmax carries into its exponent exactly when bmax > 1.75 * 2^e.
    """
    rows, k = x.shape
    blocks = k // 32
    block_amax = _block_amax_bits(x, 32)
    magnitudes = block_amax.view(torch.bfloat16)
    if not magnitudes.max().item() <= SAFE_MAX or bool(
        ((magnitudes > 0) & (magnitudes < SAFE_MIN)).any()
    ):
        return None
    # The bits of p_min * scale = 2^-6 * 2^-8 * 2^ceil: 14 less in the exponent. A zero block gets 0
    # and stays zero.
    smallest_normal = (
        block_amax.add_(0x1F).bitwise_and_(BF16_EXPONENT).sub_(14 << 7).clamp_(min=0).unsqueeze(-1)
    )
    values = torch.empty_like(x)
    work: Tensor | None = None
    for chunk in _row_chunks(rows, k):
        count = chunk.stop - chunk.start
        if work is None:
            work = torch.empty(count, blocks, 32, dtype=torch.int16)
        exponents = work[:count]
        torch.bitwise_and(
            x[chunk].view(torch.int16).view(count, blocks, 32), BF16_EXPONENT, out=exponents
        )
        torch.maximum(exponents, smallest_normal[chunk], out=exponents)
        p = exponents.view(torch.bfloat16).view(count, k)
        torch.add(x[chunk], p, alpha=ROUND_E4M3_IN_BF16, out=values[chunk]).sub_(
            p, alpha=ROUND_E4M3_IN_BF16
        )
    return values


def _row_amax(x: Tensor) -> Tensor:
    """The largest |x| of each row, (rows, 1) bf16; NaN if the row has one. x: (rows, K) bf16."""
    bits = torch.bitwise_and(x.view(torch.int16), BF16_MAGNITUDE)
    return bits.amax(dim=-1, keepdim=True).view(torch.bfloat16)


def quantize_fp8_rows(x: Tensor, lower_bound: float | None = None) -> tuple[Tensor, Tensor]:
    """FP8 of (rows, K) bf16: codes as fp32 numbers, (rows, K), and the fp32 scale of each row,
    (rows, 1).

    Formulas of torchao's `_choose_scale_float8` and `_quantize_affine_float8`: scale = amax / 448
    **rounded to bf16**, code = e4m3(clamp(x / scale, -448, 448)). A row of zeros has scale 0 and
    codes 0 / 0 = NaN, in torchao and here, unless a `lower_bound` keeps amax from being 0.
    """
    rows, k = x.shape
    amax = _row_amax(x)
    if lower_bound is not None:
        amax = amax.clamp(min=lower_bound)
    scale = (amax / E4M3_MAX).float()
    codes = torch.empty(rows, k)
    exponents: Tensor | None = None
    for chunk in _row_chunks(rows, k):
        count = chunk.stop - chunk.start
        if exponents is None:
            exponents = torch.empty(count, k)
        y = torch.div(x[chunk], scale[chunk], out=codes[chunk]).clamp_(-E4M3_MAX, E4M3_MAX)
        _round_(y, exponents[:count], p_min=E4M3_MIN_NORMAL, magic=ROUND_E4M3)
    return codes, scale


def quantize_int8_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """INT8 of (rows, K) bf16: codes, (rows, K) int8, and the fp32 scale of each row, (rows, 1).

    Formulas of torchao's `Int8Tensor.from_hp` (symmetric, a row at a time): scale = max(amax /
    127.5, 2^-23), **rounded to bf16**, code = clamp(round(x * (1 / scale)), -128, 127), ties to
    even. NaN or inf in a row makes its scale so, and 0 the code of what is not finite.
    """
    rows, k = x.shape
    scale = (_row_amax(x) / INT8_HALF_RANGE).clamp(min=INT8_LEAST_SCALE).float()
    reciprocal = 1.0 / scale
    codes = torch.empty(rows, k, dtype=torch.int8)
    work: Tensor | None = None
    for chunk in _row_chunks(rows, k):
        count = chunk.stop - chunk.start
        if work is None:
            work = torch.empty(count, k)
        y = torch.mul(x[chunk], reciprocal[chunk], out=work[:count])
        codes[chunk] = y.round_().nan_to_num_(0.0).clamp_(INT8_MIN, INT8_MAX)
    return codes, scale
