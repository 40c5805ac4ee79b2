"""Which list is in a safetensors file? Its header is read, and the small tensors that describe
layers; never a weight.

    text = list_in_file(Path("flux1-nvfp4.safetensors"))      # JSON, as the readers take it
    list_in_header(header)                                    # the same, for bytes from a pipe

Tools keep lists in it in two ways:

- a JSON text under a key of the metadata, such as ComfyUI's `_quantization_metadata`, or
  `quantization_config`;
- ComfyUI's newer files: beside each quantized weight a tensor `<layer>.comfy_quant`, whose bytes
  are that layer's JSON. These become one `_quantization_metadata` here.

Source: the format's own description, and `comfy/utils.py` (`convert_old_quants`) at 0271a469.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sensitivity.consumers.readers.documents import WRAPPERS
from sensitivity.consumers.readers.entries import MAX_ENTRIES
from sensitivity.core.json_files import parse_json
from sensitivity.core.words import and_more, printable
from sensitivity.models.weight_headers import LENGTH_BYTES, WeightHeader, header_of, read_header

LAYER = ".comfy_quant"
"""The end of the name of a tensor that holds one layer's JSON."""

MAX_LAYER_BYTES = 4096
"""The most bytes of such a tensor; usual ones have under a hundred."""


def is_safetensors(data: bytes) -> bool:
    """Whether the first bytes of a file are those of a safetensors file."""
    length = int.from_bytes(data[:LENGTH_BYTES], "little")
    starts = data[LENGTH_BYTES : LENGTH_BYTES + 1] == b"{"
    return starts and 0 < length <= 2**40 and b"\0" in data[:LENGTH_BYTES]


def list_in_file(path: Path) -> str:
    """The list in a file, as JSON.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no safetensors file, its header is too large, or it has no list.
    """
    header = read_header(path)
    return _list_text(header, _layers(path, header))


def list_in_header(data: bytes) -> str:
    """The list in the first bytes of a file, as JSON; layers' own tensors are not looked at.

    Raises:
        ValueError: as `list_in_file`.
    """
    return _list_text(header_of(data), {})


def _layers(path: Path, header: WeightHeader) -> dict[str, Any]:
    """{layer: its JSON} of the tensors that describe layers."""
    described = {name: info for name, info in header.tensors.items() if name.endswith(LAYER)}
    if len(described) > MAX_ENTRIES:
        raise ValueError(
            f"found {len(described)} layers; expected at most {MAX_ENTRIES}: name another file"
        )
    layers: dict[str, Any] = {}
    with path.open("rb") as file:
        for name, info in described.items():
            first, end = info.place or (0, 0)
            if first < LENGTH_BYTES or not 0 < end - first <= MAX_LAYER_BYTES:
                raise ValueError(
                    f"found {printable(name[:80])} with {end - first} bytes; expected a JSON text"
                    f" of at most {MAX_LAYER_BYTES}: name another file"
                )
            file.seek(first)
            layers[name.removesuffix(LAYER)] = parse_json(file.read(end - first))
    return layers


def _list_text(header: WeightHeader, layers: Mapping[str, Any]) -> str:
    if any(key in WRAPPERS for key in header.metadata):
        return json.dumps({"__metadata__": header.metadata})
    if layers:
        return json.dumps({"_quantization_metadata": {"format_version": "1.0", "layers": layers}})
    keys = list(header.metadata)
    has = f"metadata {printable(and_more(keys, most=5))[:200]}" if keys else "no metadata"
    raise ValueError(
        f"found a safetensors file with {has}, in which there is no list; expected"
        " _quantization_metadata or quantization_config there, or layers' own comfy_quant: give the"
        " list itself"
    )
