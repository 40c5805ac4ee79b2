"""On a CUDA device: formats that it has run by its kernels, as far from emulation as roundings
reach, and what a kernel refuses is emulated.

    python -m pytest tests/gpu/test_native_gpu.py -m gpu -s
"""

import pytest
import torch
from torch import nn

from sensitivity.core.format_name import QUANTIZED_FORMATS, FormatName
from sensitivity.formats.emulation import as_run_on, emulated_linear
from sensitivity.formats.execution import Execution
from sensitivity.formats.native import quantize_native
from sensitivity.formats.native_check import SHAPES, compare_native
from sensitivity.formats.native_formats import default_arithmetic, native_format
from sensitivity.formats.refused_products import linear_of
from sensitivity.formats.switch import Switch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CUDA = torch.device("cuda")
MOST_ULP = 8
"""3 were seen for FP8 on an H200; NVFP4's epilogue rounds three times more."""


@pytest.fixture(params=QUANTIZED_FORMATS)
def name(request: pytest.FixtureRequest) -> FormatName:
    """A format that the device has."""
    own = Execution(device="cuda", formats=(request.param,))
    if own.reasons:
        pytest.skip(own.describe())
    return FormatName(request.param)


def test_a_device_that_has_a_format_uses_it(name: FormatName) -> None:
    """Where the compute capability allows a format, its small Linear runs."""
    assert not isinstance(native_format(name, CUDA, Execution(device="cuda").arithmetic), str)


def test_native_kernels_are_roundings_away_from_emulation(name: FormatName) -> None:
    """Every shape that runs is within a few ulp for every kind of input, and NaN where emulation
    is.
    """
    rows = compare_native(name, "cuda")
    for row in rows:
        print(row.to_json())
    ran = [row for row in rows if row.error is None]
    assert len({(row.m, row.k, row.n) for row in ran}) >= len(SHAPES) - 1
    for row in ran:
        assert row.native_not_finite == row.emulated_not_finite
        assert row.largest_ulp is None or row.largest_ulp <= MOST_ULP


@torch.no_grad()
def test_a_switch_has_the_bits_of_torchaos_linear(name: FormatName) -> None:
    """What a search runs is what `quantize_` makes of the Linear, run eagerly."""
    model = nn.Sequential(nn.Linear(3072, 1024)).bfloat16().cuda().requires_grad_(False)
    x = torch.randn(3, 170, 3072, device="cuda", dtype=torch.bfloat16)
    with Switch(model, arithmetic=default_arithmetic((name,), "cuda")) as switch:
        switch.set({"0": name})
        found = model(x)
        assert switch.check_ran() == ()
    quantize_native(model, {"0": name})
    assert torch.equal(found, model(x))


@torch.no_grad()
def test_a_refused_shape_is_emulated(name: FormatName) -> None:
    """The shape that Hopper refuses in FP8 gives finite numbers on every GPU, and those of
    emulation up to roundings.
    """
    x = torch.randn(14, 12288, device="cuda", dtype=torch.bfloat16)
    linear = nn.Linear(12288, 3072).bfloat16().cuda()
    fmt, emulated = as_run_on(name, CUDA), as_run_on(name, CUDA, emulate=True)
    found = linear_of(x, fmt.quantize_weight(linear.weight), linear.weight, linear.bias, fmt)
    operand = emulated.quantize_weight(linear.weight)
    expected = emulated_linear(x, operand, linear.bias, emulated)
    assert float((found.float() - expected.float()).norm() / expected.float().norm()) < 0.01
