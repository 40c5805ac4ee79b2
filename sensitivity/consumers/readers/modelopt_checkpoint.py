"""How is the list of a checkpoint read that ModelOpt wrote?

    {"quantization": {"quant_algo": "NVFP4", "exclude_modules": ["proj_out"]}}

This is `hf_quant_config.json`. `exclude_modules` are shell patterns on the names of modules. With
`quant_algo` MIXED_PRECISION, `quantized_layers` gives each quantized Linear its own `quant_algo`.
What ModelOpt writes into `config.json` (`quant_method: modelopt`, with `ignore`) is read alike.

Source: ModelOpt 0.47.0 (`torch/export/quant_utils.py`: `process_layer_quant_config`).
"""

from collections.abc import Mapping
from typing import Any

from sensitivity.consumers.lists import ConsumerList, Entry
from sensitivity.consumers.readers.entries import check_name
from sensitivity.consumers.readers.modelopt_quant_cfg import PER_TENSOR_NOTE
from sensitivity.core.format_name import FormatName
from sensitivity.core.patterns import META
from sensitivity.errors import PatternError

ALGORITHMS: Mapping[str, FormatName] = {
    "NVFP4": FormatName.NVFP4,
    "MXFP8": FormatName.MXFP8,
    "FP8_PER_CHANNEL_PER_TOKEN": FormatName.FP8,
    "FP8": FormatName.FP8,
}
"""{quant_algo: our format}."""

MIXED = "MIXED_PRECISION"

_SUBSTRING_NOTE = (
    "vLLM also skips every Linear whose name merely contains an entry of exclude_modules; read the"
    " list in the form `substring` to see what that means"
)


def read_checkpoint(value: Mapping[str, Any], component: str) -> ConsumerList:
    """The list of `hf_quant_config.json`, or of what `config.json` has of it.

    Args:
        value: the JSON.
        component: the component that it is for; "" is every component.

    Raises:
        PatternError: it has another structure, or names an algorithm that is none of our formats.
    """
    inner = value.get("quantization", value)
    if not isinstance(inner, Mapping):
        raise PatternError(
            f"found quantization {str(inner)[:80]!r}; expected an object with quant_algo; save"
            " ModelOpt's own hf_quant_config.json"
        )
    algorithm = inner.get("quant_algo")
    excluded = inner.get("exclude_modules", inner.get("ignore")) or []
    layers = inner.get("quantized_layers") or {}
    if not isinstance(excluded, list) or not isinstance(layers, Mapping):
        raise PatternError(
            f"found exclude_modules {str(excluded)[:80]} and quantized_layers {str(layers)[:80]};"
            " expected a list and an object; save ModelOpt's own file"
        )
    if algorithm == MIXED and not layers:
        raise PatternError(
            f"found {MIXED} without quantized_layers; expected every quantized Linear there; add"
            " them, or name one quant_algo"
        )
    if algorithm != MIXED:
        layers = {}
    kept = [_entry(name, FormatName.BF16, component) for name in excluded]
    own = {name: _algorithm_of(layer) for name, layer in layers.items()}
    named = [_entry(name, _format(found), component) for name, found in own.items()]
    default = FormatName.BF16 if algorithm in (MIXED, None) else _format(algorithm)
    notes = [PER_TENSOR_NOTE] if "FP8" in {algorithm, *own.values()} else []
    if any(META.isdisjoint(entry.text) for entry in kept):
        notes.append(_SUBSTRING_NOTE)
    return ConsumerList(
        consumer="modelopt", entries=(*kept, *named), default=default, notes=tuple(notes)
    )


def _algorithm_of(layer: Any) -> Any:
    return layer.get("quant_algo") if isinstance(layer, Mapping) else layer


def _entry(name: Any, becomes: FormatName, component: str) -> Entry:
    text = check_name(name, "the list of modules", expected="a module's name or a shell pattern")
    rule = "fqn" if META.isdisjoint(text) else "fnmatch"
    return Entry(text=text, rule=rule, format=becomes, component=component)


def _format(algorithm: Any) -> FormatName:
    found = ALGORITHMS.get(algorithm.upper()) if isinstance(algorithm, str) else None
    if found is None:
        raise PatternError(
            f"found the quant_algo {str(algorithm)[:80]!r}; expected one of"
            f" {', '.join(ALGORITHMS)}, {MIXED}; this tool has no other formats"
        )
    return found
