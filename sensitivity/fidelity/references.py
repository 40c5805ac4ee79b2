"""Where are bf16's own pictures kept, so that they are generated only once? `ReferenceCache`.

Pictures are kept on disk under a key of everything that decides them: a JSON object of weights
hash, settings, prompts, seeds, batch size, dtype, device type and versions. The key's sha256 names
the file. The file holds the key and a checksum of the pictures, and of their sound and latents if
there are any. Files of earlier versions have no latents: they are read without, or get them.

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
from dataclasses import replace
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
_LATENTS = re.compile(r"latents\.\d\d")
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

    def get(
        self, key: dict[str, Any], *, generate: Callable[[], Media], with_latents: bool = False
    ) -> tuple[Media, bool]:
        """The pictures or clips of `key`, and whether they came from the disk.

        Args:
            key: all that decides them.
            generate: makes them if they are not there.
            with_latents: whether those of an earlier version, which kept no latents, get those of
                the same pictures generated again.
        """
        text, path = _text(key), self.path(key)
        found = self._read(path, text)
        if found is None:
            media = generate()
            self._write(path, text, media)
            return media, False
        media, knows_latents = found
        if with_latents and not knows_latents:
            media = replace(media, latents=generate().latents)
            self._write(path, text, media)
        return media, True

    def path(self, key: dict[str, Any]) -> Path:
        """The file of a key, which may be missing."""
        digest = hashlib.sha256(_text(key).encode()).hexdigest()
        return self.folder / f"{digest[:32]}.safetensors"

    def _read(self, path: Path, text: str) -> tuple[Media, bool] | None:
        """What a file has, and whether it was asked for latents; None if there is none to use."""
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
        latents = [name for name in sorted(tensors) if _LATENTS.fullmatch(name)]
        media = Media(
            pictures=pictures,
            sound=tensors.get("sound"),
            sample_rate=rate,
            latents=tuple(tensors[name] for name in latents),
        )
        return media, "latents" in metadata

    def _write(self, path: Path, text: str, media: Media) -> None:
        temporary = path.with_suffix(f".{os.getpid()}-{secrets.token_hex(4)}.part")
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


def _text(key: Mapping[str, Any]) -> str:
    return json.dumps(key, sort_keys=True)


def _checksum(tensors: Mapping[str, Tensor], sample_rate: int | None) -> str:
    """sha256 of the pictures' bytes, and of those of the other tensors with the sound's rate."""
    digest = hashlib.sha256(_bytes(tensors["pictures"]))
    for name in sorted(set(tensors) - {"pictures"}):
        digest.update(name.encode() + str(sample_rate).encode())
        digest.update(_bytes(tensors[name]))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> Any:
    """The bytes of a tensor, not copied if it is contiguous."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
