"""Which of our formats does a torchao config, as JSON, stand for?

    format_of({"_type": "NVFP4DynamicActivationNVFP4WeightConfig", "_data": {}}, "blocks.0.to_q")
    entries, default = read_torchao_config(json_of_an_fqn_to_config, component="transformer")

The JSON is that of `torchao.core.config.config_to_dict`. A config is recognised by its type and the
fields that matter: mxfp8, nvfp4, fp8 with and without a lower bound of activations, int8, and
weight-only nvfp4, fp8 and int8; the last three with one scale a row. Any other config of torchao
(`OTHERS`) is a format that this tool does not have. A type that torchao does not have is refused.
Nothing in the JSON is run or imported.

Source of `OTHERS`: torchao 0.18, every subclass of `AOBaseConfig` for inference, and those that it
had since 0.10.
"""

from collections.abc import Callable, Mapping
from typing import Any

from sensitivity.consumers.lists import Entry
from sensitivity.consumers.other_formats import ListedFormat, OtherFormat, weight_only
from sensitivity.core.format_name import FormatName
from sensitivity.core.words import did_you_mean
from sensitivity.errors import PatternError

_MXFP8, _NVFP4, _FP8, _INT8 = (
    "MXDynamicActivationMXWeightConfig",
    "NVFP4DynamicActivationNVFP4WeightConfig",
    "Float8DynamicActivationFloat8WeightConfig",
    "Int8DynamicActivationInt8WeightConfig",
)
_NVFP4_A16, _FP8_A16, _INT8_A16 = (
    f"{name}WeightOnlyConfig" for name in ("NVFP4", "Float8", "Int8")
)

LOWER_BOUND = 1e-12
"""The `activation_value_lb` of fp8-lb; another one is another format."""

OTHERS: Mapping[str, OtherFormat] = {
    **{
        f"{name}WeightOnlyConfig": weight_only(words)
        for name, words in {
            "Codebook": "codebook",
            "FPX": "fpx",
            "GGUF": "gguf",
            "GemliteUIntX": "uintx",
            "Int4": "int4",
            "IntN": "intn",
            "Intx": "intx",
            "NF4": "nf4",
            "PrototypeInt4": "int4",
            "UIntX": "uintx",
            "UIntx": "uintx",
        }.items()
    },
    "AWQConfig": weight_only("awq"),
    "GPTQConfig": weight_only("gptq"),
    "GroupwiseLutWeightConfig": weight_only("codebook"),
    "StretchedIntxWeightConfig": weight_only("intx"),
    "BlockSparseWeightConfig": OtherFormat("block-sparse"),
    "Float8DynamicActivationFloat8SemiSparseWeightConfig": OtherFormat("fp8, semi-sparse"),
    "Float8DynamicActivationFloat8WeightOpaqueTensorConfig": OtherFormat("fp8, opaque tensors"),
    "Float8DynamicActivationInt4WeightConfig": OtherFormat("int4 weights, fp8 activations"),
    "Float8StaticActivationFloat8WeightConfig": OtherFormat("fp8, static"),
    "Int4DynamicActivationInt4WeightConfig": OtherFormat("int4"),
    "Int8DynamicActivationInt4WeightConfig": OtherFormat("int4 weights, int8 activations"),
    "Int8DynamicActivationIntxWeightConfig": OtherFormat("intx weights, int8 activations"),
    "Int8DynamicActivationUIntxWeightConfig": OtherFormat("uintx weights, int8 activations"),
    "Int8StaticActivationInt8WeightConfig": OtherFormat("int8, static"),
    "SemiSparseWeightConfig": OtherFormat("semi-sparse"),
    "SmoothQuantConfig": OtherFormat("int8, smoothquant"),
}
"""{type of a config that is in none of our formats: its words}."""


def read_torchao_config(config: Any, component: str) -> tuple[list[Entry], ListedFormat]:
    """(entries, default) of an `FqnToConfig` as JSON, or of a config for every Linear.

    Args:
        config: the JSON.
        component: the component that it is for; "" is every component.

    Raises:
        PatternError: it is no such JSON, or has a config that torchao does not have.
    """
    kind = config.get("_type") if isinstance(config, dict) else None
    if kind not in ("FqnToConfig", "ModuleFqnToConfig"):
        return [], format_of(config, "every Linear")
    keys = {key: format_of(value, repr(key)) for key, value in _keys_of(config).items()}
    default = keys.pop("_default", FormatName.BF16)
    entries = [
        Entry(text=key, rule="weight-key", format=name, component=component)
        for key, name in keys.items()
    ]
    return entries, default


def _keys_of(config: dict[str, Any]) -> dict[str, Any]:
    """{key: config} of an `FqnToConfig`.

    torchao writes the mapping under an older name as well, and both must be the same.
    """
    data = config.get("_data")
    maps = (
        [data.get(name) or {} for name in ("fqn_to_config", "module_fqn_to_config")]
        if isinstance(data, dict)
        else []
    )
    are_maps = bool(maps) and all(isinstance(keys, dict) for keys in maps)
    if not are_maps or (all(maps) and maps[0] != maps[1]):
        raise PatternError(
            "found an FqnToConfig without one mapping of keys to configs; expected fqn_to_config,"
            " or module_fqn_to_config with the same keys; write it with"
            " torchao.core.config.config_to_dict"
        )
    keys: dict[str, Any] = maps[0] or maps[1]
    return keys


def format_of(config: Any, where: str) -> ListedFormat:
    """The format that a torchao config stands for; null is bf16.

    Args:
        config: the JSON.
        where: what the config is for, for the message.

    Raises:
        PatternError: it is no config of torchao; the message has its type.
    """
    if config is None:
        return FormatName.BF16
    kind = config.get("_type") if isinstance(config, dict) else None
    data = config.get("_data") if isinstance(config, dict) else None
    known = (*READERS, *OTHERS)
    if not isinstance(kind, str) or not isinstance(data, dict):
        raise PatternError(
            f"found {config!r:.80} for {where[:80]}; expected a config as"
            f" torchao.core.config.config_to_dict writes it, such as {', '.join(known[:3])}, or"
            " null"
        )
    if kind in READERS:
        return READERS[kind](data)
    if kind not in OTHERS:
        hint = did_you_mean(kind[:80], known, otherwise="take it out, or write null")
        raise PatternError(
            f"found the config {kind[:80]!r} for {where[:80]}; expected a config of torchao, such"
            f" as {', '.join(known[:3])}, or null; {hint}"
        )
    return OTHERS[kind]


def _mx_format(data: Mapping[str, Any]) -> ListedFormat:
    """mxfp8, or what else an MX config stands for."""
    sides = ("weight_dtype", "activation_dtype")
    dtypes = dict.fromkeys(_name(data.get(side, "float8_e4m3fn")) for side in sides)
    block_size = data.get("block_size", 32)
    if list(dtypes) == ["float8_e4m3fn"] and block_size == 32:
        return FormatName.MXFP8
    return OtherFormat(f"mx of {' and '.join(dtypes)}, blocks of {block_size}"[:80])


def _fp8_format(data: Mapping[str, Any]) -> ListedFormat:
    """Row-wise fp8, or what else a dynamic fp8 config stands for."""
    scales = _scales(data, "PerTensor")
    dtypes = {
        _name(data.get(f"{side}_dtype") or "float8_e4m3fn") for side in ("weight", "activation")
    }
    bounds = (data.get("activation_value_lb"), data.get("activation_value_ub"))
    if scales == {"PerRow"} and dtypes == {"float8_e4m3fn"} and bounds[1] is None:
        if bounds[0] is None:
            return FormatName.FP8
        if bounds[0] == LOWER_BOUND:
            return FormatName.FP8_LB
    other = "" if dtypes == {"float8_e4m3fn"} else f" of {' and '.join(sorted(dtypes))}"
    bounded = "" if bounds == (None, None) else ", bounded"
    return OtherFormat(f"fp8{other}, {' and '.join(sorted(scales))}{bounded}"[:80])


def _int8_format(data: Mapping[str, Any]) -> ListedFormat:
    """Row-wise symmetric int8, or what else a dynamic int8 config stands for."""
    scales = _scales(data, "PerRow")
    mapping = _name(data.get("act_mapping_type") or "SYMMETRIC")
    is_plain = not (data.get("weight_only_decode") or data.get("reduce_range"))
    if scales == {"PerRow"} and mapping == "SYMMETRIC" and is_plain:
        return FormatName.INT8
    words = [*sorted(scales), *(["asymmetric"] if mapping != "SYMMETRIC" else [])]
    return OtherFormat(f"int8, {' and '.join(words)}{'' if is_plain else ', reduced'}"[:80])


def _nvfp4_weights(data: Mapping[str, Any]) -> ListedFormat:
    """nvfp4-a16, or nvfp4 weights without a scale a tensor."""
    has_both = data.get("use_dynamic_per_tensor_scale", True)
    return FormatName.NVFP4_A16 if has_both else weight_only("nvfp4 of one scale level")


def _fp8_weights(data: Mapping[str, Any]) -> ListedFormat:
    """fp8-a16, or what else a weight-only fp8 config stands for."""
    dtype = _name(data.get("weight_dtype") or "float8_e4m3fn")
    is_ours = dtype == "float8_e4m3fn" and _scales(data, "PerRow") == {"PerRow"}
    return FormatName.FP8_A16 if is_ours else _weights("fp8", data)


def _int8_weights(data: Mapping[str, Any]) -> ListedFormat:
    """int8-a16, or what else a weight-only int8 config stands for."""
    is_ours = _scales(data, "PerRow") == {"PerRow"} and data.get("group_size") is None
    return FormatName.INT8_A16 if is_ours else _weights("int8", data)


def _weights(what: str, data: Mapping[str, Any]) -> OtherFormat:
    return weight_only(f"{what}, {' and '.join(sorted(_scales(data, 'PerGroup')))},"[:60])


READERS: Mapping[str, Callable[[Mapping[str, Any]], ListedFormat]] = {
    _MXFP8: _mx_format,
    _NVFP4: lambda _data: FormatName.NVFP4,
    _FP8: _fp8_format,
    _INT8: _int8_format,
    _NVFP4_A16: _nvfp4_weights,
    _FP8_A16: _fp8_weights,
    _INT8_A16: _int8_weights,
}
"""{type of a config: what it stands for, by its fields}."""


def _scales(data: Mapping[str, Any], default: str) -> set[str]:
    """The names of the granularities of a config; `default` where it names none."""
    given = data.get("granularity")
    sides = given if isinstance(given, list) else [given]
    return {default if side is None else _name(side) for side in sides}


def _name(value: Any) -> str:
    """The name of a dtype, of a member of an enum or of a granularity.

    The first two are {"_type": ..., "_data": name}, a granularity is {"_type": name, ...}.
    """
    if not isinstance(value, dict):
        return str(value)
    data = value.get("_data")
    return data if isinstance(data, str) else str(value.get("_type"))
