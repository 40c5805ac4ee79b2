"""The room of a disk is said as the system says it, also for a path that is not there yet."""

import os
from pathlib import Path

import pytest

from sensitivity.core.disk_room import free_disk_bytes, free_words


def test_room_is_that_of_the_disk(tmp_path: Path) -> None:
    """Of a file, a folder, and a file that nobody has made yet."""
    found = os.statvfs(tmp_path)
    for path in (tmp_path, tmp_path / "not" / "there.db"):
        free = free_disk_bytes(path)
        assert free is not None
        assert abs(free - found.f_bavail * found.f_frsize) < 2**30  # others write meanwhile
        assert free_words(path).endswith(" bytes are free on its disk")


def test_a_system_that_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the message says that."""

    def refuse(_path: object) -> None:
        raise OSError("no")

    monkeypatch.setattr(os, "statvfs", refuse)
    assert free_disk_bytes("x") is None
    assert "not known" in free_words("x")
