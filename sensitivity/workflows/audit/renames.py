"""What was a module called in the checkpoint that diffusers converted? `renamed_to`.

    renamed_to("adaln_single", tree)         # (("time_embed",), "its conversion of ...")

The names come from diffusers 0.42.1, `loaders/single_file_utils.py`:
`convert_ltx_transformer_checkpoint_to_diffusers`, `convert_ltx2_transformer_to_diffusers`,
`convert_flux_transformer_checkpoint_to_diffusers`,
`convert_flux2_transformer_checkpoint_to_diffusers` and `convert_wan_transformer_to_diffusers`. Only
modules that hold Linears are listed. They are hints for people; nothing is matched by them.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType

from sensitivity.consumers.lists import ModelTree
from sensitivity.consumers.served_names import known_classes

_LTX = {"patchify_proj": "proj_in", "adaln_single": "time_embed"}
_LTX2 = {
    **_LTX,
    "audio_patchify_proj": "audio_proj_in",
    "audio_adaln_single": "audio_time_embed",
    "av_ca_video_scale_shift_adaln_single": "av_cross_attn_video_scale_shift",
    "av_ca_audio_scale_shift_adaln_single": "av_cross_attn_audio_scale_shift",
    "av_ca_a2v_gate_adaln_single": "av_cross_attn_video_a2v_gate",
    "av_ca_v2a_gate_adaln_single": "av_cross_attn_audio_v2a_gate",
}
_FLUX_ENDS = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "final_layer.linear": "proj_out",
    "final_layer.adaLN_modulation": "norm_out.linear",
    "double_blocks": "transformer_blocks",
    "single_blocks": "single_transformer_blocks",
    "txt_mlp": "ff_context",
    "img_mlp": "ff",
    "img_attn": "attn",
    "txt_attn": "attn",
    "linear2": "proj_out",
}
_FLUX = {
    **_FLUX_ENDS,
    "time_in": "time_text_embed.timestep_embedder",
    "vector_in": "time_text_embed.text_embedder",
    "guidance_in": "time_text_embed.guidance_embedder",
    "img_mod": "norm1",
    "txt_mod": "norm1_context",
    "modulation": "norm",
    "linear1": "proj_mlp",
}
_FLUX2 = {
    **_FLUX_ENDS,
    "time_in": "time_guidance_embed.timestep_embedder",
    "guidance_in": "time_guidance_embed.guidance_embedder",
    "linear1": "to_qkv_mlp_proj",
}
_WAN = {
    "time_embedding": "condition_embedder.time_embedder",
    "text_embedding": "condition_embedder.text_embedder",
    "time_projection": "condition_embedder.time_proj",
    "self_attn": "attn1",
    "cross_attn": "attn2",
    "head.head": "proj_out",
    "head": "proj_out",
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
}

RENAMES: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "LTXVideoTransformer3DModel": _LTX,
        "LTX2VideoTransformer3DModel": _LTX2,
        "FluxTransformer2DModel": _FLUX,
        "Flux2Transformer2DModel": _FLUX2,
        "WanTransformer3DModel": _WAN,
    }
)
"""{diffusers class: {name in the original checkpoint: name in diffusers}}"""

SOURCE = "its conversion of the original checkpoint"


def renamed_to(
    text: str, tree: ModelTree, *, whole: bool = False
) -> tuple[tuple[str, ...], str] | None:
    """What a text's original name is called in diffusers.

    Args:
        text: it.
        tree: the model.
        whole: whether the text must be the name, and not only have it in it.

    Returns:
        The live names and their source; None if the text has no original name of this model.
    """
    for kind in dict.fromkeys(tree.classes.values()):
        known = RENAMES.get(kind, {})
        for old in sorted(known, key=len, reverse=True):
            if whole and text != old:
                continue
            if re.search(rf"(?<![A-Za-z0-9_]){re.escape(old)}(?![A-Za-z0-9_])", text):
                new = known[old]
                if any(re.search(rf"(?:^|\.){re.escape(new)}(?:\.|$)", fqn) for fqn in tree.fqns):
                    return (new,), SOURCE
    return None


def in_todays_names(text: str, tree: ModelTree) -> tuple[str, ...]:
    """A text with every original name in it replaced by diffusers', for each class of the model.

    Classes whose original names are all known (`consumers.served_names`, "comfyui") are left out:
    their names are looked up, and need no replacing.
    """
    found = []
    for kind in dict.fromkeys(tree.classes.values()):
        known = {} if kind in known_classes("comfyui") else RENAMES.get(kind, {})
        if not known:
            continue
        olds = "|".join(re.escape(old) for old in sorted(known, key=len, reverse=True))
        pattern = rf"(?<![A-Za-z0-9_])(?:{olds})(?![A-Za-z0-9_])"
        today = re.sub(pattern, lambda old, known=known: known[old[0]], text)  # type: ignore[misc]
        if today != text:
            found.append(today)
    return tuple(found)
