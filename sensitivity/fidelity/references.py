"""bf16's own pictures, drawn once and kept on disk under a key of everything that decides them.

The key is a JSON object (weights hash, settings, prompts, seeds, batch size, dtype, device type, versions); its sha256 names the file, and the file
holds the key and a checksum of the pictures. A file whose key, shape or checksum is not what it should be is stale or damaged: it is reported and
drawn again. Writing is atomic, so a run that is killed leaves no half file.

    pictures = ReferenceCache(folder).get(key, draw=lambda: painter.paint(...))
"""

import hashlib
import json
import logging
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

log = logging.getLogger(__name__)


class ReferenceCache:
    """Pictures by key in one folder. A folder that cannot be written costs time, not the run: pictures are then drawn every time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, key: dict[str, Any], *, draw: Callable[[], Tensor]) -> tuple[Tensor, bool]:
        """The pictures of `key`, (B, 3, H, W) fp32, and whether they came from the disk."""
        text = json.dumps(key, sort_keys=True)
        path = self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.safetensors"
        found = self._read(path, text)
        if found is not None:
            return found, True
        pictures = draw().contiguous()
        self._write(path, text, pictures)
        return pictures, False

    def _read(self, path: Path, text: str) -> Tensor | None:
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                pictures: Tensor = file.get_tensor("pictures")
        except (OSError, SafetensorError, RuntimeError) as error:
            log.warning("cached references %s are damaged (%s); they are drawn again", path.name, error)
            return None
        if metadata.get("key") != text or metadata.get("sha256") != _checksum(pictures):
            log.warning("cached references %s do not match their key or checksum; they are drawn again", path.name)
            return None
        return pictures

    def _write(self, path: Path, text: str, pictures: Tensor) -> None:
        temporary = path.with_suffix(f".{os.getpid()}-{secrets.token_hex(4)}.part")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_file({"pictures": pictures}, temporary, metadata={"key": text, "sha256": _checksum(pictures)})
            temporary.replace(path)
        except (OSError, SafetensorError) as error:
            log.warning("references cannot be kept in %s (%s); the next run draws them again", self.folder, error)
            with suppress(OSError):
                temporary.unlink()


def _checksum(pictures: Tensor) -> str:
    return hashlib.sha256(pictures.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()
