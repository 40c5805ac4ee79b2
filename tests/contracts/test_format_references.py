"""Every format against a second implementation of its definition, which shares no line with it.

**References.** They are written in numpy from public definitions alone: code tables of the OCP
formats (e2m1 and e8m0 of MX 1.0, e4m3 of OFP8 1.0), torchao 0.18's documented scales, the PyTorch
reference of Four Over Six (arXiv 2512.02010, mit-han-lab/fouroversix), and the regular Hadamard
matrix of ConvRot (arXiv 2512.03673). Numbers are float64. Where a definition rounds on its way, to
fp32 or bf16, the reference rounds the float64 number there, so codes and scales have to be equal
and not nearly equal, ties included.

**Products.** An output has to be one bf16 rounding of a number that lies as near to the float64
product as an fp32 sum of K terms comes, in any order: (K + 4) 2^-24 times the sum of magnitudes.

**What they do not do.** They do not follow native kernels, which round more.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import reduce

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn
from torchao.quantization import quantize_

from sensitivity.core.format_name import FormatName
from sensitivity.formats import QuantizedOperand, get_format
from sensitivity.formats.emulation import emulated_linear, linear_with_a16

Floats = npt.NDArray[np.float64]
Operand = tuple[Floats, Floats | None]
"""Values (rows, K) with block scales folded in, and the outer scale: (rows, 1), () or None."""


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """No gradients, and no words of numpy's about 0 / 0, which definitions contain."""
    with torch.no_grad(), np.errstate(all="ignore"):
        yield


# ---- numbers -------------------------------------------------------------------------------------

E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
"""Magnitudes of the codes 0 to 7."""
E4M3 = np.array(
    [c / 8 * 2.0**-6 for c in range(8)]
    + [(1 + c % 8 / 8) * 2.0 ** (c // 8 - 7) for c in range(8, 127)]
)
"""Magnitudes of the codes 0 to 126; 127 is NaN, and there is no inf."""
E8M0 = 2.0 ** np.arange(-127, 128)
"""Scales of the codes 0 to 254; 255 is NaN."""
H4 = np.array([[1, 1, 1, -1], [1, 1, -1, 1], [1, -1, 1, 1], [-1, 1, 1, 1]]) / 2


def coded(v: Floats, table: Floats) -> Floats:
    """The nearest numbers of a table; a midpoint goes to the even code, what is beyond its end to
    its last number, NaN stays.
    """
    middles = (table[1:] + table[:-1]) / 2
    code = np.searchsorted(middles, np.abs(v))
    tie = np.append(middles, np.inf)[code] == np.abs(v)
    found = table[np.minimum(code + (tie & (code % 2 == 1)), len(table) - 1)]
    return np.where(np.isnan(v), v, np.copysign(found, v))


def fp32(v: Floats) -> Floats:
    """Rounded to fp32."""
    return np.asarray(v).astype(np.float32).astype(np.float64)


def bf16(v: Floats) -> Floats:
    """Rounded to bf16 in one step: 8 bits, and multiples of 2^-133 below 2^-126."""
    unit = np.ldexp(1.0, np.maximum(np.frexp(v)[1] - 8, -133))
    return np.where(np.isfinite(v), np.rint(v / unit) * unit, v)


def amax(v: Floats) -> Floats:
    """The largest magnitudes of the last axis, which is kept."""
    return np.abs(v).max(-1, keepdims=True)


# ---- definitions ---------------------------------------------------------------------------------


def define_bf16(v: Floats) -> Operand:
    """The numbers themselves."""
    return v, None


def define_mxfp8(v: Floats) -> Operand:
    """Blocks of 32: the least e8m0 scale with which no number passes 448."""
    blocks = v.reshape(len(v), -1, 32)
    scale = E8M0[np.minimum(np.searchsorted(E8M0, amax(blocks) / 448), 254)]
    return (coded(blocks / scale, E4M3) * scale).reshape(v.shape), None


def define_nvfp4(v: Floats) -> Operand:
    """T = amax / (448 * 6); blocks of 16 with an e4m3 scale bmax / 6 / T, at least 2^-6."""
    blocks = v.reshape(len(v), -1, 16)
    outer = fp32(np.abs(v).max() / (448 * 6))
    scale = coded(np.clip(fp32(fp32(amax(blocks) / 6) / outer), 2.0**-6, 448), E4M3)
    codes = coded(fp32(blocks * fp32(fp32(1 / outer) / scale)), E2M1)
    return (codes * scale).reshape(v.shape), outer


def four_over_six(v: Floats) -> tuple[Floats, Floats, Floats]:
    """Values by the scales that map a block's largest number to 6 and to 4: with T = amax / (256 *
    6), the e4m3 scales bmax / (6 T) and 1.5 times that. And by how much the second has the smaller
    sum of squared errors, relative to both, for each block: (rows, K / 16).
    """
    blocks, largest = v.reshape(len(v), -1, 16), np.abs(v).max()
    encode = fp32(256 * 6 / largest)
    ideal = fp32(fp32(amax(blocks) / 6) * encode)
    values, errors = [], []
    for factor in (1.0, 1.5):
        scale = coded(fp32(ideal * factor), E4M3)
        inverse = fp32(1 / fp32(fp32(1 / encode) * scale))
        values.append(np.where(scale == 0, 0.0, coded(fp32(blocks * inverse), E2M1) * scale))
        errors.append(((values[-1] * largest / (256 * 6) - blocks) ** 2).sum(-1))
    total = errors[0] + errors[1]
    gain = np.divide(errors[0] - errors[1], total, out=np.zeros_like(total), where=total > 0)
    return values[0].reshape(v.shape), values[1].reshape(v.shape), gain


def define_four_over_six(v: Floats) -> Operand:
    """Each block by the scale of the smaller error, 6 if they are equal; zeros stay zeros."""
    outer = fp32(np.abs(v).max() / (256 * 6))
    if outer == 0:
        return np.zeros_like(v), outer
    six, four, gain = four_over_six(v)
    return np.where(np.repeat(gain > 0, 16, axis=1), four, six), outer


def define_fp8(v: Floats, least: float = 0.0) -> Operand:
    """A row's scale is bf16(amax / 448), where amax counts as `least` at least."""
    scale = bf16(fp32(bf16(np.maximum(amax(v), least)) / 448))
    return coded(fp32(v / scale), E4M3), scale


def define_int8(v: Floats) -> Operand:
    """A row's scale is bf16(amax / 127.5), at least 2^-23; codes are round(x (1 / s))."""
    scale = np.maximum(bf16(fp32(amax(v) / 127.5)), 2.0**-23)
    return np.clip(np.rint(fp32(v * fp32(1 / scale))), -128, 127), scale


def rotated(v: Floats) -> Floats:
    """Blocks along K (256, 64 or 16: the largest that divides it) times the Kronecker power of H4,
    rounded to bf16 once.
    """
    power = next(p for p in (4, 3, 2) if v.shape[1] % 4**p == 0)
    matrix = reduce(np.kron, [H4] * power)
    return bf16((v.reshape(len(v), -1, 4**power) @ matrix).reshape(v.shape))


def define_rotated_int8(v: Floats) -> Operand:
    """INT8 of what is rotated."""
    return define_int8(rotated(v))


def define_bounded_fp8(v: Floats) -> Operand:
    """FP8, with rows whose largest number is 1e-12 at least."""
    return define_fp8(v, least=1e-12)


Definition = Callable[[Floats], Operand]
WEIGHTS: dict[str, Definition] = {
    "bf16": define_bf16,
    "mxfp8": define_mxfp8,
    "nvfp4": define_nvfp4,
    "fp8": define_fp8,
    "int8": define_int8,
    "nvfp4-4o6": define_four_over_six,
    "int8-rot": define_rotated_int8,
    "fp8-lb": define_fp8,
    "nvfp4-a16": define_nvfp4,
    "mxfp8-a16": define_mxfp8,
    "fp8-a16": define_fp8,
    "int8-a16": define_int8,
}
ACTIVATIONS: dict[str, Definition] = WEIGHTS | {
    "nvfp4-4o6": define_nvfp4,
    "fp8-lb": define_bounded_fp8,
    "nvfp4-a16": define_bf16,
    "mxfp8-a16": define_bf16,
    "fp8-a16": define_bf16,
    "int8-a16": define_bf16,
}

# ---- inputs --------------------------------------------------------------------------------------


def even(rows: int, k: int, *, seed: int = 0) -> Floats:
    """Multiples of 1/64 up to 4: bf16 numbers whose sums are exact in fp32, in any order."""
    return np.random.default_rng(seed).integers(-255, 256, (rows, k)) / 64


def with_row(row: Sequence[float]) -> Floats:
    """`even` numbers, and one row of others, repeated to its length."""
    v = even(5, 192)
    v[1] = np.resize(row, 192)
    return v


def normal(rows: int, k: int, *, scale: float = 1.0) -> Floats:
    """Normal deviates in bf16."""
    return bf16(np.random.default_rng(rows).normal(size=(rows, k)) * scale)


CASES: dict[str, Floats] = {
    "sums are exact": even(17, 192),
    "one row": even(1, 192),
    "K = 960": even(3, 960),
    "K = 768": even(3, 768),
    "K = 16 * 2": even(3, 32),
    "normal": normal(33, 192),
    "a row of zeros": with_row([0.0]),
    "zeros": np.zeros((3, 192)),
    "an outlier": with_row([2.0**14] + [0.25] * 191),
    "one number of a block": with_row([3.0] + [0.0] * 15),
    "of both signs": with_row([1.0, -1.0]),
    "midpoints of e2m1": with_row([6, 0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5, -0.25, -0.75, -5, 2688]),
    "midpoints of e4m3": with_row([448, 17, 19, 21, 23, -17, 216, 232, 2.0**-10, 3 * 2.0**-10]),
    "midpoints of int8": with_row([127.5, 0.5, 1.5, 2.5, -0.5, -1.5, 63.5, -127.5, 255, -255]),
    "small": normal(9, 192, scale=2.0**-30),
    "large": normal(9, 192, scale=2.0**60),
}
"""bf16 numbers (rows, K)."""


def tensor(v: Floats) -> Tensor:
    """The same numbers in bf16; they have to be bf16 numbers."""
    x = torch.from_numpy(v).bfloat16()
    assert np.array_equal(x.double().numpy(), v)
    return x


def assert_is(found: QuantizedOperand, expected: Operand, case: str = "") -> None:
    """Fail unless values and scale are equal; NaN equals NaN."""
    values, scale = expected
    np.testing.assert_array_equal(found.values.double().numpy(), values, case)
    assert (found.scale is None) == (scale is None)
    if found.scale is not None and scale is not None:
        assert found.scale.shape == scale.shape
        np.testing.assert_array_equal(found.scale.double().numpy(), scale, case)


def assert_rounds(found: Tensor, x: Operand, weight: Operand, bias: Floats) -> None:
    """Fail unless each output is one rounding of the product, as near as an fp32 sum comes."""
    (a, a_scale), (b, b_scale) = x, weight
    a, b = (a if a_scale is None else a * a_scale), (b if b_scale is None else b * b_scale)
    exact = a @ b.T + bias
    error = (a.shape[1] + 4) * 2.0**-24 * (np.abs(a) @ np.abs(b).T + np.abs(bias))
    out = found.double().numpy()
    assert (bf16(exact - error) <= out).all()
    assert (out <= bf16(exact + error)).all()


each_format = pytest.mark.parametrize("name", list(WEIGHTS))

# ---- codes and scales ----------------------------------------------------------------------------


def test_every_format_has_a_reference() -> None:
    """None is left out."""
    assert list(WEIGHTS) == list(ACTIVATIONS) == [name.value for name in FormatName]


@each_format
def test_codes_and_scales_are_those_of_the_definition(name: str) -> None:
    """Weights and activations have the values and the outer scale of the reference, equal, in every
    case.
    """
    fmt = get_format(name)
    for case, v in CASES.items():
        weight = fmt.quantize_weight(tensor(v))
        expected = either_way(weight, v) if name == "nvfp4-4o6" else WEIGHTS[name](v)
        assert_is(weight, expected, f"weight, {case}")
        assert_is(fmt.quantize_activation(tensor(v)), ACTIVATIONS[name](v), case)


def either_way(found: QuantizedOperand, v: Floats) -> Operand:
    """Four over six, where blocks whose errors by 4 and by 6 are as near as the roundings of fp32
    sums may take either, as long as they take it as a whole.
    """
    values, outer = define_four_over_six(v)
    if outer == 0:
        return values, outer
    six, four, gain = four_over_six(v)
    other = (six + four - values).reshape(-1, 16)
    is_other = (found.values.double().numpy().reshape(-1, 16) == other).all(-1)
    takes_other = is_other & (np.abs(gain) < 1e-6).ravel()
    blocks = np.where(takes_other[:, None], other, values.reshape(-1, 16))
    return blocks.reshape(v.shape), outer


@pytest.mark.parametrize("name", ["fp8", "fp8-lb", "int8"])
def test_every_row_maximum_has_its_scale(name: str) -> None:
    """Rows of each positive bf16 number, the subnormal ones too, have the scale of the reference
    and its codes, as activations and as weights.
    """
    largest = np.arange(1, 0x7F80, dtype=np.uint32) << 16
    v = largest.view(np.float32).astype(np.float64)[:, None] * [1.0, -1.0, 0.5, 0.0]
    v = bf16(v)
    assert_is(get_format(name).quantize_activation(tensor(v)), ACTIVATIONS[name](v))
    assert_is(get_format(name).quantize_weight(tensor(v)), WEIGHTS[name](v))


def test_four_and_six_are_each_taken_where_they_err_less() -> None:
    """With T = 1, a block of 6 and 4.5 has no error by the scale 1.5 (codes 4 and 3) and one by 1;
    a block of 6 and 0.5 has none by 1 and one by 1.5. One of 6 and 1.25 errs by a quarter either
    way, as 1 by the scale 1 and as 1.5 by 1.5: the largest stays 6, so it becomes 1.
    """
    blocks = [[256 * 6.0], [6.0, 4.5], [6.0, 0.5], [6.0, 1.25]]
    v = np.concatenate([np.resize(block, 16) for block in blocks])[None]
    found = get_format("nvfp4-4o6").quantize_weight(tensor(v))
    assert_is(found, (np.where(v == 1.25, 1.0, v), np.ones(())))


@pytest.mark.parametrize("name", ["nvfp4-a16", "fp8-a16", "int8-a16"])
def test_torchaos_weight_only_tensors_hold_the_same_numbers(name: str) -> None:
    """What torchao's config makes of a Linear dequantizes to the reference, rounded to bf16, and it
    takes the bytes that the format says.
    """
    fmt, w = get_format(name), normal(128, 192)
    linear = nn.Linear(192, 128, bias=False, dtype=torch.bfloat16)
    linear.weight.copy_(tensor(w))
    quantize_(linear, fmt.native_config(), filter_fn=lambda *_: True)
    values, scale = WEIGHTS[name](w)
    assert scale is not None
    found = linear.weight.data.dequantize().double().numpy()
    np.testing.assert_array_equal(found, bf16(fp32(values * scale)))
    stored = QuantizedOperand(values=linear.weight.data, scale=None)
    assert stored.nbytes == fmt.weight_bytes(k=192, n=128)


# ---- products ------------------------------------------------------------------------------------


@each_format
def test_outputs_are_one_rounding_of_the_references_product(name: str) -> None:
    """Both products of a format: of both quantized operands, and of the quantized weight and the
    activation as it is (W x A16), which a rotated format still rotates.
    """
    fmt, bias = get_format(name), normal(1, 48)[0]
    for rows, k in ((1, 192), (33, 192), (5, 960), (2, 256), (3, 32)):
        x, w = even(rows, k, seed=1), even(48, k, seed=2)
        as_it_is: Operand = rotated(x) if "rot" in name else x, None
        weight, offset = fmt.quantize_weight(tensor(w)), tensor(bias)
        expected = either_way(weight, w) if name == "nvfp4-4o6" else WEIGHTS[name](w)
        found = emulated_linear(tensor(x), weight, offset, fmt)
        assert_rounds(found, ACTIVATIONS[name](x), expected, bias)
        for found in (
            fmt.linear_a16(tensor(x), weight, offset),
            linear_with_a16(tensor(x).unsqueeze(0), weight, offset, fmt)[0],
        ):
            assert_rounds(found, as_it_is, expected, bias)
        without = fmt.linear_a16(tensor(x), weight, None)
        assert_rounds(without, as_it_is, expected, np.zeros(48))


def test_a_rotation_leaves_the_product_as_it_is() -> None:
    """The matrix is symmetric and orthogonal for 16, 64 and 256, and all its rows have one sum."""
    for power in (2, 3, 4):
        matrix = rotated(np.eye(4**power))
        np.testing.assert_array_equal(matrix, matrix.T)
        np.testing.assert_array_equal(matrix @ matrix, np.eye(4**power))
        np.testing.assert_array_equal(matrix.sum(0), np.ones(4**power))


@each_format
def test_what_is_not_finite_reaches_the_outputs_that_read_it(name: str) -> None:
    """A NaN or inf in a row of the weight leaves none of its outputs finite, with activations
    quantized or not, and all others, but where the whole weight has one scale. One in a row of a
    16-bit activation leaves none of that row's outputs finite, and all others.
    """
    fmt, x, w = get_format(name), even(4, 64, seed=1), even(8, 64, seed=2)
    scale = WEIGHTS[name](w)[1]
    one_scale = scale is not None and scale.shape == ()
    for value in (np.nan, np.inf, -np.inf):
        weight, row = tensor(w), tensor(x)
        weight[3, 40] = row[2, 40] = value
        kept = fmt.quantize_weight(weight)
        for found in (
            emulated_linear(tensor(x), kept, None, fmt),
            fmt.linear_a16(tensor(x), kept, None),
        ):
            assert not found[:, 3].isfinite().any()
            assert found.isfinite().sum() == (0 if one_scale else 4 * 7)
        found = fmt.linear_a16(row, fmt.quantize_weight(tensor(w)), None)
        assert not found[2].isfinite().any()
        assert found.isfinite().sum() == 3 * 8
