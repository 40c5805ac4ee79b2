"""How ComfyUI reads which layers of a checkpoint are quantized: original names, letter by letter,
and only those that are listed.

    {"_quantization_metadata": {"format_version": "1.0", "layers": {"double_blocks.0.img_attn.qkv": {"format": "nvfp4"}}}}

The inner object is the JSON text under `_quantization_metadata` in the metadata of the safetensors
file; it is read with or without that key around it, and with one such object a component
({"transformer": {...}, "transformer_2": {...}}) where a pipeline has several denoisers, since each
is a file of its own. Names may begin with `model.diffusion_model.`, as in whole checkpoints; they
must be the file's, so one list has it everywhere or nowhere.

Rule: `convert_old_quants` in ComfyUI's `comfy/utils.py` makes a marker of each entry,
`mixed_precision_ops` in `comfy/ops.py` looks for it under the Linear's own name and loads every
other weight as it is; formats are `QUANT_ALGOS` of `comfy/quant_ops.py`. Read in ComfyUI's
repository at 0271a469; the names are those that diffusers converts (`served_names`).
"""

from typing import Any, ClassVar

from sensitivity.consumers.lists import ConsumerList, Entry
from sensitivity.consumers.readers._base import Reader
from sensitivity.consumers.readers.served_lists import (
    ServedList,
    by_component,
    check_name,
    looks_like_object,
    parse_object,
)
from sensitivity.core.format_name import FormatName
from sensitivity.errors import PatternError

KEY = "_quantization_metadata"
PREFIX = "model.diffusion_model."

FORMATS = {"nvfp4": FormatName.NVFP4, "mxfp8": FormatName.MXFP8, "float8_e4m3fn": FormatName.FP8}
"""ComfyUI's formats -> ours."""

_ALLOWED = 'an object such as {"format_version": "1.0", "layers": {NAME: {"format": "nvfp4"}}}'

CHECKPOINT_NOTE = (
    "this is the metadata of a checkpoint, not a checkpoint: each listed layer's weight must lie in"
    " the file quantized, with its weight_scale (nvfp4: also weight_scale_2), under its original"
    " name; every other tensor as it was. ComfyUI's mxfp8 needs a comfy-kitchen that has"
    " TensorCoreMXFP8Layout"
)
FUSED_NOTE = (
    "a fused layer (qkv, linear1) has one nvfp4 tensor scale in ComfyUI; this tool measured one for"
    " each Linear that is in it"
)
FP8_NOTE = "ComfyUI's float8_e4m3fn has one scale a tensor; this tool's fp8 has one a row"


class ComfyuiReader(Reader):
    """`_quantization_metadata` as JSON."""

    name: ClassVar[str] = "comfyui"
    words: ClassVar[str] = (
        "ComfyUI's _quantization_metadata: the layers that are quantized, whole names of the"
        " original checkpoint"
    )

    def read(self, text: str) -> ConsumerList:
        """The object, with its key or without, for one denoiser or one a component."""
        value = parse_object(text, _ALLOWED)
        entries: list[Entry] = []
        parts = by_component(value, (KEY, "layers"))
        for component, part in parts.items():
            entries += _entries(part, component)
        if not parts:
            raise PatternError(
                f"found an object without layers; allowed is {_ALLOWED}; write the quantized layers"
                " there"
            )
        used = {entry.format for entry in entries}
        notes = (
            [CHECKPOINT_NOTE]
            + [FUSED_NOTE] * (FormatName.NVFP4 in used)
            + [FP8_NOTE] * (FormatName.FP8 in used)
        )
        return ServedList(
            consumer=self.name,
            entries=tuple(entries),
            default=FormatName.BF16,
            defaults={"": FormatName.BF16},
            served=self.name,
            notes=tuple(notes),
        )

    def looks_like(self, text: str) -> bool:
        """An object with the key, or with layers that have formats, at the top or in a component's
        part.
        """
        value = looks_like_object(text)
        return any(
            KEY in part or ("layers" in part and "format_version" in part)
            for part in (value, *value.values())
            if isinstance(part, dict)
        )


def _entries(part: Any, component: str) -> list[Entry]:
    inner = part.get(KEY, part)
    if isinstance(inner, str):  # as it lies in the file: a text in the text
        inner = parse_object(inner, _ALLOWED)
    layers = inner.get("layers") if isinstance(inner, dict) else None
    if not isinstance(layers, dict):
        raise PatternError(f"found layers {str(layers)[:80]}; allowed is {_ALLOWED}; write it so")
    return [
        Entry(
            text=check_name(name, "layers").removeprefix(PREFIX),
            rule="fqn",
            format=_format(name, layer),
            component=component,
        )
        for name, layer in layers.items()
    ]


def _format(name: str, layer: Any) -> FormatName:
    found = layer.get("format") if isinstance(layer, dict) else None
    if not isinstance(found, str) or found not in FORMATS:
        raise PatternError(
            f"found {name[:80]} with the format {str(found)[:80]!r}; allowed are"
            f" {', '.join(FORMATS)}; this tool has no other"
        )
    return FORMATS[found]
