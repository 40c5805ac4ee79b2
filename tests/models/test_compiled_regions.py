"""Regions are compiled inside a context, and run eagerly outside of it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch._dynamo.config
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from sensitivity.core.format_name import CompileMode, FormatName
from sensitivity.errors import UserError
from sensitivity.models.compiled_regions import (
    CompiledRegions,
    check_recompile_limit,
    compile_denoiser,
    compiled_graphs,
    count_block_patterns,
    default_recompile_limit,
    regions_of,
    restore_denoiser,
)
from sensitivity.models.denoisers import joined
from sensitivity.recipes.parts import count_stack_patterns

from support.small_denoisers import Numbered, tiny_flux, tiny_flux_inputs, two_kinds
from support.two_denoisers import MXFP8, NAMES, NVFP4

BF16, FP8 = FormatName.BF16, FormatName.FP8


class Block(nn.Module):
    """Tells whether it runs compiled."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + (1.0 if torch.compiler.is_compiling() else 0.0)


class Blocks(nn.Module):
    """Two of them."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Block()])

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def test_regions_are_compiled_while_open_only() -> None:
    """Outside the context the model is the eager one; inside it is compiled, one graph for alike
    blocks and a shape, and never again.
    """
    torch._dynamo.reset()
    model, x = Blocks().eval().requires_grad_(False), torch.randn(3, 8)
    eager = model(x)
    limit = torch._dynamo.config.recompile_limit
    regions = CompiledRegions(model, backend="eager")
    assert torch.equal(model(x), eager)
    before, counts, seen = compiled_graphs(), [], []
    for _ in range(3):
        with regions:
            seen.append(model(x))
            assert torch._dynamo.config.recompile_limit > limit
        counts.append(compiled_graphs() - before)
        assert torch.equal(model(x), eager)
    assert counts == [1, 1, 1]
    assert not torch.equal(seen[0], eager)
    assert torch.equal(seen[0], seen[2])
    assert torch._dynamo.config.recompile_limit == limit
    with regions:
        model(x[:2])
    assert compiled_graphs() - before == 2  # a new shape is a new graph


def test_blocks_of_both_are_compiled() -> None:
    """Regions are both denoisers' blocks; patterns are counted over both, since a class has one
    limit; denoisers without blocks are compiled whole.
    """
    blocks = {
        name: nn.ModuleDict(
            {"blocks": nn.ModuleList(nn.Sequential(nn.Linear(4, 4)) for _ in range(2))}
        )
        for name in NAMES
    }
    both = joined(blocks)
    described, regions = regions_of(both)
    assert described == "numbered blocks (Sequential)"
    assert list(regions) == [f"{name}.blocks.{i}" for name in NAMES for i in range(2)]
    assert count_block_patterns(both, {}) == {"Sequential": 1}
    assert count_block_patterns(
        both, {"transformer.blocks.0.0": MXFP8, "transformer_2.blocks.1.0": NVFP4}
    ) == {"Sequential": 3}
    whole = {"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)}
    assert regions_of(joined(whole)) == ("the whole Linear", whole)


class Breaking(nn.Module):
    """A Linear and something that torch cannot have in one graph."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.linear(x)
        torch._dynamo.graph_break()
        return x + 1


def test_whole_denoisers_may_break_their_graphs() -> None:
    """As one denoiser without blocks may, each of two may: what it gives is the same, and compiled
    it is inside only.
    """
    whole, x = {"a": Breaking(), "b": Breaking()}, torch.ones(1, 4)
    with torch.no_grad():
        before = [part(x) for part in whole.values()]
        with CompiledRegions(joined(whole), backend="eager"):
            assert all(part._compiled_call_impl is not None for part in whole.values())
            assert all(
                torch.equal(part(x), was) for part, was in zip(whole.values(), before, strict=True)
            )
    assert all(part._compiled_call_impl is None for part in whole.values())


@pytest.mark.parametrize(
    ("mode", "make", "inputs"),
    [
        ("default", two_kinds, {"hidden_states": torch.ones(4, 16, dtype=torch.bfloat16)}),
        ("reduce-overhead", tiny_flux, tiny_flux_inputs()),
    ],
)
def test_compiled_outputs_are_the_eager_ones(
    mode: CompileMode, make: Callable[[], nn.Module], inputs: dict[str, Any]
) -> None:
    """Compiling changes no output, and restoring gives back the eager denoiser."""
    denoiser = make()
    with torch.no_grad():
        eager = denoiser(**inputs)[0]
        graphs = CompileCounter()
        compile_denoiser(denoiser, compile_mode=mode, backend=graphs)
        torch.testing.assert_close(denoiser(**inputs)[0], eager, rtol=0, atol=0)
        made = graphs.frame_count
        assert 2 <= made <= 3  # FLUX's first single block sees other strides
        restore_denoiser(denoiser)
        torch._dynamo.reset()
        torch.testing.assert_close(denoiser(**inputs)[0], eager, rtol=0, atol=0)
        assert graphs.frame_count == made


def test_outputs_of_replayed_graphs_are_copies() -> None:
    """Under "reduce-overhead" what a block returns is no memory that its graph will write again."""
    kept: list[Tensor] = []

    class Keeping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8)) for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            for block in self.blocks:
                x = block(x)
            return x

    def static(graph: torch.fx.GraphModule, _inputs: object) -> Any:
        """A backend that writes every output into the same memory, as a CUDA graph does."""
        memory = torch.zeros(2, 8)
        kept.append(memory)
        return lambda *args: (memory.copy_(graph.forward(*args)[0]),)

    denoiser = Keeping().eval()
    with torch.no_grad():
        eager = denoiser(torch.ones(2, 8))
        compile_denoiser(denoiser, compile_mode="reduce-overhead", backend=static)
        first = denoiser(torch.ones(2, 8))
        denoiser(torch.zeros(2, 8))
    restore_denoiser(denoiser)
    torch.testing.assert_close(first, eager)
    assert all(first.data_ptr() != memory.data_ptr() for memory in kept)


def test_regions_are_named_numbered_or_the_whole() -> None:
    """Blocks that the class names, else those that names number, else the denoiser itself."""
    assert regions_of(Numbered())[0] == "numbered blocks (Sequential)"
    assert list(regions_of(Numbered())[1]) == ["blocks.0", "blocks.1"]
    whole = nn.Sequential(nn.Linear(8, 8))
    assert regions_of(whole) == ("the whole Sequential", {"": whole})
    words, regions = regions_of(tiny_flux())
    assert words == "repeated blocks (FluxTransformerBlock, FluxSingleTransformerBlock)"
    assert len(regions) == 5


def test_block_patterns_are_counted_by_class() -> None:
    """Blocks of a class with the same formats at the same places are one pattern; what is outside
    blocks counts nowhere.
    """
    formats = {
        "transformer_blocks.0.attn.to_q": FP8,
        "single_transformer_blocks.0.proj_mlp": FP8,
        "single_transformer_blocks.1.proj_mlp": NVFP4,
        "single_transformer_blocks.2.proj_mlp": FP8,
        "proj_out": FP8,
        "transformer_blocks.1.attn.to_k": BF16,
    }
    assert count_block_patterns(tiny_flux(), {}) == {
        "FluxTransformerBlock": 1,
        "FluxSingleTransformerBlock": 1,
    }
    assert count_block_patterns(tiny_flux(), formats) == {
        "FluxTransformerBlock": 2,
        "FluxSingleTransformerBlock": 2,
    }


def test_stacks_and_classes_are_counted_apart() -> None:
    """Two stacks of one class are two stacks of one pattern each, and graphs of both patterns for
    the class; a recipe counts the first, the limit the second.
    """
    both = nn.ModuleDict(
        {name: nn.ModuleList([nn.Sequential(nn.Linear(8, 8))]) for name in ("first", "second")}
    )
    formats = {"first.0.0": FP8, "second.0.0": BF16}
    assert count_stack_patterns(formats) == {"first": 1, "second": 1}
    assert count_block_patterns(both, formats) == {"Sequential": 2}


def test_too_many_patterns_are_refused() -> None:
    """The message has the number found, the limit, and the next step; a higher limit passes."""
    with pytest.raises(
        UserError,
        match=(
            r"9 distinct format patterns among the blocks of B; expected at most 8, .*"
            r"`recompile_limit` to 10 .*`granularity` group"
        ),
    ):
        check_recompile_limit({"A": 2, "B": 9}, 8)
    check_recompile_limit({"A": 8}, 8)
    check_recompile_limit({})
    check_recompile_limit({"A": default_recompile_limit()})
