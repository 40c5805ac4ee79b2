"""Each format quantizes as its definition says, and bit for bit as torchao's primitives do."""

import numpy as np
import pytest
import torch

from sensitivity.formats import cpu_kernels, get_format

from support.quantized_values import (
    QUANTIZED,
    assert_same,
    corner_cases,
    reference_fp8,
    reference_mxfp8,
    reference_nvfp4,
    torchao_operand,
    wide,
)


@pytest.mark.parametrize("seed", range(3))
def test_mxfp8_values_follow_the_definition(seed: int) -> None:
    """Every MXFP8 value is the e4m3 neighbour of x / scale, times the scale, for numbers of 40
    octaves up and down.
    """
    x = wide(64, 256, seed=seed, octaves=15 * seed)
    found = get_format("mxfp8").quantize_activation(x).values
    assert np.array_equal(found.double().numpy(), reference_mxfp8(x))


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
    block = torch.cat([ties, -ties, torch.tensor([6.0, 0.0])])
    largest = torch.cat([torch.tensor([448.0 * 6]), torch.zeros(15)])
    row = torch.cat([block, largest]).bfloat16().unsqueeze(0)  # T = 1; scales 1 and 448
    found = get_format("nvfp4").quantize_activation(row).values[0, :14].float()
    expected = torch.tensor([0.0, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0])
    assert_same(found, torch.cat([expected, -expected]))


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


def test_only_unusual_inputs_leave_the_cpu_kernels() -> None:
    """What a model computes is quantized by the fast kernels. NaN, inf and extremes are left to
    torchao's primitives.
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
        assert cpu_kernels.quantize_mxfp8(cases[case]) is not None
        assert cpu_kernels.quantize_nvfp4(cases[case]) is not None
    for case in ("any bits", "denormals", "tiny", "huge", "nan", "inf"):
        assert cpu_kernels.quantize_mxfp8(cases[case]) is None
        assert cpu_kernels.quantize_nvfp4(cases[case]) is None
