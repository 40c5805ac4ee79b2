"""Which layers of a ComfyUI checkpoint are quantized? The metadata that says so, by the original
checkpoint's names.

    text = get_exporter("comfyui").export(recipe)

    metadata = {key: json.dumps(value) for key, value in json.loads(text).items()}
    safetensors.torch.save_file(tensors, "model.safetensors", metadata=metadata)

The text is the metadata of a checkpoint, not a checkpoint. `tensors` must hold each listed layer's
weight quantized, with its scales, under its original name, and every other tensor as it was.
comfy-kitchen has the functions that quantize: `TensorCoreNVFP4Layout.quantize`,
`TensorCoreMXFP8Layout.quantize`, and `TensorWiseINT8Layout.quantize` with `per_channel` (and
`convrot`). The names are those of the bare model. In a whole checkpoint they
begin with `model.diffusion_model.`, in this text as in the tensors.

Formats are nvfp4 (four-over-six scales or not: they are in the tensors), mxfp8, int8 with and
without a rotation (ConvRot), and weight-only nvfp4, mxfp8 and int8 (`full_precision_matrix_mult`),
also mixed in one file. ComfyUI's float8_e4m3fn has one scale a tensor, so it is not our fp8; nvfp4
and mxfp8 cannot be rotated there. `convrot_groupsize` is written as 256, this tool's block where K
is a multiple of it; for other Linears write the block that `core.rotation_block` says (64 or 16).
ComfyUI fails where the size does not divide K.

What is one matrix in the original checkpoint takes one format: q, k and v, and in FLUX's single
blocks q, k, v and `proj_mlp`. A pipeline with several denoisers has a file for each, so the text
has one object for each, under the component's name.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from sensitivity.consumers.exporters._base import (
    FOUR_OVER_SIX,
    INT8_NOTE,
    SAME_WORD,
    indented_json,
    one_or_all,
)
from sensitivity.consumers.exporters._served import ServedExporter
from sensitivity.consumers.readers import Reader
from sensitivity.consumers.readers.comfyui import DEFAULT_GROUP, INT8, KEY, ComfyuiReader
from sensitivity.consumers.readers.comfyui import INT8_NOTE as READ_INT8
from sensitivity.core.format_name import FormatName
from sensitivity.recipes.recipe import Recipe

FORMAT_VERSION = "1.0"

_IN_16_BITS = {"full_precision_matrix_mult": True}
LAYERS: Mapping[FormatName, Mapping[str, Any]] = {
    FormatName.NVFP4: {"format": "nvfp4"},
    FormatName.MXFP8: {"format": "mxfp8"},
    FormatName.INT8: {"format": INT8},
    FormatName.INT8_ROT: {"format": INT8, "convrot": True, "convrot_groupsize": DEFAULT_GROUP},
    FormatName.NVFP4_A16: {"format": "nvfp4", **_IN_16_BITS},
    FormatName.MXFP8_A16: {"format": "mxfp8", **_IN_16_BITS},
    FormatName.INT8_A16: {"format": INT8, **_IN_16_BITS},
}
"""{format: what the metadata says of a layer in it}."""

LACKS: Mapping[FormatName, str] = {
    FormatName.FP8_A16: "its float8_e4m3fn has one scale a tensor",
    FormatName.FP8_LB: "its float8_e4m3fn has one scale a tensor",
}
"""{format: why ComfyUI lacks it}."""

ROTATION_NOTE = (
    "convrot_groupsize is written as 256; where K is no multiple of 256, quantize the weight with"
    " 64 or 16, the largest that divides K, and write that (ComfyUI fails otherwise)"
)
SCALES_NOTE = (
    "int8_tensorwise: quantize weights with one scale a row (per_channel), as was measured here"
)


@dataclass(frozen=True, kw_only=True)
class ComfyuiExporter(ServedExporter):
    """JSON of the metadata, or of one for each component."""

    name: ClassVar[str] = "comfyui"
    forms: ClassVar[Mapping[str, str]] = {"json": ".comfyui.json"}
    formats: ClassVar[frozenset[FormatName]] = frozenset({FormatName.BF16, *LAYERS, *SAME_WORD})
    reads_as: ClassVar[Mapping[FormatName, FormatName]] = SAME_WORD
    lacks: ClassVar[Mapping[FormatName, str]] = LACKS

    @property
    def reader(self) -> Reader:
        """The reader of `_quantization_metadata`."""
        return ComfyuiReader()

    def notes(self, recipe: Recipe, text: str) -> tuple[str, ...]:
        """The reader's notes, and what the tensors have to hold for the variants."""
        used = set(recipe.layers.values())
        int8 = used & {FormatName.INT8, FormatName.INT8_ROT, FormatName.INT8_A16}
        return (
            *(note for note in super().notes(recipe, text) if note != READ_INT8),
            *((FOUR_OVER_SIX,) if FormatName.NVFP4_4O6 in used else ()),
            *((SCALES_NOTE, INT8_NOTE) if int8 else ()),
            *((ROTATION_NOTE,) if FormatName.INT8_ROT in used else ()),
        )

    def render(self, recipe: Recipe) -> str:
        """The JSON text, indented."""
        layers = {
            component: {
                name: dict(LAYERS[SAME_WORD.get(found, found)])
                for name, found in self.quantized_names(recipe, component).items()
            }
            for component in recipe.model.classes
        }
        parts = {
            component: {KEY: {"format_version": FORMAT_VERSION, "layers": own}}
            for component, own in layers.items()
        }
        return indented_json(one_or_all(recipe, parts))
