"""A script: are the Triton kernels torchao's primitives, bit for bit?

It runs in a process of its own with TRITON_INTERPRET=1, which Triton reads when it is imported. Its
interpreter runs the kernels on the CPU.
"""

import torch
from torch import Tensor

from sensitivity.formats import get_format
from sensitivity.formats import triton_kernels as gpu
from sensitivity.formats.fp8 import LOWER_BOUND

NAN, INF = float("nan"), float("inf")
SHAPES_AND_SIZES = [
    ((1, 32), 1.0),
    ((3, 192), 1.0),
    ((17, 960), 3.0),
    ((33, 128), 1e-3),
    ((2, 8224), 30.0),
]


def assert_same(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    assert torch.equal(found.float().nan_to_num(12345.0), expected.float().nan_to_num(12345.0))


def check_quantizers(x: Tensor) -> None:
    """`quantize_weight` on the CPU calls torchao's own primitives."""
    on_cpu = {name: get_format(name).quantize_weight(x) for name in ("mxfp8", "nvfp4", "fp8")}
    assert_same(gpu.quantize_mxfp8(x), on_cpu["mxfp8"].values)
    values, scale = gpu.quantize_nvfp4(x)
    assert_same(values, on_cpu["nvfp4"].values)
    assert_same(scale, on_cpu["nvfp4"].scale)
    for codes in (False, True):
        values, scale = gpu.quantize_fp8_rows(x, codes=codes)
        assert values.dtype == (torch.float8_e4m3fn if codes else torch.bfloat16)
        assert_same(values, on_cpu["fp8"].values)
        assert_same(scale, on_cpu["fp8"].scale)
    codes, scale = gpu.quantize_int8_rows(x)
    on_cpu = get_format("int8").quantize_weight(x)
    assert codes.dtype == torch.int8
    assert_same(codes, on_cpu.values)
    assert_same(scale, on_cpu.scale)
    values, scale = gpu.quantize_fp8_rows(x, lower_bound=LOWER_BOUND)
    bounded = get_format("fp8-lb").quantize_activation(x)
    assert_same(values, bounded.values)
    assert_same(scale, bounded.scale)


def check_numbers() -> None:
    """Sizes from tiny to large, ties, and blocks whose largest value is e4m3's own."""
    for shape, size in SHAPES_AND_SIZES:
        x = (torch.randn(shape) * size).bfloat16()
        x[0] *= 2.0**-12
        x[-1, :16] = 0
        check_quantizers(x)
    # ties of e2m1, at scales that keep them
    ties = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 6.0] * 4).bfloat16()
    check_quantizers(torch.stack([ties, -ties, ties * 64, ties / 64]))
    for largest in (448.0, 452.0):
        check_quantizers(torch.full((2, 32), largest).bfloat16())


def check_zeros_nan_and_inf() -> None:
    """They go where torchao lets them go."""
    hole = torch.randn(4, 64).bfloat16()
    hole[1, 3], hole[2, 40] = NAN, INF
    assert_same(gpu.quantize_mxfp8(hole), get_format("mxfp8").quantize_weight(hole).values)
    assert gpu.quantize_nvfp4(hole)[1].isnan()
    assert gpu.quantize_fp8_rows(hole)[0].isnan()[1:3].any(1).all()
    _, scale = gpu.quantize_fp8_rows(hole, lower_bound=LOWER_BOUND)
    assert scale.isfinite().flatten().tolist() == [True, False, False, True]
    _, scale = gpu.quantize_int8_rows(hole)
    assert scale.isfinite().flatten().tolist() == [True, False, False, True]
    nothing = torch.zeros(2, 32).bfloat16()
    assert gpu.quantize_nvfp4(nothing)[1].isnan()
    assert gpu.quantize_fp8_rows(nothing)[0].isnan().all()
    assert gpu.quantize_mxfp8(nothing).abs().sum() == 0
    assert gpu.quantize_fp8_rows(nothing, lower_bound=LOWER_BOUND)[0].abs().sum() == 0
    assert gpu.quantize_int8_rows(nothing)[0].abs().sum() == 0


def check_epilogue() -> None:
    """Scales of rows and columns and the bias, each in fp32."""
    product, rows, columns = torch.randn(5, 300) * 100, torch.rand(5, 1), torch.rand(300)
    bias = torch.randn(300).bfloat16()
    expected = (product * rows * columns + bias.float()).bfloat16()
    assert_same(gpu.scale_and_round(product, rows, columns, bias), expected)
    expected = (product * rows[0, 0]).bfloat16()
    assert_same(gpu.scale_and_round(product, rows[0, 0], None, None), expected)


if __name__ == "__main__":
    torch.manual_seed(0)
    check_numbers()
    check_zeros_nan_and_inf()
    check_epilogue()
    print("all the same")
