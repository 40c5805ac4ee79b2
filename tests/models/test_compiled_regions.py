"""Regions that are compiled for a while: outside they run eagerly, and coming back compiles nothing
again.
"""

import torch
import torch._dynamo.config
from torch import Tensor, nn

from sensitivity.models.compiled_regions import CompiledRegions, compiled_graphs


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
