"""Which layers of a ComfyUI checkpoint are quantized? The metadata that says so, by the original
checkpoint's names.

    text = get_exporter("comfyui").export(recipe)

    metadata = {key: json.dumps(value) for key, value in json.loads(text).items()}
    safetensors.torch.save_file(tensors, "model.safetensors", metadata=metadata)

The text is the metadata of a checkpoint, not a checkpoint. `tensors` must hold each listed layer's
weight quantized, with its scales, under its original name, and every other tensor as it was.
comfy-kitchen has the functions that quantize: `TensorCoreNVFP4Layout.quantize`,
`TensorCoreMXFP8Layout.quantize`. The names are those of the bare model. In a whole checkpoint they
begin with `model.diffusion_model.`, in this text as in the tensors.

Formats are nvfp4 and mxfp8, also mixed in one file. ComfyUI's float8_e4m3fn has one scale a tensor,
so it is not our fp8. What is one matrix in the original checkpoint takes one format: q, k and v,
and in FLUX's single blocks q, k, v and `proj_mlp`. A pipeline with several denoisers has a file for
each, so the text has one object for each, under the component's name.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from sensitivity.consumers.exporters._base import indented_json, one_or_all
from sensitivity.consumers.exporters._served import ServedExporter
from sensitivity.consumers.readers import Reader
from sensitivity.consumers.readers.comfyui import KEY, ComfyuiReader
from sensitivity.core.format_name import FormatName
from sensitivity.recipes.recipe import Recipe

FORMAT_VERSION = "1.0"


@dataclass(frozen=True, kw_only=True)
class ComfyuiExporter(ServedExporter):
    """JSON of the metadata, or of one for each component."""

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
        layers = {
            component: {
                name: {"format": found.value}
                for name, found in self.quantized_names(recipe, component).items()
            }
            for component in recipe.model.classes
        }
        parts = {
            component: {KEY: {"format_version": FORMAT_VERSION, "layers": own}}
            for component, own in layers.items()
        }
        return indented_json(one_or_all(recipe, parts))
