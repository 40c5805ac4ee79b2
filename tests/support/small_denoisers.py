"""Denoisers that compile quickly: blocks of two kinds, numbered blocks, and a tiny FLUX."""

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor, nn


class Wide(nn.Module):
    """A block of one kind."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        return x + nn.functional.gelu(self.linear(x))


class Gated(nn.Module):
    """A block of another kind; without a bias it takes another graph."""

    def __init__(self, *, bias: bool = True) -> None:
        super().__init__()
        self.gate, self.linear = nn.Linear(16, 16, bias=bias), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gate(x).sigmoid() * self.linear(x)


class TwoKinds(nn.Module):
    """Two wide and three gated blocks, which diffusers' list names, and a Linear after them."""

    _repeated_blocks = ("Wide", "Gated")

    def __init__(self) -> None:
        super().__init__()
        self.wide_blocks = nn.ModuleList(Wide() for _ in range(2))
        self.gated_blocks = nn.ModuleList(Gated() for _ in range(3))
        self.proj_out = nn.Linear(16, 16)

    def forward(self, hidden_states: Tensor) -> Tensor:
        for block in (*self.wide_blocks, *self.gated_blocks):
            hidden_states = block(hidden_states)
        return self.proj_out(hidden_states)


def two_kinds() -> TwoKinds:
    """A random bf16 `TwoKinds`, the same each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return TwoKinds().bfloat16().eval()


class Numbered(nn.Module):
    """Blocks that only their numbers tell."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8)) for _ in range(2))
        self.head = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def tiny_flux() -> FluxTransformer2DModel:
    """A random bf16 FLUX denoiser of two double and three single blocks."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = FluxTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=2,
            num_single_layers=3,
            attention_head_dim=32,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=32,
            guidance_embeds=True,
            axes_dims_rope=(8, 12, 12),
        )
    return made.bfloat16().eval()


def tiny_flux_inputs(tokens: int = 16) -> dict[str, object]:
    """Keyword arguments of one call of `tiny_flux`: random activations, real ids."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).bfloat16()

    return {
        "hidden_states": normal(1, tokens, 16),
        "encoder_hidden_states": normal(1, 8, 32),
        "pooled_projections": normal(1, 32),
        "timestep": torch.ones(1, dtype=torch.bfloat16),
        "guidance": torch.ones(1, dtype=torch.bfloat16),
        "img_ids": torch.arange(3 * tokens).reshape(tokens, 3).float(),
        "txt_ids": torch.zeros(8, 3),
        "return_dict": False,
    }
