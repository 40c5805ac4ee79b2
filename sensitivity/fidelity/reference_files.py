"""In which form are bf16's pictures kept in a file? `read_media`, `write_media`.

A file is named by the first 32 digits of the sha256 of its key, a JSON text of all that decides the
pictures. It holds the key and a checksum of the pictures, and of their sound and latents if there
are any. Files of earlier versions have no latents: they are read without. While pictures are
generated, each batch has a file of the same form beside it (`<digits>.0003-of-0008.safetensors`).

    path = media_path(folder, text)
    write_media(path, text, media)
    media, knows_latents = read_media(path, text)

A file that is torn, or whose key or checksum is wrong, is set aside (`models.kept_tensors`).

`folder_identity` names a folder, so that workers on several hosts can tell whether they see the
same one.
"""

import hashlib
import os
import re
import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from sensitivity.core.json_files import LEFT_BEHIND_S
from sensitivity.models.kept_tensors import bytes_of, read_kept, write_kept
from sensitivity.models.media import Media

IDENTITY = ".sensitivity-folder"
"""The file that holds a folder's identity."""
PARTS_KEPT_S = 30 * 86400.0
"""Seconds after which nobody goes on from the parts of an interrupted generation."""
_LATENTS = re.compile(r"latents\.\d\d")
_PART = re.compile(r"([0-9a-f]{32})\.\d+-of-\d+\.safetensors")


def media_path(folder: Path, text: str) -> Path:
    """The file of a key, which may be missing."""
    return folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.safetensors"


def part_path(path: Path, at: int, count: int) -> Path:
    """The file of one of `count` batches, which may be missing."""
    return path.with_name(f"{path.stem}.{at:04d}-of-{count:04d}.safetensors")


def read_media(path: Path, text: str) -> tuple[Media, bool] | None:
    """What a file has, and whether it was asked for latents; None if there is none to use."""

    def is_good(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bool:
        told = (metadata.get("key"), metadata.get("sha256"))
        return told == (text, _checksum(tensors, _rate(metadata)))

    found = read_kept(path, "cached references", "they are generated again", is_good)
    if found is None:
        return None
    tensors, metadata = found
    latents = [name for name in sorted(tensors) if _LATENTS.fullmatch(name)]
    media = Media(
        pictures=tensors["pictures"],
        sound=tensors.get("sound"),
        sample_rate=_rate(metadata),
        latents=tuple(tensors[name] for name in latents),
    )
    return media, "latents" in metadata


def write_media(path: Path, text: str, media: Media) -> None:
    """Write a file as a whole or not at all.

    Raises:
        OSError, SafetensorError: it cannot be written.
    """
    tensors = {"pictures": media.pictures.contiguous()}
    if media.sound is not None:
        tensors["sound"] = media.sound.contiguous()
    for place, latents in enumerate(media.latents):
        tensors[f"latents.{place:02}"] = latents.contiguous()
    metadata = {
        "key": text,
        "sha256": _checksum(tensors, media.sample_rate),
        "latents": str(len(media.latents)),
    }
    if media.sample_rate is not None:
        metadata["sample_rate"] = str(media.sample_rate)
    write_kept(path, tensors, metadata)


def knows_latents(path: Path) -> bool:
    """Whether a file was asked for latents, by its header alone."""
    try:
        with safe_open(path, framework="pt") as file:
            return "latents" in (file.metadata() or {})
    except Exception:  # whatever it is, `read_media` will say so
        return False


def remove_parts(path: Path) -> None:
    """Remove the files of the batches of a key, and those that nobody will go on from."""
    with suppress(OSError), os.scandir(path.parent) as entries:
        for entry in entries:
            found = _PART.fullmatch(entry.name)
            if found is None:
                continue
            with suppress(OSError):
                age = time.time() - entry.stat().st_mtime
                whole = path.with_name(f"{found[1]}.safetensors")
                is_done = age > LEFT_BEHIND_S and whole.exists()
                if found[1] == path.stem or is_done or age > PARTS_KEPT_S:
                    os.unlink(entry.path)


def folder_identity(folder: Path) -> str | None:
    """32 random hexadecimal digits that are kept in the folder; None where they cannot be kept.

    Whoever asks first makes them.
    """
    path = folder / IDENTITY
    for _ in range(2):
        with suppress(OSError, UnicodeDecodeError):
            found = path.read_text("ascii")
            if re.fullmatch("[0-9a-f]{32}", found):
                return found
            path.unlink()  # torn: on a disk that was full, by a hand
        temporary = path.with_name(f"{IDENTITY}-{secrets.token_hex(8)}")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            temporary.write_text(secrets.token_hex(16), "ascii")
            os.link(temporary, path)  # of two workers one is refused, and reads what the other made
        except FileExistsError:
            continue
        except OSError:
            with suppress(OSError):  # a file system without links
                temporary.replace(path)
        finally:
            with suppress(OSError):
                temporary.unlink()
    try:
        return path.read_text("ascii") or None
    except (OSError, UnicodeDecodeError):
        return None


def _rate(metadata: Mapping[str, str]) -> int | None:
    return int(metadata["sample_rate"]) if "sample_rate" in metadata else None


def _checksum(tensors: Mapping[str, Tensor], sample_rate: int | None) -> str:
    """sha256 of the pictures' bytes, and of those of the other tensors with the sound's rate."""
    digest = hashlib.sha256(bytes_of(tensors["pictures"]))
    for name in sorted(set(tensors) - {"pictures"}):
        digest.update(name.encode() + str(sample_rate).encode())
        digest.update(bytes_of(tensors[name]))
    return digest.hexdigest()
