"""How does NVIDIA ModelOpt read a list?

ModelOpt has two forms, and each may be given once, or once for each component ({component: form}):

- the `quant_cfg` of `mtq.quantize`, as Python or JSON: patterns on the names of quantizers, of
  which the last that matches decides (`readers.modelopt_quant_cfg`);
- the `hf_quant_config.json` of a checkpoint: names of modules that are excluded, or that are
  quantized (`readers.modelopt_checkpoint`).

    get_reader("modelopt").read(text).assign(tree, quantized=FormatName.NVFP4)

A Python text is parsed and never run (`readers.literals`). The filters of ModelOpt's diffusers
examples (`pattern.match(name)`) are regular expressions: the reader `regex` reads them.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from sensitivity.consumers.lists import ConsumerList
from sensitivity.consumers.readers._base import Reader
from sensitivity.consumers.readers.entries import check_count
from sensitivity.consumers.readers.literals import parse_literal
from sensitivity.consumers.readers.modelopt_checkpoint import read_checkpoint
from sensitivity.consumers.readers.modelopt_quant_cfg import read_quant_cfg
from sensitivity.consumers.readers.modelopt_quantizers import QuantizerList
from sensitivity.core.format_name import FormatName
from sensitivity.errors import PatternError

_MARKS = ("quantizer_name", "weight_quantizer", '"quant_algo"', '"quantized_layers"')
"""Words that texts of these forms have, and other forms do not."""


class ModelOptReader(Reader):
    """`quant_cfg` as Python or JSON, and `hf_quant_config.json`."""

    name: ClassVar[str] = "modelopt"
    description: ClassVar[str] = (
        "ModelOpt's quant_cfg (Python or JSON): fnmatch on quantizers' names, the last match"
        " decides; or hf_quant_config.json"
    )

    def read(self, text: str) -> ConsumerList:
        """A config, or {component: config}."""
        value = parse_literal(text, wanted=_is_config)
        if _is_config(value):
            return _join({"": _read_config(value, "")})
        if isinstance(value, Mapping) and value and all(map(_is_config, value.values())):
            return _join(
                {str(name): _read_config(child, str(name)) for name, child in value.items()}
            )
        raise PatternError(
            f"found a {type(value).__name__} that is no ModelOpt config; expected one of: a dict"
            " with quant_cfg, its list of entries with quantizer_name, the JSON of"
            " hf_quant_config.json, or one of these for each component; print the config and save"
            " what it prints"
        )

    def looks_like(self, text: str) -> bool:
        """The text has a word that only these forms have."""
        return any(word in text for word in _MARKS)


def _is_config(value: Any) -> bool:
    """Whether a value is one of the two forms, and not {component: form}."""
    if isinstance(value, Mapping):
        keys = ("quant_cfg", "quantization", "quant_algo", "quantization_config")
        return any(key in value for key in keys) or any(
            isinstance(key, str) and (key.endswith("quantizer") or "*" in key) for key in value
        )
    return (
        isinstance(value, list) and bool(value) and all(isinstance(item, Mapping) for item in value)
    )


def _read_config(value: Any, component: str) -> ConsumerList:
    if isinstance(value, Mapping) and isinstance(value.get("quantization_config"), Mapping):
        value = value["quantization_config"]
    if isinstance(value, Mapping) and ("quantization" in value or "quant_algo" in value):
        return read_checkpoint(value, component)
    raw = value.get("quant_cfg", value) if isinstance(value, Mapping) else value
    return read_quant_cfg(raw, component)


def _join(parts: Mapping[str, ConsumerList]) -> ConsumerList:
    """One list of {component: its list}."""
    lists = list(parts.values())
    first = lists[0]
    notes = tuple(dict.fromkeys(note for one in lists for note in one.notes))
    entries = tuple(entry for one in lists for entry in one.entries)
    check_count(len(entries))
    if any(type(one) is not type(first) for one in lists):
        raise PatternError(
            "found components in different forms; expected one form for all; read the list of one"
            " component at a time"
        )
    if isinstance(first, QuantizerList):
        steps = tuple(step for one in lists if isinstance(one, QuantizerList) for step in one.steps)
        return QuantizerList(
            consumer=first.consumer, entries=entries, steps=steps, last_wins=True, notes=notes
        )
    if len(lists) == 1:
        return first
    return ConsumerList(
        consumer=first.consumer,
        entries=entries,
        default=FormatName.BF16,
        defaults={component: one.default for component, one in parts.items()},
        notes=notes,
    )
