"""What does the header of a safetensors file say? `read_header`, `header_of`.

    header = read_header(Path("transformer/diffusion_pytorch_model.safetensors"))
    header.tensors["proj_out.weight"].dtype       # "BF16"
    header_of(data)                               # the same, for the first bytes of a file

A file begins with eight bytes (the header's length, little-endian), the header (JSON), and then the
tensors' bytes. No tensor is read.

Conventions. Only regular files are opened, and headers within `SAFETENSORS_HEADER` are parsed: the
length in a damaged or hostile file may be anything. dtypes are those of the format ("BF16",
"F8_E4M3").
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sensitivity.core.json_files import parse_json
from sensitivity.core.outside_files import SAFETENSORS_HEADER, check_regular

LENGTH_BYTES = 8


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of a file.

    Attributes:
        dtype: as the format spells it.
        shape: its sizes.
        place: (first byte, byte after the last) in the file; None where the header does not say.
    """

    dtype: str
    shape: tuple[int, ...]
    place: tuple[int, int] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightHeader:
    """What a file's header says.

    Attributes:
        tensors: {name: its dtype, shape and place}.
        metadata: {key: text}, what the tool that wrote the file says of it.
    """

    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, Any]


def read_header(path: Path) -> WeightHeader:
    """The header of a safetensors file.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is no regular file, or no safetensors file whose header is of a usual size.
    """
    check_regular(path)
    with path.open("rb") as file:
        length = _length(file.read(LENGTH_BYTES), os.fstat(file.fileno()).st_size)
        return _parsed(file.read(length))


def header_of(data: bytes) -> WeightHeader:
    """The header in the first bytes of a safetensors file.

    Raises:
        ValueError: they are not those of such a file, or its header is not whole in them.
    """
    length = _length(data[:LENGTH_BYTES], len(data))
    return _parsed(data[LENGTH_BYTES : LENGTH_BYTES + length])


def _length(start: bytes, size: int) -> int:
    """The header's length in bytes, checked.

    Args:
        start: the first eight bytes.
        size: how many bytes there are in all.
    """
    length, room = int.from_bytes(start, "little"), max(size - LENGTH_BYTES, 0)
    if length > room:
        raise ValueError(
            f"found a header of {length} bytes, of which {room} are there; expected a whole"
            " safetensors file: get it again"
        )
    if length > SAFETENSORS_HEADER.max_bytes:
        raise ValueError(
            f"found a header of {length} bytes; expected at most {SAFETENSORS_HEADER.max_bytes}:"
            " name another file"
        )
    return length


def _parsed(text: bytes) -> WeightHeader:
    if sum(map(text.count, (b",", b"[", b"{"))) > SAFETENSORS_HEADER.max_values:
        raise ValueError("found a header with too many tensors; expected fewer: name another file")
    try:
        data = parse_json(text, max_depth=SAFETENSORS_HEADER.max_depth)
        metadata = data.pop("__metadata__", None) or {}
        tensors = {name: _tensor_info(entry, len(text)) for name, entry in data.items()}
        if not isinstance(metadata, dict):
            raise TypeError
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ValueError(
            "found a header that is not that of a safetensors file; expected one: get it again"
        ) from None
    return WeightHeader(tensors=tensors, metadata=metadata)


def _tensor_info(entry: Any, header_bytes: int) -> TensorInfo:
    place = None
    match entry.get("data_offsets"):
        case [int(first), int(end)]:
            start = LENGTH_BYTES + header_bytes
            place = start + first, start + end
    return TensorInfo(str(entry["dtype"]), tuple(int(size) for size in entry["shape"]), place)
