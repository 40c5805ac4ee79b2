"""torchao's lists: what the reader says of them, against the real `quantize_`."""

import json
import re
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sensitivity.consumers.lists import ModelTree
from sensitivity.consumers.readers import get_reader
from sensitivity.consumers.readers.torchao_configs import OTHERS, READERS
from sensitivity.core.format_name import FormatName
from sensitivity.errors import PatternError

from support.fqn_configs import INSIDE, KEYS, MX, TREE, chosen, fqn_config
from support.namesakes import SmallNamesakeNet, mx_config, quantized_types

BF16, MXFP8, NVFP4, FP8 = FormatName.BF16, FormatName.MXFP8, FormatName.NVFP4, FormatName.FP8


@pytest.mark.filterwarnings("ignore:Config Deprecation")
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
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

    net, keys, failed = SmallNamesakeNet(), dict(pairs), False
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
        assert chosen(listed) == set(quantized_types(net))


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
def test_torchao_failures_are_predicted(keys: dict[str, bool], message: str) -> None:
    """A list on which torchao stops is refused with the key and the name; its entries can still be
    asked what they hit.
    """
    listed = get_reader("torchao").read(fqn_config(keys))
    with pytest.raises(PatternError, match=message):
        listed.assign(TREE, quantized=MXFP8)
    assert listed.hits(listed.entries[0], TREE)


def test_unknown_biases() -> None:
    """Where biases are not known, a key for one still counts, with a note, and `re:` keys are read
    as if they fit weights only.
    """
    listed = get_reader("torchao").read(
        fqn_config({"proj_out.bias": False, "proj_out": True, r"re:.*q\..*": True})
    )
    assert chosen(listed, ModelTree(fqns=INSIDE)) == {"blocks.0.q", "blocks.1.q"}
    assert listed.notes[0].startswith("1 key(s) name a bias (proj_out.bias)")


def test_torchao_reads_components() -> None:
    """A part is for its component, a component without a part stays bf16, and a bare config is for
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
    from torchao.prototype.mx_formats import (
        MXDynamicActivationMXWeightConfig,
        NVFP4WeightOnlyConfig,
    )
    from torchao.quantization import (
        Float8DynamicActivationFloat8WeightConfig,
        Float8WeightOnlyConfig,
        Int8DynamicActivationInt8WeightConfig,
        Int8WeightOnlyConfig,
        MappingType,
        PerGroup,
        PerRow,
        PerTensor,
    )
    from torchao.quantization.quantize_.common import KernelPreference

    fp4 = {
        "activation_dtype": torch.float4_e2m1fn_x2,
        "weight_dtype": torch.float4_e2m1fn_x2,
        "kernel_preference": KernelPreference.EMULATED,
    }
    groups = PerGroup(32)
    return [
        (Int8WeightOnlyConfig(granularity=groups), "int8, PerGroup, weight-only"),
        (Float8WeightOnlyConfig(granularity=PerTensor()), "fp8, PerTensor, weight-only"),
        (Float8WeightOnlyConfig(torch.float8_e5m2), "fp8, PerRow, weight-only"),
        (
            NVFP4WeightOnlyConfig(use_dynamic_per_tensor_scale=False),
            "nvfp4 of one scale level weight-only",
        ),
        (Int8DynamicActivationInt8WeightConfig(granularity=PerTensor()), "int8, PerTensor"),
        (
            Int8DynamicActivationInt8WeightConfig(act_mapping_type=MappingType.ASYMMETRIC),
            "int8, PerRow and asymmetric",
        ),
        (
            Float8DynamicActivationFloat8WeightConfig(
                granularity=PerRow(), activation_value_lb=1e-3, set_inductor_config=False
            ),
            "fp8, PerRow, bounded",
        ),
        (Float8DynamicActivationFloat8WeightConfig(set_inductor_config=False), "fp8, PerTensor"),
        (MXDynamicActivationMXWeightConfig(**fp4), "mx of float4_e2m1fn_x2, blocks of 32"),
    ]


def test_configs_of_the_variants_are_ours() -> None:
    """torchao's own configs with one scale a row, with the lower bound of fp8-lb, and of weights
    alone, as torchao makes them by default.
    """
    from torchao.core.config import config_to_dict
    from torchao.prototype.mx_formats import NVFP4WeightOnlyConfig
    from torchao.quantization import (
        Float8DynamicActivationFloat8WeightConfig,
        Float8WeightOnlyConfig,
        FqnToConfig,
        Int8DynamicActivationInt8WeightConfig,
        Int8WeightOnlyConfig,
        PerRow,
    )

    made = {
        "int8": Int8DynamicActivationInt8WeightConfig(),
        "int8-a16": Int8WeightOnlyConfig(),
        "fp8-a16": Float8WeightOnlyConfig(),
        "nvfp4-a16": NVFP4WeightOnlyConfig(),
        "fp8-lb": Float8DynamicActivationFloat8WeightConfig(
            granularity=PerRow(), activation_value_lb=1e-12
        ),
    }
    listed = get_reader("torchao").read(json.dumps(config_to_dict(FqnToConfig(made))))
    found = listed.assign(ModelTree(fqns=tuple(made)), quantized=NVFP4)
    assert found == {name: FormatName(name) for name in made}
    assert all(isinstance(own, FormatName) for own in found.values())


def test_other_configs_are_named() -> None:
    """A config of none of our formats, weight-only ones among them, is read under its own name."""
    from torchao.core.config import config_to_dict
    from torchao.quantization import FqnToConfig

    for config, words in _foreign_configs():
        listed = get_reader("torchao").read(
            json.dumps(config_to_dict(FqnToConfig({"blocks.0": config})))
        )
        found = listed.assign(ModelTree(fqns=("blocks.0", "blocks.1")), quantized=NVFP4)
        assert found == {"blocks.0": words, "blocks.1": BF16}
        assert listed.other_formats == (words,)


def test_every_config_of_torchao_is_known() -> None:
    """Every config for inference of torchao's public modules is ours or has a name here."""
    import torchao.prototype.mx_formats as prototype
    import torchao.quantization as public
    from torchao.core.config import AOBaseConfig

    found = {
        value.__name__
        for module in (public, prototype)
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, AOBaseConfig)
        and value is not AOBaseConfig
        and value.__name__[0].isupper()  # an older name of training
    }
    assert found - {*READERS, "FqnToConfig", "ModuleFqnToConfig"} - set(OTHERS) == set()
    with pytest.raises(PatternError, match=r"'Int8WeightOnlyConfg' .*mean 'Int8WeightOnlyConfig'"):
        get_reader("torchao").read('{"_type": "Int8WeightOnlyConfg", "_data": {}}')


@pytest.mark.parametrize("name", ["torchao", "diffusers"])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("proj_out", "found a str"),
        ("[1]", "found a list"),
        ("{}", "found an empty object"),
        ('{"a": NaN}', "found NaN"),
        ('{"a": 1, "a": 2}', "'a' twice"),
        ("[" * 100_000, "found nesting deeper"),
        ('{"a": 1}', "found an object with 'a', in which there is no list"),
        ('{"quant_method": "torchao", "quant_type": "INT8 wo", "_type": "x"}', "expected"),
        ('{"quant_method": "magic", "_type": 3}', "expected"),
        (
            '{"quant_type": {"default": {"_type": "FqnToConfig", "_data": 3}},'
            ' "_type": "FqnToConfig", "_data": 3}',
            "found an FqnToConfig without one mapping",
        ),
    ],
)
def test_json_that_is_no_list(name: str, text: str, message: str) -> None:
    """Hostile and foreign JSON is refused; the message says what was found and expected."""
    with pytest.raises(PatternError, match=message) as error:
        get_reader(name).read(text)
    assert re.search("expected|this form is", str(error.value))
