"""Small pipelines that put a template around their prompts, or ask much of a tokenizer."""

from typing import Any

import diffusers
import transformers

from support.toy_parts import Toy, clip, flow, kl, t5

SIZE = {"height": 64, "width": 64}
_TEXT = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 64,
}
_SPECIAL = {
    "image_token_id": 60,
    "video_token_id": 61,
    "vision_start_token_id": 62,
    "vision_end_token_id": 63,
}


def qwen25_vl() -> tuple[str, Any]:
    """Qwen 2.5 VL with a text model of two layers."""
    rope = {"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default"}
    return "Qwen2_5_VLForConditionalGeneration", transformers.Qwen2_5_VLConfig(
        text_config=_TEXT | {"rope_scaling": rope},
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "out_hidden_size": 16,
        },
        **_SPECIAL,
    )


def qwen3_vl(name: str = "Qwen3VLForConditionalGeneration") -> tuple[str, Any]:
    """Qwen 3 VL with a text model of two layers."""
    return name, transformers.Qwen3VLConfig(
        text_config=_TEXT
        | {"head_dim": 8, "rope_scaling": {"mrope_section": [1, 1, 2], "rope_type": "default"}},
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "out_hidden_size": 16,
            "deepstack_visual_indexes": [0],
        },
        **_SPECIAL,
    )


def _qwen_vae() -> Any:
    return diffusers.AutoencoderKLQwenImage(
        base_dim=24,
        z_dim=4,
        dim_mult=[1, 2, 4],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )


def _flux2_vae() -> Any:
    return diffusers.AutoencoderKLFlux2(
        sample_size=32,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=1,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def krea2() -> Toy:
    """Krea 2: a prefix that is dropped, padding, and a suffix that is tokenized alone."""
    transformer = diffusers.Krea2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=32,
        timestep_embed_dim=8,
        text_hidden_dim=16,
        num_text_layers=3,
        text_num_attention_heads=2,
        text_num_key_value_heads=1,
        text_intermediate_size=16,
        num_layerwise_text_blocks=1,
        num_refiner_text_blocks=1,
        axes_dims_rope=(4, 2, 2),
    )
    parts = {
        "transformer": transformer,
        "text_encoder": qwen3_vl("Qwen3VLModel"),
        "vae": _qwen_vae(),
        "scheduler": flow(),
        "text_encoder_select_layers": [0, 1, 2],
    }
    return "Krea2Pipeline", {"tokenizer": "Qwen2Tokenizer"}, parts, SIZE


def longcat() -> Toy:
    """LongCat-Image: words between quotation marks apart, `pad`, pieces cut off at both ends."""
    transformer = diffusers.LongCatImageTransformer2DModel(
        in_channels=64,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        pooled_projection_dim=16,
        axes_dims_rope=[4, 4, 8],
    )
    parts = {
        "transformer": transformer,
        "text_encoder": qwen25_vl(),
        "vae": kl(16),
        "scheduler": flow(),
    }
    tokenizers = {"tokenizer": "Qwen2Tokenizer", "text_processor": "Qwen2VLProcessor"}
    return "LongCatImagePipeline", tokenizers, parts, SIZE | {"enable_prompt_rewrite": False}


def qwen21() -> Toy:
    """Qwen-Image-2.1: a processor says how long the part of the template is that is dropped."""
    transformer = diffusers.QwenImage21Transformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        context_in_dim=16,
        axes_dims_rope=(4, 4, 8),
    )
    vae = diffusers.AutoencoderKLQwenImage21(
        base_dim=8,
        decoder_base_dim=8,
        z_dim=4,
        dim_mult=[1, 1, 1, 1, 1],
        num_res_blocks=1,
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
    parts = {
        "transformer": transformer,
        "text_encoder": qwen3_vl(),
        "vae": vae,
        "scheduler": flow(),
    }
    return "QwenImage21Pipeline", {"processor": "Qwen3VLProcessor"}, parts, SIZE


def kandinsky5() -> Toy:
    """Kandinsky 5: a processor in the tokenizer's place, and CLIP without the template."""
    transformer = diffusers.Kandinsky5Transformer3DModel(
        in_visual_dim=16,
        out_visual_dim=16,
        in_text_dim=16,
        in_text_dim2=32,
        time_dim=16,
        model_dim=16,
        ff_dim=32,
        num_text_blocks=1,
        num_visual_blocks=1,
        axes_dims=(4, 2, 2),
        visual_cond=False,
    )
    parts = {
        "transformer": transformer,
        "text_encoder": qwen25_vl(),
        "text_encoder_2": clip(),
        "vae": kl(16),
        "scheduler": flow(),
    }
    tokenizers = {"tokenizer": "Qwen2VLProcessor", "tokenizer_2": "CLIPTokenizer"}
    return "Kandinsky5T2IPipeline", tokenizers, parts, {"height": 1024, "width": 1024}


def hidream() -> Toy:
    """HiDream: tokens are spread among four experts, two for each."""
    transformer = diffusers.HiDreamImageTransformer2DModel(
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_channels=[32, 16],
        text_emb_dim=64,
        num_routed_experts=4,
        num_activated_experts=2,
        axes_dims_rope=(4, 2, 2),
        max_resolution=(32, 32),
        llama_layers=[0, 1],
    )
    parts = {
        "transformer": transformer,
        "text_encoder": clip("CLIPTextModelWithProjection"),
        "text_encoder_2": clip("CLIPTextModelWithProjection"),
        "text_encoder_3": t5(),
        "text_encoder_4": (
            "LlamaForCausalLM",
            transformers.LlamaConfig(**_TEXT, head_dim=8, bos_token_id=1, eos_token_id=2),
        ),
        "vae": kl(),
        "scheduler": flow(),
    }
    tokenizers = {
        "tokenizer": "CLIPTokenizer",
        "tokenizer_2": "CLIPTokenizer",
        "tokenizer_3": "T5Tokenizer",
        "tokenizer_4": "TokenizersBackend",
    }
    return "HiDreamImagePipeline", tokenizers, parts, SIZE | {"max_sequence_length": 77}


def ovis() -> Toy:
    """Ovis-Image: a chat whose first 28 tokens are dropped."""
    transformer = diffusers.OvisImageTransformer2DModel(
        in_channels=16,
        out_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(4, 4, 8),
    )
    encoder = "Qwen3Model", transformers.Qwen3Config(**_TEXT, head_dim=8)
    parts = {
        "transformer": transformer,
        "text_encoder": encoder,
        "vae": kl(),
        "scheduler": flow(),
    }
    return "OvisImagePipeline", {"tokenizer": "Qwen2TokenizerFast"}, parts, SIZE


def ernie() -> Toy:
    """ERNIE-Image: texts of their own lengths, one after the other."""
    transformer = diffusers.ErnieImageTransformer2DModel(
        hidden_size=32,
        num_attention_heads=2,
        num_layers=1,
        ffn_hidden_size=32,
        in_channels=16,
        out_channels=16,
        text_in_dim=16,
        rope_axes_dim=(4, 4, 8),
    )
    encoder = transformers.Mistral3Config(
        text_config={"model_type": "mistral", "head_dim": 8, **_TEXT},
        vision_config={
            "model_type": "pixtral",
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "head_dim": 8,
        },
        image_token_index=60,
    )
    parts = {
        "transformer": transformer,
        "text_encoder": ("Mistral3Model", encoder),
        "vae": _flux2_vae(),
        "scheduler": flow(),
    }
    settings = SIZE | {"use_pe": False}
    return "ErnieImagePipeline", {"tokenizer": "TokenizersBackend"}, parts, settings
