"""What is a Linear called where it is served? diffusers' names -> the names that vLLM-Omni, SGLang
diffusion and ComfyUI match lists with.

    served_name("vllm-omni", "WanTransformer3DModel", "blocks.3.attn1.to_q")       # "blocks.3.attn1.to_qkv": q, k and v are one Linear there
    served_name("comfyui", "FluxTransformer2DModel", "transformer_blocks.3.ff.net.2")   # "double_blocks.3.img_mlp.2"

These tools do not run diffusers' modules. They have classes of their own under the same names,
which fuse Linears, rename them, build some as plain `nn.Linear` or without a quantization config
(KEPT: no list can quantize those), or give them no name at all (NAMELESS: no list can tell those
apart).

Conventions. A table maps patterns on the name inside the component to run-time names; the first
that matches the whole name counts. In patterns `#` is a block's number, `*` any run of characters,
(a|b) a choice; in targets `\\1` is what the first of these brackets or numbers matched, SAME the
name itself.

Sources. vLLM-Omni 0.30.0: `vllm_omni/diffusion/models/*/*_transformer.py`, as it runs them on one
GPU. SGLang 0.5.23: `sglang/multimodal_gen/runtime/models/dits/*.py`, one GPU (with tensor
parallelism FLUX.1's feed-forwards are quantized, too). ComfyUI: names of the original checkpoints,
which diffusers' `loaders/single_file_utils.py` converts; Qwen-Image's are diffusers' own. A Linear
or class that no table has is unknown, never guessed.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

from sensitivity.consumers.lists import ModelTree
from sensitivity.errors import PatternError

SAME = r"\g<0>"
KEPT = None
NAMELESS = ""

Table = tuple[tuple[str, str | None], ...]

_OMNI_TABLES: dict[str, Table] = {
    "FluxTransformer2DModel": (
        (
            "single_transformer_blocks.#.attn.to_(q|k|v)",
            r"single_transformer_blocks.\1.attn.to_qkv",
        ),
        ("single_transformer_blocks.#.proj_(mlp|out)", SAME),
        ("single_transformer_blocks.#.norm.linear", KEPT),
        ("(transformer_blocks|time_text_embed).*", KEPT),
        ("x_embedder|context_embedder|norm_out.linear|proj_out", KEPT),
    ),
    "Flux2Transformer2DModel": (
        ("transformer_blocks.#.attn.to_(q|k|v)", r"transformer_blocks.\1.attn.to_qkv"),
        ("transformer_blocks.#.attn.add_(q|k|v)_proj", r"transformer_blocks.\1.attn.add_kv_proj"),
        ("transformer_blocks.#.(attn.to_out.0|attn.to_add_out)", SAME),
        ("transformer_blocks.#.(ff|ff_context).linear_(in|out)", SAME),
        ("single_transformer_blocks.#.attn.(to_qkv_mlp_proj|to_out)", SAME),
        (
            "time_guidance_embed.*|*_modulation*.linear|x_embedder|context_embedder|norm_out.linear|proj_out",
            KEPT,
        ),
    ),
    "QwenImageTransformer2DModel": (
        ("transformer_blocks.#.attn.to_(q|k|v)", r"transformer_blocks.\1.attn.to_qkv"),
        ("transformer_blocks.#.attn.add_(q|k|v)_proj", r"transformer_blocks.\1.attn.add_kv_proj"),
        ("transformer_blocks.#.attn.(to_out.0|to_add_out)", SAME),
        ("transformer_blocks.#.(img|txt)_mlp.net.(0.proj|2)", SAME),
        ("transformer_blocks.#.(img|txt)_mod.1", KEPT),
        ("time_text_embed.*|img_in|txt_in|norm_out.linear|proj_out", KEPT),
    ),
    "WanTransformer3DModel": (
        ("blocks.#.attn1.to_(q|k|v)", r"blocks.\1.attn1.to_qkv"),
        ("blocks.#.(attn1|attn2).to_out.0", r"blocks.\1.\2.to_out"),
        ("blocks.#.attn2.(to_q|to_k|to_v|add_k_proj|add_v_proj)", SAME),
        ("blocks.#.ffn.net.0.proj", r"blocks.\1.ffn.net_0.proj"),
        ("blocks.#.ffn.net.2", r"blocks.\1.ffn.net_2"),
        ("condition_embedder.*|proj_out", KEPT),
    ),
    "LTX2VideoTransformer3DModel": (
        ("transformer_blocks.#.attn1.to_(q|k|v)", r"transformer_blocks.\1.attn1.to_qkv"),
        (
            "transformer_blocks.#.(audio_attn1|attn2|audio_attn2|audio_to_video_attn|video_to_audio_attn).to_(q|k|v)",
            SAME,
        ),
        (
            "transformer_blocks.#.(attn1|audio_attn1|attn2|audio_attn2|audio_to_video_attn|video_to_audio_attn).to_out.0",
            SAME,
        ),
        ("transformer_blocks.#.(ff|audio_ff).net.(0.proj|2)", SAME),
        ("transformer_blocks.#.*.to_gate_logits", KEPT),
        (
            "(audio_)?(proj_in|proj_out|caption_projection.*|time_embed.*|prompt_adaln.*)|av_cross_attn_*",
            KEPT,
        ),
    ),
    "ZImageTransformer2DModel": (
        (
            "(noise_refiner|context_refiner|layers).#.attention.to_(q|k|v)",
            r"\1.\2.attention.to_qkv",
        ),
        ("(noise_refiner|context_refiner|layers).#.attention.to_out.0", SAME),
        ("(noise_refiner|context_refiner|layers).#.feed_forward.w(1|3)", r"\1.\2.feed_forward.w13"),
        ("(noise_refiner|context_refiner|layers).#.feed_forward.w2", SAME),
        (
            "*adaLN_modulation.(0|1)|all_x_embedder.*|all_final_layer.*|t_embedder.*|cap_embedder.*",
            KEPT,
        ),
    ),
}

_SGLANG_TABLES: dict[str, Table] = {
    "FluxTransformer2DModel": (
        ("(single_)?transformer_blocks.#.attn.to_(q|k|v)", SAME),
        ("transformer_blocks.#.attn.(add_q_proj|add_k_proj|add_v_proj|to_out.0|to_add_out)", SAME),
        ("single_transformer_blocks.#.proj_(mlp|out)", SAME),
        (
            "transformer_blocks.#.(norm1|norm1_context).linear|single_transformer_blocks.#.norm.linear",
            KEPT,
        ),
        ("transformer_blocks.#.(ff|ff_context).net.(0.proj|2)", KEPT),
        ("time_text_embed.*|x_embedder|context_embedder|norm_out.linear|proj_out", KEPT),
    ),
    "Flux2Transformer2DModel": (
        (
            "transformer_blocks.#.attn.(to_q|to_k|to_v|add_q_proj|add_k_proj|add_v_proj|to_out.0|to_add_out)",
            SAME,
        ),
        ("transformer_blocks.#.(ff|ff_context).linear_(in|out)", SAME),
        ("single_transformer_blocks.#.attn.(to_qkv_mlp_proj|to_out)", SAME),
        ("proj_out", SAME),
        (
            "time_guidance_embed.*|*_modulation*.linear|x_embedder|context_embedder|norm_out.linear",
            KEPT,
        ),
    ),
    "QwenImageTransformer2DModel": (
        (
            "transformer_blocks.#.attn.(to_q|to_k|to_v|add_q_proj|add_k_proj|add_v_proj|to_out.0|to_add_out)",
            SAME,
        ),
        ("transformer_blocks.#.(img|txt)_mlp.net.(0.proj|2)", SAME),
        ("transformer_blocks.#.(img|txt)_mod.1", r"transformer_blocks.\1.\2_mod"),
        ("img_in|txt_in|proj_out", SAME),
        ("time_text_embed.*|norm_out.linear", KEPT),
    ),
    "WanTransformer3DModel": (
        ("blocks.#.attn1.to_(q|k|v)", r"blocks.\1.to_\2"),
        ("blocks.#.attn1.to_out.0", r"blocks.\1.to_out"),
        ("blocks.#.attn2.to_(q|k|v)", SAME),
        ("blocks.#.attn2.to_out.0", r"blocks.\1.attn2.to_out"),
        ("blocks.#.ffn.net.0.proj", r"blocks.\1.ffn.fc_in"),
        ("blocks.#.ffn.net.2", r"blocks.\1.ffn.fc_out"),
        ("proj_out", SAME),
        ("condition_embedder.*", KEPT),
    ),
    "LTX2VideoTransformer3DModel": (
        ("transformer_blocks.#.*", NAMELESS),
        ("(audio_)?(proj_in|proj_out)", NAMELESS),
        ("(audio_)?(caption_projection.*|time_embed.*|prompt_adaln.*)|av_cross_attn_*", KEPT),
    ),
    "ZImageTransformer2DModel": _OMNI_TABLES["ZImageTransformer2DModel"],
}
_SGLANG_TABLES["WanTransformer3DModel with image attention"] = (
    ("blocks.#.attn2.(add_k_proj|add_v_proj)", SAME),
    (
        "blocks.#.attn2.to_(q|k|v)",
        r"to_\2",
    ),  # its class does not hand the block's name on: all blocks share four names
    ("blocks.#.attn2.to_out.0", "to_out"),
    *_SGLANG_TABLES["WanTransformer3DModel"],
)

_COMFYUI_TABLES: dict[str, Table] = {
    "FluxTransformer2DModel": (
        ("transformer_blocks.#.attn.to_(q|k|v)", r"double_blocks.\1.img_attn.qkv"),
        ("transformer_blocks.#.attn.add_(q|k|v)_proj", r"double_blocks.\1.txt_attn.qkv"),
        ("transformer_blocks.#.attn.to_out.0", r"double_blocks.\1.img_attn.proj"),
        ("transformer_blocks.#.attn.to_add_out", r"double_blocks.\1.txt_attn.proj"),
        ("transformer_blocks.#.norm1.linear", r"double_blocks.\1.img_mod.lin"),
        ("transformer_blocks.#.norm1_context.linear", r"double_blocks.\1.txt_mod.lin"),
        ("transformer_blocks.#.ff.net.(0|2)(.proj)?", r"double_blocks.\1.img_mlp.\2"),
        ("transformer_blocks.#.ff_context.net.(0|2)(.proj)?", r"double_blocks.\1.txt_mlp.\2"),
        (
            "single_transformer_blocks.#.(attn.to_q|attn.to_k|attn.to_v|proj_mlp)",
            r"single_blocks.\1.linear1",
        ),
        ("single_transformer_blocks.#.proj_out", r"single_blocks.\1.linear2"),
        ("single_transformer_blocks.#.norm.linear", r"single_blocks.\1.modulation.lin"),
        ("time_text_embed.timestep_embedder.linear_1", "time_in.in_layer"),
        ("time_text_embed.timestep_embedder.linear_2", "time_in.out_layer"),
        ("time_text_embed.guidance_embedder.linear_1", "guidance_in.in_layer"),
        ("time_text_embed.guidance_embedder.linear_2", "guidance_in.out_layer"),
        ("time_text_embed.text_embedder.linear_1", "vector_in.in_layer"),
        ("time_text_embed.text_embedder.linear_2", "vector_in.out_layer"),
        ("x_embedder", "img_in"),
        ("context_embedder", "txt_in"),
        ("norm_out.linear", "final_layer.adaLN_modulation.1"),
        ("proj_out", "final_layer.linear"),
    ),
    "Flux2Transformer2DModel": (
        ("transformer_blocks.#.attn.to_(q|k|v)", r"double_blocks.\1.img_attn.qkv"),
        ("transformer_blocks.#.attn.add_(q|k|v)_proj", r"double_blocks.\1.txt_attn.qkv"),
        ("transformer_blocks.#.attn.to_out.0", r"double_blocks.\1.img_attn.proj"),
        ("transformer_blocks.#.attn.to_add_out", r"double_blocks.\1.txt_attn.proj"),
        ("transformer_blocks.#.ff.linear_in", r"double_blocks.\1.img_mlp.0"),
        ("transformer_blocks.#.ff.linear_out", r"double_blocks.\1.img_mlp.2"),
        ("transformer_blocks.#.ff_context.linear_in", r"double_blocks.\1.txt_mlp.0"),
        ("transformer_blocks.#.ff_context.linear_out", r"double_blocks.\1.txt_mlp.2"),
        ("single_transformer_blocks.#.attn.to_qkv_mlp_proj", r"single_blocks.\1.linear1"),
        ("single_transformer_blocks.#.attn.to_out", r"single_blocks.\1.linear2"),
        ("double_stream_modulation_(img|txt).linear", r"double_stream_modulation_\1.lin"),
        ("single_stream_modulation.linear", "single_stream_modulation.lin"),
        ("time_guidance_embed.timestep_embedder.linear_1", "time_in.in_layer"),
        ("time_guidance_embed.timestep_embedder.linear_2", "time_in.out_layer"),
        ("time_guidance_embed.guidance_embedder.linear_1", "guidance_in.in_layer"),
        ("time_guidance_embed.guidance_embedder.linear_2", "guidance_in.out_layer"),
        ("x_embedder", "img_in"),
        ("context_embedder", "txt_in"),
        ("norm_out.linear", "final_layer.adaLN_modulation.1"),
        ("proj_out", "final_layer.linear"),
    ),
    "QwenImageTransformer2DModel": (
        (
            "transformer_blocks.#.attn.(to_q|to_k|to_v|add_q_proj|add_k_proj|add_v_proj|to_out.0|to_add_out)",
            SAME,
        ),
        ("transformer_blocks.#.(img|txt)_(mod.1|mlp.net.0.proj|mlp.net.2)", SAME),
        (
            "time_text_embed.timestep_embedder.linear_(1|2)|img_in|txt_in|norm_out.linear|proj_out",
            SAME,
        ),
    ),
    "WanTransformer3DModel": (
        ("blocks.#.attn1.to_(q|k|v)", r"blocks.\1.self_attn.\2"),
        ("blocks.#.attn1.to_out.0", r"blocks.\1.self_attn.o"),
        ("blocks.#.attn2.to_(q|k|v)", r"blocks.\1.cross_attn.\2"),
        ("blocks.#.attn2.to_out.0", r"blocks.\1.cross_attn.o"),
        ("blocks.#.attn2.add_(k|v)_proj", r"blocks.\1.cross_attn.\2_img"),
        ("blocks.#.ffn.net.(0|2)(.proj)?", r"blocks.\1.ffn.\2"),
        ("condition_embedder.(time|text)_embedder.linear_1", r"\1_embedding.0"),
        ("condition_embedder.(time|text)_embedder.linear_2", r"\1_embedding.2"),
        ("condition_embedder.time_proj", "time_projection.1"),
        ("condition_embedder.image_embedder.ff.net.0.proj", "img_emb.proj.1"),
        ("condition_embedder.image_embedder.ff.net.2", "img_emb.proj.3"),
        ("proj_out", "head.head"),
    ),
    "LTX2VideoTransformer3DModel": (
        (
            "transformer_blocks.#.(attn1|audio_attn1|attn2|audio_attn2|audio_to_video_attn|video_to_audio_attn).(to_q|to_k|to_v|to_out.0|to_gate_logits)",
            SAME,
        ),
        ("transformer_blocks.#.(ff|audio_ff).net.(0.proj|2)", SAME),
        ("proj_in", "patchify_proj"),
        ("audio_proj_in", "audio_patchify_proj"),
        ("(audio_)?proj_out|(audio_)?caption_projection.linear_(1|2)", SAME),
        ("time_embed.(*)", r"adaln_single.\1"),
        ("audio_time_embed.(*)", r"audio_adaln_single.\1"),
        ("av_cross_attn_(video|audio)_scale_shift.(*)", r"av_ca_\1_scale_shift_adaln_single.\2"),
        ("av_cross_attn_(video|audio)_(a2v|v2a)_gate.(*)", r"av_ca_\2_gate_adaln_single.\3"),
    ),
    "ZImageTransformer2DModel": (
        ("(noise_refiner|context_refiner|layers).#.attention.to_(q|k|v)", r"\1.\2.attention.qkv"),
        ("(noise_refiner|context_refiner|layers).#.attention.to_out.0", r"\1.\2.attention.out"),
        (
            "(noise_refiner|context_refiner|layers).#.(feed_forward.w(1|2|3)|adaLN_modulation.0)",
            SAME,
        ),
        ("t_embedder.mlp.(0|2)|cap_embedder.1", SAME),
        ("all_x_embedder.2-1", "x_embedder"),
        ("all_final_layer.2-1.(*)", r"final_layer.\1"),
    ),
}

TABLES: Mapping[str, Mapping[str, Table]] = MappingProxyType(
    {"vllm-omni": _OMNI_TABLES, "sglang": _SGLANG_TABLES, "comfyui": _COMFYUI_TABLES}
)
"""{consumer: {class of the denoiser: its table}}."""


class _Found(NamedTuple):
    name: str | None


def known_classes(consumer: str) -> tuple[str, ...]:
    """The classes whose names in `consumer` are known."""
    return tuple(name for name in TABLES[consumer] if " " not in name)


def served_name(consumer: str, kind: str, fqn: str) -> str | None:
    """The run-time name of one Linear; KEPT (None) where the consumer never quantizes it, NAMELESS
    ("") where it has none.

    Args:
        consumer: a key of TABLES.
        kind: the denoiser's class in diffusers, or a variant of it that TABLES has.
        fqn: the name inside the component.

    Raises:
        PatternError: no table has the class, or the Linear.
    """
    if found := _look_up(consumer, kind, fqn):
        return found.name
    raise PatternError(
        f"found the Linear {fqn} of {kind}, whose name in {consumer} is not known; allowed are"
        " those of its published models; name one of these"
    )


def served_names(consumer: str, tree: ModelTree) -> dict[str, str | None]:
    """{FQN: run-time name} of every Linear of a model, as `served_name` gives it.

    A Linear that no table has goes by its own name.

    Raises:
        PatternError: no table has the class of a component.
    """
    found = {
        fqn: _look_up(consumer, kind, tree.inside(fqn))
        for fqn, kind in _kinds(consumer, tree).items()
    }
    return {fqn: name.name if name else tree.inside(fqn) for fqn, name in found.items()}


def unknown_linears(consumer: str, tree: ModelTree) -> list[str]:
    """The Linears that the tables of their classes do not have.

    Raises PatternError as `served_names` does.
    """
    return [
        fqn
        for fqn, kind in _kinds(consumer, tree).items()
        if not _look_up(consumer, kind, tree.inside(fqn))
    ]


@lru_cache(maxsize=2**15)
def _look_up(consumer: str, kind: str, fqn: str) -> _Found | None:
    if kind not in TABLES[consumer]:
        raise PatternError(
            f"found a denoiser of {kind or 'no class'}, whose names in {consumer} are not known;"
            f" allowed are {', '.join(known_classes(consumer))}; use a form with diffusers' names"
        )
    for pattern, target in _compiled(consumer, kind):
        if found := pattern.fullmatch(fqn):
            return _Found(None if target is None else found.expand(target))
    return None


def _kinds(consumer: str, tree: ModelTree) -> dict[str, str]:
    """{FQN: the key of its table}: the class of its component, or the variant of it that the
    Linears show.
    """
    images = {tree.component_of(fqn) for fqn in tree.fqns if fqn.endswith(".add_k_proj")}
    kinds = {}
    for fqn in tree.fqns:
        component = tree.component_of(fqn)
        kind = tree.classes.get(component, "")
        variant = f"{kind} with image attention"
        kinds[fqn] = variant if component in images and variant in TABLES[consumer] else kind
    return kinds


@lru_cache(maxsize=64)
def _compiled(consumer: str, kind: str) -> tuple[tuple[re.Pattern[str], str | None], ...]:
    return tuple(
        (re.compile(pattern.replace(".", r"\.").replace("*", ".*").replace("#", r"(\d+)")), target)
        for pattern, target in TABLES[consumer][kind]
    )
