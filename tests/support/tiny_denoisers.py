"""diffusers' denoisers with narrow layers.

FLUX and LTX-2 have eleven blocks, so that blocks 1 and 10 exist.
"""

from torch import nn


def tiny_flux() -> nn.Module:
    """FLUX with eleven blocks of each kind."""
    from diffusers import FluxTransformer2DModel

    return FluxTransformer2DModel(
        patch_size=1,
        in_channels=32,
        num_layers=11,
        num_single_layers=11,
        attention_head_dim=32,
        num_attention_heads=1,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(8, 12, 12),
    )


def tiny_ltx2() -> nn.Module:
    """LTX-2 with eleven blocks: video, audio, and attentions between them."""
    from diffusers import LTX2VideoTransformer3DModel

    return LTX2VideoTransformer3DModel(
        in_channels=32,
        out_channels=32,
        patch_size=1,
        patch_size_t=1,
        num_attention_heads=1,
        attention_head_dim=32,
        cross_attention_dim=32,
        audio_in_channels=32,
        audio_out_channels=32,
        audio_num_attention_heads=1,
        audio_attention_head_dim=32,
        audio_cross_attention_dim=32,
        num_layers=11,
        qk_norm="rms_norm_across_heads",
        caption_channels=32,
        rope_double_precision=False,
        rope_type="split",
    )


def tiny_unet() -> nn.Module:
    """A UNet, whose names have several indices."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=8,
        cross_attention_dim=32,
        transformer_layers_per_block=(1, 2),
        sample_size=8,
        num_class_embeds=4,
    )
