"""How does vLLM-Omni serve a model quantized as the recipe says? With a `quantization_config` whose
`ignored_layers` are what stays bf16.

    text = get_exporter("vllm-omni").export(recipe)

    Omni(model=MODEL, quantization_config=json.loads(text))

The server takes the same text as its option `diffusion-quantization-config`.

The weights are bf16, and are quantized when they are loaded. vLLM-Omni's online formats for
diffusion on NVIDIA GPUs with such a list are fp8 and int8, and we have no int8. Its mxfp8 is for
NPU and XPU only. Its nvfp4 needs a checkpoint that ModelOpt wrote (exporter `modelopt`). Its fp8
scales each weight as a whole, ours each row; the reader's notes say so. Much of a model is never
quantized there: all modulation, all embedders, and all of FLUX.1's double-stream blocks.

The object has one config for each component where there are several denoisers, and for FLUX.2
[dev], whose text encoder would otherwise be quantized as well.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from sensitivity.consumers.exporters._base import indented_json, one_or_all
from sensitivity.consumers.exporters._served import ServedExporter
from sensitivity.consumers.readers import Reader
from sensitivity.consumers.readers.vllm_omni import KLEIN_NOTE, VllmOmniReader
from sensitivity.consumers.served_names import NAMELESS
from sensitivity.core.format_name import FormatName
from sensitivity.core.words import some
from sensitivity.errors import RecipeError
from sensitivity.recipes.recipe import Recipe

PER_COMPONENT = ("Flux2Pipeline",)
"""Pipelines whose other components are quantized as well if the config names no component.

FLUX.2 [klein]'s pipelines are none of these, and would find no part for their denoiser.
"""


@dataclass(frozen=True, kw_only=True)
class VllmOmniExporter(ServedExporter):
    """JSON of a `quantization_config`, or of one for each component."""

    name: ClassVar[str] = "vllm-omni"
    forms: ClassVar[Mapping[str, str]] = {"json": ".vllm-omni.json"}
    formats: ClassVar[frozenset[FormatName]] = frozenset({FormatName.BF16, FormatName.FP8})
    max_formats: ClassVar[int] = 1

    @property
    def reader(self) -> Reader:
        """The reader of `quantization_config`."""
        return VllmOmniReader()

    def notes(self, recipe: Recipe, text: str) -> tuple[str, ...]:
        """The reader's notes, without the one about the pipeline, which a recipe names."""
        return tuple(note for note in super().notes(recipe, text) if note != KLEIN_NOTE)

    def obstacles(self, recipe: Recipe) -> list[str]:
        """Those of every server, and bf16 Linears that have no name, so that no list keeps them."""
        unnamed = [] if self._unknown(recipe) else self._unnamed_bf16(recipe, recipe.layers)
        return [f"it gives {some(unnamed)} no name, so that no list keeps them in bf16"] * bool(
            unnamed
        ) + super().obstacles(recipe)

    def nearest(self, recipe: Recipe) -> dict[str, FormatName]:
        """The nearest formats of every server.

        Raises:
            RecipeError: the names of the recipe's class are not known, or Linears without a name
                should stay bf16.
        """
        layers = super().nearest(recipe)
        if unnamed := self._unnamed_bf16(recipe, layers):
            raise RecipeError(
                f"found no recipe near {recipe.name!r} for {self.name}: it quantizes"
                f" {some(unnamed)} all together or, without a quantization_config, not at all, as"
                " they have no names there; expected them quantized: use another exporter"
            )
        return layers

    def _unnamed_bf16(self, recipe: Recipe, layers: Mapping[str, FormatName]) -> list[str]:
        """The bf16 Linears without a name."""
        served = self.served(recipe)
        return [
            fqn
            for fqn, name in layers.items()
            if name is FormatName.BF16 and served[fqn] == NAMELESS
        ]

    def render(self, recipe: Recipe) -> str:
        """The JSON text, indented."""
        parts: dict[str, Any] = {
            component: {
                "method": "fp8",
                "activation_scheme": "dynamic",
                "ignored_layers": self.bf16_names(recipe, component),
            }
            for component in recipe.model.classes
        }
        if recipe.model.pipeline_class in PER_COMPONENT:
            return indented_json(parts)
        return indented_json(one_or_all(recipe, parts))
