"""How is a file from outside read, so that no file can stop the program or exhaust the machine?

    text = read_text(Path("skip.txt"), NAME_LIST)
    data = read_toml(Path("my-study.toml"), STUDY)
    raise UserError(f"{path} cannot be read ({reason(error)}); ...")    # after OSError, ValueError

Method. Only regular files are opened for reading, links followed, since a pipe or a device may
never end. A file is read up to its bound of bytes. The number of values and the depth of nesting
are bounded before or while the text is parsed, so that parsing takes seconds at most. All bounds
are stated here, one `Bounds` for each kind of file.

Conventions. Text is UTF-8, with or without a byte-order mark. `read_text` also takes UTF-16 with
one, which some programs write as "Unicode". Each function raises OSError (as the system words it)
or ValueError ("found ...; expected ...: next step"). The caller raises its own error, with the
path; `reason` words either of the two.

What this module does not do: know what a file means, or read weights. `check_regular` is for files
that a library opens itself.
"""

import codecs
import os
import re
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from io import BufferedReader
from typing import Any

from sensitivity.core.json_files import MAX_DEPTH, decode_utf8, depth_message, parse_json

StrPath = str | os.PathLike[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """How much of one kind of file is read at most.

    Attributes:
        max_bytes: the largest size of the file in bytes.
        max_values: the largest number of lines of a text. For JSON and TOML, the largest number of
            separators (commas, opening brackets, and equals signs in TOML), which bounds the number
            of values.
        max_depth: the largest number of levels of nesting in JSON and TOML.
    """

    max_bytes: int
    max_values: int
    max_depth: int = MAX_DEPTH


STUDY = Bounds(max_bytes=8 * 2**20, max_values=100_000, max_depth=12)
"""A study TOML, which may hold prompts."""
DEVICE = Bounds(max_bytes=256 * 2**10, max_values=5_000, max_depth=12)
"""A device TOML."""
TARGET = Bounds(max_bytes=8 * 2**20, max_values=500_000, max_depth=12)
"""A target file: what was measured on one GPU."""
PROMPTS = Bounds(max_bytes=64 * 2**20, max_values=4_000_000)
"""Prompts, in any of their forms but TOML."""
PROMPTS_TOML = Bounds(max_bytes=32 * 2**20, max_values=300_000, max_depth=12)
"""Prompts in a TOML, which takes longer to parse."""
NAME_LIST = Bounds(max_bytes=16 * 2**20, max_values=200_000)
"""A skip file, or a consumer's list in any of its forms."""
PYTHON_LIST = Bounds(max_bytes=4_000_000, max_values=150_000)
"""A list written in Python: its characters and, as values, its tokens."""
YAML_LIST = Bounds(max_bytes=2 * 2**20, max_values=50_000)
"""A list written in YAML."""
SAFETENSORS_HEADER = Bounds(max_bytes=16 * 2**20, max_values=500_000)
"""The header of a `*.safetensors` file: one value for each tensor, and the metadata."""
CONFIG = Bounds(max_bytes=16 * 2**20, max_values=500_000)
"""A JSON file of a pipeline folder: `model_index.json`, `config.json` and the like."""
WEIGHT_INDEX = Bounds(max_bytes=64 * 2**20, max_values=2_000_000)
"""A `*.safetensors.index.json`: one value for each tensor of a model."""
TRUNK = Bounds(max_bytes=64 * 2**20, max_values=0)
"""The safetensors file of the trunk of LPIPS; the one of net "tiny" has 5 MB."""
RECIPE = Bounds(max_bytes=8 * 2**20, max_values=100_000)
"""A recipe."""


def read_bytes(path: StrPath, bounds: Bounds) -> bytes:
    """The bytes of a regular file.

    Raises:
        OSError: the file cannot be opened or read.
        ValueError: it is no regular file, or has more than `bounds.max_bytes`.
    """
    with _open_regular(path) as file:
        data = file.read(bounds.max_bytes + 1)
    _check_size(data, bounds)
    return data


def read_text(path: StrPath, bounds: Bounds) -> str:
    """The text of a regular file in UTF-8, or in UTF-16 with a byte-order mark.

    Raises:
        OSError: as `read_bytes`.
        ValueError: as `read_bytes`; it is no text, or has more than `bounds.max_values` lines.
    """
    return decode_text(read_bytes(path, bounds), bounds)


def decode_text(data: bytes, bounds: Bounds) -> str:
    """Bytes as text, as `read_text` does it; for what was not read from a file.

    Raises:
        ValueError: it is no text, or has more bytes or lines than `bounds` allow.
    """
    _check_size(data, bounds)
    is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    if is_utf16 and not data.startswith(codecs.BOM_UTF32_LE):
        try:
            text = data.decode("utf-16")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"found bytes that are not UTF-16 at position {error.start}; expected text: save"
                " the file as UTF-8"
            ) from None
    else:
        text = decode_utf8(data)
    _check_count("lines", text.count("\n"), bounds)
    return text


def read_json(path: StrPath, bounds: Bounds) -> Any:
    """The value of a JSON file in UTF-8, strictly read (`json_files.parse_json`).

    Raises:
        OSError: as `read_bytes`.
        ValueError: as `read_bytes`; it is no strict JSON, or has more values or levels than
            `bounds` allow.
    """
    data = read_bytes(path, bounds)
    _check_count("values", sum(map(data.count, (b",", b"[", b"{"))), bounds)
    return parse_json(data, max_depth=bounds.max_depth)


def read_toml(path: StrPath, bounds: Bounds) -> dict[str, Any]:
    """The tables of a TOML file in UTF-8.

    Raises:
        OSError: as `read_bytes`.
        ValueError: as `read_bytes`; it is no TOML, or has more values or levels than `bounds`
            allow.
    """
    return parse_toml(decode_utf8(read_bytes(path, bounds)), bounds)


def parse_toml(text: str, bounds: Bounds) -> dict[str, Any]:
    """The tables of a TOML text.

    Raises:
        ValueError: it is no TOML, or has more values or levels than `bounds` allow.
    """
    _check_count("values", sum(map(text.count, ",[{=")), bounds)
    if _long_key(bounds.max_depth).search(text):
        raise ValueError(depth_message(bounds.max_depth))
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"found no valid TOML ({error}); expected TOML: correct it") from None
    except RecursionError:
        raise ValueError(depth_message(bounds.max_depth)) from None
    except ValueError as error:  # of Python: an integer of thousands of digits, a date of no month
        raise ValueError(f"found a wrong value ({error}); expected TOML: correct it") from None
    _check_depth(data, bounds)
    return data


def check_regular(path: StrPath) -> None:
    """Raise OSError or ValueError unless a library that opens `path` gets a regular file."""
    with _open_regular(path):
        pass


def reason(error: OSError | ValueError) -> str:
    """Why a file was not read, for the caller's message."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _open_regular(path: StrPath) -> BufferedReader:
    """Open a file for reading, if it is a regular one; pipes are not waited for."""

    def without_waiting(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))

    if "\0" in os.fspath(path):
        raise ValueError("found a path with a NUL character; expected the path of a file: name one")
    if os.path.isdir(path):
        raise ValueError("found a folder; expected a regular file: name the file in it")
    if os.path.exists(path):
        _check_mode(os.stat(path).st_mode)  # opening some devices does something already
    file = open(path, "rb", opener=without_waiting)  # noqa: SIM115 - the caller closes it
    try:
        _check_mode(os.fstat(file.fileno()).st_mode)
    except BaseException:
        file.close()
        raise
    return file


def _check_mode(mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise ValueError(
            "found a pipe or device; expected a regular file: save the text to a file and name that"
        )


@cache
def _long_key(parts: int) -> re.Pattern[str]:
    """A dotted key of TOML with more parts; tomllib takes quadratic time for each."""
    start = r"(?:^[ \t]*(?:\[{1,2}[ \t]*)?|[{,][ \t]*)"
    part = r"""(?:[\w-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*')[ \t]*\.[ \t]*"""
    return re.compile(f"{start}(?:{part}){{{parts}}}", re.MULTILINE)


def _check_size(data: bytes, bounds: Bounds) -> None:
    if len(data) > bounds.max_bytes:
        raise ValueError(
            f"found more than {bounds.max_bytes} bytes; expected at most {bounds.max_bytes}: name"
            " another file"
        )


def _check_count(what: str, found: int, bounds: Bounds) -> None:
    if found > bounds.max_values:
        raise ValueError(
            f"found {found} {what}; expected at most {bounds.max_values}: name another file"
        )


def _check_depth(value: Any, bounds: Bounds) -> None:
    """Raise ValueError if lists and tables are nested too deep."""
    level: list[Any] = [value]
    for _ in range(bounds.max_depth):
        level = [
            child
            for item in level
            for child in (item.values() if isinstance(item, Mapping) else item)
            if isinstance(child, (Mapping, list))
        ]
        if not level:
            return
    raise ValueError(depth_message(bounds.max_depth))
