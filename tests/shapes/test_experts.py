"""Routers and expert weights, in toy modules and in diffusers' own."""

import torch
from torch import nn

from sensitivity.shapes.experts import (
    WeightBeside,
    describe_besides,
    routers,
    values_of,
    weights_besides,
)


def expert() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 8))


class Packed(nn.Module):
    """Experts in one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.empty(4, 8, 16))


class Mixture(nn.Module):
    """A gate of some name, beside four experts and gates that choose nothing."""

    def __init__(self, name: str, gate: nn.Module, experts: nn.Module) -> None:
        super().__init__()
        self.add_module(name, gate)
        self.experts = experts
        self.shared_expert = expert()
        self.shared_expert_gate = nn.Linear(8, 1)
        self.gate_proj, self.to_gate_logits = nn.Linear(8, 16), nn.Linear(8, 2)


def test_a_router_is_found_by_what_it_stands_beside() -> None:
    """Whatever its name, it has one output an expert; gates of MLPs are no routers."""
    four = nn.ModuleList(expert() for _ in range(4))
    for name, gate, found in (
        ("gate", nn.Linear(8, 4), "moe.gate"),
        ("wg", nn.Linear(8, 4), "moe.wg"),
        ("expert_gate", nn.Linear(8, 4), "moe.expert_gate"),
        ("choice", nn.Sequential(nn.Linear(8, 4)), "moe.choice.0"),
    ):
        for experts in (four, Packed()):
            assert routers(nn.ModuleDict({"moe": Mixture(name, gate, experts)})) == (found,)
    assert routers(nn.ModuleDict({"ff": nn.ModuleDict({"gate": nn.Linear(8, 4)})})) == ()


def test_diffusers_mixtures() -> None:
    """Nucleus-Image's router is a Linear called `gate` and its experts are 3-D; HiDream's router is
    no Linear; Krea 2's `gate` is half of an MLP.
    """
    from diffusers import (
        HiDreamImageTransformer2DModel,
        Krea2Transformer2DModel,
        NucleusMoEImageTransformer2DModel,
    )

    from support.served import CONFIGS

    with torch.device("meta"):
        nucleus = NucleusMoEImageTransformer2DModel(
            num_layers=5, num_attention_heads=2, attention_head_dim=16, num_experts=8
        )
        hidream = HiDreamImageTransformer2DModel(**CONFIGS["HiDreamImageTransformer2DModel"])
        krea = Krea2Transformer2DModel(**CONFIGS["Krea2Transformer2DModel"])
    assert routers(nucleus) == ("transformer_blocks.3.img_mlp.gate",)
    assert [weight.shape[0] for weight in weights_besides(nucleus)] == [8, 8]
    assert "img_mlp.experts.gate_up_proj" in describe_besides(
        weights_besides(nucleus), values_of(nucleus)
    )
    assert routers(hidream) == routers(krea) == weights_besides(krea) == ()
    assert {weight.name.rpartition("ff_i.")[2] for weight in weights_besides(hidream)} == {
        "gate.weight"
    }


def test_next_to_nothing_is_not_mentioned() -> None:
    """Closed form: 4 x 8 x 16 values of 1,024 are half, 1.02 kB in bf16."""
    weight = WeightBeside(name="experts.up", shape=(4, 8, 16))
    assert "1.02e-06 GB in bf16, 50.0% of" in describe_besides([weight], 1024)
    assert describe_besides([weight], 10**7) == describe_besides([], 5) == ""
