"""Whatever patches a model's Linears, a recipe quantizes inside the patch or is refused by name, so
that no picture is bf16's while a report says quantized.
"""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from diffusers.hooks import apply_group_offloading, apply_layerwise_casting
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from sensitivity.errors import RecipeError, RecipeMismatchError, UserError
from sensitivity.formats.registry import get_format

from support.two_blocks import TwoBlockNet, two_block_recipe

CPU = torch.device("cpu")
QUANTIZED = ("blocks.0.up", "blocks.1.up", "head")
Patch = Callable[[TwoBlockNet, Path], object]


def make_net() -> TwoBlockNet:
    torch.manual_seed(0)
    return TwoBlockNet().bfloat16().eval().requires_grad_(False)


X = torch.randn(4, 32, generator=torch.Generator().manual_seed(1)).bfloat16()
PLAIN = make_net()(X)


@pytest.fixture(scope="module")
def expected() -> Tensor:
    """What the recipe computes on a net that nothing stands on."""
    net = make_net()
    two_block_recipe().apply(net, emulate=True)
    return net(X)


def linears(net: nn.Module) -> list[nn.Linear]:
    return [m for m in net.modules() if isinstance(m, nn.Linear)]


def forward_kept_in_a_closure(net: TwoBlockNet, _: Path) -> None:
    for linear in linears(net):
        linear.forward = lambda *a, f=linear.forward: f(*a)  # type: ignore[method-assign]


def adapter_over_the_forward(net: TwoBlockNet, _: Path) -> None:
    """As LoRA managers outside of PEFT do it."""

    def patch(linear: nn.Linear) -> None:
        down, up = torch.zeros(2, linear.in_features), torch.zeros(linear.out_features, 2)
        inner = linear.forward

        def forward(x: Tensor) -> Tensor:
            low = nn.functional.linear(x, down.bfloat16())
            return inner(x) + nn.functional.linear(low, up.bfloat16())

        linear.forward = forward  # type: ignore[method-assign]

    for linear in linears(net):
        patch(linear)


def forward_of_its_own(net: TwoBlockNet, _: Path) -> None:
    head = net.head
    head.forward = lambda x: nn.functional.linear(  # type: ignore[method-assign]
        input=x, weight=head.weight.to(x.dtype)
    )


def group_offload(kind: str, **more: Any) -> Patch:
    def patch(net: TwoBlockNet, folder: Path) -> None:
        where = {"offload_to_disk_path": str(folder)} if more.get("disk") else {}
        blocks = {"num_blocks_per_group": 1} if kind == "block_level" else {}
        apply_group_offloading(
            net, onload_device=CPU, offload_device=CPU, offload_type=kind, **where, **blocks
        )

    return patch


def accelerate_hook_taken_off_again(net: TwoBlockNet, _: Path) -> None:
    """The forward stays on the instance."""
    for linear in linears(net):
        remove_hook_from_module(add_hook_to_module(linear, ModelHook()))


def sequential_offload(net: TwoBlockNet, _: Path) -> None:
    accelerate.cpu_offload(net, execution_device=CPU)


def disk_offload(net: TwoBlockNet, folder: Path) -> None:
    accelerate.disk_offload(net, str(folder), execution_device=CPU)


def pruning_mask(net: TwoBlockNet, _: Path) -> None:
    prune.l1_unstructured(net.head, "weight", amount=0)


def hook_that_writes_the_weight(net: TwoBlockNet, _: Path) -> None:
    """The weight is garbage between calls."""
    weight = net.head.weight.data.clone()

    def before(head: nn.Module, _args: object) -> None:
        head.weight.data = weight.clone()  # type: ignore[union-attr]

    net.head.register_forward_pre_hook(before)
    net.head.weight.data = torch.ones(32, 32).bfloat16()


def hooks_on_input_and_output(net: TwoBlockNet, _: Path) -> None:
    net.head.register_forward_pre_hook(lambda _m, args: (args[0] * 1,))
    net.head.register_forward_hook(lambda _m, _args, y: y * 1)


def compiled_in_place(net: TwoBlockNet, _: Path) -> None:
    net.head.compile(backend="eager", fullgraph=True)


def compiled_over_a_patch(net: TwoBlockNet, folder: Path) -> None:
    forward_kept_in_a_closure(net, folder)
    net.head.compile(backend="eager")


INSIDE = {
    "closure": forward_kept_in_a_closure,
    "adapter": adapter_over_the_forward,
    "own forward": forward_of_its_own,
    "group offloading by leaf": group_offload("leaf_level"),
    "group offloading by block": group_offload("block_level"),
    "group offloading to disk": group_offload("leaf_level", disk=True),
    "accelerate, taken off": accelerate_hook_taken_off_again,
    "sequential offload": sequential_offload,
    "disk offload": disk_offload,
    "pruning": pruning_mask,
    "weight written by a hook": hook_that_writes_the_weight,
    "hooks": hooks_on_input_and_output,
    "compiled": compiled_in_place,
    "compiled patch": compiled_over_a_patch,
}


@pytest.mark.parametrize("patch", INSIDE.values(), ids=INSIDE)
def test_a_recipe_quantizes_inside_of_a_patch(
    patch: Patch, expected: Tensor, tmp_path: Path
) -> None:
    """Outputs have the bits of the unpatched quantized model, and the first call proves every
    Linear.
    """
    net = make_net()
    patch(net, tmp_path)
    proof = two_block_recipe().apply(net, emulate=True).proof
    assert proof.pending == QUANTIZED
    for _ in range(2):  # offloading moves weights between calls
        assert torch.equal(net(X), expected)
    assert not torch.equal(expected, PLAIN)
    assert (proof.ran, proof.uncalled, proof.pending) == (QUANTIZED, (), ())
    assert str(proof).startswith("3 of 3 ran quantized in a first call")


def test_weight_norm_is_quantized_as_computed() -> None:
    """A weight that a hook computes before each call is quantized after it."""
    net, other = make_net(), make_net()
    with pytest.warns(FutureWarning):
        torch.nn.utils.weight_norm(net.head)
    net(X)
    other.head.weight.data = net.head.weight.detach().clone()
    for each in (net, other):
        two_block_recipe().apply(each, emulate=True)
    assert torch.equal(net(X), other(X))


def other_operator(net: TwoBlockNet, _: Path) -> None:
    head = net.head
    head.forward = lambda x: x @ head.weight.t()  # type: ignore[method-assign]


def copy_of_the_weight(net: TwoBlockNet, _: Path) -> None:
    weight = net.head.weight.clone()
    net.head.forward = lambda x: nn.functional.linear(x, weight)  # type: ignore[method-assign]


def parametrized(net: TwoBlockNet, _: Path) -> None:
    parametrize.register_parametrization(net.head, "weight", nn.Identity())


def subclass(net: TwoBlockNet, _: Path) -> None:
    class ScaledLinear(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) * 1

    net.head.__class__ = ScaledLinear


def layerwise_casting(net: TwoBlockNet, _: Path) -> None:
    apply_layerwise_casting(net, storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.bfloat16)


class LoraLinear(nn.Module):
    """As PEFT wraps a Linear."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.base_layer, self.lora_A = linear, nn.Linear(linear.in_features, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x)  # type: ignore[no-any-return]


def lora(net: TwoBlockNet, _: Path) -> None:
    net.head = LoraLinear(net.head)  # type: ignore[assignment]


def compiled_by_wrapping(net: TwoBlockNet, _: Path) -> None:
    net.head = torch.compile(net.head, backend="eager")  # type: ignore[assignment]


def another_tensor_class(net: TwoBlockNet, _: Path) -> None:
    class DTensor(Tensor):
        pass

    net.head.weight = nn.Parameter(net.head.weight.data.as_subclass(DTensor), requires_grad=False)


def hook_with_a_product_of_its_own(net: TwoBlockNet, _: Path) -> None:
    net.head.register_forward_hook(lambda head, args, _y: args[0] @ head.weight.t())  # type: ignore[operator]


def forward_that_drops_the_product(net: TwoBlockNet, _: Path) -> None:
    head, inner = net.head, net.head.forward
    head.forward = lambda x: (inner(x), x @ head.weight.t())[1]  # type: ignore[method-assign]


REFUSED = {
    "hook": (
        hook_with_a_product_of_its_own,
        r"run in bf16 .*\(head\); on the first stands the hook",
    ),
    "dropped": (forward_that_drops_the_product, r"run in bf16 .*\(head\); on the first stands a"),
    "operator": (other_operator, r"run in bf16 .*: 1 \(head\); on the first stands a `forward`"),
    "copy": (copy_of_the_weight, r"run in bf16 .*: 1 \(head\); on the first stands a `forward`"),
    "parametrized": (parametrized, r"Of head: .*ParametrizedLinear.*remove_parametrizations"),
    "subclass": (subclass, r"Of head: it is a ScaledLinear, and only plain nn.Linear"),
    "casting": (layerwise_casting, r"diffusers' layerwise casting.*leave layerwise casting off"),
    "lora": (lora, r"extra 2 \(head.base_layer, head.lora_A\).*wrapped by PEFT.*fuse_lora"),
    "compiled": (compiled_by_wrapping, r"extra 1 \(head._orig_mod\).*apply the recipe first"),
    "sharded": (another_tensor_class, r"weight is a DTensor.*before the model is sharded"),
}


@pytest.mark.parametrize(("patch", "message"), REFUSED.values(), ids=REFUSED)
def test_a_patch_that_cannot_be_quantized_inside_is_named(
    patch: Patch, message: str, tmp_path: Path
) -> None:
    """The message names the Linear, what stands on it and the next step, and the model is as it
    was.
    """
    net = make_net()
    patch(net, tmp_path)
    classes = [type(m) for m in net.modules()]
    with pytest.raises(UserError, match=message):
        two_block_recipe().apply(net, emulate=True)
    assert [type(m) for m in net.modules()] == classes


def test_a_module_replaced_after_the_report_is_found() -> None:
    """The first call says which Linears are gone."""
    net = make_net()
    two_block_recipe().apply(net, emulate=True)
    net.head = nn.Linear(32, 32, bias=False).bfloat16()
    with pytest.raises(RecipeError, match=r"no part of the TwoBlockNet any more: 1 \(head\)"):
        net(X)


@pytest.mark.parametrize("wrap", [lora, compiled_by_wrapping])
def test_a_wrapper_that_comes_after_the_report_is_no_error(wrap: Patch, expected: Tensor) -> None:
    """A Linear that has another name now, and ran quantized there, is proven."""
    net = make_net()
    proof = two_block_recipe().apply(net, emulate=True).proof
    wrap(net, Path())
    assert torch.equal(net(X), expected)
    assert proof.ran == QUANTIZED


def test_a_patch_that_comes_after_the_report_is_found() -> None:
    """A `forward` that is set later and multiplies in bf16 makes the first call raise."""
    net = make_net()
    two_block_recipe().apply(net, emulate=True)
    forward_of_its_own(net, Path())
    with pytest.raises(RecipeError, match=r"run in bf16 .*: 1 \(head\); on the first stands"):
        net(X)


def test_uncalled_is_said_differently(caplog: pytest.LogCaptureFixture) -> None:
    """A Linear that the first call does not reach is no error; the proof and a warning name it."""
    net = make_net()
    proof = two_block_recipe().apply(net, emulate=True).proof
    head, net.forward = net.head, lambda x: net.blocks[0]["up"](x)  # type: ignore[method-assign]
    net(X)
    assert (proof.ran, proof.uncalled) == (("blocks.0.up",), ("blocks.1.up", "head"))
    assert "uncalled: 2 (blocks.1.up, head)" in str(proof)
    assert "did not reach Linears: 2 (blocks.1.up, head)" in caplog.text
    assert head is net.head


def test_a_call_that_reaches_nothing_raises() -> None:
    """As the replay of a graph that was recorded before."""
    net = make_net()
    two_block_recipe().apply(net, emulate=True)
    net.forward = lambda x: x  # type: ignore[method-assign]
    with pytest.raises(RecipeError, match="reached none of its 3 quantized Linears"):
        net(X)


@pytest.mark.parametrize("later", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_a_copy_of_the_model_is_quantized_too(
    later: Callable[[nn.Module], nn.Module], expected: Tensor
) -> None:
    """The hook of the first call does not look at another model's Linears."""
    net = make_net()
    two_block_recipe().apply(net, emulate=True)
    assert torch.equal(later(net)(X), expected)
    assert torch.equal(net(X), expected)


def test_compiling_as_a_whole_later_keeps_the_graph_whole(expected: Tensor) -> None:
    """The hook of the first call breaks no graph."""
    net = make_net()
    two_block_recipe().apply(net, emulate=True)
    assert torch.equal(torch.compile(net, backend="eager", fullgraph=True)(X), expected)


def test_weights_that_change_later_are_quantized_as_they_are(expected: Tensor) -> None:
    """Quantized weights that were kept do not outlive the weight that they were made from."""
    net = make_net()
    two_block_recipe().apply(net, emulate=True)
    weight = net.head.weight.data
    net.head.weight.data = weight * -1
    assert torch.equal(net(X), -expected)
    net.head.weight.data = weight
    assert torch.equal(net(X), expected)
    other = make_net()
    other.head.weight.data = weight.t()
    two_block_recipe().apply(other, emulate=True)
    net.head.weight.data = weight.t()  # the same memory in another order
    assert torch.equal(net(X), other(X))


@pytest.fixture
def blackwell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every device pass as one that has MXFP8."""
    monkeypatch.setattr(type(get_format("mxfp8")), "native_refusal", lambda _self, _device: None)


@pytest.mark.usefixtures("blackwell")
@pytest.mark.parametrize(
    "patch",
    [
        forward_kept_in_a_closure,
        accelerate_hook_taken_off_again,
        forward_of_its_own,
        hooks_on_input_and_output,
    ],
)
def test_native_weights_are_reached_through_a_patch(patch: Patch, tmp_path: Path) -> None:
    """Each patched Linear is tried alone, without its product, and has torchao's weight."""
    net = make_net()
    patch(net, tmp_path)
    proof = two_block_recipe().apply(net).proof
    assert proof.is_native
    assert "head" in proof.alone
    assert "3 of 3 kept" not in str(proof)


@pytest.mark.usefixtures("blackwell")
@pytest.mark.parametrize(
    ("patch", "message"),
    [
        (pruning_mask, "computed before each call.*prune.remove"),
        (sequential_offload, "not in memory between calls.*AlignDevicesHook"),
        (group_offload("leaf_level"), "moved by diffusers' group offloading"),
        (parametrized, "remove_parametrizations"),
    ],
)
def test_native_weights_that_would_be_replaced_are_refused(
    patch: Patch, message: str, tmp_path: Path
) -> None:
    """Nothing is quantized where a hook would put the bf16 weight back."""
    net = make_net()
    patch(net, tmp_path)
    with pytest.raises(RecipeMismatchError, match=message):
        two_block_recipe().apply(net)
    assert all(type(p.data) is Tensor for p in net.parameters())


@pytest.mark.usefixtures("blackwell")
def test_a_native_product_with_a_copy_of_the_weight_is_found(tmp_path: Path) -> None:
    """A patch that kept the bf16 weight for itself is named."""
    net = make_net()
    copy_of_the_weight(net, tmp_path)
    with pytest.raises(RecipeError, match=r"run in bf16 .*: 1 \(head\)"):
        two_block_recipe().apply(net)
