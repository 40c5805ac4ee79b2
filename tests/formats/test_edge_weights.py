"""torchao's Linears get other weights for a step and their own back, without a second copy in
a16, and nothing compiles again.
"""

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torchao.prototype.mx_formats import MXDynamicActivationMXWeightConfig
from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_
from torchao.quantization.quantize_.common import KernelPreference

from sensitivity.core.step_policy import EdgeMode
from sensitivity.errors import FormatError
from sensitivity.formats.edge_weights import (
    EdgeWeights,
    forget_weights,
    is_at_edge,
    keep_weights,
    kept_bytes,
    quantized_weight,
)
from sensitivity.formats.rotation import rotate_linear

A16, BF16 = EdgeMode.A16, EdgeMode.BF16
K, N = 64, 32
CONFIGS: dict[str, Callable[[], object]] = {
    "int8": Int8DynamicActivationInt8WeightConfig,
    "mxfp8": lambda: MXDynamicActivationMXWeightConfig(kernel_preference=KernelPreference.EMULATED),
}


class Pair(nn.Module):
    """Two Linears that are quantized and one that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.last = nn.Linear(K, N), nn.Linear(N, K), nn.Linear(K, K)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x + self.down(nn.functional.silu(self.up(x))))


@pytest.fixture
def net() -> Pair:
    torch.manual_seed(0)
    return Pair().bfloat16().eval().requires_grad_(False)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(20, K, generator=torch.Generator().manual_seed(1)).bfloat16()


def quantized(net: Pair, name: str = "int8", *, keep: bool = True) -> dict[str, nn.Linear]:
    """Quantize two of the Linears in place, and give them."""
    linears = {"up": net.up, "down": net.down}
    if keep:
        keep_weights(linears.values())
    quantize_(net, CONFIGS[name](), filter_fn=lambda _module, fqn: fqn in linears)
    return linears


def storages(*weights: Tensor) -> dict[int, int]:
    """{address: bytes} of all plain tensors that weights are made of."""
    found: dict[int, int] = {}
    for weight in weights:
        plain = weight.data if isinstance(weight, nn.Parameter) else weight
        if hasattr(plain, "__tensor_flatten__"):
            names, _ = plain.__tensor_flatten__()
            found |= storages(*(getattr(plain, name) for name in names))
        else:
            found[plain.untyped_storage().data_ptr()] = plain.untyped_storage().nbytes()
    return found


@pytest.mark.parametrize("name", list(CONFIGS))
def test_weights_change_for_a_step_and_come_back(net: Pair, x: Tensor, name: str) -> None:
    """bf16 is the net before it was quantized, to the bit; a16 the product with the dequantized
    weights; then it is quantized again. Names of the state dict stay.
    """
    plain, names = net(x), list(net.state_dict())
    linears = quantized(net, name)
    own = net.up.weight
    values = {fqn: linear.weight.dequantize() for fqn, linear in linears.items()}
    coarse = net(x)
    hidden = nn.functional.silu(nn.functional.linear(x, values["up"], net.up.bias))
    w8a16 = net.last(x + nn.functional.linear(hidden, values["down"], net.down.bias))
    for mode, expected in ((BF16, plain), (A16, w8a16)):
        edges = EdgeWeights(linears, mode)
        for _ in range(2):
            edges.enter()
            assert torch.equal(net(x), expected)
            assert is_at_edge(net.up)
            assert edges.entered
            assert quantized_weight(net.up) is own
            assert list(net.state_dict()) == names
            edges.leave()
            assert torch.equal(net(x), coarse)
            assert net.up.weight is own
            assert not is_at_edge(net.up)
    assert not torch.equal(w8a16, coarse)


def test_a16_needs_no_second_copy_and_bf16_the_weights_beside(net: Pair) -> None:
    """By the addresses of all data: in a16 those of edge steps are the quantized weight's own."""
    linears = quantized(net)
    weights = [linear.weight for linear in linears.values()]
    own = storages(*weights)
    for mode, more in ((A16, 0), (BF16, 2 * 2 * K * N)):
        edges = EdgeWeights(linears, mode)
        edges.enter()
        both = own | storages(*(linear.weight for linear in linears.values()))
        assert sum(both.values()) - sum(own.values()) == more
        edges.leave()
    assert kept_bytes(linears.values()) == 2 * 2 * K * N
    forget_weights(linears.values())
    assert kept_bytes(linears.values()) == 0


def test_kept_weights_go_with_their_linears() -> None:
    """Nothing keeps the bf16 weight of a model that is gone."""
    linear = nn.Linear(K, N)
    keep_weights([linear])
    weight = weakref.ref(linear.weight)
    del linear
    gc.collect()
    assert weight() is None


@pytest.mark.parametrize("mode", [BF16, A16])
def test_nothing_compiles_after_each_kind_ran_once(net: Pair, x: Tensor, mode: EdgeMode) -> None:
    """Compiled graphs give what eager calls give, whatever the order of steps."""
    edges = EdgeWeights(quantized(net), mode)

    def step(at_edge: bool) -> Tensor:
        (edges.enter if at_edge else edges.leave)()
        return net(x)

    eager = {at_edge: step(at_edge) for at_edge in (True, False)}
    net.compile(fullgraph=True, backend="aot_eager")
    for at_edge in (True, False):
        step(at_edge)
    with torch.compiler.set_stance("fail_on_recompile"):
        for at_edge in (False, True, True, False, True):
            assert torch.equal(step(at_edge), eager[at_edge])
    torch._dynamo.reset()


def test_weights_beside_follow_those_that_were_replaced(net: Pair, x: Tensor) -> None:
    """Where a weight was moved or set anew, a16 dequantizes the new one from the next call on."""
    linears = quantized(net)
    edges = EdgeWeights(linears, A16)
    other = nn.Linear(K, N).bfloat16()
    quantize_(nn.Sequential(other), CONFIGS["int8"]())
    net.up.weight = other.weight
    edges.refresh()
    edges.enter()
    expected = nn.functional.linear(x, other.weight.dequantize(), net.up.bias)
    assert torch.equal(net.up(x), expected)


def test_a_rotated_linear_is_not_rotated_in_bf16(net: Pair, x: Tensor) -> None:
    """Its edge steps in bf16 are those of the Linear that it was; in a16 input and weight are both
    rotated, which is close to it.
    """
    plain = net.up(x)
    keep_weights([net.up])
    rotate_linear(net.up)
    quantize_(net, CONFIGS["int8"](), filter_fn=lambda _module, fqn: fqn == "up")
    for mode, most in ((BF16, 0.0), (A16, 0.02)):
        edges = EdgeWeights({"up": net.up}, mode)
        edges.enter()
        assert float((net.up(x) - plain).norm() / plain.norm()) <= most
        edges.leave()


def test_what_is_missing_is_said(net: Pair) -> None:
    """Weights that are not quantized, and bf16 weights that nobody kept."""
    with pytest.raises(FormatError, match=r"not quantized: 1 \(last\).*apply the recipe first"):
        EdgeWeights({"last": net.last}, A16)
    linears = quantized(net, keep=False)
    with pytest.raises(FormatError, match=r"no bf16 weights beside .* of 2 \(up, down\)"):
        EdgeWeights(linears, BF16)
    EdgeWeights(linears, A16)
