"""How SGLang's diffusion server reads skip-lists: run-time names, under one of two rules.

    {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["transformer_blocks.0.*"]}
    {"quantization": "fp8", "quantization_ignored_layers": ["transformer_blocks.0", "to_out"]}

The first form is `quantization_config` in the `config.json` of a ModelOpt checkpoint, or
`exclude_modules` in `hf_quant_config.json`. An entry is a whole name in which `*` is any run of
characters. The second form is what `sglang serve` reads from its config file. An entry is one or
several whole parts of a name between dots. There may be a list for each component
(`component_quantizations`, `component_quantization_ignored_layers`).

Rules: `ModelOptQuantConfig.is_layer_excluded` with `_is_packed_layer_excluded` (first form) and
`is_layer_skipped` of `sglang/srt/layers/quantization/utils.py` (second form). Linears without a
run-time name, as all of LTX-2's, are hit by `*` in the first form and by nothing in the second.
Z-Image's fused `w13` is seen in the second form by the names of its parts only, `w1` and `w3`;
SGLang fails if the list names only one of them. Online mxfp8 takes no list: SGLang hands
`quantization_ignored_layers` to fp8, mxfp4 and convrot_int8 only.

Source: SGLang 0.5.23, read and run (`sglang/multimodal_gen/runtime`).
"""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from sensitivity.consumers.lists import ConsumerList, Entry
from sensitivity.consumers.other_formats import ListedFormat, OtherFormat
from sensitivity.consumers.readers._base import Reader
from sensitivity.consumers.readers.documents import (
    named_parts,
    object_or_empty,
    parse_object,
    parts_of,
)
from sensitivity.consumers.readers.entries import check_count, check_names
from sensitivity.consumers.readers.modelopt_checkpoint import algorithm_format, policies_of
from sensitivity.consumers.readers.served_lists import ServedList
from sensitivity.core.format_name import FormatName
from sensitivity.errors import PatternError

ALGORITHMS = ("NVFP4", "FP8")
"""The formats of this tool that it runs from a checkpoint, as `quant_algo` names them."""

METHODS: Mapping[str, ListedFormat] = {
    "fp8": FormatName.FP8,
    "mxfp4": OtherFormat("mxfp4"),
    "convrot_int8": FormatName.INT8_ROT,
    "kitchen_int8": FormatName.INT8_ROT,
}
"""{online method that takes ignored layers: its format, which may be none of ours}. kitchen_int8 is
an older name of convrot_int8.
"""

PACKED_PARTS = frozenset({"w1", "w3"})
"""The parts of a Linear that SGLang knows to be fused (`packed_modules_mapping` of its Z-Image)."""

NVFP4_NOTE = (
    "the checkpoint decides: where its weights are not NVFP4, SGLang takes the list from the"
    " safetensors files, not from `ignore`; make the weights with this list. ModelOpt stores a"
    " scale of the activations from calibration; this tool's nvfp4 takes it anew at each call"
)
STATIC_FP8_NOTE = (
    "ModelOpt's FP8 has one scale a tensor, the activations' from calibration; this tool's fp8 has"
    " one a row, taken at each call"
)

_EXPECTED = (
    'an object such as {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": [...]} or'
    ' {"quantization": "fp8", "quantization_ignored_layers": [...]}'
)
_CHECKPOINT_KEYS = ("quant_algo", "quantization")
_ONLINE_KEYS = (
    "quantization_ignored_layers",
    "component_quantizations",
    "component_quantization_ignored_layers",
)


class SglangReader(Reader):
    """The list of a ModelOpt checkpoint, or the server's arguments."""

    name: ClassVar[str] = "sglang"
    description: ClassVar[str] = (
        "SGLang diffusion: ignore / exclude_modules (* globs on run-time names) or"
        " quantization_ignored_layers (parts of them)"
    )

    def read(self, text: str) -> ConsumerList:
        """A list in one of the two forms."""
        value = parse_object(text, _EXPECTED)
        value = {str(key).replace("-", "_"): item for key, item in value.items()}
        is_online = any(key in value for key in _ONLINE_KEYS)
        if is_online or isinstance(value.get("quantization"), str):
            return self._read_arguments(value)
        return self._read_checkpoint(value)

    def _read_checkpoint(self, value: Mapping[str, Any]) -> ConsumerList:
        entries: list[Entry] = []
        used: dict[str, ListedFormat | None] = {}
        parts = parts_of(value, _is_checkpoint, _EXPECTED)
        for component, part in parts.items():
            used[component], ignored = (FormatName.BF16, ()) if part is None else _checkpoint(part)
            entries += [Entry(text=name, rule="star", component=component) for name in ignored]
        check_count(len(entries))
        found = set(used.values())
        notes = [
            note
            for name, note in ((FormatName.NVFP4, NVFP4_NOTE), (FormatName.FP8, STATIC_FP8_NOTE))
            if name in found
        ]
        return ServedList(
            consumer=self.name,
            entries=tuple(entries),
            defaults=used,
            served=self.name,
            parts=named_parts(parts),
            policies=tuple(
                policy
                for component, part in parts.items()
                for policy in policies_of(_inner(part or {}), (self.name,), component)
            ),
            notes=tuple(notes),
            own_parts=PACKED_PARTS,
        )

    def _read_arguments(self, value: Mapping[str, Any]) -> ConsumerList:
        entries: list[Entry] = []
        used: dict[str, ListedFormat | None] = {}
        for component, method, ignored in _arguments(value):
            if not (method is None or (isinstance(method, str) and method in METHODS)):
                raise PatternError(
                    f"found the quantization {str(method)[:80]!r}; expected one of"
                    f" {', '.join(METHODS)}, which take a list; name one of these"
                )
            used[component] = FormatName.BF16 if method is None else METHODS[str(method)]
            entries += [Entry(text=name, rule="path", component=component) for name in ignored]
        return ServedList(
            consumer=self.name,
            entries=tuple(entries),
            defaults=used,
            served=self.name,
            parts=named_parts(used),
            own_parts=PACKED_PARTS,
            own_only=True,
        )

    def looks_like(self, text: str) -> bool:
        """The server's arguments. A checkpoint's list is read as ModelOpt's, which looks alike."""
        value = object_or_empty(text)
        return any(str(key).replace("-", "_") in _ONLINE_KEYS for key in value)


def _is_checkpoint(part: Mapping[str, Any]) -> bool:
    return any(key in part for key in _CHECKPOINT_KEYS)


def _inner(part: Mapping[str, Any]) -> Mapping[str, Any]:
    """What has the algorithm: the object itself, or what `hf_quant_config.json` has in it."""
    inner = part.get("quantization", part)
    return inner if isinstance(inner, Mapping) else {}


def _checkpoint(part: Mapping[str, Any]) -> tuple[ListedFormat, tuple[str, ...]]:
    """(format, list) of one `quantization_config` or `hf_quant_config.json`."""
    inner = part.get("quantization", part)
    if not isinstance(inner, dict):
        raise PatternError(
            f"found quantization {str(inner)[:80]!r}; expected {_EXPECTED}; name the quant_algo in"
            " it"
        )
    algorithm = inner.get("quant_algo")
    found = algorithm_format(algorithm)
    if isinstance(found, FormatName) and str(algorithm).upper() not in ALGORITHMS:
        raise PatternError(
            f"found the quant_algo {str(algorithm)[:80]!r}; expected one of"
            f" {', '.join(ALGORITHMS)}, which SGLang's diffusion server has; name one of these"
        )
    key = "exclude_modules" if inner is not part else "ignore"
    return found, check_names(inner.get(key), key)


def _arguments(value: Mapping[str, Any]) -> Iterator[tuple[str, Any, tuple[str, ...]]]:
    """(component, method, ignored layers) of the server's arguments."""
    methods = value.get("component_quantizations", {})
    lists = value.get("component_quantization_ignored_layers", {})
    if not isinstance(methods, dict) or not isinstance(lists, dict):
        raise PatternError(
            f"found component_quantizations {str(methods)[:80]} and"
            f" component_quantization_ignored_layers {str(lists)[:80]}; expected two objects whose"
            " keys are components; write them so"
        )
    if stray := set(lists) - set(methods):
        raise PatternError(
            f"found ignored layers of {', '.join(sorted(stray))} without a method; expected one in"
            " component_quantizations, since SGLang refuses the list otherwise; name its method"
        )
    if value.get("quantization") is not None or not methods:
        key = "quantization_ignored_layers"
        yield "", value.get("quantization"), check_names(value.get(key), key)
    key = "component_quantization_ignored_layers"
    for component, method in methods.items():
        yield component, method, check_names(lists.get(component), key)
