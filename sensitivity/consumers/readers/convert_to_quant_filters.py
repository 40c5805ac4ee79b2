"""Which weights do convert_to_quant's presets leave alone? Parts of names that it looks for.

    FILTERS["qwen"]        # of the option that is called so
    ALWAYS                 # where one format is asked for, without `custom_type` and `fallback`

A weight stays as it is if one of these texts stands anywhere in its name.

Source: convert_to_quant 1.3.4, `MODEL_FILTERS` and `AVOID_KEY_NAMES`; those that no denoiser has
whose names are known here are left out (`OTHER_FILTERS`).
"""

from collections.abc import Mapping

ALWAYS = (
    *("norm", "bias", "embed_tokens", "lm_head", "shared", "patch_embedding", "ref_conv"),
    *("control_adapter", "motion_encoder.enc.net_app", "face_encoder.conv", "pose_patch_embedding"),
    *("motion_encoder.enc.fc", "img_emb.proj", "motion_encoder.dec", "head.modulation"),
    *("casual_audio_encoder", "cond_encoder", "frame_packer", "tekken_model"),
    *("multi_modal_projector", "patch_conv", "ln_pre", "mm_input_projection_weight"),
)

_ZIMAGE = (
    *("cap_embedder.0", "cap_pad_token", "attention_norm1", "attention_norm2", "ffn_norm1"),
    *("ffn_norm2", "k_norm", "q_norm", "x_pad_token"),
)

FILTERS: Mapping[str, tuple[str, ...]] = {
    "flux2": (*("stream_modulation", "guidance_in", "time_in", "final_layer", "img_in", "txt_in"),),
    "wan": (
        *ALWAYS,
        *("text_embedding", "time_embedding", "trainable_cond_mask", "time_projection"),
        *("head.head", "face_encoder.out_proj", "face_adapter", "audio_injector"),
    ),
    "qwen": (
        *("norm_added_k", "norm_added_q", "norm_k", "norm_q", "txt_norm", "time_text_embed"),
        *("img_in", "norm_out", "proj_out", "transformer_blocks.0.img_mod.1", "txt_in"),
    ),
    "zimage": (
        *_ZIMAGE,
        *("x_embedder", "clip_text_pooled_proj", "final_layer", "cap_embedder.1"),
        *("adaLN_modulation", "t_embedder", "time_text_embed"),
    ),
    "zimage_refiner": (*_ZIMAGE, "context_refiner", "noise_refiner"),
    "ltxv2": (
        *("scale_shift_table", "text_embedding_projection", "audio_vae", "adaln_single"),
        *("audio_embeddings_connector", "video_embeddings_connector", "patchify_proj"),
        *("proj_out", "vae.decoder", "vae.encoder", "vocoder"),
        *("transformer_blocks.0.", "transformer_blocks.1.", "to_gate_logits"),
        *("transformer_blocks.46.", "transformer_blocks.47."),
    ),
}
"""{option: the parts of names}, shorter where one of them stands in another."""

OTHER_FILTERS = (
    *("gemma4", "qwen_vlm", "qwen35", "t5xxl", "mistral", "visual", "generic_text"),
    *("anima", "lens", "distillation_large", "distillation_small", "nerf_large", "nerf_small"),
    *("radiance", "krea2", "ideogram4", "hunyuan", "minimaxh3", "boogu"),
)
"""Options that leave other models' weights alone; what they look for is not known here."""
