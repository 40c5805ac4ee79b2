"""What does the config of one of diffusers' backends say? `read_backend`.

    read_backend({"quant_method": "quanto", "weights_dtype": "int8",
                  "modules_to_not_convert": ["proj_out"]}, component="transformer")

diffusers has one config class a backend, and each backend its own rule for the entries that keep
Linears in bf16:

    torchao          entry + "." anywhere in the weight's name, or the whole of it
    bitsandbytes     the last part of the name, the whole name, or entry + "." anywhere in it
    quanto           the last part of the name
    gguf             any part of the name
    modelopt         anywhere in the name of the weight's quantizer; * and ? are special
    sdnq             any part of the name, or the whole of the weight's; * is special, and a dot in
                     front means its beginning (`readers.sdnq` has all of its lists)
    nunchaku_lite    whole names of the Linears that are quantized; all others stay bf16

torchao and sdnq have formats of this tool. The others, most of them weight-only, have a name and no
price.

A config with the key of another backend is refused, since its own backend ignores that list. What
sdnq adds to its list by itself when it quantizes is not seen; a saved checkpoint's list has it.

Source: diffusers 0.42.1 (`quantizers/quantization_config.py`, `quantizers/*/`), read; for sdnq
its own package, 0.2.8.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from sensitivity.consumers.lists import Entry
from sensitivity.consumers.other_formats import ListedFormat, OtherFormat, weight_only
from sensitivity.consumers.readers.entries import check_names
from sensitivity.consumers.readers.sdnq_configs import KEPT, read_sdnq_config
from sensitivity.consumers.readers.torchao_configs import read_torchao_config
from sensitivity.core.format_name import FormatName
from sensitivity.core.words import did_you_mean
from sensitivity.errors import PatternError

RULE = "dotted-substring"
"""The rule of `modules_to_not_convert` for torchao."""

RULES: Mapping[str, str] = {
    "torchao": RULE,
    "bitsandbytes": "bitsandbytes",
    "quanto": "last-part",
    "gguf": "part",
    "modelopt": "weight-quantizer",
    "sdnq": "sdnq",
    "nunchaku_lite": "fqn",
    "auto-round": "fqn",
    "bfl": "part",
}
"""{backend: the rule of its entries}."""

_LIST_KEY, _BITSANDBYTES_KEY = "modules_to_not_convert", "llm_int8_skip_modules"
_OLD_NAME = re.compile(r"[a-z]+\d*[a-z]*\d*(?:_[a-z0-9]+)*")
"""A torchao config as older diffusers name it: int8wo, float8dq_e4m3_row."""
_OURS: Mapping[str, FormatName] = {
    **dict.fromkeys(("int8wo", "int8_weight_only"), FormatName.INT8_A16),
    **dict.fromkeys(("int8dq", "int8_dynamic_activation_int8_weight"), FormatName.INT8),
    **dict.fromkeys(("float8wo", "float8wo_e4m3", "float8_weight_only"), FormatName.FP8_A16),
    "float8dq_e4m3_row": FormatName.FP8,
}
"""{older name of a torchao config: our format}."""


_MODELOPT_NEVER = ("proj_out", "lm_head", "router", "output_layer")
"""What ModelOpt's default config turns off (`_default_disabled_quantizer_cfg`), as far as a
denoiser has it.
"""


class Backend(NamedTuple):
    """What one config says.

    Attributes:
        entries: its entries.
        default: the format of a Linear that none hits.
        rule: the rule of its backend.
        always_bf16: parts of names that the backend never quantizes, whatever the list says; they
            are matched as torchao's entries are.
    """

    entries: list[Entry]
    default: ListedFormat
    rule: str
    always_bf16: tuple[str, ...] = ()


def pipeline_parts(value: dict[str, Any]) -> dict[str, Any]:
    """A pipeline's `quant_backend` as {component: config}; any other value as it is."""
    backend = value.get("quant_backend")
    if not isinstance(backend, str):
        return value
    given, components = value.get("quant_kwargs") or {}, value.get("components_to_quantize")
    if not isinstance(given, dict):
        raise PatternError(
            f"found quant_kwargs {str(given)[:80]!r}; expected an object; write the arguments of"
            " the backend's config"
        )
    config = {**given, "quant_method": backend}
    names = [components] if isinstance(components, str) else components
    named = check_names(names, "components_to_quantize", expected="the name of a component")
    return dict.fromkeys(named, config) if named else config


def is_config(part: Mapping[str, Any]) -> bool:
    """Whether an object is the config of a backend."""
    method = _method(part)
    if method == "torchao":
        return "quant_type" in part
    return method in RULES and "quant_algo" not in part


def _method(part: Mapping[str, Any]) -> str:
    """The backend of a config; "" where it names none."""
    if part.get("load_in_4bit") or part.get("load_in_8bit"):
        return "bitsandbytes"
    method = part.get("quant_method", "torchao" if "quant_type" in part else "")
    return str(method).removesuffix("_4bit").removesuffix("_8bit")


def read_backend(part: Mapping[str, Any], component: str) -> Backend:
    """The entries and the default of one config, for which `is_config` is true.

    Raises:
        PatternError: it is malformed.
    """
    method = _method(part)
    rule = RULES[method]
    if method == "nunchaku_lite":
        return Backend(_targets(part, component), FormatName.BF16, rule)
    if method == "sdnq":
        return _sdnq(part, component)
    key, other = _LIST_KEY, _BITSANDBYTES_KEY
    if method == "bitsandbytes":
        key, other = other, key
    _refuse_key(part, method, expected=key, other=other)
    names = [part[key]] if isinstance(part.get(key), str) else part.get(key)
    kept = [
        Entry(text=name, rule=rule, component=component)
        for name in check_names(names, key, expected="a part of a name")
    ]
    if method != "torchao":
        always = _MODELOPT_NEVER if method == "modelopt" else ()
        return Backend(kept, _format(method, part), rule, always)
    keys, default = _torchao(part["quant_type"], component)
    return Backend([*kept, *keys], default, rule)


def _sdnq(part: Mapping[str, Any], component: str) -> Backend:
    """What SDNQ's lists say; among these entries the last one that hits decides."""
    _refuse_key(part, "sdnq", expected=KEPT, other=_BITSANDBYTES_KEY)
    config = read_sdnq_config(part)
    entries = config.entries(component, with_moot=False)
    return Backend([*reversed(entries)], config.default, RULES["sdnq"])


def _refuse_key(part: Mapping[str, Any], method: str, *, expected: str, other: str) -> None:
    """Raise PatternError for a config with the list of another backend."""
    if part.get(other):
        raise PatternError(
            f"found {other} in a config of {method}, which does not read it; expected {expected};"
            " rename it"
        )


def _torchao(kind: Any, component: str) -> tuple[list[Entry], ListedFormat]:
    """(keys, default) of `quant_type`: a config under "default", or its name in older releases."""
    if isinstance(kind, str) and len(kind) <= 40 and _OLD_NAME.fullmatch(kind):
        if kind in _OURS:
            return [], _OURS[kind]
        is_weight = kind.split("_")[0].endswith("wo") or kind.startswith(("fpx", "uint", "fp"))
        return [], weight_only(kind.removesuffix("wo")) if is_weight else OtherFormat(kind)
    if not isinstance(kind, dict) or list(kind) != ["default"]:
        raise PatternError(
            f"found quant_type {str(kind)[:80]!r}; expected"
            ' {"default": config}; write it with TorchAoConfig.to_dict()'
        )
    return read_torchao_config(kind["default"], component)


def _format(method: str, part: Mapping[str, Any]) -> ListedFormat:
    """The format of a backend that is not torchao."""
    if method == "bitsandbytes":
        is_8bit = part.get("load_in_8bit") or str(part.get("quant_method")).endswith("_8bit")
        if is_8bit:
            return OtherFormat("int8 (bitsandbytes)")
        return weight_only(f"{_word(part.get('bnb_4bit_quant_type'), 'fp4')} (bitsandbytes)")
    if method == "quanto":
        words = f"{_word(part.get('weights_dtype'), 'int8')} ({method})"
        return OtherFormat(words) if part.get("use_quantized_matmul") else weight_only(words)
    if method == "modelopt":
        words = f"{_word(part.get('quant_type'), 'FP8').lower()} (modelopt)"
        return weight_only(words) if part.get("weight_only", True) else OtherFormat(words)
    if method == "bfl":
        return OtherFormat("bfl")
    if method != "auto-round":
        return weight_only(method)
    bits = part.get("bits", 4)
    if type(bits) is not int or not 1 <= bits <= 8:
        raise PatternError(f"found bits {str(bits)[:80]!r}; expected 1 to 8; correct it")
    return weight_only(f"int{bits} ({method})")


def _word(value: Any, default: str) -> str:
    """The name of a type in a config, as a short word."""
    if value is None:
        return default
    if not isinstance(value, str) or len(value) > 40:
        hint = did_you_mean(str(value)[:40], (default,), otherwise="correct it")
        raise PatternError(
            f"found the type {str(value)[:80]!r}; expected the name of one, such as {default};"
            f" {hint}"
        )
    return value


def _targets(part: Mapping[str, Any], component: str) -> list[Entry]:
    """The Linears that a nunchaku checkpoint has quantized."""
    entries: list[Entry] = []
    for key in ("svdq_w4a4", "awq_w4a16"):
        group = part.get(key) or {}
        if not isinstance(group, dict):
            raise PatternError(
                f"found {key} {str(group)[:80]!r}; expected an object with targets; correct it"
            )
        words = _word(group.get("precision"), "int4")
        becomes = (
            OtherFormat(f"{words} with a low-rank part (svdquant)")
            if key == "svdq_w4a4"
            else weight_only(f"{words} (awq)")
        )
        entries += [
            Entry(text=name, rule="fqn", format=becomes, component=component)
            for name in check_names(group.get("targets"), f"{key}.targets")
        ]
    return entries
