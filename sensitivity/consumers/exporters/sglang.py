"""How does SGLang's diffusion server run a model quantized as the recipe says?

Two forms, one a format.

`checkpoint`, for nvfp4: `quantization_config` of a ModelOpt checkpoint's `config.json`, with
`ignore`. It describes weights that ModelOpt quantized with the same list (the exporter modelopt
writes what ModelOpt takes); SGLang believes the weights where the two disagree.

`arguments`, for fp8: what the server takes with `--config FILE`. The weights are bf16 and quantized
when they are loaded, with one scale a row of the weight and one a row of the activations, as this
tool's fp8 (where sgl-kernel's cutlass GEMM does not run, the weight has one).

    sglang serve --model-path MODEL --config recipe.sglang.json

mxfp8 has no form: online it takes no list (SGLang 0.5.23), and its checkpoints are ComfyUI's (use
that exporter). Some Linears are never quantized (all of FLUX.1's embedders, modulation and
feed-forwards), and those of LTX-2 go by no name there: they are all quantized, or none.

    text = SglangExporter(form="arguments").export(recipe)
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from sensitivity.consumers.exporters._base import tree_of
from sensitivity.consumers.exporters._served import ServedExporter, by_component
from sensitivity.consumers.readers import Reader
from sensitivity.consumers.readers.sglang import PACKED_PARTS, SglangReader
from sensitivity.consumers.rules import hits
from sensitivity.core.format_name import FormatName
from sensitivity.core.words import some
from sensitivity.recipes.recipe import Recipe

GROUP_SIZE = 16
"""Values that share a scale in NVFP4."""


@dataclass(frozen=True, kw_only=True)
class SglangExporter(ServedExporter):
    """JSON, in one of the forms above."""

    name: ClassVar[str] = "sglang"
    forms: ClassVar[Mapping[str, str]] = {"checkpoint": ".sglang.json", "arguments": ".sglang.json"}
    max_formats: ClassVar[int] = 1

    @property
    def formats(self) -> frozenset[FormatName]:  # type: ignore[override]
        """The one format that the form is for, and bf16."""
        return frozenset(
            {FormatName.BF16, FormatName.NVFP4 if self.form == "checkpoint" else FormatName.FP8}
        )

    @property
    def reader(self) -> Reader:
        """The reader of both forms."""
        return SglangReader()

    def obstacles(self, recipe: Recipe) -> list[str]:
        """As for every server, and names that the entries of others hit as well."""
        found = super().obstacles(recipe)
        hit = [] if found else self._also_hit(recipe, recipe.layers)
        return found + [
            f"its list, which matches parts of names, would keep {some(hit)} in bf16 as well"
        ] * bool(hit)

    def nearest(self, recipe: Recipe) -> dict[str, FormatName]:
        """As for every server; what the entries of others hit stays bf16."""
        layers = super().nearest(recipe)
        while hit := self._also_hit(recipe, layers):
            layers |= dict.fromkeys(hit, FormatName.BF16)
        return layers

    def _also_hit(self, recipe: Recipe, layers: Mapping[str, FormatName]) -> list[str]:
        """Quantized Linears that entries for bf16 ones hit under the rule of `arguments`."""
        if self.form != "arguments":
            return []
        tree = tree_of(recipe, recipe.layers)
        found: list[str] = []
        for component in recipe.model.classes:
            own = {
                fqn: name
                for fqn, name in self.served(recipe).items()
                if name and tree.component_of(fqn) == component
            }
            entries = {name for fqn, name in own.items() if layers[fqn] is FormatName.BF16}
            others = {name for fqn, name in own.items() if layers[fqn] is not FormatName.BF16}
            hit = frozenset[str]().union(*(hits("path", entry, others) for entry in entries))
            found += [fqn for fqn, name in own.items() if name in hit]
        return found

    def render(self, recipe: Recipe) -> str:
        """The JSON text, indented."""
        value = self._arguments(recipe) if self.form == "arguments" else self._checkpoint(recipe)
        return json.dumps(value, indent=1) + "\n"

    def _checkpoint(self, recipe: Recipe) -> Any:
        def part(component: str) -> dict[str, Any]:
            ignore = (
                ["*"]
                if not self._quantizes(recipe, component)
                else self.bf16_names(recipe, component)
            )
            return {
                "quant_method": "modelopt",
                "quant_type": "NVFP4",
                "quant_algo": "NVFP4",
                "group_size": GROUP_SIZE,
                "ignore": ignore,
            }

        return by_component(
            recipe, {component: part(component) for component in recipe.model.classes}
        )

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
        """As `bf16_names`, but the parts of `w13` by their own names, as `is_layer_skipped` wants
        them.
        """
        names: list[str] = []
        for name in self.bf16_names(recipe, component):
            head, dot, last = name.rpartition(".")
            names += (
                [f"{head}{dot}{part}" for part in sorted(PACKED_PARTS)] if last == "w13" else [name]
            )
        return names

    def _quantizes(self, recipe: Recipe, component: str) -> bool:
        layers = recipe.layers_by_component[component]
        return any(name is not FormatName.BF16 for name in layers.values())
