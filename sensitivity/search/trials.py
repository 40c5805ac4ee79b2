"""What has a search tried? Trials with a score, trials that were stopped, and events.

Baselines (nothing quantized, everything, the rule of thumb, published lists) are scored first. They
have a label and no number, and are no part of the budget. Proposals are numbered from 1.

A `ScoredTrial` has the score of all search prompts: it may be on a front, and other trials are
compared with it. A `StoppedTrial` ended before its last prompt (`search.stopping`). It counts as a
trial of the budget and is never tried again, but it has no score: it is on no front, is never
verified, and no trial is compared with it. A proposer gets its estimate.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sensitivity.core.short_reprs import ShortRepr
from sensitivity.core.step_policy import PLAIN, StepPolicy
from sensitivity.fidelity.score import Score
from sensitivity.fidelity.typical import typical
from sensitivity.search.candidates import Choice
from sensitivity.search.stopping import Stop
from sensitivity.search.work import SearchWork


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class ScoredTrial(ShortRepr):
    """One finished trial, or a baseline with its score.

    Attributes:
        index: its place among all that was scored or stopped, baselines included, from 0. It tells
            trials apart, and is not shown.
        number: of a proposal, from 1, as progress, tables and recipes count; 0 for a baseline.
        choice: one option for each group.
        label: which baseline it is ("none", "all nvfp4", "rule of thumb"); "" for a proposal.
        latency_s: priced seconds of one pipeline run.
        score: on the search prompts.
        seconds: what scoring took.
        estimate: the typical damage that all trials together say it has (`search.estimate`); None
            while the search runs.
        expected_mean: the mean damage that goes with it (`fidelity.mean_curve`); None likewise.
        memory_bytes: predicted peak of GPU memory in a run (`search.choice_memory`); None is not
            known.
        policy: at which steps it runs at higher precision.
    """

    index: int
    number: int = 0
    choice: Choice
    label: str
    latency_s: float
    score: Score
    seconds: float
    estimate: float | None = None
    expected_mean: float | None = None
    memory_bytes: int | None = None
    policy: StepPolicy = PLAIN

    @property
    def name(self) -> str:
        """What tables and recipes call it: its label, or its number."""
        return name_of(self.label, self.number)

    @property
    def typical(self) -> float:
        """Typical damage, by which trials are ranked: the estimate where there is one, else that of
        its own score.

        Damage is LPIPS where there is no sound (`fidelity.score`).
        """
        return self.score.typical if self.estimate is None else self.estimate

    @property
    def latent(self) -> float | None:
        """Typical error of its latents on the search prompts; None where it is not known."""
        values = self.score.latent
        return None if values is None else typical(values.per_prompt, values.noise_floor)

    @property
    def mean(self) -> float:
        """Mean damage over prompts: the expected one where it is known, else that of its score."""
        return self.score.damage if self.expected_mean is None else self.expected_mean


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class StoppedTrial(ShortRepr):
    """One trial that ended before its last prompt. Only proposals are stopped.

    Attributes:
        index, number, choice, latency_s, seconds, policy: as in `ScoredTrial`.
        stop: why and where it stopped; `stop.rival` is the index of the trial that is better.
    """

    index: int
    number: int = 0
    choice: Choice
    latency_s: float
    stop: Stop
    seconds: float
    policy: StepPolicy = PLAIN

    @property
    def label(self) -> str:
        """That of a proposal, as in `ScoredTrial`."""
        return ""

    @property
    def name(self) -> str:
        """As in `ScoredTrial`."""
        return name_of("", self.number)


def name_of(label: str, number: int) -> str:
    """What a baseline with this label, or the proposal with this number, is called."""
    return label or f"trial {number}"


Tried = ScoredTrial | StoppedTrial


def proposals(tried: Sequence[Tried]) -> list[Tried]:
    """The trials that count towards the budget: all but the baselines."""
    return [trial for trial in tried if not trial.label]


@dataclass(frozen=True, kw_only=True)
class SearchEvents:
    """Functions that a search calls as it goes on, in its own thread.

    Attributes:
        started: (study name, other studies of this model in the database) of a new study.
        continued: (study name, trials so far) of a study that is continued.
        planned: (what there is to do) once, before the first picture.
        referenced: (done, total) bf16 pictures that are drawn before the first trial.
        calibrating: (cost, as one line) before a calibration.
        calibrated: (done, total) numbers of it.
        noted: (text) where the search goes on, but not as planned.
        began: (number, label) of a trial; a baseline has the number 0, a proposal no label.
        pictures: (pictures done) of the current trial.
        scored: (trial) with a score.
        stopped: (trial) without one.
        elsewhere: (trial) that another worker of the study has scored or stopped.
        waiting: (trials) that other workers are at, while this one has nothing to do until they
            end; called when that number changes.
        failed: (name, reason); the name is as in `ScoredTrial`.
    """

    started: Callable[[str, tuple[str, ...]], None] = lambda _name, _others: None
    continued: Callable[[str, tuple[Tried, ...]], None] = lambda _name, _trials: None
    planned: Callable[[SearchWork], None] = lambda _work: None
    referenced: Callable[[int, int], None] = lambda _done, _total: None
    calibrating: Callable[[str], None] = lambda _cost: None
    calibrated: Callable[[int, int], None] = lambda _done, _total: None
    noted: Callable[[str], None] = lambda _text: None
    began: Callable[[int, str], None] = lambda _number, _label: None
    pictures: Callable[[int], None] = lambda _done: None
    scored: Callable[[ScoredTrial], None] = lambda _trial: None
    stopped: Callable[[StoppedTrial], None] = lambda _trial: None
    elsewhere: Callable[[Tried], None] = lambda _trial: None
    waiting: Callable[[int], None] = lambda _trials: None
    failed: Callable[[str, str], None] = lambda _name, _reason: None
