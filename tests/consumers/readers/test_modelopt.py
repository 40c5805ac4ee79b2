"""ModelOpt's lists: what the reader makes of them, compared with ModelOpt itself.

Tests marked `real_modelopt` run where ModelOpt is installed: see `support.quant_cfgs`.
"""

import json
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from sensitivity.consumers.lists import ModelTree
from sensitivity.consumers.readers import get_reader, guess_reader
from sensitivity.consumers.readers.modelopt_quantizers import QuantizerList
from sensitivity.consumers.step_policies import POLICY_TOOLS
from sensitivity.core.format_name import FormatName
from sensitivity.errors import PatternError

from support.namesakes import linears
from support.quant_cfgs import (
    FQNS,
    INT8_TOKEN,
    LISTS,
    MXFP8,
    NVFP4,
    OFF,
    RECORDED,
    ROW,
    SIX,
    TENSOR,
    TO_Q,
    TOKEN,
    both,
    named,
    read,
    real_modelopt,
    with_convolution,
)
from support.tiny_denoisers import tiny_flux


@pytest.mark.parametrize("name", LISTS)
def test_reader_matches_as_recorded(name: str) -> None:
    """What ModelOpt did with each list is what our reader says of it, as a list and as a whole
    config, in Python and in JSON.
    """
    assert read(LISTS[name]) == RECORDED[name]
    assert read({"quant_cfg": LISTS[name], "algorithm": "max"}) == RECORDED[name]
    assert read(json.dumps({"quant_cfg": LISTS[name]})) == RECORDED[name]


@real_modelopt
@pytest.mark.parametrize("name", LISTS)
def test_recorded_is_what_modelopt_does(name: str) -> None:
    """`set_quantizer_by_cfg` itself gives each Linear of the net the recorded format."""
    from modelopt.torch.export.quant_utils import get_quantization_format
    from modelopt.torch.quantization.conversion import replace_quant_module, set_quantizer_by_cfg

    net = with_convolution()
    replace_quant_module(net)
    set_quantizer_by_cfg(net, LISTS[name])
    found = {fqn: get_quantization_format(net.get_submodule(fqn)) for fqn in FQNS}
    assert {fqn: kind.replace("_pc_pt", "") for fqn, kind in found.items() if kind} == RECORDED[
        name
    ]


PATTERNS = (
    "*",
    "*.weight_quantizer",
    "blocks.1.*",
    "*proj_out*",
    "*to_q.*_quantizer",
    "[!b]*.to_q.input_quantizer",
    "proj_out",
    "proj_out.weight_quantizer",
)


CFGS = (None, NVFP4, MXFP8, ROW, TENSOR)


@real_modelopt
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.tuples(
            st.sampled_from(PATTERNS),
            st.sampled_from(CFGS),
            st.sampled_from([True, False]),
            st.sampled_from([None, "nn.Linear", "nn.Conv2d"]),
        )
    )
)
def test_reader_applies_any_list_as_modelopt_does(
    entries: list[tuple[str, Any, bool, str | None]],
) -> None:
    """Each quantizer of each Linear ends on or off and with the numbers that our reader's steps
    say, whatever overrides what.
    """
    from modelopt.torch.quantization.conversion import replace_quant_module, set_quantizer_by_cfg

    steps = [
        {"quantizer_name": name, "enable": on}
        | ({"cfg": cfg} if cfg else {})
        | ({"parent_class": parent} if parent else {})
        for name, cfg, on, parent in entries
    ]
    net = nn.ModuleDict(
        {
            "blocks": nn.ModuleList(
                nn.ModuleDict({"to_q": nn.Linear(32, 32), "proj_out": nn.Linear(32, 32)})
                for _ in range(2)
            ),
            "proj_out": nn.Linear(32, 32),
        }
    )
    fqns = linears(net)
    replace_quant_module(net)
    set_quantizer_by_cfg(net, steps)
    listed = get_reader("modelopt").read(repr([OFF, *steps]) if steps else repr([OFF]))
    assert isinstance(listed, QuantizerList)
    for kind, states in (
        replace(listed, steps=listed.steps[1:]).states(ModelTree(fqns=tuple(fqns))).items()
    ):
        for fqn in fqns:
            real = getattr(net.get_submodule(fqn), kind)
            assert states[fqn].on == real.is_enabled
            if kind != "output_quantizer" and states[fqn].numerics:
                assert (
                    states[fqn].numerics.format.value
                    == {
                        (2, 1): "nvfp4",
                        (4, 3): "mxfp8" if (real.block_sizes or {}).get(-1) else "fp8",
                    }[real.num_bits]
                )


def test_an_addition_takes_the_users_format() -> None:
    """Entries without any cfg are what people append to a preset: what they do not turn off has the
    format that is named, and a note says so.
    """
    listed = get_reader("modelopt").read('[{"quantizer_name": "*proj_out*", "enable": false}]')
    assert read(
        [{"quantizer_name": "*proj_out*", "enable": False}], quantized=FormatName.FP8
    ) == dict.fromkeys(TO_Q, "fp8")
    assert "read as an addition" in listed.notes[0]


def test_the_older_dict_is_read_as_it_was() -> None:
    """Up to 0.43 `default` came first wherever it stood; a cfg alone turned nothing on, classes
    held dicts of their own (as 0.43.0 did when it was run).
    """
    off = {"enable": False}
    on = {**NVFP4, "enable": True}
    old = {
        "*weight_quantizer": on,
        "*input_quantizer": on,
        "nn.Conv2d": {"*": off},
        "*proj_out*": off,
        "default": off,
    }
    assert read({"quant_cfg": old}) == read(old) == dict.fromkeys(TO_Q, "nvfp4")
    notes = get_reader("modelopt").read(repr(old)).notes
    assert any("later releases apply `default` where it stands" in note for note in notes)
    assert read({"*weight_quantizer": NVFP4, "*input_quantizer": NVFP4, "default": off}) == {}


def test_fp8_of_other_granularity_has_a_note() -> None:
    """FP8_DEFAULT_CFG has one scale a tensor: it is read as fp8 with a note; row and token scales
    need none. Entries about attention are set apart.
    """
    preset = [
        OFF,
        *both("*", TENSOR),
        {"quantizer_name": "*softmax_quantizer", "cfg": TENSOR},
        {"quantizer_name": "*output_quantizer", "enable": False},
    ]
    listed = get_reader("modelopt").read(repr(preset))
    assert read(preset) == dict.fromkeys(FQNS, "fp8")
    assert len(listed.entries) == 3
    assert any("one scale a tensor" in note for note in listed.notes)
    assert any("2 entries are about other quantizers" in note for note in listed.notes)
    assert not get_reader("modelopt").read(repr([OFF, *both("*", ROW, TOKEN)])).notes


def test_hits_say_what_an_entry_names() -> None:
    """An entry hits the Linears of which it names the weight or the input; one without a
    quantizer's name hits nothing, and stays in the list to be reported.
    """
    listed = get_reader("modelopt").read(
        repr([OFF, *both("*blocks.1.", NVFP4), {"quantizer_name": "proj_out", "enable": False}])
    )
    hits = {entry.text: listed.hits(entry, ModelTree(fqns=FQNS)) for entry in listed.entries}
    assert hits["*"] == set(FQNS)
    assert hits["*blocks.1.input_quantizer"] == frozenset()
    assert hits["proj_out"] == frozenset()
    hits = [
        listed.hits(entry, ModelTree(fqns=("blocks.1", "a.blocks.10")))
        for entry in listed.entries[1:3]
    ]
    assert hits == [frozenset({"blocks.1"})] * 2


def test_checkpoint_configs_are_shell_patterns() -> None:
    """`exclude_modules` and `ignore` match whole names with wildcards, and a note says that vLLM
    takes substrings; MIXED_PRECISION names what is quantized.
    """
    excluded = {
        "quantization": {
            "quant_algo": "NVFP4",
            "exclude_modules": ["proj_out", "blocks.1.*", "single*"],
        }
    }
    kept = {"proj_out", *named("blocks.1."), *named("single")}
    assert read(excluded) == dict.fromkeys([fqn for fqn in FQNS if fqn not in kept], "nvfp4")
    flat = {
        "quant_method": "modelopt",
        "quant_algo": "MXFP8",
        "ignore": ["*proj_out"],
        "config_groups": {},
    }
    assert read(json.dumps(flat)) == dict.fromkeys(TO_Q, "mxfp8")
    assert guess_reader(json.dumps(flat)).name == "modelopt"
    assert any(
        "vLLM also skips" in note
        for note in get_reader("modelopt").read(json.dumps(excluded)).notes
    )
    mixed = {
        "quant_algo": "MIXED_PRECISION",
        "quantized_layers": {
            "proj_out": {"quant_algo": "FP8"},
            "blocks.1.to_q": {"quant_algo": "NVFP4"},
        },
    }
    assert read({"quantization": mixed}) == {"proj_out": "fp8", "blocks.1.to_q": "nvfp4"}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([OFF, both("*", NVFP4)[1]], "has only its input quantized"),
        (both("blocks.*", NVFP4), r"proj_out is left in ModelOpt's default \(int8\)"),
        (
            [OFF, *both("*", NVFP4), {"quantizer_name": "*proj_out*", "enable": True}],
            "has its output quantized",
        ),
        ([OFF, *both("*", {"num_bits": "many"})], r"such as NVFP4 \(num_bits"),
        ([OFF, {"quantizer_name": "*"}], "neither cfg nor enable"),
        ([OFF, {"name": "*", "cfg": NVFP4}], r"found the entry .*write each entry so"),
        ([{"quantizer_name": 3, "enable": False}], "found '3' in quantizer_name"),
        (
            {"quantization": {"quant_algo": "W4A16_AWK"}},
            "found the quant_algo 'W4A16_AWK'; expected one of NVFP4.*did you mean 'W4A16_AWQ'",
        ),
        ({"quantization": {"quant_algo": "MIXED_PRECISION"}}, "with quantized_layers None"),
        ({"quant_cfg": 3}, "found a quant_cfg that is a int"),
        (
            "import modelopt\nCFG = modelopt.NVFP4_DEFAULT_CFG",
            r"line 2: found code \(modelopt.NVFP4_DEFAULT_CFG\)",
        ),
        (
            "config = [{'quantizer_name': '*', 'enable': False, 'enable': True}]",
            "found the key 'enable', twice",
        ),
        ('{"quant_cfg": [], "quant_cfg": []}', "twice"),
        (
            "a = [0, 0]\n"
            + "\n".join(
                f"{x} = [*{y}, *{y}]"
                for x, y in zip("bcdefghijklmnopq", "abcdefghijklmnop", strict=True)
            ),
            "over 20000 items",
        ),
        ("[" * 5000, "found brackets deeper than 64 levels"),
        ("-" * 200_000 + "1", "found Python of over 150000 words and signs"),
        ("- not: python", "found 'not' with the cfg|found 'not' with"),
        ("a, b = 1, 2", r"line 1: found code \(a, b = \(1, 2\)\)"),
        ("x" * 4_000_001, "found a text of 4000001 characters"),
        ("{}", "found an object with nothing, in which there is no list"),
    ],
)
def test_what_cannot_be_read_is_refused(value: Any, words: str) -> None:
    """Formats that are none of ours, Linears with one operand quantized, code and hostile texts are
    refused; the message says what was found and what was expected.
    """
    with pytest.raises(PatternError, match=words):
        read(value)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([OFF, both("*", TENSOR)[0]], "fp8 weight-only"),
        ([OFF, *both("*", NVFP4, MXFP8)], "nvfp4 weights, mxfp8 activations"),
        ([OFF, *both("*", {"num_bits": 8, "axis": None})], "per-tensor int8"),
        (
            [OFF, *both("*", {"num_bits": 8, "axis": 0}, {"num_bits": 8, "axis": None})],
            "int8 weights, per-tensor int8 activations",
        ),
        ([OFF, *both("*", {**NVFP4, "rotate": True})], r"nvfp4, rotated \(modelopt\)"),
        ([OFF, *both("*", SIX)], "nvfp4-4o6 weights and activations"),
        ([OFF, both("*", SIX)[0]], "nvfp4-4o6 weight-only"),
        (
            [OFF, both("*", {"num_bits": 4, "block_sizes": {-1: 128}})[0]],
            "int4 in blocks of 128 we",
        ),
        (
            [OFF, *both("*", [{"num_bits": 4}, TENSOR], TENSOR)],
            "int4 in fp8 weights, fp8 activations",
        ),
        (
            {"quant_cfg": [OFF, *both("*", NVFP4)], "algorithm": {"method": "svdquant"}},
            r"nvfp4 with a low-rank part \(svdquant\)",
        ),
        ({"quantization": {"quant_algo": "W4A16_AWQ"}}, r"int4 \(awq\) weight-only"),
        ({"quantization": {"quant_algo": "NVFP4_SVD"}}, r"nvfp4 with a low-rank part \(svdquant\)"),
        (
            {"quant_algo": "MIXED_PRECISION", "quantized_layers": {"proj_out": "W4A16_AWQ"}},
            r"int4 \(awq\) weight-only",
        ),
    ],
)
def test_other_formats_are_read_and_named(value: Any, words: str) -> None:
    """A format that is none of ours, weight-only ones among them, is named and never taken for one
    of ours.
    """
    text = value if isinstance(value, str) else repr(value)
    listed = get_reader("modelopt").read(text)
    found = listed.assign(ModelTree(fqns=("proj_out",)), quantized=FormatName.NVFP4)
    assert not isinstance(found["proj_out"], FormatName)
    assert re.match(words, found["proj_out"]), found


@pytest.mark.parametrize(
    ("value", "format"),
    [
        ([OFF, *both("*", {"num_bits": 8, "axis": 0}, INT8_TOKEN)], FormatName.INT8),
        ([OFF, both("*", {"num_bits": 8, "axis": 0})[0]], FormatName.INT8_A16),
        ([OFF, both("*", ROW)[0]], FormatName.FP8_A16),
        ([OFF, both("*", NVFP4)[0]], FormatName.NVFP4_A16),
        ([OFF, both("*", MXFP8)[0]], FormatName.MXFP8_A16),
        ([OFF, *both("*", SIX, NVFP4)], FormatName.NVFP4_4O6),
        ([OFF, *both("*", {**NVFP4, "rotate": {"enable": False}})], FormatName.NVFP4),
        ({"quantization": {"quant_algo": "W4A16_NVFP4"}}, FormatName.NVFP4_A16),
        (
            {"quant_algo": "MIXED_PRECISION", "quantized_layers": {"proj_out": "W8A16"}},
            FormatName.INT8_A16,
        ),
    ],
)
def test_variants_are_ours(value: Any, format: FormatName) -> None:
    """INT8 with one scale a row and a token, four-over-six weights, and weights alone."""
    listed = get_reader("modelopt").read(repr(value))
    found = listed.assign(ModelTree(fqns=("proj_out",)), quantized=FormatName.FP8)
    assert found["proj_out"] is format


RECIPE = """
# a comment
imports:
  base_disable_all: configs/ptq/units/base_disable_all
  others: configs/ptq/units/default_disabled_quantizers.yaml
  body: configs/ptq/units/%s
  nvfp4: configs/numerics/nvfp4
metadata:
  recipe_type: ptq
quantize:
  algorithm: {method: %s}
  quant_cfg:
    - $import: base_disable_all
    - $import: body
    - $import: others
    - quantizer_name: '*embed*_quantizer'
      enable: false
"""


@pytest.mark.parametrize(
    ("unit", "algorithm", "format"),
    [
        ("w4a4_nvfp4_nvfp4", "max", FormatName.NVFP4),
        ("w8a8_fp8_fp8", "max", FormatName.FP8),
        ("w4_nvfp4", "max", FormatName.NVFP4_A16),
        ("w4a4_nvfp4_nvfp4_four_over_six", "mse", FormatName.NVFP4_4O6),
        ("w4a4_nvfp4_nvfp4", "svdquant", "nvfp4 with a low-rank part (svdquant)"),
    ],
)
def test_yaml_recipes_with_imports_are_read(unit: str, algorithm: str, format: str) -> None:
    """Pieces of ModelOpt's library stand where they are imported, as entries and as attributes."""
    tree = ModelTree(fqns=("blocks.0.to_q", "blocks.0.proj_out", "x_embedder"))
    text = RECIPE % (unit, algorithm)
    assert guess_reader(text).name == "modelopt"
    reader = get_reader("modelopt")
    found = reader.read(text).assign(tree, quantized=FormatName.MXFP8)
    assert found == {
        "blocks.0.to_q": format,
        "blocks.0.proj_out": FormatName.BF16,  # default_disabled_quantizers has *proj_out.*
        "x_embedder": FormatName.BF16,
    }
    header, _, body = text.partition("metadata:")
    entries = body.split("quant_cfg:\n")[1].replace("    - ", "- ").replace("      en", "  en")
    two_documents = reader.read(f"{header}---\n{entries}")
    if algorithm == "max":
        assert two_documents.assign(tree, quantized=FormatName.MXFP8) == found


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "imports:\n  a: configs/numerics/nvpf4\nquant_cfg:\n  - $import: a\n",
            "did you mean 'con",
        ),
        ("imports:\n  a: my/own\nquant_cfg:\n  - $import: a\n", "import 'a' of 'my/own'; expected"),
        (
            "imports:\n  a: configs/numerics/fp8\nquant_cfg:\n  - $import: b\n",
            r"found \$import 'b'; expected one of a",
        ),
        (
            "imports:\n  a: configs/ptq/units/w4_nvfp4\nquant_cfg:\n"
            "  - {quantizer_name: '*', cfg: {$import: a}}\n",
            "expected a piece that is an object",
        ),
        ("metadata: {}\nauto_quantize: {effective_bits: 5.4}\n", "found a recipe of auto_quantize"),
    ],
)
def test_yaml_that_cannot_be_resolved_is_refused(text: str, words: str) -> None:
    """Pieces that are unknown, unnamed or of the wrong kind, and recipes without a list."""
    with pytest.raises(PatternError, match=words):
        read(text)


def test_the_filters_of_modelopts_examples_are_plain_regexes() -> None:
    """Its diffusers examples turn quantizers off by `pattern.match(name)`: the reader `regex` says
    the same of the modules.
    """
    parts = "time_text_embed|context_embedder|x_embedder|norm_out|time_guidance_embed"
    pattern = rf"(proj_out.*|.*({parts}|stream_modulation).*)"
    with torch.device("meta"):
        fqns = tuple(linears(tiny_flux()))
    found = (
        get_reader("regex").read(pattern).assign(ModelTree(fqns=fqns), quantized=FormatName.NVFP4)
    )
    kept = {
        fqn for fqn in fqns if fqn == "proj_out" or "embed" in fqn or fqn.startswith("norm_out")
    }
    assert {fqn for fqn, name in found.items() if name is FormatName.BF16} == kept


@pytest.mark.parametrize("component", ["", "transformer"])
def test_a_step_policy_is_kept_beside_the_formats(component: str) -> None:
    """Formats are those of the steps between; the policy is kept as it was written, whatever it
    is, with the component that it is for.
    """
    config = {
        "quant_method": "modelopt",
        "quant_algo": "FP8",
        "ignore": [],
        "runtime": {"diffusion_step_policy": {"first_steps": -4}},
    }
    text = json.dumps({component: config} if component else {"quantization_config": config})
    listed = get_reader("modelopt").read(text)
    tree = ModelTree(fqns=("proj_in",), classes={"transformer": "Net"})
    assert listed.assign(tree, quantized=FormatName.NVFP4) == {"proj_in": FormatName.FP8}
    (policy,) = listed.policies
    assert (policy.config, policy.component) == (config, component)
    assert set(policy.tools) == set(POLICY_TOOLS)
    assert listed.without_parts(["transformer"]).policies == (() if component else (policy,))
