"""How are tensors kept in a file that a killed process, a full disk or a bad sector may spoil?

    write_kept(path, tensors, {"key": text, "sha256": checksum})
    tensors, metadata = read_kept(path, "cached references", "they are generated again", is_good)

Writing. The file is written beside its place under another name, flushed to the disk, and renamed:
a reader sees all of it or nothing. What a killed process left behind is swept by the next writer.

Reading. A file that is torn, or that is not what its caller wrote, is renamed to `*.damaged`, so
that somebody can look at it, and a warning says so. The next one of its name replaces it. Whoever
wanted its content makes it again.

What is kept and how it is checked is the caller's: bf16's pictures (`fidelity.reference_files`),
encoded texts (`kept_texts`).
"""

import logging
import os
import re
import secrets
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sensitivity.core.disk_room import free_words
from sensitivity.core.json_files import sweep
from sensitivity.core.outside_files import check_regular

Kept = tuple[dict[str, Tensor], dict[str, str]]
"""Tensors and metadata of a file."""

_TEMPORARY = re.compile(r"[0-9a-f]{32}(?:\.\d+-of-\d+)?\.\d+-[0-9a-f]{8}\.part")
log = logging.getLogger(__name__)


def read_kept(
    path: Path, what: str, then: str, is_good: Callable[[dict[str, Tensor], dict[str, str]], bool]
) -> Kept | None:
    """What a file holds; None where there is none, or none to use.

    Args:
        path: the file.
        what: what it holds, in the plural, for messages.
        then: what becomes of it, for messages.
        is_good: whether tensors and metadata are what was written under this name.
    """
    seen = _identity(path)
    if seen is None:
        return None
    try:
        check_regular(path)
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if is_good(tensors, metadata):
            return tensors, metadata
        log.warning(
            "%s %s do not match their key or checksum; %s%s",
            what,
            path.name,
            then,
            _quarantined(path, seen),
        )
    except FileNotFoundError:  # another worker has removed it
        return None
    except OSError as error:
        log.warning("%s %s are damaged (%s); %s", what, path.name, error, then)
    except (SafetensorError, RuntimeError, LookupError, ValueError) as error:
        log.warning(
            "%s %s are damaged (%s); %s%s", what, path.name, error, then, _quarantined(path, seen)
        )
    return None


def write_kept(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], *, durable: bool = True
) -> None:
    """Write a file as a whole or not at all. Its folder is made.

    Args:
        path: named by 32 hexadecimal digits, and perhaps the part (`.0001-of-0008`).
        tensors: contiguous.
        metadata: texts.
        durable: whether it is flushed to the disk. What is cheap to make again need not be, since a
            file that a power cut tears is noticed.

    Raises:
        OSError, SafetensorError: it cannot be written (`reason`).
    """
    temporary = path.with_suffix(f".{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent, _TEMPORARY)
        # 0o666 without the umask's bits: safetensors writes for its own user alone
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        mode = stat.S_IMODE(os.fstat(handle).st_mode)
        os.close(handle)
        save_file(dict(tensors), temporary, metadata=dict(metadata))
        os.chmod(temporary, mode)
        if durable:
            flush(temporary)
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    if durable:
        with suppress(OSError):  # some file systems cannot flush a folder
            flush(path.parent)


def bytes_of(tensor: Tensor) -> Any:
    """The bytes of a tensor, for a checksum; not copied if it is contiguous."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy()


def flush(path: Path) -> None:
    """See to it that a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def reason(error: BaseException, folder: Path) -> str:
    """Why a file cannot be written, with the free bytes of the disk that its folder lies on."""
    return f"{error}; {free_words(folder)}"


def _identity(path: Path) -> tuple[int, int, int] | None:
    """What tells a file from one that replaces it; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _quarantined(path: Path, seen: tuple[int, int, int]) -> str:
    """Rename a damaged file, unless another worker has replaced it; says so in words."""
    damaged = path.with_suffix(".damaged")
    try:
        if _identity(path) != seen or not stat.S_ISREG(path.lstat().st_mode):
            return ""
        path.replace(damaged)
    except OSError:
        return ""
    return f" (the file is kept as {damaged.name})"
