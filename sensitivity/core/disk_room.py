"""How much room is left on a disk? `free_disk_bytes`, and `free_words` for who cannot write a file.

    free_disk_bytes(Path("runs/study.db"))      # 4096
    free_words(Path("runs/study.db"))           # "4,096 bytes are free on its disk"

A disk with much room whose file still cannot be written has a quota, a limit on the size of files,
or no inode left; so the number tells these apart.
"""

import os
import shutil
from pathlib import Path


def free_disk_bytes(path: str | os.PathLike[str]) -> int | None:
    """Bytes that this user may still write on the disk of a path, which need not exist; None where
    the system does not tell.
    """
    place = Path(path).absolute()
    for folder in (place, *place.parents):
        try:
            if not hasattr(os, "statvfs"):  # Windows
                return shutil.disk_usage(folder).free
            status = os.statvfs(folder)
            return status.f_bavail * status.f_frsize
        except OSError:
            continue
    return None


def free_words(path: str | os.PathLike[str]) -> str:
    """The same in words, as a part of a sentence."""
    free = free_disk_bytes(path)
    if free is None:
        return "how much is free on its disk is not known"
    return f"{free:,} bytes are free on its disk"
