"""How ComfyUI reads which layers of a checkpoint are quantized: names of the original checkpoint,
letter by letter, and only the layers that are listed.

    {"_quantization_metadata": {
        "format_version": "1.0", "layers": {"double_blocks.0.img_attn.qkv": {"format": "nvfp4"}}}}

In the safetensors file, the inner object is a JSON text under the key `_quantization_metadata` of
the metadata. It is read with this key or without, and from the header of the file itself. A
pipeline with several denoisers has one file for each, so its list has one such object a component:
{"transformer": {...}, "transformer_2": {...}}. Names may begin with `model.diffusion_model.`, as
they do in whole checkpoints. They must be the file's own names, so either all names of a list have
this prefix or none has.

INT8. `int8_tensorwise` has one scale a weight or one a row of it, which the file's tensor decides;
it is read as this tool's int8, one a row, and a note says so. With `convrot` it is int8-rot, by the
same Hadamard matrix, where the group size is 256, 64 or 16 (this tool takes the largest that
divides K; `convrot_groupsize` is 256 if nothing is said).

Weight-only. A layer with `full_precision_matrix_mult` has its weight dequantized before a product
in 16 bits, so its format is weight-only, whatever `format` says.

Source: ComfyUI at 0271a469. `convert_old_quants` in `comfy/utils.py` makes a marker of each entry.
`mixed_precision_ops` in `comfy/ops.py` looks for it under the Linear's own name, and loads every
other weight as it is. The formats are `QUANT_ALGOS` of `comfy/quant_ops.py`. The names are those
that diffusers converts from (`consumers.served_names`).
"""

import re
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

from sensitivity.consumers.lists import ConsumerList, Entry
from sensitivity.consumers.other_formats import ListedFormat, OtherFormat, weight_only
from sensitivity.consumers.readers._base import Reader
from sensitivity.consumers.readers.documents import (
    lists_in,
    named_parts,
    parse_object,
    parts_of,
)
from sensitivity.consumers.readers.entries import check_count, check_name
from sensitivity.consumers.readers.served_lists import ServedList
from sensitivity.core.format_name import FormatName
from sensitivity.core.rotation_block import BLOCKS
from sensitivity.core.words import did_you_mean
from sensitivity.errors import PatternError

KEY = "_quantization_metadata"
PREFIX = "model.diffusion_model."

INT8 = "int8_tensorwise"
FORMATS = {
    "nvfp4": FormatName.NVFP4,
    "mxfp8": FormatName.MXFP8,
    "float8_e4m3fn": FormatName.FP8,
    INT8: FormatName.INT8,
}
"""{ComfyUI's format: ours}."""

DEFAULT_GROUP = 256
"""ComfyUI's `convrot_groupsize` where nothing is said."""

OTHERS = (
    *("float8_e5m2", "int8_rowwise", "int8_blockwise", "hybrid_mxfp8", "mxfp4"),
    *("convrot_w4a4", "convrot_w4a8", "svdquant_w4a4", "bnb_nf4", "bnb_fp4", "int4_awq"),
    "asym_w4a8_int8",
)
"""ComfyUI's other formats, and those of public tools that write such files. A name that is like
none of the known ones is taken for one more.
"""
_FORMAT = re.compile(r"[a-z][a-z0-9_.-]{2,39}", re.IGNORECASE)
_WEIGHT_ONLY = ("bnb_nf4", "bnb_fp4", "int4_awq")

_EXPECTED = 'an object such as {"format_version": "1.0", "layers": {NAME: {"format": "nvfp4"}}}'

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
INT8_NOTE = (
    "int8_tensorwise is read with one scale a row, as this tool's int8 has; where the file's"
    " weight_scale is one number, the layer is coarser than what was measured here"
)
FP8_NOTE = "ComfyUI's float8_e4m3fn has one scale a tensor; this tool's fp8 has one a row"


class ComfyuiReader(Reader):
    """`_quantization_metadata` as JSON."""

    name: ClassVar[str] = "comfyui"
    description: ClassVar[str] = (
        "ComfyUI's _quantization_metadata: the layers that are quantized, whole names of the"
        " original checkpoint"
    )

    def read(self, text: str) -> ConsumerList:
        """The object with its key or without, for one denoiser or one for each component."""
        parts = parts_of(parse_object(text, _EXPECTED), _has_layers, _EXPECTED)
        entries: list[Entry] = []
        for component, part in parts.items():
            entries += [] if part is None else _entries(part, component)
        check_count(len(entries))
        used = {entry.format for entry in entries}
        notes = (
            [CHECKPOINT_NOTE]
            + [FUSED_NOTE] * (FormatName.NVFP4 in used)
            + [FP8_NOTE] * (FormatName.FP8 in used)
            + [INT8_NOTE] * bool(used & {FormatName.INT8, FormatName.INT8_A16})
        )
        return ServedList(
            consumer=self.name,
            entries=tuple(entries),
            default=FormatName.BF16,
            defaults={"": FormatName.BF16},
            served=self.name,
            parts=named_parts(parts),
            notes=tuple(notes),
        )

    def looks_like(self, text: str) -> bool:
        """The object, or that of one component, has layers with a version or with formats."""
        return any(
            isinstance(layers := part.get("layers"), dict)
            and (
                "format_version" in part
                or any(isinstance(layer, dict) and "format" in layer for layer in layers.values())
            )
            for part in lists_in(text)
        )


def _has_layers(part: Mapping[str, Any]) -> bool:
    return "layers" in part


def _entries(inner: Mapping[str, Any], component: str) -> list[Entry]:
    layers = inner.get("layers")
    if not isinstance(layers, dict):
        raise PatternError(
            f"found layers {str(layers)[:80]}; expected {_EXPECTED}; give each layer a format"
        )
    return [
        Entry(
            text=check_name(name, "layers").removeprefix(PREFIX),
            rule="fqn",
            format=_format(name, layer),
            component=component,
        )
        for name, layer in layers.items()
    ]


def _format(name: str, layer: Any) -> ListedFormat:
    found = layer.get("format") if isinstance(layer, dict) else None
    known = (*FORMATS, *OTHERS)
    if not isinstance(found, str) or (found not in known and not _is_another(found, known)):
        hint = did_you_mean(str(found)[:80], known, otherwise="take the layer out")
        raise PatternError(
            f"found {name[:80]} with the format {str(found)[:80]!r}; expected one of"
            f" {', '.join(known)}; {hint}"
        )
    group = _rotated_by(layer) if found == INT8 else None
    if layer.get("full_precision_matrix_mult") or found in _WEIGHT_ONLY:
        ours = FORMATS.get(found)
        has_own_scales = ours is not None and ours is not FormatName.FP8 and group is None
        return ours.weight_only if ours and has_own_scales else weight_only(found)
    if group is not None:
        is_ours = group in BLOCKS
        return FormatName.INT8_ROT if is_ours else OtherFormat(f"{INT8}, rotated by {group}")
    return FORMATS.get(found) or OtherFormat(found)


def _rotated_by(layer: Mapping[str, Any]) -> int | None:
    """The group size of a layer's rotation (`convrot`), under either of ComfyUI's two spellings;
    None if it has none.
    """
    params = layer.get("params")
    both = {**(params if isinstance(params, dict) else {}), **layer}
    if not both.get("convrot"):
        return None
    group = both.get("convrot_groupsize", DEFAULT_GROUP)
    return group if isinstance(group, int) else 0


def _is_another(found: str, known: Collection[str]) -> bool:
    """Whether a format that is not known has a name of its own, and is no misspelling."""
    return bool(_FORMAT.fullmatch(found)) and not did_you_mean(found, known)
