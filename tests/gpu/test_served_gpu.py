"""On a CUDA device: `arithmetic` compiled is what `torch.compile` makes of torchao there, as far as
the compiler's divisions allow.

Inductor divides in Triton, whose fp32 division is not rounded to nearest. So a few row scales are
an ulp off, and few codes differ; the shares are printed.

    python -m pytest tests/gpu/test_served_gpu.py -m gpu -s
"""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torchao.prototype.mx_formats.nvfp4_tensor import nvfp4_quantize, per_tensor_amax_to_scale
from torchao.quantization.quant_primitives import _choose_scale_float8, _quantize_affine_float8

from sensitivity.core.arithmetic import Arithmetic
from sensitivity.core.format_name import FormatName
from sensitivity.formats.emulation import as_run_on, emulated_linear
from sensitivity.formats.native import quantize_native
from sensitivity.formats.registry import get_format

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
SHAPES = [(1, 3072, 768), (256, 768, 3072), (2304, 3072, 1024)]  # M, K, N
FEW = 0.01
"""Of codes that may differ between a true division and the compiler's."""


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def wide(rows: int, k: int) -> Tensor:
    """(rows, k) bf16 of a large dynamic range."""
    generator = torch.Generator().manual_seed(rows + k)
    x = torch.randn(rows, k, generator=generator)
    return (x * torch.randn(rows, k, generator=generator).exp()).bfloat16().cuda()


def share(found: Tensor, expected: Tensor) -> float:
    return float((found.float() == expected.float()).float().mean())


@pytest.mark.parametrize(("m", "k", "n"), SHAPES)
def test_compiled_fp8_is_emulated(m: int, k: int, n: int) -> None:
    """Row scales and codes are those of the compiled functions, and outputs those of the compiled
    Linear; eager emulation agrees with neither.
    """
    x = wide(m, k)

    def quantize(x: Tensor) -> tuple[Tensor, Tensor]:
        scale = _choose_scale_float8(x, [1, x.shape[-1]])
        return scale, _quantize_affine_float8(x, scale)

    scale, codes = torch.compile(quantize, dynamic=False)(x)
    linear = nn.Linear(k, n).bfloat16().cuda()
    native = nn.Sequential(nn.Linear(k, n).bfloat16().cuda())
    native[0].load_state_dict(linear.state_dict())
    quantize_native(native, {"0": FormatName.FP8})
    y = torch.compile(native, dynamic=False)(x)
    shares = {}
    for arithmetic in (Arithmetic.COMPILED, Arithmetic.EAGER):
        fmt = as_run_on(FormatName.FP8, x.device, arithmetic)
        operand = fmt.quantize_activation(x)
        out = emulated_linear(x, fmt.quantize_weight(linear.weight), linear.bias, fmt)
        assert operand.scale is not None
        shares[arithmetic] = (
            share(operand.scale, scale),
            share(operand.values, codes),
            share(out, y),
        )
    print(f"{m, k, n}: equal scales, codes, outputs: {shares}")
    close = float((operand.scale - scale).abs().max() / scale.max())
    assert close < 2**-8
    assert shares[Arithmetic.COMPILED][1] > 1 - FEW
    assert shares[Arithmetic.COMPILED][2] > shares[Arithmetic.EAGER][2]


@pytest.mark.parametrize(("m", "k", "n"), SHAPES)
def test_compiled_nvfp4_is_emulated(m: int, k: int, n: int) -> None:
    """Codes and block scales are those of the compiled functions, which are the eager ones, and the
    epilogue's output is that of the compiled epilogue.
    """
    x, weight = wide(m, k), wide(n, k)
    bias = torch.linspace(-1, 1, n).bfloat16().cuda()

    def quantize(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        tensor_scale = per_tensor_amax_to_scale(torch.max(torch.abs(x)))
        return tensor_scale, *nvfp4_quantize(x, 16, tensor_scale)

    def epilogue(product: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        return product * scale.to(torch.bfloat16) + bias

    compiled, eager = torch.compile(quantize, dynamic=False)(x), quantize(x)
    codes = [share(found, expected) for found, expected in zip(compiled, eager, strict=True)]
    fmt = as_run_on(FormatName.NVFP4, x.device, Arithmetic.COMPILED, emulate=True)
    a, w = fmt.quantize_activation(x), fmt.quantize_weight(weight)
    assert a.scale is not None
    assert w.scale is not None
    product = torch.mm(a.values, w.values.t(), out_dtype=torch.float32).bfloat16()
    y = torch.compile(epilogue, dynamic=False)(product, a.scale * w.scale, bias)
    same = share(fmt.linear(a, w, bias), y)
    ideal = share(get_format(FormatName.NVFP4).linear(a, w, bias), y)
    print(f"{m, k, n}: equal scale, block scales, codes {codes}; epilogue {same}, ideal {ideal}")
    assert min(codes[1:]) > 1 - FEW
    assert same > 0.999
    assert same > ideal
