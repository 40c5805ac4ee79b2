"""Small pipelines of videos, one of each architecture."""

import diffusers
import transformers

from support.toy_parts import Toy, clip, flow, kl, t5, umt5


def wan() -> Toy:
    """Wan: video, two forwards a step."""
    parts = {
        "transformer": diffusers.WanTransformer3DModel(
            patch_size=(1, 2, 2),
            num_attention_heads=2,
            attention_head_dim=16,
            in_channels=16,
            out_channels=16,
            text_dim=32,
            freq_dim=256,
            ffn_dim=32,
            num_layers=2,
            cross_attn_norm=True,
            qk_norm="rms_norm_across_heads",
            rope_max_seq_len=32,
        ),
        "text_encoder": umt5(),
        "vae": diffusers.AutoencoderKLWan(
            base_dim=3,
            z_dim=16,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            temperal_downsample=[False, True, True],
        ),
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(shift=7.0),
    }
    return (
        "WanPipeline",
        {"tokenizer": "T5TokenizerFast"},
        parts,
        {"height": 64, "width": 64, "num_frames": 9},
    )


def cogvideox() -> Toy:
    """CogVideoX: video, text in the sequence."""
    parts = {
        "transformer": diffusers.CogVideoXTransformer3DModel(
            num_attention_heads=4,
            attention_head_dim=8,
            in_channels=4,
            out_channels=4,
            time_embed_dim=2,
            text_embed_dim=32,
            num_layers=1,
            sample_width=2,
            sample_height=2,
            sample_frames=9,
            patch_size=2,
            temporal_compression_ratio=4,
            max_text_seq_length=16,
        ),
        "text_encoder": t5(),
        "vae": diffusers.AutoencoderKLCogVideoX(
            in_channels=3,
            out_channels=3,
            down_block_types=("CogVideoXDownBlock3D",) * 4,
            up_block_types=("CogVideoXUpBlock3D",) * 4,
            block_out_channels=(8, 8, 8, 8),
            latent_channels=4,
            layers_per_block=1,
            norm_num_groups=2,
            temporal_compression_ratio=4,
        ),
        "scheduler": diffusers.DDIMScheduler(),
    }
    return (
        "CogVideoXPipeline",
        {"tokenizer": "T5TokenizerFast"},
        parts,
        {"height": 16, "width": 16, "num_frames": 9, "max_sequence_length": 16},
    )


def hunyuan() -> Toy:
    """HunyuanVideo: a template whose tokens are dropped."""
    parts = {
        "transformer": diffusers.HunyuanVideoTransformer3DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=16,
            num_layers=1,
            num_single_layers=1,
            num_refiner_layers=1,
            patch_size=1,
            patch_size_t=1,
            guidance_embeds=True,
            text_embed_dim=16,
            pooled_projection_dim=32,
            rope_axes_dim=(4, 6, 6),
        ),
        "text_encoder": (
            "LlamaModel",
            transformers.LlamaConfig(
                hidden_size=16,
                intermediate_size=37,
                max_position_embeddings=512,
                num_attention_heads=4,
                num_hidden_layers=3,
                vocab_size=64,
            ),
        ),
        "text_encoder_2": clip(),
        "vae": diffusers.AutoencoderKLHunyuanVideo(
            in_channels=3,
            out_channels=3,
            latent_channels=4,
            down_block_types=("HunyuanVideoDownBlock3D",) * 4,
            up_block_types=("HunyuanVideoUpBlock3D",) * 4,
            block_out_channels=(8, 8, 8, 8),
            layers_per_block=1,
            act_fn="silu",
            norm_num_groups=4,
            scaling_factor=0.476986,
            spatial_compression_ratio=8,
            temporal_compression_ratio=4,
            mid_block_add_attention=True,
        ),
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(shift=7.0),
    }
    return (
        "HunyuanVideoPipeline",
        {"tokenizer": "LlamaTokenizerFast", "tokenizer_2": "CLIPTokenizer"},
        parts,
        {"height": 64, "width": 64, "num_frames": 9},
    )


def mochi() -> Toy:
    """Mochi: autocast, text lengths from masks."""
    parts = {
        "transformer": diffusers.MochiTransformer3DModel(
            patch_size=2,
            num_attention_heads=6,
            attention_head_dim=16,
            num_layers=2,
            pooled_projection_dim=32,
            in_channels=12,
            out_channels=None,
            qk_norm="rms_norm",
            text_embed_dim=32,
            time_embed_dim=4,
            activation_fn="swiglu",
            max_sequence_length=16,
        ),
        "text_encoder": t5(),
        "vae": diffusers.AutoencoderKLMochi(
            latent_channels=12,
            out_channels=3,
            encoder_block_out_channels=(32, 32, 32, 32),
            decoder_block_out_channels=(32, 32, 32, 32),
            layers_per_block=(1, 1, 1, 1, 1),
        ),
        "scheduler": flow(),
    }
    return (
        "MochiPipeline",
        {"tokenizer": "T5TokenizerFast"},
        parts,
        {"height": 64, "width": 64, "num_frames": 7, "max_sequence_length": 16},
    )


def ltx() -> Toy:
    """LTX-Video."""
    parts = {
        "transformer": diffusers.LTXVideoTransformer3DModel(
            in_channels=8,
            out_channels=8,
            patch_size=1,
            patch_size_t=1,
            num_attention_heads=4,
            attention_head_dim=8,
            cross_attention_dim=32,
            num_layers=1,
            caption_channels=32,
        ),
        "text_encoder": t5(),
        "vae": diffusers.AutoencoderKLLTXVideo(
            in_channels=3,
            out_channels=3,
            latent_channels=8,
            block_out_channels=(8, 8, 8, 8),
            decoder_block_out_channels=(8, 8, 8, 8),
            layers_per_block=(1, 1, 1, 1, 1),
            decoder_layers_per_block=(1, 1, 1, 1, 1),
            spatio_temporal_scaling=(True, True, False, False),
            decoder_spatio_temporal_scaling=(True, True, False, False),
            decoder_inject_noise=(False,) * 5,
            upsample_residual=(False,) * 4,
            upsample_factor=(1,) * 4,
            timestep_conditioning=False,
            patch_size=1,
            patch_size_t=1,
            encoder_causal=True,
            decoder_causal=False,
        ),
        "scheduler": flow(),
    }
    return (
        "LTXPipeline",
        {"tokenizer": "T5TokenizerFast"},
        parts,
        {"height": 64, "width": 64, "num_frames": 9},
    )


def latte() -> Toy:
    """Latte: clips whose length the call names otherwise than others do."""
    parts = {
        "transformer": diffusers.LatteTransformer3DModel(
            sample_size=8,
            num_layers=1,
            patch_size=2,
            attention_head_dim=8,
            num_attention_heads=4,
            caption_channels=32,
            in_channels=4,
            cross_attention_dim=32,
            out_channels=8,
            attention_bias=True,
            activation_fn="gelu-approximate",
            num_embeds_ada_norm=1000,
            norm_type="ada_norm_single",
            norm_elementwise_affine=False,
            norm_eps=1e-6,
        ),
        "text_encoder": t5(),
        "vae": kl(),
        "scheduler": diffusers.DDIMScheduler(),
    }
    return (
        "LattePipeline",
        {"tokenizer": "T5TokenizerFast"},
        parts,
        {"height": 64, "width": 64, "clean_caption": False},
    )


def allegro() -> Toy:
    """Allegro: a VAE that decodes in tiles and no other way."""
    parts = {
        "transformer": diffusers.AllegroTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=48,
            in_channels=4,
            out_channels=4,
            num_layers=1,
            cross_attention_dim=96,
            sample_width=8,
            sample_height=8,
            sample_frames=8,
            caption_channels=32,
        ),
        "text_encoder": t5(),
        "vae": diffusers.AutoencoderKLAllegro(
            in_channels=3,
            out_channels=3,
            down_block_types=("AllegroDownBlock3D",) * 4,
            up_block_types=("AllegroUpBlock3D",) * 4,
            block_out_channels=(8, 8, 8, 8),
            latent_channels=4,
            layers_per_block=1,
            norm_num_groups=2,
            temporal_compression_ratio=4,
        ),
        "scheduler": diffusers.DDIMScheduler(),
    }
    return (
        "AllegroPipeline",
        {"tokenizer": "T5TokenizerFast"},
        parts,
        {
            "height": 64,
            "width": 64,
            "num_frames": 8,
            "max_sequence_length": 16,
            "clean_caption": False,
        },
    )
