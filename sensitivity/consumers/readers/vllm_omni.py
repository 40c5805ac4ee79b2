"""How vLLM-Omni reads `ignored_layers`: run-time names, letter by letter.

    {"method": "fp8", "ignored_layers": ["transformer_blocks.0.attn.to_qkv"]}
    {"transformer": {"method": "fp8", "ignored_layers": [...]}, "transformer_2": {...}}

This is `Omni(model=..., quantization_config=...)`, and the server's option
`diffusion-quantization-config`. A Linear is quantized as `method` says if the model's class builds
it with a quantization config and the list does not name it. A part may be null (bf16), or the name
of a method. The part `default` is for Linears that no other part applies to. Parts for text
encoders or the VAE are read, and say nothing about the denoiser.

Methods. fp8 and mxfp8 are formats of this tool; the others (`OTHER_METHODS`) are not, weight-only
ones among them. What a ModelOpt checkpoint has in its config (`quant_algo`, `ignore`) is read with
vLLM's rule for it: shell patterns, and names that stand anywhere in a Linear's name.

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
from sensitivity.consumers.other_formats import ListedFormat, OtherFormat, weight_only
from sensitivity.consumers.readers._base import Reader
from sensitivity.consumers.readers.documents import (
    lists_in,
    named_parts,
    object_or_empty,
    parse_object,
    parts_of,
)
from sensitivity.consumers.readers.entries import check_count, check_names
from sensitivity.consumers.readers.modelopt_checkpoint import (
    MIXED,
    algorithm_format,
    checkpoint_layers,
    policies_of,
)
from sensitivity.consumers.readers.served_lists import ServedList, run_time_names
from sensitivity.core.format_name import FormatName
from sensitivity.core.patterns import META
from sensitivity.core.words import did_you_mean
from sensitivity.errors import PatternError

METHODS: Mapping[str, FormatName] = {
    "fp8": FormatName.FP8,
    "int8": FormatName.INT8,
    "mxfp8": FormatName.MXFP8,
    "torchao_float8_weight_only": FormatName.FP8_A16,
}
"""{method for diffusion: our format}."""

OTHER_METHODS: Mapping[str, OtherFormat] = {
    **{name: weight_only(name) for name in ("bitsandbytes", "awq", "awq_marlin", "gguf")},
    **{name: weight_only(name) for name in ("gptq", "gptq_marlin", "inc", "auto_round")},
    **{name: OtherFormat(name) for name in ("mxfp4", "mxfp4_dualscale", "torchao")},
    "svdquant": OtherFormat("nvfp4 with a low-rank part (svdquant)"),
}
"""{method for diffusion that is none of our formats: its words}."""

MODELOPT = ("modelopt", "modelopt_fp8", "modelopt_fp4", "modelopt_mxfp8")
"""Methods of a checkpoint that ModelOpt wrote; `quant_algo` says the format."""

BY_SUBSTRING = ("awq", "awq_marlin", "svdquant")
"""Methods whose entries may stand anywhere in a name (`match_mode="substring"`)."""

_METHOD_KEYS = {"method", "quant_method"}
_LIST_KEYS = ("ignored_layers", "modules_to_not_convert", "llm_int8_skip_modules")
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
        used: dict[str, ListedFormat | None] = {}
        parts = _parts(parse_object(text, _EXPECTED))
        for component, part in parts.items():
            used[component] = FormatName.BF16 if part is None else _format(part)
            entries += [] if part is None else _entries(part, component)
        check_count(len(entries))
        notes = [FP8_NOTE] * (FormatName.FP8 in used.values()) + [KLEIN_NOTE] * ("" not in used)
        return OmniList(
            consumer=self.name,
            entries=tuple(entries),
            defaults=used,
            served=self.name,
            parts=tuple(part for part in named_parts(parts) if part != "default"),
            policies=tuple(
                policy
                for component, part in parts.items()
                for policy in policies_of(part or {}, (self.name,), component)
            ),
            notes=tuple(notes),
        )

    def looks_like(self, text: str) -> bool:
        """The object, or an object of one component, has ignored_layers beside a method, or a
        method of vLLM-Omni under `method`; or the object has null for a component beside the name
        of a method.
        """
        value = object_or_empty(text)
        words = [part for part in value.values() if isinstance(part, str)]
        if _is_per_component(value) and any(_method(word) in _KNOWN for word in words):
            return True
        parts = lists_in(text)
        if "quant_cfg" not in value and any(_is_own(part) for part in parts):
            return True
        return any("ignored_layers" in part and _METHOD_KEYS & set(part) for part in parts)


def _is_own(part: Mapping[str, Any]) -> bool:
    """Whether an object names a method as vLLM-Omni alone does: under `method`."""
    return isinstance(part.get("method"), str) and _method(part["method"]) in _KNOWN


_KNOWN = (*METHODS, *OTHER_METHODS, *MODELOPT)


def _is_per_component(value: Mapping[str, Any]) -> bool:
    """Whether all parts are null, words or objects, and one is null (vLLM-Omni's own test)."""
    if _METHOD_KEYS & set(value):
        return False
    return any(part is None for part in value.values()) and all(
        part is None or isinstance(part, (str, dict)) for part in value.values()
    )


def _parts(value: Mapping[str, Any]) -> dict[str, Mapping[str, Any] | None]:
    """{component: its config}; the key is "" for a config of every component."""

    def is_list(part: Mapping[str, Any]) -> bool:
        return bool(_METHOD_KEYS & set(part)) or "quant_algo" in part

    quantization = value.get("quantization")
    if isinstance(quantization, dict) and "quant_algo" in quantization:  # hf_quant_config.json
        value = quantization
    parts = parts_of(value, is_list, _EXPECTED, words=True)
    return {
        name: {"method": part} if isinstance(part, str) else part for name, part in parts.items()
    }


def _method(value: object) -> str:
    return str(value).lower().replace("-", "_")


def _format(part: Mapping[str, Any]) -> ListedFormat | None:
    """The format of one config; null as the method is bf16.

    Raises:
        PatternError: the two keys of the method disagree, or vLLM-Omni has no such method.
    """
    given = {_method(part[key]) for key in _METHOD_KEYS if part.get(key) is not None}
    if "quant_algo" in part and (not given or given <= set(MODELOPT)):
        algorithm = part["quant_algo"]
        return FormatName.BF16 if algorithm == MIXED else algorithm_format(algorithm)
    if len(given) > 1:
        raise PatternError(
            f"found the methods {' and '.join(sorted(given))[:160]} in one config; expected the"
            " same under method and quant_method; take one out"
        )
    method = given.pop() if given else "none"
    if method == "fp8" and part.get("weight_block_size"):
        return OtherFormat("fp8 in blocks")
    if method in METHODS:
        return METHODS[method]
    if method in OTHER_METHODS:
        return OTHER_METHODS[method]
    hint = did_you_mean(method[:80], _KNOWN, otherwise="name one of these")
    raise PatternError(
        f"found the method {method[:80]!r}; expected one of {', '.join(_KNOWN)}; {hint}"
    )


def _entries(part: Mapping[str, Any], component: str) -> list[Entry]:
    """The entries that keep Linears in bf16."""
    key = next((key for key in ("ignore", "exclude_modules") if part.get(key)), "")
    if "quant_algo" in part:
        kept = [
            Entry(
                text=name,
                rule="substring" if META.isdisjoint(name) else "fnmatch",
                component=component,
            )
            for name in check_names(part.get(key), key or "ignore")
        ]
        own = checkpoint_layers(part) if part["quant_algo"] == MIXED else {}
        return kept + [
            Entry(text=name, rule="fqn", format=found, component=component)
            for name, found in own.items()
        ]
    key = next((key for key in _LIST_KEYS if part.get(key)), _LIST_KEYS[0])
    method = _method(part.get("method") or part.get("quant_method"))
    rule = "substring" if method in BY_SUBSTRING else "fqn"
    return [
        Entry(text=name, rule=rule, component=component) for name in check_names(part.get(key), key)
    ]
