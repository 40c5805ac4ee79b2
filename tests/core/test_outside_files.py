"""A file from outside is read if it is a regular file within its bounds, and refused in words if
not, soon and whatever is in it.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sensitivity.core.outside_files import (
    Bounds,
    check_regular,
    decode_text,
    read_bytes,
    read_json,
    read_text,
    read_toml,
    reason,
)

SMALL = Bounds(max_bytes=1_000, max_values=5, max_depth=3)
LARGE = Bounds(max_bytes=2**23, max_values=2**20, max_depth=16)


def file_of(folder: Path, data: bytes) -> Path:
    path = folder / "file"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    "read",
    [
        read_bytes,
        read_text,
        read_json,
        read_toml,
        lambda path, _: check_regular(path),
    ],
)
def test_only_regular_files_are_read(tmp_path: Path, read: Callable[..., Any]) -> None:
    """A folder, a pipe that nobody writes to, a device without end, a link to it, and paths that no
    file has are refused at once, by each function.
    """
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    with pytest.raises(ValueError, match="found a folder; expected a regular file: name"):
        read(tmp_path, SMALL)
    for name in ("pipe", "link", "/dev/zero", "/dev/null"):
        with pytest.raises(ValueError, match="found a pipe or device; expected a regular file"):
            read(tmp_path / name, SMALL)
    with pytest.raises(ValueError, match="found a path with a NUL character"):
        read("a\0b", SMALL)
    for name in ("absent", "x" * 300):
        with pytest.raises(OSError, match=r"No such file|too long") as caught:
            read(tmp_path / name, SMALL)
        assert reason(caught.value) in ("No such file or directory", "File name too long")


def test_bytes_are_bounded(tmp_path: Path) -> None:
    """A file of the largest size is read, and one of a byte more is not; text from elsewhere has
    the same bound.
    """
    assert read_bytes(file_of(tmp_path, b"x" * 1_000), SMALL) == b"x" * 1_000
    with pytest.raises(ValueError, match="found more than 1000 bytes; expected at most 1000: name"):
        read_bytes(file_of(tmp_path, b"x" * 1_001), SMALL)
    with pytest.raises(ValueError, match="found more than 1000 bytes"):
        decode_text(b"x" * 1_001, SMALL)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"a\nb", "a\nb"),
        ("\ufeffé".encode(), "é"),
        ("é".encode("utf-16"), "é"),
        ("\ufeffé".encode("utf-16-be"), "é"),
        (b"", ""),
    ],
)
def test_text_is_utf8_or_marked_utf16(tmp_path: Path, data: bytes, text: str) -> None:
    """A byte-order mark is no part of the text."""
    assert read_text(file_of(tmp_path, data), SMALL) == text


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"ab\xff", "not UTF-8 at position 2; expected UTF-8 text: save the file as UTF-8"),
        ("é".encode("utf-16") + b"x", "not UTF-16 at position 4"),
        ("a".encode("utf-32"), "not UTF-8 at position 0"),
        (b"\n" * 6, "found 6 lines; expected at most 5"),
    ],
)
def test_other_texts_are_refused(tmp_path: Path, data: bytes, message: str) -> None:
    """The message says where the text ends to be one, or how many lines it has."""
    with pytest.raises(ValueError, match=message):
        read_text(file_of(tmp_path, data), SMALL)


def test_json_and_toml_are_bounded(tmp_path: Path) -> None:
    """Values and levels up to the bound are read, a byte-order mark too; one more is refused."""
    assert read_json(file_of(tmp_path, b"\xef\xbb\xbf[[1,2,3]]"), SMALL) == [[1, 2, 3]]
    assert read_toml(file_of(tmp_path, b"\xef\xbb\xbf[a.b]\nc = 1"), SMALL) == {
        "a": {"b": {"c": 1}}
    }
    for read, many, deep in (
        (read_json, b"[1,2,3,4,5,6]", b"[[[[1]]]]"),
        (read_toml, b"a = [1,2,3,4,5]", b"a.b.c.d = 1"),
    ):
        with pytest.raises(ValueError, match="values; expected at most 5: name another file"):
            read(file_of(tmp_path, many), SMALL)
        with pytest.raises(ValueError, match="found nesting deeper than 3 levels; expected at m"):
            read(file_of(tmp_path, deep), SMALL)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"a = ", "found no valid TOML"),
        (b"a = 1\na = 2", "found no valid TOML"),
        (b"a = " + b"9" * 5_000, "found a wrong value"),
        (b"\xff\xfea\0=\x001\0", "not UTF-8"),
    ],
)
def test_toml_is_refused_in_words(tmp_path: Path, data: bytes, message: str) -> None:
    """Whatever tomllib raises becomes a ValueError that says what was found."""
    with pytest.raises(ValueError, match=message):
        read_toml(file_of(tmp_path, data), LARGE)


@pytest.mark.parametrize(
    "data",
    [
        b"a = " + b"[" * 100_000,
        b"a = " + b"{a = " * 100_000,
        b"[" + b"a." * 100_000 + b"a]",
        b"[[" + b'"a" . ' * 100_000 + b"a]]",
        b"\t" + b"'a'." * 100_000 + b"a = 1",
        b"x = {" + b"a." * 100_000 + b"a = 1}",
        b"".join(b"k%d" % i + b".a" * 200 + b" = 1\n" for i in range(2000)),
    ],
    ids=lambda data: data[:12].decode(),
)
def test_nesting_without_end_is_refused_soon(tmp_path: Path, data: bytes) -> None:
    """Keys of a hundred thousand parts, for which tomllib takes minutes, and brackets that exhaust
    the stack are refused within a second.
    """
    begun = time.perf_counter()
    with pytest.raises(ValueError, match="found nesting deeper than 16 levels"):
        read_toml(file_of(tmp_path, data), LARGE)
    assert time.perf_counter() - begun < 1


def test_long_texts_are_no_keys(tmp_path: Path) -> None:
    """Blank space, dots and commas inside of texts are no nesting, and are passed over quickly."""
    text = b"a = '" + b"a, b. " * 100_000 + b"'\n" + b" " * 500_000 + b"\n" * 500_000
    begun = time.perf_counter()
    assert len(read_toml(file_of(tmp_path, text), LARGE)["a"]) == 600_000
    assert time.perf_counter() - begun < 5
