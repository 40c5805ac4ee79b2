"""A recipe applied to a model: what is quantized, what is refused, and what the report says."""

import types

import pytest
import torch
from torch import nn

from sensitivity.core.format_name import FormatName
from sensitivity.errors import RecipeError, RecipeMismatchError
from sensitivity.formats.emulation import emulated_linear
from sensitivity.formats.registry import get_format

from support.two_blocks import LAYERS, TwoBlockNet, two_block_recipe


def make_net() -> TwoBlockNet:
    """The net in bf16, with weights of a fixed seed."""
    torch.manual_seed(0)
    return TwoBlockNet().bfloat16().eval().requires_grad_(False)


def unquantized(net: nn.Module) -> set[str]:
    """The Linears whose weights are plain tensors."""
    return {
        fqn
        for fqn, m in net.named_modules()
        if isinstance(m, nn.Linear) and type(m.weight.data) is torch.Tensor
    }


@pytest.fixture
def blackwell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every device pass as one that has MXFP8: torchao quantizes weights on the CPU too, it
    only cannot multiply them.
    """
    monkeypatch.setattr(type(get_format("mxfp8")), "native_refusal", lambda _self, _device: None)


@pytest.mark.usefixtures("blackwell")
@pytest.mark.parametrize("emulate", [None, False])
@pytest.mark.parametrize("wrapped", [False, True])
def test_native_apply_quantizes_exactly_the_recipe(emulate: bool | None, wrapped: bool) -> None:
    """The pipeline's component, or the bare module, gets the recipe's formats and nothing else, and
    the report says so.
    """
    net = make_net()
    report = two_block_recipe().apply(
        types.SimpleNamespace(transformer=net) if wrapped else net, emulate=emulate
    )
    assert unquantized(net) == {"blocks.0.down", "blocks.1.down"}
    assert report.mode == "native"
    assert report.layers == LAYERS
    assert report.counts == {FormatName.MXFP8: 3, FormatName.BF16: 2}
    assert report.refused == {}


@pytest.mark.usefixtures("blackwell")
def test_a_recipe_is_applied_once() -> None:
    """Weights that are already quantized are refused."""
    net = make_net()
    two_block_recipe().apply(net)
    with pytest.raises(
        RecipeMismatchError,
        match=r"weights that are not plain tensors in 3 \(blocks.0.up, .*load the model again",
    ):
        two_block_recipe().apply(net)


def test_without_hardware_nothing_is_emulated_in_silence() -> None:
    """On a CPU the native path is refused before anything changes, and the message names the way
    out.
    """
    net = make_net()
    for emulate in (None, False):
        with pytest.raises(RecipeError, match=r"found no native mxfp8 on cpu: .*pass emulate=True"):
            two_block_recipe().apply(net, emulate=emulate)
    assert len(unquantized(net)) == 5


def test_emulation_asks_no_hardware() -> None:
    """`emulate=True` works where the native path is refused, and the report has every format."""
    net = make_net()
    report = two_block_recipe().apply(net, emulate=True)
    assert (report.mode, report.layers) == ("emulated", LAYERS)
    assert report.proof.linears == ("blocks.0.up", "blocks.1.up", "head")
    assert len(unquantized(net)) == 5


def test_emulation_computes_the_quantized_product() -> None:
    """With the real switch, outputs equal those of a net whose chosen Linears compute by the
    format's own emulation.
    """
    x = torch.randn(4, 32, generator=torch.Generator().manual_seed(1)).bfloat16()
    net, fmt = make_net(), get_format("mxfp8")
    plain = net(x)

    def linear(fqn: str, value: torch.Tensor) -> torch.Tensor:
        layer = net.get_submodule(fqn)
        if LAYERS[fqn] == "bf16":
            return nn.functional.linear(value, layer.weight, layer.bias)  # type: ignore[arg-type]
        return emulated_linear(value, fmt.quantize_weight(layer.weight), layer.bias, fmt)

    expected = x
    for block in range(2):
        expected = expected + linear(f"blocks.{block}.down", linear(f"blocks.{block}.up", expected))
    expected = linear("head", expected)
    two_block_recipe().apply(net, emulate=True)
    assert torch.equal(net(x), expected)
    assert not torch.equal(plain, expected)


def test_other_class_is_refused() -> None:
    """The component's class name must be the recipe's."""
    with pytest.raises(
        RecipeMismatchError,
        match="found a Linear; expected TwoBlockNet, which the recipe 'toy-mxfp8-b200' is for",
    ):
        two_block_recipe().apply(nn.Linear(2, 2))


def test_pipeline_without_the_component_is_refused() -> None:
    """A pipeline must have the module that the recipe names."""
    with pytest.raises(
        RecipeMismatchError,
        match="found a SimpleNamespace without a module named 'transformer'; expected a pipeline",
    ):
        two_block_recipe().apply(types.SimpleNamespace(unet=make_net()))


def test_missing_and_extra_linears_are_listed() -> None:
    """Both differences are named, ten at most, with the count."""
    net = make_net()
    net.head = nn.Identity()  # type: ignore[assignment]
    net.more = nn.ModuleList(nn.Linear(32, 32) for _ in range(12))
    with pytest.raises(
        RecipeMismatchError,
        match=(
            r"missing in the model 1 \(head\) \(replaced by Identity\), extra 12"
            r" \(more.0, .*more.9 and 2 more\); .*again"
        ),
    ):
        two_block_recipe().apply(net, emulate=True)


def test_refused_shapes_and_dtypes_raise() -> None:
    """A layer that its format cannot take stops everything, with the format's reason."""
    net = make_net()
    net.head = nn.Linear(33, 32).bfloat16()
    with pytest.raises(
        RecipeMismatchError,
        match=r"found Linears that their format refuses: 1 \(head in mxfp8: .*33",
    ):
        two_block_recipe().apply(net, emulate=True)
    with pytest.raises(
        RecipeMismatchError, match=r"format refuses: 3 .*float32.*load the model in bf16"
    ):
        two_block_recipe().apply(TwoBlockNet(), emulate=True)


@pytest.mark.usefixtures("blackwell")
def test_layers_left_unquantized_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that leaves a layer as it was, without a word, is found out."""
    monkeypatch.setattr(
        "sensitivity.formats.native.quantize_native", lambda _module, _formats: None
    )
    with pytest.raises(
        RecipeError,
        match=r"found Linears that stayed in bf16: 3 \(blocks.0.up, blocks.1.up, head\)",
    ):
        two_block_recipe().apply(make_net())


def test_all_bf16_recipe_changes_nothing() -> None:
    """A recipe without quantized layers applies natively anywhere."""
    net, names = make_net(), list(LAYERS)
    report = two_block_recipe(layers=dict.fromkeys(names, "bf16"), skip=names, patterns=[]).apply(
        net
    )
    assert report.counts == {FormatName.BF16: 5}
    assert len(unquantized(net)) == 5


def test_compiled_modules_are_unwrapped() -> None:
    """`torch.compile(net)` prefixes names; the recipe finds the net inside."""
    with pytest.raises(RecipeError, match="found no native mxfp8 on cpu"):
        two_block_recipe().apply(torch.compile(make_net(), backend="eager"))
