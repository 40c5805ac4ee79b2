"""How does SGLang's diffusion server run a model quantized as the recipe says?

There are two forms:

- `checkpoint`, for nvfp4 and fp8: the `quantization_config` of a ModelOpt checkpoint's
  `config.json`, with `ignore`. It describes weights that ModelOpt quantized with the same list
  (exporter `modelopt`), nvfp4's with four-over-six scales or not. Where the list and the weights
  disagree, SGLang follows the weights;
- `arguments`, for fp8 or int8-rot: the config file that `sglang serve` takes. The weights are bf16
  and are quantized when they are loaded. They have one scale a row, and activations one a row, as
  in this tool's formats. Where sgl-kernel's cutlass GEMM does not run, an fp8 weight has one scale.
  INT8 is rotated by the same matrix as here (`convrot_int8`), in groups of 256, and Linears whose K
  is no multiple of 256 stay in bf16; it has no INT8 without a rotation.

    text = SglangExporter(form="arguments").export(recipe)

mxfp8 has no form: online it takes no list, and its checkpoints are ComfyUI's (exporter `comfyui`).
Some Linears are never quantized: all of FLUX.1's embedders, modulation and feed-forwards. LTX-2's
Linears have no run-time name there, so all of them are quantized, or none.

Source: SGLang 0.5.23.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from sensitivity.consumers.exporters._base import (
    FOUR_OVER_SIX,
    INT8_NOTE,
    SAME_WORD,
    indented_json,
    one_or_all,
    only_format,
)
from sensitivity.consumers.exporters._checkpoint_policy import (
    ALGORITHMS,
    GROUP_SIZE,
    REASONER_NOTE,
    checkpoint_obstacles,
    policy_in,
    with_policy,
)
from sensitivity.consumers.exporters._served import ServedExporter
from sensitivity.consumers.limits import Limits
from sensitivity.consumers.lists import ModelTree
from sensitivity.consumers.readers import Reader
from sensitivity.consumers.readers.sglang import PACKED_PARTS, SglangReader
from sensitivity.consumers.rules import others_hit_as_parts
from sensitivity.consumers.served_names import served_names
from sensitivity.core.assignment import Assignment
from sensitivity.core.format_name import FormatName, quantized
from sensitivity.core.step_policy import StepPolicy
from sensitivity.recipes.recipe import Recipe

ONLINE: Mapping[FormatName, str] = {
    FormatName.FP8: "fp8",
    FormatName.INT8_ROT: "convrot_int8",
}
"""{format that it makes of bf16 weights: its method}."""

ROTATION_NOTE = (
    "SGLang rotates in groups of 256 and leaves Linears whose K is no multiple of 256 in bf16; this"
    " tool rotates these in groups of 64 or 16. Leave them in bf16 (embedders, most often)"
)


@dataclass(frozen=True, kw_only=True)
class SglangExporter(ServedExporter):
    """JSON, in one of the two forms."""

    name: ClassVar[str] = "sglang"
    forms: ClassVar[Mapping[str, str]] = {"checkpoint": ".sglang.json", "arguments": ".sglang.json"}
    max_formats: ClassVar[int] = 1
    reads_as: ClassVar[Mapping[FormatName, FormatName]] = SAME_WORD

    @property
    def formats(self) -> frozenset[FormatName]:  # type: ignore[override]
        """The formats that the form is for, and bf16."""
        own = (*ALGORITHMS, *SAME_WORD) if self.form == "checkpoint" else ONLINE
        return frozenset({FormatName.BF16, *own})

    def policy_obstacles(self, assignment: Assignment, classes: Mapping[str, str]) -> list[str]:
        """Those of SGLang in a checkpoint; weights that it quantizes itself have no policy."""
        if self.form != "checkpoint":
            return super().policy_obstacles(assignment, classes)
        return checkpoint_obstacles(self.name, assignment, classes)

    def step_policy(self, text: str, recipe: Recipe) -> StepPolicy:
        """What SGLang's parser makes of a checkpoint's policy."""
        if self.form != "checkpoint" or recipe.model.components:
            return super().step_policy(text, recipe)
        return policy_in(self.name, json.loads(text))

    def notes(self, recipe: Recipe, text: str) -> tuple[str, ...]:
        """The reader's notes, and what Cosmos3's reasoner does where there is a step policy."""
        used = set(recipe.layers.values())
        own = [] if recipe.step_policy is None else [REASONER_NOTE]
        own += [FOUR_OVER_SIX] if FormatName.NVFP4_4O6 in used else []
        own += [ROTATION_NOTE, INT8_NOTE] if FormatName.INT8_ROT in used else []
        return (*super().notes(recipe, text), *own)

    @property
    def reader(self) -> Reader:
        """The reader of both forms."""
        return SglangReader()

    def limits(self, tree: ModelTree) -> Limits:
        """Those of every server; and in `arguments`, what entries for others hit as well."""
        limits = super().limits(tree)
        if self.form != "arguments" or limits.unknown:
            return limits
        named: dict[tuple[str, str], list[str]] = {}
        for fqn, name in served_names(self.name, tree).items():
            if name:
                named.setdefault((tree.component_of(fqn), name), []).append(fqn)
        kept_with: dict[str, list[str]] = {}
        for component in {component for component, _ in named}:
            names = {name for own, name in named if own == component}
            for name, others in others_hit_as_parts(names).items():
                hit = [fqn for other in others for fqn in named[component, other]]
                kept_with |= dict.fromkeys(named[component, name], hit)
        return replace(limits, kept_with=kept_with)

    def render(self, recipe: Recipe) -> str:
        """The JSON text, indented."""
        if self.form == "arguments":
            return indented_json(self._arguments(recipe))
        parts = {
            component: with_policy(self._checkpoint(recipe, component), recipe.assignment)
            for component in recipe.model.classes
        }
        return indented_json(one_or_all(recipe, parts))

    def _checkpoint(self, recipe: Recipe, component: str) -> dict[str, Any]:
        quantizes = self._quantizes(recipe, component)
        is_fp8 = only_format(recipe) is FormatName.FP8
        algorithm = ALGORITHMS[FormatName.FP8 if is_fp8 else FormatName.NVFP4]
        return {
            "quant_method": "modelopt",
            "quant_type": algorithm,
            "quant_algo": algorithm,
            **({} if is_fp8 else {"group_size": GROUP_SIZE}),
            "ignore": self.bf16_names(recipe, component) if quantizes else ["*"],
        }

    def _arguments(self, recipe: Recipe) -> dict[str, Any]:
        lists = {
            component: self._ignored(recipe, component)
            for component in recipe.model.classes
            if self._quantizes(recipe, component)
        }
        method = ONLINE.get(only_format(recipe), "fp8")
        if not recipe.model.components:
            return {
                "quantization": method if lists else None,
                "quantization_ignored_layers": next(iter(lists.values()), []),
            }
        return {
            "component_quantizations": dict.fromkeys(lists, method),
            "component_quantization_ignored_layers": lists,
        }

    def _ignored(self, recipe: Recipe, component: str) -> list[str]:
        """The bf16 names, with the fused `w13` as the names of its parts: SGLang's
        `is_layer_skipped` sees only these.
        """
        names: list[str] = []
        for name in self.bf16_names(recipe, component):
            head, dot, last = name.rpartition(".")
            if last == "w13":
                names += [f"{head}{dot}{part}" for part in sorted(PACKED_PARTS)]
            else:
                names.append(name)
        return names

    def _quantizes(self, recipe: Recipe, component: str) -> bool:
        return bool(quantized(recipe.layers_by_component[component]))
