"""How does NVIDIA ModelOpt read a list?

ModelOpt has two forms, and each may be given once, or once for each component ({component: form}):

- the `quant_cfg` of `mtq.quantize`, as Python, JSON or YAML (a preset or recipe of ModelOpt's
  library, `readers.modelopt_presets`): patterns on the names of quantizers, of which the last that
  matches decides (`readers.modelopt_quant_cfg`);
- the `hf_quant_config.json` of a checkpoint: names of modules that are excluded, or that are
  quantized (`readers.modelopt_checkpoint`).

    get_reader("modelopt").read(text).assign(tree, quantized=FormatName.NVFP4)

A Python text is parsed and never run (`readers.literals`). The filters of ModelOpt's diffusers
examples (`pattern.match(name)`) are regular expressions: the reader `regex` reads them.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from sensitivity.consumers.lists import ConsumerList
from sensitivity.consumers.readers._base import Reader
from sensitivity.consumers.readers.documents import named_parts, parts_of, unwrapped
from sensitivity.consumers.readers.entries import check_count
from sensitivity.consumers.readers.literals import parse_literal
from sensitivity.consumers.readers.modelopt_checkpoint import read_checkpoint
from sensitivity.consumers.readers.modelopt_presets import resolved
from sensitivity.consumers.readers.modelopt_quant_cfg import read_quant_cfg
from sensitivity.consumers.readers.modelopt_quantizers import QuantizerList
from sensitivity.consumers.readers.strict_yaml import parse_yaml
from sensitivity.core.format_name import FormatName
from sensitivity.errors import PatternError

_MARKS = ("quantizer_name", "weight_quantizer", '"quant_algo"', '"quantized_layers"')
_YAML = re.compile(r"^(?:---\s|\s*- |[\w$]+:(?:\s|$))", re.MULTILINE)
_EXPECTED = (
    "one of: a dict with quant_cfg, its list of entries with quantizer_name, the JSON of"
    " hf_quant_config.json, or one of these for each component"
)
"""Words that texts of these forms have, and other forms do not."""


class ModelOptReader(Reader):
    """`quant_cfg` as Python, JSON or YAML, and `hf_quant_config.json`."""

    name: ClassVar[str] = "modelopt"
    description: ClassVar[str] = (
        "ModelOpt's quant_cfg (Python, JSON or its YAML presets): fnmatch on quantizers' names,"
        " the last match"
        " decides; or hf_quant_config.json"
    )

    def read(self, text: str) -> ConsumerList:
        """A config, or {component: config}."""
        value = _value(text)
        if isinstance(value, list) and _is_config(value):
            return _join({"": _read_config(value, "")})
        if not isinstance(value, dict):
            raise PatternError(
                f"found a {type(value).__name__} that is no ModelOpt config; expected {_EXPECTED};"
                " print the config and save what it prints"
            )
        parts = parts_of(unwrapped(value, _EXPECTED), _is_config, _EXPECTED)
        lists = {name: _read_config(part, name) for name, part in parts.items() if part is not None}
        return replace(_join(lists), parts=named_parts(parts))

    def looks_like(self, text: str) -> bool:
        """The text has a word that only these forms have; in the metadata of a file, where the
        list is a JSON text, with escaped quotes.
        """
        plain = text.replace(r"\"", '"')
        return any(word in plain for word in _MARKS)


def _value(text: str) -> Any:
    """The value of a text in JSON, Python or YAML, its imports replaced."""
    source = text.removeprefix("\ufeff").strip()
    if source[:1] not in ("{", "[", "(") and _YAML.match(_without_comments(source)):
        try:
            return resolved(parse_yaml(source))
        except ValueError as error:
            raise PatternError(
                f"found a text that is no YAML ({error}); expected {_EXPECTED}; correct it"
            ) from None
    return parse_literal(source, wanted=_is_config)


def _without_comments(source: str) -> str:
    lines = (line for line in source.splitlines() if line.strip() and not line.startswith("#"))
    return next(lines, "")


def _is_config(value: Any) -> bool:
    """Whether a value is one of the two forms, and not {component: form}."""
    if isinstance(value, Mapping):
        return any(key in value for key in ("quant_cfg", "quantization", "quant_algo")) or any(
            isinstance(key, str) and (key.endswith("quantizer") or "*" in key) for key in value
        )
    return (
        isinstance(value, list) and bool(value) and all(isinstance(item, Mapping) for item in value)
    )


def _read_config(value: Any, component: str) -> ConsumerList:
    if isinstance(value, Mapping) and ("quantization" in value or "quant_algo" in value):
        return read_checkpoint(value, component)
    raw, algorithm = value, None
    if isinstance(value, Mapping) and "quant_cfg" in value:
        raw, algorithm = value["quant_cfg"], value.get("algorithm")
    method = algorithm.get("method") if isinstance(algorithm, Mapping) else algorithm
    return replace(read_quant_cfg(raw, component), low_rank=method == "svdquant")


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
            consumer=first.consumer,
            entries=entries,
            steps=steps,
            by_part="" not in parts,
            low_rank=any(isinstance(one, QuantizerList) and one.low_rank for one in lists),
            last_wins=True,
            notes=notes,
        )
    if len(lists) == 1 and "" in parts:
        return first
    return ConsumerList(
        consumer=first.consumer,
        entries=entries,
        default=FormatName.BF16,
        defaults={component: one.default for component, one in parts.items()},
        policies=tuple(policy for one in lists for policy in one.policies),
        notes=notes,
    )
