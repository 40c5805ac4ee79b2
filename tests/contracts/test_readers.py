"""The contract of `Reader`, for every reader.

A new reader needs one text in `EXAMPLES`: a list of its form that keeps `KEPT` in bf16 and
quantizes `QUANTIZED`. Both are Linears of Wan's transformer, by diffusers' names.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sensitivity.consumers.lists import ConsumerList, ModelTree
from sensitivity.consumers.other_formats import OtherFormat
from sensitivity.consumers.readers import READERS, Reader, get_reader, guess_reader
from sensitivity.consumers.readers.filter_fn import FilterFnReader
from sensitivity.consumers.readers.plain import PLAIN_RULES
from sensitivity.consumers.rules import RULES
from sensitivity.core.format_name import FormatName
from sensitivity.errors import PatternError

from support.served import linears_of

KEPT, QUANTIZED = "blocks.0.ffn.net.2", "blocks.1.ffn.net.2"

_CONFIG = {"_type": "MXDynamicActivationMXWeightConfig", "_version": 1, "_data": {}}
_NVFP4 = {"num_bits": [2, 1], "block_sizes": {"-1": 16, "scale_bits": [4, 3]}}

EXAMPLES: dict[str, str] = {
    "fqn": KEPT,
    "glob": "blocks.0.*",
    "substring": "blocks.0.ffn",
    "dotted-substring": "blocks.0.ffn.net.2",
    "prefix": "blocks.0.ffn",
    "regex": r"blocks\.0\.ffn",
    "regex-full": r"blocks\.0\..*",
    "regex-search": r"\.0\.ffn\.net\.2$",
    "vllm-omni": json.dumps({"method": "fp8", "ignored_layers": ["blocks.0.ffn.net_2"]}),
    "sglang": json.dumps(
        {"quantization": "fp8", "quantization_ignored_layers": ["blocks.0.ffn.fc_out"]}
    ),
    "comfyui": json.dumps(
        {"format_version": "1.0", "layers": {"blocks.1.ffn.2": {"format": "nvfp4"}}}
    ),
    "convert-to-quant": "ctq -i a.safetensors --custom-type nvfp4 --exclude-layers ."
    r" --custom-layers '^blocks\.1\.ffn\.2\.weight$'",
    "sdnq": json.dumps(
        {
            "quant_method": "sdnq",
            "weights_dtype": "float8_e4m3fn",
            "use_quantized_matmul": True,
            "add_skip_keys": False,
            "minimum_allowed_numel": 0,
            "minimum_allowed_channel_size": 0,
            "modules_to_not_convert": [".blocks.0."],
        }
    ),
    "torchao": json.dumps(
        {"_type": "FqnToConfig", "_data": {"fqn_to_config": {KEPT: None, "_default": _CONFIG}}}
    ),
    "diffusers": json.dumps(
        {
            "quant_method": "torchao",
            "quant_type": {"default": _CONFIG},
            "modules_to_not_convert": [KEPT],
        }
    ),
    "modelopt": json.dumps(
        {
            "quant_cfg": [
                {"quantizer_name": "*output_quantizer", "enable": False},
                {"quantizer_name": "*weight_quantizer", "cfg": _NVFP4},
                {"quantizer_name": "*input_quantizer", "cfg": _NVFP4},
                {"quantizer_name": f"{KEPT}.*", "enable": False},
            ]
        }
    ),
    "compressed-tensors": json.dumps({"config_groups": {"NVFP4": ["Linear"]}, "ignore": [KEPT]}),
    "filter-fn": "def choose(module, fqn):\n"
    f"    return type(module).__name__ == 'Linear' and fqn != {KEPT!r}\n",
}

HOSTILE = (
    "",
    "\0",
    "\ud800",
    "null",
    "[]",
    "{}",
    "{",
    "[" * 400,
    "-" * 5000 + "1",
    "x" * 5000,
    '{"a": NaN}',
    '{"a": 1, "a": 2}',
    '{"a": {"b": {}}}',
    '{"quantization": [], "quant_algo": {}, "quant_cfg": 3}',
    '{"component_quantizations": {"a": []}}',
    '{"config_groups": {"a": {"targets": [[]]}}, "ignore": [{}]}',
    "a: &a [1]\nb: *a",
    "a: !!python/object/apply:os.getcwd []",
    "import os\nos.abort()",
    "regex:(",
    "a:b",
)
"""Texts that are in no form, or in a broken one."""


@pytest.fixture(params=READERS)
def name(request: pytest.FixtureRequest) -> str:
    """The name of each reader."""
    return str(request.param)


@pytest.fixture
def listed(name: str, tmp_path: Path) -> ConsumerList:
    """The example of a reader, read."""
    if name != FilterFnReader.name:
        return get_reader(name).read(EXAMPLES[name])
    path = tmp_path / "choose.py"
    path.write_text(EXAMPLES[name])
    return FilterFnReader(allow_code=True).read(f"{path}:choose")


def tree(*components: str, order: Callable[[Any], Any] = iter) -> ModelTree:
    """Wan's transformer with two blocks; one for each of `components`, if any is named."""
    shapes = {
        f"{component}.{fqn}" if components else fqn: shape
        for component in components or ("transformer",)
        for fqn, shape in linears_of("WanTransformer3DModel", num_layers=2).items()
    }
    return ModelTree(
        fqns=tuple(order(list(shapes))),
        classes=dict.fromkeys(components or ("transformer",), "WanTransformer3DModel"),
        several=bool(components),
        shapes=shapes,
        biased=frozenset(),
    )


def test_every_reader_has_an_example() -> None:
    """A reader that is added must be added to this suite."""
    assert set(EXAMPLES) == set(READERS)


def test_a_reader_says_what_it_is(name: str) -> None:
    """Its key is its name, and its description is one printable line."""
    reader = READERS[name]
    assert isinstance(reader, Reader)
    assert get_reader(name) is reader
    assert reader.name == name
    assert reader.description
    assert reader.description.isprintable()


def test_a_list_gives_every_linear_a_format(listed: ConsumerList) -> None:
    """What the list keeps is bf16, what it does not is quantized, and nothing is left out."""
    model = tree()
    found = listed.assign(model, quantized=FormatName.NVFP4)
    assert tuple(found) == model.fqns
    assert all(isinstance(name, FormatName | OtherFormat) for name in found.values())
    assert found[KEPT] is FormatName.BF16
    assert found[QUANTIZED].is_quantized


def test_formats_do_not_depend_on_the_order_of_linears(listed: ConsumerList) -> None:
    """A model that lists its Linears in another order gets the same formats."""
    found = listed.assign(tree(), quantized=FormatName.NVFP4)
    assert listed.assign(tree(order=reversed), quantized=FormatName.NVFP4) == found


def test_a_list_without_components_is_for_every_denoiser(listed: ConsumerList) -> None:
    """Each of two denoisers gets the formats that one alone would get."""
    one = listed.assign(tree(), quantized=FormatName.NVFP4)
    if listed.consumer == "fqn" or listed.consumer in PLAIN_RULES:
        one = {fqn: one[fqn] for fqn in (KEPT, QUANTIZED)}
    two = listed.assign(tree("transformer", "transformer_2"), quantized=FormatName.NVFP4)
    for component in ("transformer", "transformer_2"):
        assert {fqn: two[f"{component}.{fqn}"] for fqn in one} == one


def test_a_model_without_linears_has_no_formats(listed: ConsumerList) -> None:
    """Nothing to decide is no error."""
    assert listed.assign(ModelTree(fqns=()), quantized=FormatName.NVFP4) == {}


def test_entries_hit_linears_of_the_model(listed: ConsumerList) -> None:
    """Every entry has a known rule and hits Linears of the model only; one of them decides."""
    model = tree()
    hits = [listed.hits(entry, model) for entry in listed.entries]
    assert all(entry.text and entry.rule in RULES for entry in listed.entries)
    assert all(found <= set(model.fqns) for found in hits)
    if listed.entries:
        assert any(KEPT in found or QUANTIZED in found for found in hits)


def test_a_form_is_recognised(name: str) -> None:
    """A consumer's text needs no name of the form; plain lists are taken for globs."""
    guessed = "glob" if name in (*PLAIN_RULES, FilterFnReader.name) else name
    assert guess_reader(EXAMPLES[name]).name == guessed


def read_or_refuse(name: str, text: str) -> None:
    """Fail unless a text is read, or refused with a message that says what was found."""
    try:
        READERS[name].read(text).assign(tree(), quantized=FormatName.NVFP4)
    except PatternError as error:
        message = str(error)
    else:
        message = "found a list"
    assert "found" in message


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_texts_are_read_or_refused(name: str, text: str) -> None:
    """No text ends in another error than the one that says what was found."""
    read_or_refuse(name, text)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damaged_texts_are_read_or_refused(name: str, data: st.DataObject) -> None:
    """The same for a list of the form in which something is missing, doubled or replaced."""
    text = EXAMPLES[name]
    start, end = sorted(data.draw(st.integers(0, len(text))) for _ in range(2))
    piece = data.draw(st.sampled_from(["", text[start:end] * 2, "null", "[]", "3", '""', "{}"]))
    read_or_refuse(name, text[:start] + piece + text[end:])
