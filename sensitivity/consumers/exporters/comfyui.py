"""Which layers of a ComfyUI checkpoint are quantized?

The metadata that says so, by the original checkpoint's names.

    from safetensors.torch import save_file
    metadata = json.load(open("recipe.comfyui.json"))
    save_file(tensors, "model.safetensors", metadata={key: json.dumps(value) for key, value in metadata.items()})

It is the metadata of a checkpoint and no checkpoint: `tensors` must hold each listed layer's weight
quantized, with its scales, under the original name (comfy-kitchen has the functions:
`TensorCoreNVFP4Layout.quantize`, `TensorCoreMXFP8Layout.quantize`), and every other tensor as it
was. The names are those of the bare model; in a whole checkpoint they begin with
`model.diffusion_model.`, here as in the tensors.

Formats are nvfp4 and mxfp8, also mixed in one file. ComfyUI's float8_e4m3fn has one scale a tensor,
so it is not our fp8. What the original checkpoint has as one matrix takes one format: q, k and v,
and in FLUX's single blocks q, k, v and `proj_mlp`. A pipeline with several denoisers has a file for
each, here under the component's name.

    text = get_exporter("comfyui").export(recipe)
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from sensitivity.consumers.exporters._served import ServedExporter, by_component
from sensitivity.consumers.readers import Reader
from sensitivity.consumers.readers.comfyui import KEY, ComfyuiReader
from sensitivity.core.format_name import FormatName
from sensitivity.recipes.recipe import Recipe

FORMAT_VERSION = "1.0"


@dataclass(frozen=True, kw_only=True)
class ComfyuiExporter(ServedExporter):
    """JSON of the metadata, or of one a component."""

    name: ClassVar[str] = "comfyui"
    forms: ClassVar[Mapping[str, str]] = {"json": ".comfyui.json"}
    formats: ClassVar[frozenset[FormatName]] = frozenset(
        {FormatName.BF16, FormatName.MXFP8, FormatName.NVFP4}
    )

    @property
    def reader(self) -> Reader:
        """The reader of `_quantization_metadata`."""
        return ComfyuiReader()

    def render(self, recipe: Recipe) -> str:
        """The JSON text, indented."""
        parts: dict[str, Any] = {}
        for component in recipe.model.classes:
            layers = {
                name: {"format": found.value}
                for name, found in self.quantized_names(recipe, component).items()
            }
            parts[component] = {KEY: {"format_version": FORMAT_VERSION, "layers": layers}}
        return json.dumps(by_component(recipe, parts), indent=1) + "\n"
