"""vLLM-Omni: our rule against vLLM's function, and what is exported for it.

RULE was recorded by calling `is_layer_skipped` of vLLM 0.30.0
(`model_executor/layers/quantization/utils/quant_utils.py`, taken out of the source package), one
entry at a time, with the empty `fused_mapping` that vLLM-Omni 0.30.0 gives it.
"""

import fnmatch
import json
from dataclasses import replace
from typing import Any

import pytest

from sensitivity.consumers.exporters.vllm_omni import VllmOmniExporter
from sensitivity.consumers.named_consumers import exporter_for
from sensitivity.consumers.readers import get_reader, guess_reader
from sensitivity.consumers.rules import hits
from sensitivity.consumers.served_names import served_names
from sensitivity.core.format_name import FormatName
from sensitivity.errors import PatternError, RecipeError

from support.recipes import make_recipe
from support.served import linears_of, recipe_of, tree, two_wans, with_formats

NAMES = (
    "proj_out",
    "single_transformer_blocks.0.proj_out",
    "transformer_blocks.0.attn.to_q",
    "single_transformer_blocks.0.attn.to_q",
    "blocks.1.ffn.net_2",
    "blocks.10.ffn.net_2",
    "layers.0.attention.to_qkv",
)
RULE = {
    "proj_out": ["proj_out"],
    "transformer_blocks.0": [],
    "transformer_blocks.0.attn.to_q": ["transformer_blocks.0.attn.to_q"],
    "blocks.1": [],
    "blocks.1.*": [],
    "*proj_out": [],
    "to_q": [],
    "layers.0.attention.to_qkv": ["layers.0.attention.to_qkv"],
    "layers.0.attention.to_q": [],
}


def test_rule_is_that_of_vllm() -> None:
    """Entries are whole names, letter by letter."""
    listed = get_reader("vllm-omni").read(
        json.dumps({"method": "fp8", "ignored_layers": list(RULE)})
    )
    assert {
        entry.text: sorted(hits(entry.rule, entry.text, NAMES)) for entry in listed.entries
    } == {key: sorted(value) for key, value in RULE.items()}


def test_double_stream_blocks_of_flux_stay_bf16() -> None:
    """vLLM-Omni quantizes FLUX.1's single-stream blocks only: a recipe for more is refused with
    names, and the nearest is not.
    """
    fqns = linears_of("FluxTransformer2DModel")
    recipe = recipe_of(
        "FluxTransformer2DModel", {fqn: "bf16" if "embed" in fqn else "fp8" for fqn in fqns}
    )
    with pytest.raises(
        RecipeError,
        match=(
            r"always runs 17 Linear\(s\) \(transformer_blocks\.0\.norm1\.linear, .*in bf16, which"
            r" the recipe quantizes"
        ),
    ):
        VllmOmniExporter().export(recipe)
    nearest = VllmOmniExporter().nearest(recipe)
    quantized = {fqn for fqn, name in nearest.items() if name is FormatName.FP8}
    assert quantized == {
        f"single_transformer_blocks.0.{part}"
        for part in ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp", "proj_out")
    }
    text = VllmOmniExporter().export(with_formats(recipe, nearest))
    assert json.loads(text) == {
        "method": "fp8",
        "activation_scheme": "dynamic",
        "ignored_layers": [],
    }


def test_fused_linears_take_one_format() -> None:
    """q, k and v that disagree are refused with their names; the nearest has all of them in the
    finest.
    """
    fqns = linears_of("WanTransformer3DModel")
    formats = {fqn: "fp8" if fqn.startswith("blocks.") else "bf16" for fqn in fqns} | {
        "blocks.0.attn1.to_k": "bf16"
    }
    recipe = recipe_of("WanTransformer3DModel", formats)
    with pytest.raises(
        RecipeError,
        match=(
            r"3 Linears one format: blocks\.0\.attn1\.to_q \(fp8\), blocks\.0\.attn1\.to_k \(bf16\)"
        ),
    ):
        VllmOmniExporter().export(recipe)
    nearest = with_formats(recipe, VllmOmniExporter().nearest(recipe))
    assert set(nearest.skip) - {fqn for fqn in fqns if not fqn.startswith("blocks.")} == {
        f"blocks.0.attn1.to_{part}" for part in "qkv"
    }
    assert json.loads(VllmOmniExporter().export(nearest))["ignored_layers"] == [
        "blocks.0.attn1.to_qkv"
    ]  # cross-attention and the rest are quantized


def test_two_denoisers_have_a_list_each() -> None:
    """Wan 2.2's denoisers have Linears of the same names; each part of the config is about one."""
    fqns = [
        f"{component}.{fqn}"
        for component in ("transformer", "transformer_2")
        for fqn in linears_of("WanTransformer3DModel", num_layers=12)
    ]
    quantized = ("transformer.blocks.1.", "transformer_2.blocks.10.")
    recipe = two_wans({fqn: "fp8" if fqn.startswith(quantized) else "bf16" for fqn in fqns})
    value = json.loads(VllmOmniExporter().export(recipe))
    assert list(value) == ["transformer", "transformer_2"]
    for component, block in (("transformer", "1"), ("transformer_2", "10")):
        left = {str(number) for number in range(12)} - {
            name.split(".")[1] for name in value[component]["ignored_layers"]
        }
        assert left == {block}


@pytest.mark.parametrize(
    ("pipeline", "named"), [("Flux2Pipeline", True), ("Flux2KleinPipeline", False)]
)
def test_flux2_names_its_component(pipeline: str, named: bool) -> None:
    """A flat config would quantize FLUX.2 [dev]'s text encoder, too; [klein]'s pipeline knows no
    parts, and its single-stream blocks would be under none.
    """
    kind = "Flux2Transformer2DModel"
    fqns = linears_of(kind)
    quantized = [
        fqn
        for fqn in fqns
        if fqn.startswith("single_transformer_blocks.")
        and fqn.endswith(("to_out", "to_qkv_mlp_proj"))
    ]
    recipe = make_recipe(fqns, quantized, "fp8", component_class=kind, pipeline_class=pipeline)
    text = VllmOmniExporter().export(recipe)
    assert ("method" not in json.loads(text)) is named
    assert not any("klein" in note for note in VllmOmniExporter().notes(recipe, text))
    assert any("klein" in note for note in get_reader("vllm-omni").read(text).notes) is named


SINGLE, DOUBLE = "single_transformer_blocks.0.attn.to_out", "transformer_blocks.0.ff.linear_out"


@pytest.mark.parametrize(
    ("kind", "config", "quantized"),
    [
        ("FluxTransformer2DModel", {"transformer": {"method": "fp8"}}, set()),
        (
            "FluxTransformer2DModel",
            {"single": {"method": "fp8"}, "transformer": None},
            {"single_transformer_blocks.0.proj_mlp"},
        ),
        (
            "FluxTransformer2DModel",
            {"default": {"method": "fp8"}, "vae": None},
            {"single_transformer_blocks.0.proj_mlp"},
        ),
        ("Flux2Transformer2DModel", {"transformer": {"method": "fp8"}}, {SINGLE, DOUBLE}),
        (
            "Flux2Transformer2DModel",
            {"trans": {"method": "fp8", "ignored_layers": [SINGLE]}, "transformer_2": None},
            {DOUBLE},
        ),
        ("Flux2Transformer2DModel", {"default": {"method": "fp8"}, "transformer": None}, set()),
        (
            "WanTransformer3DModel",
            {"transformer": "fp8", "vae": {"method": "fp8"}},
            {"blocks.0.ffn.net.2"},
        ),
        ("WanTransformer3DModel", {"trans": {"method": "fp8"}, "blocks": {"method": "fp8"}}, set()),
        ("ZImageTransformer2DModel", {"transformer": {"method": "fp8"}}, set()),
        (
            "ZImageTransformer2DModel",
            {"layers": {"method": "fp8", "ignored_layers": ["layers.0.feed_forward.w2"]}},
            {"layers.0.attention.to_q"},
        ),
    ],
)
def test_which_part_of_a_config_a_linear_is_under(
    kind: str, config: dict[str, Any], quantized: set[str]
) -> None:
    """Wan's pipeline looks a part up by name, FLUX.2's by its beginning, and elsewhere parts are
    the beginnings of Linears' names; null is bf16.
    """
    asked = {
        "single_transformer_blocks.0.proj_mlp",
        SINGLE,
        DOUBLE,
        "blocks.0.ffn.net.2",
        "layers.0.attention.to_q",
        "layers.0.feed_forward.w2",
    }
    found = (
        get_reader("vllm-omni")
        .read(json.dumps(config))
        .assign(tree(kind, linears_of(kind)), quantized=FormatName.NVFP4)
    )
    assert {fqn for fqn in asked if found.get(fqn) is FormatName.FP8} == quantized


def test_a_modelopt_checkpoint_keeps_exactly_the_bf16_linears() -> None:
    """`ignore` under vLLM's rule for it, written out here: an entry hits what it is a part of, and
    what it matches as a shell pattern. FLUX.2's double blocks are part of the single blocks' names,
    and are hit alone. NVFP4 needs calibration, which a note says.
    """
    kind, exporter = "Flux2Transformer2DModel", VllmOmniExporter(form="checkpoint")
    served = served_names("vllm-omni", tree(kind, linears_of(kind)))
    layers = {fqn: "nvfp4" if name and "single" in name else "bf16" for fqn, name in served.items()}
    text = exporter.export(recipe := recipe_of(kind, layers))
    config = json.loads(text)
    assert (config["quant_method"], config["quant_algo"]) == ("modelopt", "NVFP4")
    assert "[t]ransformer_blocks.0.attn.to_qkv" in config["ignore"]
    quantized = {
        name
        for name in filter(None, served.values())
        if not any(entry in name or fnmatch.fnmatch(name, entry) for entry in config["ignore"])
    }
    assert quantized == {name for name in filter(None, served.values()) if "single" in name}
    assert "calibration" in exporter.notes(recipe, text)[0]
    none = json.loads(exporter.export(recipe_of(kind, dict.fromkeys(layers, "bf16"))))
    assert none["ignore"] == ["*"]
    assert exporter_for("vllm-omni", recipe) == exporter


def test_int8_is_a_method_of_its_own() -> None:
    """The config names it, with the same list as fp8's; a note says how its scale differs."""
    fqns = [f"blocks.{n}.ffn.net.2" for n in (0, 1)]
    recipe = make_recipe(fqns, fqns[:1], "int8", component_class="WanTransformer3DModel")
    text = VllmOmniExporter().export(recipe)
    assert json.loads(text) == {
        "method": "int8",
        "activation_scheme": "dynamic",
        "ignored_layers": ["blocks.1.ffn.net_2"],
    }
    assert "by 127 for int8's scale" in VllmOmniExporter().notes(recipe, text)[0]
    four = make_recipe(fqns, fqns, "nvfp4-4o6", component_class="WanTransformer3DModel")
    exporter = exporter_for("vllm-omni", four)
    assert exporter.form == "checkpoint"
    assert any("four-over-six" in note for note in exporter.notes(four, exporter.export(four)))


@pytest.mark.parametrize(
    ("formats", "kind", "words"),
    [
        (("nvfp4",), "WanTransformer3DModel", "it has no nvfp4"),
        (("mxfp8", "fp8"), "WanTransformer3DModel", "it has no mxfp8"),
        (("int8", "fp8"), "WanTransformer3DModel", r"the recipe has 2 \(fp8, int8\)"),
        (
            ("int8-rot",),
            "WanTransformer3DModel",
            r"it has no int8-rot \(it cannot be told to rotate.*it takes fp8, int8; `Recipe.apply`",
        ),
        (("fp8-a16",), "WanTransformer3DModel", r"it has no fp8-a16 \(it has no weight-only fp8\)"),
        (
            ("fp8",),
            "SD3Transformer2DModel",
            "the names that it gives the Linears of SD3Transformer2DModel are not known here",
        ),
    ],
)
def test_what_it_lacks_is_refused(formats: tuple[str, ...], kind: str, words: str) -> None:
    """A format without kernels there, a class without known names."""
    with pytest.raises(RecipeError, match=words):
        VllmOmniExporter().export(
            make_recipe(
                ["blocks.0.ffn.net.2", "blocks.1.ffn.net.2"],
                ["blocks.0.ffn.net.2", "blocks.1.ffn.net.2"],
                *formats,
                component_class=kind,
            )
        )


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("HiDreamImageTransformer2DModel", "it quantizes no Linear of HiDreamImageTransformer2D"),
        ("LongCatImageTransformer2DModel", "it quantizes no Linear of LongCatImageTransformer2D"),
        ("OvisImageTransformer2DModel", "it quantizes no Linear of OvisImageTransformer2DModel"),
        ("ErnieImageTransformer2DModel", r"it gives 6 Linear\(s\) .* no name, so that no list"),
    ],
)
def test_classes_whose_linears_no_list_can_tell_apart(kind: str, words: str) -> None:
    """Some classes are built without a quantization config, or hand over no names: refused with the
    class, or the Linears.
    """
    fqns = linears_of(kind)
    quantized = [fqn for fqn in fqns if fqn.endswith((".to_out.0", ".to_out"))]
    recipe = make_recipe(fqns, quantized, "fp8", component_class=kind)
    with pytest.raises(RecipeError, match=words):
        VllmOmniExporter().export(recipe)


def test_all_of_ernies_blocks_are_quantized_or_none() -> None:
    """Its Linears have no names: a recipe for all of them works, one for some has none near."""
    kind = "ErnieImageTransformer2DModel"
    fqns = linears_of(kind)
    blocks = [fqn for fqn in fqns if fqn.startswith("layers.")]
    recipe = make_recipe(fqns, blocks, "fp8", component_class=kind)
    assert json.loads(VllmOmniExporter().export(recipe))["ignored_layers"] == []
    with pytest.raises(RecipeError, match="all together or, without a quantization_config"):
        VllmOmniExporter().nearest(make_recipe(fqns, blocks[1:], "fp8", component_class=kind))


def test_an_unknown_linear_is_refused() -> None:
    """A name that no table has is not guessed."""
    with pytest.raises(
        RecipeError, match=r"the names that it gives 1 Linear\(s\) \(blocks\.0\.new\) are not known"
    ):
        VllmOmniExporter().export(
            make_recipe(
                ["blocks.0.new"], ["blocks.0.new"], "fp8", component_class="WanTransformer3DModel"
            )
        )


def test_another_tree_is_refused() -> None:
    """A model with other Linears than the recipe is refused."""
    recipe = make_recipe(
        ["blocks.0.ffn.net.2"],
        ["blocks.0.ffn.net.2"],
        "fp8",
        component_class="WanTransformer3DModel",
    )
    with pytest.raises(RecipeError, match=r"blocks\.1\.ffn\.net\.2 is not in the recipe"):
        VllmOmniExporter().verify(recipe, ["blocks.0.ffn.net.2", "blocks.1.ffn.net.2"])


def test_lists_with_diffusers_names_do_nothing() -> None:
    """`to_q`, `to_k` and `to_v` of a fused Linear, or a block's name, are dead; Linears that are
    never quantized may be listed to be safe.
    """
    names = ["blocks.0.attn1.to_q", "blocks.0", "proj_out", "blocks.0.ffn.net_2"]
    listed = get_reader("vllm-omni").read(json.dumps({"method": "fp8", "ignored_layers": names}))
    model = tree("WanTransformer3DModel", linears_of("WanTransformer3DModel"))
    assert [sorted(listed.hits(entry, model)) for entry in listed.entries] == [
        [],
        [],
        ["proj_out"],
        ["blocks.0.ffn.net.2"],
    ]
    formats = listed.assign(model, quantized=FormatName.NVFP4)
    assert formats["blocks.0.attn1.to_q"] is FormatName.FP8
    assert {
        fqn
        for fqn, name in formats.items()
        if name is FormatName.BF16 and fqn.startswith("blocks.")
    } == {"blocks.0.ffn.net.2"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"method": "magic", "ignored_layers": []}',
        '{"method": "fp8", "ignored_layers": "a"}',
        '{"method": "fp8", "ignored_layers": [1]}',
        '{"method": "fp8", "ignored_layers": [""]}',
        '{"method": 3}',
        '{"transformer": "fp8"}',
        '{"transformer": {"method": "fp8"}, "vae": {"ignored_layers": []}}',
        "{" * 99,
        '{"a": 1, "a": 2}',
    ],
)
def test_other_texts_are_refused(text: str) -> None:
    """A text that is no config is refused; the message says what was found and expected."""
    with pytest.raises(PatternError, match=r"found .*expected"):
        get_reader("vllm-omni").read(text)


@pytest.mark.parametrize(
    ("config", "format"),
    [
        ({"method": "int8", "ignored_layers": []}, "int8"),
        ({"method": "gptq"}, "gptq weight-only"),
        ({"quant_method": "awq", "modules_to_not_convert": ["ffn"]}, "awq weight-only"),
        ({"method": "torchao-float8-weight-only"}, "fp8-a16"),
        ({"method": "fp8", "weight_block_size": [128, 128]}, "fp8 in blocks"),
        ({"method": "svdquant", "rank": 32}, "nvfp4 with a low-rank part (svdquant)"),
        ({"quant_method": "modelopt_fp4", "quant_algo": "NVFP4", "ignore": ["*ffn*"]}, "nvfp4"),
        ({"producer": {}, "quantization": {"quant_algo": "W4A16_NVFP4"}}, "nvfp4-a16"),
        (
            {"quant_algo": "MIXED_PRECISION", "quantized_layers": {"blocks.0.attn1.to_qkv": "FP8"}},
            "fp8",
        ),
    ],
)
def test_methods_have_their_own_formats(config: dict[str, Any], format: str) -> None:
    """A method that is none of our formats is named, and never priced as the format that the user
    names; what its list keeps in bf16 is kept.
    """
    listed = get_reader("vllm-omni").read(json.dumps(config))
    model = tree("WanTransformer3DModel", linears_of("WanTransformer3DModel"))
    formats = listed.assign(model, quantized=FormatName.MXFP8)
    assert formats["blocks.0.attn1.to_q"] == format
    kept = "ffn" in str(config) or "quantized_layers" in config
    assert (formats["blocks.0.ffn.net.2"] == "bf16") == kept


def test_parts_apply_or_are_unknown() -> None:
    """Parts are known by what they apply to and by the pipeline's other components."""
    config = {"transformr": {"method": "fp8"}, "layers": {"method": "fp8"}, "vae": None}
    for kind, others, unknown in (
        ("WanTransformer3DModel", (), ("transformr", "layers", "vae")),
        ("WanTransformer3DModel", ("vae",), ("transformr", "layers")),
        ("ZImageTransformer2DModel", ("vae",), ("transformr",)),
    ):
        listed = get_reader("vllm-omni").read(json.dumps(config))
        model = replace(tree(kind, linears_of(kind)), others=others)
        assert listed.unknown_parts(model) == unknown
        assert listed.without_parts(unknown).unknown_parts(model) == ()


def test_its_form_is_recognised() -> None:
    """A list of this form is recognised, and a class without known names is refused."""
    text = '{"method": "fp8", "ignored_layers": ["a"]}'
    assert guess_reader(text).name == "vllm-omni"
    with pytest.raises(PatternError, match="UNet2DConditionModel"):
        get_reader("vllm-omni").read(text).assign(
            tree("UNet2DConditionModel", ["a"]), quantized=FormatName.FP8
        )
