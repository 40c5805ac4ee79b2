"""How vLLM-Omni reads `ignored_layers`: run-time names, letter by letter.

    {"method": "fp8", "ignored_layers": ["transformer_blocks.0.attn.to_qkv"]}
    {"transformer": {"method": "fp8", "ignored_layers": [...]}, "transformer_2": {...}}

This is `Omni(model=..., quantization_config=...)`, and the server's option
`diffusion-quantization-config`. A Linear is quantized as `method` says if the model's class builds
it with a quantization config and the list does not name it. A part may be null (bf16), or the name
of a method. The part `default` is for Linears that no other part applies to.

Which part applies to a Linear. Wan's pipelines find the part by the component's name, and FLUX.2
[dev]'s by its beginning. All other pipelines, FLUX.2 [klein]'s included, hand the whole config to
the model, which compares the parts with the beginnings of run-time names
(`ComponentQuantizationConfig.resolve`). In FLUX.1, a part `transformer` thus applies to
`transformer_blocks.*` and not to `single_transformer_blocks.*`.

Rule: `is_layer_skipped` in vLLM's `model_executor/layers/quantization/utils/quant_utils.py`. Fused
Linears are matched by the fused name alone. vLLM-Omni hands the pipeline's class to
`configure_quant_config`, and that class has no `packed_modules_mapping`. So `to_q`, `to_k` and
`to_v` of a fused `to_qkv` match nothing, silently.

Source: vLLM-Omni 0.30.0 with vLLM 0.30.0, read and run (`vllm_omni/quantization/factory.py`,
`component_config.py`, `diffusion/registry.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from sensitivity.consumers.lists import ConsumerList, Entry, ModelTree
from sensitivity.consumers.readers._base import Reader
from sensitivity.consumers.readers.entries import check_names
from sensitivity.consumers.readers.json_objects import object_or_empty, parse_object
from sensitivity.consumers.readers.served_lists import ServedList, run_time_names
from sensitivity.core.format_name import FormatName
from sensitivity.errors import PatternError

METHODS: dict[str, FormatName | None] = {
    "fp8": FormatName.FP8,
    "mxfp8": FormatName.MXFP8,
    "int8": None,
    "bitsandbytes": None,
    "mxfp4": None,
}
"""{method for diffusion that takes `ignored_layers`: our format, None where we have none}."""

_METHOD_KEYS = {"method", "quant_method"}
_EXPECTED = (
    'an object such as {"method": "fp8", "ignored_layers": [...]}, or one for each component'
)

FP8_NOTE = (
    "vLLM-Omni's fp8 has one scale a weight (of a fused Linear, one for all of it) and one a row of"
    " activations; this tool's fp8 has one a row of both: its quality was measured with finer"
    " scales"
)

BY_NAME, BY_ITS_BEGINNING = "WanTransformer3DModel", "Flux2Transformer2DModel"
"""Classes whose pipelines find the config's part by the component's name, or by its beginning."""

KLEIN_NOTE = (
    "parts by component are read as FLUX.2 [dev]'s pipeline does where the model is FLUX.2;"
    " [klein]'s leaves its single-stream blocks in bf16 then"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class OmniList(ServedList):
    """A config for every component, or with parts."""

    def part_of(self, fqn: str, tree: ModelTree) -> str:
        """The part that applies to a Linear, found as vLLM-Omni does; `default` if none does."""
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
    description: ClassVar[str] = (
        "vLLM-Omni's quantization_config: ignored_layers, whole run-time names (to_qkv for q, k"
        " and v)"
    )

    def read(self, text: str) -> ConsumerList:
        """One config for every component, or one for each."""
        entries: list[Entry] = []
        used: dict[str, FormatName | None] = {}
        for component, part in _parts(parse_object(text, _EXPECTED)).items():
            used[component] = FormatName.BF16 if part is None else _format(part)
            ignored = part and (part.get("ignored_layers") or part.get("modules_to_not_convert"))
            entries += [
                Entry(text=name, rule="fqn", component=component)
                for name in check_names(ignored, "ignored_layers")
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
        """The object, or an object of one component, has ignored_layers beside a method."""
        value = object_or_empty(text)
        return any(
            "ignored_layers" in part and _METHOD_KEYS & set(part)
            for part in (value, *value.values())
            if isinstance(part, dict)
        )


def _parts(value: Mapping[str, Any]) -> dict[str, Mapping[str, Any] | None]:
    """{component: its config}; the key is "" for a config of every component."""
    if _METHOD_KEYS & set(value):
        return {"": value}
    parts = {
        name: {"method": part} if isinstance(part, str) else part for name, part in value.items()
    }
    if not any(isinstance(part, dict) and _METHOD_KEYS & set(part) for part in value.values()):
        raise PatternError(
            f"found an object without a method; expected {_EXPECTED}; name the method"
        )
    without = [
        name
        for name, part in parts.items()
        if part is not None and not (isinstance(part, dict) and _METHOD_KEYS & set(part))
    ]
    if without:
        raise PatternError(
            f"found {without[0][:80]!r} without a method; expected {_EXPECTED}; name the method, or"
            " write null"
        )
    return parts


def _format(part: Any) -> FormatName | None:
    method = str(part.get("method", part.get("quant_method"))).lower().replace("-", "_")
    if method not in METHODS:
        raise PatternError(
            f"found the method {method[:80]!r}; expected one of {', '.join(METHODS)}, which take"
            " ignored_layers; name one of these"
        )
    return METHODS[method]
