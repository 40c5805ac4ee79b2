"""The GPU's quantizers give torchao's numbers bit for bit.

Here in Triton's interpreter, which runs the same kernels on the CPU; `tests/gpu` runs them on a
GPU.
"""

import os
import subprocess
import sys

import pytest

CHECK = """
import torch
from sensitivity.formats import triton_kernels as gpu
from sensitivity.formats import get_format

torch.manual_seed(0)

def same(found, expected):
    assert found.shape == expected.shape
    assert torch.equal(torch.nan_to_num(found.float(), 12345.0), torch.nan_to_num(expected.float(), 12345.0))

def check(x):
    on_cpu = {name: get_format(name).quantize_weight(x) for name in ("mxfp8", "nvfp4", "fp8")}  # torchao's own primitives
    same(gpu.quantize_mxfp8(x), on_cpu["mxfp8"].values)
    values, scale = gpu.quantize_nvfp4(x)
    same(values, on_cpu["nvfp4"].values)
    same(scale, on_cpu["nvfp4"].scale)
    for codes in (False, True):
        values, scale = gpu.quantize_fp8_rows(x, codes=codes)
        assert values.dtype == (torch.float8_e4m3fn if codes else torch.bfloat16)
        same(values, on_cpu["fp8"].values)
        same(scale, on_cpu["fp8"].scale)

for shape, size in (((1, 32), 1.0), ((3, 192), 1.0), ((17, 960), 3.0), ((33, 128), 1e-3), ((2, 8224), 30.0)):
    x = (torch.randn(shape) * size).bfloat16()
    x[0] *= 2.0**-12
    x[-1, :16] = 0
    check(x)
grid = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 6.0] * 4).bfloat16()  # ties of e2m1, at scales that keep them
check(torch.stack([grid, -grid, grid * 64, grid / 64]))
check(torch.full((2, 32), 448.0).bfloat16())  # a block whose largest value is the format's own
check(torch.full((2, 32), 452.0).bfloat16())

hole = torch.randn(4, 64).bfloat16()
hole[1, 3], hole[2, 40] = float("nan"), float("inf")
same(gpu.quantize_mxfp8(hole), get_format("mxfp8").quantize_weight(hole).values)
assert gpu.quantize_nvfp4(hole)[1].isnan()
assert gpu.quantize_fp8_rows(hole)[0].isnan()[1:3].any(1).all()
nothing = torch.zeros(2, 32).bfloat16()
assert gpu.quantize_nvfp4(nothing)[1].isnan() and gpu.quantize_fp8_rows(nothing)[0].isnan().all()
assert gpu.quantize_mxfp8(nothing).abs().sum() == 0

product, rows, columns, bias = torch.randn(5, 300) * 100, torch.rand(5, 1), torch.rand(300), torch.randn(300).bfloat16()
same(gpu.scale_and_round(product, rows, columns, bias), (product * rows * columns + bias.float()).bfloat16())
same(gpu.scale_and_round(product, rows[0, 0], None, None), (product * rows[0, 0]).bfloat16())
print("all the same")
"""


def test_quantizers_are_torchaos_to_the_bit() -> None:
    """Values and scales of all three formats, ties, tiny and large numbers, zeros, NaN and inf, and
    the epilogue.
    """
    pytest.importorskip("triton")
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CHECK],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "all the same", done.stderr[-2000:]
