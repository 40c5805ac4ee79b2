"""diffusers' lists: what the reader says of them, against the real quantizer."""

import json
import types
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensitivity.consumers.lists import ModelTree
from sensitivity.consumers.readers import get_reader
from sensitivity.core.format_name import FormatName
from sensitivity.errors import PatternError

from support.fqn_configs import INSIDE, KEYS, MX, chosen, fqn_config
from support.namesakes import SmallNamesakeNet, mx_config


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
    net: Any = SmallNamesakeNet()
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
@settings(max_examples=100, deadline=None)
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


BACKENDS: dict[str, tuple[dict[str, object], str, set[str]]] = {
    "bitsandbytes": (
        {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
        "nf4 (bitsandbytes) weight-only",
        {"proj_out", "blocks.0.proj_out", "proj_out.inner"},
    ),
    "quanto": (
        {"quant_method": "quanto", "weights_dtype": "float8"},
        "float8 (quanto) weight-only",
        {"proj_out", "blocks.0.proj_out"},
    ),
    "gguf": (
        {"quant_method": "gguf"},
        "gguf weight-only",
        {"proj_out", "blocks.0.proj_out", "proj_out.inner"},
    ),
    "modelopt": (
        {"quant_method": "modelopt", "quant_type": "NVFP4"},  # by itself it leaves `proj_out.*`
        "nvfp4 (modelopt) weight-only",
        {"proj_out", "blocks.0.proj_out", "proj_out.inner", "proj_out_2"},
    ),
    "sdnq": (
        {"quant_method": "sdnq", "weights_dtype": "uint4"},
        "uint4 (sdnq) weight-only",
        {"proj_out", "blocks.0.proj_out", "proj_out.inner"},
    ),
    "torchao by an older name": (
        {"quant_method": "torchao", "quant_type": "uint4wo"},
        "uint4 weight-only",
        {"proj_out", "blocks.0.proj_out", "proj_out.inner"},
    ),
}
"""{backend: its config without a list, its format, what the entry `proj_out` keeps in bf16}."""


@pytest.mark.parametrize("name", BACKENDS)
def test_other_backends_have_their_own_rules(name: str) -> None:
    """Each backend's entries are matched by its own rule, and its format is no format of ours."""
    config, format, kept = BACKENDS[name]
    key = "llm_int8_skip_modules" if name == "bitsandbytes" else "modules_to_not_convert"
    fqns = ("proj_out", "blocks.0.proj_out", "proj_out.inner", "proj_out_2", "blocks.0.to_q")
    listed = get_reader("diffusers").read(json.dumps({**config, key: ["proj_out"]}))
    found = listed.assign(ModelTree(fqns=fqns), quantized=FormatName.NVFP4)
    assert {fqn for fqn, one in found.items() if one is FormatName.BF16} == kept
    assert {one for fqn, one in found.items() if fqn not in kept} == {format}


def test_a_list_under_another_backends_key_is_refused() -> None:
    """A backend ignores another backend's key, so that its list would keep nothing."""
    for config, key in (
        ({"load_in_4bit": True}, "modules_to_not_convert"),
        ({"quant_method": "quanto"}, "llm_int8_skip_modules"),
    ):
        with pytest.raises(PatternError, match=f"found {key} in a config of .*; rename it"):
            get_reader("diffusers").read(json.dumps({**config, key: ["proj_out"]}))


def test_sdnq_and_modelopt_read_names_of_weights() -> None:
    """A saved list has names of parameters: sdnq needs the whole of one, ModelOpt looks at the
    weight's quantizer.
    """
    tree = ModelTree(fqns=("blocks.0.mod", "blocks.1.mod"))
    for method, entry, kept in (
        ("sdnq", "blocks.0.mod.weight", {"blocks.0.mod"}),
        ("sdnq", "blocks.0.mod", set()),
        ("modelopt", "0.mod.weight", {"blocks.0.mod"}),
    ):
        config = {"quant_method": method, "modules_to_not_convert": [entry]}
        listed = get_reader("diffusers").read(json.dumps(config))
        assert chosen(listed, tree) == set(tree.fqns) - kept


def test_nunchaku_names_what_is_quantized() -> None:
    """Targets of a nunchaku checkpoint are whole names; all else stays bf16."""
    config = {
        "quant_method": "nunchaku_lite",
        "svdq_w4a4": {"precision": "nvfp4", "targets": ["blocks.0.to_q"]},
        "awq_w4a16": {"precision": "int4", "targets": ["norm.linear"]},
    }
    listed = get_reader("diffusers").read(json.dumps({"quantization_config": config}))
    tree = ModelTree(fqns=("blocks.0.to_q", "norm.linear", "proj_out"))
    assert listed.assign(tree, quantized=FormatName.NVFP4) == {
        "blocks.0.to_q": "nvfp4 with a low-rank part (svdquant)",
        "norm.linear": "int4 (awq) weight-only",
        "proj_out": FormatName.BF16,
    }
