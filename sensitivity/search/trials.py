"""What has a search tried? Trials with a score, trials that were stopped, and events.

A `ScoredTrial` has the score of all search prompts: it may be on a front, and other trials are
compared with it. A `StoppedTrial` ended before its last prompt (`search.stopping`). It counts as a
trial and is never tried again, but it has no score: it is on no front, is never verified, and no
trial is compared with it. A proposer gets its estimate.
"""

from collections.abc import Callable
from dataclasses import dataclass

from sensitivity.fidelity.score import Score
from sensitivity.search.candidates import Choice
from sensitivity.search.stopping import Stop


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredTrial:
    """One finished trial.

    Attributes:
        index: its number among scored and stopped trials, from 0.
        choice: one option for each group.
        label: which baseline it is ("none", "all nvfp4", "rule of thumb"); "" for a proposal.
        latency_s: priced seconds of one pipeline run.
        score: on the search prompts.
        seconds: what scoring took.
        estimate: the damage that all trials together say it has (`search.estimate`); None while the
            search runs.
    """

    index: int
    choice: Choice
    label: str
    latency_s: float
    score: Score
    seconds: float
    estimate: float | None = None

    @property
    def number(self) -> int:
        """Its number from 1, as progress, tables and recipes count."""
        return self.index + 1

    @property
    def name(self) -> str:
        """What tables and recipes call it: its label, or its number."""
        return self.label or f"trial {self.number}"

    @property
    def lpips(self) -> float:
        """What it is ranked by: the estimate where there is one, else its own mean damage.

        Damage is LPIPS where there is no sound (`fidelity.score`).
        """
        return self.score.damage if self.estimate is None else self.estimate


@dataclass(frozen=True, kw_only=True, slots=True)
class StoppedTrial:
    """One trial that ended before its last prompt. Only proposals are stopped.

    Attributes:
        index, choice, latency_s, seconds: as in `ScoredTrial`.
        stop: why and where it stopped; `stop.rival` is the index of the trial that is better.
    """

    index: int
    choice: Choice
    latency_s: float
    stop: Stop
    seconds: float

    @property
    def label(self) -> str:
        """That of a proposal, as in `ScoredTrial`."""
        return ""


Tried = ScoredTrial | StoppedTrial


@dataclass(frozen=True, kw_only=True)
class SearchEvents:
    """Functions that a search calls as it goes on, in its own thread.

    Attributes:
        started: (study name, other studies of this model in the database) of a new study.
        continued: (study name, trials so far) of a study that is continued.
        calibrating: (cost, as one line) before a calibration.
        calibrated: (done, total) numbers of it.
        noted: (text) where the search goes on, but not as planned.
        began: (index, label) of a trial.
        pictures: (pictures done) of the current trial.
        scored: (trial) with a score.
        stopped: (trial) without one.
        failed: (index, reason).
    """

    started: Callable[[str, tuple[str, ...]], None] = lambda _name, _others: None
    continued: Callable[[str, tuple[Tried, ...]], None] = lambda _name, _trials: None
    calibrating: Callable[[str], None] = lambda _cost: None
    calibrated: Callable[[int, int], None] = lambda _done, _total: None
    noted: Callable[[str], None] = lambda _text: None
    began: Callable[[int, str], None] = lambda _index, _label: None
    pictures: Callable[[int], None] = lambda _done: None
    scored: Callable[[ScoredTrial], None] = lambda _trial: None
    stopped: Callable[[StoppedTrial], None] = lambda _trial: None
    failed: Callable[[int, str], None] = lambda _index, _reason: None
