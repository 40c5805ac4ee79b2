"""Which pictures does a search keep, so that people can look at what it chose? `PictureKeeper`.

While a search verifies lists on the held-out prompts, the keeper writes their pictures, and bf16's
beside them, into a folder beside the database. When the winner is known, it keeps the prompts that
show most: half of them the winner's worst, the others spread over the rest.

    with keeping_pictures(evaluator, pictures_folder(database, study), most=12) as keeper:
        outcome = conclude(...)                      # scores, which shows the keeper pictures
        keeper.finish_with(outcome.chosen, result, candidates)

Bounded: at most `most` prompts of `MOST_LISTS` lists, `SIDE` pixels a side; of a clip `FRAMES`
frames of `FRAME_SIDE` pixels side by side in one file, and `SOUND_S` seconds of mono sound at most.
Pictures are WebP, sounds WAV.

Several workers that draw into one folder each add to its index, one at a time (`locked`). Where
their folders differ, each has the pictures of what it drew.

Keeping pictures never ends a search: what cannot be written is said once, and given up. Each file
is written as a whole or not at all, and the index after the files that it names.
"""

import io
import logging
import wave
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sensitivity.core.format_name import FormatName
from sensitivity.core.json_files import write_whole
from sensitivity.errors import OutputError, StoreError
from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.fidelity.score import Score
from sensitivity.fidelity.splits import Split
from sensitivity.models.media import Media
from sensitivity.search.candidates import Candidates
from sensitivity.search.loop import SearchResult
from sensitivity.search.store import assignment_key
from sensitivity.search.trials import ScoredTrial
from sensitivity.workflows.picture_files import (
    BF16,
    FLOOR,
    KEPT_PROMPTS,
    Floor,
    KeptList,
    PictureIndex,
    file_of,
    read_index,
    write_index,
)

MOST_PROMPTS = 48
"""Prompts whose pictures are kept until the winner is known."""
MOST_LISTS = 16
SIDE = 512
FRAMES, FRAME_SIDE = 12, 256
SOUND_S, RATE = 6.0, 16_000
"""Seconds of sound, and the most samples a second: what is above 8 kHz is not kept."""
QUALITY = 85
SUFFIXES = (".webp", ".wav", ".sound.webp")
"""Of the picture or frames, of the sound, and of the picture of the sound."""

Locked = Callable[[], AbstractContextManager[None]]
log = logging.getLogger(__name__)


@contextmanager
def keeping_pictures(
    evaluator: Evaluator, folder: Path, *, most: int, locked: Locked = nullcontext
) -> Iterator["PictureKeeper"]:
    """Inside, the pictures of each held-out score are kept.

    Args:
        evaluator: draws.
        folder: where they are kept (`picture_files.pictures_folder`).
        most: prompts of each list; 0 keeps nothing.
        locked: see `PictureKeeper`.
    """
    prompts, seeds = evaluator.prompts("held_out")
    keeper = PictureKeeper(folder, prompts=prompts, seeds=seeds, most=most, locked=locked)
    evaluator.watch = keeper.see if most else None
    try:
        yield keeper
    finally:
        evaluator.watch = None


class PictureKeeper:
    """Keeps pictures of one study in one folder.

    Args:
        folder: where; it is made when there is something to keep.
        prompts, seeds: the held-out prompts. Pictures of other prompts that lie in the folder are
            not of this study, and are forgotten.
        most: prompts of each list; 0 keeps nothing.
        locked: inside what it gives, no other worker changes the index.
    """

    def __init__(
        self,
        folder: Path,
        *,
        prompts: Sequence[str],
        seeds: Sequence[int],
        most: int = KEPT_PROMPTS,
        locked: Locked = nullcontext,
    ) -> None:
        self.folder, self.most, self._locked = folder, most, locked
        self._gave_up = most < 1
        self._index = PictureIndex(prompts=tuple(prompts), seeds=tuple(seeds))
        if not self._gave_up:
            self._index = self._known() or self._index

    def _known(self) -> PictureIndex | None:
        """The index that lies in the folder, if it is of the same prompts."""
        known, own = read_index(self.folder), self._index
        if known is None or (known.prompts, known.seeds) != (own.prompts, own.seeds):
            return None
        return known

    def see(
        self,
        formats: Mapping[str, FormatName],
        split: Split,
        media: Media,
        references: Media,
        score: Score,
    ) -> None:
        """Keep the pictures of one score on the held-out prompts.

        Args:
            formats: {FQN: format} of the list.
            split: which prompts; only held-out ones are kept.
            media: its pictures, (P, ...).
            references: bf16's, (P, ...).
            score: of all P prompts.
        """
        if self._gave_up or split != "held_out":
            return
        try:
            self._see(assignment_key(formats), media, references, score)
        except (OSError, OutputError, StoreError, ValueError) as error:
            self._give_up(error)

    def keep_floor(self, evaluator: Evaluator) -> None:
        """Keep two pictures that bf16 made of one search prompt, in a batch and alone."""
        if self._gave_up or not self._index.lists or self._index.floor is not None:
            return
        floor = evaluator.noise_floor
        if floor is None:
            return
        try:
            together = evaluator.references("search")
            alone = evaluator.references("search", batch_size=1)
            if together.is_video:
                return
            apart = (together.pictures - alone.pictures).abs().flatten(1).amax(1)
            at = int(apart.argmax())
            for name, media in zip(FLOOR, (together, alone), strict=True):
                self._write(f"{name}.webp", _webp(_pixels(media.pictures[at]), SIDE, exact=True))
            texts, seeds = evaluator.prompts("search")
            self._replace(floor=Floor(prompt=texts[at], seed=seeds[at], lpips=floor))
        except (OSError, OutputError, ValueError) as error:
            self._give_up(error)

    def finish_with(
        self, chosen: ScoredTrial | None, result: SearchResult, candidates: Candidates
    ) -> None:
        """As `finish`, with the trials of a search; None is chosen where nothing won."""
        keys = {t.index: assignment_key(candidates.decode(t.choice)) for t in result.trials}
        self.finish(
            {keys[t.index]: t.name for t in result.trials},
            chosen="" if chosen is None else keys[chosen.index],
        )

    def finish(self, names: Mapping[str, str], *, chosen: str) -> None:
        """Name the lists, and keep the prompts that show most of the chosen one.

        Args:
            names: {assignment key: what tables call the list} of lists that were tried.
            chosen: the winner's key; "" where nothing won, and then no prompt is left out.
        """
        if self._gave_up or not self._index.lists:
            return
        try:
            self._finish(names, chosen)
        except (OSError, OutputError, ValueError) as error:
            self._give_up(error)

    def _see(self, key: str, media: Media, references: Media, score: Score) -> None:
        count = min(len(media), MOST_PROMPTS)
        at = _frames_of(media) if media.is_video else []
        for name, own in ((BF16, references), (key, media)):
            for prompt in range(count):
                self._keep(prompt, name, own, at)
        per_frame = {}
        if score.per_frame and at:
            per_frame = {
                prompt: _nearest(score.per_frame[prompt], at, media.pictures.shape[1])
                for prompt in range(count)
            }
        kept = KeptList(lpips=score.per_prompt, per_frame=per_frame)
        with self._locked():
            known = self._known()
            others = {} if known is None else known.lists
            self._replace(lists={**self._index.lists, **others, key: kept}, frames=len(at))

    def _keep(self, prompt: int, key: str, media: Media, at: list[int]) -> None:
        """Write one picture or clip, and its sound; bf16's are written once."""
        picture, sound, seen = (file_of(prompt, key, suffix) for suffix in SUFFIXES)
        if key == BF16 and (self.folder / picture).exists():
            return
        if at:
            row = torch.cat(list(media.pictures[prompt, at].float() * 2 - 1), dim=2)
            side = FRAME_SIDE * len(at)
            height = max(1, round(FRAME_SIDE * row.shape[1] * len(at) / row.shape[2]))
            self._write(picture, _webp(_pixels(row), max(side, height)))
        else:
            self._write(picture, _webp(_pixels(media.pictures[prompt]), SIDE))
        if media.sound is not None and media.sample_rate:
            samples, rate = _mono(media.sound[prompt], media.sample_rate)
            self._write(sound, _wav(samples, rate))
            self._write(seen, _webp(spectrogram(samples), SIDE))

    def _finish(self, names: Mapping[str, str], chosen: str) -> None:
        lists = {
            key: kept.model_copy(update={"name": names.get(key, kept.name)})
            for key, kept in self._index.lists.items()
        }
        by_hand = [key for key, kept in lists.items() if not kept.name.startswith("trial ")]
        order = [chosen, *by_hand, *reversed(lists)]
        keep = [key for key in dict.fromkeys(order) if key in lists][:MOST_LISTS]
        winner = lists.get(chosen)
        prompts = set(range(len(self._index.prompts)))
        if winner is not None:
            there = [p for p in sorted(prompts) if (self.folder / file_of(p, chosen)).exists()]
            prompts = set(worst_and_spread(winner.lpips, there, self.most))
        self._replace(lists={key: lists[key] for key in lists if key in keep})
        wanted = {
            file_of(prompt, key, suffix)
            for key in (BF16, *keep)
            for prompt in prompts
            for suffix in SUFFIXES
        } | {f"{name}.webp" for name in FLOOR}
        for path in self.folder.iterdir():
            if path.suffix in (".webp", ".wav") and path.name not in wanted:
                path.unlink()

    def _replace(self, **fields: object) -> None:
        self._index = self._index.model_copy(update=fields)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_index(self.folder, self._index)

    def _write(self, name: str, data: bytes) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.folder / name, data)

    def _give_up(self, error: Exception) -> None:
        self._gave_up = True
        log.warning("pictures for the report are not kept in %s (%s)", self.folder, error)


def worst_and_spread(lpips: tuple[float, ...], there: list[int], most: int) -> list[int]:
    """Which prompts to keep: half of them the worst, the others spread over the rest by rank.

    Args:
        lpips: of every prompt.
        there: prompts that have a picture.
        most: how many to keep.
    """
    ranked = sorted(there, key=lambda prompt: (-lpips[prompt], prompt))
    worst = ranked[: (most + 1) // 2]
    rest = ranked[len(worst) :]
    count = min(most - len(worst), len(rest))
    spread = [rest[round(i * (len(rest) - 1) / max(count - 1, 1))] for i in range(count)]
    return [*worst, *dict.fromkeys(spread)]


def spectrogram(samples: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(256, W, 3) picture of a sound: time to the right, frequency upwards, bright is loud (60 dB).

    Args:
        samples: (S,) of one channel.
    """
    size, hop = 512, max(128, len(samples) // 512)
    padded = np.pad(samples, (0, max(0, size - len(samples))))
    starts = range(0, len(padded) - size + 1, hop)
    window = np.hanning(size).astype(np.float32)
    frames = np.stack([padded[start : start + size] * window for start in starts])
    power = np.abs(np.fft.rfft(frames, axis=1))[:, :256] ** 2
    decibels = 10 * np.log10(power + 1e-12)
    bright = np.clip((decibels - decibels.max() + 60) / 60, 0, 1)
    grey = (255 * bright.T[::-1]).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


def _frames_of(media: Media) -> list[int]:
    """Indices of at most `FRAMES` frames, evenly spaced, the first and the last included."""
    frames = media.pictures.shape[1]
    count = min(FRAMES, frames)
    return [round(i * (frames - 1) / max(count - 1, 1)) for i in range(count)]


def _nearest(values: tuple[float, ...], at: list[int], frames: int) -> tuple[float, ...]:
    """LPIPS of the frames `at`; of every stride-th frame only some have a value, so the nearest."""
    last = len(values) - 1
    return tuple(values[round(frame * last / max(frames - 1, 1))] for frame in at)


def _pixels(picture: Tensor) -> NDArray[np.uint8]:
    """(H, W, 3) bytes of a picture (3, H, W) in [-1, 1]."""
    scaled = ((picture.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return np.ascontiguousarray(scaled.permute(1, 2, 0).cpu().numpy())


def _webp(pixels: NDArray[np.uint8], side: int, *, exact: bool = False) -> bytes:
    """A WebP of at most `side` pixels a side; `exact` keeps every byte of the pixels."""
    image = Image.fromarray(pixels)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "WEBP", quality=QUALITY, method=4, lossless=exact)
    return file.getvalue()


def _mono(sound: Tensor, rate: int) -> tuple[NDArray[np.float32], int]:
    """(S,) mean over channels (C, samples) of the first `SOUND_S` seconds, and its rate."""
    step = max(1, -(-rate // RATE))
    samples = sound.float().mean(0)[: int(SOUND_S * rate)]
    whole = samples[: len(samples) // step * step].reshape(-1, step).mean(1)
    return whole.clamp(-1, 1).cpu().numpy().astype(np.float32), rate // step


def _wav(samples: NDArray[np.float32], rate: int) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as wav:
        wav.setnchannels(1)
        wav.setsampwidth(2)
        wav.setframerate(rate)
        wav.writeframes((samples * 32767).astype("<i2").tobytes())
    return file.getvalue()
