"""compressed-tensors' lists: our reader and the real library give each Linear the same format, and
exported lists mean exactly the recipe.

The real library runs here (0.20, a development dependency). llm-compressor cannot be installed
beside this torch: its recipes are read by our reader and handed to compressed-tensors as its
`QuantizationModifier` does, group by group. `Recipe.create_instance` of llm-compressor 0.14.0.1 was
run on the exported YAML by hand, and resolves to the same config.
"""

import json
import random
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import yaml
from compressed_tensors.quantization import (
    QuantizationArgs,
    QuantizationConfig,
    QuantizationScheme,
    apply_quantization_config,
    preset_name_to_scheme,
)
from compressed_tensors.quantization.quant_scheme import PRESET_SCHEMES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from sensitivity.consumers import timed_regexes
from sensitivity.consumers.exporters.compressed_tensors import (
    SCHEMES,
    CompressedTensorsExporter,
)
from sensitivity.consumers.exporters.exact_targets import exact_targets
from sensitivity.consumers.lists import ModelTree
from sensitivity.consumers.readers import get_reader, guess_reader
from sensitivity.consumers.readers.compressed_tensors_groups import PRESETS
from sensitivity.core.format_name import FormatName
from sensitivity.errors import PatternError
from sensitivity.recipes.recipe import Recipe

from support.namesakes import NamesakeNet, linears
from support.recipes import make_recipe
from support.tiny_denoisers import tiny_flux, tiny_ltx2, tiny_unet


def with_embedding() -> NamesakeNet:
    """Namesakes and an embedding, which targets can hit as well."""
    return NamesakeNet(embed=nn.Embedding(4, 32))


FQNS = tuple(linears(with_embedding()))

A_ROW = {"num_bits": 8, "symmetric": True, "strategy": "channel", "dynamic": False}
OWN_SCHEMES: dict[str, QuantizationScheme] = {
    "nvfp4": preset_name_to_scheme("NVFP4", []),
    "mxfp8": preset_name_to_scheme("MXFP8", []),
    "fp8": preset_name_to_scheme("FP8_DYNAMIC", []),
    "int8": preset_name_to_scheme("INT8", []),
    "nvfp4-a16": preset_name_to_scheme("NVFP4A16", []),
    "mxfp8-a16": preset_name_to_scheme("MXFP8A16", []),
    "fp8-a16": QuantizationScheme(targets=[], weights=QuantizationArgs(type="float", **A_ROW)),
    "int8-a16": QuantizationScheme(targets=[], weights=QuantizationArgs(type="int", **A_ROW)),
}
"""{our format: the library's own scheme}; a weight-only fp8 or int8 a row has no preset."""


def kind_of(scheme: QuantizationScheme | None) -> FormatName:
    """The format of the scheme that the library gave a module."""
    if scheme is None or (scheme.weights is None and scheme.input_activations is None):
        return FormatName.BF16
    for name, expected in OWN_SCHEMES.items():
        if scheme.model_dump(include={"weights", "input_activations"}) == expected.model_dump(
            include={"weights", "input_activations"}
        ):
            return FormatName(name)
    raise AssertionError(f"no format of ours: {scheme}")


def apply(module: nn.Module, config: dict[str, Any]) -> dict[str, FormatName]:
    """{Linear: format} that the real library gives; no other module may be quantized."""
    apply_quantization_config(module, QuantizationConfig(**config), show_progress=False)
    found = {
        fqn: getattr(child, "quantization_scheme", None) for fqn, child in module.named_modules()
    }
    assert not [
        fqn
        for fqn, scheme in found.items()
        if scheme and fqn not in linears(module) and fqn != "embed"
    ]
    return {fqn: kind_of(found[fqn]) for fqn in linears(module)}


def read(value: Any, fqns: tuple[str, ...] = FQNS) -> dict[str, FormatName]:
    """{Linear: format} that our reader gives for a text, or for a value as JSON."""
    text = value if isinstance(value, str) else json.dumps(value)
    return (
        get_reader("compressed-tensors")
        .read(text)
        .assign(ModelTree(fqns=fqns), quantized=FormatName.BF16)
    )


GROUPS: dict[str, dict[str, Any]] = {
    "a class": {"config_groups": {"NVFP4": ["Linear"]}, "ignore": ["proj_out"]},
    "a class that Linear derives from": {
        "config_groups": {"NVFP4": ["Module"], "FP8_DYNAMIC": ["Linear"]}
    },
    "another class": {"config_groups": {"NVFP4": ["Embedding"]}},
    "open at its end": {"config_groups": {"NVFP4": ["re:blocks.1"]}},
    "open at both ends": {"config_groups": {"NVFP4": [r"re:.*blocks\.1\."]}},
    "the whole name before regex before class": {
        "config_groups": {
            "FP8_DYNAMIC": ["Linear"],
            "MXFP8": ["re:.*proj_out"],
            "NVFP4": ["blocks.1.proj_out"],
        }
    },
    "the same, groups the other way": {
        "config_groups": {
            "NVFP4": ["blocks.1.proj_out"],
            "MXFP8": ["re:.*proj_out"],
            "FP8_DYNAMIC": ["Linear"],
        }
    },
    "two regexes: the first by alphabet": {
        "config_groups": {"NVFP4": ["re:.*proj_out"], "MXFP8": [r"re:.*blocks\.1\."]}
    },
    "a target in two groups: the later": {
        "config_groups": {"NVFP4": ["re:.*proj_out"], "MXFP8": ["re:.*proj_out"]}
    },
    "a group that quantizes nothing": {
        "config_groups": {"NVFP4": ["Linear"], "UNQUANTIZED": ["re:single"]}
    },
    "ignore wins over a whole name": {
        "config_groups": {"NVFP4": ["blocks.1.to_q", "blocks.10.to_q"]},
        "ignore": ["re:blocks.1.to"],
    },
    "ignore a class": {"config_groups": {"NVFP4": ["blocks.1.to_q"]}, "ignore": ["Linear"]},
    "names that are none": {
        "config_groups": {"NVFP4": ["to_q", "blocks.1", "proj_out"]},
        "ignore": ["blocks"],
    },
}
"""Lists with targets that overlap, or that hit more or less than they seem to."""


@pytest.mark.parametrize("name", GROUPS)
def test_reader_matches_as_the_library_does(name: str) -> None:
    """For each Linear the library itself and our reader name the same format; a config that is a
    part of `config.json` is found there.
    """
    expected = apply(with_embedding(), json.loads(json.dumps(GROUPS[name])))
    assert read(GROUPS[name]) == expected
    assert (
        read({"quantization_config": {"quant_method": "compressed-tensors", **GROUPS[name]}})
        == expected
    )


TARGETS = (
    "Linear",
    "Module",
    "Embedding",
    "proj_out",
    "blocks.1",
    "blocks.1.to_q",
    "blocks.10.proj_out",
    "re:blocks.1",
    "re:.*to_q",
    "re:.*proj",
    "re:proj_out$",
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(
        st.sampled_from(["NVFP4", "MXFP8", "FP8_DYNAMIC", "UNQUANTIZED"]),
        st.lists(st.sampled_from(TARGETS), max_size=4),
    ),
    st.lists(st.sampled_from(TARGETS), max_size=2),
)
def test_reader_matches_as_the_library_does_on_any_groups(
    groups: dict[str, list[str]], ignore: list[str]
) -> None:
    """Whatever overlaps: our reader and the library give each Linear the same format."""
    config = {"config_groups": groups, "ignore": ignore}
    with torch.device("meta"):
        assert apply(with_embedding(), json.loads(json.dumps(config))) == read(config)


def test_the_overlaps_are_real() -> None:
    """Of these lists the expected outcome is written out, so that the comparison above compares
    something.
    """
    found = {
        name: {fqn for fqn, fmt in read(groups).items() if fmt is not FormatName.BF16}
        for name, groups in GROUPS.items()
    }
    block = {"blocks.1.to_q", "blocks.1.proj_out"}
    assert found["a class"] == set(FQNS) - {"proj_out"}
    assert found["open at its end"] == block | {"blocks.10.to_q", "blocks.10.proj_out"}
    assert found["open at both ends"] == block | {f"single_{fqn}" for fqn in block}
    assert found["names that are none"] == {"proj_out"}
    assert found["ignore wins over a whole name"] == {"blocks.10.to_q"}
    assert (
        read(GROUPS["the whole name before regex before class"])["blocks.1.proj_out"]
        is FormatName.NVFP4
    )
    assert (
        read(GROUPS["two regexes: the first by alphabet"])["blocks.1.proj_out"] is FormatName.MXFP8
    )


# --- the exporter ---------------------------------------------------------------------------------


MODELS: dict[str, Callable[[], nn.Module]] = {
    "flux": tiny_flux,
    "ltx2": tiny_ltx2,
    "unet": tiny_unet,
    "namesakes": with_embedding,
}


def scattered(fqns: list[str], *formats: str) -> Recipe:
    """Linears that are chosen at random take the formats in turn.

    The top-level `proj_out` and block 1 stay bf16, but Linears with similar names do not.
    """
    rng = random.Random(0)
    chosen = [
        fqn
        for fqn in fqns
        if fqn not in ("proj_out", "audio_proj_out") and not fqn.startswith("transformer_blocks.1.")
    ]
    return make_recipe(fqns, [fqn for fqn in chosen if rng.random() < 0.8], *formats)


def config_of(text: str) -> dict[str, Any]:
    """The library's config in an exported text; of a recipe, the groups and ignored names of its
    modifier.
    """
    if text.startswith("{"):
        return json.loads(text)
    return yaml.safe_load(text)["default_stage"]["default_modifiers"]["QuantizationModifier"]


@pytest.mark.parametrize("form", list(CompressedTensorsExporter.forms))
@pytest.mark.parametrize("formats", [("nvfp4",), tuple(OWN_SCHEMES)], ids=["one", "all"])
@pytest.mark.parametrize("model", MODELS)
def test_real_library_quantizes_exactly_the_recipe(
    model: str, formats: tuple[str, ...], form: str
) -> None:
    """`apply_quantization_config` gives every Linear of the model the recipe's format, and touches
    no other module; our reader says the same.
    """
    with torch.device("meta"):
        net = MODELS[model]()
    recipe = scattered(linears(net), *formats)
    text = CompressedTensorsExporter(form=form).export(recipe)
    with torch.device("meta"):
        assert apply(net, config_of(text)) == recipe.layers
    assert read(text, tuple(recipe.layers)) == recipe.layers
    assert guess_reader(text).name == "compressed-tensors"


def test_schemes_are_the_librarys_presets() -> None:
    """The exported numbers are those of NVFP4, MXFP8 and FP8_DYNAMIC, and are stored as the library
    itself would store them.
    """
    from compressed_tensors.compressors.format import infer_module_format

    from sensitivity.consumers.exporters.compressed_tensors import STORED

    for name, scheme in SCHEMES.items():
        parsed = QuantizationScheme(targets=[], **scheme)
        assert kind_of(parsed) is name
        assert infer_module_format(nn.Linear, parsed).value == STORED[name]


def test_config_names_every_linear() -> None:
    """Each Linear is a target or ignored, by its whole name; one format is the config's, several
    are mixed-precision.
    """
    recipe = make_recipe(FQNS, [fqn for fqn in FQNS if fqn.endswith("to_q")], "nvfp4")
    config = json.loads(CompressedTensorsExporter().export(recipe))
    assert config["format"] == "nvfp4-pack-quantized"
    assert [*config["config_groups"]["group_nvfp4"]["targets"], *config["ignore"]] == [
        *_to_q(),
        *recipe.skip,
    ]
    mixed = json.loads(CompressedTensorsExporter().export(make_recipe(FQNS, FQNS, "nvfp4", "fp8")))
    assert (mixed["format"], mixed["config_groups"]["group_fp8"]["format"]) == (
        "mixed-precision",
        "float-quantized",
    )
    nothing = make_recipe(FQNS, [])
    for form in CompressedTensorsExporter.forms:
        assert read(CompressedTensorsExporter(form=form).export(nothing)) == nothing.layers


def _to_q() -> list[str]:
    return [fqn for fqn in FQNS if fqn.endswith("to_q")]


def test_recipe_has_one_regex_a_role_and_says_what_it_needs() -> None:
    """Indices are counted out between anchors, each with its reason; the header says versions,
    numbers and calibration.
    """
    text = CompressedTensorsExporter(form="recipe").export(
        make_recipe(FQNS, [*_to_q(), "proj_out"], "nvfp4", "mxfp8")
    )
    assert r"# to_q in single_blocks 0, 2, 4, 6, 8, 10 (6 Linears)" in text
    assert r"- 're:^blocks\.(?:[02468]|10)\.to_q$'" in text
    for words in (
        "as 0.14 with compressed-tensors 0.20",
        "predicted for b200",
        "scale a tensor from calibration data",
        "mxfp8: needs compressed-tensors 0.15",
    ):
        assert words in text


def test_regexes_match_their_names_and_no_others() -> None:
    """On names that the recipe never saw, too: longer indices, longer names, names in front."""
    chosen = [f"blocks.{n}.ff.net.2" for n in (1, 2, 12)]
    ((target, reason),) = exact_targets(chosen)
    pattern = re.compile(target.removeprefix("re:"))
    others = [
        f"{front}blocks.{n}.ff.net.2{end}"
        for front in ("", "single_", "a.")
        for n in (*range(130), "1.2")
        for end in ("", "0", ".norm", "_b")
    ]
    assert [fqn for fqn in (*chosen, *others) if pattern.match(fqn)] == [*chosen, *chosen]
    assert reason == "ff.net.2 in blocks 1-2, 12 (3 Linears)"


def test_two_denoisers_get_a_config_each() -> None:
    """Where a recipe is for two, names in a config are those inside its component, and each holds
    for its own alone.
    """
    fqns = [
        f"{part}.blocks.{n}.attn1.to_q"
        for part in ("transformer", "transformer_2")
        for n in (1, 10)
    ]
    components = {"transformer": "WanTransformer3DModel", "transformer_2": "WanTransformer3DModel"}
    recipe = make_recipe(
        fqns,
        [fqns[0], fqns[3]],
        "nvfp4",
        component_class="WanTransformer3DModel",
        components=components,
    )
    for form in CompressedTensorsExporter.forms:
        exporter = CompressedTensorsExporter(form=form)
        assert exporter.assign(exporter.export(recipe), recipe, fqns) == recipe.layers
    configs = json.loads(CompressedTensorsExporter().export(recipe))
    assert {
        part: config["config_groups"]["group_nvfp4"]["targets"] for part, config in configs.items()
    } == {
        "transformer": ["blocks.1.attn1.to_q"],
        "transformer_2": ["blocks.10.attn1.to_q"],
    }


# --- the reader -----------------------------------------------------------------------------------

RECIPE = """
quant_stage:
  quant_modifiers:
    SmoothQuantModifier: {smoothing_strength: 0.5, ignore: [proj_out]}
    QuantizationModifier:
      %s
"""


@pytest.mark.parametrize(
    ("modifier", "groups"),
    [
        ("{scheme: nvfp4, targets: Linear, ignore: ['re:.*proj_out']}", {"NVFP4": ["Linear"]}),
        (
            "{scheme: {FP8_DYNAMIC: 're:.*to_q', MXFP8: [Linear]}, ignore: ['re:.*proj_out']}",
            {"FP8_DYNAMIC": ["re:.*to_q"], "MXFP8": ["Linear"]},
        ),
        ("{scheme: NVFP4, ignore: ['re:.*proj_out']}", {"NVFP4": ["Linear"]}),
    ],
)
def test_recipes_with_schemes_by_name(modifier: str, groups: dict[str, Any]) -> None:
    """A scheme by name, with targets or as {scheme: targets}, means the groups that the library
    makes of it; other modifiers are passed over.
    """
    assert read(RECIPE % modifier) == apply(
        with_embedding(), {"config_groups": groups, "ignore": ["re:.*proj_out"]}
    )


def test_fp8_of_other_granularity_has_a_note() -> None:
    """The preset FP8 has one scale a tensor, from calibration: read as fp8 with a note."""
    listed = get_reader("compressed-tensors").read(
        json.dumps({"config_groups": {"FP8": ["Linear"]}})
    )
    assert "one a tensor or block" in listed.notes[0]
    spelled = preset_name_to_scheme("FP8", ["Linear"]).model_dump(mode="json")
    assert (
        get_reader("compressed-tensors").read(json.dumps({"config_groups": {"a": spelled}})).notes
        == listed.notes
    )
    assert (
        not get_reader("compressed-tensors")
        .read(json.dumps({"config_groups": {"FP8_DYNAMIC": ["Linear"]}}))
        .notes
    )


def test_hits_show_what_a_target_names() -> None:
    """Entries keep the words of the list and hit what they match, whatever others say."""
    listed = get_reader("compressed-tensors").read(
        json.dumps(GROUPS["the whole name before regex before class"])
    )
    hits = {entry.text: listed.hits(entry, ModelTree(fqns=FQNS)) for entry in listed.entries}
    assert [entry.text for entry in listed.entries] == [
        "blocks.1.proj_out",
        "re:.*proj_out",
        "Linear",
    ]
    assert hits == {
        "blocks.1.proj_out": {"blocks.1.proj_out"},
        "re:.*proj_out": {fqn for fqn in FQNS if fqn.endswith("proj_out")},
        "Linear": set(FQNS),
    }


def _args(preset: str) -> dict[str, Any]:
    return preset_name_to_scheme(preset, ["Linear"]).model_dump(mode="json")


def test_other_formats_are_read_and_named() -> None:
    """Every preset of compressed-tensors is ours or has a name; those without activations are
    weight-only, by their preset and by their arguments alike.
    """
    reader, known = get_reader("compressed-tensors"), set(FormatName)
    for preset, scheme in PRESET_SCHEMES.items():
        texts = (
            json.dumps({"targets": ["Linear"], "scheme": preset}),
            json.dumps({"config_groups": {"a": _args(preset)}}),
        )
        for text in texts:
            found = reader.read(text).entries[-1].format
            has_weights_alone = scheme.get("weights") and not scheme.get("input_activations")
            says_so = str(found).endswith("weight-only") or str(found).endswith("-a16")
            assert says_so == bool(has_weights_alone), (preset, found)
            assert preset not in PRESETS or found in known
            assert preset in PRESETS or found not in known


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (
            {"config_groups": {"W4A15": ["Linear"]}},
            r"found the scheme 'W4A15'; expected one of UNQUANTIZED, NVFP4.*; did you mean 'W4A16'",
        ),
        (
            {"config_groups": {"a": {"targets": ["Linear"], "weights": "int8"}}},
            "found the group 'a' with weights 'int8'; expected an object",
        ),
        (
            {"config_groups": {"NVFP4": ["Linear"]}, "scheme": "NVFP4"},
            "found both config_groups and scheme",
        ),
        (
            {"config_groups": {"NVFP4": "Linear"}},
            "expected an object with targets, weights and input_activations",
        ),
        ({"config_groups": {"NVFP4": [3]}}, "found '3' in targets or ignore"),
        ({"config_groups": ["NVFP4"]}, "expected an object of groups"),
        (
            {"config_groups": {"NVFP4": ["Linear"]}, "ignore": "proj_out"},
            "found ignore 'proj_out'; expected a list",
        ),
        ({"config_groups": {"NVFP4": ["re:("]}}, r"found the regular expression '\('"),
        (
            {"quant_method": "modelopt", "config_groups": {}},
            "with the `form` of that tool, such as modelopt",
        ),
        ({"targets": ["Linear"]}, "found an object with 'targets', in which there is no list"),
        (
            RECIPE % "{scheme: NVFP4}" + "    GPTQModifier: {scheme: MXFP8}",
            "found 2 modifiers that quantize",
        ),
        ("a: &a [1, 1]\nb: [*a, *a]", r"found an alias \(\*a\)"),
        ("a: 1\na: 2", "found a key twice"),
        ('{"config_groups": {}, "config_groups": {}}', "found the key 'config_groups' twice"),
        ("[" * 400, "no valid JSON at line 1|nesting deeper than"),
        ("a: !!python/object/apply:os.getcwd []", "found the tag 'tag:yaml.org,2002:python"),
        ("embed\nproj_out", "found a str; expected a quantization_config with config_groups"),
        ("x" * 2_100_001, "found .*of 2100001 characters"),
    ],
)
def test_what_cannot_be_read_is_refused(value: Any, words: str) -> None:
    """Formats that are none of ours, malformed lists and hostile texts are refused.

    The message says what was found and what was expected.
    """
    with pytest.raises(PatternError, match=words):
        read(value)


def test_a_pattern_without_end_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A regular expression that backtracks for ever on a long name is refused within its time."""
    monkeypatch.setattr(timed_regexes, "REGEX_SECONDS", 0.1)
    with pytest.raises(PatternError, match=r"takes more than 0\.1 s"):
        read({"config_groups": {"NVFP4": ["re:(a|aa)+[A-Z]"]}}, ("a" * 80,))
