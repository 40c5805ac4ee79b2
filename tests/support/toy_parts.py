"""What small pipelines have in common: text encoders, an image VAE and a scheduler."""

from typing import Any

import diffusers
import transformers

Toy = tuple[str, dict[str, str], dict[str, Any], dict[str, Any]]
"""(pipeline class, {tokenizer: its class}, {component: diffusers object, or (transformers class,
config)}, settings)
"""


def t5(width: int = 32) -> tuple[str, Any]:
    """A T5 encoder of two layers."""
    config = transformers.T5Config(
        d_model=width,
        d_ff=64,
        d_kv=8,
        num_heads=4,
        num_layers=2,
        vocab_size=64,
        feed_forward_proj="gated-gelu",
    )
    return "T5EncoderModel", config


def umt5() -> tuple[str, Any]:
    """A UMT5 encoder of two layers."""
    return "UMT5EncoderModel", transformers.UMT5Config(
        d_model=32, d_ff=64, d_kv=8, num_heads=4, num_layers=2, vocab_size=64
    )


def clip(name: str = "CLIPTextModel") -> tuple[str, Any]:
    """A CLIP text model of two layers."""
    config = transformers.CLIPTextConfig(
        hidden_size=32,
        intermediate_size=64,
        num_attention_heads=4,
        num_hidden_layers=2,
        projection_dim=32,
        vocab_size=64,
        max_position_embeddings=77,
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=1,
    )
    return name, config


def gemma() -> tuple[str, Any]:
    """A Gemma 2 of one layer."""
    config = transformers.Gemma2Config(
        head_dim=4,
        hidden_size=8,
        intermediate_size=16,
        num_attention_heads=2,
        num_hidden_layers=2,
        num_key_value_heads=2,
        vocab_size=64,
    )
    return "Gemma2Model", config


def kl(channels: int = 4) -> Any:
    """An image VAE that shrinks 8 times."""
    return diffusers.AutoencoderKL(
        block_out_channels=(16,) * 4,
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        layers_per_block=1,
        latent_channels=channels,
        norm_num_groups=8,
        sample_size=64,
        shift_factor=0.1,
    )


def flow() -> Any:
    """The scheduler of flow matching."""
    return diffusers.FlowMatchEulerDiscreteScheduler()
