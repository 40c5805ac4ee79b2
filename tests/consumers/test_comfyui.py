"""ComfyUI: original checkpoint names against diffusers' own conversions and ComfyUI's classes, and
the metadata that is exported.

`converted` gives diffusers' real conversion functions an original state dict in which each weight
is filled with its own number, and so sees where every Linear of the diffusers model comes from. The
lists of original names are those of the published checkpoints.
"""

import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from diffusers.loaders import single_file_utils

from sensitivity.consumers.exporters.comfyui import ComfyuiExporter
from sensitivity.consumers.readers import get_reader, guess_reader
from sensitivity.consumers.served_names import served_names
from sensitivity.core.format_name import FormatName
from sensitivity.errors import PatternError, RecipeError

from support.recipes import make_recipe
from support.served import groups, linears_of, models_of, recipe_of, tree, two_wans, with_formats

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
    "av_ca_{video_scale_shift,audio_scale_shift,a2v_gate,v2a_gate}_adaln_single.{emb.timestep_embedder.linear_1,emb.timestep_embedder.linear_2,linear}",
    "transformer_blocks.0.{attn1,audio_attn1,attn2,audio_attn2,audio_to_video_attn,video_to_audio_attn}.{to_q,to_k,to_v,to_out.0}",
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


@pytest.mark.parametrize(
    ("kind", "config", "rows"),
    models_of("comfyui"),
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_names_are_those_of_its_classes(kind: str, config: dict[str, Any], rows: list[Any]) -> None:
    """Every Linear of ComfyUI's own class comes out of ours with its name and size."""
    shapes = linears_of(kind, **config)
    assert groups(served_names("comfyui", tree(kind, shapes)), shapes) == sorted(rows)


def test_metadata_of_flux() -> None:
    """The list has what is quantized, by original names, each with its format; the top-level
    `proj_out` is `final_layer.linear`.
    """
    fqns = linears_of("FluxTransformer2DModel", num_layers=2, num_single_layers=11)
    quantized = {
        **{
            f"single_transformer_blocks.1.{part}": "nvfp4"
            for part in ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")
        },
        **{f"transformer_blocks.1.attn.add_{part}_proj": "mxfp8" for part in "qkv"},
        "single_transformer_blocks.10.proj_out": "nvfp4",
        "proj_out": "mxfp8",
    }
    text = ComfyuiExporter().export(
        recipe_of("FluxTransformer2DModel", dict.fromkeys(fqns, "bf16") | quantized)
    )
    layers = {
        "single_blocks.1.linear1": {"format": "nvfp4"},
        "double_blocks.1.txt_attn.qkv": {"format": "mxfp8"},
        "single_blocks.10.linear2": {"format": "nvfp4"},
        "final_layer.linear": {"format": "mxfp8"},
    }
    assert json.loads(text) == {
        "_quantization_metadata": {"format_version": "1.0", "layers": layers}
    }


def test_linear1_is_one_matrix() -> None:
    """q, k, v and `proj_mlp` of a single block take one format: others are refused with names, and
    the nearest gives them the finest.
    """
    fqns = [
        f"single_transformer_blocks.0.{part}"
        for part in ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp", "proj_out")
    ]
    recipe = recipe_of("FluxTransformer2DModel", dict.fromkeys(fqns, "nvfp4") | {fqns[3]: "mxfp8"})
    with pytest.raises(
        RecipeError,
        match=(
            r"4 Linears one format: .*to_v \(nvfp4\), single_transformer_blocks\.0\.proj_mlp"
            r" \(mxfp8\)"
        ),
    ):
        ComfyuiExporter().export(recipe)
    nearest = ComfyuiExporter().nearest(recipe)
    assert nearest == {**dict.fromkeys(fqns, FormatName.MXFP8), fqns[4]: FormatName.NVFP4}
    ComfyuiExporter().export(with_formats(recipe, nearest))


def test_row_wise_fp8_is_refused() -> None:
    """ComfyUI's float8_e4m3fn has one scale a tensor; mxfp8 is what comes near."""
    recipe = make_recipe(
        ["blocks.0.ffn.net.2"],
        ["blocks.0.ffn.net.2"],
        "fp8",
        component_class="WanTransformer3DModel",
    )
    with pytest.raises(RecipeError, match="it has no fp8"):
        ComfyuiExporter().export(recipe)
    assert ComfyuiExporter().nearest(recipe) == {"blocks.0.ffn.net.2": FormatName.MXFP8}


def test_two_denoisers_are_two_files() -> None:
    """Wan 2.2's denoisers have a file each, with the same names in it."""
    fqns = [
        "transformer.blocks.1.ffn.net.2",
        "transformer.blocks.10.ffn.net.2",
        "transformer_2.blocks.1.ffn.net.2",
        "transformer_2.blocks.10.ffn.net.2",
    ]
    text = ComfyuiExporter().export(
        two_wans(dict(zip(fqns, ("nvfp4", "bf16", "bf16", "mxfp8"), strict=True)))
    )
    layers = {
        component: list(part["_quantization_metadata"]["layers"])
        for component, part in json.loads(text).items()
    }
    assert layers == {"transformer": ["blocks.1.ffn.2"], "transformer_2": ["blocks.10.ffn.2"]}
    assert guess_reader(text).name == "comfyui"


def test_an_unknown_class_is_refused() -> None:
    """Names are not guessed, and what is known is said; there is no nearest recipe either."""
    recipe = make_recipe(["a"], ["a"], "nvfp4", component_class="SD3Transformer2DModel")
    with pytest.raises(
        RecipeError,
        match=(
            r"SD3Transformer2DModel are not known here \(known are those of .*WanTransformer3DModel"
        ),
    ):
        ComfyuiExporter().export(recipe)
    with pytest.raises(RecipeError, match="use another exporter"):
        ComfyuiExporter().nearest(recipe)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda inner: inner,
        lambda inner: {"_quantization_metadata": inner},
        lambda inner: {"_quantization_metadata": json.dumps(inner)},
    ],
)
def test_metadata_is_read_as_it_is_found(wrap: Any) -> None:
    """Bare, under its key, or as the text that lies in the file; with the whole checkpoint's
    prefix. What is not listed is bf16.
    """
    layers = {
        "model.diffusion_model.single_blocks.0.linear1": {"format": "nvfp4"},
        "double_blocks.0.img_mlp.0": {"format": "float8_e4m3fn"},
        "proj_out": {"format": "mxfp8"},
    }
    listed = get_reader("comfyui").read(
        json.dumps(wrap({"format_version": "1.0", "layers": layers}))
    )
    formats = listed.assign(
        tree("FluxTransformer2DModel", linears_of("FluxTransformer2DModel")),
        quantized=FormatName.NVFP4,
    )
    quantized = {fqn: name for fqn, name in formats.items() if name is not FormatName.BF16}
    linear1 = [
        f"single_transformer_blocks.0.{part}"
        for part in ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")
    ]
    assert quantized == {
        **dict.fromkeys(linear1, FormatName.NVFP4),
        "transformer_blocks.0.ff.net.0.proj": FormatName.FP8,
    }
    assert any("one scale a tensor" in note for note in listed.notes)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"layers": []}',
        '{"layers": {"a": "nvfp4"}}',
        '{"layers": {"a": {"format": "int8_tensorwise"}}}',
        '{"_quantization_metadata": "{"}',
        '{"_quantization_metadata": 3}',
        '{"layers": {"": {"format": "nvfp4"}}}',
        '{"layers": {"a": {"format": ["nvfp4"]}}}',
    ],
)
def test_other_texts_are_refused(text: str) -> None:
    """What is no metadata, or names a format that we lack, is refused with words."""
    with pytest.raises(PatternError, match=r"found .*expected"):
        get_reader("comfyui").read(text)
