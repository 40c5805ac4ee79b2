"""What a search keeps to look at: which pictures, how many, how large, and what a failure does."""

import wave
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sensitivity.core.format_name import FormatName
from sensitivity.fidelity.score import Score
from sensitivity.models.media import Media
from sensitivity.search.store import assignment_key
from sensitivity.workflows.picture_files import (
    BF16,
    INDEX,
    PictureIndex,
    file_of,
    pictures_folder,
    read_index,
)
from sensitivity.workflows.picture_keeper import (
    FRAME_SIDE,
    FRAMES,
    MOST_PROMPTS,
    SIDE,
    PictureKeeper,
    spectrogram,
    worst_and_spread,
)

FIRST, SECOND = {"a": FormatName.NVFP4}, {"b": FormatName.NVFP4}
KEYS = [assignment_key(own) for own in (FIRST, SECOND)]


def media_of(count: int, *, side: int = 16, frames: int = 0, sound: bool = False) -> Media:
    """Noise: (count, 3, side, side), or clips of so many frames with a second of sound."""
    torch.manual_seed(0)
    if not frames:
        return Media(pictures=torch.rand(count, 3, side, side) * 2 - 1)
    clips = torch.rand(count, frames, 3, side, side).half()
    return Media(
        pictures=clips,
        sound=torch.rand(count, 2, 24_000) - 0.5 if sound else None,
        sample_rate=24_000 if sound else None,
    )


def score_of(*values: float, frames: int = 0) -> Score:
    """A score of these LPIPS."""
    rows = tuple((value,) * frames for value in values) if frames else ()
    return Score(
        net="tiny",
        mean=float(np.mean(values)),
        per_prompt=values,
        noise_floor=None,
        per_frame=rows,
    )


def keeper_of(folder: Path, count: int, *, most: int = 2) -> PictureKeeper:
    """A keeper of so many prompts."""
    prompts = [f"p{i}" for i in range(count)]
    return PictureKeeper(folder, prompts=prompts, seeds=range(count), most=most)


def index_of(folder: Path) -> PictureIndex:
    """The index, which is there."""
    found = read_index(folder)
    assert found is not None
    return found


def test_the_winners_worst_prompts_are_kept_of_every_list(tmp_path: Path) -> None:
    """After the winner is known, its worst prompt and a spread of the others stay, of all lists."""
    keeper, own = keeper_of(tmp_path, 4, most=3), media_of(4)
    keeper.see(FIRST, "search", own, own, score_of(1, 1, 1, 1))
    assert not list(tmp_path.iterdir())
    keeper.see(FIRST, "held_out", own, own, score_of(0.1, 0.4, 0.2, 0.3))
    keeper.see(SECOND, "held_out", own, own, score_of(0.4, 0.1, 0.3, 0.2))
    assert len(list(tmp_path.glob("*.webp"))) == 4 * 3
    keeper.finish({KEYS[0]: "trial 1", KEYS[1]: "rule of thumb"}, chosen=KEYS[0])
    index = index_of(tmp_path)
    assert [kept.name for kept in index.lists.values()] == ["trial 1", "rule of thumb"]
    assert index.lists[KEYS[0]].lpips == (0.1, 0.4, 0.2, 0.3)
    there = {path.name for path in tmp_path.glob("*.webp")}
    assert there == {file_of(p, key) for p in (1, 3, 2) for key in (BF16, *KEYS)}
    with Image.open(tmp_path / file_of(1, BF16)) as image:
        assert image.size == (16, 16)


def test_a_search_that_goes_on_keeps_what_was_kept(tmp_path: Path) -> None:
    """A second keeper of the same prompts adds to the first; one of other prompts begins anew."""
    own = media_of(2)
    keeper_of(tmp_path, 2).see(FIRST, "held_out", own, own, score_of(0.1, 0.2))
    keeper_of(tmp_path, 2).see(SECOND, "held_out", own, own, score_of(0.2, 0.1))
    assert set(index_of(tmp_path).lists) == set(KEYS)
    other = media_of(3)
    keeper_of(tmp_path, 3).see(SECOND, "held_out", other, other, score_of(0.2, 0.1, 0.3))
    assert set(index_of(tmp_path).lists) == {KEYS[1]}


def test_workers_add_to_one_index(tmp_path: Path) -> None:
    """Two keepers that began at once both have their lists in the index, written one at a time."""
    own, inside, most = media_of(2), [0], [0]

    @contextmanager
    def locked() -> Iterator[None]:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        yield
        inside[0] -= 1

    prompts: dict[str, Any] = {"prompts": ["p0", "p1"], "seeds": range(2), "locked": locked}
    first, second = (PictureKeeper(tmp_path, **prompts) for _ in range(2))
    first.see(FIRST, "held_out", own, own, score_of(0.1, 0.2))
    second.see(SECOND, "held_out", own, own, score_of(0.2, 0.1))
    assert set(index_of(tmp_path).lists) == set(KEYS)
    first.see(FIRST, "held_out", own, own, score_of(0.1, 0.2))
    assert set(index_of(tmp_path).lists) == set(KEYS)
    assert (inside, most) == ([0], [1])


def test_pictures_are_bounded(tmp_path: Path) -> None:
    """Large pictures become small ones, and of many prompts only the first are kept at all."""
    large = media_of(1, side=SIDE + 100)
    keeper_of(tmp_path / "large", 1).see(FIRST, "held_out", large, large, score_of(0.1))
    with Image.open(tmp_path / "large" / file_of(0, KEYS[0])) as image:
        assert image.size == (SIDE, SIDE)
    count = MOST_PROMPTS + 1
    many = media_of(count, side=4)
    keeper_of(tmp_path, count).see(FIRST, "held_out", many, many, score_of(*[0.1] * count))
    assert len(list(tmp_path.glob("*.webp"))) == 2 * MOST_PROMPTS


def test_clips_are_rows_of_frames_with_their_sound(tmp_path: Path) -> None:
    """Frames lie side by side, as many as are bounded, with an LPIPS each; sound is mono WAV."""
    clips = media_of(1, frames=2 * FRAMES, sound=True)
    keeper = keeper_of(tmp_path, 1)
    keeper.see(FIRST, "held_out", clips, clips, score_of(0.1, frames=2 * FRAMES))
    index = index_of(tmp_path)
    assert index.frames == FRAMES
    assert len(index.lists[KEYS[0]].per_frame[0]) == FRAMES
    with Image.open(tmp_path / file_of(0, BF16)) as image:
        assert image.size == (16 * FRAMES, 16)
        assert image.width <= FRAME_SIDE * FRAMES
    with wave.open(str(tmp_path / file_of(0, BF16, ".wav"))) as wav:
        assert (wav.getnchannels(), wav.getframerate(), wav.getnframes()) == (1, 12_000, 12_000)
    assert (tmp_path / file_of(0, BF16, ".sound.webp")).exists()


def test_a_folder_that_cannot_be_written_ends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said once, and the search goes on without pictures."""
    (tmp_path / "file").write_text("")
    keeper, own = keeper_of(tmp_path / "file" / "folder", 1), media_of(1)
    for _ in range(2):
        keeper.see(FIRST, "held_out", own, own, score_of(0.1))
    keeper.finish({}, chosen=KEYS[0])
    assert caplog.text.count("are not kept") == 1


def test_nothing_is_kept_if_nothing_is_to_be(tmp_path: Path) -> None:
    """With 0 prompts no file is written."""
    own = media_of(1)
    keeper_of(tmp_path, 1, most=0).see(FIRST, "held_out", own, own, score_of(0.1))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["", "[]", '{"prompts": 3}', "{" * 99])
def test_a_damaged_index_is_none(tmp_path: Path, text: str) -> None:
    """An index that cannot be read is as if no picture had been kept."""
    assert read_index(tmp_path) is None
    (tmp_path / INDEX).write_text(text)
    assert read_index(tmp_path) is None


def test_half_are_the_worst_and_the_rest_is_spread() -> None:
    """Of ten prompts the two worst stay, and of the others the best, the middle and the next."""
    lpips = tuple(float(i) for i in range(10))
    assert worst_and_spread(lpips, list(range(10)), 4) == [9, 8, 7, 0]
    assert worst_and_spread(lpips, list(range(10)), 5) == [9, 8, 7, 6, 0]
    assert worst_and_spread(lpips, [3, 1], 12) == [3, 1]


def test_a_tone_is_a_bright_line_at_its_height() -> None:
    """The spectrogram of 2 kHz at 16 kHz is bright a quarter of the way up, and nowhere else."""
    seconds = np.arange(16_000, dtype=np.float32) / 16_000
    picture: Any = spectrogram(np.sin(2 * np.pi * 2_000 * seconds).astype(np.float32))
    brightest = picture[:, picture.shape[1] // 2, 0].argmax()
    assert 1 - (brightest + 1) / 256 == pytest.approx(0.25, abs=0.01)
    assert picture[:100].max() == 0


def test_pictures_lie_beside_the_database() -> None:
    """Each study has a folder of its own, whose name is safe."""
    folder = pictures_folder(Path("runs/tiny.db"), "tiny/../nvfp4")
    assert folder.parent == Path("runs/tiny-pictures")
    assert "/" not in folder.name
