"""What quantized values and products must be, from the definitions of the formats in float64.

None of the expectations here calls the library's quantizers. There are three kinds: references in
numpy float64, written from the definitions; torchao's own tensors; and, for products, an interval.

The interval: rounding to bf16 is monotone. So an output that is one rounding of a sum computed in
fp32 lies between bf16(r - e) and bf16(r + e), where r is the float64 product of the quantized
operands and e bounds the fp32 error. With unit roundoff u = 2^-24 and n = K + 4 operations (K
products are exact; K - 1 additions, one product of scales, at most two scalings, one bias),
e = n u / (1 - n u) * (sum |a||b| * scales + |bias|), in any order of summation.
"""

import functools

import numpy as np
import torch
from torch import Tensor
from torchao.prototype.mx_formats.config import ScaleCalculationMode
from torchao.prototype.mx_formats.mx_tensor import MXTensor
from torchao.prototype.mx_formats.nvfp4_tensor import NVFP4Tensor, per_tensor_amax_to_scale
from torchao.quantization.quantize_.workflows.float8.float8_tensor import Float8Tensor

from sensitivity.formats import QuantizedOperand
from sensitivity.formats.cpu_kernels import CHUNK_ELEMENTS

QUANTIZED = ["mxfp8", "nvfp4", "fp8"]

# ---- inputs --------------------------------------------------------------------------------------


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Normal deviates in bf16."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def wide(rows: int, k: int, *, seed: int, octaves: float = 40.0) -> Tensor:
    """Numbers of every size: normal deviates times 2^uniform(-octaves, octaves), some exact
    zeros."""
    generator = torch.Generator().manual_seed(seed)
    exponent = (torch.rand(rows, k, generator=generator) - 0.5) * 2 * octaves
    x = torch.randn(rows, k, generator=generator) * torch.exp2(exponent)
    return torch.where(torch.rand(rows, k, generator=generator) < 0.05, 0.0, x).bfloat16()


def any_bits(rows: int, k: int, *, seed: int) -> Tensor:
    """Uniform over all 65536 bf16 patterns: denormals, inf and NaN too."""
    bits = torch.randint(
        -(2**15), 2**15, (rows, k), generator=torch.Generator().manual_seed(seed), dtype=torch.int32
    )
    return bits.to(torch.int16).view(torch.bfloat16)


@functools.cache
def corner_cases() -> dict[str, Tensor]:
    """Inputs at which a quantizer may go wrong, by name. K is 192, or 960, or 32."""
    one_zero_row = normal(17, 192)
    one_zero_row[3] = 0
    outlier = normal(17, 192)
    outlier[5, 7] = 3e4
    with_nan, with_inf = normal(17, 192), normal(17, 192)
    with_nan[2, 40] = float("nan")
    with_inf[2, 40] = float("-inf")
    every_amax = torch.zeros(2**15, 32, dtype=torch.bfloat16)
    every_amax[:, 9] = torch.arange(2**15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    every_amax[:, 10] = every_amax[:, 9] * 0.3
    return {
        "normal": normal(256, 192),
        "one row": normal(1, 960),
        "wide": wide(96, 192, seed=1),
        "a little wide": wide(96, 192, seed=2, octaves=6),
        "integers, many ties": (normal(64, 192) * 5).round(),
        "any bits": any_bits(64, 192, seed=3),
        "any bits, one row": any_bits(1, 192, seed=4),
        "denormals": normal(17, 192) * 2.0**-130,
        "tiny": normal(17, 192) * 2.0**-118,
        "huge": normal(17, 192) * 2.0**120,
        "block scales underflow": torch.cat([normal(1, 192), normal(16, 192) * 2.0**-20]),
        "zero row": one_zero_row,
        "zeros": torch.zeros(3, 192, dtype=torch.bfloat16),
        "outlier": outlier,
        "nan": with_nan,
        "inf": with_inf,
        "every block maximum": every_amax,
        "more than one chunk": normal(CHUNK_ELEMENTS // 192 * 2 + 5, 192),
    }


# ---- definitions, in float64 ---------------------------------------------------------------------


def step(v: np.ndarray, *, mantissa: int, min_normal: float) -> np.ndarray:
    """The spacing of a floating-point grid at v."""
    _, exponent = np.frexp(np.abs(v))
    return np.maximum(np.ldexp(1.0, exponent - 1), min_normal) * 2.0**-mantissa


def to_grid(v: np.ndarray, *, mantissa: int, min_normal: float, largest: float) -> np.ndarray:
    """Nearest number of a grid, ties to even, saturated."""
    u = step(v, mantissa=mantissa, min_normal=min_normal)
    return np.clip(np.rint(v / u) * u, -largest, largest)


def near_tie(v: np.ndarray, *, mantissa: int, min_normal: float) -> np.ndarray:
    """Where v lies so near a midpoint that fp32 arithmetic before it may choose the other
    neighbour.
    """
    q = v / step(v, mantissa=mantissa, min_normal=min_normal)
    return np.abs(q - np.floor(q) - 0.5) < 1e-5


E4M3 = {"mantissa": 3, "min_normal": 2.0**-6}
E2M1 = {"mantissa": 1, "min_normal": 1.0}


def round_bf16(v: np.ndarray) -> np.ndarray:
    """float64 to the nearest bf16, ties to even, in one rounding (via float32 there would be
    two)."""
    fraction, exponent = np.frexp(v)
    return np.ldexp(np.rint(fraction * 256), exponent - 8)


def blocks_of(x: Tensor, size: int) -> np.ndarray:
    """x: (rows, K). Returns float64 (rows, K / size, size)."""
    return x.double().numpy().reshape(x.shape[0], -1, size)


def reference_mxfp8(x: Tensor) -> np.ndarray:
    """Values: the smallest power of two that brings the block's maximum to 448 or less (OCP MX 1.0
    with NVIDIA's scale rule), then e4m3.
    """
    v = blocks_of(x, 32)
    amax = np.abs(v).max(-1, keepdims=True)
    fraction, exponent = np.frexp(np.where(amax == 0, 1.0, amax) / 448)
    scale = np.ldexp(1.0, np.where(fraction == 0.5, exponent - 1, exponent))
    return (to_grid(v / scale, **E4M3, largest=448) * scale).reshape(x.shape)


def reference_nvfp4(x: Tensor) -> tuple[np.ndarray, float, np.ndarray]:
    """Values (without the tensor's scale), the tensor's scale, and a mask of values that no
    near-tie touches.
    """
    v = blocks_of(x, 16)
    tensor_scale = np.abs(v).max() / (448 * 6)
    ideal = np.clip(np.abs(v).max(-1, keepdims=True) / 6 / tensor_scale, 2.0**-6, 448)
    scale = to_grid(ideal, **E4M3, largest=448)
    quotient = v / (scale * tensor_scale)
    sure = ~near_tie(quotient, **E2M1) & ~near_tie(ideal, **E4M3)
    return (
        (to_grid(quotient, **E2M1, largest=6) * scale).reshape(x.shape),
        tensor_scale,
        sure.reshape(x.shape),
    )


def reference_fp8(x: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes, the rows' scales (torchao computes them in bf16), and a mask of codes that no near-tie
    touches.
    """
    v = x.double().numpy()
    scale = round_bf16(np.abs(v).max(-1, keepdims=True) / 448)
    quotient = np.clip(v / scale, -448, 448)
    return to_grid(quotient, **E4M3, largest=448), scale, ~near_tie(quotient, **E4M3)


# ---- torchao's tensors ---------------------------------------------------------------------------


def torchao_operand(name: str, x: Tensor) -> QuantizedOperand:
    """What torchao's tensor classes dequantize to, before scales that are applied after the
    product.
    """
    if name == "mxfp8":
        q = MXTensor.to_mx(x, torch.float8_e4m3fn, 32, scaling_mode=ScaleCalculationMode.RCEIL)
        return QuantizedOperand(values=q.dequantize(torch.bfloat16), scale=None)
    if name == "nvfp4":
        q = NVFP4Tensor.to_nvfp4(
            x, per_tensor_scale=per_tensor_amax_to_scale(torch.max(torch.abs(x)))
        )
        scale, q.per_tensor_scale = q.per_tensor_scale, None
        return QuantizedOperand(values=q.dequantize(torch.float32), scale=scale)
    q = Float8Tensor.from_hp(x)
    return QuantizedOperand(values=q.qdata.float(), scale=q.scale)


# ---- products ------------------------------------------------------------------------------------


def interval(
    x: QuantizedOperand, w: QuantizedOperand, bias: Tensor | None, scales: Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """The bf16 numbers between which one rounding of an fp32 sum lies.

    scales: (rows, N) float64, of both operands.
    """
    a, b = x.values.double(), w.values.double()
    offset = torch.zeros(b.shape[0]).double() if bias is None else bias.double()
    exact = a @ b.t() * scales + offset
    n = a.shape[1] + 4
    error = n * 2.0**-24 / (1 - n * 2.0**-24) * (a.abs() @ b.abs().t() * scales + offset.abs())
    return round_bf16((exact - error).numpy()), round_bf16((exact + error).numpy())


def scales_of(x: QuantizedOperand, w: QuantizedOperand) -> Tensor:
    """The outer scales of both operands as one factor of the product, (rows, N) float64."""
    factor = torch.ones(x.values.shape[0], w.values.shape[0]).double()
    for scale in (x.scale, None if w.scale is None else w.scale.t()):
        if scale is not None:
            factor = factor * scale.double()
    return factor


def assert_one_rounding(
    found: Tensor, x: QuantizedOperand, w: QuantizedOperand, bias: Tensor | None
) -> None:
    """Fail unless every output is one rounding of the fp32 product of the operands."""
    low, high = interval(x, w, bias, scales_of(x, w))
    out = found.reshape(low.shape).double().numpy()
    assert ((low <= out) & (out <= high)).all()


def assert_same(found: Tensor, expected: Tensor) -> None:
    """Fail unless both hold the same numbers; NaN equals NaN."""
    torch.testing.assert_close(found.float(), expected.float(), rtol=0, atol=0, equal_nan=True)
