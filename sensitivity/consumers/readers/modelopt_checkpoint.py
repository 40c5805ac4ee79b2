"""How is the list of a checkpoint read that ModelOpt wrote?

    {"quantization": {"quant_algo": "NVFP4", "exclude_modules": ["proj_out"]}}

This is `hf_quant_config.json`. `exclude_modules` are shell patterns on the names of modules. With
`quant_algo` MIXED_PRECISION, `quantized_layers` gives each quantized Linear its own `quant_algo`.
What ModelOpt writes into `config.json` (`quant_method: modelopt`, with `ignore`) is read alike.

A policy by denoising step (`runtime.diffusion_step_policy`) is kept beside the list, unchecked: the
formats are those of the steps between (`consumers.step_policies`).
Algorithms that are none of our formats (`OTHERS`), weight-only ones among them, are read by name.

Source: ModelOpt 0.47.0 (`torch/export/quant_utils.py`: `process_layer_quant_config`).
"""

from collections.abc import Mapping
from typing import Any

from sensitivity.consumers.lists import ConsumerList, Entry, ListedPolicy
from sensitivity.consumers.other_formats import ListedFormat, OtherFormat, weight_only
from sensitivity.consumers.readers.entries import check_name
from sensitivity.consumers.readers.modelopt_quant_cfg import PER_TENSOR_NOTE
from sensitivity.consumers.step_policies import POLICY_TOOLS, raw_policy
from sensitivity.core.format_name import FormatName
from sensitivity.core.patterns import META
from sensitivity.core.words import did_you_mean
from sensitivity.errors import PatternError

ALGORITHMS: Mapping[str, FormatName] = {
    "NVFP4": FormatName.NVFP4,
    "MXFP8": FormatName.MXFP8,
    "FP8_PER_CHANNEL_PER_TOKEN": FormatName.FP8,
    "FP8": FormatName.FP8,
    "W4A16_NVFP4": FormatName.NVFP4_A16,
    "W8A16": FormatName.INT8_A16,
}
"""{quant_algo: our format}."""

OTHERS: Mapping[str, OtherFormat] = {
    "FP8_PB_REAL": OtherFormat("fp8 in blocks"),
    "FP8_PB_WO": weight_only("fp8 in blocks"),
    "MXFP4": OtherFormat("mxfp4"),
    "NVFP4_AWQ": OtherFormat("nvfp4 with awq scales"),
    "NVFP4_SVD": OtherFormat("nvfp4 with a low-rank part (svdquant)"),
    "NVFP4_SVDQUANT": OtherFormat("nvfp4 with a low-rank part (svdquant)"),
    "W4A16_AWQ": weight_only("int4 (awq)"),
    "W4A8_AWQ": OtherFormat("int4 weights, fp8 activations"),
    "W4A8_MXFP4_FP8": OtherFormat("mxfp4 weights, fp8 activations"),
    "W4A8_NVFP4_FP8": OtherFormat("nvfp4 weights, fp8 activations"),
    "W8A8_SQ_PER_CHANNEL": OtherFormat("int8 (smoothquant)"),
}
"""{quant_algo that is none of our formats: its words}."""

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
        PatternError: it has another structure, or names an algorithm that ModelOpt does not have.
    """
    inner = value.get("quantization", value)
    if not isinstance(inner, Mapping):
        raise PatternError(
            f"found quantization {str(inner)[:80]!r}; expected an object with quant_algo; save"
            " ModelOpt's own hf_quant_config.json"
        )
    algorithm = inner.get("quant_algo")
    excluded = inner.get("exclude_modules", inner.get("ignore")) or []
    if not isinstance(excluded, list):
        raise PatternError(
            f"found exclude_modules {str(excluded)[:80]}; expected a list; save ModelOpt's own file"
        )
    own = checkpoint_layers(inner) if algorithm == MIXED else {}
    kept = [_entry(name, FormatName.BF16, component) for name in excluded]
    named = [_entry(name, found, component) for name, found in own.items()]
    default: ListedFormat = FormatName.BF16
    if algorithm not in (MIXED, None):
        default = algorithm_format(algorithm)
    layers = inner.get("quantized_layers") if own else None
    used = [algorithm, *map(_algorithm_of, layers.values() if layers else ())]
    notes = [PER_TENSOR_NOTE] if "FP8" in used else []
    if any(META.isdisjoint(entry.text) for entry in kept):
        notes.append(_SUBSTRING_NOTE)
    return ConsumerList(
        consumer="modelopt",
        entries=(*kept, *named),
        default=default,
        policies=policies_of(inner, tuple(POLICY_TOOLS), component),
        notes=tuple(notes),
    )


def checkpoint_layers(inner: Mapping[str, Any]) -> dict[str, ListedFormat]:
    """{name: format} of `quantized_layers`, for quant_algo MIXED_PRECISION.

    Raises:
        PatternError: there are none, or one has an algorithm that ModelOpt does not have.
    """
    layers = inner.get("quantized_layers")
    if not isinstance(layers, Mapping) or not layers:
        raise PatternError(
            f"found {MIXED} with quantized_layers {str(layers)[:80]}; expected an object with every"
            " quantized Linear; add them, or name one quant_algo"
        )
    return {name: algorithm_format(_algorithm_of(layer)) for name, layer in layers.items()}


def _algorithm_of(layer: Any) -> Any:
    return layer.get("quant_algo") if isinstance(layer, Mapping) else layer


def policies_of(
    config: Mapping[str, Any], tools: tuple[str, ...], component: str
) -> tuple[ListedPolicy, ...]:
    """The policy by denoising step that a `quantization_config` has, unchecked; () without one."""
    if raw_policy(config) is None:
        return ()
    return (ListedPolicy(tools=tools, config=config, component=component),)


def _entry(name: Any, becomes: ListedFormat, component: str) -> Entry:
    text = check_name(name, "the list of modules", expected="a module's name or a shell pattern")
    rule = "fqn" if META.isdisjoint(text) else "fnmatch"
    return Entry(text=text, rule=rule, format=becomes, component=component)


def algorithm_format(algorithm: Any) -> ListedFormat:
    """The format that a `quant_algo` stands for.

    Raises:
        PatternError: ModelOpt has no such algorithm.
    """
    name = algorithm.upper() if isinstance(algorithm, str) else ""
    if name in ALGORITHMS:
        return ALGORITHMS[name]
    if name in OTHERS:
        return OTHERS[name]
    known = (*ALGORITHMS, *OTHERS)
    hint = did_you_mean(name[:80], known, otherwise="name one of these")
    raise PatternError(
        f"found the quant_algo {str(algorithm)[:80]!r}; expected one of {', '.join(known)}; {hint}"
    )
