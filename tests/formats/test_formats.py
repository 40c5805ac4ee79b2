"""Formats compute what their definitions say, bit for bit what torchao's primitives say, and round
once.

Three kinds of expectation, none of which calls our quantizers: references in numpy float64 written
from the definitions of the formats; torchao's own tensors; and, for products, an interval. Rounding
to bf16 is monotone, so an output that is one rounding of a sum computed in fp32 lies between bf16(r
- e) and bf16(r + e), where r is the float64 product of the quantized operands and e bounds the fp32
error: with unit roundoff u = 2^-24 and n = K + 4 operations (K products are exact, K - 1 additions,
one product of scales, two scalings or fewer, one bias), e = n u / (1 - n u) * (sum |a||b| * scales
+ |bias|), in any order of summation.
"""

import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchao.prototype.mx_formats import MXDynamicActivationMXWeightConfig
from torchao.prototype.mx_formats.config import ScaleCalculationMode
from torchao.prototype.mx_formats.mx_tensor import MXTensor
from torchao.prototype.mx_formats.nvfp4_tensor import NVFP4Tensor, per_tensor_amax_to_scale
from torchao.quantization import quantize_
from torchao.quantization.quantize_.common.kernel_preference import KernelPreference
from torchao.quantization.quantize_.workflows.float8.float8_tensor import Float8Tensor

from sensitivity.core.format_name import FormatName
from sensitivity.errors import FormatError
from sensitivity.formats import QuantizedOperand, native
from sensitivity.formats import _base as formats
from sensitivity.formats import cpu_kernels as kernels
from sensitivity.formats.emulation import emulated_linear
from sensitivity.formats.native import quantize_native
from sensitivity.formats.registry import get_format

QUANTIZED = ["mxfp8", "nvfp4", "fp8"]
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def wide(rows: int, k: int, *, seed: int, octaves: float = 40.0) -> Tensor:
    """Numbers of every size: normal deviates times 2^uniform(-octaves, octaves), some exact zeros."""
    generator = torch.Generator().manual_seed(seed)
    exponent = (torch.rand(rows, k, generator=generator) - 0.5) * 2 * octaves
    x = torch.randn(rows, k, generator=generator) * torch.exp2(exponent)
    return torch.where(torch.rand(rows, k, generator=generator) < 0.05, 0.0, x).bfloat16()


def any_bits(rows: int, k: int, *, seed: int) -> Tensor:
    """Uniform over all 65536 bf16 patterns: denormals, inf, NaN and all."""
    bits = torch.randint(
        -(2**15), 2**15, (rows, k), generator=torch.Generator().manual_seed(seed), dtype=torch.int32
    )
    return bits.to(torch.int16).view(torch.bfloat16)


def assert_same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found.float(), expected.float(), rtol=0, atol=0, equal_nan=True)


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
    """Where the quotient lies so near a midpoint that fp32 arithmetic on the way may choose the
    other neighbour.
    """
    q = v / step(v, mantissa=mantissa, min_normal=min_normal)
    return np.abs(q - np.floor(q) - 0.5) < 1e-5


E4M3 = {"mantissa": 3, "min_normal": 2.0**-6}
E2M1 = {"mantissa": 1, "min_normal": 1.0}


def round_bf16(v: np.ndarray) -> np.ndarray:
    """float64 to the nearest bf16, ties to even, in one rounding (via float32 there would be two)."""
    fraction, exponent = np.frexp(v)
    return np.ldexp(np.rint(fraction * 256), exponent - 8)


def blocks_of(x: Tensor, size: int) -> np.ndarray:
    return x.double().numpy().reshape(x.shape[0], -1, size)


def reference_mxfp8(x: Tensor) -> np.ndarray:
    """The smallest power of two that brings the block's maximum to 448 or less (OCP MX 1.0 with
    NVIDIA's scale rule), then e4m3.
    """
    v = blocks_of(x, 32)
    amax = np.abs(v).max(-1, keepdims=True)
    fraction, exponent = np.frexp(np.where(amax == 0, 1.0, amax) / 448)
    scale = np.ldexp(1.0, np.where(fraction == 0.5, exponent - 1, exponent))
    return (to_grid(v / scale, **E4M3, largest=448) * scale).reshape(x.shape)


def reference_nvfp4(x: Tensor) -> tuple[np.ndarray, float, np.ndarray]:
    """values (without the tensor's scale), the tensor's scale, and a mask of values that no
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
    """codes, the rows' scales (torchao computes them in bf16), and a mask of codes that no near-tie
    touches.
    """
    v = x.double().numpy()
    scale = round_bf16(np.abs(v).max(-1, keepdims=True) / 448)
    quotient = np.clip(v / scale, -448, 448)
    return to_grid(quotient, **E4M3, largest=448), scale, ~near_tie(quotient, **E4M3)


# ---- quantized values ----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_mxfp8_values_follow_the_definition(seed: int) -> None:
    """Every MXFP8 value is the e4m3 neighbour of x / scale, times the scale, for numbers of 40
    octaves up and down.
    """
    x = wide(64, 256, seed=seed, octaves=15 * seed)
    assert np.array_equal(
        get_format("mxfp8").quantize_activation(x).values.double().numpy(), reference_mxfp8(x)
    )


@pytest.mark.parametrize("seed", range(3))
def test_nvfp4_values_follow_the_definition(seed: int) -> None:
    """Every NVFP4 value that is not within 1e-5 of a tie is e2m1(x / (s T)) * s, with s and T of
    the definition.
    """
    x = wide(64, 256, seed=seed, octaves=4 * seed)
    found = get_format("nvfp4").quantize_activation(x)
    values, tensor_scale, sure = reference_nvfp4(x)
    assert sure.mean() > 0.95
    assert np.array_equal(found.values.double().numpy()[sure], values[sure])
    assert found.scale is not None
    assert found.scale.item() == pytest.approx(tensor_scale, rel=2**-23)


@pytest.mark.parametrize("seed", range(3))
def test_fp8_values_follow_the_definition(seed: int) -> None:
    """Every FP8 code that is not within 1e-5 of a tie is e4m3(x / s), with the row's scale s =
    bf16(amax / 448).
    """
    x = wide(64, 256, seed=seed, octaves=8 * seed)
    found = get_format("fp8").quantize_activation(x)
    codes, scale, sure = reference_fp8(x)
    assert sure.mean() > 0.95
    assert np.array_equal(found.values.double().numpy()[sure], codes[sure])
    assert found.scale is not None
    assert np.array_equal(found.scale.double().numpy(), scale)


def test_nvfp4_ties_go_to_even() -> None:
    """A block with scale 1 rounds 0.25 to 0, 0.75 to 1, 1.25 to 1, 1.75 to 2, 2.5 to 2, 3.5 to 4
    and 5 to 4, with either sign.
    """
    ties = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0])
    row = torch.cat(
        [ties, -ties, torch.tensor([6.0, 0.0]), torch.tensor([448.0 * 6]), torch.zeros(15)]
    )  # T = 1; scales 1 and 448
    found = (
        get_format("nvfp4").quantize_activation(row.bfloat16().unsqueeze(0)).values[0, :14].float()
    )
    expected = torch.tensor([0.0, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0])
    assert_same(found, torch.cat([expected, -expected]))


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


def corner_cases() -> dict[str, Tensor]:
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
        "more than one chunk": normal(kernels.CHUNK_ELEMENTS // 192 * 2 + 5, 192),
    }


@pytest.mark.parametrize("case", corner_cases().keys())
@pytest.mark.parametrize("name", QUANTIZED)
def test_activations_equal_torchao_bit_for_bit(name: str, case: str) -> None:
    """Codes, block scales and outer scales are torchao's, in every corner: ties, zeros, denormals,
    outliers, inf, NaN.
    """
    x = corner_cases()[case]
    found, expected = get_format(name).quantize_activation(x), torchao_operand(name, x)
    assert_same(found.values, expected.values)
    assert (found.scale is None) == (expected.scale is None)
    if found.scale is not None and expected.scale is not None:
        assert found.scale.shape == expected.scale.shape
        assert_same(found.scale, expected.scale)


def test_only_odd_inputs_leave_the_fast_kernels() -> None:
    """What a model computes is quantized by the fast kernels, not by torchao's; NaN, inf and
    extremes are torchao's.
    """
    cases = corner_cases()
    for case in (
        "normal",
        "one row",
        "a little wide",
        "integers, many ties",
        "block scales underflow",
        "zero row",
        "outlier",
    ):
        assert kernels.quantize_mxfp8(cases[case]) is not None
        assert kernels.quantize_nvfp4(cases[case]) is not None
    for case in ("any bits", "denormals", "tiny", "huge", "nan", "inf"):
        assert kernels.quantize_mxfp8(cases[case]) is None
        assert kernels.quantize_nvfp4(cases[case]) is None


@pytest.mark.parametrize("name", QUANTIZED)
def test_weights_and_activations_are_quantized_alike(name: str) -> None:
    """The same matrix gives the same numbers as a weight, as a parameter and as an activation,
    contiguous or not.
    """
    w = wide(48, 192, seed=5, octaves=5)
    as_weight = get_format(name).quantize_weight(nn.Parameter(w))
    for x in (w, w.t().contiguous().t()):
        as_activation = get_format(name).quantize_activation(x)
        assert_same(as_weight.values, as_activation.values)
        assert as_weight.values.dtype == as_activation.values.dtype


@pytest.mark.parametrize("name", QUANTIZED)
def test_quantizing_leaves_its_input_alone(name: str) -> None:
    """In-place kernels work on their own arrays."""
    x = normal(33, 192)
    before = x.clone()
    get_format(name).quantize_activation(x)
    assert torch.equal(x, before)


# ---- products ------------------------------------------------------------------------------------


def interval(
    x: QuantizedOperand, w: QuantizedOperand, bias: Tensor | None, scales: Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """The bf16 numbers between which one rounding of an fp32 sum lies; scales:

    (rows, N), fp64, of both operands.
    """
    a, b = x.values.double(), w.values.double()
    offset = torch.zeros(b.shape[0]).double() if bias is None else bias.double()
    exact = a @ b.t() * scales + offset
    n = a.shape[1] + 4
    error = n * 2.0**-24 / (1 - n * 2.0**-24) * (a.abs() @ b.abs().t() * scales + offset.abs())
    return round_bf16((exact - error).numpy()), round_bf16((exact + error).numpy())


def scales_of(name: str, x: QuantizedOperand, w: QuantizedOperand) -> Tensor:
    ones = torch.ones(x.values.shape[0], w.values.shape[0]).double()
    if name == "mxfp8":
        return ones
    assert x.scale is not None
    assert w.scale is not None
    return ones * x.scale.double() * (w.scale.double() if name == "nvfp4" else w.scale.double().t())


@pytest.mark.parametrize("lead", [(1,), (3,), (17,), (256,), (2, 9), (1, 1)])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("name", QUANTIZED)
def test_output_is_one_rounding_of_the_quantized_product(
    name: str, with_bias: bool, lead: tuple[int, ...]
) -> None:
    """Rule 1: no output differs from the exact product by more than an fp32 sum's error and one
    rounding, for any M, 2-D or 3-D.
    """
    k, n = (960, 192) if lead == (17,) else (192, 96)
    fmt, x, bias = get_format(name), normal(*lead, k) * 3, normal(n, seed=2) if with_bias else None
    weight = fmt.quantize_weight(normal(n, k, seed=1) * 0.05)
    found = emulated_linear(x, weight, bias, fmt)
    assert found.shape == (*lead, n)
    assert found.dtype == torch.bfloat16
    rows = fmt.quantize_activation(x.view(-1, k))
    low, high = interval(rows, weight, bias, scales_of(name, rows, weight))
    out = found.view(-1, n).double().numpy()
    assert ((low <= out) & (out <= high)).all()


@pytest.mark.parametrize("name", ["nvfp4", "fp8"])
def test_the_interval_rejects_a_second_rounding(name: str) -> None:
    """The bound is tight enough to see a product rounded to bf16 before its scale is applied, as
    torchao's NVFP4 epilogue does.
    """
    fmt, bias = get_format(name), normal(96, seed=2)
    x, w = fmt.quantize_activation(normal(64, 192)), fmt.quantize_weight(normal(96, 192, seed=1))
    scales = scales_of(name, x, w)
    low, high = interval(x, w, bias, scales)
    twice = (
        ((x.values.float() @ w.values.float().t()).bfloat16().float() * scales.float() + bias)
        .bfloat16()
        .double()
        .numpy()
    )
    assert not ((low <= twice) & (twice <= high)).all()


@pytest.mark.parametrize("name", QUANTIZED)
def test_output_is_the_same_on_a_cpu_without_exact_bf16_products(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the fused GEMM is not trusted, the fp32 product gives outputs that keep the same bound."""
    monkeypatch.setattr(kernels, "fused_linear_is_exact", lambda: False)
    fmt, bias = get_format(name), normal(96, seed=2)
    x, w = fmt.quantize_activation(normal(33, 192)), fmt.quantize_weight(normal(96, 192, seed=1))
    low, high = interval(x, w, bias, scales_of(name, x, w))
    out = fmt.linear(x, w, bias).double().numpy()
    assert ((low <= out) & (out <= high)).all()


@pytest.mark.skipif(
    not kernels.fused_linear_is_exact(),
    reason="this CPU's bf16 GEMM rounds more than once: torchao's emulation does too",
)
@pytest.mark.parametrize("lead", [(1,), (3,), (17,), (256,), (2, 9), (1, 1)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_mxfp8_equals_torchao_emulation(with_bias: bool, lead: tuple[int, ...]) -> None:
    """An MXFP8 Linear is bit-equal to torchao's with KernelPreference.EMULATED."""
    linear = nn.Linear(192, 96, bias=with_bias, dtype=torch.bfloat16)
    fmt = get_format("mxfp8")
    weight, x = (
        fmt.quantize_weight(linear.weight),
        wide(int(np.prod(lead)), 192, seed=7, octaves=3).view(*lead, 192),
    )
    found = emulated_linear(x, weight, linear.bias, fmt)
    quantize_(
        linear, MXDynamicActivationMXWeightConfig(kernel_preference=KernelPreference.EMULATED)
    )
    assert torch.equal(found, linear(x))


def test_bf16_is_the_plain_linear() -> None:
    """The bf16 format changes nothing."""
    x, linear, fmt = normal(2, 5, 48), nn.Linear(48, 24, dtype=torch.bfloat16), get_format("bf16")
    assert torch.equal(
        emulated_linear(x, fmt.quantize_weight(linear.weight), linear.bias, fmt), linear(x)
    )


@pytest.mark.parametrize("name", QUANTIZED)
def test_a_non_contiguous_call_equals_a_contiguous_one(name: str) -> None:
    """A transposed view, as attention hands over, is quantized in its logical order."""
    fmt = get_format(name)
    weight, x = fmt.quantize_weight(normal(32, 64, seed=1)), normal(4, 64, 6).transpose(1, 2)
    assert torch.equal(
        emulated_linear(x, weight, None, fmt), emulated_linear(x.contiguous(), weight, None, fmt)
    )


def test_one_activation_is_quantized_once_and_again_when_it_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """to_q, to_k and to_v share the work on one tensor; another format, a changed tensor and an
    equal but other tensor do not.
    """
    calls: list[str] = []
    for cls in (formats.MXFP8, formats.NVFP4):
        original = cls.quantize_activation
        monkeypatch.setattr(
            cls,
            "quantize_activation",
            lambda self, x, original=original: calls.append(self.name) or original(self, x),
        )
    mx, nv, x = get_format("mxfp8"), get_format("nvfp4"), normal(17, 64)
    for_mx, for_nv = (
        mx.quantize_weight(normal(32, 64, seed=1)),
        nv.quantize_weight(normal(32, 64, seed=1)),
    )
    calls.clear()
    first = [emulated_linear(x, for_mx, None, mx) for _ in range(3)]
    assert calls == ["mxfp8"]
    emulated_linear(x, for_nv, None, nv)
    assert calls == ["mxfp8", "nvfp4"]
    x[3:5].mul_(2)
    changed = emulated_linear(x, for_nv, None, nv)
    assert calls == ["mxfp8", "nvfp4", "nvfp4"]
    assert torch.equal(changed, emulated_linear(x.clone(), for_nv, None, nv))
    assert calls == ["mxfp8", "nvfp4", "nvfp4", "nvfp4"]
    assert torch.equal(first[0], first[2])
    with torch.inference_mode():
        y = normal(17, 64)
        emulated_linear(y, for_mx, None, mx)
        emulated_linear(y, for_mx, None, mx)
    assert calls[-2:] == ["mxfp8", "mxfp8"]


@pytest.mark.parametrize("name", QUANTIZED)
def test_no_rows_give_no_rows(name: str) -> None:
    """A call with M = 0 returns an empty output."""
    fmt = get_format(name)
    assert emulated_linear(
        normal(2, 0, 64), fmt.quantize_weight(normal(32, 64)), None, fmt
    ).shape == (2, 0, 32)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", QUANTIZED)
def test_nan_and_inf_reach_the_output(name: str, value: float) -> None:
    """A row with NaN or inf has no finite output; NVFP4's tensor scale carries it to all rows,
    other formats leave other rows finite.
    """
    x, fmt = normal(8, 64), get_format(name)
    x[2, 40] = value
    finite = emulated_linear(
        x, fmt.quantize_weight(normal(32, 64, seed=1)), normal(32, seed=2), fmt
    ).isfinite()
    assert not finite[2].any()
    others = finite[[0, 1, 3, 4, 5, 6, 7]]
    assert not others.any() if name == "nvfp4" else others.all()


def test_zero_rows_give_the_bias_or_what_torchao_gives() -> None:
    """A zero row gives the bias in MXFP8 and NVFP4; torchao divides by zero, so it gives NaN in
    FP8, as an all-zero call does in NVFP4.
    """
    x, bias = normal(4, 64), normal(32, seed=2)
    x[1] = 0
    out = {
        name: emulated_linear(
            x, get_format(name).quantize_weight(normal(32, 64, seed=1)), bias, get_format(name)
        )
        for name in QUANTIZED
    }
    assert torch.equal(out["mxfp8"][1], bias)
    assert torch.equal(out["nvfp4"][1], bias)
    assert out["fp8"][1].isnan().all()
    assert out["fp8"][[0, 2, 3]].isfinite().all()
    fmt = get_format("nvfp4")
    assert (
        emulated_linear(torch.zeros_like(x), fmt.quantize_weight(normal(32, 64)), bias, fmt)
        .isnan()
        .all()
    )


@pytest.mark.parametrize("name", QUANTIZED)
def test_compiles_to_one_graph_with_the_same_numbers(name: str) -> None:
    """Under torch.compile there is no graph break and quantized values are those of the eager
    kernels.
    """
    fmt, x, bias = get_format(name), normal(17, 64), normal(32, seed=2)
    weight = fmt.quantize_weight(normal(32, 64, seed=1))
    torch.compiler.reset()
    compiled = torch.compile(
        lambda x: emulated_linear(x, weight, bias, fmt), backend="aot_eager", fullgraph=True
    )
    rows = fmt.quantize_activation(x)
    low, high = interval(rows, weight, bias, scales_of(name, rows, weight))
    out = compiled(x).double().numpy()
    assert ((low <= out) & (out <= high)).all()


@pytest.fixture
def ieee_products() -> Iterator[None]:
    """oneDNN's fp32 precision set to something that our kernels do not choose, and put back."""
    settings = torch.backends.mkldnn.matmul
    before, settings.fp32_precision = settings.fp32_precision, "ieee"
    yield
    settings.fp32_precision = before


@pytest.mark.usefixtures("ieee_products")
def test_product_settings_do_not_leak(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process-wide oneDNN precision is what it was, after a product and after one that raised."""
    kernels.product_fp32(normal(4, 32), normal(4, 32))
    assert torch.backends.mkldnn.matmul.fp32_precision == "ieee"

    def fail(*_: object) -> Tensor:
        assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
        raise RuntimeError("out of memory")

    monkeypatch.setattr(torch, "mm", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        kernels.product_fp32(normal(4, 32), normal(4, 32))
    assert torch.backends.mkldnn.matmul.fp32_precision == "ieee"


@pytest.mark.parametrize("name", QUANTIZED)
def test_autocast_changes_nothing(name: str) -> None:
    """Under torch.autocast the product still comes out in fp32."""
    fmt, x = get_format(name), normal(17, 192)
    weight = fmt.quantize_weight(normal(96, 192, seed=1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = emulated_linear(x.clone(), weight, None, fmt)
    assert torch.equal(found, emulated_linear(x, weight, None, fmt))


# ---- rules, sizes, native ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "k", "n", "dtype", "reason"),
    [
        ("mxfp8", 3072, 64, torch.bfloat16, None),
        ("mxfp8", 48, 64, torch.bfloat16, "K = 48 is not a multiple of 32"),
        ("mxfp8", 64, 8, torch.bfloat16, "N = 8 is not a multiple of 16"),
        ("nvfp4", 64, 48, torch.bfloat16, None),
        ("nvfp4", 48, 64, torch.bfloat16, "K = 48 is not a multiple of 32"),
        ("nvfp4", 64, 40, torch.bfloat16, "N = 40 is not a multiple of 16"),
        ("fp8", 48, 16, torch.bfloat16, None),
        ("fp8", 40, 16, torch.bfloat16, "K = 40 is not a multiple of 16"),
        ("fp8", 48, 24, torch.bfloat16, "N = 24 is not a multiple of 16"),
        ("nvfp4", 64, 64, torch.float32, "float32; nvfp4 takes bfloat16 only"),
        ("mxfp8", 64, 64, torch.float16, "float16; mxfp8 takes bfloat16 only"),
        ("bf16", 7, 3, torch.float32, None),
    ],
)
def test_refusals_name_the_number(
    name: str, k: int, n: int, dtype: torch.dtype, reason: str | None
) -> None:
    """A shape or dtype that torchao's native path cannot take is refused with the number found and
    the multiple needed.
    """
    found = get_format(name).refusal(k=k, n=n, dtype=dtype)
    assert found is None if reason is None else reason in str(found)


@pytest.mark.parametrize(("n", "k"), [(3072, 12288), (64, 3072), (200, 192), (16, 32)])
def test_weight_bytes_are_those_of_torchao_tensors(n: int, k: int) -> None:
    """Stored bytes, padded block scales included, equal those of torchao's swizzled tensors; bf16
    is two bytes a weight.
    """
    w = torch.zeros(n, k, dtype=torch.bfloat16)
    mx = MXTensor.to_mx(w, torch.float8_e4m3fn, 32, is_swizzled_scales=True)
    nv = NVFP4Tensor.to_nvfp4(w, per_tensor_scale=torch.ones(()), is_swizzled_scales=True)
    f8 = Float8Tensor.from_hp(w)
    assert get_format("mxfp8").weight_bytes(k=k, n=n) == mx.qdata.nbytes + mx.scale.nbytes
    assert (
        get_format("nvfp4").weight_bytes(k=k, n=n)
        == nv.qdata.nbytes + nv.scale.nbytes + nv.per_tensor_scale.nbytes
    )
    assert get_format("fp8").weight_bytes(k=k, n=n) == f8.qdata.nbytes + f8.scale.nbytes
    assert get_format("bf16").weight_bytes(k=k, n=n) == 2 * n * k


def test_weight_bytes_closed_form() -> None:
    """FLUX's 3072 x 3072: 1 + 1/32 byte a weight in MXFP8, 1/2 + 1/16 (+ 4 bytes) in NVFP4, 1 (+ 4
    bytes a row) in FP8.
    """
    found = {name: get_format(name).weight_bytes(k=3072, n=3072) for name in QUANTIZED}
    assert found == {"mxfp8": 9_732_096, "nvfp4": 5_308_420, "fp8": 9_449_472}


def test_unknown_format_names_the_known_ones() -> None:
    """A typing mistake is answered with the formats that exist; names and members are both
    accepted.
    """
    with pytest.raises(FormatError, match="'nvfp5'; formats are bf16, mxfp8, nvfp4, fp8"):
        get_format("nvfp5")
    assert [get_format(member).name for member in FormatName] == list(FormatName)
    assert get_format("fp8") is get_format(FormatName.FP8)


@pytest.mark.parametrize("name", QUANTIZED)
def test_wrong_dtype_and_shape_are_the_callers_errors(name: str) -> None:
    """A tensor that is not bf16 is refused with its dtype; a K that blocks do not divide with its
    K.
    """
    with pytest.raises(FormatError, match=r"torch.float32 tensor; it takes torch.bfloat16"):
        get_format(name).quantize_activation(torch.ones(2, 64))
    if name != "fp8":
        with pytest.raises(FormatError, match="got K = 40; K must be a multiple of"):
            get_format(name).quantize_weight(normal(16, 40))


def test_native_configs_are_the_documented_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """MXFP8 scales by RCEIL, FP8 is row-wise and leaves inductor alone, NVFP4 uses Triton only with
    mslk; bf16 has no config.
    """
    mx, f8 = get_format("mxfp8").native_config(), get_format("fp8").native_config()
    assert (mx.scaling_mode, mx.block_size, mx.weight_dtype) == (
        ScaleCalculationMode.RCEIL,
        32,
        torch.float8_e4m3fn,
    )
    assert mx.scaling_mode == MXDynamicActivationMXWeightConfig().scaling_mode
    assert f8.set_inductor_config is False
    assert [type(g).__name__ for g in f8.granularity] == ["PerRow", "PerRow"]
    for available in (True, False):
        for module in (formats, native):
            monkeypatch.setattr(module, "mslk_is_available", lambda available=available: available)
        nv = get_format("nvfp4").native_config()
        assert (nv.use_triton_kernel, nv.use_dynamic_per_tensor_scale) == (available, True)
        assert (native.mslk_advice() is None) == available
    assert "pip install mslk" in str(native.mslk_advice())
    with pytest.raises(FormatError, match="choose mxfp8, nvfp4 or fp8"):
        get_format("bf16").native_config()


def test_a_cpu_refuses_native_formats() -> None:
    """Every quantized format says which capability it needs and to emulate instead; bf16 runs
    anywhere.
    """
    for name, capability in (("mxfp8", "10.0"), ("nvfp4", "10.0"), ("fp8", "8.9")):
        refusal = str(get_format(name).native_refusal(CPU))
        assert capability in refusal
        assert "emulate it instead" in refusal
    assert get_format("bf16").native_refusal(CPU) is None


def test_an_old_gpu_is_refused_with_its_capability(monkeypatch: pytest.MonkeyPatch) -> None:
    """An A100 (8.0) runs none of them, an H100 (9.0) only fp8, a B200 (10.0) all."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    runs = {}
    for capability in ((8, 0), (9, 0), (10, 0)):
        monkeypatch.setattr(
            torch.cuda, "get_device_capability", lambda _, capability=capability: capability
        )
        runs[capability] = [
            name
            for name in QUANTIZED
            if get_format(name).native_refusal(torch.device("cuda")) is None
        ]
    assert runs == {(8, 0): [], (9, 0): ["fp8"], (10, 0): QUANTIZED}


class TwelveBlocks(nn.Module):
    """Names that are prefixes of each other: blocks.1, blocks.10, blocks.11; and one Linear that
    formats refuse.
    """

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(64, 64, dtype=torch.bfloat16) for _ in range(12)])
        self.narrow = nn.Linear(64, 8, dtype=torch.bfloat16)


def test_quantize_native_takes_exact_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """blocks.1 is quantized, blocks.10 and blocks.11 are not, and bf16 entries stay."""
    monkeypatch.setattr(
        formats.MXFP8, "native_refusal", lambda _self, _device: None
    )  # torchao converts MX weights on any device
    model = TwelveBlocks()
    quantize_native(model, {"blocks.1": FormatName.MXFP8, "blocks.10": FormatName.BF16})
    assert [i for i, block in enumerate(model.blocks) if isinstance(block.weight, MXTensor)] == [1]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"blocks.12": "mxfp8"}, "'blocks.12' is none of the 13 Linears of this TwelveBlocks"),
        ({"blocks": "mxfp8"}, "'blocks' is none of"),
        ({"blocks.1": "nvfp4", "narrow": "nvfp4"}, "emulate it instead"),
        ({"narrow": "fp8"}, "narrow cannot be quantized natively: N = 8 is not a multiple of 16"),
    ],
)
def test_quantize_native_refuses_before_it_starts(wanted: dict[str, str], message: str) -> None:
    """An unknown name, a refused shape or a device without the format raises, and no Linear has
    changed.
    """
    model = TwelveBlocks()
    with pytest.raises(FormatError, match=message):
        quantize_native(model, {fqn: FormatName(name) for fqn, name in wanted.items()})
    assert all(
        type(parameter) is nn.Parameter and type(parameter.data) is Tensor
        for parameter in model.parameters()
    )


def test_versions_and_imports() -> None:
    """The versions that decide the numbers are named, and importing the package imports no torch."""
    assert set(native.describe_versions()) == {"torch", "torchao", "mslk"}
    code = "import sys, sensitivity; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
