"""ComfyUI: the metadata that is exported, and how it is read."""

import json
from typing import Any

import pytest

from sensitivity.consumers.exporters.comfyui import ComfyuiExporter
from sensitivity.consumers.readers import get_reader, guess_reader
from sensitivity.core.format_name import FormatName
from sensitivity.errors import PatternError, RecipeError

from support.recipes import make_recipe
from support.served import linears_of, recipe_of, tree, two_wans, with_formats


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
    """Names are not guessed: the message has the known classes, and no recipe is near."""
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


INT8 = {"format": "int8_tensorwise"}


@pytest.mark.parametrize(
    ("layer", "format"),
    [
        (INT8, FormatName.INT8),
        ({**INT8, "convrot": False, "convrot_groupsize": 256}, FormatName.INT8),
        ({**INT8, "convrot": True}, FormatName.INT8_ROT),
        ({**INT8, "params": {"convrot": True, "convrot_groupsize": 64}}, FormatName.INT8_ROT),
        ({**INT8, "full_precision_matrix_mult": True}, FormatName.INT8_A16),
        ({"format": "nvfp4", "full_precision_matrix_mult": True}, FormatName.NVFP4_A16),
        ({"format": "mxfp8", "full_precision_matrix_mult": True}, FormatName.MXFP8_A16),
    ],
)
def test_variants_are_ours(layer: dict[str, object], format: FormatName) -> None:
    """INT8 with and without ConvRot, in both of ComfyUI's spellings, and weights alone."""
    text = json.dumps({"layers": {"double_blocks.0.img_mlp.2": layer}})
    listed = get_reader("comfyui").read(text)
    assert [entry.format for entry in listed.entries] == [format]
    assert listed.other_formats == ()
    assert any("with one scale a row" in note for note in listed.notes) == (
        format in (FormatName.INT8, FormatName.INT8_A16)
    )


VARIANTS = {
    "nvfp4-4o6": {"format": "nvfp4"},
    "int8": INT8,
    "int8-rot": {**INT8, "convrot": True, "convrot_groupsize": 256},
    "nvfp4-a16": {"format": "nvfp4", "full_precision_matrix_mult": True},
    "mxfp8-a16": {"format": "mxfp8", "full_precision_matrix_mult": True},
    "int8-a16": {**INT8, "full_precision_matrix_mult": True},
}


def test_variants_are_exported() -> None:
    """Each layer says what ComfyUI's loader looks for; notes say what the tensors must hold."""
    fqns = [f"blocks.{n}.ffn.net.2" for n in range(len(VARIANTS))]
    recipe = make_recipe(fqns, fqns, *VARIANTS, component_class="WanTransformer3DModel")
    text = ComfyuiExporter().export(recipe)
    layers = json.loads(text)["_quantization_metadata"]["layers"]
    assert [layers[f"blocks.{n}.ffn.2"] for n in range(len(VARIANTS))] == [*VARIANTS.values()]
    notes = "\n".join(ComfyuiExporter().notes(recipe, text))
    for words in (
        "four-over-six is in the weights",
        "one scale a row (per_channel)",
        "by 127 for int8's scale",
        "where K is no multiple of 256",
    ):
        assert words in notes


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("fp8-a16", "its float8_e4m3fn has one scale a tensor"),
        ("fp8-lb", "its float8_e4m3fn has one scale a tensor"),
    ],
)
def test_other_variants_are_refused(name: str, why: str) -> None:
    """With the reason, the formats that it takes, and what runs the others."""
    fqn = "blocks.0.ffn.net.2"
    recipe = make_recipe([fqn], [fqn], name, component_class="WanTransformer3DModel")
    with pytest.raises(
        RecipeError, match=rf"it has no {name} \({why}\).*it takes mxfp8, nvfp4, int8,.*`Recipe.app"
    ):
        ComfyuiExporter().export(recipe)


@pytest.mark.parametrize(
    ("layer", "format"),
    [
        ({"format": "nvfp4"}, "nvfp4"),
        ({"format": "nvfp4", "full_precision_matrix_mult": False}, "nvfp4"),
        (
            {"format": "float8_e4m3fn", "full_precision_matrix_mult": True},
            "float8_e4m3fn weight-only",
        ),
        ({"format": "bnb_nf4"}, "bnb_nf4 weight-only"),
        ({**INT8, "convrot": True, "convrot_groupsize": 1024}, "int8_tensorwise, rotated by 1024"),
        (
            {**INT8, "convrot": True, "full_precision_matrix_mult": True},
            "int8_tensorwise weight-only",
        ),
    ],
)
def test_a_product_in_16_bits_is_weight_only(layer: dict[str, object], format: str) -> None:
    """`full_precision_matrix_mult` and weight-only formats are no quantized products."""
    text = json.dumps({"layers": {"double_blocks.0.img_mlp.2": layer}})
    listed = get_reader("comfyui").read(text)
    assert [entry.format for entry in listed.entries] == [format]
    assert bool(listed.other_formats) == (format != "nvfp4")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"layers": []}',
        '{"layers": {"a": "nvfp4"}}',
        '{"layers": {"a": {"format": "nvpf4"}}}',
        '{"_quantization_metadata": "{"}',
        '{"_quantization_metadata": 3}',
        '{"layers": {"": {"format": "nvfp4"}}}',
        '{"layers": {"a": {"format": ["nvfp4"]}}}',
    ],
)
def test_other_texts_are_refused(text: str) -> None:
    """A text that is no metadata, or names a format that we lack, is refused with a message."""
    with pytest.raises(PatternError, match=r"found .*expected"):
        get_reader("comfyui").read(text)
