"""How does SGLang's diffusion server run a model quantized as the recipe says?

There are two forms, one for each format:

- `checkpoint`, for nvfp4: the `quantization_config` of a ModelOpt checkpoint's `config.json`, with
  `ignore`. It describes weights that ModelOpt quantized with the same list (exporter `modelopt`).
  Where the list and the weights disagree, SGLang follows the weights;
- `arguments`, for fp8: the config file that `sglang serve` takes. The weights are bf16 and are
  quantized when they are loaded. They have one scale a row, and activations one a row, as in this
  tool's fp8. Where sgl-kernel's cutlass GEMM does not run, the weight has one scale.

    text = SglangExporter(form="arguments").export(recipe)

mxfp8 has no form: online it takes no list, and its checkpoints are ComfyUI's (exporter `comfyui`).
Some Linears are never quantized: all of FLUX.1's embedders, modulation and feed-forwards. LTX-2's
Linears have no run-time name there, so all of them are quantized, or none.

Source: SGLang 0.5.23.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from sensitivity.consumers.exporters._base import indented_json, one_or_all
from sensitivity.consumers.exporters._served import ServedExporter
from sensitivity.consumers.limits import Limits
from sensitivity.consumers.lists import ModelTree
from sensitivity.consumers.readers import Reader
from sensitivity.consumers.readers.sglang import PACKED_PARTS, SglangReader
from sensitivity.consumers.rules import others_hit_as_parts
from sensitivity.consumers.served_names import served_names
from sensitivity.core.format_name import FormatName, quantized
from sensitivity.recipes.recipe import Recipe

GROUP_SIZE = 16
"""Values that share a scale in NVFP4."""


@dataclass(frozen=True, kw_only=True)
class SglangExporter(ServedExporter):
    """JSON, in one of the two forms."""

    name: ClassVar[str] = "sglang"
    forms: ClassVar[Mapping[str, str]] = {"checkpoint": ".sglang.json", "arguments": ".sglang.json"}
    max_formats: ClassVar[int] = 1

    @property
    def formats(self) -> frozenset[FormatName]:  # type: ignore[override]
        """The one format that the form is for, and bf16."""
        own = FormatName.NVFP4 if self.form == "checkpoint" else FormatName.FP8
        return frozenset({FormatName.BF16, own})

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
            component: self._checkpoint(recipe, component) for component in recipe.model.classes
        }
        return indented_json(one_or_all(recipe, parts))

    def _checkpoint(self, recipe: Recipe, component: str) -> dict[str, Any]:
        quantizes = self._quantizes(recipe, component)
        return {
            "quant_method": "modelopt",
            "quant_type": "NVFP4",
            "quant_algo": "NVFP4",
            "group_size": GROUP_SIZE,
            "ignore": self.bf16_names(recipe, component) if quantizes else ["*"],
        }

    def _arguments(self, recipe: Recipe) -> dict[str, Any]:
        lists = {
            component: self._ignored(recipe, component)
            for component in recipe.model.classes
            if self._quantizes(recipe, component)
        }
        if not recipe.model.components:
            return {
                "quantization": "fp8" if lists else None,
                "quantization_ignored_layers": next(iter(lists.values()), []),
            }
        return {
            "component_quantizations": dict.fromkeys(lists, "fp8"),
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
