"""Flipping skip-lists in place is exact: any order of them leaves what a fresh model would compute,
and bf16 comes back to the bit.
"""

import copy
import itertools
import random

import pytest
import torch
from torch import Tensor, nn

from sensitivity.core.format_name import FormatName
from sensitivity.errors import FormatError
from sensitivity.formats.registry import get_format
from sensitivity.formats.switch import Switch

BF16, MXFP8, NVFP4, FP8 = FormatName.BF16, FormatName.MXFP8, FormatName.NVFP4, FormatName.FP8


class FourLinearsOneShared(nn.Module):
    """Three Linears 64 -> 64, one of them under two names, and an output 64 -> 8 that no block
    format takes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 64)
        self.second = nn.Linear(64, 64, bias=False)
        self.shared = nn.Linear(64, 64)
        self.again = self.shared
        self.last = nn.Linear(64, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.nn.functional.silu(self.first(x))
        return self.last(self.again(torch.nn.functional.silu(self.second(x))) + self.shared(x))


FREE = ("first", "second", "shared")


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return FourLinearsOneShared().bfloat16().eval().requires_grad_(False)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(1)).bfloat16()


def fresh_output(model: nn.Module, x: Tensor, formats: dict[str, FormatName]) -> Tensor:
    """What a copy of the plain model computes when these formats are the first that it is given."""
    other = copy.deepcopy(model)
    with Switch(other) as switch:
        switch.set(formats)
        return other(x.clone())


def test_bf16_is_the_plain_model_to_the_bit(model: nn.Module, x: Tensor) -> None:
    """A switch that was given no formats, or all bf16, changes no output."""
    plain = model(x)
    with Switch(model) as switch:
        assert torch.equal(model(x), plain)
        switch.set(dict.fromkeys((*FREE, "last"), BF16))
        assert torch.equal(model(x), plain)


@pytest.mark.parametrize("fmt", [MXFP8, NVFP4, FP8])
def test_a_format_computes_the_quantized_product(
    model: nn.Module, x: Tensor, fmt: FormatName
) -> None:
    """A switched Linear gives the product of its quantized operands, plus its bias, rounded once to
    bf16.
    """
    a, w = (
        get_format(fmt).quantize_activation(x.view(-1, 64)),
        get_format(fmt).quantize_weight(model.first.weight),
    )
    scale_a, scale_w = (1.0 if s is None else s.double() for s in (a.scale, w.scale))
    exact = (a.values.double() * scale_a) @ (
        w.values.double() * scale_w
    ).T + model.first.bias.double()
    with Switch(model) as switch:
        switch.set({"first": fmt})
        found = model.first(x)
    assert found.shape == (2, 5, 64)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.view(-1, 64).double(), exact, rtol=2**-8, atol=1e-5)
    assert not torch.equal(found, model.first(x))


def test_any_order_of_skip_lists_is_a_fresh_model(model: nn.Module, x: Tensor) -> None:
    """After any sequence of skip-lists and formats each output has the bits of a model that was
    freshly quantized so.
    """
    plain = model(x)
    every = [
        dict(zip(FREE, choice, strict=True))
        for choice in itertools.product((BF16, MXFP8, NVFP4, FP8), repeat=3)
    ]
    expected = [fresh_output(model, x, formats) for formats in every]
    assert len({tuple(out.flatten().tolist()) for out in expected}) == len(
        every
    )  # each skip-list has an output of its own
    order = [*range(len(every)), *range(len(every))]
    random.Random(0).shuffle(order)
    with Switch(model) as switch:
        for i in order:
            switch.set(every[i])
            assert torch.equal(model(x.clone()), expected[i])
        switch.set({})
        assert torch.equal(model(x), plain)


def test_what_is_not_named_becomes_bf16(model: nn.Module, x: Tensor) -> None:
    """A skip-list says everything: formats of an earlier one do not linger."""
    expected = fresh_output(model, x, {"second": NVFP4})
    with Switch(model) as switch:
        switch.set({"first": NVFP4, "shared": MXFP8})
        switch.set({"second": NVFP4})
        assert torch.equal(model(x), expected)


def test_linears_stay_the_same_objects(model: nn.Module) -> None:
    """Modules, parameters, names and hooks are those of before, while it is open and after it is
    closed; classes come back.
    """
    modules, parameters = (
        dict(model.named_modules(remove_duplicate=False)),
        dict(model.named_parameters(remove_duplicate=False)),
    )
    values = {name: p.clone() for name, p in parameters.items()}
    calls: list[str] = []
    model.first.register_forward_hook(lambda *_: calls.append("hook"))
    switch = Switch(model)
    switch.set({"first": NVFP4})
    model.first(torch.ones(1, 64, dtype=torch.bfloat16))
    for close in (lambda: None, switch.close):
        close()
        assert {n: id(m) for n, m in model.named_modules(remove_duplicate=False)} == {
            n: id(m) for n, m in modules.items()
        }
        assert {n: id(p) for n, p in model.named_parameters(remove_duplicate=False)} == {
            n: id(p) for n, p in parameters.items()
        }
        assert all(torch.equal(p, values[n]) for n, p in parameters.items())
    assert calls == ["hook"]
    assert all(type(getattr(model, name)) is nn.Linear for name in (*FREE, "last"))
    assert set(vars(model.first)) == set(vars(nn.Linear(1, 1)))


def test_a_shared_linear_is_one_linear(model: nn.Module, x: Tensor) -> None:
    """A module under two names has its first name, and both calls take its format."""
    with Switch(model) as switch:
        assert list(switch.linears) == ["first", "second", "shared", "last"]
        switch.set({"shared": FP8})
        assert torch.equal(model.again(x), model.shared(x))
        with pytest.raises(FormatError, match="'again' is none of the 4 plain Linears"):
            switch.set({"again": FP8})
    assert type(model.again) is nn.Linear


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"last": NVFP4},
            (
                r"1 Linears are refused by their format, the first is last: N = 8 is not a multiple"
                r" of 16.*leave them in bf16"
            ),
        ),
        ({"secnod": NVFP4}, "'secnod' is none of the 4 plain Linears"),
        ({"secnod": BF16}, "'secnod' is none of the 4 plain Linears"),
    ],
)
def test_a_refused_skip_list_changes_nothing(
    model: nn.Module, x: Tensor, wrong: dict[str, FormatName], message: str
) -> None:
    """A shape that a format does not take, or an unknown FQN, raises, and the formats set before
    stay.
    """
    expected = fresh_output(model, x, {"first": MXFP8})
    with Switch(model) as switch:
        switch.set({"first": MXFP8})
        with pytest.raises(FormatError, match=message):
            switch.set({"second": NVFP4, **wrong})
        assert torch.equal(model(x), expected)


@pytest.mark.parametrize(("fmt", "rows"), [(FP8, slice(3, 4)), (NVFP4, slice(None))])
def test_a_weight_that_quantizes_to_nan_is_refused(
    model: nn.Module, x: Tensor, fmt: FormatName, rows: slice
) -> None:
    """An all-zero row in fp8, an all-zero weight in nvfp4: torchao divides by zero, so the Linear
    is refused and nothing changes.
    """
    model.second.weight[rows] = 0
    plain = model(x)
    with Switch(model) as switch:
        with pytest.raises(
            FormatError,
            match=rf"second cannot be {fmt}: .*all-zero row or tensor; leave this Linear in bf16",
        ):
            switch.set({"first": fmt, "second": fmt})
        assert torch.equal(model(x), plain)
        switch.set({"second": MXFP8})
        assert bool(model(x).isfinite().all())


def test_refusals_lists_what_a_format_does_not_take(model: nn.Module) -> None:
    """Each refused Linear comes with its reason; nothing is changed by asking."""
    with Switch(model) as switch:
        found = switch.refusals({"first": NVFP4, "last": NVFP4, "second": BF16})
        assert list(found) == ["last"]
        assert "N = 8" in found["last"]
    with Switch(FourLinearsOneShared()) as fp32:
        assert "float32" in fp32.refusals({"first": FP8})["first"]


def test_closing_in_an_error_restores_too(model: nn.Module, x: Tensor) -> None:
    """An exception inside the context leaves plain Linears behind; closing twice does no harm."""
    plain = model(x)
    switch = Switch(model)

    def interrupted() -> None:
        with switch:
            switch.set({"first": NVFP4})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert type(model.first) is nn.Linear
    switch.close()
    assert type(model.first) is nn.Linear
    assert torch.equal(model(x), plain)


def test_a_closed_switch_says_so(model: nn.Module) -> None:
    """Formats set after closing would do nothing; it is an error instead of a silent bf16."""
    switch = Switch(model)
    switch.close()
    with pytest.raises(FormatError, match="closed"):
        switch.set({"first": NVFP4})


def test_a_model_can_be_switched_again(model: nn.Module, x: Tensor) -> None:
    """A second switch on a model whose first was closed, or never closed, starts from bf16."""
    expected = fresh_output(model, x, {"first": NVFP4})
    plain = model(x)
    left_open = Switch(model)
    left_open.set({"second": FP8})
    with Switch(model) as switch:
        assert torch.equal(model(x), plain)
        switch.set({"first": NVFP4})
        assert torch.equal(model(x), expected)
    assert torch.equal(model(x), plain)


def test_subclasses_of_linear_stay_bf16() -> None:
    """A Linear of another class may be named in bf16, as a profile names it, and is refused in a
    format: its forward is its own.
    """
    attention = nn.MultiheadAttention(64, 4).bfloat16()
    assert type(attention.out_proj) is not nn.Linear
    kind = type(attention.out_proj)
    with Switch(attention) as switch:
        switch.set({"out_proj": BF16})
        with pytest.raises(FormatError, match=r"out_proj.*NonDynamicallyQuantizableLinear"):
            switch.set({"out_proj": NVFP4})
    assert type(attention.out_proj) is kind


def test_unfit_names_zero_rows_and_subclasses() -> None:
    """Linears that quantize to NaN, and subclasses with a forward of their own, are named with a
    reason before anything is searched.
    """

    class Scaled(nn.Linear):
        """A Linear that does something else."""

    net = nn.ModuleDict(
        {"fine": nn.Linear(32, 32), "zero": nn.Linear(32, 32), "own": Scaled(32, 32)}
    ).bfloat16()
    with torch.no_grad():
        net["zero"].weight[3] = 0
    with Switch(net) as switch:
        unfit = switch.unfit()
    assert set(unfit) == {"zero", "own"}
    assert "row of zeros" in unfit["zero"]
    assert "Scaled" in unfit["own"]


class Block(nn.Module):
    """Two Linears around a nonlinearity, one of three alike."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(64, 128), nn.Linear(128, 64)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.nn.functional.gelu(self.up(x)))


class Stack(nn.Module):
    """Blocks that torch compiles one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def compiled_graphs() -> int:
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


def test_one_compiled_graph_serves_all_skip_lists(x: Tensor) -> None:
    """Blocks that are compiled once compute every skip-list as the eager model does, and no change
    of formats compiles anything again.
    """
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    torch.manual_seed(0)
    stack = Stack().bfloat16().eval().requires_grad_(False)
    fqns = [fqn for fqn, child in stack.named_modules() if isinstance(child, nn.Linear)]
    rng = random.Random(0)
    lists = [{}, *({fqn: rng.choice((BF16, MXFP8, NVFP4, FP8)) for fqn in fqns} for _ in range(6))]
    with torch.no_grad(), Switch(stack) as switch:
        expected = []
        for formats in lists:
            switch.set(formats)
            expected.append(stack(x))
        for block in stack.blocks:
            block.compile(fullgraph=True, backend="aot_eager")
        seen = []
        for formats, wanted in zip(lists, expected, strict=True):
            switch.set(formats)
            assert torch.equal(stack(x), wanted)
            seen.append(compiled_graphs())
    assert len({tuple(out.flatten().tolist()) for out in expected}) == len(lists)
    assert seen == [1] * len(lists)


@pytest.mark.parametrize("room", [0, 64 * 64 * 2 + 8, None])
def test_weights_that_are_not_kept_are_quantized_again(
    model: nn.Module, x: Tensor, room: int | None
) -> None:
    """Whatever room quantized weights have, outputs are the same to the bit."""
    formats = dict.fromkeys(FREE, NVFP4)
    wanted = fresh_output(model, x, formats)
    with Switch(model, weight_cache_bytes=room) as switch:
        for _ in range(2):
            switch.set(formats)
            assert torch.equal(model(x), wanted)


def test_a_weight_of_zeros_is_refused_and_nothing_changes(model: nn.Module, x: Tensor) -> None:
    """A skip-list with a weight that quantizes to NaN is refused as a whole; the one before
    stays."""
    model.second.weight.zero_()
    with Switch(model) as switch:
        switch.set({"first": MXFP8})
        before = model(x)
        with pytest.raises(FormatError, match="second cannot be nvfp4"):
            switch.set({"first": NVFP4, "second": NVFP4})
        assert torch.equal(model(x), before)
