"""INT8, four-over-six, rotations, lower bounds and weight-only formats compute what their
definitions say, in float64 and written here from those, and INT8 what torchao does.
"""

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor
from torchao.quantization import Int8Tensor
from torchao.quantization.granularity import PerRow
from torchao.quantization.quantize_.workflows.float8.float8_tensor import Float8Tensor

from sensitivity.core.format_name import QUANTIZED_FORMATS, FormatName
from sensitivity.core.rotation_block import rotation_block
from sensitivity.errors import FormatError
from sensitivity.formats import QuantizedOperand, get_format
from sensitivity.formats import int8 as int8_module
from sensitivity.formats.emulation import emulated_linear
from sensitivity.formats.rotation import hadamard, rotate

from support.quantized_values import (
    E2M1,
    E4M3,
    assert_one_rounding,
    assert_same,
    corner_cases,
    near_tie,
    normal,
    round_bf16,
    to_grid,
    wide,
)

CPU = torch.device("cpu")
WEIGHT_ONLY = [name for name in QUANTIZED_FORMATS if name.is_weight_only]
ROTATED = [name for name in QUANTIZED_FORMATS if name.is_rotated]
Floats = npt.NDArray[np.float64]


def relative_error(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact).norm() / exact.norm())


# ---- INT8 ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("octaves", [0, 8, 15])
def test_int8_follows_the_definition(octaves: int) -> None:
    """Every code that is not within 1e-5 of a tie is round(x / s), with s = bf16(amax / 127.5) and
    at least 2^-23.
    """
    x = wide(64, 256, seed=octaves, octaves=octaves)
    found = get_format("int8").quantize_activation(x)
    v = x.double().numpy()
    scale = np.maximum(round_bf16(np.abs(v).max(-1, keepdims=True) / 127.5), 2.0**-23)
    quotient = v / scale
    sure = np.abs(quotient - np.floor(quotient) - 0.5) > 1e-5
    codes = found.values.double().numpy()
    assert found.values.dtype == torch.int8
    assert sure.mean() > 0.95
    assert np.array_equal(codes[sure], np.clip(np.rint(quotient), -128, 127)[sure])
    assert found.scale is not None
    assert np.array_equal(found.scale.double().numpy(), scale)


def test_int8_has_both_ends_of_its_range() -> None:
    """255 / 127.5 = 2 is exact, so 255 and -255 are ties: 127 is where codes end, -128 is even."""
    found = get_format("int8").quantize_activation(
        torch.tensor([[255.0, -255.0, 1.0, 3.0]]).bfloat16()
    )
    assert found.values.tolist() == [[127, -128, 0, 2]]


@pytest.mark.parametrize("case", corner_cases().keys())
def test_int8_is_torchaos_bit_for_bit(case: str) -> None:
    """Codes and scales are torchao's in every row of numbers. A NaN or inf anywhere in a row makes
    its scale so, in both.
    """
    x = corner_cases()[case]
    expected = Int8Tensor.from_hp(x, granularity=PerRow())
    fmt, fine = get_format("int8"), x.isfinite().all(dim=1)
    for found in (fmt.quantize_activation(x), fmt.quantize_weight(x)):
        assert found.scale is not None
        assert_same(found.scale, expected.scale)
        assert torch.equal(found.values[fine], expected.qdata[fine])
        assert not found.scale[~fine].isfinite().any()


def test_rows_that_are_not_finite_give_nan_and_zeros_give_the_bias() -> None:
    """A NaN or inf in the activation reaches the outputs of its row alone; a row of zeros, of the
    activation or the weight, gives the bias.
    """
    x, weight, bias = normal(5, 64), normal(16, 64, seed=1), normal(16, seed=2)
    x[1, 3], x[2, 5] = float("nan"), float("inf")
    x[3], weight[7] = 0, 0
    fmt = get_format("int8")
    y = emulated_linear(x, fmt.quantize_weight(weight), bias, fmt)
    assert y.isnan().all(dim=1).tolist() == [False, True, True, False, False]
    assert torch.equal(y[3], bias)
    assert torch.equal(y[[0, 4], 7], bias[7].expand(2))


def test_int8_accumulates_exactly_where_fp32_would_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums beyond 2^24 are the integers of Python's arithmetic, by the CPU's int8 product and by
    the one that stands in for it.
    """
    generator = torch.Generator().manual_seed(0)
    a = torch.randint(120, 128, (3, 8192), generator=generator).to(torch.int8)
    b = torch.randint(120, 128, (8, 8192), generator=generator).to(torch.int8)
    expected = [
        [sum(x * y for x, y in zip(p, q, strict=True)) for q in b.tolist()] for p in a.tolist()
    ]
    assert max(map(max, expected)) > 2**26
    assert any(value % 8 for row in expected for value in row)  # fp32 has steps of 8 there
    assert int8_module.product_int32(a, b).tolist() == expected
    monkeypatch.setattr(int8_module, "int_mm_is_exact", lambda: False)
    assert int8_module.product_int32(a, b).tolist() == expected


@pytest.mark.parametrize("bias", [None, normal(48, seed=2)])
@pytest.mark.parametrize("rows", [1, 16, 40])
def test_int8_outputs_are_one_rounding_of_the_product(rows: int, bias: Tensor | None) -> None:
    """Few rows too, which GPUs' int8 products refuse."""
    fmt = get_format("int8")
    x, weight = wide(rows, 192, seed=1, octaves=3), wide(48, 192, seed=2, octaves=3)
    a, w = fmt.quantize_activation(x), fmt.quantize_weight(weight)
    assert_one_rounding(fmt.linear(a, w, bias), a, w, bias)


# ---- four over six -------------------------------------------------------------------------------


def by_scale(blocks: Floats, wanted: Floats, whole: float) -> tuple[Floats, Floats, Floats]:
    """Values (without the tensor's scale), squared errors, and which values no near-tie touches.

    blocks: (rows, blocks, 16); wanted: (rows, blocks, 1), the ideal block scales.
    """
    scale = to_grid(wanted, **E4M3, largest=448)
    quotient = np.divide(blocks, scale * whole, out=np.zeros_like(blocks), where=scale > 0)
    values = to_grid(quotient, **E2M1, largest=6) * scale
    errors = np.square(values * whole - blocks).sum(-1, keepdims=True)
    sure = ~near_tie(quotient, **E2M1).any(-1, keepdims=True) & ~near_tie(wanted, **E4M3)
    return values, errors, sure


def four_over_six(weight: Tensor) -> tuple[Floats, float, Floats, npt.NDArray[np.bool_]]:
    """The paper's algorithm in float64: values, the tensor's scale, squared errors by the scale
    that maps to 6, and a mask of values whose block is beyond doubt.
    """
    blocks = weight.double().numpy().reshape(len(weight), -1, 16)
    whole = np.abs(blocks).max() / (6 * 256)
    wanted = np.abs(blocks).max(-1, keepdims=True) / 6 / whole
    six, error_six, sure_six = by_scale(blocks, wanted, whole)
    four, error_four, sure_four = by_scale(blocks, wanted * 1.5, whole)
    sure = sure_six & sure_four & (np.abs(error_four - error_six) > 1e-5 * error_six)
    values = np.where(error_four < error_six, four, six)
    return (
        values.reshape(weight.shape),
        whole,
        error_six,
        np.broadcast_to(sure, blocks.shape).reshape(weight.shape),
    )


@pytest.mark.parametrize("octaves", [0, 2, 6])
def test_four_over_six_follows_the_paper(octaves: float) -> None:
    """Each block has the scale of smaller squared error, with the tensor's scale amax / (6 * 256);
    both scales are chosen often.
    """
    weight = wide(64, 256, seed=3, octaves=octaves)
    found = get_format("nvfp4-4o6").quantize_weight(weight)
    values, whole, _, sure = four_over_six(weight)
    assert sure.mean() > 0.9
    assert np.array_equal(found.values.double().numpy()[sure], values[sure])
    assert found.scale is not None
    assert found.scale.item() == pytest.approx(whole, rel=2**-22)


def test_no_block_errs_more_than_by_the_scale_of_six() -> None:
    """In its own objective, block by block; over a normal weight the squared error is at least a
    tenth smaller than plain NVFP4's.
    """
    weight = normal(256, 256, seed=4)
    plain, own = (get_format(n).quantize_weight(weight) for n in ("nvfp4", "nvfp4-4o6"))

    def errors(operand: QuantizedOperand) -> Floats:
        assert operand.scale is not None
        difference = operand.values.double() * operand.scale.double() - weight.double()
        return difference.square().view(256, -1, 16).sum(-1, keepdim=True).numpy()

    _, _, by_six, _ = four_over_six(weight)
    assert (errors(own) <= by_six * (1 + 1e-5)).all()
    assert (errors(own) < by_six * 0.9).mean() > 0.2
    assert errors(own).sum() < 0.9 * errors(plain).sum()


def test_four_over_six_keeps_zeros_and_leaves_activations_alone() -> None:
    """An all-zero weight stays zero, where NVFP4 has NaN; NaN makes the weight NaN; activations are
    plain NVFP4's.
    """
    fmt, plain = get_format("nvfp4-4o6"), get_format("nvfp4")
    zeros = fmt.quantize_weight(torch.zeros(16, 32).bfloat16())
    assert bool(zeros.is_finite())
    x, bias = normal(4, 32), normal(16)
    assert torch.equal(emulated_linear(x, zeros, bias, fmt), bias.expand(4, 16))
    hole = normal(16, 32)
    hole[3, 3] = float("nan")
    assert not bool(fmt.quantize_weight(hole).is_finite())
    assert torch.equal(fmt.quantize_activation(x).values, plain.quantize_activation(x).values)


# ---- rotations -----------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [16, 64, 256])
def test_the_rotation_is_the_regular_hadamard_matrix(block: int) -> None:
    """Entries are 1 / sqrt(B) in size, rows are orthonormal, the matrix is symmetric, and all rows
    have one sum.
    """
    matrix = hadamard(block, CPU).double()
    assert torch.equal(matrix.abs(), torch.full_like(matrix, block**-0.5))
    assert torch.equal(matrix @ matrix.t(), torch.eye(block).double())
    assert torch.equal(matrix, matrix.t())
    assert torch.equal(matrix.sum(1), torch.ones(block).double())


@pytest.mark.parametrize(("k", "block"), [(3072, 256), (192, 64), (1152, 64), (48, 16), (40, None)])
def test_the_block_is_the_largest_that_divides_k(k: int, block: int | None) -> None:
    """256, 64 or 16; a Linear that none divides is refused with words."""
    assert rotation_block(k) == block
    refusal = get_format("int8-rot").refusal(k=k, n=64, dtype=torch.bfloat16)
    assert (refusal is None) == (block is not None)
    if block is None:
        assert refusal == "K = 40 is not a multiple of 16, as int8-rot needs"
        with pytest.raises(FormatError, match="found K = 40 of a rotated Linear"):
            rotate(normal(2, k))


def test_rotated_values_are_rounded_once() -> None:
    """Each is the bf16 number nearest to the float64 product with the matrix, made here by
    Kronecker products, or its neighbour where fp32 sums may tip it.
    """
    x = wide(32, 192, seed=5, octaves=4)
    four = np.array([[1, 1, 1, -1], [1, 1, -1, 1], [1, -1, 1, 1], [-1, 1, 1, 1]]) / 2
    matrix = np.kron(np.kron(four, four), four)
    exact = (x.double().numpy().reshape(-1, 64) @ matrix).reshape(x.shape)
    size = (np.abs(x.double().numpy()).reshape(-1, 64) @ np.abs(matrix)).reshape(x.shape)
    found = rotate(x).double().numpy()
    low, high = round_bf16(exact - size * 2.0**-18), round_bf16(exact + size * 2.0**-18)
    assert ((low <= found) & (found <= high)).all()
    assert (found == round_bf16(exact)).mean() > 0.99


def test_a_rotated_product_is_the_product() -> None:
    """Before anything is quantized the two rotations cancel, but for two roundings to bf16."""
    x, weight = normal(64, 768), normal(96, 768, seed=1)
    exact = x.double() @ weight.double().t()
    assert relative_error(rotate(x).double() @ rotate(weight).double().t(), exact) < 2.0**-8


@pytest.mark.parametrize("name", ROTATED)
def test_rotated_formats_are_the_plain_ones_of_rotated_operands(name: FormatName) -> None:
    """Weight, activation and products, with quantized and with bf16 activations."""
    x, weight, bias = normal(9, 192), normal(48, 192, seed=1), normal(48, seed=2)
    fmt, plain = get_format(name), get_format(name.plain)
    own, expected = fmt.quantize_weight(weight), plain.quantize_weight(rotate(weight))
    assert_same(own.values, expected.values)
    y = emulated_linear(x, own, bias, fmt, remember=False)
    assert torch.equal(y, emulated_linear(rotate(x), expected, bias, plain, remember=False))
    a16 = fmt.linear_a16(x, own, bias)
    assert torch.equal(a16, plain.linear_a16(rotate(x), expected, bias))


def test_rotation_spreads_outliers() -> None:
    """With one channel that is 50 times as large, INT8 loses its other channels; rotated it errs
    less than half as much.
    """
    x, weight = normal(64, 256), normal(64, 256, seed=1)
    x[:, 17] *= 50
    exact = x.double() @ weight.double().t()

    def error(name: str) -> float:
        fmt = get_format(name)
        return relative_error(emulated_linear(x, fmt.quantize_weight(weight), None, fmt), exact)

    assert error("int8-rot") < 0.5 * error("int8")


# ---- FP8 with a lower bound ----------------------------------------------------------------------


@pytest.mark.parametrize("case", corner_cases().keys())
def test_the_lower_bound_is_torchaos(case: str) -> None:
    """Codes and scales are those of torchao with `hp_value_lb` 1e-12, bit for bit."""
    x = corner_cases()[case]
    found = get_format("fp8-lb").quantize_activation(x)
    expected = Float8Tensor.from_hp(x, hp_value_lb=1e-12)
    assert_same(found.values, expected.qdata)
    assert found.scale is not None
    assert_same(found.scale, expected.scale)


def test_rows_of_zeros_stay_finite_with_a_lower_bound() -> None:
    """They give the bias, where fp8 gives NaN; other rows have fp8's bits. A weight's row of zeros
    is NaN in both, as in torchao.
    """
    x, weight, bias = normal(5, 64), normal(16, 64, seed=1), normal(16, seed=2)
    x[2] = 0
    fmt, plain = get_format("fp8-lb"), get_format("fp8")
    operand = fmt.quantize_weight(weight)
    y, without = (emulated_linear(x, operand, bias, f, remember=False) for f in (fmt, plain))
    assert torch.equal(y[2], bias)
    assert without[2].isnan().all()
    others = torch.tensor([0, 1, 3, 4])
    assert torch.equal(y[others], without[others])
    weight[3] = 0
    assert not bool(fmt.quantize_weight(weight).is_finite())
    assert fmt.native_config().activation_value_lb == 1e-12
    assert plain.native_config().activation_value_lb is None


# ---- weight only ---------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [None, normal(48, seed=2)])
@pytest.mark.parametrize("name", WEIGHT_ONLY)
def test_weight_only_outputs_are_one_rounding(name: FormatName, bias: Tensor | None) -> None:
    """Of the product of bf16 activations and the quantized weight, which is the plain format's."""
    fmt, plain = get_format(name), get_format(name.plain)
    x, weight = wide(17, 192, seed=6, octaves=3), wide(48, 192, seed=7, octaves=3)
    w = fmt.quantize_weight(weight)
    assert_same(w.values, plain.quantize_weight(weight).values)
    found = emulated_linear(x, w, bias, fmt, remember=False)
    assert_one_rounding(found, QuantizedOperand(values=x, scale=None), w, bias)
    assert torch.equal(plain.linear_a16(x, w, bias), found)


def test_activations_of_weight_only_formats_may_be_anything() -> None:
    """Zeros give the bias in all of them, and a NaN stays in its row."""
    x, bias = torch.zeros(3, 64).bfloat16(), normal(16, seed=2)
    x[1, 0] = float("nan")
    for name in WEIGHT_ONLY:
        fmt = get_format(name)
        y = emulated_linear(x, fmt.quantize_weight(normal(16, 64, seed=1)), bias, fmt)
        assert torch.equal(y[[0, 2]], bias.expand(2, 16))
        assert y[1].isnan().all()


# ---- all -----------------------------------------------------------------------------------------


def test_every_name_has_a_format_that_gives_its_own_name() -> None:
    """Names in messages are those that were asked for; bytes are the plain format's."""
    for name in QUANTIZED_FORMATS:
        fmt, plain = get_format(name), get_format(name.plain)
        assert fmt.name is name
        assert f"as {name} needs" in str(fmt.refusal(k=24, n=9, dtype=torch.bfloat16))
        assert f"{name} takes bfloat16" in str(fmt.refusal(k=64, n=64, dtype=torch.float32))
        assert fmt.weight_bytes(k=64, n=48) == plain.weight_bytes(k=64, n=48)
        with pytest.raises(FormatError, match=r"takes torch\.bfloat16 only"):
            fmt.linear_a16(torch.zeros(2, 64), fmt.quantize_weight(normal(16, 64)), None)
