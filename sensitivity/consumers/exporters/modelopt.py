"""How does NVIDIA ModelOpt read a recipe?

As the `quant_cfg` of `mtq.quantize`, or as the `hf_quant_config.json` of a checkpoint that it
wrote.

    config = runpy.run_path("recipe.modelopt.py")["config"]
    mtq.quantize(pipeline.transformer, config, forward_loop)

The form `quant-cfg` is a Python text with one list of entries: everything off, then the
weight_quantizer and input_quantizer of the recipe's Linears on, by shell patterns as short as they
are exact on this model (`parent_class` keeps them to Linears, since norms and convolutions have
quantizers too). It needs ModelOpt 0.44 or newer: up to 0.43 `quant_cfg` was a dict.

The form `hf-quant-config` is JSON and has no comments. It says `exclude_modules` by exact names.
Readers of it differ: TensorRT-LLM takes them as shell patterns, vLLM also as substrings; where a
name would be a part of a quantized one (FLUX's `proj_out`), and where the recipe has several
formats, it says MIXED_PRECISION with `quantized_layers`, which names what is quantized. The
producer is "modelopt", because readers know the form by it.

Formats are ModelOpt's own configs: NVFP4_DEFAULT_CFG, MXFP8_DEFAULT_CFG, and for fp8
FP8_PER_CHANNEL_PER_TOKEN_CFG (one scale a row of the weight, one a token at run time;
FP8_DEFAULT_CFG has one a tensor, and would be another recipe). NVFP4's activations have one scale a
tensor from calibration; this tool's is computed at run time.

`export_hf_checkpoint` (0.42 and newer for diffusers, and for MXFP8) fuses q, k and v of an
attention and asserts that they have one format: so `hf-quant-config` refuses recipes in which they
differ, and a comment of `quant-cfg` says so. Consumer's side: `sensitivity.consumers.modelopt`.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from sensitivity.consumers.exporters._base import (
    CALIBRATED,
    Exporter,
    describe,
    quantized_formats,
    tree_of,
)
from sensitivity.consumers.readers.modelopt import LINEAR, QUANTIZERS, ModelOptReader
from sensitivity.core.format_name import FormatName
from sensitivity.core.pattern_cover import compress
from sensitivity.core.patterns import META
from sensitivity.recipes.recipe import Recipe

CONFIGS: Mapping[FormatName, tuple[dict[str, Any], dict[str, Any]]] = {
    FormatName.NVFP4: (
        ({"num_bits": (2, 1), "block_sizes": {-1: 16, "type": "dynamic", "scale_bits": (4, 3)}},)
        * 2
    ),
    FormatName.MXFP8: (
        ({"num_bits": (4, 3), "block_sizes": {-1: 32, "type": "dynamic", "scale_bits": (8, 0)}},)
        * 2
    ),
    FormatName.FP8: (
        {"num_bits": (4, 3), "axis": 0},
        {"num_bits": (4, 3), "type": "dynamic", "block_sizes": {-1: None}},
    ),
}
"""Format -> (cfg of the weight, cfg of the input): those of ModelOpt's presets, read in 0.47.0."""

ALGORITHMS: Mapping[FormatName, dict[str, Any]] = {
    FormatName.NVFP4: {"quant_algo": "NVFP4", "group_size": 16},
    FormatName.MXFP8: {"quant_algo": "MXFP8", "group_size": 32},
    FormatName.FP8: {"quant_algo": "FP8_PER_CHANNEL_PER_TOKEN"},
}

FUSED = (
    ("to_q", "to_k", "to_v"),
    ("q_proj", "k_proj", "v_proj"),
    ("query", "key", "value"),
    ("add_q_proj", "add_k_proj", "add_v_proj"),
    ("to_added_q", "to_added_k", "to_added_v"),
)
"""Last parts of names that `export_hf_checkpoint` fuses where they read one tensor
(`torch/export/diffusers_utils.py`: `is_qkv_projection`, 0.47.0).
"""

CROSS = re.compile(r"(\w+_)?attn2|\w+_to_\w+_attn|\w*cross_?att\w*")
"""Attentions, by diffusers' names, whose q reads another tensor than k and v:

ModelOpt sees that in a forward, a recipe has names alone.
"""


@dataclass(frozen=True, kw_only=True)
class ModelOptExporter(Exporter):
    """`quant_cfg` as Python, or `hf_quant_config.json`; for several components {component: config}."""

    name: ClassVar[str] = "modelopt"
    forms: ClassVar[Mapping[str, str]] = {
        "quant-cfg": ".modelopt.py",
        "hf-quant-config": ".hf_quant_config.json",
    }

    def notes(self, recipe: Recipe, text: str) -> tuple[str, ...]:  # noqa: ARG002 - the contract's signature
        """What the form without comments cannot say."""
        return (
            (CALIBRATED,)
            if self.form == "hf-quant-config" and FormatName.NVFP4 in recipe.layers.values()
            else ()
        )

    def render(self, recipe: Recipe) -> str:
        """The text of the form."""
        if self.form == "quant-cfg":
            return _python(recipe)
        configs = {
            component: _checkpoint(layers)
            for component, layers in recipe.layers_by_component.items()
        }
        return (
            json.dumps(
                configs if recipe.model.components else next(iter(configs.values())), indent=1
            )
            + "\n"
        )

    def assign(self, text: str, recipe: Recipe, fqns: Iterable[str]) -> dict[str, FormatName]:
        """As ModelOpt's reader says."""
        return ModelOptReader().read(text).assign(tree_of(recipe, fqns), quantized=FormatName.BF16)

    def fused(self, recipe: Recipe) -> Sequence[Sequence[str]]:
        """q, k and v of each attention, in the form that describes a checkpoint; `mtq.quantize`
        fuses nothing.
        """
        return attention_families(recipe.layers) if self.form == "hf-quant-config" else ()


def attention_families(fqns: Iterable[str]) -> list[tuple[str, ...]]:
    """The Linears that read one tensor in an attention, by their names: q, k and v, without q where
    it is a cross-attention.
    """
    families: dict[tuple[str, int], list[str]] = defaultdict(list)
    for fqn in fqns:
        parent, _, last = fqn.rpartition(".")
        for place, names in enumerate(FUSED):
            if last in names and not (
                last == names[0] and CROSS.fullmatch(parent.rpartition(".")[2])
            ):
                families[(parent, place)].append(fqn)
    return [tuple(family) for family in families.values() if len(family) > 1]


def _python(recipe: Recipe) -> str:
    """The text of `quant-cfg`."""
    used = quantized_formats(recipe)
    lines = [f"# {line}" for line in _header(recipe)]
    for name in used:
        weight, inputs = CONFIGS[name]
        lines += [f"{name.upper()}_WEIGHT = {weight!r}", f"{name.upper()}_INPUT = {inputs!r}"]
    algorithm = None if set(used) <= {FormatName.MXFP8} else '"max"'
    if recipe.model.components:
        lines += ["", "config = {"]
        for component, layers in recipe.layers_by_component.items():
            lines += [
                f"    {json.dumps(component)}: {{",
                *_entries(layers, " " * 8),
                f'        "algorithm": {algorithm},',
                "    },",
            ]
    else:
        lines += [
            "",
            "config = {",
            *_entries(recipe.layers, "    "),
            f'    "algorithm": {algorithm},',
        ]
    return "\n".join([*lines, "}"]) + "\n"


def _header(recipe: Recipe) -> list[str]:
    used, names = quantized_formats(recipe), list(recipe.model.classes)
    configs = (
        [f"config[{json.dumps(name)}]" for name in names] if recipe.model.components else ["config"]
    )
    lines = [
        (
            "ModelOpt's quant_cfg, for 0.44 and newer (before that it was a dict). Patterns hold"
            " for this model alone."
        ),
        *(
            f"mtq.quantize(pipeline.{name}, {config}, forward_loop)"
            for name, config in zip(names, configs, strict=True)
        ),
        *describe(recipe),
    ]
    if FormatName.NVFP4 in used:
        lines.append(
            "nvfp4: activations have a scale a tensor from calibration, so forward_loop must run"
            " the pipeline; the recipe's is computed at run time"
        )
    if FormatName.FP8 in used:
        lines.append(
            "fp8: one scale a row of the weight, one a token at run time, as in"
            " FP8_PER_CHANNEL_PER_TOKEN_CFG"
        )
    torn = [
        family
        for family in attention_families(recipe.layers)
        if len({recipe.layers[fqn] for fqn in family}) > 1
    ]
    if torn:
        lines.append(
            f"export_hf_checkpoint asserts that q, k and v have one format, which {len(torn)}"
            f" attentions do not ({', '.join(torn[0])}, ...)"
        )
    return lines


def _entries(layers: Mapping[str, FormatName], indent: str) -> list[str]:
    """The lines of "quant_cfg", two entries a pattern."""
    lines = [f'{indent}"quant_cfg": [', f'{indent}    {{"quantizer_name": "*", "enable": False}},']
    for name in FormatName:
        chosen = [fqn for fqn, found in layers.items() if found is name]
        if name is FormatName.BF16 or not chosen:
            continue
        for found in compress(chosen, layers):
            lines += (
                [] if META.isdisjoint(found.pattern) else [f"{indent}    # {name}: {found.reason}"]
            )
            for quantizer, cfg in zip(QUANTIZERS, ("WEIGHT", "INPUT"), strict=False):
                entry = (
                    f'"quantizer_name": "{found.pattern}.{quantizer}", "parent_class": "{LINEAR}",'
                    f' "cfg": {name.upper()}_{cfg}'
                )
                lines.append(f"{indent}    {{{entry}}},")
    return [*lines, f"{indent}],"]


def _checkpoint(layers: Mapping[str, FormatName]) -> dict[str, Any]:
    """`hf_quant_config.json` of one component."""
    used = [name for name in FormatName if name is not FormatName.BF16 and name in layers.values()]
    kept = [fqn for fqn, name in layers.items() if name is FormatName.BF16]
    quantized = [fqn for fqn in layers if layers[fqn] is not FormatName.BF16]
    parts_of_others = any(name in fqn for name in kept for fqn in quantized)
    body: dict[str, Any] = {"quant_algo": None, "kv_cache_quant_algo": None}
    if len(used) == 1 and not parts_of_others:
        body |= ALGORITHMS[used[0]] | {"exclude_modules": kept}
    elif used:
        body |= {
            "quant_algo": "MIXED_PRECISION",
            "quantized_layers": {fqn: ALGORITHMS[layers[fqn]] for fqn in quantized},
        }
    return {"producer": {"name": "modelopt"}, "quantization": body}
