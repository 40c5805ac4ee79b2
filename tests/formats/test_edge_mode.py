"""A switch that is told so runs what is quantized in bf16 or in W x A16, and comes back."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from sensitivity.core.format_name import FormatName
from sensitivity.core.step_policy import EdgeMode
from sensitivity.errors import FormatError
from sensitivity.formats.registry import get_format
from sensitivity.formats.switch import Switch, Unquantized

A16, BF16 = EdgeMode.A16, EdgeMode.BF16
FORMATS = {"0": FormatName.NVFP4, "2": FormatName.FP8}
K = 32


@pytest.fixture
def model() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(K, K), nn.SiLU(), nn.Linear(K, K, bias=False), nn.Linear(K, 16))
    return net.bfloat16().eval().requires_grad_(False)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 3, K, generator=torch.Generator().manual_seed(1)).bfloat16()


@pytest.fixture
def switch(model: nn.Sequential) -> Iterator[Switch]:
    """The model in `FORMATS`; its last Linear is bf16."""
    with Switch(model) as switch:
        switch.set(FORMATS)
        yield switch


def test_in_bf16_the_model_is_the_plain_one_and_comes_back(
    model: nn.Sequential, switch: Switch, x: Tensor
) -> None:
    """To the bit, any number of times; the next `set` ends it."""
    quantized = model(x)
    switch.set({})
    plain = model(x)
    switch.set(FORMATS)
    assert not torch.equal(plain, quantized)
    for mode, expected in ((BF16, plain), (None, quantized), (BF16, plain)):
        switch.edge_mode = mode
        assert torch.equal(model(x), expected)
    switch.set(FORMATS)
    assert switch.edge_mode is None
    assert torch.equal(model(x), quantized)


@pytest.mark.parametrize("name", ["mxfp8", "nvfp4", "fp8", "int8", "nvfp4-a16"])
def test_in_a16_the_quantized_weight_meets_the_activation_as_it_is(
    model: nn.Sequential, switch: Switch, x: Tensor, name: str
) -> None:
    """The output is the exact product with the quantized weight, plus bias, rounded once."""
    switch.set({"0": FormatName(name)})
    switch.edge_mode = A16
    weight = get_format(name).quantize_weight(model[0].weight)
    scale = 1.0 if weight.scale is None else weight.scale.double()
    exact = x.double() @ (weight.values.double() * scale).T + model[0].bias.double()
    torch.testing.assert_close(model[0](x).double(), exact, rtol=2**-8, atol=1e-5)
    assert model[0](x[:0]).shape == (0, 3, K)
    assert torch.equal(model[3](x), nn.functional.linear(x, model[3].weight, model[3].bias))


def test_no_weight_is_quantized_again(
    model: nn.Sequential, switch: Switch, x: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps in all modes use what was kept before the first."""
    for name in FORMATS.values():
        kind = type(get_format(name))
        monkeypatch.setattr(kind, "quantize_weight", lambda *_: pytest.fail("quantized again"))
    for mode in (BF16, None, A16, None, A16):
        switch.edge_mode = mode
        model(x)


def test_what_ran_at_edge_steps_only_is_told(
    model: nn.Sequential, switch: Switch, x: Tensor
) -> None:
    """It is no error; after one quantized step nothing is left to tell, and what no step called is
    uncalled.
    """
    nobody, both = Unquantized(uncalled=(), bypassed=(), replaced=()), ("0", "2")
    for mode in (BF16, A16):
        switch.set(FORMATS)
        switch.edge_mode = mode
        assert switch.unquantized().uncalled == both
        model(x)
        assert switch.unquantized() == Unquantized(
            uncalled=(), bypassed=(), replaced=(), at_edges=both
        )
        assert switch.check_ran() == ()
        switch.edge_mode = None
        model(x)
        assert switch.unquantized() == nobody


def test_a_patched_linear_has_edge_steps_too(
    model: nn.Sequential, switch: Switch, x: Tensor
) -> None:
    """A forward on the instance runs as it stands at bf16 steps; one that multiplies by another
    weight is found out at W x A16 and quantized steps, also after edge steps in bf16.
    """
    old = model[2].forward
    model[2].forward = lambda x: old(x) * 2  # type: ignore[method-assign]
    switch.set({"2": FormatName.FP8})
    quantized = model[2](x)
    weight = get_format("fp8").quantize_weight(model[2].weight)
    switch.edge_mode = BF16
    assert torch.equal(model[2](x), nn.functional.linear(x, model[2].weight) * 2)
    switch.edge_mode = A16
    expected = get_format("fp8").linear_a16(x.reshape(-1, K), weight, None).view(2, 3, K) * 2
    assert torch.equal(model[2](x), expected)
    switch.edge_mode = None
    assert torch.equal(model[2](x), quantized)
    other = model[2].weight.clone()
    model[2].forward = lambda x: nn.functional.linear(x, other)  # type: ignore[method-assign]
    for mode in (A16, None):
        switch.set({"2": FormatName.FP8})
        switch.edge_mode = BF16
        model[2](x)
        assert switch.check_ran() == ()
        switch.edge_mode = mode
        model[2](x)
        with pytest.raises(FormatError, match="ran in bf16 although they have a format"):
            switch.check_ran()


def test_compiled_graphs_look_the_mode_up_when_they_run(
    model: nn.Sequential, switch: Switch, x: Tensor
) -> None:
    """One graph gives what eager calls give in each mode, and nothing compiles again."""

    def in_modes() -> list[Tensor]:
        found = []
        for mode in (BF16, None, A16, None):
            switch.edge_mode = mode
            found.append(model(x))
        return found

    expected = in_modes()
    model.compile(fullgraph=True, backend="eager")
    model(x)
    with torch.compiler.set_stance("fail_on_recompile"):
        assert all(torch.equal(a, b) for a, b in zip(in_modes(), expected, strict=True))
    assert not torch.equal(expected[1], expected[2])
