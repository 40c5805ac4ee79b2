"""What runs by native kernels is found before the first picture: capability, quantizer, and one
small Linear. Blackwell's formats run here by torchao's own code over a fake of its GEMM.
"""

import copy
import logging
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torchao.prototype.mx_formats.mx_tensor import MXTensor
from torchao.prototype.mx_formats.nvfp4_tensor import NVFP4Tensor

from sensitivity.core.arithmetic import Arithmetic
from sensitivity.core.format_name import FormatName
from sensitivity.core.kernels import Kernels
from sensitivity.errors import FormatError
from sensitivity.formats._base import Format
from sensitivity.formats.emulation import arithmetic_on, as_run_on, emulated_linear
from sensitivity.formats.execution import Execution
from sensitivity.formats.native import quantize_native
from sensitivity.formats.native_formats import default_arithmetic, is_native, native_format
from sensitivity.formats.registry import get_format
from sensitivity.formats.served import format_in
from sensitivity.formats.switch import Switch

from support.blackwell import NATIVE, a_blackwell, forget, install_mslk

BF16, MXFP8, NVFP4, FP8 = FormatName.BF16, FormatName.MXFP8, FormatName.NVFP4, FormatName.FP8
EAGER, COMPILED, MSLK = Arithmetic.EAGER, Arithmetic.COMPILED, Arithmetic.MSLK
CPU = torch.device("cpu")


@pytest.fixture
def blackwell(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """A CPU with native MXFP8 and NVFP4, without mslk."""
    with a_blackwell(monkeypatch):
        yield monkeypatch


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def run(
    name: FormatName, arithmetic: Arithmetic, x: Tensor, weight: Tensor, bias: Tensor
) -> Tensor:
    fmt = as_run_on(name, CPU, arithmetic)
    assert fmt.kernels is Kernels.NATIVE
    return emulated_linear(x, fmt.quantize_weight(weight), bias, fmt)


@pytest.mark.usefixtures("blackwell")
def test_the_weight_and_the_product_are_torchaos() -> None:
    """Native formats give what a Linear quantized by torchao gives, to the bit, for any leading
    axes; weights are torchao's tensors, and their bytes are those of their parts.
    """
    x, bias = normal(2, 9, 64), normal(48, seed=2)
    for name, kind in ((MXFP8, MXTensor), (NVFP4, NVFP4Tensor)):
        linear = nn.Linear(64, 48).bfloat16().requires_grad_(False)
        linear.bias.copy_(bias)
        fmt = as_run_on(name, CPU)
        operand = fmt.quantize_weight(linear.weight)
        assert isinstance(operand.values, kind)
        assert operand.nbytes == fmt.weight_bytes(k=64, n=48)
        found = emulated_linear(x, operand, bias, fmt)
        model = nn.Sequential(linear)
        quantize_native(model, {"0": name})
        assert torch.equal(found, model(x))
        assert found.shape == (2, 9, 48)


@pytest.mark.usefixtures("blackwell")
def test_native_numbers_are_the_emulated_ones() -> None:
    """MXFP8 has the emulated bits; NVFP4 has those of the epilogue: product, scale, their product
    and the sum rounded (eager), or scaled and added in fp32 (compiled).
    """
    x, weight, bias = normal(7, 64), normal(32, 64, seed=1), normal(32, seed=2)
    mx = format_in(MXFP8, EAGER)
    expected = emulated_linear(x, mx.quantize_weight(weight), bias, mx)
    assert torch.equal(run(MXFP8, EAGER, x, weight, bias), expected)
    nv = format_in(NVFP4, EAGER)
    a, w = nv.quantize_activation(x), nv.quantize_weight(weight)
    assert a.scale is not None
    assert w.scale is not None
    product = (a.values.double() @ w.values.double().t()).float().bfloat16()
    eager = product * (a.scale * w.scale).bfloat16() + bias
    assert torch.equal(run(NVFP4, EAGER, x, weight, bias), eager)
    compiled = format_in(NVFP4, COMPILED).linear(a, w, bias)
    assert torch.equal(run(NVFP4, COMPILED, x, weight, bias), compiled)
    assert not torch.equal(eager, compiled)


def test_mslk_quantizes_where_it_is_installed(blackwell: pytest.MonkeyPatch) -> None:
    """Without mslk its arithmetic is emulated, with the reason, and a caller who names none gets
    eager; with it NVFP4 runs by its kernel, and that is the default.
    """
    assert "mslk is not installed" in str(native_format(NVFP4, CPU, MSLK))
    assert "mslk is not installed" in Execution(device="cpu", formats=(NVFP4,)).describe()
    assert as_run_on(NVFP4, CPU, MSLK) is format_in(NVFP4, MSLK)
    assert default_arithmetic({NVFP4}, "cpu") is EAGER
    install_mslk(blackwell)
    forget()
    x, weight, bias = normal(7, 64), normal(32, 64, seed=1), torch.zeros(32).bfloat16()
    x[0] *= 2.0**-16  # below torchao's least block scale
    assert "mslk" not in Execution(device="cpu", formats=(NVFP4,)).describe()
    emulated = format_in(NVFP4, MSLK)
    expected = emulated_linear(x, emulated.quantize_weight(weight), bias, emulated)
    assert torch.equal(run(NVFP4, MSLK, x, weight, bias), expected)
    assert not torch.equal(run(NVFP4, EAGER, x, weight, bias), expected)
    assert default_arithmetic({NVFP4, MXFP8}, "cpu") is MSLK
    for formats, emulate in (({NVFP4}, True), ({MXFP8}, False), ({NVFP4, FP8}, False)):
        assert default_arithmetic(formats, "cpu", emulate=emulate) is EAGER


def test_what_asserts_is_emulated_and_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """torchao asserts when it quantizes on an older GPU, and in the first forward without a mslk
    that works; neither reaches a trial. What still runs stays native.
    """
    caplog.set_level(logging.WARNING)
    with a_blackwell(monkeypatch, before_sm100=True):
        own = Execution(device="cpu", formats=(MXFP8, NVFP4, FP8))
        assert own.kernels == {
            MXFP8: Kernels.NATIVE,
            NVFP4: Kernels.EMULATED,
            FP8: Kernels.EMULATED,
        }
        assert (
            "AssertionError: NVFP4 DYNAMIC mode is only supported on sm100+" in own.reasons[NVFP4]
        )
        assert as_run_on(NVFP4, CPU) is format_in(NVFP4, EAGER)
        assert own.words == "(mxfp8 by native kernels, nvfp4 by emulation, fp8 by emulation)"
        assert "pictures: mxfp8 by native kernels; nvfp4 by emulation (its" in own.describe()
        assert caplog.text.count("nvfp4 runs by emulation on cpu") == 1
    with a_blackwell(monkeypatch):
        install_mslk(monkeypatch, broken=True)
        assert "ImportError" in str(native_format(NVFP4, CPU, MSLK))
        assert default_arithmetic({NVFP4}, "cpu") is EAGER
        assert is_native(NVFP4, CPU, EAGER)


def test_a_kernel_that_computes_something_else_is_not_used(
    blackwell: pytest.MonkeyPatch,
) -> None:
    """Where the small Linear's output is far from the emulated one, the format is emulated."""
    multiply = torch._scaled_mm
    blackwell.setattr(torch, "_scaled_mm", lambda *args, **kw: multiply(*args, **kw) * 2)
    forget()
    assert "of the norm away from the emulated one" in str(native_format(MXFP8, CPU, EAGER))
    assert as_run_on(MXFP8, CPU) is format_in(MXFP8, EAGER)


def test_zeros_and_nan_are_torchaos(blackwell: pytest.MonkeyPatch) -> None:
    """An all-zero input is NaN in NVFP4 by the primitives, zero by mslk, and zero in MXFP8; an
    all-zero NVFP4 weight is not finite.
    """
    install_mslk(blackwell)
    forget()
    zeros, weight, bias = torch.zeros(3, 64).bfloat16(), normal(32, 64, seed=1), normal(32, seed=2)
    assert run(NVFP4, EAGER, zeros, weight, bias).isnan().all()
    assert torch.equal(run(NVFP4, MSLK, zeros, weight, bias), bias.expand(3, 32))
    assert torch.equal(run(MXFP8, EAGER, zeros, weight, bias), bias.expand(3, 32))
    for name in NATIVE:
        fmt = as_run_on(name, CPU)
        assert bool(fmt.quantize_weight(weight).is_finite())
        assert bool(fmt.quantize_weight(weight * 0).is_finite()) is (name is MXFP8)
        broken = weight.clone()
        broken[0, 0] = torch.nan
        assert not bool(fmt.quantize_weight(broken).is_finite())


def test_keys_name_what_is_native(blackwell: pytest.MonkeyPatch) -> None:
    """Native scores have keys of their own, for each searched format; emulated ones have those of
    earlier versions, and formats that are not searched do not matter.
    """
    both = {"quantizers": "torchao", "mxfp8": "native", "nvfp4": "native"}
    assert arithmetic_on("cpu") == both
    assert arithmetic_on("cpu", formats=(NVFP4,)) == {"quantizers": "torchao", "nvfp4": "native"}
    assert arithmetic_on("cpu", formats=(FP8,)) == 1
    assert arithmetic_on("cpu", emulate=True) == 1
    install_mslk(blackwell)
    forget()
    found = arithmetic_on("cpu", MSLK, formats=(NVFP4,))
    on = {"quantizers": "torchao", "nvfp4": "native", "mslk": "1.3.0"}
    assert found == {"arithmetic": "mslk", "on": on}


@pytest.fixture
def hopper(monkeypatch: pytest.MonkeyPatch) -> dict[FormatName, object]:
    """ "cuda:0" has the capability for FP8 alone; what is returned says what runs natively."""
    native: dict[FormatName, object] = {FP8: get_format(FP8)}

    def look(name: FormatName, device: torch.device, arithmetic: Arithmetic) -> object:
        return native.get(name, f"{name} in {arithmetic} is not on {device}")

    def refusal(self: Format, _device: torch.device) -> str | None:
        return None if self.name is FP8 else "too old"

    for module in ("native_formats", "execution", "emulation"):
        monkeypatch.setattr(f"sensitivity.formats.{module}.native_format", look)
    monkeypatch.setattr("sensitivity.formats.emulation.has_triton", lambda: True)
    monkeypatch.setattr(Format, "native_refusal", refusal)
    return native


@pytest.mark.parametrize(
    ("formats", "emulate", "expected"),
    [
        ((FP8,), False, "native"),
        ((FP8, NVFP4), False, "native"),
        ((NVFP4,), False, "native"),
        ((NVFP4,), True, "native"),
        ((FP8,), True, "emulated"),
        ((FP8, NVFP4), True, "emulated"),
    ],
)
@pytest.mark.usefixtures("hopper")
def test_hopper_keeps_its_keys(
    formats: tuple[FormatName, ...], emulate: bool, expected: str
) -> None:
    """On a GPU with FP8 alone scores have the key of earlier versions, which ran FP8 natively,
    except where FP8 is searched by emulation.
    """
    own = Execution(device="cuda:0", formats=formats, emulate=emulate)
    assert own.key == {"quantizers": "triton", "fp8": expected}
    assert own.changes == ({"fp8": "emulated"} if emulate else {})
    wanted = Kernels.NATIVE if FP8 in formats and not emulate else Kernels.EMULATED
    assert own.kernels[formats[0]] is wanted
    layers = {"a": formats[0], "b": BF16}
    assert own.summary_of(layers) is wanted


def test_a_kernel_that_fails_where_it_ran_before_has_another_key(
    hopper: dict[FormatName, object],
) -> None:
    """FP8 whose small Linear fails is emulated, which its key says; an arithmetic that knows no FP8
    does not.
    """
    hopper[FP8] = "its kernel fails"
    assert arithmetic_on("cuda:0", formats=(FP8,)) == {"quantizers": "triton", "fp8": "emulated"}
    assert arithmetic_on("cuda:0", formats=(NVFP4,)) == {"quantizers": "triton", "fp8": "native"}
    on = {"quantizers": "triton", "fp8": "native"}
    assert arithmetic_on("cuda:0", MSLK) == {"arithmetic": "mslk", "on": on}


class Patched(nn.Module):
    """Two Linears, the second of which carries a forward of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Linear(64, 64)
        self.patched = nn.Linear(64, 32)

    def forward(self, x: Tensor) -> Tensor:
        return self.patched(torch.nn.functional.silu(self.plain(x)))


@pytest.mark.usefixtures("blackwell")
def test_a_switch_runs_native_formats_as_it_runs_others() -> None:
    """Kept or quantized in each call, patched, or in one graph for all formats: the output is that
    of a model quantized by torchao; kernels change with `emulate` alone, and weights of both kinds
    are counted.
    """
    torch.manual_seed(0)
    model, x = Patched().bfloat16().requires_grad_(False), normal(2, 5, 64)
    formats = {"plain": NVFP4, "patched": MXFP8}
    native = copy.deepcopy(model)
    quantize_native(native, formats)
    expected, plain = native(x), model(x)
    own = model.patched.forward
    model.patched.forward = lambda x: own(x)  # type: ignore[method-assign]
    for room in (None, 0):
        with Switch(model, weight_cache_bytes=room) as switch:
            switch.set(formats)
            assert torch.equal(model(x), expected)
            with torch.inference_mode():
                assert torch.equal(model(x), expected)
            assert switch.check_ran() == ()
            kept = get_format(NVFP4).weight_bytes(k=64, n=64) if room is None else 0
            assert switch.weights.held_bytes == kept  # the patched one is read in each call
            switch.set({})
            assert torch.equal(model(x), plain)
    del model.patched.forward
    graphs: list[object] = []

    def count(graph: torch.fx.GraphModule, _: object) -> object:
        graphs.append(graph)
        return graph.forward

    for emulate in (False, True):
        with Switch(model, emulate=emulate) as switch:
            compiled = torch.compile(model, backend=count, fullgraph=True, dynamic=False)
            switch.set(formats)
            assert torch.equal(compiled(x), expected) is not emulate
            switch.set({"plain": MXFP8})
            compiled(x)
            switch.set({})
            assert torch.equal(compiled(x), plain)
            assert len(graphs) == 1


@pytest.mark.usefixtures("blackwell")
def test_another_arithmetic_has_weights_of_its_own() -> None:
    """A switch whose arithmetic is not native for a while computes as one that was never native."""
    model, x = nn.Sequential(nn.Linear(64, 32)).bfloat16().requires_grad_(False), normal(4, 64)
    with Switch(model) as switch:
        outputs = []
        for arithmetic in (EAGER, MSLK, COMPILED, EAGER):  # mslk is not installed
            switch.arithmetic = arithmetic
            switch.set({"0": NVFP4})
            outputs.append(model(x))
        assert torch.equal(outputs[0], outputs[3])
        assert len(switch.weights) == 2
    with Switch(model, emulate=True, arithmetic=MSLK) as switch:
        switch.set({"0": NVFP4})
        assert torch.equal(model(x), outputs[1])


@pytest.mark.usefixtures("blackwell")
def test_a_weight_of_zeros_is_refused_as_in_emulation() -> None:
    """torchao makes NaN of an all-zero NVFP4 weight; the switch names the Linear, natively too."""
    model = nn.Sequential(nn.Linear(64, 32)).bfloat16().requires_grad_(False)
    model[0].weight.zero_()
    for emulate in (False, True):
        with (
            Switch(model, emulate=emulate) as switch,
            pytest.raises(FormatError, match=r"0 cannot be nvfp4: its weight quantizes to NaN"),
        ):
            switch.set({"0": NVFP4})
        assert switch.weights.held_bytes == 0
