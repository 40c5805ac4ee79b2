"""Where are bf16's own pictures kept, so that they are generated only once? `ReferenceCache`.

Pictures are kept on disk under a key of everything that decides them: a JSON object of weights
hash, settings, prompts, seeds, batch size, dtype, device type and versions. The key's sha256 names
the file. The file holds the key and a checksum of the pictures, and of their sound if there is one.

A file whose key, shape or checksum is wrong is stale or damaged: a warning says so, and the
pictures are generated again. Writing is atomic, so a run that is killed leaves no half file.

    cache = ReferenceCache(default_cache_folder())
    media, from_disk = cache.get(key, generate=lambda: generator.generate(...))
"""

import hashlib
import json
import logging
import os
import re
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import platformdirs
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sensitivity.core.json_files import sweep
from sensitivity.core.outside_files import check_regular
from sensitivity.models.media import Media

log = logging.getLogger(__name__)
_TEMPORARY = re.compile(r"[0-9a-f]{32}\.\d+-[0-9a-f]{8}\.part")


def default_cache_folder() -> Path:
    """Where references are kept by default: in the user's cache folder on this platform."""
    return Path(platformdirs.user_cache_dir("sensitivity")) / "references"


class ReferenceCache:
    """Pictures or clips by key in one folder.

    If the folder cannot be written, a warning says so and pictures are generated every time.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, key: dict[str, Any], *, generate: Callable[[], Media]) -> tuple[Media, bool]:
        """The pictures or clips of `key`, and whether they came from the disk.

        `generate` makes them if they are not there.
        """
        text = json.dumps(key, sort_keys=True)
        path = self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.safetensors"
        found = self._read(path, text)
        if found is not None:
            return found, True
        media = generate()
        self._write(path, text, media)
        return media, False

    def _read(self, path: Path, text: str) -> Media | None:
        if not path.exists():
            return None
        try:
            check_regular(path)
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                names = file.keys()  # the file is no dict: it has no items
                tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in names}
                rate = int(metadata["sample_rate"]) if "sample_rate" in metadata else None
                pictures = tensors["pictures"]
        except (OSError, SafetensorError, RuntimeError, LookupError, ValueError) as error:
            log.warning(
                "cached references %s are damaged (%s); they are generated again", path.name, error
            )
            return None
        if metadata.get("key") != text or metadata.get("sha256") != _checksum(tensors, rate):
            log.warning(
                "cached references %s do not match their key or checksum; they are generated again",
                path.name,
            )
            return None
        return Media(pictures=pictures, sound=tensors.get("sound"), sample_rate=rate)

    def _write(self, path: Path, text: str, media: Media) -> None:
        temporary = path.with_suffix(f".{os.getpid()}-{secrets.token_hex(4)}.part")
        tensors = {"pictures": media.pictures.contiguous()}
        if media.sound is not None:
            tensors["sound"] = media.sound.contiguous()
        metadata = {"key": text, "sha256": _checksum(tensors, media.sample_rate)}
        if media.sample_rate is not None:
            metadata["sample_rate"] = str(media.sample_rate)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            sweep(self.folder, _TEMPORARY)
            save_file(tensors, temporary, metadata=metadata)
            temporary.replace(path)
        except (OSError, SafetensorError) as error:
            log.warning(
                "references cannot be kept in %s (%s); the next run generates them again",
                self.folder,
                error,
            )
            with suppress(OSError):
                temporary.unlink()


def _checksum(tensors: Mapping[str, Tensor], sample_rate: int | None) -> str:
    """sha256 of the pictures' bytes alone, or of those of pictures and sound and the rate."""
    digest = hashlib.sha256(_bytes(tensors["pictures"]))
    for name in sorted(set(tensors) - {"pictures"}):
        digest.update(name.encode() + str(sample_rate).encode())
        digest.update(_bytes(tensors[name]))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> Any:
    """The bytes of a tensor, not copied if it is contiguous."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
