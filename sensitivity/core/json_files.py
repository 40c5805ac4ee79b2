"""Is this JSON that every reader understands alike, and is a file written as a whole or not at all?

    value = parse_json(b'{"a": [1, 2]}')
    write_whole(Path("out.json"), b"{}")

Reading. The standard library accepts NaN, Infinity, 1e999 (as infinity), duplicate keys (the last
one wins), lone surrogates (which no UTF-8 file can hold) and nesting until the stack overflows. Two
readers can see different things in such a file, so `parse_json` refuses all of these, and
`check_value` refuses to write them. `core.outside_files` reads the files.

Writing. `write_whole` writes a temporary file in the same folder, flushes it to the disk and
renames it. A reader sees the old file or the new one, and a failure leaves nothing behind. What a
killed process left behind is swept by the next one that writes into the folder.

What this module does not do: know what the JSON means, or create folders.
"""

import errno
import json
import math
import os
import re
import secrets
import stat
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from sensitivity.core.disk_room import free_words
from sensitivity.errors import OutputError

MAX_DEPTH = 64
"""Levels of nesting in a JSON text."""
_MAX_DIGITS = 20  # of an integer: enough for all of 64 bits
_TEMPORARY = re.compile(r"\.sensitivity-[0-9a-f]{16}\.tmp")
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says where a disk takes no more."""
LEFT_BEHIND_S = 3600.0
"""Seconds since its last change after which a temporary file is nobody's any more."""


def parse_json(data: bytes, *, max_depth: int = MAX_DEPTH) -> Any:
    """The value of a JSON text in UTF-8.

    Raises:
        ValueError: it is not strict JSON, or nested deeper than `max_depth` levels.
    """
    try:
        value = json.loads(
            decode_utf8(data),
            parse_constant=_refuse_constant,
            parse_float=_parse_float,
            parse_int=_parse_int,
            object_pairs_hook=_unique_pairs,
        )
    except json.JSONDecodeError as error:
        raise ValueError(
            f"found no valid JSON at line {error.lineno}, column {error.colno} ({error.msg});"
            " expected one JSON value: write the file again"
        ) from None
    except RecursionError:
        raise ValueError(depth_message(max_depth)) from None
    check_value(value, max_depth=max_depth)
    return value


def decode_utf8(data: bytes) -> str:
    """A text in UTF-8, without the byte order mark that some programs put in front.

    Raises:
        ValueError: it is no UTF-8.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"found bytes that are not UTF-8 at position {error.start}; expected UTF-8 text: save"
            " the file as UTF-8"
        ) from None


def check_value(value: Any, *, max_depth: int = MAX_DEPTH) -> None:
    """Raise ValueError unless `value` can be written as strict JSON.

    Keys are text, numbers are finite and of 64 bits, text has no lone surrogates, and nesting is at
    most `max_depth` levels deep.
    """
    pending: list[tuple[Any, int]] = [(value, 1)]
    while pending:
        item, depth = pending.pop()
        if depth > max_depth:
            raise ValueError(depth_message(max_depth))
        if isinstance(item, str):
            _check_text(item)
        elif isinstance(item, Mapping):
            for key in item:
                if not isinstance(key, str):
                    raise ValueError(f"found the key {key!r}; expected text: write it as text")
                _check_text(key)
            pending.extend((child, depth + 1) for child in item.values())
        elif isinstance(item, (list, tuple)):
            pending.extend((child, depth + 1) for child in item)
        elif isinstance(item, float):
            if not math.isfinite(item):
                raise ValueError(_constant_message(str(item)))
        elif isinstance(item, int):
            if abs(item) >= 10**_MAX_DIGITS:
                raise ValueError(
                    f"found an integer over {_MAX_DIGITS} digits; expected a 64-bit integer: write"
                    " it as text"
                )
        elif item is not None:
            raise ValueError(
                f"found a {type(item).__name__}; expected text, a number, true, false, null, a list"
                " or an object: convert it"
            )


def write_whole(path: str | os.PathLike[str], data: bytes) -> Path:
    """Write `data` to `path`, as a whole or not at all; returns the real path, links followed.

    Raises:
        OutputError: the folder does not exist or cannot be written to, or `path` is something
            other than a file.
    """
    target = Path(path)
    try:
        target = Path(os.path.realpath(path))
        if target.exists() and not stat.S_ISREG(target.stat().st_mode):
            raise OutputError(
                f"found {target}, which is not a regular file; expected the path of a file: name"
                " one, such as result.json"
            )
        _replace(target, data)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            why = f"{why} ({free_words(target)})"
        raise OutputError(
            f"cannot write {target.name!r} in the folder {target.parent}: {why}; expected a folder"
            " that exists, is writable and has space: create it, or name another path"
        ) from error
    return target


def sweep(folder: Path, names: re.Pattern[str]) -> None:
    """Remove temporary files that a killed process left in a folder.

    Args:
        folder: where they lie.
        names: what their whole names look like. Files that were changed in the last
            `LEFT_BEHIND_S` seconds may be in use, and stay.
    """
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if names.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                with suppress(OSError):
                    if time.time() - entry.stat().st_mtime > LEFT_BEHIND_S:
                        os.unlink(entry.path)


def _replace(target: Path, data: bytes) -> None:
    """Write a temporary file beside `target` and rename it to `target`."""
    sweep(target.parent, _TEMPORARY)
    temporary = target.parent / f".sensitivity-{secrets.token_hex(8)}.tmp"
    # 0o666 without the umask's bits, as for any file that the user writes
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def depth_message(max_depth: int) -> str:
    """What is wrong with a text that is nested deeper than `max_depth` levels."""
    return (
        f"found nesting deeper than {max_depth} levels; expected at most {max_depth}: name another"
        " file"
    )


def _constant_message(name: str) -> str:
    return f"found {name}; expected a finite number: leave the field out, or write null"


def _check_text(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(
            f"found a lone surrogate in {ascii(text)[:80]}; expected text that UTF-8 can hold:"
            " correct it"
        ) from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(_constant_message(name))


def _parse_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(
            f"found the number {text[:40]}; expected one that is finite in 64 bits: correct it"
        )
    return value


def _parse_int(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise ValueError(
            f"found an integer of {len(text)} digits; expected a 64-bit integer: write it as text"
        )
    return int(text)


def _unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        twice = next(key for key, count in counts.items() if count > 1)
        raise ValueError(
            f"found the key {twice[:80]!r} twice in one object; expected it once: keep one of them"
        )
    return value
