"""Which of our formats does a torchao config, as JSON, stand for?

    format_of({"_type": "NVFP4DynamicActivationNVFP4WeightConfig", "_data": {}}, "blocks.0.to_q")
    entries, default = read_torchao_config(json_of_an_fqn_to_config, component="transformer")

The JSON is that of `torchao.core.config.config_to_dict`. A config is recognised by its type and the
fields that matter: mxfp8, nvfp4, row-wise fp8. Any other config of torchao (`OTHERS`) is a format
that this tool does not have, weight-only ones among them. A type that torchao does not have is
refused. Nothing in the JSON is run or imported.

Source of `OTHERS`: torchao 0.18, every subclass of `AOBaseConfig` for inference, and those that it
had since 0.10.
"""

from collections.abc import Mapping
from typing import Any

from sensitivity.consumers.lists import Entry
from sensitivity.consumers.other_formats import ListedFormat, OtherFormat, weight_only
from sensitivity.core.format_name import FormatName
from sensitivity.core.words import did_you_mean
from sensitivity.errors import PatternError

_MXFP8, _NVFP4, _FP8 = (
    "MXDynamicActivationMXWeightConfig",
    "NVFP4DynamicActivationNVFP4WeightConfig",
    "Float8DynamicActivationFloat8WeightConfig",
)

OTHERS: Mapping[str, OtherFormat] = {
    **{
        f"{name}WeightOnlyConfig": weight_only(words)
        for name, words in {
            "Codebook": "codebook",
            "FPX": "fpx",
            "Float8": "fp8",
            "GGUF": "gguf",
            "GemliteUIntX": "uintx",
            "Int4": "int4",
            "Int8": "int8",
            "IntN": "intn",
            "Intx": "intx",
            "NF4": "nf4",
            "NVFP4": "nvfp4",
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
    "Int8DynamicActivationInt8WeightConfig": OtherFormat("int8"),
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
    known = (_MXFP8, _NVFP4, _FP8, *OTHERS)
    if not isinstance(kind, str) or not isinstance(data, dict):
        raise PatternError(
            f"found {config!r:.80} for {where[:80]}; expected a config as"
            f" torchao.core.config.config_to_dict writes it, such as {', '.join(known[:3])}, or"
            " null"
        )
    if kind == _MXFP8:
        return _mx_format(data)
    if kind == _NVFP4:
        return FormatName.NVFP4
    if kind == _FP8:
        return _fp8_format(data)
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
    given = data.get("granularity")
    scales = {_name(side) for side in (given if isinstance(given, list) else [given])}
    dtypes = {
        _name(data.get(f"{side}_dtype") or "float8_e4m3fn") for side in ("weight", "activation")
    }
    if scales == {"PerRow"} and dtypes == {"float8_e4m3fn"}:
        return FormatName.FP8
    words = " and ".join(sorted(name.replace("None", "PerTensor") for name in scales))
    other = "" if dtypes == {"float8_e4m3fn"} else f" of {' and '.join(sorted(dtypes))}"
    return OtherFormat(f"fp8{other}, {words}"[:80])


def _name(value: Any) -> str:
    """The name of a dtype or of a granularity.

    A dtype is {"_type": "torch.dtype", "_data": name}, a granularity {"_type": name, ...}.
    """
    if not isinstance(value, dict):
        return str(value)
    return str(value.get("_data") if value.get("_type") == "torch.dtype" else value.get("_type"))
