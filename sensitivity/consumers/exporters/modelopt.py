"""How does NVIDIA ModelOpt read a recipe? As the `quant_cfg` of `mtq.quantize` (form `quant-cfg`),
or as the `hf_quant_config.json` of a checkpoint that it wrote (form `hf-quant-config`).

    config = runpy.run_path("recipe.modelopt.py")["config"]
    mtq.quantize(pipeline.transformer, config, forward_loop)

`quant-cfg` is a Python text with one list of entries. The first entry turns everything off; the
others turn on the weight_quantizer and input_quantizer of the recipe's Linears. Their shell
patterns are as short as they can be and still exact on this model. `parent_class` keeps them to
Linears, since norms and convolutions have quantizers too. It needs ModelOpt 0.44 or newer; before,
`quant_cfg` was a dict.

`hf-quant-config` is JSON, without comments. It has exact names in `exclude_modules`. TensorRT-LLM
reads these as shell patterns, and vLLM also as substrings. So where a name is a part of a quantized
one (FLUX's `proj_out`), or the recipe has several formats, it says MIXED_PRECISION instead, and
`quantized_layers` names what is quantized. The producer is "modelopt", by which readers recognise
the form.

Formats of `quant-cfg` are ModelOpt's presets NVFP4_DEFAULT_CFG, NVFP4_FOUR_OVER_SIX_CFG (0.46),
MXFP8_DEFAULT_CFG, and for fp8 FP8_PER_CHANNEL_PER_TOKEN_CFG (one scale a row of the weight, one a
token at run time); int8 has the same scales, which no preset has. FP8_DEFAULT_CFG would be another
recipe, since it has one scale a tensor. Weight-only formats leave the input off. In NVFP4 the
activations have one scale a tensor from calibration; this tool's nvfp4 computes it at run time.
Four-over-six scales are chosen by the algorithm `mse`, which would also search the scales of FP8
and INT8 weights: they cannot be in one config. A rotation is refused: ModelOpt's is by Sylvester's
Hadamard matrix, in fake quantization only.

`hf-quant-config` says nvfp4 for both choices of scales, since a checkpoint's weights hold them, and
has names for the weight-only formats nvfp4 and int8; not for those of fp8 and mxfp8, nor for int8
with scales at run time.

`export_hf_checkpoint` (0.42 and newer for diffusers, and for MXFP8) fuses q, k and v of an
attention, and fails if they have different formats. So `hf-quant-config` refuses recipes in which
they differ, and `quant-cfg` says it in a comment. How the consumer reads lists is in
`readers.modelopt`.
"""

import json
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, ClassVar

from sensitivity.consumers.exporters._base import (
    CALIBRATED,
    CALIBRATES,
    FOUR_OVER_SIX,
    INT8_NOTE,
    SAME_WORD,
    Exporter,
    indented_json,
    one_or_all,
    quantized_formats,
    tree_of,
)
from sensitivity.consumers.exporters._header import describe
from sensitivity.consumers.exporters.attention_families import attention_families
from sensitivity.consumers.limits import Limits
from sensitivity.consumers.lists import ModelTree
from sensitivity.consumers.other_formats import ListedFormat
from sensitivity.consumers.readers.modelopt import ModelOptReader
from sensitivity.consumers.readers.modelopt_quantizers import LINEAR, QUANTIZERS
from sensitivity.consumers.seen_names import runs
from sensitivity.core.format_name import FormatName, quantized, skipped
from sensitivity.core.pattern_cover import compress
from sensitivity.core.patterns import META
from sensitivity.recipes.recipe import Recipe

_NVFP4 = {"num_bits": (2, 1), "block_sizes": {-1: 16, "type": "dynamic", "scale_bits": (4, 3)}}
_SIX = {"type": "static", "scale_bits": (4, 3), "four_over_six": True}
_MXFP8 = {"num_bits": (4, 3), "block_sizes": {-1: 32, "type": "dynamic", "scale_bits": (8, 0)}}
_FP8_ROW, _INT8_ROW = {"num_bits": (4, 3), "axis": 0}, {"num_bits": 8, "axis": 0}
_A_TOKEN = {"type": "dynamic", "block_sizes": {-1: None}}

CONFIGS: Mapping[FormatName, tuple[dict[str, Any], ...]] = {
    FormatName.NVFP4: (_NVFP4, _NVFP4),
    FormatName.NVFP4_4O6: ({"num_bits": (2, 1), "block_sizes": {-1: 16, **_SIX}}, _NVFP4),
    FormatName.MXFP8: (_MXFP8, _MXFP8),
    FormatName.FP8: (_FP8_ROW, {"num_bits": (4, 3), **_A_TOKEN}),
    FormatName.INT8: (_INT8_ROW, {"num_bits": 8, **_A_TOKEN}),
    FormatName.NVFP4_A16: (_NVFP4,),
    FormatName.MXFP8_A16: (_MXFP8,),
    FormatName.FP8_A16: (_FP8_ROW,),
    FormatName.INT8_A16: (_INT8_ROW,),
}
"""{format: (cfg of the weight, cfg of the input)}, as in ModelOpt's presets of 0.47.0; without the
second the input stays off.
"""

CHOOSE_SIX = {
    "method": "mse",
    "fp8_scale_sweep": False,
    "start_multiplier": 1.0,
    "stop_multiplier": 1.5,
    "step_size": 0.5,
}
"""The algorithm of NVFP4_FOUR_OVER_SIX_CFG: of each block's largest value once and 1.5 times, the
one with the smaller squared error.
"""

SEARCHED = (FormatName.FP8, FormatName.INT8, FormatName.FP8_A16, FormatName.INT8_A16)
"""Formats whose weights have static scales, which `CHOOSE_SIX` would search too."""

ALGORITHMS: Mapping[FormatName, dict[str, Any]] = {
    FormatName.NVFP4: {"quant_algo": "NVFP4", "group_size": 16},
    FormatName.MXFP8: {"quant_algo": "MXFP8", "group_size": 32},
    FormatName.FP8: {"quant_algo": "FP8_PER_CHANNEL_PER_TOKEN"},
    FormatName.NVFP4_A16: {"quant_algo": "W4A16_NVFP4", "group_size": 16},
    FormatName.INT8_A16: {"quant_algo": "W8A16"},
}
"""{format: what `hf_quant_config.json` says of a layer in it}."""

_OTHER_MATRIX = dict.fromkeys(
    (name for name in FormatName if name.is_rotated),
    "its rotation multiplies by another Hadamard matrix",
)
_NOT_IN_A_CHECKPOINT = {
    FormatName.INT8: "a checkpoint's int8 has scales of activations from calibration",
    **dict.fromkeys((FormatName.FP8_A16, FormatName.MXFP8_A16), "a checkpoint has no name for it"),
}


@dataclass(frozen=True, kw_only=True)
class ModelOptExporter(Exporter):
    """`quant_cfg` as Python, or `hf_quant_config.json`; {component: config} for several."""

    name: ClassVar[str] = "modelopt"
    forms: ClassVar[Mapping[str, str]] = {
        "quant-cfg": ".modelopt.py",
        "hf-quant-config": ".hf_quant_config.json",
    }

    @property
    def formats(self) -> frozenset[FormatName]:  # type: ignore[override]
        """Those that the form has words for, and in a checkpoint those that read as these."""
        known = CONFIGS if self.form == "quant-cfg" else (*ALGORITHMS, *self.reads_as)
        return frozenset({FormatName.BF16, *known})

    @property
    def reads_as(self) -> Mapping[FormatName, FormatName]:  # type: ignore[override]
        """A checkpoint says nvfp4 however its scales were chosen."""
        is_checkpoint = self.form == "hf-quant-config"
        return SAME_WORD if is_checkpoint else {}

    @property
    def lacks(self) -> Mapping[FormatName, str]:  # type: ignore[override]
        """Why rotations are refused, and what a checkpoint has no name for."""
        return _OTHER_MATRIX | (_NOT_IN_A_CHECKPOINT if self.form == "hf-quant-config" else {})

    @property
    def apart(self) -> Mapping[frozenset[FormatName], str]:  # type: ignore[override]
        """The algorithm that chooses four-over-six scales is for every weight with static ones."""
        if self.form != "quant-cfg":
            return {}
        why = f"the algorithm that chooses {FormatName.NVFP4_4O6}'s scales would search the other's"
        return {frozenset({FormatName.NVFP4_4O6, own}): why for own in SEARCHED}

    def notes(self, recipe: Recipe, text: str) -> tuple[str, ...]:  # noqa: ARG002
        """What the form without comments cannot say: that nvfp4 needs calibration, and where
        four-over-six scales are.
        """
        if self.form == "quant-cfg":
            return ()
        used = quantized_formats(recipe)
        return (
            *((CALIBRATED,) if CALIBRATES & set(used) else ()),
            *((FOUR_OVER_SIX,) if FormatName.NVFP4_4O6 in used else ()),
        )

    def render(self, recipe: Recipe) -> str:
        """The text of the form."""
        if self.form == "quant-cfg":
            return _python(recipe)
        configs = {
            component: _checkpoint(layers)
            for component, layers in recipe.layers_by_component.items()
        }
        return indented_json(one_or_all(recipe, configs))

    def assign(self, text: str, recipe: Recipe, fqns: Iterable[str]) -> dict[str, ListedFormat]:
        """What the reader makes of the text."""
        return ModelOptReader().read(text).assign(tree_of(recipe, fqns), quantized=FormatName.BF16)

    def limits(self, tree: ModelTree) -> Limits:
        """In `hf-quant-config`, q, k and v of each attention are one; `mtq.quantize` fuses
        nothing.
        """
        fused = attention_families(tree.fqns) if self.form == "hf-quant-config" else ()
        return replace(super().limits(tree), fused=fused)


def _python(recipe: Recipe) -> str:
    """The text of `quant-cfg`."""
    used = quantized_formats(recipe)
    lines = [f"# {line}" for line in _header(recipe)]
    for name in used:
        pairs = zip(_PARTS, CONFIGS[name], strict=False)
        lines += [f"{_constant(name)}_{part} = {cfg!r}" for part, cfg in pairs]
    algorithm = None if set(used) <= {FormatName.MXFP8, FormatName.MXFP8_A16} else '"max"'
    if FormatName.NVFP4_4O6 in used:
        algorithm = repr(CHOOSE_SIX)
    lines += ["", "config = {"]
    if not recipe.model.components:
        lines += [*_entries(recipe.layers, "    "), f'    "algorithm": {algorithm},']
        return "\n".join([*lines, "}"]) + "\n"
    for component, layers in recipe.layers_by_component.items():
        lines += [
            f"    {json.dumps(component)}: {{",
            *_entries(layers, " " * 8),
            f'        "algorithm": {algorithm},',
            "    },",
        ]
    return "\n".join([*lines, "}"]) + "\n"


_PARTS = ("WEIGHT", "INPUT")


def _constant(name: FormatName) -> str:
    """A format's name in constants of the exported Python."""
    return name.upper().replace("-", "_")


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
    if CALIBRATES & set(used):
        lines.append(
            "nvfp4: activations have a scale a tensor from calibration, so forward_loop must run"
            " the pipeline; the recipe's is computed at run time"
        )
    if FormatName.FP8 in used:
        lines.append(
            "fp8: one scale a row of the weight, one a token at run time, as in"
            " FP8_PER_CHANNEL_PER_TOKEN_CFG"
        )
    if FormatName.NVFP4_4O6 in used:
        lines.append(
            "nvfp4-4o6: needs ModelOpt 0.46; two scales a block, as NVFP4_FOUR_OVER_SIX_CFG"
        )
    if {FormatName.INT8, FormatName.INT8_A16} & set(used):
        lines.append(f"int8: {INT8_NOTE}")
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
    chosen = quantized(layers)
    for name in FormatName:
        own = [fqn for fqn, found in chosen.items() if found is name]
        for found in compress(own, layers) if own else ():
            if not META.isdisjoint(found.pattern):
                lines.append(f"{indent}    # {name}: {found.reason}")
            for quantizer, cfg, _ in zip(QUANTIZERS, _PARTS, CONFIGS[name], strict=False):
                entry = (
                    f'"quantizer_name": "{found.pattern}.{quantizer}", "parent_class": "{LINEAR}",'
                    f' "cfg": {_constant(name)}_{cfg}'
                )
                lines.append(f"{indent}    {{{entry}}},")
    return [*lines, f"{indent}],"]


def _checkpoint(layers: Mapping[str, FormatName]) -> dict[str, Any]:
    """`hf_quant_config.json` of one component."""
    kept, chosen = skipped(layers), quantized(layers)
    chosen = {fqn: SAME_WORD.get(name, name) for fqn, name in chosen.items()}
    used = set(chosen.values())
    body: dict[str, Any] = {"quant_algo": None, "kv_cache_quant_algo": None}
    if len(used) == 1 and not _parts_of_others(kept, chosen):
        body |= ALGORITHMS[used.pop()] | {"exclude_modules": kept}
    elif used:
        body |= {
            "quant_algo": "MIXED_PRECISION",
            "quantized_layers": {fqn: ALGORITHMS[name] for fqn, name in chosen.items()},
        }
    return {"producer": {"name": "modelopt"}, "quantization": body}


def _parts_of_others(kept: Iterable[str], chosen: Iterable[str]) -> bool:
    """Whether one of `kept` stands anywhere in one of `chosen`."""
    longest_first = sorted(chosen, key=len, reverse=True)
    lengths, text = [-len(name) for name in longest_first], "\n".join(longest_first)
    ends = list(accumulate(len(name) + 1 for name in longest_first))
    middles = {name: _middle(name) for name in kept}
    wanted = frozenset(middles.values())
    having: dict[str, list[str]] = {}
    for name in longest_first:
        for run in wanted.intersection(runs(name)):
            having.setdefault(run, []).append(name)
    for name, middle in middles.items():
        longer = bisect_left(lengths, -len(name))  # a name stands in longer ones only
        if middle and any(name in other for other in having.get(middle, ())):
            return True
        if not middle and longer and text.find(name, 0, ends[longer - 1]) >= 0:
            return True
    return False


def _middle(name: str) -> str:
    """What is between the first and the last part of a name; "" if there is nothing.

    Wherever the name stands in another one, these are whole parts of it.
    """
    return name.partition(".")[2].rpartition(".")[0]
