"""How vLLM-Omni reads `ignored_layers`: run-time names, letter by letter.

    {"method": "fp8", "ignored_layers": ["transformer_blocks.0.attn.to_qkv", "transformer_blocks.0.attn.to_out.0"]}
    {"transformer": {"method": "fp8", "ignored_layers": [...]}, "transformer_2": {...}}

This is `Omni(model=..., quantization_config=...)` and `--diffusion-quantization-config`. Every
Linear that the model's class builds with a quantization config and that the list does not name is
quantized as `method` says. A part may be null (bf16) or a method's name; `default` is for what no
part is for.

Which part a Linear is under: Wan's pipelines look theirs up by the component's name, FLUX.2 [dev]'s
by its beginning. All others, FLUX.2 [klein]'s too, hand the whole config to the model, which
compares parts with the beginnings of Linears' run-time names
(`ComponentQuantizationConfig.resolve`): of FLUX.1 a part `transformer` has the
`transformer_blocks.*`, and no `single_transformer_blocks.*`.

Rule: `is_layer_skipped` in vLLM's `model_executor/layers/quantization/utils/quant_utils.py`. Fused
Linears go by the fused name alone: vLLM-Omni hands the pipeline's class to
`configure_quant_config`, and that one has no `packed_modules_mapping`, so `to_q`, `to_k` and `to_v`
of a fused `to_qkv` match nothing, silently. Read and run from vLLM-Omni 0.30.0 with vLLM 0.30.0
(`vllm_omni/quantization/factory.py`, `component_config.py`, `diffusion/registry.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from sensitivity.consumers.lists import ConsumerList, Entry, ModelTree
from sensitivity.consumers.readers._base import Reader
from sensitivity.consumers.readers.served_lists import (
    ServedList,
    looks_like_object,
    names_in,
    parse_object,
    run_time_names,
)
from sensitivity.core.format_name import FormatName
from sensitivity.errors import PatternError

METHODS: dict[str, FormatName | None] = {
    "fp8": FormatName.FP8,
    "mxfp8": FormatName.MXFP8,
    "int8": None,
    "bitsandbytes": None,
    "mxfp4": None,
}
"""Its methods for diffusion that take `ignored_layers` -> ours; None where we have no such format.
"""

_MARKS = {"method", "quant_method"}
_ALLOWED = 'an object such as {"method": "fp8", "ignored_layers": [...]}, or one a component'

FP8_NOTE = (
    "vLLM-Omni's fp8 has one scale a weight (of a fused Linear, one for all of it) and one a row of"
    " activations; this tool's fp8 has one a row of both: its quality was measured with finer"
    " scales"
)

BY_NAME, BY_ITS_BEGINNING = "WanTransformer3DModel", "Flux2Transformer2DModel"
"""Classes whose pipelines look the config's part up for the component."""

KLEIN_NOTE = (
    "parts by component are read as FLUX.2 [dev]'s pipeline does where the model is FLUX.2;"
    " [klein]'s leaves its single-stream blocks in bf16 then"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class OmniList(ServedList):
    """A config for every component, or with parts."""

    def part_of(self, fqn: str, tree: ModelTree) -> str:
        """The part that a Linear is under, as vLLM-Omni finds it; `default` where it finds none."""
        component = tree.component_of(fqn)
        kind = tree.classes.get(component, "")
        if kind == BY_NAME:
            return component if component in self.defaults else "default"
        name = (
            component
            if kind == BY_ITS_BEGINNING
            else run_time_names(self.served, replace(tree, fqns=(fqn,)))[fqn]
        )
        return max(
            (part for part in self.defaults if part != "default" and name.startswith(part)),
            key=len,
            default="default",
        )


class VllmOmniReader(Reader):
    """`quantization_config` as JSON."""

    name: ClassVar[str] = "vllm-omni"
    words: ClassVar[str] = (
        "vLLM-Omni's quantization_config: ignored_layers, whole run-time names (to_qkv for q, k"
        " and v)"
    )

    def read(self, text: str) -> ConsumerList:
        """The object, flat or one a component."""
        value = parse_object(text, _ALLOWED)
        entries: list[Entry] = []
        used: dict[str, FormatName | None] = {}
        for component, part in _parts(value).items():
            used[component] = FormatName.BF16 if part is None else _format(part)
            ignored = part and (part.get("ignored_layers") or part.get("modules_to_not_convert"))
            entries += [
                Entry(text=name, rule="fqn", component=component)
                for name in names_in(ignored, "ignored_layers")
            ]
        notes = [FP8_NOTE] * (FormatName.FP8 in used.values()) + [KLEIN_NOTE] * ("" not in used)
        return OmniList(
            consumer=self.name,
            entries=tuple(entries),
            defaults=used,
            served=self.name,
            notes=tuple(notes),
        )

    def looks_like(self, text: str) -> bool:
        """An object with ignored_layers beside a method, at the top or in a component's part."""
        value = looks_like_object(text)
        return any(
            "ignored_layers" in part and _MARKS & set(part)
            for part in (value, *value.values())
            if isinstance(part, dict)
        )


def _parts(value: Mapping[str, Any]) -> dict[str, Mapping[str, Any] | None]:
    """{component: its config}, "" for a config that is for all."""
    if _MARKS & set(value):
        return {"": value}
    parts = {
        name: {"method": part} if isinstance(part, str) else part for name, part in value.items()
    }
    if not any(isinstance(part, dict) and _MARKS & set(part) for part in value.values()):
        raise PatternError(
            f"found an object without a method; allowed is {_ALLOWED}; name the method"
        )
    if odd := [
        name
        for name, part in parts.items()
        if part is not None and not (isinstance(part, dict) and _MARKS & set(part))
    ]:
        raise PatternError(
            f"found {odd[0][:80]!r} without a method; allowed is {_ALLOWED}; name the method, or"
            " write null"
        )
    return parts


def _format(part: Any) -> FormatName | None:
    method = str(part.get("method", part.get("quant_method"))).lower().replace("-", "_")
    if method not in METHODS:
        raise PatternError(
            f"found the method {method[:80]!r}; allowed are {', '.join(METHODS)}; others do not"
            " take ignored_layers"
        )
    return METHODS[method]
