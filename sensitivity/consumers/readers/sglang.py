"""How SGLang's diffusion server reads skip-lists: run-time names, under one of two rules.

    {"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16, "ignore": ["transformer_blocks.0.*"]}     # `*` glob, the whole name
    {"quantization": "fp8", "quantization_ignored_layers": ["transformer_blocks.0", "to_out"]}                      # whole parts between dots, anywhere

The first is `quantization_config` in the `config.json` of a ModelOpt checkpoint (or
`exclude_modules` of `hf_quant_config.json`), the second what `sglang serve --config FILE` takes,
also with a list a component: `component_quantizations` and `component_quantization_ignored_layers`.

Rules: `ModelOptQuantConfig.is_layer_excluded` (`re.escape`, then `*` is any run of characters,
fullmatch) with `_is_packed_layer_excluded`, and `is_layer_skipped` of
`sglang/srt/layers/quantization/utils.py`. Linears that go by no name (all of LTX-2) are hit by `*`
in the first, never in the second. For Z-Image's `w13` the second sees only the names of its parts,
`w1` and `w3`, which must agree, else SGLang raises. Online mxfp8 takes no list at all: SGLang hands
`quantization_ignored_layers` to fp8, mxfp4 and convrot_int8 only. Read and run from SGLang 0.5.23
(`sglang/multimodal_gen/runtime`).
"""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from sensitivity.consumers.lists import ConsumerList, Entry
from sensitivity.consumers.readers._base import Reader
from sensitivity.consumers.readers.served_lists import (
    ServedList,
    by_component,
    looks_like_object,
    names_in,
    parse_object,
)
from sensitivity.core.format_name import FormatName
from sensitivity.errors import PatternError

ALGORITHMS = {"NVFP4": FormatName.NVFP4, "FP8": FormatName.FP8}
METHODS: dict[str, FormatName | None] = {"fp8": FormatName.FP8, "mxfp4": None, "convrot_int8": None}
"""Online methods that take ignored layers -> ours; None where we have no such format."""

PACKED_PARTS = frozenset({"w1", "w3"})
"""Parts of Linears that SGLang always fuses and knows as such (`packed_modules_mapping` of its
Z-Image).
"""

NVFP4_NOTE = (
    "the checkpoint decides: where its weights are not NVFP4, SGLang takes the list from the"
    " safetensors files, not from `ignore`; make the weights with this list. ModelOpt stores a"
    " scale of the activations from calibration; this tool's nvfp4 takes it anew at each call"
)
STATIC_FP8_NOTE = (
    "ModelOpt's FP8 has one scale a tensor, the activations' from calibration; this tool's fp8 has"
    " one a row, taken at each call"
)

_ALLOWED = (
    'an object such as {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": [...]} or'
    ' {"quantization": "fp8", "quantization_ignored_layers": [...]}'
)
_CHECKPOINT = ("quant_algo", "quantization")
_ONLINE = (
    "quantization_ignored_layers",
    "component_quantizations",
    "component_quantization_ignored_layers",
)


class SglangReader(Reader):
    """A ModelOpt checkpoint's list, or the server's arguments."""

    name: ClassVar[str] = "sglang"
    words: ClassVar[str] = (
        "SGLang diffusion: ignore / exclude_modules (* globs on run-time names) or"
        " quantization_ignored_layers (parts of them)"
    )

    def read(self, text: str) -> ConsumerList:
        """One of the two forms."""
        value = parse_object(text, _ALLOWED)
        if any(key in value for key in _ONLINE) or isinstance(value.get("quantization"), str):
            return self._read_arguments(value)
        entries: list[Entry] = []
        used: dict[str, FormatName | None] = {}
        for component, part in by_component(value, _CHECKPOINT).items():
            used[component], ignored = _checkpoint(part)
            entries += [Entry(text=name, rule="star", component=component) for name in ignored]
        if not used:
            raise PatternError(
                f"found an object without quant_algo; allowed is {_ALLOWED}; name the quant_algo"
            )
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
            notes=tuple(notes),
            own_parts=PACKED_PARTS,
        )

    def _read_arguments(self, value: Mapping[str, Any]) -> ConsumerList:
        entries: list[Entry] = []
        used: dict[str, FormatName | None] = {}
        for component, method, ignored in _arguments(value):
            if method is not None and method not in METHODS:
                raise PatternError(
                    f"found the quantization {str(method)[:80]!r}; allowed with a list are"
                    f" {', '.join(METHODS)}; SGLang hands the list to no other"
                )
            used[component] = FormatName.BF16 if method is None else METHODS[method]
            entries += [Entry(text=name, rule="path", component=component) for name in ignored]
        return ServedList(
            consumer=self.name,
            entries=tuple(entries),
            defaults=used,
            served=self.name,
            own_parts=PACKED_PARTS,
            own_only=True,
        )

    def looks_like(self, text: str) -> bool:
        """The server's arguments; a ModelOpt checkpoint's list is read as ModelOpt's unless SGLang
        is named.
        """
        return any(key in looks_like_object(text) for key in _ONLINE)


def _checkpoint(part: Mapping[str, Any]) -> tuple[FormatName, tuple[str, ...]]:
    """Format and list of one `quantization_config` or `hf_quant_config.json`."""
    inner = part.get("quantization", part)
    if not isinstance(inner, dict):
        raise PatternError(
            f"found quantization {str(inner)[:80]!r}; allowed is {_ALLOWED}; write it so"
        )
    algorithm = str(inner.get("quant_algo")).upper()
    if algorithm not in ALGORITHMS:
        raise PatternError(
            f"found the quant_algo {algorithm[:80]!r}; allowed are {', '.join(ALGORITHMS)};"
            " SGLang's diffusion server has no other"
        )
    key = "exclude_modules" if inner is not part else "ignore"
    return ALGORITHMS[algorithm], names_in(inner.get(key), key)


def _arguments(value: Mapping[str, Any]) -> Iterator[tuple[str, Any, tuple[str, ...]]]:
    """(component, method, ignored layers) of the server's arguments."""
    methods, lists = (
        value.get("component_quantizations", {}),
        value.get("component_quantization_ignored_layers", {}),
    )
    if not isinstance(methods, dict) or not isinstance(lists, dict):
        raise PatternError(
            f"found component_quantizations {str(methods)[:80]}; allowed are objects by component;"
            " write them so"
        )
    if stray := set(lists) - set(methods):
        raise PatternError(
            f"found ignored layers of {', '.join(sorted(stray))} without its"
            " component_quantizations; SGLang refuses that; name its method"
        )
    if value.get("quantization") is not None or not methods:
        yield (
            "",
            value.get("quantization"),
            names_in(value.get("quantization_ignored_layers"), "quantization_ignored_layers"),
        )
    for component, method in methods.items():
        yield (
            component,
            method,
            names_in(lists.get(component), "component_quantization_ignored_layers"),
        )
