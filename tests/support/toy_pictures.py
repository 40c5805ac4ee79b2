"""Small pipelines of pictures, one of each architecture."""

import diffusers
import transformers

from support.toy_parts import Toy, clip, flow, gemma, kl, t5, umt5


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
