"""Small nets whose names contain one another, for consumers that match parts of names."""

from typing import Any

import torch
from torch import nn


class NamesakeNet(nn.Module):
    """`proj_out` at the top and in blocks; blocks 1 and 10, `blocks` inside `single_blocks`;
    `others` are modules that are no Linears, which rules can hit as well.
    """

    def __init__(self, **others: nn.Module) -> None:
        super().__init__()
        for name in ("blocks", "single_blocks"):
            blocks = [
                nn.ModuleDict(
                    {
                        "to_q": nn.Linear(32, 32),
                        "proj_out": nn.Linear(32, 32),
                        "norm": nn.LayerNorm(32),
                    }
                )
                for _ in range(11)
            ]
            setattr(self, name, nn.ModuleList(blocks))
        for name, module in others.items():
            setattr(self, name, module)
        self.proj_out = nn.Linear(32, 32)


def linears(module: nn.Module) -> list[str]:
    """The names of a module's Linears."""
    return [fqn for fqn, child in module.named_modules() if isinstance(child, nn.Linear)]


class SmallNamesakeNet(nn.Module):
    """`proj_out` at the top and in a block; some Linears have a bias."""

    def __init__(self) -> None:
        super().__init__()
        blocks = [
            {"q": nn.Linear(32, 32), "proj_out": nn.Linear(32, 32, bias=False)},
            {"q": nn.Linear(32, 32, bias=False)},
        ]
        self.blocks = nn.ModuleList(map(nn.ModuleDict, blocks))
        self.proj_out = nn.Linear(32, 32)
        self.bfloat16()


def quantized_types(module: nn.Module) -> dict[str, str]:
    """{Linear: the class of its weight} of a module's quantized Linears."""
    weights = {fqn: module.get_submodule(fqn).weight.data for fqn in linears(module)}
    return {
        fqn: type(weight).__name__
        for fqn, weight in weights.items()
        if type(weight) is not torch.Tensor
    }


def mx_config() -> Any:
    """torchao's config of mxfp8."""
    from torchao.prototype.mx_formats import MXDynamicActivationMXWeightConfig

    return MXDynamicActivationMXWeightConfig()
