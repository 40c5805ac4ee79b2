"""How vLLM-Omni reads `ignored_layers`: run-time names, letter by letter.

    {"method": "fp8", "ignored_layers": ["transformer_blocks.0.attn.to_qkv", "transformer_blocks.0.attn.to_out.0"]}
    {"transformer": {"method": "fp8", "ignored_layers": [...]}, "transformer_2": {...}}

This is `Omni(model=..., quantization_config=...)` and `--diffusion-quantization-config`. Every Linear that the model's class builds with a quantization config
and that the list does not name is quantized as `method` says.

Rule: `is_layer_skipped` in vLLM's `model_executor/layers/quantization/utils/quant_utils.py`. Fused Linears go by the fused name alone: vLLM-Omni hands the
pipeline's class to `configure_quant_config`, and that one has no `packed_modules_mapping`, so `to_q`, `to_k` and `to_v` of a fused `to_qkv` match nothing,
silently. Read and run from vLLM-Omni 0.30.0 with vLLM 0.30.0 (`vllm_omni/quantization/factory.py`, `diffusion/registry.py`).
"""

from typing import Any, ClassVar

from sensitivity.consumers._base import ConsumerList, Entry, Reader
from sensitivity.consumers.served_lists import ServedList, by_component, looks_like_object, names_in, parse_object
from sensitivity.errors import PatternError
from sensitivity.spec import FormatName

METHODS: dict[str, FormatName | None] = {
    "fp8": FormatName.FP8,
    "mxfp8": FormatName.MXFP8,
    "int8": None,
    "bitsandbytes": None,
    "mxfp4": None,
}
"""Its methods for diffusion that take `ignored_layers` -> ours; None where we have no such format."""

_ALLOWED = 'an object such as {"method": "fp8", "ignored_layers": [...]}, or one a component'

FP8_NOTE = (
    "vLLM-Omni's fp8 has one scale a weight (of a fused Linear, one for all of it) and one a row of activations; this tool's fp8 has one a row of both: "
    "its quality was measured with finer scales"
)


class VllmOmniReader(Reader):
    """`quantization_config` as JSON."""

    name: ClassVar[str] = "vllm-omni"
    words: ClassVar[str] = "vLLM-Omni's quantization_config: ignored_layers, whole run-time names (to_qkv for q, k and v)"

    def read(self, text: str) -> ConsumerList:
        """The object, flat or one a component."""
        value = parse_object(text, _ALLOWED)
        entries: list[Entry] = []
        used: dict[str, FormatName | None] = {}
        parts = by_component(value, ("method", "quant_method"))
        for component, part in parts.items():
            used[component] = _format(part)
            ignored = part.get("ignored_layers") or part.get("modules_to_not_convert")
            entries += [Entry(text=name, rule="fqn", component=component) for name in names_in(ignored, "ignored_layers")]
        if not parts:
            raise PatternError(f"found an object without a method; allowed is {_ALLOWED}; name the method")
        notes = (FP8_NOTE,) if FormatName.FP8 in used.values() else ()
        return ServedList(consumer=self.name, entries=tuple(entries), defaults=used, served=self.name, notes=notes)

    def looks_like(self, text: str) -> bool:
        """An object with ignored_layers beside a method, at the top or in a component's part."""
        value = looks_like_object(text)
        return any(
            "ignored_layers" in part and {"method", "quant_method"} & set(part)
            for part in (value, *value.values())
            if isinstance(part, dict)
        )


def _format(part: Any) -> FormatName | None:
    method = str(part.get("method", part.get("quant_method"))).lower().replace("-", "_")
    if method not in METHODS:
        raise PatternError(f"found the method {method[:80]!r}; allowed are {', '.join(METHODS)}; others do not take ignored_layers")
    return METHODS[method]
