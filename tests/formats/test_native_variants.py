"""Variants natively: torchao's INT8 and weight-only tensors run on a CPU; four over six runs by
torchao's own code over a fake of Blackwell's GEMM.
"""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torchao.prototype.mx_formats.nvfp4_tensor import NVFP4Tensor
from torchao.quantization import Int8Tensor

from sensitivity.core.arithmetic import Arithmetic
from sensitivity.core.format_name import FormatName
from sensitivity.core.kernels import Kernels
from sensitivity.errors import FormatError
from sensitivity.formats import QuantizedOperand, get_format
from sensitivity.formats.emulation import as_run_on, emulated_linear
from sensitivity.formats.native import quantize_native
from sensitivity.formats.native_formats import default_arithmetic, native_format
from sensitivity.formats.plain_weights import plain_weights
from sensitivity.formats.rotation import rotate
from sensitivity.formats.torchao_linear import native_instance, plain_operand

from support.blackwell import a_blackwell, install_mslk
from support.quantized_values import assert_same, normal

CPU = torch.device("cpu")
INT8, FP8_LB, NVFP4_4O6 = FormatName.INT8, FormatName.FP8_LB, FormatName.NVFP4_4O6
NVFP4, INT8_ROT = FormatName.NVFP4, FormatName.INT8_ROT
ON_BLACKWELL = (NVFP4_4O6,)


@pytest.fixture
def blackwell(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """A CPU with native MXFP8 and NVFP4, without mslk."""
    with a_blackwell(monkeypatch):
        yield monkeypatch


def a_linear() -> nn.Linear:
    linear = nn.Linear(192, 48).bfloat16().requires_grad_(False)
    linear.weight.copy_(normal(48, 192, seed=1))
    linear.bias.copy_(normal(48, seed=2))
    return linear


def test_int8_natively_rounds_what_emulation_computes_twice() -> None:
    """torchao's Linear on the CPU has our codes, rounds the product with the activation's scale to
    bf16, and rounds again after the weight's scale and the bias.
    """
    x, linear, fmt = normal(40, 192), a_linear(), get_format(INT8)
    weight, bias = linear.weight.clone(), linear.bias
    a, w = fmt.quantize_activation(x), fmt.quantize_weight(weight)
    assert a.scale is not None
    assert w.scale is not None
    fmt.quantize_linear(linear)
    assert isinstance(linear.weight.data, Int8Tensor)
    product = (a.values.double() @ w.values.double().t()).float()
    expected = ((product * a.scale).bfloat16() * w.scale.t() + bias).bfloat16()
    assert torch.equal(linear(x), expected)
    native = native_instance(INT8, Arithmetic.EAGER)
    assert native is not None
    assert native.kernels is Kernels.NATIVE
    operand = native.quantize_weight(weight)
    assert operand.nbytes == fmt.weight_bytes(k=192, n=48)
    assert torch.equal(emulated_linear(x, operand, bias, native), expected)
    assert torch.equal(native.linear_a16(x, operand, bias), fmt.linear_a16(x, w, bias))


def test_a_rotated_linear_rotates_its_input() -> None:
    """A Linear made INT8 with rotation gives torchao's INT8 of rotated operands, compiled too, and
    where its weight is taken apart for the compiler: a graph of one without rotation, which has the
    same shapes and the same kind of weight, is not run for it.
    """
    x, linear, plain = normal(40, 192), a_linear(), a_linear()
    plain.weight.copy_(rotate(plain.weight))
    get_format(INT8).quantize_linear(plain)
    model = nn.Sequential(linear)
    get_format(FormatName.INT8_ROT).quantize_linear(linear)
    expected = plain(rotate(x))
    unrotated = nn.Sequential(plain)

    def compiled(module: nn.Module) -> Tensor:
        return torch.compile(module, fullgraph=True, dynamic=False, backend="eager")(x)

    assert torch.equal(model(x), expected)
    assert torch.equal(compiled(unrotated), plain(x))
    assert torch.equal(compiled(model), expected)
    with plain_weights(nn.ModuleList([model, unrotated])):
        assert model[0] is not linear
        assert torch.equal(model(x), expected)
        assert torch.equal(compiled(unrotated), unrotated(x))
        assert torch.equal(compiled(model), expected)
    torch._dynamo.reset()
    assert "0.rotation" not in model.state_dict()


def test_a_linear_whose_forward_is_patched_is_not_rotated() -> None:
    """The patch would hide the rotation, so it is refused before anything changes."""
    linear = a_linear()
    weight = linear.weight
    linear.forward = lambda input: input  # type: ignore[method-assign]
    with pytest.raises(FormatError, match="quantize before offloading"):
        get_format(FormatName.INT8_ROT).quantize_linear(linear)
    assert linear.weight is weight


def test_a_bf16_weight_put_back_gets_its_input_as_it_is() -> None:
    """At an edge step of a policy a rotated Linear has the weight that it had before."""
    x, linear = normal(40, 192), a_linear()
    weight, expected = linear.weight, linear(x)
    get_format(FormatName.INT8_ROT).quantize_linear(linear)
    linear.weight = weight
    assert torch.equal(linear(x), expected)


def dequantizing(name: FormatName, x: Tensor, w: QuantizedOperand, bias: Tensor) -> Tensor:
    """What native weight-only Linears compute of the same numbers, (rows, N) bf16."""
    assert w.scale is not None
    dequantized = (w.values.float() * w.scale).bfloat16()
    if name is FormatName.FP8_A16:
        return x @ dequantized.t() + bias
    return nn.functional.linear(x, dequantized, bias)


@pytest.mark.parametrize("name", [FormatName.FP8_A16, FormatName.NVFP4_A16, FormatName.INT8_A16])
def test_weight_only_natively_rounds_more_often(name: FormatName) -> None:
    """The Linears have our numbers, dequantized to bf16 in each call, INT8's too, and round as
    `dequantizing` says. (NVFP4's two scales are multiplied first, which may tip a rounding.) They
    stay within a few roundings of the exact product.
    """
    x, linear, fmt = normal(40, 192), a_linear(), get_format(name)
    w = fmt.quantize_weight(linear.weight)
    assert w.scale is not None
    quantize_native(model := nn.Sequential(linear), {"0": name})
    found = model(x)
    assert (found == dequantizing(name, x, w, linear.bias)).float().mean() > 0.99
    exact = x.double() @ (w.values.double() * w.scale.double()).t() + linear.bias.double()
    assert (found.double() - exact).norm() < 2.0**-7 * exact.norm()


def test_what_torchao_has_no_config_for_says_so() -> None:
    """With the next step: no run-time rotation, no four over six, no weight-only MXFP8."""
    for name in (*ON_BLACKWELL, FormatName.INT8_ROT):
        with pytest.raises(FormatError, match=f"no torchao config for {name}.*apply the recipe"):
            get_format(name).native_config()
    with pytest.raises(FormatError, match=r"torchao 0\.18 has no weight-only mxfp8"):
        get_format(FormatName.MXFP8_A16).native_config()
    with pytest.raises(
        FormatError, match="0 cannot be quantized natively: mxfp8-a16 has no native"
    ):
        quantize_native(nn.Sequential(a_linear()), {"0": FormatName.MXFP8_A16})
    with pytest.raises(FormatError, match=r"int8-rot runs natively on CUDA.* 8\.0 or higher"):
        quantize_native(nn.Sequential(a_linear()), {"0": FormatName.INT8_ROT})


@pytest.mark.usefixtures("blackwell")
@pytest.mark.parametrize("name", ON_BLACKWELL)
def test_native_variants_are_what_quantize_native_makes(name: FormatName) -> None:
    """The format by torchao's tensors gives what a Linear quantized in place gives, and what the
    emulated weight says: its numbers are in torchao's tensor.
    """
    x, linear = normal(2, 9, 192), a_linear()
    fmt, emulated = as_run_on(name, CPU), get_format(name)
    assert fmt.kernels is Kernels.NATIVE
    assert as_run_on(name, CPU) is fmt
    operand, w = fmt.quantize_weight(linear.weight), emulated.quantize_weight(linear.weight)
    assert operand.nbytes == fmt.weight_bytes(k=192, n=48)
    assert_same(plain_operand(operand).values, w.values)
    found = emulated_linear(x, operand, linear.bias, fmt)
    assert torch.equal(
        fmt.linear_a16(x.view(-1, 192), operand, linear.bias),
        emulated.linear_a16(x.view(-1, 192), w, linear.bias),
    )
    quantize_native(model := nn.Sequential(linear), {"0": name})
    assert torch.equal(found, model(x))
    near = emulated_linear(x, w, linear.bias, emulated)
    assert (found.float() - near.float()).norm() < 0.01 * near.float().norm()


@pytest.mark.usefixtures("blackwell")
def test_four_over_six_is_in_torchaos_tensor() -> None:
    """Codes and scales differ from plain NVFP4's; activations are quantized as torchao does."""
    linear, plain = a_linear(), a_linear()
    quantize_native(nn.Sequential(linear), {"0": NVFP4_4O6})
    quantize_native(nn.Sequential(plain), {"0": NVFP4})
    own, usual = linear.weight.data, plain.weight.data
    assert isinstance(own, NVFP4Tensor)
    assert own.act_quant_kwargs == usual.act_quant_kwargs
    assert own.per_tensor_scale / usual.per_tensor_scale == pytest.approx(448 / 256)
    assert (own.qdata != usual.qdata).float().mean() > 0.1


def test_the_default_arithmetic_asks_for_variants_too(blackwell: pytest.MonkeyPatch) -> None:
    """With mslk, a variant of NVFP4 that quantizes activations is drawn in its arithmetic; fp8-lb
    beside it, or weights alone, leave it eager.
    """
    install_mslk(blackwell)
    for formats, expected in (
        ({NVFP4_4O6}, Arithmetic.MSLK),
        ({NVFP4_4O6, INT8_ROT}, Arithmetic.MSLK),
        ({NVFP4_4O6, FP8_LB}, Arithmetic.EAGER),
        ({FormatName.NVFP4_A16}, Arithmetic.EAGER),
    ):
        assert default_arithmetic(formats, "cpu") is expected


@pytest.mark.usefixtures("blackwell")
def test_weight_only_formats_are_emulated_everywhere() -> None:
    """Since torchao dequantizes in each call; the reason says so."""
    for name in (FormatName.NVFP4_A16, FormatName.MXFP8_A16):
        assert isinstance(native_format(name, CPU, Arithmetic.EAGER), str)
        assert as_run_on(name, CPU) is get_format(name)
