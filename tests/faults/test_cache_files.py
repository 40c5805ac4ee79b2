"""A cache file that is torn or flipped, wherever that is, never gives other pictures. It is set
aside and made again, and a third reader finds it on disk.
"""

import logging
import random
from pathlib import Path

import pytest
import torch

from sensitivity.fidelity.references import ReferenceCache
from sensitivity.models.media import Media

KEY = {"model": "fake", "seeds": [1, 2]}
MEDIA = Media(pictures=torch.linspace(0, 1, 2 * 3 * 4 * 4).reshape(2, 3, 4, 4))
PLACES = 24


def changed(data: bytes, place: int) -> bytes:
    """A file with one bit flipped, cut short, or emptied; the places are spread over all of it."""
    if place == 0:
        return b""
    at = place * (len(data) - 1) // PLACES
    if place % 3 == 0:
        return data[:at]
    bit = 1 << random.Random(place).randrange(8)
    return data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :]


def test_torn_and_flipped_references(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """At 25 places of the file, from its first byte to its last. A bit of the header that says
    nothing about the pictures, such as one of its padding, may be believed.
    """
    cache, drawn = ReferenceCache(tmp_path), list[int]()

    def draw() -> Media:
        drawn.append(1)
        return MEDIA

    cache.get(KEY, generate=draw)
    path = cache.path(KEY)
    good = path.read_bytes()
    header = 8 + int.from_bytes(good[:8], "little")  # safetensors: its length, JSON, the data
    for place in range(PLACES + 1):
        bad = changed(good, place)
        assert bad != good
        path.write_bytes(bad)
        drawn.clear()
        with caplog.at_level(logging.WARNING):
            media, was_there = cache.get(KEY, generate=draw)
        assert torch.equal(media.pictures, MEDIA.pictures)
        if was_there and len(bad) == len(good) and bad[header:] == good[header:]:
            continue
        assert (len(drawn), was_there) == (1, False), f"believed at place {place}"
        assert "damaged" in caplog.text or "do not match" in caplog.text
        assert [p.read_bytes() for p in tmp_path.glob("*damaged*")] == [bad]
        assert cache.get(KEY, generate=draw)[1]
        caplog.clear()
        for aside in tmp_path.glob("*damaged*"):
            aside.unlink()
