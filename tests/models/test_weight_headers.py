"""A header says which tensors a file has, and one of absurd size is not parsed."""

import json
import os
import struct
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sensitivity.core.outside_files import SAFETENSORS_HEADER
from sensitivity.models.weight_headers import header_of, read_header


def test_a_header_has_names_dtypes_shapes_and_texts(tmp_path: Path) -> None:
    """As the library of the format wrote them."""
    path = tmp_path / "a.safetensors"
    tensors = {"w": torch.ones(2, 3, dtype=torch.bfloat16), "s": torch.ones(())}
    save_file(tensors, path, metadata={"format": "pt"})
    header = read_header(path)
    data = path.read_bytes()
    assert header == header_of(data)
    assert header.metadata == {"format": "pt"}
    assert {name: (info.dtype, info.shape) for name, info in header.tensors.items()} == {
        "w": ("BF16", (2, 3)),
        "s": ("F32", ()),
    }
    first, end = header.tensors["s"].place or (0, 0)
    assert struct.unpack("<f", data[first:end]) == (1.0,)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not that of a safetensors"),
        (struct.pack("<Q", 2**63), "a header of 9223372036854775808 bytes, of which 0 are there"),
        (struct.pack("<Q", 3) + b"[1]", "not that of a safetensors file"),
        (struct.pack("<Q", 14) + b'{"a":{"x": 1}}', "not that of a safetensors file"),
        (struct.pack("<Q", 20000) + b"[" * 20000, "not that of a safetensors file"),
    ],
)
def test_what_is_no_header_is_refused(data: bytes, message: str, tmp_path: Path) -> None:
    """Lengths beyond the file, other JSON, other entries, nesting without end."""
    path = tmp_path / "a.safetensors"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message):
        read_header(path)


def test_a_header_of_absurd_size_is_not_read(tmp_path: Path) -> None:
    """It is refused by its length, although all its bytes are there."""
    path, most = tmp_path / "a.safetensors", SAFETENSORS_HEADER.max_bytes
    with path.open("wb") as file:
        file.write(struct.pack("<Q", most + 1))
        file.truncate(most + 100)
    began = time.process_time()
    with pytest.raises(ValueError, match=f"expected at most {most}"):
        read_header(path)
    assert time.process_time() - began < 1


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    """Nobody may ever write to it."""
    os.mkfifo(tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="pipe or device"):
        read_header(tmp_path / "a.safetensors")


def test_twenty_thousand_tensors_are_read_in_time(tmp_path: Path) -> None:
    """More than any model has: well below a second."""
    entry = {"dtype": "BF16", "shape": [4, 4], "data_offsets": [0, 32]}
    text = json.dumps({f"blocks.{i}.attn.to_q.weight": entry for i in range(20_000)}).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"0" * 32)
    began = time.process_time()
    assert len(read_header(path).tensors) == 20_000
    assert time.process_time() - began < 2
