"""Run-time names: ours against those of the consumers' own classes, and diffusers' conversions.

`converted` gives diffusers' own conversion functions an original state dict in which each weight is
filled with its own number, and so sees where every Linear of the diffusers model comes from. The
lists of original names are those of the published checkpoints.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from diffusers.loaders import single_file_utils

from sensitivity.consumers.served_names import (
    CONSUMERS,
    name_tables,
    served_name,
    served_names,
    unknown_linears,
)
from sensitivity.errors import PatternError

from support.served import groups, linears_of, models_of, tree


@pytest.mark.parametrize("consumer", CONSUMERS)
def test_a_linear_has_one_row_in_a_table(consumer: str) -> None:
    """Patterns of one class do not overlap, so the order of a table's fields does not matter."""
    for kind, config, _ in models_of(consumer):
        for fqn in linears_of(kind, **config):
            rows = name_tables(consumer)[kind].rows()
            if kind == "WanTransformer3DModel" and "image_dim" in config:
                variant = f"{kind} with image attention"
                rows = name_tables(consumer).get(variant, name_tables(consumer)[kind]).rows()
            assert len([target for pattern, target in rows if pattern.fullmatch(fqn)]) == 1, fqn


def test_unknown_names_are_not_guessed() -> None:
    """A Linear or a class that no table has is reported."""
    assert unknown_linears("sglang", tree("WanTransformer3DModel", ["proj_out", "new"])) == ["new"]
    with pytest.raises(PatternError, match=r"found the Linear new of WanTransformer3DModel"):
        served_name("comfyui", "WanTransformer3DModel", "new")
    with pytest.raises(PatternError, match=r"found a denoiser of no class.*expected one of Flux"):
        served_names("vllm-omni", tree("", ["proj_out"]))


@pytest.mark.parametrize(
    ("consumer", "kind", "config", "rows"),
    [(consumer, *model) for consumer in ("vllm-omni", "sglang") for model in models_of(consumer)],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_servers_names_are_those_of_their_classes(
    consumer: str, kind: str, config: dict[str, Any], rows: list[Any]
) -> None:
    """Every Linear that a server's class can quantize comes out of ours with the name and the size
    that it has there, and no other does.
    """
    shapes = linears_of(kind, **config)
    summed: dict[tuple[str, int], int] = {}
    for name, k, n in rows:  # Linears of one name are rows of their own there; ours are added up
        summed[name, k] = summed.get((name, k), 0) + n
    assert groups(served_names(consumer, tree(kind, shapes)), shapes) == sorted(
        [name, k, n] for (name, k), n in summed.items()
    )


@pytest.mark.parametrize(
    ("kind", "config", "rows"),
    models_of("comfyui"),
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_comfyuis_names_are_those_of_its_classes(
    kind: str, config: dict[str, Any], rows: list[Any]
) -> None:
    """Every Linear of ComfyUI's own class comes out of ours with its name and size."""
    shapes = linears_of(kind, **config)
    assert groups(served_names("comfyui", tree(kind, shapes)), shapes) == sorted(rows)


WAN = {"image_dim": 28, "added_kv_proj_dim": 32}


def spread(*patterns: str) -> Iterator[str]:
    """`a.{b,c}.d` as names."""
    for pattern in patterns:
        parts = [part.split("}") for part in pattern.split("{")]
        choices = [part[0].split(",") for part in parts[1:]]
        for chosen in itertools.product(*choices):
            yield parts[0][0] + "".join(
                choice + part[1] for choice, part in zip(chosen, parts[1:], strict=True)
            )


FLUX = (
    "{img_in,txt_in}",
    "{time_in,vector_in,guidance_in}.{in,out}_layer",
    "double_blocks.0.{img,txt}_mod.lin",
    "double_blocks.0.{img,txt}_attn.{qkv,proj}",
    "double_blocks.0.{img,txt}_mlp.{0,2}",
    "single_blocks.0.{linear1,linear2}",
    "single_blocks.0.modulation.lin",
    "final_layer.{linear,adaLN_modulation.1}",
)


FLUX2 = (
    "{img_in,txt_in}",
    "{time_in,guidance_in}.{in,out}_layer",
    "double_stream_modulation_{img,txt}.lin",
    "single_stream_modulation.lin",
    "double_blocks.0.{img,txt}_attn.{qkv,proj}",
    "double_blocks.0.{img,txt}_mlp.{0,2}",
    "single_blocks.0.{linear1,linear2}",
    "final_layer.{linear,adaLN_modulation.1}",
)


WAN_NAMES = (
    "{text,time}_embedding.{0,2}",
    "time_projection.1",
    "blocks.0.{self,cross}_attn.{q,k,v,o}",
    "blocks.0.cross_attn.{k,v}_img",
    "blocks.0.ffn.{0,2}",
    "head.head",
    "img_emb.proj.{1,3}",
)


LTX2 = (
    "{,audio_}{patchify_proj,proj_out}",
    "{,audio_}caption_projection.linear_{1,2}",
    "{,audio_}adaln_single.{emb.timestep_embedder.linear_1,emb.timestep_embedder.linear_2,linear}",
    "av_ca_{video_scale_shift,audio_scale_shift,a2v_gate,v2a_gate}_adaln_single."
    "{emb.timestep_embedder.linear_1,emb.timestep_embedder.linear_2,linear}",
    "transformer_blocks.0."
    "{attn1,audio_attn1,attn2,audio_attn2,audio_to_video_attn,video_to_audio_attn}."
    "{to_q,to_k,to_v,to_out.0}",
    "transformer_blocks.0.{,audio_}ff.net.{0.proj,2}",
)


Z_IMAGE = (
    "x_embedder",
    "final_layer.{linear,adaLN_modulation.1}",
    "t_embedder.mlp.{0,2}",
    "cap_embedder.1",
    "{noise_refiner,context_refiner,layers}.0.attention.{qkv,out}",
    "{noise_refiner,context_refiner,layers}.0.feed_forward.w{1,2,3}",
    "{noise_refiner,layers}.0.adaLN_modulation.0",
)


CONVERTED = [
    ("FluxTransformer2DModel", {}, "convert_flux_transformer_checkpoint_to_diffusers", FLUX),
    ("Flux2Transformer2DModel", {}, "convert_flux2_transformer_checkpoint_to_diffusers", FLUX2),
    ("WanTransformer3DModel", WAN, "convert_wan_transformer_to_diffusers", WAN_NAMES),
    ("LTX2VideoTransformer3DModel", {}, "convert_ltx2_transformer_to_diffusers", LTX2),
    (
        "ZImageTransformer2DModel",
        {},
        "convert_z_image_transformer_checkpoint_to_diffusers",
        Z_IMAGE,
    ),
]


def converted(function: str, names: list[str]) -> dict[str, str]:
    """{diffusers' Linear: original one}, as diffusers converts weights that are filled with the
    place of their name.
    """
    state = {}
    for place, name in enumerate(names):
        rows = (
            7 * 3072 if name.endswith("linear1") else 6
        )  # FLUX's conversion cuts linear1 at 3072 a part
        state |= {
            f"{name}.weight": torch.full((rows, 1), float(place)),
            f"{name}.bias": torch.full((rows,), float(place)),
        }
    for block, stream in (
        ("double_blocks.0.img_attn", ""),
        ("double_blocks.0.txt_attn", ""),
        ("single_blocks.0", ""),
    ):
        state |= {
            f"{block}.norm.{part}_norm.scale{stream}": torch.ones(1)
            for part in ("query", "key")
            if any(name.startswith(block) for name in names)
        }
    found = {}
    for key, value in getattr(single_file_utils, function)(dict(state)).items():
        if key.endswith(".weight") and value.ndim == 2:
            (place,) = value.unique().tolist()
            found[key.removesuffix(".weight")] = names[int(place)]
    return found


@pytest.mark.parametrize(
    ("kind", "config", "function", "names"), CONVERTED, ids=[row[0] for row in CONVERTED]
)
def test_names_are_those_that_diffusers_converts(
    kind: str, config: dict[str, Any], function: str, names: tuple[str, ...]
) -> None:
    """Every Linear of the diffusers model has the original name that its weight comes from."""
    fqns = linears_of(kind, **config)
    assert served_names("comfyui", tree(kind, fqns)) == converted(function, list(spread(*names)))
