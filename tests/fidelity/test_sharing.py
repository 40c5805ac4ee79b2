"""References are generated in batches: each once, by whichever worker, with the bits of one worker
by itself. Whatever breaks on the way is made again, and nobody waits for ever.
"""

import logging
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from sensitivity.fidelity import reference_files
from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.fidelity.reference_files import IDENTITY, folder_identity
from sensitivity.fidelity.references import ReferenceCache
from sensitivity.fidelity.sharing import Alone
from sensitivity.models import kept_tensors
from sensitivity.models.loading import load_pipeline
from sensitivity.models.media import Media
from sensitivity.spec.loading import load_spec

from support.media import changed, random_clips, random_pictures
from support.sharing import FolderSharing

PICTURES, SIZE = 7, 2
KEY = {"weights": "abc", "prompts": [f"p{i}" for i in range(PICTURES)], "batch_size": SIZE}
ALL = replace(
    Media(pictures=random_pictures(PICTURES, 8, seed=1)),
    latents=(torch.randn(PICTURES, 4, generator=torch.Generator().manual_seed(2)),),
)


class Drawing:
    """Gives parts of `ALL` and notes which."""

    def __init__(self, *, fails_at: int | None = None, pause: Callable[[], Any] | None = None):
        self.drawn: list[int] = []
        self.fails_at, self.pause = fails_at, pause

    def __call__(self, at: slice) -> Media:
        if self.pause is not None:
            self.pause()
        if at.start == self.fails_at:
            raise KeyboardInterrupt
        self.drawn.append(at.start)
        return Media(pictures=ALL.pictures[at].clone(), latents=(ALL.latents[0][at].clone(),))


def collect(folder: Path, draw: Drawing, sharing: Any = None) -> tuple[Media, bool]:
    return ReferenceCache(folder).collect(KEY, draw, PICTURES, SIZE, sharing=sharing)


def assert_all(media: Media) -> None:
    """These are the pictures and latents of one worker by itself."""
    assert torch.equal(media.pictures, ALL.pictures)
    assert torch.equal(media.latents[0], ALL.latents[0])


def files(folder: Path) -> set[str]:
    """The names of what is kept in a folder."""
    return {path.name for path in folder.iterdir() if path.name != IDENTITY}


def test_alone_does_what_is_not_done_in_order() -> None:
    """An item that is done is passed over, and nothing is asked twice."""
    did: list[str] = []
    Alone().run("x", ["a", "b", "c"], is_done=lambda item: item == "b", do=did.append)
    assert did == ["a", "c"]


def test_two_workers_draw_each_batch_once(tmp_path: Path) -> None:
    """Both get all pictures, to the last bit; afterwards there is the one file that a worker by
    itself writes, and no part.
    """
    workers = [FolderSharing(tmp_path / "claims", name) for name in "ab"]
    draws = [Drawing(pause=partial(torch.rand, 1)) for _ in workers]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(partial(collect, tmp_path / "cache"), draws, workers))
    for media, _ in found:
        assert_all(media)
    assert sorted(draws[0].drawn + draws[1].drawn) == [0, 2, 4, 6]
    collect(tmp_path / "alone", Drawing())
    (name,) = files(tmp_path / "alone")
    assert files(tmp_path / "cache") == {name}
    headers = []
    for folder in ("cache", "alone"):
        with safe_open(tmp_path / folder / name, framework="pt") as file:
            headers.append((file.metadata(), set(file.keys())))
    assert headers[0] == headers[1]


def test_an_interrupted_generation_loses_one_batch(tmp_path: Path) -> None:
    """The batches before it are not drawn again, and what is lacking is counted by pictures."""
    cache, first, second = ReferenceCache(tmp_path), Drawing(fails_at=6), Drawing()
    assert cache.lacking(KEY, PICTURES, SIZE) == PICTURES
    with pytest.raises(KeyboardInterrupt):
        collect(tmp_path, first)
    assert cache.lacking(KEY, PICTURES, SIZE) == 1
    media, from_disk = collect(tmp_path, second)
    assert (first.drawn, second.drawn, from_disk) == ([0, 2, 4], [6], False)
    assert_all(media)
    assert cache.lacking(KEY, PICTURES, SIZE) == 0
    assert len(files(tmp_path)) == 1


@pytest.mark.parametrize("damage", ["truncated", "emptied", "flipped", "another part"])
def test_a_damaged_part_is_set_aside_and_drawn_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    """A warning names it and where it is kept; the pictures are right."""
    with pytest.raises(KeyboardInterrupt):
        collect(tmp_path, Drawing(fails_at=6))
    parts = sorted(tmp_path.iterdir())
    good = parts[1].read_bytes()
    bad = {
        "truncated": good[:-1],
        "emptied": b"",
        "flipped": good[:-5] + bytes([good[-5] ^ 1]) + good[-4:],
        "another part": parts[0].read_bytes(),
    }[damage]
    parts[1].write_bytes(bad)
    draw = Drawing()
    with caplog.at_level(logging.WARNING):
        assert_all(collect(tmp_path, draw)[0])
    assert sorted(draw.drawn) == [2, 6]
    aside = parts[1].with_suffix(".damaged")
    assert f"kept as {aside.name}" in caplog.text
    assert aside.read_bytes() == bad
    assert collect(tmp_path, Drawing(fails_at=0))[1]


def test_of_one_name_one_damaged_file_is_kept(tmp_path: Path) -> None:
    """A second damage of the same file replaces the first."""
    collect(tmp_path, Drawing())
    (name,) = files(tmp_path)
    path = tmp_path / name
    for bad in (b"first", b"second"):
        path.write_bytes(bad)
        assert_all(collect(tmp_path, Drawing())[0])
    assert files(tmp_path) == {name, path.with_suffix(".damaged").name}
    assert path.with_suffix(".damaged").read_bytes() == b"second"


def test_a_full_disk_costs_time_not_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each worker draws everything, nobody waits for what cannot be kept, and one warning for each
    names the folder and the free bytes.
    """

    def full(*_args: Any, **_options: Any) -> None:
        raise OSError(28, "No space left on device")

    folder_identity(tmp_path)
    monkeypatch.setattr(kept_tensors, "save_file", full)
    workers = [FolderSharing(tmp_path / "claims", name) for name in "ab"]
    draws = [Drawing() for _ in workers]
    with caplog.at_level(logging.WARNING), ThreadPoolExecutor(2) as pool:
        found = list(pool.map(partial(collect, tmp_path), draws, workers))
    for (media, _), draw in zip(found, draws, strict=True):
        assert_all(media)
        assert sorted(draw.drawn) == [0, 2, 4, 6]
    said = [r.getMessage() for r in caplog.records if "cannot be kept" in r.getMessage()]
    assert len(said) == 2
    assert all(str(tmp_path) in text and "bytes are free" in text for text in said)
    assert files(tmp_path) == {"claims"}


def test_workers_without_a_common_folder_do_not_wait(tmp_path: Path) -> None:
    """Their work has other names; a copy of a folder with the same name costs only time."""
    first, second = (FolderSharing(tmp_path / "claims", name) for name in "ab")
    ran: list[Drawing] = []

    def meanwhile() -> None:
        if not ran:
            ran.append(Drawing())
            assert_all(collect(tmp_path / "other", ran[0], second)[0])

    assert_all(collect(tmp_path / "own", Drawing(pause=meanwhile), first)[0])
    assert ran[0].drawn == [0, 2, 4, 6]
    assert not set(first.scopes) & set(second.scopes)
    shutil.copytree(tmp_path / "own", tmp_path / "copy")
    for path in (tmp_path / "copy").glob("*.safetensors"):
        path.unlink()
    third = FolderSharing(tmp_path / "claims")
    assert_all(collect(tmp_path / "copy", Drawing(), third)[0])
    assert set(third.scopes) == set(first.scopes)


def test_a_folder_keeps_its_identity(tmp_path: Path) -> None:
    """Whoever asks gets the same; a torn one is made anew; where none can be kept there is none,
    and work is not shared.
    """
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(folder_identity, [tmp_path / "new"] * 8))
    assert len(found) == 1
    (tmp_path / "new" / IDENTITY).write_text("torn")
    again = folder_identity(tmp_path / "new")
    assert again is not None
    assert len(again) == 32
    assert again == folder_identity(tmp_path / "new") != folder_identity(tmp_path / "other")
    (tmp_path / "file").write_text("")
    sharing = FolderSharing(tmp_path / "claims")
    assert folder_identity(tmp_path / "file") is None
    assert_all(collect(tmp_path / "file", Drawing(), sharing)[0])
    assert sharing.scopes == []


def test_what_another_worker_has_just_done_is_not_done_again(tmp_path: Path) -> None:
    """An item may be asked for that is done already: it is then left as it is."""

    class Late:
        def run(self, _scope: str, items: Any, *, do: Any, **_options: Any) -> None:
            if items == ["whole"]:
                assert_all(collect(tmp_path, Drawing())[0])
            for item in items:
                do(item)

    with pytest.raises(KeyboardInterrupt):
        collect(tmp_path, Drawing(fails_at=6))
    draw = Drawing()
    assert_all(collect(tmp_path, draw, Late())[0])
    assert draw.drawn == [6]


def test_a_batch_that_comes_late_leaves_no_part(tmp_path: Path) -> None:
    """A worker that was paused in the middle of a batch, while others did everything, gets all
    pictures and tidies up.
    """
    ran: list[Media] = []

    def meanwhile() -> None:
        if not ran:
            ran.append(collect(tmp_path / "cache", Drawing())[0])

    late = FolderSharing(tmp_path / "claims")
    assert_all(collect(tmp_path / "cache", Drawing(pause=meanwhile), late)[0])
    assert len(files(tmp_path / "cache")) == 1


def test_latents_that_a_file_lacks_are_made_in_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers make those of a file of an earlier version; its pictures stay as they are."""
    with monkeypatch.context() as patch:
        patch.setattr(
            reference_files,
            "write_kept",
            lambda path, tensors, metadata: kept_tensors.write_kept(
                path,
                {"pictures": tensors["pictures"]},
                {
                    "key": metadata["key"],
                    "sha256": reference_files._checksum({"pictures": tensors["pictures"]}, None),
                },
            ),
        )
        collect(tmp_path / "cache", Drawing())
    workers = [FolderSharing(tmp_path / "claims", name) for name in "ab"]
    draws = [Drawing() for _ in workers]

    def upgraded(draw: Drawing, sharing: FolderSharing) -> Media:
        cache = ReferenceCache(tmp_path / "cache")
        how: dict[str, Any] = {"sharing": sharing, "with_latents": True}
        return cache.collect(KEY, draw, PICTURES, SIZE, **how)[0]

    assert collect(tmp_path / "cache", Drawing(fails_at=0))[0].latents == ()
    with ThreadPoolExecutor(2) as pool:
        for media in pool.map(upgraded, draws, workers):
            assert_all(media)
    assert sorted(draws[0].drawn + draws[1].drawn) == [0, 2, 4, 6]
    assert len(files(tmp_path / "cache")) == 1


def test_clips_are_joined_with_their_sound(tmp_path: Path) -> None:
    """Parts of clips keep frames, sound and rate."""
    clips = replace(random_clips(1, count=3), sound=torch.rand(3, 2, 50), sample_rate=8000)
    asked: list[int] = []

    def draw(at: slice) -> Media:
        asked.append(at.start)
        if asked == [0, 1, 2]:
            raise KeyboardInterrupt
        assert clips.sound is not None
        return replace(clips, pictures=clips.pictures[at], sound=clips.sound[at])

    cache = ReferenceCache(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        cache.collect(KEY, draw, 3, 1)
    found, _ = cache.collect(KEY, draw, 3, 1)
    assert asked == [0, 1, 2, 2]
    assert torch.equal(found.pictures, clips.pictures)
    assert torch.equal(found.sound, clips.sound)  # type: ignore[arg-type]
    assert found.sample_rate == 8000


def test_two_evaluators_draw_what_one_draws(tiny_study: Path, tmp_path: Path) -> None:
    """References and noise floor of a study that two workers draw by turns have the bits of one
    worker's: batches and seeds are the same.
    """
    loaded = load_pipeline(load_spec(tiny_study), device="cpu")
    loaded = replace(loaded, spec=changed(loaded.spec, search={"chunk": 2}))

    class Interrupted:
        """Ends after one batch."""

        def run(self, _scope: str, items: Any, *, do: Any, **_options: Any) -> None:
            do(items[-1])
            raise KeyboardInterrupt

    def made(folder: str, *sharings: Any) -> tuple[Media, dict[str, float], list[int]]:
        drawn: list[int] = []
        for sharing in sharings:
            evaluator = Evaluator(loaded, cache_folder=tmp_path / folder)
            evaluator.sharing = sharing
            evaluator.media_generator.drawn = drawn.append
            try:
                found = evaluator.references("search"), evaluator.noise_floors, drawn
            except KeyboardInterrupt:
                continue
            finally:
                evaluator.close()
        return found

    one, floors, alone = made("alone", Alone())
    two, others, together = made("shared", Interrupted(), FolderSharing(tmp_path / "claims"))
    assert torch.equal(one.pictures, two.pictures)
    assert torch.equal(one.latents[0], two.latents[0])
    assert floors == others
    assert sum(alone) == sum(together)
