"""How does vLLM-Omni serve a model quantized as the recipe says?

With a `quantization_config` whose `ignored_layers` are what stays bf16.

    vllm serve MODEL --omni --diffusion-quantization-config "$(cat recipe.vllm-omni.json)"
    Omni(model=MODEL, quantization_config=json.load(open("recipe.vllm-omni.json")))

The weights are bf16, and quantized when they are loaded. Its online formats for diffusion on NVIDIA
GPUs with such a list are fp8 (and int8, which we do not have): mxfp8 is for NPU and XPU only, NVFP4
needs a checkpoint that ModelOpt wrote (use that exporter). vLLM-Omni's fp8 scales each weight as a
whole, ours each row: the reader's notes say so. Much of a model is never quantized there: all
modulation, all embedders, and all of FLUX.1's double-stream blocks.

For several denoisers, and for FLUX.2 [dev] (whose text encoder would otherwise be quantized as
well), the object has one config a component.

    text = get_exporter("vllm-omni").export(recipe)
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from sensitivity.consumers.exporters._served import ServedExporter, by_component
from sensitivity.consumers.readers import Reader
from sensitivity.consumers.readers.vllm_omni import KLEIN_NOTE, VllmOmniReader
from sensitivity.core.format_name import FormatName
from sensitivity.recipes.recipe import Recipe

PER_COMPONENT = ("Flux2Pipeline",)
"""Pipelines that quantize other components, too, if the config names none.

FLUX.2 [klein]'s do not, and would not find a part for their denoiser.
"""


@dataclass(frozen=True, kw_only=True)
class VllmOmniExporter(ServedExporter):
    """JSON of a `quantization_config`, or of one a component."""

    name: ClassVar[str] = "vllm-omni"
    forms: ClassVar[Mapping[str, str]] = {"json": ".vllm-omni.json"}
    formats: ClassVar[frozenset[FormatName]] = frozenset({FormatName.BF16, FormatName.FP8})
    max_formats: ClassVar[int] = 1

    @property
    def reader(self) -> Reader:
        """The reader of `quantization_config`."""
        return VllmOmniReader()

    def notes(self, recipe: Recipe, text: str) -> tuple[str, ...]:
        """What its reader notes, but for what depends on the pipeline, which a recipe names."""
        return tuple(note for note in super().notes(recipe, text) if note != KLEIN_NOTE)

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
        named = recipe.model.pipeline_class in PER_COMPONENT
        return json.dumps(parts if named else by_component(recipe, parts), indent=1) + "\n"
