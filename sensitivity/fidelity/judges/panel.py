"""Which judges look at the held-out pictures of this study, and what do they say? `Panel`.

    panel = Panel.of(JudgeWishes(asked=("my_metrics:darkest",)), prompts=..., is_video=False, ...)
    panel.judge(media, references, prompts)         # {"psnr": JudgeValues(...), ...}

By default all judges of `known` look that are installed and have something to look at. One that is
not installed, or fails, is left out, and `notes` says so. A judge that was asked for by name, or
that is bounded, must work: what is wrong with it is a `UserError`.

Noise floors. A judge's floor is what it says about bf16's search pictures that were generated one
by one, against those in batches; for a judge of words, those of the search prompts that ask for
words.

Of a clip, frames 0, stride, 2 stride, ... are judged, as LPIPS does it.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from sensitivity.core.words import first_line
from sensitivity.errors import UserError
from sensitivity.fidelity.judges._base import Judge
from sensitivity.fidelity.judges.known import INSTALL, KNOWN, make_judge, why_missing
from sensitivity.fidelity.judges.own import OwnJudge
from sensitivity.fidelity.judges.wishes import NONE, JudgeWishes
from sensitivity.fidelity.score import JudgeValues, Score
from sensitivity.fidelity.splits import Split
from sensitivity.models.media import Media, pictures_at_once

FRAMES_PER_SECOND = 24.0
"""Of clips whose study does not say."""

log = logging.getLogger(__name__)


class Bf16(Protocol):
    """What a panel asks of an `Evaluator`."""

    def references(self, split: Split, *, batch_size: int | None = None) -> Media:
        """bf16's pictures or clips of a split."""

    def prompts(self, split: Split) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """The prompts of a split and their seeds."""

    def batch_size(self, split: Split) -> int:
        """The most pictures that are generated together."""


class Panel:
    """The judges of one study.

    Args:
        wishes: What was asked for.
        prompts: The held-out prompts.
        is_video: Whether the study's model makes clips.
        stride: Of a clip, every `stride`-th frame is judged.
        frames_per_second: Of clips, before the stride.
        device: Where judges run that run on a GPU.

    Attributes:
        missing: {judge: why it cannot run here} of those that would look by default.
        names: The judges that look.
        idle: Those of them that have nothing to look at in this study.

    Raises:
        UserError: A judge that is asked for or bounded cannot run here, a bound is of the wrong
            side, or a function of the user's is wrong.
    """

    def __init__(
        self,
        wishes: JudgeWishes,
        *,
        prompts: Sequence[str],
        is_video: bool = False,
        stride: int = 1,
        frames_per_second: float = FRAMES_PER_SECOND,
        device: str = "cpu",
    ) -> None:
        self.wishes, self.stride, self.device = wishes, stride, device
        self.is_video = is_video
        self.frames_per_second = frames_per_second / stride
        self._made: dict[str, Judge] = {}
        self._floors: dict[str, float] | None = None
        self._failed: dict[str, str] = {}
        self.missing = {
            name: why
            for name, known in KNOWN.items()
            if (is_video or not known.clips_only) and (why := why_missing(name))
        }
        default = () if NONE in wishes.asked else tuple(n for n in KNOWN if n not in self.missing)
        self.names = tuple(dict.fromkeys((*default, *wishes.required)))
        self.idle = tuple(n for n in self.names if not self.covered(n, prompts, is_video=is_video))
        for name in wishes.required:
            self._check(name, is_video=is_video)

    def add(self, judge: Judge) -> None:
        """Let one more judge look."""
        self._made[judge.name] = judge
        self.names = (*self.names, judge.name)

    def _check(self, name: str, *, is_video: bool) -> None:
        """Raise UserError for a judge that must work and cannot."""
        if name in KNOWN:
            if why := why_missing(name):
                raise UserError(
                    f"the judge {name} is asked for, and {why}; expected its package: {INSTALL}, or"
                    " do without it"
                )
            if name in self.idle and name in self.wishes.bounded:
                raise UserError(
                    f"the judge {name} is bounded, and it has nothing to look at;"
                    f" {KNOWN[name].expected}: take the bound away"
                )
            higher = KNOWN[name].higher_is_better
        else:
            own = OwnJudge(name)
            own.try_out(is_video=is_video)
            self._made[name], higher = own, own.higher_is_better
        wrong, right = ("max_judge", "min_judge") if higher else ("min_judge", "max_judge")
        if name in getattr(self.wishes, wrong):
            raise UserError(
                f"`{wrong}` bounds {name}, of which {'more' if higher else 'less'} is better;"
                f" expected `{right}`: use that"
            )

    @property
    def notes(self) -> tuple[str, ...]:
        """Which judges do not look, in words; () if all do that have something to look at."""
        notes = [
            f"the judge {name} has nothing to look at; {KNOWN[name].expected}"
            for name in self.idle
            if name in self.wishes.asked
        ]
        if NONE not in self.wishes.asked and self.missing:
            reasons = ", ".join(dict.fromkeys(self.missing.values()))
            notes.append(
                f"judges that do not look: {', '.join(self.missing)} ({reasons}); {INSTALL}"
            )
        return tuple(notes)

    def covered(self, name: str, prompts: Sequence[str], *, is_video: bool) -> tuple[int, ...]:
        """Indices of the prompts that a judge looks at."""
        if name in KNOWN:
            return KNOWN[name].covers(prompts, is_video=is_video)
        return tuple(range(len(prompts)))

    def lacking(self, score: Score, prompts: Sequence[str]) -> tuple[str, ...]:
        """Judges that would look, whose values a score does not have.

        Values of a function of the user's that was edited since are none.
        """
        return tuple(
            name
            for name in self.names
            if self.covered(name, prompts, is_video=self.is_video)
            and (name not in score.judges or self._is_edited(name, score.judges[name]))
        )

    def _is_edited(self, name: str, values: JudgeValues) -> bool:
        """Whether a function of the user's is another one now than when it gave these values."""
        return name not in KNOWN and self._made[name].made_by != values.made_by

    def complete(self, score: Score, media: Media, source: "Bf16") -> Score:
        """A held-out score with what the judges say about its pictures or clips.

        Raises:
            UserError: A judge that must work does not.
        """
        prompts = source.prompts("held_out")[0]
        found = self.judge(
            media, source.references("held_out"), prompts, bf16_twice=lambda: _twice(source)
        )
        return replace(score, judges={**score.judges, **found})

    def judge(
        self,
        media: Media,
        references: Media,
        prompts: Sequence[str],
        *,
        bf16_twice: Callable[[], tuple[Media, Media, Sequence[str]] | None] = lambda: None,
    ) -> dict[str, JudgeValues]:
        """{judge: what it says}, of all judges that have something to look at.

        Args:
            media: Pictures or clips of a skip-list.
            references: bf16's.
            prompts: Theirs.
            bf16_twice: Gives bf16's pictures one by one, those in batches, and their prompts, for
                the noise floors; None where there is no floor. It is called once.

        Raises:
            UserError: A judge that must work does not.
        """
        values = self._values(media, references, prompts)
        if values and self._floors is None:
            pair = bf16_twice()
            floors = {} if pair is None else self._values(*pair)
            self._floors = {name: _mean(found) for name, (found, _) in floors.items()}
        return {
            name: JudgeValues(
                per_prompt=tuple(found.tolist()),
                noise_floor=(self._floors or {}).get(name),
                higher_is_better=self._made[name].higher_is_better,
                unit=self._made[name].unit,
                prompts=None if len(at) == len(prompts) else at,
                made_by=self._made[name].made_by,
            )
            for name, (found, at) in values.items()
        }

    def _values(
        self, media: Media, references: Media, prompts: Sequence[str]
    ) -> dict[str, tuple[Tensor, tuple[int, ...]]]:
        """{judge: (its values, indices of their prompts)}; one that fails is left out."""
        found = {}
        for name in self.names:
            at = self.covered(name, prompts, is_video=media.is_video)
            if not at or name in self._failed:
                continue
            try:
                found[name] = (self._look(name, media, references, prompts, at), at)
            except Exception as error:
                if name in self.wishes.required:
                    raise self._must_work(name, error) from error
                self._failed[name] = first_line(error)
                log.warning(
                    "the judge %s is left out, since it fails (%s: %s)",
                    name,
                    type(error).__name__,
                    first_line(error),
                )
        return found

    def _must_work(self, name: str, error: Exception) -> UserError:
        if isinstance(error, UserError):
            return error
        return UserError(
            f"the judge {name} is asked for and fails ({type(error).__name__}:"
            f" {first_line(error)}); expected that it works on these pictures: do without it, or"
            f" install its packages again ({INSTALL})"
        )

    def _look(
        self, name: str, media: Media, references: Media, prompts: Sequence[str], at: Sequence[int]
    ) -> Tensor:
        """(N,) finite fp64 values of the prompts `at`, a few at a time."""
        if name not in self._made:
            self._made[name] = make_judge(
                name, frames_per_second=self.frames_per_second, device=self.device
            )
        step = 1 if media.is_video else pictures_at_once(*media.pictures.shape[-2:])
        parts = []
        for start in range(0, len(at), step):
            some = list(at[start : start + step])
            seen = visible(media, some, stride=self.stride)
            wanted = visible(references, some, stride=self.stride)
            values = self._made[name](seen, wanted, [prompts[i] for i in some])
            parts.append(values.double().cpu())
        found = torch.cat(parts)
        if not found.isfinite().all():
            raise ValueError(f"it gave {found.tolist()}")
        return found


def _twice(source: Bf16) -> tuple[Media, Media, Sequence[str]] | None:
    """bf16's search pictures one by one, those in batches, and their prompts; None where batches
    are of one picture.
    """
    prompts = source.prompts("search")[0]
    if min(source.batch_size("search"), len(prompts)) < 2:
        return None
    return source.references("search", batch_size=1), source.references("search"), prompts


def visible(media: Media, at: Sequence[int], *, stride: int = 1) -> Tensor:
    """Pictures as a judge is given them: (N, 3, H, W), or clips (N, F, 3, H, W), fp32 in [0, 1]."""
    some = media.pictures[list(at)]
    if media.is_video:
        return some[:, ::stride].float().clamp(0, 1)
    return ((some.float() + 1) / 2).clamp(0, 1)


def _mean(values: Tensor) -> float:
    return float(values.mean())
