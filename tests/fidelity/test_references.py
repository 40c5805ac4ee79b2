"""References are generated once, survive damage, and keep clips with their sound."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sensitivity.fidelity.references import ReferenceCache
from sensitivity.models.media import Media

from support.media import random_clips, random_pictures


class CountingGenerate:
    """Gives the same media each time and counts."""

    def __init__(self, seed: int = 0) -> None:
        self.count, self.pictures = 0, random_pictures(2, 8, seed=seed)

    def __call__(self) -> Media:
        self.count += 1
        return Media(pictures=self.pictures.clone())


KEY = {"weights": "abc", "prompts": ["a", "ü"], "batch_size": 2, "steps": 8}


def cached(folder: Path) -> Path:
    (file,) = folder.iterdir()
    return file


def test_references_are_generated_once(tmp_path: Path) -> None:
    """The second time, and in another cache on the same folder, the same pictures come from the
    disk; key order does not matter.
    """
    generate = CountingGenerate()
    first, from_disk = ReferenceCache(tmp_path / "new" / "folder").get(KEY, generate=generate)
    assert not from_disk
    for key in (KEY, dict(reversed(KEY.items()))):
        again, from_disk = ReferenceCache(tmp_path / "new" / "folder").get(key, generate=generate)
        assert from_disk
        assert torch.equal(first.pictures, again.pictures)
    assert torch.equal(first.pictures, generate.pictures)
    assert generate.count == 1


@pytest.mark.parametrize(
    "change", [{"steps": 9}, {"prompts": ["ü", "a"]}, {"device": "cpu"}, {"batch_size": "2"}]
)
def test_a_changed_key_generates_again(tmp_path: Path, change: dict[str, object]) -> None:
    """Whatever differs in the key, even an order or a type, has pictures of its own, and the old
    ones stay.
    """
    old, new = CountingGenerate(0), CountingGenerate(1)
    cache = ReferenceCache(tmp_path)
    cache.get(KEY, generate=old)
    media, from_disk = cache.get(KEY | change, generate=new)
    assert not from_disk
    assert torch.equal(media.pictures, new.pictures)
    assert cache.get(KEY, generate=old)[1]


@pytest.mark.parametrize(
    "damage", ["truncated", "emptied", "flipped", "text", "other key", "a folder"]
)
def test_damaged_references_are_noticed_and_generated_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    """A file that was cut, changed or swapped is reported, and replaced by a good one."""
    cache, generate = ReferenceCache(tmp_path), CountingGenerate()
    cache.get(KEY, generate=generate)
    path = cached(tmp_path)
    good = path.read_bytes()
    if damage == "a folder":
        path.unlink()
        path.mkdir()
    elif damage == "other key":
        path.unlink()
        cache.get(KEY | {"steps": 9}, generate=CountingGenerate(1))
        cached(tmp_path).rename(path)
    else:
        flipped = good[:-5] + bytes([good[-5] ^ 1]) + good[-4:]
        path.write_bytes(
            {"truncated": good[:-1], "emptied": b"", "flipped": flipped, "text": b"hello"}[damage]
        )
    with caplog.at_level(logging.WARNING):
        media, from_disk = cache.get(KEY, generate=generate)
    assert "generated again" in caplog.text
    assert not from_disk
    assert torch.equal(media.pictures, generate.pictures)
    if damage != "a folder":
        again, from_disk = cache.get(KEY, generate=generate)
        assert from_disk
        assert torch.equal(again.pictures, generate.pictures)


def test_no_flipped_bit_goes_unnoticed(tmp_path: Path) -> None:
    """Whichever bit of the header, and of samples of the data, is flipped: the pictures are right,
    read or generated again, and nothing raises.
    """
    cache, generate = ReferenceCache(tmp_path), CountingGenerate()
    cache.get(KEY, generate=generate)
    path = cached(tmp_path)
    good = path.read_bytes()
    header = 8 + int.from_bytes(good[:8], "little")
    places = [*range(header), *range(header, len(good), 97)]
    for i, place in enumerate(places):
        path.write_bytes(good[:place] + bytes([good[place] ^ (1 << i % 8)]) + good[place + 1 :])
        media, _ = cache.get(KEY, generate=generate)
        assert media.pictures.dtype == torch.float32
        assert torch.equal(media.pictures, generate.pictures)
    assert generate.count > len(places) * 0.9


@pytest.mark.parametrize("where", ["under a file", "in /proc", "a file"])
def test_an_unwritable_folder_costs_time_not_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    """References that cannot be kept are generated each time, with a warning."""
    (tmp_path / "file").write_text("")
    folder = {
        "under a file": tmp_path / "file" / "x" / "y",
        "in /proc": Path("/proc/references"),
        "a file": tmp_path / "file",
    }[where]
    generate = CountingGenerate()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            media, from_disk = ReferenceCache(folder).get(KEY, generate=generate)
            assert not from_disk
            assert torch.equal(media.pictures, generate.pictures)
    assert generate.count == 2
    assert "cannot be kept" in caplog.text


def test_no_half_file_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that fails on the way leaves neither the file nor its temporary."""

    def full(self: Path, _target: Path) -> Path:
        assert self.exists()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    ReferenceCache(tmp_path).get(KEY, generate=CountingGenerate())
    assert list(tmp_path.iterdir()) == []


def test_clips_with_sound_come_back_from_the_disk(tmp_path: Path) -> None:
    """Frames, sound and rate are read back to the last bit; a change in the sound or its rate is
    noticed like one in the pictures.
    """
    media = replace(random_clips(1), sound=torch.rand(2, 2, 100) - 0.5, sample_rate=8000)
    cache = ReferenceCache(tmp_path)
    cache.get({"a": 1}, generate=lambda: media)
    found, from_disk = cache.get({"a": 1}, generate=lambda: pytest.fail("generated again"))
    assert from_disk
    assert torch.equal(found.pictures, media.pictures)
    assert torch.equal(found.sound, media.sound)  # type: ignore[arg-type]
    assert found.sample_rate == 8000
    (path,) = tmp_path.iterdir()
    good = path.read_bytes()
    for bad in (good[:-3] + bytes([good[-3] ^ 1]) + good[-2:], good.replace(b'"8000"', b'"9000"')):
        assert bad != good
        path.write_bytes(bad)
        assert not cache.get({"a": 1}, generate=lambda: media)[1]
