"""SGLang diffusion: our two rules against its functions, and what is exported for it.

PATH and STAR were recorded by calling, one entry at a time, `is_layer_skipped`
(`sglang/srt/layers/quantization/utils.py`) and `ModelOptQuantConfig.is_layer_excluded`
(`sglang/multimodal_gen/runtime/layers/quantization/modelopt_quant.py`) of SGLang 0.5.23, taken out
of the published wheel.
"""

import json
from typing import Any

import pytest

from sensitivity.consumers.exporters.sglang import SglangExporter
from sensitivity.consumers.readers import get_reader, guess_reader
from sensitivity.consumers.rules import hits
from sensitivity.core.format_name import FormatName
from sensitivity.errors import PatternError, RecipeError

from support.recipes import make_recipe
from support.served import linears_of, recipe_of, tree, two_wans, with_formats

BLOCK = [
    "transformer_blocks.0.attn.to_q",
    "transformer_blocks.0.audio_attn1.to_q",
    "transformer_blocks.0.attn1.to_q",
]
BLOCK_1 = ["blocks.1.ffn.fc_in", "blocks.1.attn2.to_out"]
PROJ_OUTS = ["proj_out", "single_transformer_blocks.0.proj_out"]
TO_QS = [*BLOCK, "single_transformer_blocks.0.attn.to_q"]
NAMES = [
    *BLOCK,
    *BLOCK_1,
    *PROJ_OUTS,
    "single_transformer_blocks.0.attn.to_q",
    "blocks.10.ffn.fc_in",
    "layers.0.attention.to_qkv",
    "",
]
PATH = {
    "proj_out": PROJ_OUTS,
    "transformer_blocks.0": BLOCK,
    BLOCK[0]: BLOCK[:1],
    "blocks.1": BLOCK_1,
    "blocks.1.": BLOCK_1,
    "blocks.1.*": [],
    "blocks.1*": [],
    "blocks.?.ffn.fc_in": [],
    "*proj_out": [],
    "to_q": TO_QS,
    "attn1": BLOCK[2:],
    "layers.0.attention.to_qkv": ["layers.0.attention.to_qkv"],
    "layers.0.attention.to_q": [],
    "*": [],
}
STAR = {
    "proj_out": ["proj_out"],
    "transformer_blocks.0": [],
    BLOCK[0]: BLOCK[:1],
    "blocks.1": [],
    "blocks.1.": [],
    "blocks.1.*": BLOCK_1,
    "blocks.1*": [*BLOCK_1, "blocks.10.ffn.fc_in"],
    "blocks.?.ffn.fc_in": [],
    "blocks.[1].ffn.fc_in": [],
    "*proj_out": PROJ_OUTS,
    "*.to_q": TO_QS,
    "to_q": [],
    "layers.0.attention.to_qkv": ["layers.0.attention.to_qkv"],
    "layers.0.attention.to_q": [],
    "*": NAMES,
}

ARGUMENTS = SglangExporter(form="arguments")


def checkpoint(*ignored: str) -> str:
    """A ModelOpt checkpoint's list."""
    return json.dumps(
        {"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16, "ignore": ignored}
    )


def arguments(*ignored: str) -> str:
    """The server's arguments."""
    return json.dumps({"quantization": "fp8", "quantization_ignored_layers": ignored})


@pytest.mark.parametrize(("write", "rule"), [(checkpoint, STAR), (arguments, PATH)])
def test_rules_are_those_of_sglang(write: Any, rule: dict[str, list[str]]) -> None:
    """`*` globs on whole names for checkpoints, parts between dots for the server's arguments."""
    listed = get_reader("sglang").read(write(*rule))
    assert {
        entry.text: sorted(hits(entry.rule, entry.text, NAMES)) for entry in listed.entries
    } == {key: sorted(value) for key, value in rule.items()}


def test_checkpoint_of_flux() -> None:
    """The list has what stays bf16 of what SGLang can quantize; `transformer_blocks.0` lies inside
    `single_transformer_blocks.0`, and is not it.
    """
    fqns = linears_of("FluxTransformer2DModel", num_layers=2, num_single_layers=2)
    kept = ("transformer_blocks.0.attn", "single_transformer_blocks.1.proj_out")
    recipe = recipe_of(
        "FluxTransformer2DModel",
        {
            fqn: (
                "nvfp4"
                if ("attn." in fqn or ".proj_" in fqn) and not fqn.startswith(kept)
                else "bf16"
            )
            for fqn in fqns
        },
    )
    value = json.loads(SglangExporter().export(recipe))
    assert (value["quant_method"], value["quant_algo"], value["group_size"]) == (
        "modelopt",
        "NVFP4",
        16,
    )
    assert sorted(value["ignore"]) == sorted(fqn for fqn in fqns if fqn.startswith(kept))


def test_arguments_for_wan() -> None:
    """Self-attention loses its module's name there, cross-attention does not."""
    fqns = linears_of("WanTransformer3DModel")
    kept = {
        "blocks.0.attn1.to_q",
        "blocks.0.attn1.to_out.0",
        "blocks.0.ffn.net.0.proj",
        "blocks.0.attn2.to_k",
    }
    recipe = recipe_of(
        "WanTransformer3DModel",
        {fqn: "bf16" if fqn in kept or "embedder" in fqn else "fp8" for fqn in fqns},
    )
    ignored = ["blocks.0.to_q", "blocks.0.to_out", "blocks.0.attn2.to_k", "blocks.0.ffn.fc_in"]
    assert json.loads(ARGUMENTS.export(recipe)) == {
        "quantization": "fp8",
        "quantization_ignored_layers": ignored,
    }


def test_two_denoisers_have_a_list_each() -> None:
    """Linears of Wan 2.2's two denoisers have the same names; each list is about one, and a
    denoiser that is not quantized has none.
    """
    names = linears_of("WanTransformer3DModel", num_layers=12)
    fqns = [f"{component}.{fqn}" for component in ("transformer", "transformer_2") for fqn in names]
    recipe = two_wans(
        {fqn: "fp8" if fqn.startswith("transformer_2.blocks.1.") else "bf16" for fqn in fqns}
    )
    value = json.loads(ARGUMENTS.export(recipe))
    assert value["component_quantizations"] == {"transformer_2": "fp8"}
    assert not [
        name
        for name in value["component_quantization_ignored_layers"]["transformer_2"]
        if name.startswith("blocks.1.")
    ]
    recipe = two_wans(
        {fqn: "nvfp4" if fqn.startswith("transformer_2.blocks.1.") else "bf16" for fqn in fqns}
    )
    parts = json.loads(SglangExporter().export(recipe))
    assert parts["transformer"]["ignore"] == ["*"]
    assert len(parts["transformer_2"]["ignore"]) == 11 * 10 + 1


def test_linears_without_names_take_one_format() -> None:
    """LTX-2's Linears go by no name in SGLang: all of those that it can quantize are, or none."""
    fqns = linears_of("LTX2VideoTransformer3DModel")
    can = {
        fqn
        for fqn in fqns
        if fqn.startswith("transformer_blocks.") or fqn.endswith(("proj_in", "proj_out"))
    }
    recipe = recipe_of(
        "LTX2VideoTransformer3DModel", {fqn: "nvfp4" if fqn in can else "bf16" for fqn in fqns}
    )
    assert json.loads(SglangExporter().export(recipe))["ignore"] == []
    less = with_formats(
        recipe, {**recipe.layers, "transformer_blocks.0.audio_attn1.to_q": FormatName.BF16}
    )
    with pytest.raises(
        RecipeError,
        match=(
            r"gives these 32 Linears one format: proj_in \(nvfp4\),"
            r" transformer_blocks\.0\.audio_attn1\.to_q \(bf16\)"
        ),
    ):
        SglangExporter().export(less)
    assert set(SglangExporter().nearest(less).values()) == {FormatName.BF16}
    listed = get_reader("sglang").read(arguments("transformer_blocks.0.attn1.to_q", "proj_out"))
    assert not any(
        listed.hits(entry, tree("LTX2VideoTransformer3DModel", can)) for entry in listed.entries
    )


def test_z_image_wants_the_parts_of_its_fused_linear() -> None:
    """The server's rule sees `w13` by the names of its parts, that of checkpoints by either; a part
    alone makes SGLang fail.
    """
    fqns = linears_of("ZImageTransformer2DModel")
    model, parts = (
        tree("ZImageTransformer2DModel", fqns),
        {
            "layers.0.feed_forward.w1",
            "layers.0.feed_forward.w3",
        },
    )
    for text, expected in (
        (arguments(*parts), parts),
        (arguments("layers.0.feed_forward.w13"), set()),
        (checkpoint(*parts), parts),
        (checkpoint("*.0.*w13"), parts),
    ):
        formats = get_reader("sglang").read(text).assign(model, quantized=FormatName.BF16)
        assert {fqn for fqn in parts if formats[fqn] is FormatName.BF16} == expected
    for write in (arguments, checkpoint):
        with pytest.raises(
            PatternError,
            match=(
                r"layers\.0\.feed_forward\.w1 and layers\.0\.feed_forward\.w3; sglang runs them as"
                r" one Linear and fails"
            ),
        ):
            get_reader("sglang").read(write("layers.0.feed_forward.w1")).assign(
                model, quantized=FormatName.BF16
            )
    recipe = recipe_of(
        "ZImageTransformer2DModel",
        {fqn: "fp8" if fqn.startswith("layers.0.att") else "bf16" for fqn in fqns},
    )
    assert parts <= set(json.loads(ARGUMENTS.export(recipe))["quantization_ignored_layers"])


def test_names_that_lose_their_block_are_refused() -> None:
    """Cross-attention of Wan's image model is called `to_k` in every block, which the server's rule
    also finds in `blocks.0.to_k`.
    """
    fqns = linears_of("WanTransformer3DModel", image_dim=28, added_kv_proj_dim=32)
    recipe = recipe_of(
        "WanTransformer3DModel",
        {fqn: "bf16" if "embedder" in fqn or fqn.endswith("attn2.to_k") else "fp8" for fqn in fqns},
    )
    with pytest.raises(
        RecipeError,
        match=r"parts of names, would keep 1 Linear\(s\) \(blocks\.0\.attn1\.to_k\) in bf16",
    ):
        ARGUMENTS.export(recipe)
    nearest = ARGUMENTS.nearest(recipe)
    assert {fqn for fqn in fqns if nearest[fqn] is not recipe.layers[fqn]} == {
        "blocks.0.attn1.to_k"
    }
    ARGUMENTS.export(with_formats(recipe, nearest))
    SglangExporter().export(
        with_formats(
            recipe,
            {fqn: "nvfp4" if name == "fp8" else "bf16" for fqn, name in recipe.layers.items()},
        )
    )


@pytest.mark.parametrize(
    ("exporter", "format"),
    [
        (SglangExporter(), "mxfp8"),
        (SglangExporter(), "int8-rot"),
        (SglangExporter(), "nvfp4-a16"),
        (ARGUMENTS, "nvfp4"),
        (ARGUMENTS, "mxfp8"),
        (ARGUMENTS, "int8"),
        (ARGUMENTS, "fp8-lb"),
    ],
)
def test_formats_that_a_form_lacks_are_refused(exporter: SglangExporter, format: str) -> None:
    """nvfp4 is for checkpoints, int8-rot for the server; mxfp8 takes no list there."""
    with pytest.raises(RecipeError, match=f"it has no {format}"):
        exporter.export(
            make_recipe(
                ["blocks.0.ffn.net.2"],
                ["blocks.0.ffn.net.2"],
                format,
                component_class="WanTransformer3DModel",
            )
        )


def test_rotated_int8_is_convrot_int8() -> None:
    """The server's arguments name the method, and read back as int8-rot under either of its names;
    a note says which Linears stay in bf16.
    """
    fqns = [f"blocks.{n}.ffn.net.2" for n in (0, 1)]
    recipe = make_recipe(fqns, fqns[:1], "int8-rot", component_class="WanTransformer3DModel")
    text = ARGUMENTS.export(recipe)
    assert json.loads(text) == {
        "quantization": "convrot_int8",
        "quantization_ignored_layers": ["blocks.1.ffn.fc_out"],
    }
    older = text.replace("convrot_int8", "kitchen_int8")
    assert ARGUMENTS.assign(older, recipe, fqns) == recipe.layers
    assert "groups of 256 and leaves" in ARGUMENTS.notes(recipe, text)[0]


def test_four_over_six_is_a_checkpoints_nvfp4() -> None:
    """The list says NVFP4, beside plain nvfp4 too: the scales are in the weights, says a note."""
    fqns = [f"blocks.{n}.ffn.net.2" for n in (0, 1)]
    recipe = make_recipe(fqns, fqns, "nvfp4-4o6", "nvfp4", component_class="WanTransformer3DModel")
    text = SglangExporter().export(recipe)
    assert json.loads(text)["quant_algo"] == "NVFP4"
    assert any("four-over-six" in note for note in SglangExporter().notes(recipe, text))


def test_hf_quant_config_is_read() -> None:
    """`exclude_modules` in `hf_quant_config.json` is the same list."""
    text = json.dumps(
        {"quantization": {"quant_algo": "NVFP4", "exclude_modules": ["blocks.0.ffn*"]}}
    )
    formats = (
        get_reader("sglang")
        .read(text)
        .assign(
            tree("WanTransformer3DModel", linears_of("WanTransformer3DModel")),
            quantized=FormatName.FP8,
        )
    )
    assert {
        fqn
        for fqn, name in formats.items()
        if name is FormatName.BF16 and fqn.startswith("blocks.")
    } == {
        "blocks.0.ffn.net.0.proj",
        "blocks.0.ffn.net.2",
    }
    assert formats["blocks.0.attn1.to_q"] is FormatName.NVFP4


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"quant_algo": "INT4", "ignore": []}',
        '{"quant_algo": "NVFP4", "ignore": 3}',
        '{"quantization": "mxfp8", "quantization_ignored_layers": []}',
        '{"component_quantization_ignored_layers": {"transformer": ["a"]}}',
        '{"component_quantizations": []}',
        '{"quantization": {"quant_algo": 1}}',
    ],
)
def test_other_texts_are_refused(text: str) -> None:
    """A text that is no list of SGLang's, or that it would refuse, is refused with a message."""
    with pytest.raises(PatternError, match=r"found .*;"):
        get_reader("sglang").read(text)


def test_its_form_is_recognised() -> None:
    """The server's arguments are recognised."""
    assert guess_reader(arguments("a")).name == "sglang"
