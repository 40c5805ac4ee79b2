"""Small pipelines of many architectures, as folders of config files alone:

`save_toy("wan", folder)`.

Each is built from diffusers' own classes with a few features a layer, so that the same folder runs
with and without weights. Names are the keys of `TOYS`.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import transformers

from sensitivity.spec.study_spec import ModelSection, StudySpec

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


def flux() -> Toy:
    """FLUX.1: double and single blocks, two text encoders."""
    parts = {
        "transformer": diffusers.FluxTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=32,
            guidance_embeds=True,
            axes_dims_rope=(4, 4, 8),
        ),
        "text_encoder": clip(),
        "text_encoder_2": t5(),
        "vae": kl(),
        "scheduler": flow(),
    }
    return (
        "FluxPipeline",
        {"tokenizer": "CLIPTokenizer", "tokenizer_2": "T5TokenizerFast"},
        parts,
        {"height": 64, "width": 64, "max_sequence_length": 32},
    )


def sd3() -> Toy:
    """Stable Diffusion 3: three text encoders, joint attention."""
    parts = {
        "transformer": diffusers.SD3Transformer2DModel(
            sample_size=32,
            patch_size=2,
            in_channels=16,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=4,
            caption_projection_dim=32,
            joint_attention_dim=64,
            pooled_projection_dim=64,
            out_channels=16,
            pos_embed_max_size=32,
        ),
        "text_encoder": clip("CLIPTextModelWithProjection"),
        "text_encoder_2": clip("CLIPTextModelWithProjection"),
        "text_encoder_3": t5(64),
        "vae": kl(16),
        "scheduler": flow(),
    }
    return (
        "StableDiffusion3Pipeline",
        {
            "tokenizer": "CLIPTokenizer",
            "tokenizer_2": "CLIPTokenizer",
            "tokenizer_3": "T5TokenizerFast",
        },
        parts,
        {"height": 128, "width": 128},
    )


def pixart() -> Toy:
    """PixArt-Sigma: cross-attention."""
    parts = {
        "transformer": diffusers.PixArtTransformer2DModel(
            sample_size=16,
            num_layers=2,
            patch_size=2,
            attention_head_dim=8,
            num_attention_heads=4,
            caption_channels=32,
            in_channels=4,
            cross_attention_dim=32,
            out_channels=8,
            use_additional_conditions=False,
        ),
        "text_encoder": t5(),
        "vae": kl(),
        "scheduler": diffusers.DPMSolverMultistepScheduler(),
    }
    return (
        "PixArtSigmaPipeline",
        {"tokenizer": "T5TokenizerFast"},
        parts,
        {"height": 128, "width": 128, "use_resolution_binning": False, "clean_caption": False},
    )


def sdxl() -> Toy:
    """SDXL: a UNet whose projections are Linears."""
    parts = {
        "unet": diffusers.UNet2DConditionModel(
            block_out_channels=(32, 64),
            layers_per_block=1,
            sample_size=32,
            in_channels=4,
            out_channels=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=(2, 4),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            transformer_layers_per_block=(1, 2),
            projection_class_embeddings_input_dim=80,
            cross_attention_dim=64,
            norm_num_groups=8,
        ),
        "text_encoder": clip(),
        "text_encoder_2": clip("CLIPTextModelWithProjection"),
        "vae": kl(),
        "scheduler": diffusers.EulerDiscreteScheduler(),
        "force_zeros_for_empty_prompt": True,
    }
    return (
        "StableDiffusionXLPipeline",
        {"tokenizer": "CLIPTokenizer", "tokenizer_2": "CLIPTokenizer"},
        parts,
        {"height": 64, "width": 64},
    )


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


def sana() -> Toy:
    """Sana: linear attention, Gemma."""
    parts = {
        "transformer": diffusers.SanaTransformer2DModel(
            patch_size=1,
            in_channels=4,
            out_channels=4,
            num_layers=1,
            num_attention_heads=2,
            attention_head_dim=16,
            num_cross_attention_heads=2,
            cross_attention_head_dim=16,
            cross_attention_dim=32,
            caption_channels=8,
            sample_size=32,
        ),
        "text_encoder": gemma(),
        "vae": diffusers.AutoencoderDC(
            in_channels=3,
            latent_channels=4,
            attention_head_dim=2,
            encoder_block_types=("ResBlock", "EfficientViTBlock"),
            decoder_block_types=("ResBlock", "EfficientViTBlock"),
            encoder_block_out_channels=(8, 8),
            decoder_block_out_channels=(8, 8),
            encoder_qkv_multiscales=((), (5,)),
            decoder_qkv_multiscales=((), (5,)),
            encoder_layers_per_block=(1, 1),
            decoder_layers_per_block=[1, 1],
            downsample_block_type="conv",
            upsample_block_type="interpolate",
            decoder_norm_types="rms_norm",
            decoder_act_fns="silu",
            scaling_factor=0.41407,
        ),
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(shift=7.0),
    }
    return (
        "SanaPipeline",
        {"tokenizer": "GemmaTokenizerFast"},
        parts,
        {"height": 128, "width": 128, "use_resolution_binning": False, "clean_caption": False},
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


def lumina2() -> Toy:
    """Lumina 2: text lengths from masks."""
    parts = {
        "transformer": diffusers.Lumina2Transformer2DModel(
            sample_size=4,
            patch_size=2,
            in_channels=4,
            hidden_size=32,
            num_layers=2,
            num_attention_heads=4,
            num_kv_heads=2,
            multiple_of=16,
            ffn_dim_multiplier=None,
            norm_eps=1e-5,
            scaling_factor=1.0,
            axes_dim_rope=[4, 2, 2],
            cap_feat_dim=8,
        ),
        "text_encoder": gemma(),
        "vae": kl(),
        "scheduler": flow(),
    }
    return (
        "Lumina2Pipeline",
        {"tokenizer": "GemmaTokenizerFast"},
        parts,
        {"height": 64, "width": 64},
    )


def zimage() -> Toy:
    """Z-Image: lists of tensors, a chat template."""
    parts = {
        "transformer": diffusers.ZImageTransformer2DModel(
            all_patch_size=(2,),
            all_f_patch_size=(1,),
            in_channels=16,
            dim=96,
            n_layers=2,
            n_refiner_layers=1,
            n_heads=6,
            n_kv_heads=6,
            norm_eps=1e-5,
            qk_norm=True,
            cap_feat_dim=16,
            rope_theta=256.0,
            t_scale=1000.0,
            axes_dims=[8, 4, 4],
            axes_lens=[256, 32, 32],
        ),
        "text_encoder": (
            "Qwen3Model",
            transformers.Qwen3Config(
                hidden_size=16,
                intermediate_size=16,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=2,
                vocab_size=64,
                head_dim=8,
            ),
        ),
        "vae": kl(16),
        "scheduler": flow(),
    }
    return "ZImagePipeline", {"tokenizer": "Qwen2Tokenizer"}, parts, {"height": 64, "width": 64}


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


def flux2() -> Toy:
    """FLUX.2 klein: hidden states of many layers, a chat template."""
    parts = {
        "transformer": diffusers.Flux2Transformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=48,
            timestep_guidance_channels=256,
            axes_dims_rope=[4, 4, 4, 4],
            guidance_embeds=False,
        ),
        "text_encoder": (
            "Qwen3ForCausalLM",
            transformers.Qwen3Config(
                hidden_size=16,
                intermediate_size=16,
                num_hidden_layers=28,
                num_attention_heads=2,
                num_key_value_heads=2,
                vocab_size=64,
                head_dim=8,
            ),
        ),
        "vae": diffusers.AutoencoderKLFlux2(
            sample_size=32,
            in_channels=3,
            out_channels=3,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(8, 8, 8, 8),
            layers_per_block=1,
            latent_channels=4,
            norm_num_groups=1,
            use_quant_conv=False,
            use_post_quant_conv=False,
        ),
        "scheduler": flow(),
        "is_distilled": False,
    }
    return "Flux2KleinPipeline", {"tokenizer": "Qwen2Tokenizer"}, parts, {"height": 64, "width": 64}


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


def qwen() -> Toy:
    """QwenImage: text lengths from masks, two forwards a step."""
    parts = {
        "transformer": diffusers.QwenImageTransformer2DModel(
            patch_size=2,
            in_channels=16,
            out_channels=4,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=4,
            joint_attention_dim=16,
            guidance_embeds=False,
            axes_dims_rope=(8, 4, 4),
        ),
        "text_encoder": (
            "Qwen2_5_VLForConditionalGeneration",
            transformers.Qwen2_5_VLConfig(
                text_config={
                    "hidden_size": 16,
                    "intermediate_size": 16,
                    "num_hidden_layers": 2,
                    "num_attention_heads": 2,
                    "num_key_value_heads": 2,
                    "rope_scaling": {
                        "mrope_section": [1, 1, 2],
                        "rope_type": "default",
                        "type": "default",
                    },
                    "vocab_size": 64,
                },
                vision_config={
                    "depth": 2,
                    "hidden_size": 16,
                    "intermediate_size": 16,
                    "num_heads": 2,
                    "out_hidden_size": 16,
                },
                image_token_id=60,
                video_token_id=61,
                vision_start_token_id=62,
                vision_end_token_id=63,
            ),
        ),
        "vae": diffusers.AutoencoderKLQwenImage(
            base_dim=24,
            z_dim=4,
            dim_mult=[1, 2, 4],
            num_res_blocks=1,
            temperal_downsample=[False, True],
            latents_mean=[0.0] * 4,
            latents_std=[1.0] * 4,
        ),
        "scheduler": flow(),
    }
    return (
        "QwenImagePipeline",
        {"tokenizer": "Qwen2Tokenizer"},
        parts,
        {"height": 64, "width": 64, "negative_prompt": " "},
    )


def chroma() -> Toy:
    """Chroma: attention masks from text lengths."""
    parts = {
        "transformer": diffusers.ChromaTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            axes_dims_rope=[4, 4, 8],
            approximator_num_channels=16,
            approximator_hidden_dim=32,
            approximator_layers=1,
        ),
        "text_encoder": t5(),
        "vae": kl(),
        "scheduler": flow(),
    }
    return "ChromaPipeline", {"tokenizer": "T5TokenizerFast"}, parts, {"height": 64, "width": 64}


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


def auraflow() -> Toy:
    """AuraFlow."""
    parts = {
        "transformer": diffusers.AuraFlowTransformer2DModel(
            sample_size=32,
            patch_size=2,
            in_channels=4,
            num_mmdit_layers=1,
            num_single_dit_layers=1,
            attention_head_dim=8,
            num_attention_heads=4,
            caption_projection_dim=32,
            joint_attention_dim=32,
            out_channels=4,
            pos_embed_max_size=256,
        ),
        "text_encoder": umt5(),
        "vae": kl(),
        "scheduler": flow(),
    }
    return (
        "AuraFlowPipeline",
        {"tokenizer": "LlamaTokenizerFast"},
        parts,
        {"height": 64, "width": 64},
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


TOYS: dict[str, Callable[[], Toy]] = {
    toy.__name__: toy
    for toy in (
        flux,
        sd3,
        pixart,
        sdxl,
        wan,
        sana,
        cogvideox,
        lumina2,
        zimage,
        hunyuan,
        flux2,
        mochi,
        qwen,
        chroma,
        ltx,
        auraflow,
        latte,
        allegro,
    )
}


def save_toy(name: str, folder: Path, steps: int = 3) -> StudySpec:
    """Write the config files of a toy without weights, and make a study of it."""
    pipeline, tokenizers, parts, settings = TOYS[name]()
    index: dict[str, Any] = {"_class_name": pipeline, "_diffusers_version": diffusers.__version__}
    for part, value in parts.items():
        if isinstance(value, bool):
            index[part] = value
        elif isinstance(value, tuple):
            index[part] = ["transformers", value[0]]
            value[1].save_pretrained(folder / part)
        else:
            index[part] = ["diffusers", type(value).__name__]
            value.save_config(folder / part)
    index |= {part: ["transformers", value] for part, value in tokenizers.items()}
    (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    component = "unet" if "unet" in parts else "transformer"
    model = ModelSection(path=folder, component=component, vae_tiling=name == "allegro")
    return StudySpec(name=name, model=model, settings={"num_inference_steps": steps, **settings})
