"""What a search has tried: trials with a score, trials that were stopped before they had one, and
the events that tell of them.

A `ScoredTrial` may be on a front and is what others are held against. A `StoppedTrial` counts as a
trial and is never tried again, but it has no score: it is no rival, on no front, and never
verified; a proposer has its estimate.
"""

from collections.abc import Callable
from dataclasses import dataclass

from sensitivity.fidelity.score import Score
from sensitivity.search.candidates import Choice
from sensitivity.search.stopping import Stop


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredTrial:
    """One finished trial.

    `label` names a baseline ("none", "all nvfp4", "rule of thumb"), "" for a proposal; `seconds` is
    what scoring took.

    `estimate` is the damage that all trials together say this one has (`search.estimate`), None
    while the search runs.
    """

    index: int
    choice: Choice
    label: str
    latency_s: float
    score: Score
    seconds: float
    estimate: float | None = None

    @property
    def lpips(self) -> float:
        """What it is ranked by: the estimate, where there is one, else its own mean damage, which
        is LPIPS where there is no sound (`fidelity._base`).
        """
        return self.score.damage if self.estimate is None else self.estimate


@dataclass(frozen=True, kw_only=True, slots=True)
class StoppedTrial:
    """One trial that ended before its last prompt (`search.stopping`).

    `stop.rival` is the index of the trial that is better; only proposals are stopped.
    """

    index: int
    choice: Choice
    latency_s: float
    stop: Stop
    seconds: float

    @property
    def label(self) -> str:
        """A proposal's, as in `ScoredTrial`."""
        return ""


Tried = ScoredTrial | StoppedTrial


@dataclass(frozen=True, kw_only=True)
class SearchEvents:
    """Where the search says what it does; each is called from the search's own thread.

    `started(name, other studies of this model in the database)` or `continued(name, trials so
    far)`, then `calibrating(cost)` and `calibrated(done, total)`, `noted(text)` where it goes on
    otherwise than planned, `began(index, label)`, `pictures(done)`, and `scored(trial)`,
    `stopped(trial)` or `failed(index, reason)`.
    """

    started: Callable[[str, tuple[str, ...]], None] = lambda _name, _others: None

    calibrating: Callable[[str], None] = lambda _cost: None
    calibrated: Callable[[int, int], None] = lambda _done, _total: None
    noted: Callable[[str], None] = lambda _text: None
    continued: Callable[[str, tuple[Tried, ...]], None] = lambda _name, _trials: None
    began: Callable[[int, str], None] = lambda _index, _label: None
    pictures: Callable[[int], None] = lambda _done: None
    scored: Callable[[ScoredTrial], None] = lambda _trial: None
    stopped: Callable[[StoppedTrial], None] = lambda _trial: None
    failed: Callable[[int, str], None] = lambda _index, _reason: None
