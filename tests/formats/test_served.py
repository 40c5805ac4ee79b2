"""What other runtimes than eager torchao compute: compiled torchao is held to `torch.compile` of
torchao's own code, MSLK to a second reading of its kernel in NumPy.
"""

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn
from torchao.quantization import Int8Tensor
from torchao.quantization.granularity import PerRow
from torchao.quantization.quant_primitives import _choose_scale_float8, _quantize_affine_float8

from sensitivity.core.arithmetic import Arithmetic
from sensitivity.core.format_name import FormatName
from sensitivity.errors import FormatError
from sensitivity.formats.emulation import arithmetic_on, as_run_on, emulated_linear
from sensitivity.formats.registry import get_format
from sensitivity.formats.rotation import rotate
from sensitivity.formats.served import format_in
from sensitivity.formats.switch import Switch

from support.quantized_values import assert_same

MXFP8, NVFP4, FP8 = FormatName.MXFP8, FormatName.NVFP4, FormatName.FP8
INT8, FP8_LB = FormatName.INT8, FormatName.FP8_LB
EAGER, COMPILED, MSLK = Arithmetic.EAGER, Arithmetic.COMPILED, Arithmetic.MSLK
Floats = npt.NDArray[np.float64]


def wide(rows: int, k: int, *, spread: float = 2.0) -> Tensor:
    """(rows, k) bf16 of a large dynamic range: blocks whose scales fall below 2^-6 and to zero."""
    generator = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, k, generator=generator)
    size = torch.randn(rows, k // 16, 1, generator=generator) * spread
    return (x.view(rows, -1, 16) * size.exp()).view(rows, k).bfloat16()


def activation_and_epilogue(
    x: Tensor, product: Tensor, scale: Tensor, bias: Tensor
) -> tuple[Tensor, ...]:
    """What torchao compiles around a product: FP8's activation, without and with a lower bound,
    INT8's, and NVFP4's epilogue (`_addmm_nvfp4_dispatch` after `_scaled_mm`).
    """
    row_scale = _choose_scale_float8(x, [1, x.shape[-1]])
    bounded = _choose_scale_float8(x, [1, x.shape[-1]], hp_value_lb=1e-12)
    int8 = Int8Tensor.from_hp(x, granularity=PerRow())
    out = product * scale.to(torch.bfloat16)
    return (
        row_scale,
        _quantize_affine_float8(x, row_scale),
        out + bias.to(torch.bfloat16),
        bounded,
        _quantize_affine_float8(x, bounded),
        int8.scale,
        int8.qdata,
    )


def test_compiled_is_what_torch_compile_makes_of_torchao() -> None:
    """FP8's and INT8's codes and fp32 row scales, and the output of NVFP4's epilogue, have the bits
    of the compiled functions, and are not the eager ones. (One graph, since the compiler takes
    seconds; `tests/gpu` has NVFP4's activation too.)
    """
    x, weight = wide(16, 64), wide(32, 64)
    x[3] = 0  # 0 / 0 in FP8 without a bound
    bias = torch.linspace(-1, 1, 32).bfloat16()
    nvfp4 = format_in(NVFP4, COMPILED)
    a, w = nvfp4.quantize_activation(x), nvfp4.quantize_weight(weight)
    assert a.scale is not None
    assert w.scale is not None
    product = (a.values.double() @ w.values.double().t()).float().bfloat16()
    compiled = torch.compile(activation_and_epilogue, dynamic=False)
    row_scale, codes, out, *others = compiled(x, product, a.scale * w.scale, bias)

    found = format_in(FP8, COMPILED).quantize_activation(x)
    assert found.scale is not None
    assert torch.equal(found.scale, row_scale)
    assert_same(found.values, codes)
    eager = get_format(FP8).quantize_activation(x)
    assert eager.scale is not None
    assert not torch.equal(eager.scale, row_scale)
    assert not torch.equal(eager.values, codes.float())

    for name, scale, numbers in ((FP8_LB, *others[:2]), (INT8, *others[2:])):
        fmt = format_in(name, COMPILED)
        found, eager = fmt.quantize_activation(x), get_format(name).quantize_activation(x)
        assert fmt.arithmetic is COMPILED
        assert found.scale is not None
        assert eager.scale is not None
        assert found.scale.isfinite().all()
        assert torch.equal(found.scale, scale)
        assert torch.equal(found.values.float(), numbers.float())
        assert not torch.equal(eager.scale, scale)

    assert torch.equal(nvfp4.linear(a, w, bias), out)
    assert not torch.equal(get_format(NVFP4).linear(a, w, bias), out)


def test_native_epilogue_is_torchaos_eager_one() -> None:
    """With MSLK the product, the scale, their product and the sum are each rounded to bf16."""
    fmt = format_in(NVFP4, MSLK)
    a, w = fmt.quantize_activation(wide(16, 64)), fmt.quantize_weight(wide(32, 64))
    assert a.scale is not None
    assert w.scale is not None
    bias = torch.linspace(-1, 1, 32).bfloat16()
    product = (a.values.double() @ w.values.double().t()).float().bfloat16()
    expected = product * (a.scale * w.scale).to(torch.bfloat16)
    assert torch.equal(fmt.linear(a, w, None), expected)
    assert torch.equal(fmt.linear(a, w, bias), expected + bias)


def to_grid(values: Floats, grid: Floats) -> Floats:
    """The nearest number of an ascending grid; at a tie the one with an even index, whose code's
    last bit is 0.
    """
    upper = np.clip(np.searchsorted(grid, values), 1, len(grid) - 1)
    low, high = grid[upper - 1], grid[upper]
    middle = (low + high) / 2
    takes_low = (values < middle) | ((values == middle) & ((upper - 1) % 2 == 0))
    return np.where(takes_low, low, high)


E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
E4M3 = np.array(
    [
        (code & 7) * 2.0**-9 if code < 8 else (1 + (code & 7) / 8) * 2.0 ** ((code >> 3) - 7)
        for code in range(127)
    ]
)


def mslk_in_numpy(x: Tensor, least: float = 2.0**-16) -> tuple[Floats, np.float32]:
    """MSLK's kernel, read a second time: fp32 steps, grids by their lists of numbers.

    Returns values = code * block scale, and the tensor's scale.
    """
    one = np.float32(1)
    blocks = x.float().numpy().reshape(len(x), -1, 16)
    whole = np.abs(blocks).max() * np.float32(1 / (448 * 6))  # CUDA divides by a constant so
    global_scale = one / whole
    block_amax = np.abs(blocks).max(axis=2, keepdims=True)
    wanted = np.clip(block_amax / np.float32(6) * global_scale, np.float32(least), np.float32(448))
    scale = to_grid(wanted.astype(np.float64), E4M3).astype(np.float32)
    with np.errstate(divide="ignore", invalid="ignore"):
        scaled = blocks * (global_scale / scale)
    size = to_grid(np.nan_to_num(np.abs(scaled), posinf=6).astype(np.float64), E2M1)
    return (np.sign(blocks) * size * scale).reshape(x.shape), whole


@pytest.mark.parametrize("spread", [0.1, 1.0, 3.0, 6.0])
def test_mslk_is_its_kernel(spread: float) -> None:
    """Values and scale are those of the second reading, also where block scales fall below 2^-6, to
    subnormal numbers of e4m3, and to zero.
    """
    x = wide(33, 256, spread=spread)
    found = format_in(NVFP4, MSLK).quantize_activation(x)
    values, whole = mslk_in_numpy(x)
    assert found.scale is not None
    assert found.scale.item() == whole
    assert np.array_equal(found.values.double().numpy(), values)


def test_mslk_differs_from_torchao_where_the_range_is_large() -> None:
    """Where blocks lie far below the largest, more than 4 % of the values differ; in a narrow range
    less than 1 % do, where a scale is rounded the other way.
    """

    def share(spread: float) -> float:
        x = wide(64, 512, spread=spread)
        found = [format_in(NVFP4, a).quantize_activation(x).values for a in (EAGER, MSLK)]
        return float((found[0] != found[1]).float().mean())

    assert 0 < share(0.3) < 0.01
    assert 0.04 < share(3.0) < 0.5


def test_mslk_maps_zeros_to_zeros() -> None:
    """torchao's primitives divide 0 by 0 there."""
    zeros = torch.zeros(4, 32).bfloat16()
    weight, bias = wide(16, 32), torch.ones(16).bfloat16()
    mslk, eager = format_in(NVFP4, MSLK), format_in(NVFP4, EAGER)
    assert torch.equal(
        emulated_linear(zeros, mslk.quantize_weight(weight), bias, mslk), bias.expand(4, 16)
    )
    assert emulated_linear(zeros, eager.quantize_weight(weight), bias, eager).isnan().all()


def test_weights_and_mxfp8_are_the_same_everywhere() -> None:
    """torchao quantizes weights eagerly and without MSLK, and nothing of MXFP8 differs."""
    weight = wide(32, 64)
    for arithmetic in Arithmetic:
        assert format_in(MXFP8, arithmetic) is get_format(MXFP8)
    for name, arithmetic in ((FP8, COMPILED), (NVFP4, COMPILED), (NVFP4, MSLK)):
        fmt = format_in(name, arithmetic)
        found, expected = fmt.quantize_weight(weight), get_format(name).quantize_weight(weight)
        assert fmt.arithmetic is arithmetic
        assert torch.equal(found.values, expected.values)


@pytest.mark.parametrize("arithmetic", Arithmetic)
def test_variants_follow_their_plain_format(arithmetic: Arithmetic) -> None:
    """A rotated format and four-over-six have the activations and the epilogue of their plain
    format in that arithmetic; weight-only formats are the same in all; one object stands for each.
    """
    x, weight = wide(8, 64), wide(32, 64)
    for name in FormatName:
        if name is name.plain or name.plain is FP8:
            continue
        fmt, plain = format_in(name, arithmetic), format_in(name.plain, arithmetic)
        assert format_in(name, arithmetic) is fmt
        if name.is_weight_only:
            assert fmt is get_format(name)
            continue
        assert fmt.arithmetic is plain.arithmetic
        own = rotate(x) if name.is_rotated else x
        a, expected = fmt.quantize_activation(x), plain.quantize_activation(own)
        assert_same(a.values, expected.values)
        w = fmt.quantize_weight(weight)
        assert torch.equal(fmt.linear(a, w, None), plain.linear(expected, w, None))


@pytest.mark.parametrize("name", [FP8, FP8_LB, FormatName.FP8_A16])
def test_no_fp8_is_known_with_mslk(name: FormatName) -> None:
    """MSLK's quantizer, its GEMM, or both would run."""
    with pytest.raises(FormatError, match=f"`format` {name} with `arithmetic` mslk"):
        format_in(name, MSLK)


def test_what_is_not_known_is_refused() -> None:
    """fp8 by MSLK's own quantizer and GEMM is not emulated; the message says what is."""
    with pytest.raises(FormatError, match=r"`format` fp8 with `arithmetic` mslk.*known exactly"):
        format_in(FP8, MSLK)
    model = nn.Sequential(nn.Linear(32, 32)).bfloat16().requires_grad_(False)
    with Switch(model, arithmetic=MSLK) as switch:
        with pytest.raises(FormatError, match="are not emulated"):
            switch.set({"0": FP8})
        switch.set({"0": NVFP4})


def test_a_switch_emulates_the_runtime_that_it_is_given() -> None:
    """Outputs are those of the format in that arithmetic, and a change of it takes effect with the
    next `set`.
    """
    model = nn.Sequential(nn.Linear(64, 32)).bfloat16().requires_grad_(False)
    x, linear = wide(8, 64), model[0]
    with Switch(model) as switch:
        for arithmetic in (EAGER, MSLK, COMPILED, EAGER):
            fmt = as_run_on(NVFP4, torch.device("cpu"), arithmetic)
            switch.arithmetic = arithmetic
            switch.set({"0": NVFP4})
            expected = emulated_linear(x, fmt.quantize_weight(linear.weight), linear.bias, fmt)
            assert torch.equal(model(x), expected)


def test_keys_tell_arithmetics_apart_and_eager_is_as_before() -> None:
    """The key of eager scores is that of earlier versions."""
    keys = [arithmetic_on("cpu", arithmetic) for arithmetic in Arithmetic]
    assert keys[0] == 1 == arithmetic_on("cpu")
    assert keys[1:] == [{"arithmetic": "compiled", "on": 1}, {"arithmetic": "mslk", "on": 1}]
