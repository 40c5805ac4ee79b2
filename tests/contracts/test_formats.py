"""The contract of `Format`, for every format.

A new format is added to `get_format`, and to `format_contracts` with what its definition says.
"""

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from sensitivity.core.format_name import FormatName
from sensitivity.errors import FormatError
from sensitivity.formats import QuantizedOperand, get_format
from sensitivity.formats.emulation import emulated_linear

from contracts.format_contracts import CONTRACTS, NOWHERE, SIDE, of_activation
from support.quantized_values import assert_one_rounding, assert_same, normal, wide

QUANTIZED = [name for name in CONTRACTS if name != "bf16"]
CAPABILITIES = {
    name: tuple(map(int, contract.native.split(".")))
    for name, contract in CONTRACTS.items()
    if contract.native not in ("", NOWHERE)
}

each_format = pytest.mark.parametrize("name", list(CONTRACTS))
each_quantized = pytest.mark.parametrize("name", QUANTIZED)
each_on_gpus = pytest.mark.parametrize("name", list(CAPABILITIES))


def assert_same_operand(found: QuantizedOperand, expected: QuantizedOperand) -> None:
    """Fail unless values, their dtype and scales are equal."""
    assert found.values.dtype == expected.values.dtype
    for a, b in zip(found.parts, expected.parts, strict=True):
        assert_same(a, b)


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def test_every_format_has_a_contract() -> None:
    """Every name has one format, and the suite covers it."""
    assert [get_format(name).name for name in FormatName] == list(FormatName)
    assert list(CONTRACTS) == [name.value for name in FormatName]


# ---- shapes and dtypes ---------------------------------------------------------------------------


@each_format
def test_refusals_name_the_number(name: str) -> None:
    """A K, an N or a dtype that the native path cannot take is refused with the value found and the
    value needed; multiples are taken.
    """
    fmt, needs = get_format(name), CONTRACTS[name]
    k, n = 3 * needs.k_multiple, 5 * needs.n_multiple
    assert fmt.refusal(k=k, n=n, dtype=torch.bfloat16) is None
    if name == "bf16":
        assert fmt.refusal(k=7, n=3, dtype=torch.float32) is None
        return
    wrong_k = fmt.refusal(k=k + 4, n=n, dtype=torch.bfloat16)
    assert wrong_k == f"K = {k + 4} is not a multiple of {needs.k_multiple}, as {name} needs"
    wrong_n = fmt.refusal(k=k, n=n + 4, dtype=torch.bfloat16)
    assert wrong_n == f"N = {n + 4} is not a multiple of {needs.n_multiple}, as {name} needs"
    for dtype in (torch.float32, torch.float16):
        expected = f"{str(dtype).removeprefix('torch.')}; {name} takes bfloat16 only"
        assert expected in str(fmt.refusal(k=k, n=n, dtype=dtype))


@each_quantized
def test_a_wrong_dtype_is_the_callers_error(name: str) -> None:
    """A tensor that is not bf16 is refused with its dtype, as a weight and as an activation."""
    fmt = get_format(name)
    for quantize in (fmt.quantize_weight, fmt.quantize_activation):
        with pytest.raises(FormatError, match=r"torch.float32 tensor; it takes torch.bfloat16"):
            quantize(torch.ones(2, 64))


@each_quantized
def test_a_k_that_blocks_do_not_divide_is_the_callers_error(name: str) -> None:
    """It is refused with the K found and the block; a format with one scale a row takes any K."""
    fmt = get_format(name)
    for quantize, block in (
        (fmt.quantize_weight, CONTRACTS[name].block),
        (fmt.quantize_activation, of_activation(name).block),
    ):
        if block == 1:
            assert quantize(normal(16, 40)).values.shape == (16, 40)
            continue
        with pytest.raises(FormatError, match=f"got K = 40; K must be a multiple of {block}: leav"):
            quantize(normal(16, 40))


@each_format
def test_weight_bytes_follow_the_definition(name: str) -> None:
    """Codes and scales of a 3072 x 3072 weight: 2 bytes a value in bf16, 1 + 1/32 in mxfp8, 1/2 +
    1/16 (+ 4 bytes) in nvfp4, 1 (+ 4 bytes a row) in fp8, 1 (+ 4 bytes and a zero point of one
    byte a row) in int8; variants store what their plain format does.
    """
    assert get_format(name).weight_bytes(k=SIDE, n=SIDE) == CONTRACTS[name].bytes


# ---- native --------------------------------------------------------------------------------------


@each_format
def test_a_cpu_runs_what_needs_no_kernel(name: str) -> None:
    """bf16 and what torchao dequantizes run on a CPU; every other format says which capability it
    needs, or that nothing runs it, and the next step.
    """
    refusal, native = get_format(name).native_refusal(torch.device("cpu")), CONTRACTS[name].native
    if native == "":
        assert refusal is None
        return
    assert str(refusal).startswith(f"{name} ")
    assert "emulate it instead" in str(refusal)
    if native == NOWHERE:
        assert CONTRACTS[name].no_config in str(refusal)
    else:
        assert f"compute capability {native} or higher" in str(refusal)
        assert "this is a cpu device" in str(refusal)


@each_on_gpus
def test_a_gpu_is_refused_by_its_capability(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU at the lowest capability runs the format; one below is refused with its own."""
    lowest, fmt, cuda = CAPABILITIES[name], get_format(name), torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: lowest)
    assert fmt.native_refusal(cuda) is None
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    refusal = str(fmt.native_refusal(cuda))
    assert refusal.startswith(f"{name} ")
    assert "and cuda has 7.5: emulate it instead" in refusal


@each_on_gpus
def test_a_gpu_that_torch_does_not_see_is_said(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CUDA device without CUDA is another mistake than an old GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refusal = get_format(name).native_refusal(torch.device("cuda"))
    assert "torch sees no CUDA device: check `nvidia-smi`" in str(refusal)


@each_format
def test_native_configs_are_torchaos(name: str) -> None:
    """`native_config` is torchao's and made anew in each call; where torchao has none, the error
    says why, and what to do instead.
    """
    fmt, contract = get_format(name), CONTRACTS[name]
    if not contract.config:
        with pytest.raises(FormatError, match=contract.no_config):
            fmt.native_config()
        return
    assert type(fmt.native_config()).__name__ == contract.config
    assert fmt.native_config() is not fmt.native_config()


def test_the_lower_bound_is_in_torchaos_config() -> None:
    """FP8 has no bound, and fp8-lb has 1e-12."""
    bounds = [vars(get_format(name).native_config()) for name in ("fp8", "fp8-lb")]
    assert [bound["activation_value_lb"] for bound in bounds] == [None, 1e-12]


# ---- operands ------------------------------------------------------------------------------------


@each_format
def test_operands_are_exact_in_bf16(name: str) -> None:
    """Values have the shape of the input and lose nothing in bf16; dtype of the values and shape of
    the outer scale, which is fp32, are those that the format says.
    """
    fmt = get_format(name)
    for operand, expected in (
        (fmt.quantize_activation(normal(5, 192)), of_activation(name)),
        (fmt.quantize_weight(normal(5, 192)), CONTRACTS[name]),
    ):
        assert operand.values.shape == (5, 192)
        assert operand.values.dtype == expected.codes
        assert torch.equal(operand.values.bfloat16().float(), operand.values.float())
        assert (None if operand.scale is None else operand.scale.shape) == expected.scale_shape
        assert operand.scale is None or operand.scale.dtype == torch.float32


@each_format
def test_weights_and_activations_are_quantized_as_said(name: str) -> None:
    """A matrix gives the numbers that the contract's formats give it, as a weight, as a parameter
    and as an activation, contiguous or not; the same for both where it says so, and only there.
    """
    w, fmt, contract = wide(48, 192, seed=5, octaves=5), get_format(name), CONTRACTS[name]
    as_weight = fmt.quantize_weight(nn.Parameter(w))
    assert_same_operand(as_weight, get_format(contract.weight_of or name).quantize_weight(w))
    expected = get_format(contract.activation_of or name).quantize_activation(w)
    for x in (w, w.t().contiguous().t()):
        assert_same_operand(fmt.quantize_activation(x), expected)
    assert torch.equal(as_weight.values.float(), expected.values.float()) == contract.alike


@each_format
def test_quantizing_leaves_its_input_alone(name: str) -> None:
    """In-place kernels work on their own arrays."""
    x = normal(33, 192)
    before = x.clone()
    get_format(name).quantize_activation(x)
    get_format(name).quantize_weight(x)
    assert torch.equal(x, before)


# ---- products ------------------------------------------------------------------------------------


@pytest.mark.parametrize("lead", [(1,), (3,), (17,), (256,), (2, 9), (1, 1)])
@each_format
def test_output_is_one_rounding_of_the_quantized_product(name: str, lead: tuple[int, ...]) -> None:
    """No output differs from the exact product by more than an fp32 sum's error and one rounding,
    for any M, 2-D or 3-D, with and without a bias.
    """
    k, n = (960, 192) if lead == (17,) else (192, 96)
    fmt, x = get_format(name), normal(*lead, k) * 3
    weight = fmt.quantize_weight(normal(n, k, seed=1) * 0.05)
    for bias in (normal(n, seed=2), None):
        found = emulated_linear(x, weight, bias, fmt)
        assert found.shape == (*lead, n)
        assert found.dtype == torch.bfloat16
        assert_one_rounding(found, fmt.quantize_activation(x.view(-1, k)), weight, bias)


@each_format
def test_a_non_contiguous_call_equals_a_contiguous_one(name: str) -> None:
    """A transposed view, as attention hands over, is quantized in its logical order."""
    fmt = get_format(name)
    weight, x = fmt.quantize_weight(normal(32, 64, seed=1)), normal(4, 64, 6).transpose(1, 2)
    assert torch.equal(
        emulated_linear(x, weight, None, fmt), emulated_linear(x.contiguous(), weight, None, fmt)
    )


@each_format
def test_no_rows_give_no_rows(name: str) -> None:
    """A call with M = 0 returns an empty output."""
    fmt = get_format(name)
    weight = fmt.quantize_weight(normal(32, 64))
    assert emulated_linear(normal(2, 0, 64), weight, None, fmt).shape == (2, 0, 32)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@each_format
def test_nan_and_inf_reach_the_output(name: str, value: float) -> None:
    """A row with NaN or inf has no finite output. A scale of the whole activation carries it to all
    rows; other formats leave other rows finite.
    """
    x, fmt = normal(8, 64), get_format(name)
    x[2, 40] = value
    finite = emulated_linear(
        x, fmt.quantize_weight(normal(32, 64, seed=1)), normal(32, seed=2), fmt
    ).isfinite()
    assert not finite[2].any()
    others = finite[[0, 1, 3, 4, 5, 6, 7]]
    assert not others.any() if of_activation(name).scale_shape == () else others.all()


@each_quantized
def test_autocast_changes_nothing(name: str) -> None:
    """Under torch.autocast the product still comes out in fp32."""
    fmt, x = get_format(name), normal(17, 192)
    weight = fmt.quantize_weight(normal(96, 192, seed=1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = emulated_linear(x.clone(), weight, None, fmt)
    assert torch.equal(found, emulated_linear(x, weight, None, fmt))


@each_quantized
def test_compiles_to_one_graph_with_the_same_numbers(name: str) -> None:
    """Under torch.compile there is no graph break, and quantized values are those of the eager
    kernels. Formats whose activations are quantized by another one are traced only.
    """
    backend = "eager" if CONTRACTS[name].activation_of else "aot_eager"
    fmt, x, bias = get_format(name), normal(17, 64), normal(32, seed=2)
    weight = fmt.quantize_weight(normal(32, 64, seed=1))
    torch.compiler.reset()
    compiled = torch.compile(
        lambda x: emulated_linear(x, weight, bias, fmt), backend=backend, fullgraph=True
    )
    assert_one_rounding(compiled(x), fmt.quantize_activation(x), weight, bias)
