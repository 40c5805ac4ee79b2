"""Readers: what each rule hits, and what becomes of each Linear, against Python's re and fnmatch
and the real torchao and diffusers.
"""

import fnmatch
import json
import re
import time
import types
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from sensitivity.consumers.lists import ConsumerList, ModelTree
from sensitivity.consumers.readers import get_reader, guess_reader
from sensitivity.consumers.readers.filter_fn import FilterFnReader
from sensitivity.consumers.rules import MAX_ENTRY, RULES, hits
from sensitivity.core.format_name import FormatName
from sensitivity.errors import PatternError

NAMES = (
    "proj_out",
    "single.0.proj_out",
    "single.0.attn.to_q",
    "transformer_blocks.1.attn.to_q",
    "transformer_blocks.10.attn.to_q",
    "single_transformer_blocks.1.attn.to_q",
    "blocks.1.audio_attn.to_q",
    "blocks.1.attn.to_q",
)
BF16, MXFP8, NVFP4, FP8 = FormatName.BF16, FormatName.MXFP8, FormatName.NVFP4, FormatName.FP8

# --- rules ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "entry", "expected"),
    [
        ("fqn", "proj_out", {0}),
        ("fqn", "transformer_blocks.1", set()),
        ("fqn", "proj_*", set()),
        ("glob", "proj_out", {0}),
        ("glob", "*.proj_out", {1}),
        ("glob", "transformer_blocks.1.*", {3}),
        ("glob", "*transformer_blocks.1*", {3, 4, 5}),
        ("fnmatch", "*attn*", {2, 3, 4, 5, 6, 7}),
        ("fnmatch", "*[!_]attn*", {2, 3, 4, 5, 7}),
        ("substring", "blocks.1", {3, 4, 5, 6, 7}),
        ("substring", "audio_", {6}),
        ("substring", "audio_.*", set()),
        ("dotted-substring", "proj_out", {0, 1}),
        ("dotted-substring", "proj_out.weight", {0}),
        ("dotted-substring", "transformer_blocks.1", {3, 5}),
        ("dotted-substring", "blocks.1.attn", {3, 5, 7}),
        ("dotted-substring", "audio_", set()),
        ("dotted-substring", "weight", set()),
        ("prefix", "transformer_blocks.1", {3}),
        ("prefix", "proj_out", {0}),
        ("prefix", "proj", set()),
        ("regex", "proj_out.*", {0}),
        ("regex", ".*proj_out", {0, 1}),
        ("regex", r"transformer_blocks\.1", {3, 4}),
        ("regex-full", r"transformer_blocks\.1\..*", {3}),
        ("regex-full", "proj", set()),
        ("regex-search", r"blocks\.1\.", {3, 5, 6, 7}),
        ("regex-search", "^proj_out$", {0}),
        ("weight-key", "proj_out", {0}),
        ("weight-key", "proj_out.weight", {0}),
        ("weight-key", "transformer_blocks.1", set()),
        ("weight-key", "re:proj_out", {0}),
        ("weight-key", r"re:.*proj_out\.weight", {0, 1}),
        ("weight-key", "re:proj", set()),
    ],
)
def test_what_an_entry_hits(rule: str, entry: str, expected: set[int]) -> None:
    """Each rule hits the names that it says, on names where rules differ."""
    assert hits(rule, entry, NAMES) == {NAMES[place] for place in expected}


@given(st.text(alphabet="ab.*?[]!-1", min_size=1, max_size=8))
def test_fnmatch_is_pythons(entry: str) -> None:
    """Any pattern, brackets that do not close included, hits what `fnmatch.fnmatchcase` says."""
    names = ("a", "b", "a.b", "a.1", "a.11", "[", "a-b", "a]", "!", "ab.1")
    assert hits("fnmatch", entry, names) == {
        name for name in names if fnmatch.fnmatchcase(name, entry)
    }


@given(st.text(alphabet="ab.*?+()|[]^$\\1{},", min_size=1, max_size=8))
def test_regular_expressions_are_pythons(entry: str) -> None:
    """What Python's re compiles hits the same names in all three ways, and what it refuses is
    refused.
    """
    names = ("a", "b", "a.b", "a.1", "a.11", "ab.1", "blocks.1.a")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pattern = re.compile(entry)
    except re.error:
        with pytest.raises(PatternError, match="expected one that Python's re compiles"):
            hits("regex", entry, names)
        return
    assert hits("regex", entry, names) == {name for name in names if pattern.match(name)}
    assert hits("regex-full", entry, names) == {name for name in names if pattern.fullmatch(name)}
    assert hits("regex-search", entry, names) == {name for name in names if pattern.search(name)}


def test_a_slow_expression_is_refused_in_time() -> None:
    """A pattern that backtracks for ever is refused after about a second, however many names there
    are.
    """
    start = time.monotonic()
    with pytest.raises(
        PatternError, match=r"'\(a\|aa\)\+\$', which takes more than 1 s on the names of one model"
    ):
        hits("regex", "(a|aa)+$", [f"{'a' * 80}.{place}" for place in range(200)])
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("entry", ["", "a" * (MAX_ENTRY + 1)])
def test_an_entry_has_a_length(entry: str) -> None:
    """Empty and huge entries are refused by every rule."""
    for rule in RULES:
        with pytest.raises(
            PatternError,
            match=f"found an entry of {len(entry)} characters; expected 1 to {MAX_ENTRY}",
        ):
            hits(rule, entry, NAMES)


# --- plain lists ----------------------------------------------------------------------------------


def texts(listed: ConsumerList) -> list[tuple[str, str]]:
    return [(entry.rule, entry.text) for entry in listed.entries]


def test_lines() -> None:
    """Comments are reasons, blank lines are nothing, a rule may stand before a colon, repeats count
    once, lines are numbered.
    """
    listed = get_reader("substring").read(
        "\ufeff# a list\n\nembed  # embeddings\nfqn: proj_out\nembed  # embeddings\nregex:a:b\n"
    )
    assert texts(listed) == [
        ("substring", "embed"),
        ("fqn", "proj_out"),
        ("substring", "embed"),
        ("regex", "a:b"),
    ]
    assert [(entry.line, entry.reason) for entry in listed.entries[:2]] == [
        (3, "embeddings"),
        (4, ""),
    ]
    assert {entry.format for entry in listed.entries} == {BF16}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("# nothing\n", []),
        ("[]", []),
        ('["a", "b"]', ["a", "b"]),
        ("('a',)", ["a"]),
        ('[\n  "a",  # why\n  "b",\n]\n', ["a", "b"]),
        ("{'b', 'a'}", ["a", "b"]),
        ("(proj_out.*|.*(norm_out|embedder).*)", ["(proj_out.*|.*(norm_out|embedder).*)"]),
        ("[ab]c\n[cd]e", ["[ab]c", "[cd]e"]),
    ],
)
def test_lines_and_literals_are_told_apart(text: str, expected: list[str]) -> None:
    """A list as JSON or Python writes it is that list; a regular expression or glob in brackets is
    an entry; nothing is an empty list.
    """
    assert [entry.text for entry in get_reader("regex").read(text).entries] == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('("a")', r"found a str in brackets; .*add a comma"),
        ('{"a": 1}', "found a dict in brackets; expected a list of strings"),
        ('["a", 1]', "found 1 in the list; expected a string"),
        ('["a", b]', "found a list that cannot be read"),
        ('["a"', "found a list that cannot be read"),
        (
            "a\n" + "b" * 5000,
            f"line 2: found an entry of 5000 characters; expected 1 to {MAX_ENTRY}",
        ),
        (
            "\n".join(f"a{place}" for place in range(20_001)),
            "found 20001 entries; expected at most 20000",
        ),
    ],
)
def test_lists_that_cannot_be_read(text: str, message: str) -> None:
    """What is wrong is said with what is allowed, never a traceback."""
    with pytest.raises(PatternError, match=message):
        get_reader("regex").read(text)


def test_names_with_and_without_the_component() -> None:
    """Where there are several denoisers, an entry may name both or one of them."""
    fqns = ("transformer.blocks.1.q", "transformer.blocks.10.q", "transformer_2.blocks.1.q")
    tree = ModelTree(fqns=fqns, classes={"transformer": "A", "transformer_2": "A"}, several=True)

    def kept(text: str) -> set[str]:
        return {
            fqn
            for fqn, fmt in get_reader("glob").read(text).assign(tree, quantized=NVFP4).items()
            if fmt is BF16
        }

    assert kept("blocks.1.*") == {fqns[0], fqns[2]}
    assert kept("transformer.blocks.1.*") == {fqns[0]}
    assert kept("transformer.*") == {fqns[0], fqns[1]}


def test_the_form_is_recognised() -> None:
    """Texts of torchao and diffusers are told apart; anything else is globs; an unknown form has a
    suggestion.
    """
    config = {"_type": "FqnToConfig", "_data": {"fqn_to_config": {"a": None}}}
    diffusers = {
        "quant_method": "torchao",
        "quant_type": {"default": config},
        "modules_to_not_convert": None,
    }
    found = {
        json.dumps(text) if isinstance(text, dict) else text: name
        for text, name in [
            (config, "torchao"),
            ({"transformer": config}, "torchao"),
            (diffusers, "diffusers"),
            ({"transformer": diffusers}, "diffusers"),
            ({"_class_name": "X", "quantization_config": diffusers}, "diffusers"),
            ("proj_out\n", "glob"),
            ('["proj_out"]', "glob"),
            ("", "glob"),
        ]
    }
    assert {text: guess_reader(text).name for text in found} == found
    with pytest.raises(
        PatternError,
        match=r"found the form 'torch_ao'; expected one of fqn, .*; did you mean 'torchao'",
    ):
        get_reader("torch_ao")


# --- torchao --------------------------------------------------------------------------------------

MX = {"_type": "MXDynamicActivationMXWeightConfig", "_version": 1, "_data": {}}
INSIDE = ("blocks.0.q", "blocks.0.proj_out", "blocks.1.q", "proj_out")
BIASED = frozenset({"blocks.0.q", "proj_out"})
KEYS = (
    "proj_out",
    "proj_out.weight",
    "proj_out.bias",
    "blocks.0.q",
    "blocks.0.q.weight",
    "blocks.0.q.bias",
    "blocks.1.q",
    "blocks.1.q.bias",
    "blocks.0",
    "blocks",
    "dead",
    "re:.*q",
    r"re:.*\.q\.weight",
    "re:.*proj_out",
    r"re:blocks\.0.*",
    r"re:.*\.weight",
    r"re:.*\.bias",
    "re:.*",
    r"re:proj_out\..*",
    "re:dead",
    "_default",
)


class Namesakes(nn.Module):
    """`proj_out` at the top and in a block; some Linears have a bias."""

    def __init__(self) -> None:
        super().__init__()
        blocks = [
            {"q": nn.Linear(32, 32), "proj_out": nn.Linear(32, 32, bias=False)},
            {"q": nn.Linear(32, 32, bias=False)},
        ]
        self.blocks = nn.ModuleList(map(nn.ModuleDict, blocks))
        self.proj_out = nn.Linear(32, 32)
        self.bfloat16()


def mx_config() -> Any:
    from torchao.prototype.mx_formats import MXDynamicActivationMXWeightConfig

    return MXDynamicActivationMXWeightConfig()


def quantized_in(module: nn.Module) -> set[str]:
    linears = {fqn: child for fqn, child in module.named_modules() if isinstance(child, nn.Linear)}
    return {fqn for fqn, child in linears.items() if type(child.weight.data) is not torch.Tensor}


def fqn_config(keys: Mapping[str, bool]) -> str:
    return json.dumps(
        {
            "_type": "FqnToConfig",
            "_version": 1,
            "_data": {"fqn_to_config": {key: MX if value else None for key, value in keys.items()}},
        }
    )


TREE = ModelTree(fqns=INSIDE, biased=BIASED)


def chosen(listed: ConsumerList, tree: ModelTree = TREE, quantized: FormatName = MXFP8) -> set[str]:
    return {fqn for fqn, fmt in listed.assign(tree, quantized=quantized).items() if fmt is not BF16}


@pytest.mark.filterwarnings("ignore:Config Deprecation")
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.tuples(st.sampled_from(KEYS), st.booleans()), max_size=5, unique_by=lambda pair: pair[0]
    )
)
def test_torchao_is_simulated_exactly(pairs: list[tuple[str, bool]]) -> None:
    """For any few keys, None or a config each, the real `quantize_` quantizes what the reader says,
    and fails where the reader says that it fails.
    """
    from torchao.quantization import FqnToConfig, quantize_

    net, keys, failed = Namesakes(), dict(pairs), False
    try:
        quantize_(
            net,
            FqnToConfig({key: mx_config() if value else None for key, value in pairs}),
            filter_fn=None,
        )
    except Exception:
        failed = True
    listed = get_reader("torchao").read(fqn_config(keys))
    if failed:
        with pytest.raises(PatternError, match="torchao's quantize_"):
            listed.assign(TREE, quantized=MXFP8)
    else:
        assert chosen(listed) == quantized_in(net)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"re:blocks.*": True}, r"'re:blocks\.\*', which fits the module 'blocks', no Linear"),
        ({"re:.*": True}, "which fits the whole model"),
        ({r"re:.*\.q\..*": True}, r"for blocks\.0\.q\.bias"),
        (
            {"proj_out.weight": True, r"re:proj_out\.weight": True},
            "applies every key that fits a parameter",
        ),
        (
            {"proj_out.weight": False, "proj_out.bias": False},
            "null for both proj_out.weight and proj_out.bias",
        ),
    ],
)
def test_torchao_failures_are_foretold(keys: dict[str, bool], message: str) -> None:
    """A list on which torchao stops is refused with the key and the name; its entries can still be
    asked what they hit.
    """
    listed = get_reader("torchao").read(fqn_config(keys))
    with pytest.raises(PatternError, match=message):
        listed.assign(TREE, quantized=MXFP8)
    assert listed.hits(listed.entries[0], TREE)


def test_biases_that_nobody_knows() -> None:
    """Without knowledge of biases a key for one still counts, with a note; `re:` keys are taken to
    fit weights only.
    """
    listed = get_reader("torchao").read(
        fqn_config({"proj_out.bias": False, "proj_out": True, r"re:.*q\..*": True})
    )
    assert chosen(listed, ModelTree(fqns=INSIDE)) == {"blocks.0.q", "blocks.1.q"}
    assert listed.notes[0].startswith("1 key(s) name a bias (proj_out.bias)")


def test_torchao_reads_components() -> None:
    """{component:

    FqnToConfig}: a part is for its component, one that is missing leaves bf16, a bare config is for
    every Linear.
    """
    fqns = ("transformer.proj_out", "transformer.x", "transformer_2.proj_out", "vae.x")
    tree = ModelTree(
        fqns=fqns, classes={"transformer": "A", "transformer_2": "A", "vae": "B"}, several=True
    )
    parts = {"transformer": json.loads(fqn_config({"proj_out": True})), "vae": MX}
    listed = get_reader("torchao").read(json.dumps(parts))
    assert chosen(listed, tree) == {fqns[0], fqns[3]}
    assert listed.hits(listed.entries[0], tree) == {fqns[0]}
    assert chosen(get_reader("torchao").read(fqn_config({"proj_out": True})), tree) == {
        fqns[0],
        fqns[2],
    }
    assert chosen(get_reader("torchao").read(json.dumps(MX)), tree) == set(fqns)


def test_formats_are_recognised() -> None:
    """torchao's own JSON of our formats, and of the class with its defaults, has the format that it
    means.
    """
    from torchao.core.config import config_to_dict
    from torchao.quantization import FqnToConfig

    from sensitivity.formats.registry import get_format

    keys = {name: get_format(name).native_config() for name in (MXFP8, NVFP4, FP8)} | {
        "default": mx_config(),
        "none": None,
    }
    listed = get_reader("torchao").read(json.dumps(config_to_dict(FqnToConfig(keys))))
    tree = ModelTree(fqns=tuple(keys))
    assert list(listed.assign(tree, quantized=BF16).values()) == [MXFP8, NVFP4, FP8, MXFP8, BF16]


def _foreign_configs() -> list[tuple[Any, str]]:
    from torchao.prototype.mx_formats import MXDynamicActivationMXWeightConfig
    from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, Int8WeightOnlyConfig
    from torchao.quantization.quantize_.common import KernelPreference

    fp4 = {
        "activation_dtype": torch.float4_e2m1fn_x2,
        "weight_dtype": torch.float4_e2m1fn_x2,
        "kernel_preference": KernelPreference.EMULATED,
    }
    return [
        (Int8WeightOnlyConfig(), "Int8WeightOnlyConfig"),
        (
            Float8DynamicActivationFloat8WeightConfig(set_inductor_config=False),
            "Float8DynamicActivationFloat8WeightConfig with PerTensor",
        ),
        (
            MXDynamicActivationMXWeightConfig(**fp4),
            "MXDynamicActivationMXWeightConfig in float4_e2m1fn_x2, blocks of 32",
        ),
    ]


def test_other_configs_are_named() -> None:
    """A config of none of our formats is refused with its type, what differs, and the key."""
    from torchao.core.config import config_to_dict
    from torchao.quantization import FqnToConfig

    for config, words in _foreign_configs():
        with pytest.raises(PatternError, match=f"found the config {words} for 'blocks.0'"):
            get_reader("torchao").read(
                json.dumps(config_to_dict(FqnToConfig({"blocks.0": config})))
            )


@pytest.mark.parametrize("name", ["torchao", "diffusers"])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("proj_out", "found no valid JSON at line 1"),
        ("[1]", "found a list"),
        ("{}", "found an empty object"),
        ('{"a": NaN}', "found NaN"),
        ('{"a": 1, "a": 2}', "'a' twice"),
        ("[" * 100_000, "found nesting deeper"),
        ('{"a": 1}', "found 1 for"),
        ('{"quant_method": "torchao", "quant_type": "int8wo", "_type": "x"}', "allowed"),
        ('{"quant_method": "gguf", "_type": 3}', "allowed"),
        (
            '{"quant_type": {"default": {"_type": "FqnToConfig"}}, "_type": "FqnToConfig"}',
            "found an FqnToConfig without one mapping",
        ),
    ],
)
def test_json_that_is_no_list(name: str, text: str, message: str) -> None:
    """Hostile and foreign JSON is refused with words."""
    with pytest.raises(PatternError, match=message) as error:
        get_reader(name).read(text)
    assert "form is" in str(error.value)


# --- diffusers ------------------------------------------------------------------------------------


def diffusers_choice(
    keys: Mapping[str, bool] | None, parts: list[str] | None, kept: list[str]
) -> set[str]:
    """The Linears of `Namesakes` that the real diffusers would quantize."""
    import diffusers
    from diffusers.quantizers.torchao.torchao_quantizer import (
        TorchAoHfQuantizer,
        _resolve_fqn_to_config,
    )
    from torchao.quantization import FqnToConfig

    config = (
        mx_config()
        if keys is None
        else FqnToConfig({key: mx_config() if value else None for key, value in keys.items()})
    )
    quantizer = TorchAoHfQuantizer(
        diffusers.TorchAoConfig(
            config, modules_to_not_convert=None if parts is None else list(parts)
        )
    )
    quantizer.offload = False
    net: Any = Namesakes()
    net.config = types.SimpleNamespace()
    quantizer._process_model_before_weight_loading(net, None, keep_in_fp32_modules=kept)
    return {
        fqn
        for fqn in INSIDE
        if quantizer.check_if_quantized_param(
            net, net.proj_out.weight, f"{fqn}.weight", {}, param_device="cpu"
        )
        and (keys is None or _resolve_fqn_to_config(config, fqn, f"{fqn}.weight") is not None)
    }


PARTS = (
    "proj_out",
    "proj_out.weight",
    "blocks.0",
    "blocks.0.q",
    "q",
    "0",
    "s.1.q",
    "blocks.0.proj_out.weight",
    ".*q",
    "dead",
    "weight",
    "proj",
    "out",
)


@pytest.mark.filterwarnings("ignore:Config Deprecation")
@settings(max_examples=200, deadline=None)
@given(
    st.none() | st.dictionaries(st.sampled_from(KEYS), st.booleans(), max_size=4),
    st.none() | st.lists(st.sampled_from(PARTS), max_size=3),
    st.lists(st.sampled_from(PARTS), max_size=1),
)
def test_diffusers_is_simulated_exactly(
    keys: dict[str, bool] | None, parts: list[str] | None, kept: list[str]
) -> None:
    """For any keys, `modules_to_not_convert` and `_keep_in_fp32_modules`, the real quantizer
    quantizes what the reader says.
    """
    import diffusers

    config = {
        "quant_method": "torchao",
        "quant_type": {"default": MX if keys is None else json.loads(fqn_config(keys))},
        "modules_to_not_convert": parts,
    }
    listed = get_reader("diffusers").read(json.dumps({"transformer": config}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            diffusers,
            "Toy",
            types.SimpleNamespace(_keep_in_fp32_modules=kept or None),
            raising=False,
        )
        found = chosen(listed, ModelTree(fqns=INSIDE, classes={"transformer": "Toy"}))
    assert found == diffusers_choice(keys, parts, kept)


def test_diffusers_texts() -> None:
    """`to_dict()` of the real config, bare, for components, or in a saved config.json; components
    that are not named stay bf16.
    """
    import diffusers

    config, one = (
        diffusers.TorchAoConfig(mx_config(), modules_to_not_convert=["proj_out"]).to_dict(),
        ModelTree(fqns=INSIDE, classes={"transformer": ""}),
    )
    for text in (
        config,
        {"quantization_config": config},
        {"transformer": config, "text_encoder": config},
    ):
        assert chosen(get_reader("diffusers").read(json.dumps(text, default=str)), one) == {
            "blocks.0.q",
            "blocks.1.q",
        }
    several = ModelTree(
        fqns=("transformer.q", "transformer_2.q"),
        classes={"transformer": "", "transformer_2": ""},
        several=True,
    )
    assert chosen(get_reader("diffusers").read(json.dumps({"transformer": config})), several) == {
        "transformer.q"
    }


def test_what_wan_keeps_in_fp32() -> None:
    """The real class's `_keep_in_fp32_modules` keeps the time embedder, and neither the modulation
    beside it nor blocks.
    """
    fqns = (
        "condition_embedder.time_embedder.linear_1",
        "condition_embedder.time_proj",
        "blocks.0.attn1.to_q",
        "blocks.0.norm2",
    )
    config = {
        "quant_method": "torchao",
        "quant_type": {"default": MX},
        "modules_to_not_convert": None,
    }
    listed = get_reader("diffusers").read(json.dumps(config))
    tree = ModelTree(fqns=fqns, classes={"transformer": "WanTransformer3DModel"})
    assert chosen(listed, tree) == {fqns[1], fqns[2]}


# --- filter_fn ------------------------------------------------------------------------------------

FILTERS = """\
import dataclasses
from torch import nn

@dataclasses.dataclass
class Limits:
    least: int = 64

def wide(module, fqn):
    return isinstance(module, nn.Linear) and module.in_features >= Limits().least and "proj_out" not in fqn

def unguarded(module, fqn):
    return "blocks" in fqn

def needy(module, fqn):
    return isinstance(module, nn.Linear) and module.heads > 1

NUMBER = 3
"""


@pytest.fixture
def filters(tmp_path: Path) -> Path:
    path = tmp_path / "my_filters.py"
    path.write_text(FILTERS)
    return path


def test_no_code_runs_unless_it_is_asked_for(tmp_path: Path) -> None:
    """The reader that everybody gets refuses, says that it would run code and how to allow it, and
    has run none.
    """
    ran = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(f"open({str(ran)!r}, 'w')\ndef f(module, fqn): return True\n")
    with pytest.raises(
        PatternError,
        match=r"Python code that would have to be run.*`allow_code`",
    ):
        get_reader("filter-fn").read(f"{tmp_path / 'evil.py'}:f")
    assert not ran.exists()
    FilterFnReader(allow_code=True).read(f"{tmp_path / 'evil.py'}:f")
    assert ran.exists()


@pytest.mark.parametrize("by", ["file", "module"])
def test_a_filter_chooses_what_torchao_lets_it_choose(
    filters: Path, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a file, or a module in the working directory: the real `quantize_` quantizes the same
    Linears.
    """
    from torchao.quantization import quantize_

    monkeypatch.chdir(filters.parent)
    listed = FilterFnReader(allow_code=True).read(
        f"{filters if by == 'file' else 'my_filters'}:wide\n"
    )
    net = Namesakes()
    net.blocks[1]["q"] = nn.Linear(128, 32).bfloat16()
    net.proj_out = nn.Linear(128, 32).bfloat16()
    shapes = {
        fqn: (child.in_features, child.out_features)
        for fqn, child in net.named_modules()
        if isinstance(child, nn.Linear)
    }
    quantize_(net, mx_config(), filter_fn=listed.function)
    assert (
        chosen(listed, ModelTree(fqns=INSIDE, shapes=shapes)) == quantized_in(net) == {"blocks.1.q"}
    )
    assert listed.entries == ()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("my_filters.py", "expected module:function or path/to/file.py:function"),
        ("my_filters.py:wide()", "expected module:function"),
        (
            "my_filters.py:narrow",
            r"found no function 'narrow' in .*; expected one of wide, unguarded, needy",
        ),
        ("my_filters.py:NUMBER", "found no function 'NUMBER'"),
        ("nowhere.py:f", r"cannot be imported \(FileNotFoundError"),
        ("no_such_module_at_all:f", r"cannot be imported \(ModuleNotFoundError"),
        ("exits.py:f", r"cannot be imported \(SystemExit: 3\)"),
    ],
)
def test_filters_that_cannot_be_had(
    filters: Path, source: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is wrong with the name or the file is said; a file that exits does not end the program."""
    monkeypatch.chdir(filters.parent)
    Path("exits.py").write_text("raise SystemExit(3)")
    with pytest.raises(PatternError, match=message):
        FilterFnReader(allow_code=True).read(source)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "unguarded",
            "chooses the module 'blocks', which is no Linear: torchao's quantize_ fails there",
        ),
        (
            "needy",
            (
                r"fails on the Linear blocks.0.q \(K = 32, N = 32\) with AttributeError: 'Linear'"
                r" object has no attribute 'heads'"
            ),
        ),
    ],
)
def test_filters_that_fail(filters: Path, name: str, message: str) -> None:
    """A filter that torchao would fail on, or that wants more than a Linear's sizes, is refused
    with the module's name.
    """
    listed = FilterFnReader(allow_code=True).read(f"{filters}:{name}")
    with pytest.raises(PatternError, match=message):
        listed.assign(
            ModelTree(fqns=INSIDE, shapes=dict.fromkeys(INSIDE, (32, 32))), quantized=NVFP4
        )


def test_a_filter_needs_shapes(filters: Path) -> None:
    """A Linear whose K and N nobody knows is named."""
    with pytest.raises(PatternError, match=r"found no K and N of blocks\.0\.q"):
        FilterFnReader(allow_code=True).read(f"{filters}:wide").assign(TREE, quantized=NVFP4)
