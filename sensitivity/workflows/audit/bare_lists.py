"""What does a bare list of strings mean to a consumer? The same as inside its config.

People copy the one list out of a consumer's config: `["proj_out", "norm"]`. For the forms in
`CONFIGS` such a text is read as if it stood in that config, which quantizes all else to one format.

    config_of('["proj_out"]', "diffusers", FormatName.NVFP4)     # the config as JSON, or None
"""

import json
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from sensitivity.consumers.readers.literals import parse_python
from sensitivity.core.format_name import FormatName
from sensitivity.errors import PatternError

_TORCHAO = {
    FormatName.NVFP4: {"_type": "NVFP4DynamicActivationNVFP4WeightConfig", "_data": {}},
    FormatName.MXFP8: {"_type": "MXDynamicActivationMXWeightConfig", "_data": {}},
    FormatName.FP8: {
        "_type": "Float8DynamicActivationFloat8WeightConfig",
        "_data": {"granularity": {"_type": "PerRow", "_data": {}}},
    },
}


def _served(names: list[str], name: FormatName) -> dict[str, Any]:
    """SGLang's config: ModelOpt's for NVFP4, its own otherwise."""
    if name is FormatName.NVFP4:
        return {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": names}
    return {"quantization": name.value, "quantization_ignored_layers": names}


CONFIGS: Mapping[str, Callable[[list[str], FormatName], dict[str, Any]]] = MappingProxyType(
    {
        "diffusers": lambda names, name: {
            "quant_method": "torchao",
            "quant_type": {"default": _TORCHAO[name]},
            "modules_to_not_convert": names,
        },
        "modelopt": lambda names, name: {
            "quant_algo": "FP8_PER_CHANNEL_PER_TOKEN" if name is FormatName.FP8 else name.upper(),
            "exclude_modules": names,
        },
        "compressed-tensors": lambda names, name: {
            "targets": ["Linear"],
            "scheme": "FP8_DYNAMIC" if name is FormatName.FP8 else name.upper(),
            "ignore": names,
        },
        "vllm-omni": lambda names, name: {"method": name.value, "ignored_layers": names},
        "sglang": _served,
    }
)
"""{form: what makes its config from a list and the format of all else}."""


def config_of(text: str, form: str, format: FormatName) -> str | None:
    """The config around a bare list, as JSON; None if the text is something else."""
    names = _strings(text) if form in CONFIGS else None
    return None if names is None else json.dumps(CONFIGS[form](names, format))


def _strings(text: str) -> list[str] | None:
    """The list of strings that a text is, written as in JSON or Python; None for anything else."""
    text = text.lstrip("\ufeff \t\r\n")
    if not text.startswith("["):
        return None
    try:
        values = parse_python(text)
    except (ValueError, PatternError):
        return None
    is_list = isinstance(values, list) and all(isinstance(value, str) for value in values)
    return values if is_list else None
