"""Which of our formats does a torchao config, as JSON, stand for?

    format_of({"_type": "NVFP4DynamicActivationNVFP4WeightConfig", "_data": {}}, "blocks.0.to_q")
    entries, default = read_torchao_config(json_of_an_fqn_to_config, component="transformer")

The JSON is that of `torchao.core.config.config_to_dict`. A config is recognised by its type and the
fields that matter: mxfp8, nvfp4, row-wise fp8. Any other config is refused by name. Nothing in the
JSON is run or imported.
"""

from typing import Any

from sensitivity.consumers.lists import Entry
from sensitivity.core.format_name import FormatName
from sensitivity.errors import PatternError

_CONFIGS = (
    "MXDynamicActivationMXWeightConfig in float8_e4m3fn, NVFP4DynamicActivationNVFP4WeightConfig,"
    " Float8DynamicActivationFloat8WeightConfig with PerRow, null"
)


def read_torchao_config(config: Any, component: str) -> tuple[list[Entry], FormatName]:
    """(entries, default) of an `FqnToConfig` as JSON, or of a config for every Linear.

    Args:
        config: the JSON.
        component: the component that it is for; "" is every component.

    Raises:
        PatternError: it is no such JSON, or has a config that stands for none of our formats.
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


def format_of(config: Any, where: str) -> FormatName:
    """The format that a torchao config stands for; null is bf16.

    Args:
        config: the JSON.
        where: what the config is for, for the message.

    Raises:
        PatternError: it stands for none of our formats; the message has its type.
    """
    if config is None:
        return FormatName.BF16
    kind = config.get("_type") if isinstance(config, dict) else None
    data = config.get("_data") if isinstance(config, dict) else None
    if not isinstance(kind, str) or not isinstance(data, dict):
        raise PatternError(
            f"found {config!r:.80} for {where}; expected a config as"
            f" torchao.core.config.config_to_dict writes it, one of: {_CONFIGS}"
        )
    if kind == "MXDynamicActivationMXWeightConfig":
        sides = ("activation_dtype", "weight_dtype")
        dtypes = {_name(data.get(side, "float8_e4m3fn")) for side in sides}
        block_size = data.get("block_size", 32)
        if dtypes == {"float8_e4m3fn"} and block_size == 32:
            return FormatName.MXFP8
        kind += f" in {' and '.join(sorted(dtypes))}, blocks of {block_size}"
    elif kind == "NVFP4DynamicActivationNVFP4WeightConfig":
        return FormatName.NVFP4
    elif kind == "Float8DynamicActivationFloat8WeightConfig":
        given = data.get("granularity")
        scales = {_name(side) for side in (given if isinstance(given, list) else [given])}
        if scales == {"PerRow"}:
            return FormatName.FP8
        kind += f" with {' and '.join(sorted(s.replace('None', 'PerTensor') for s in scales))}"
    raise PatternError(
        f"found the config {kind} for {where}; expected one of {_CONFIGS}, since other configs have"
        " no format here; take it out, or write null"
    )


def _name(value: Any) -> str:
    """The name of a dtype or of a granularity.

    A dtype is {"_type": "torch.dtype", "_data": name}, a granularity {"_type": name, ...}.
    """
    if not isinstance(value, dict):
        return str(value)
    return str(value.get("_data") if value.get("_type") == "torch.dtype" else value.get("_type"))
