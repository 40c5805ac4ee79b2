"""Every call of every Linear is recorded, with its shape, and what was not seen is said."""

from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torchao.prototype.mx_formats.nvfp4_tensor import NVFP4Tensor

from sensitivity.errors import MeasurementError, PatternError
from sensitivity.shapes.recorder import profile_module, profile_run, record_linears
from sensitivity.shapes.table import LinearProfile, ShapeTable


class TwoLinearsOneUnused(nn.Module):
    """Linear 8 -> 4 with bias, Linear 4 -> 2 without, and one that forward never calls."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 4)
        self.second = nn.Linear(4, 2, bias=False)
        self.unused = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(input=self.first(x))  # the second by keyword


class SharedLinear(nn.Module):
    """One Linear 4 -> 4 under two names, called once under each."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(4, 4)
        self.other = self.one

    def forward(self, x: Tensor) -> Tensor:
        return self.other(self.one(x))


class LinearThenError(nn.Module):
    """A Linear 4 -> 4 in eval mode, a Linear whose K does not fit, a third that is never
    reached."""

    def __init__(self) -> None:
        super().__init__()
        self.good = nn.Linear(4, 4).eval()
        self.bad = nn.Linear(5, 4)
        self.beyond = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.beyond(self.bad(self.good(x)))


class AddingLinear(nn.Linear):
    """A subclass of Linear whose forward takes another keyword."""

    def forward(self, *, hidden_states: Tensor, scale: float = 1.0) -> Tensor:
        return super().forward(hidden_states) * scale


def hooks_of(module: nn.Module) -> int:
    return sum(
        len(child._forward_pre_hooks) + len(child._forward_hooks) for child in module.modules()
    )


def row(table: ShapeTable, fqn: str) -> LinearProfile:
    return table.by_fqn[fqn]


def test_shapes_of_two_linears() -> None:
    """M is all leading axes flattened; K, N, dtype, bias, FLOPs and parameters follow the modules;
    positional and keyword inputs count.
    """
    table = profile_module(
        TwoLinearsOneUnused().to(torch.bfloat16), torch.zeros(2, 3, 8, dtype=torch.bfloat16)
    )
    first = LinearProfile.observed(
        fqn="first", k=8, n=4, m_values={6: 1}, dtype="bfloat16", bias=True
    )
    second = LinearProfile.observed(
        fqn="second", k=4, n=2, m_values={6: 1}, dtype="bfloat16", bias=False
    )
    assert table.linears == (first, second)
    assert (first.flops, first.parameters, second.flops, second.parameters) == (
        2 * 6 * 8 * 4,
        36,
        2 * 6 * 4 * 2,
        8,
    )
    assert table.flops == 2 * 6 * (32 + 8)
    assert table.uncalled == ("unused",)
    assert (table.model, table.batch_size, table.settings) == ("TwoLinearsOneUnused", 1, {})


@pytest.mark.parametrize(
    ("shape", "m"), [((8,), 1), ((0, 8), 0), ((5, 8), 5), ((2, 0, 8), 0), ((2, 3, 4, 8), 24)]
)
def test_m_of_any_leading_axes(shape: tuple[int, ...], m: int) -> None:
    """A vector is one row, an empty batch none, and any number of leading axes is flattened."""
    assert profile_module(nn.Linear(8, 4), torch.zeros(shape)).linears[0].m_values == ((m, 1),)


def test_varying_m_keeps_every_value() -> None:
    """A Linear called with several M in one run has the largest as m, all (M, calls) pairs, and the
    FLOPs of each.
    """
    net = TwoLinearsOneUnused()
    table = profile_run(
        net,
        lambda: [net(torch.zeros(m, 8)) for m in (3, 7, 3)],
        model="toy",
        batch_size=2,
        settings={"steps": 3},
    )
    first = row(table, "first")
    assert (first.m, first.calls, first.m_values) == (7, 3, ((3, 2), (7, 1)))
    assert first.flops == 2 * 8 * 4 * (3 * 2 + 7)
    assert (table.model, table.batch_size, table.settings) == ("toy", 2, {"steps": 3})


def test_shared_linear_is_one_row() -> None:
    """A Linear under two names stands under the first, each call counted once, and the second name
    is not uncalled.
    """
    table = profile_module(SharedLinear(), torch.zeros(2, 4))
    assert [(linear.fqn, linear.calls) for linear in table.linears] == [("one", 2)]
    assert table.uncalled == ()


def test_linear_subclass_with_its_own_keyword() -> None:
    """Subclasses of Linear are recorded, and the input is found under any keyword."""
    table = profile_module(AddingLinear(4, 2), hidden_states=torch.zeros(3, 4), scale=2.0)
    assert [(linear.fqn, linear.m) for linear in table.linears] == [("", 3)]


def test_linear_called_without_a_tensor() -> None:
    """A call that has no tensor at all is refused by name instead of guessed."""
    with pytest.raises(
        MeasurementError, match=r"'' was called without a tensor; expected an input of shape"
    ):
        profile_module(AddingLinear(4, 2), hidden_states=[[0.0] * 4])


def test_lazy_linear_has_its_final_shape() -> None:
    """A LazyLinear is recorded with the K that its first call gives it."""
    assert profile_module(nn.LazyLinear(3), torch.zeros(2, 6)).linears[0].k == 6


def test_weight_used_without_a_call_is_uncalled() -> None:
    """MultiheadAttention uses its out_proj's weight without calling it: that is reported, not
    hidden.
    """
    attention, x = nn.MultiheadAttention(4, 1, batch_first=True), torch.zeros(1, 2, 4)
    assert profile_module(attention, x, x, x).uncalled == ("out_proj",)


def test_raising_forward_says_how_far_it_got() -> None:
    """A failing forward names the last Linear reached, chains its cause, removes all hooks and
    restores each training flag.
    """
    net = LinearThenError()
    with pytest.raises(
        MeasurementError,
        match=r"raised RuntimeError .*last Linear reached was 'bad'; 2 of 3 Linears",
    ) as caught:
        profile_module(net, torch.zeros(2, 4))
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert hooks_of(net) == 0
    assert [net.training, net.good.training, net.bad.training] == [True, False, True]


def test_raising_before_any_linear() -> None:
    """A run that fails before the first Linear says so."""
    with pytest.raises(MeasurementError, match="no Linear was reached; 0 of 3 Linears"):
        profile_run(TwoLinearsOneUnused(), lambda: 1 / 0, model="toy")


def test_users_mistakes_pass_unchanged() -> None:
    """A UserError from inside the run stays itself, so that the command line still exits with 2."""
    net = TwoLinearsOneUnused()
    with pytest.raises(PatternError, match="as it was"), record_linears(net):
        raise PatternError("as it was")
    assert hooks_of(net) == 0


def test_interrupt_leaves_nothing_behind() -> None:
    """An interrupt is not turned into another error, and hooks and modes are still put back."""
    net = TwoLinearsOneUnused()
    with pytest.raises(KeyboardInterrupt), record_linears(net):
        raise KeyboardInterrupt
    assert (hooks_of(net), net.training) == (0, True)


def test_inside_is_eval_and_without_gradients() -> None:
    """The run is made in eval mode without gradients, and the mode comes back afterwards."""
    net, seen = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)), []
    profile_run(
        net,
        lambda: seen.append((net.training, net[1].training, torch.is_grad_enabled())),
        model="toy",
    )
    assert seen == [(False, False, False)]
    assert (net.training, net[1].training) == (True, True)


def test_nested_recorders() -> None:
    """Contexts nest: the outer sees everything, the inner its own module and time, and a table may
    be asked for inside.
    """
    net = TwoLinearsOneUnused()
    with record_linears(net) as outer:
        net(torch.zeros(1, 8))
        assert row(outer.table(model="toy"), "first").calls == 1
        with record_linears(net.second) as inner:
            net(torch.zeros(1, 8))
        net(torch.zeros(1, 8))
    assert row(outer.table(model="toy"), "second").calls == 3
    assert row(inner.table(model="toy"), "").calls == 1
    assert hooks_of(net) == 0


def test_compiled_module_is_still_seen() -> None:
    """A module that was compiled before profiling is recorded all the same, and stays compiled
    afterwards.
    """
    graphs = []

    def backend(graph: torch.fx.GraphModule, _inputs: list[Tensor]) -> Any:
        graphs.append(graph)
        return graph.forward

    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    net.compile(backend=backend)
    net(torch.zeros(3, 4))
    assert [linear.m for linear in profile_module(net, torch.zeros(3, 4)).linears] == [3, 3]
    assert len(graphs) == 1


def test_meta_device() -> None:
    """A model without weights has the same table."""
    net = TwoLinearsOneUnused().to("meta")
    assert (
        profile_module(net, torch.zeros(5, 8, device="meta")).linears
        == profile_module(TwoLinearsOneUnused(), torch.zeros(5, 8)).linears
    )


def test_fake_tensors() -> None:
    """Under FakeTensorMode the table is the same."""
    with FakeTensorMode():
        fake = profile_module(TwoLinearsOneUnused(), torch.zeros(5, 8))
    assert fake == profile_module(TwoLinearsOneUnused(), torch.zeros(5, 8))


def test_quantized_weight_keeps_its_logical_shape() -> None:
    """A Linear whose weight torchao packed (two codes a byte) still gives its K and N."""
    net = nn.Linear(32, 16, bias=False).to(torch.bfloat16)
    net.weight = nn.Parameter(NVFP4Tensor.to_nvfp4(net.weight.data), requires_grad=False)
    linear = profile_module(net, torch.zeros(4, 32, dtype=torch.bfloat16)).linears[
        0
    ]  # weight only: computes on a CPU too
    assert (linear.m, linear.k, linear.n, linear.dtype) == (4, 32, 16, "bfloat16")


def flux_inputs(
    *,
    image: int,
    text: int,
    channels: int,
    joint: int,
    pooled: int,
    device: str,
    dtype: torch.dtype,
) -> dict[str, Tensor]:
    def zeros(*shape: int) -> Tensor:
        return torch.zeros(shape, device=device, dtype=dtype)

    return {
        "hidden_states": zeros(1, image, channels),
        "encoder_hidden_states": zeros(1, text, joint),
        "pooled_projections": zeros(1, pooled),
        "timestep": zeros(1),
        "img_ids": zeros(image, 3),
        "txt_ids": zeros(text, 3),
        "guidance": zeros(1),
    }


def test_tiny_flux_on_cpu() -> None:
    """A real FluxTransformer2DModel with one block of each kind: 14 + 6 Linears in them, 10
    outside, none uncalled.
    """
    net = diffusers.FluxTransformer2DModel(
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        in_channels=8,
        joint_attention_dim=24,
        pooled_projection_dim=12,
        guidance_embeds=True,
        axes_dims_rope=(4, 6, 6),
    )
    inputs = flux_inputs(
        image=20, text=5, channels=8, joint=24, pooled=12, device="cpu", dtype=torch.float32
    )
    table = profile_module(net, **inputs)
    assert (len(table.linears), table.uncalled) == (30, ())
    expected = {
        "x_embedder": (20, 8, 32),
        "context_embedder": (5, 24, 32),
        "transformer_blocks.0.norm1.linear": (1, 32, 192),
        "transformer_blocks.0.attn.to_q": (20, 32, 32),
        "transformer_blocks.0.attn.add_k_proj": (5, 32, 32),
        "single_transformer_blocks.0.proj_out": (25, 160, 32),
        "norm_out.linear": (1, 32, 64),
    }
    assert {
        fqn: (row(table, fqn).m, row(table, fqn).k, row(table, fqn).n) for fqn in expected
    } == expected


def test_full_flux_on_meta() -> None:
    """FLUX.1-dev at 1024x1024 has 504 Linears with M = 4096 (image), 512 (text), 4608 (single
    blocks) and 1 (modulation).
    """
    with torch.device("meta"):
        net = diffusers.FluxTransformer2DModel(guidance_embeds=True)
    inputs = flux_inputs(
        image=4096,
        text=512,
        channels=64,
        joint=4096,
        pooled=768,
        device="meta",
        dtype=torch.float32,
    )
    table = profile_module(net, **inputs)
    assert (len(table.linears), table.uncalled) == (504, ())
    assert {linear.m for linear in table.linears} == {4096, 512, 4608, 1}
    assert (
        sum(linear.m == 1 for linear in table.linears) == 76 + 7
    )  # modulation of 57 blocks, the embedders' six, norm_out
    assert row(table, "single_transformer_blocks.37.proj_out").k == 5 * 3072


def test_calls_can_be_counted_again() -> None:
    """What was seen since a snapshot can be added once more, as if it had run again."""
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    with record_linears(net) as recorder:
        net(torch.zeros(3, 4))
        before = recorder.snapshot()
        net(torch.zeros(5, 4))
        recorder.add(recorder.since(before))
    assert [linear.m_values for linear in recorder.table(model="net").linears] == [
        ((3, 1), (5, 2))
    ] * 2


def test_linears_that_read_one_tensor_are_grouped() -> None:
    """q, k and v that are called on the same tensor are one group; a copy of it is another."""

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.to_q, self.to_k, self.to_v, self.to_out, self.other = (
                nn.Linear(4, 4) for _ in range(5)
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out = self.to_out(self.to_q(x) + self.to_k(x) + self.to_v(x))
            return out + self.other(x.clone())

    attention = Attention()
    table = profile_run(
        attention, lambda: [attention(torch.zeros(2, 4)) for _ in range(3)], model="toy"
    )
    assert table.shared_inputs == (("to_k", "to_q", "to_v"),)
    assert table.readers == {"to_k": 3, "to_q": 3, "to_v": 3}
