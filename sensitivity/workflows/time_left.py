"""How long will a search go on? `TimeLeft`: seconds until its end, verification included.

Work is counted in pictures (`search.work`), and time is pictures times seconds a picture. Seconds a
picture are those of the trials so far, else of the layer sensitivities, else of the bf16 references
with the factor that is expected between the two, else what was expected before the first picture.
Layer sensitivities have a pace of their own as soon as two are known, and so has the verification
once it has begun.

    left = TimeLeft()
    find_recipe(spec, request, events=left.events, expected=left.expect, verifying=left.verify)
    left.seconds                    # meanwhile; None where nothing is known of the pace

A trial that the store knew took no picture and says nothing of the pace. Trials that stop early
make the others shorter too: a proposal counts as many pictures as those so far had on average.

Several workers share layer sensitivities and trials: each of them counts its part. Trials that
others have begun are known by the number of the next one here.

What it does not know: how many skip-lists will be verified (the most that may be, until they are
named), reading weights, and compiling.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import mean

from sensitivity.fidelity.evaluator import OTHER_PROMPTS
from sensitivity.search.native_rounding import PICTURES
from sensitivity.search.trials import SearchEvents, Tried
from sensitivity.search.work import SearchWork
from sensitivity.workflows.progress import Outlook, PictureSeconds

ROUNDING = 2 * PICTURES
"""Pictures that are drawn once for each study after the verified lists: one list in two
arithmetics."""
BESIDE_VERIFICATION = OTHER_PROMPTS + ROUNDING
"""The same, with those that are drawn before: bf16 with another seed."""
QUANTIZED = 1.3
"""A quantized picture's seconds over bf16's where nothing else is known: emulation on a CPU."""


@dataclass
class Pace:
    """Seconds a picture, as observed."""

    pictures: float = 0.0
    seconds: float = 0.0

    def add(self, pictures: float, seconds: float) -> None:
        """So many pictures took so long."""
        self.pictures += pictures
        self.seconds += seconds

    @property
    def each(self) -> float | None:
        """Seconds of one picture; None before the first."""
        return self.seconds / self.pictures if self.pictures else None


class TimeLeft:
    """Follows a search and says when it ends.

    Args:
        clock: gives seconds, from any start.

    Attributes:
        workers: gives how many share the work.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.workers: Callable[[], int] = lambda: 1
        self.work: SearchWork | None = None
        self.expected: PictureSeconds | None = None
        self.timing_s = 0.0
        self.bf16, self.calibration, self.quantized = Pace(), Pace(), Pace()
        self.references, self.baselines, self.trials = 0.0, 0, 0
        self.current = 0
        self._stage: str = ""
        self._begun = clock()
        self._proposals: list[int] = []  # pictures that each took
        self._first: tuple[float, int] | None = None
        self._sensitivities: tuple[int, int] | None = None
        self._verified: tuple[int, int] | None = None

    def expect(self, outlook: Outlook) -> None:
        """Take what is known before the first picture."""
        self.expected, self.timing_s = outlook.picture, outlook.timing_s

    def plan(self, work: SearchWork) -> None:
        """Take what there is to do."""
        self.work = work
        self.references = work.references
        self.baselines = work.baselines - work.baselines_done
        self.trials = work.trials_left

    def drew_references(self, done: int, total: int) -> None:
        """`done` of `total` bf16 pictures of the search prompts are drawn."""
        self._enter("references")
        self.references = total - done
        self.bf16 = Pace(done, self.clock() - self._begun)

    def measured(self, done: int, total: int) -> None:
        """`done` of `total` numbers of layer sensitivities are known."""
        self._enter("sensitivities")
        self.references = 0.0
        self._sensitivities = (done, total)
        self._first = self._first or (self.clock(), done)
        since, before = self._first
        planned = 0.0 if self.work is None else self.work.sensitivities
        if done > before:
            share = (done - before) / max(1, total - before)
            self.calibration = Pace(planned * share, self.clock() - since)

    @property
    def events(self) -> SearchEvents:
        """The events of a search that it learns from."""
        return SearchEvents(
            planned=self.plan,
            referenced=self.drew_references,
            calibrated=self.measured,
            began=self.began,
            pictures=self.drew,
            scored=self.tried,
            stopped=self.tried,
            elsewhere=self.tried_elsewhere,
        )

    def began(self, number: int, label: str) -> None:
        """A trial begins: what comes before trials is done."""
        self._enter("trials")
        if self.work is not None and not label:
            self.trials = min(self.trials, max(0, self.work.trials - number + 1))
        self.current = 0
        self._prepared()

    def drew(self, pictures: int) -> None:
        """So many pictures of the current trial are drawn."""
        self.current = pictures

    def tried(self, trial: Tried) -> None:
        """A trial ended. If none of its pictures was drawn, its score was known."""
        pictures, self.current = self.current, 0
        if trial.label:
            self.baselines = max(0, self.baselines - 1)
        else:
            self.trials = max(0, self.trials - 1)
        if pictures:
            self.quantized.add(pictures, trial.seconds)
            if not trial.label:
                self._proposals.append(pictures)

    def tried_elsewhere(self, trial: Tried) -> None:
        """Another worker is done with a trial. A proposal of its was counted by `began`."""
        if trial.label:
            self.baselines = max(0, self.baselines - 1)

    def verify(self, done: int, total: int) -> None:
        """`done` of `total` held-out pictures are drawn."""
        self._enter("verification")
        self._prepared()
        self.baselines = self.trials = self.current = 0
        self._verified = (done, total)

    def timing(self) -> None:
        """Whole runs are being timed, the last thing that a search does."""
        self._enter("timing")

    @property
    def seconds(self) -> float | None:
        """Seconds until the end; None where no pace is known, or nothing of what is to do."""
        if self._stage == "timing":
            return max(0.0, self.timing_s - self._elapsed_s)
        each = self._quantized_s()
        if each is None:
            return None
        return self._baselines_s(each) + self._proposals_s(each) + self._others_s(each)

    @property
    def trial_s(self) -> float | None:
        """Seconds of one trial here; None where no pace is known."""
        each = self._quantized_s()
        return None if each is None else self._usual * each

    @property
    def beside_s(self) -> float | None:
        """Seconds of all that is no trial of the budget, until the end; None as for `seconds`."""
        if self._stage == "timing":
            return self.seconds
        each = self._quantized_s()
        return None if each is None else self._baselines_s(each) + self._others_s(each)

    def _others_s(self, each: float) -> float:
        """Of all that is no trial."""
        references = self.references * (self._bf16_s() or each)
        before = references + self._sensitivities_s(each)
        return before + self._verification_s(each) + self.timing_s

    def _prepared(self) -> None:
        """References and layer sensitivities are there."""
        self.references, self._sensitivities = 0.0, (1, 1)

    def _enter(self, stage: str) -> None:
        if stage != self._stage:
            self._stage, self._begun = stage, self.clock()

    @property
    def _elapsed_s(self) -> float:
        """Of the current stage."""
        return self.clock() - self._begun

    @property
    def _factor(self) -> float:
        expected = self.expected
        return QUANTIZED if expected is None else expected.quantized / expected.bf16

    def _bf16_s(self) -> float | None:
        """Seconds of a bf16 picture."""
        if self.bf16.each is not None:
            return self.bf16.each
        if self.quantized.each is not None:
            return self.quantized.each / self._factor
        return None if self.expected is None else self.expected.bf16

    def _quantized_s(self) -> float | None:
        """Seconds of a quantized picture."""
        if self.quantized.each is not None:
            return self.quantized.each
        if self.calibration.each is not None:
            return self.calibration.each
        if self.bf16.each is not None:
            return self.bf16.each * self._factor
        if self.expected is not None:
            return self.expected.quantized
        if self._verified is not None and self._verified[0]:
            return self._elapsed_s / self._verified[0]
        return None

    def _sensitivities_s(self, each: float) -> float:
        """Of layer sensitivities that are still to be measured."""
        planned = 0.0 if self.work is None else self.work.sensitivities * each
        planned /= max(1, self.workers())
        if self._sensitivities is None:
            return planned
        done, total = self._sensitivities
        if done >= total:
            return 0.0
        since, before = self._first or (self.clock(), done)
        if done > before:
            return (self.clock() - since) / (done - before) * (total - done)
        return max(0.0, planned - self._elapsed_s)

    @property
    def _usual(self) -> float:
        """Pictures of one trial."""
        prompts = 0 if self.work is None else self.work.prompts
        return mean(self._proposals) if self._proposals else prompts

    def _baselines_s(self, each: float) -> float:
        """Of lists by hand."""
        prompts = 0 if self.work is None else self.work.prompts
        return self.baselines * prompts * each / max(1, self.workers())

    def _proposals_s(self, each: float) -> float:
        """Of trials, without what is drawn of the current one, which may be a list by hand."""
        pictures = self.trials * self._usual / max(1, self.workers())
        return max(-self._baselines_s(each), (pictures - self.current) * each)

    def _verification_s(self, each: float) -> float:
        """Of held-out pictures, and of what is drawn beside them."""
        if self._verified is not None:
            done, total = self._verified
            own = self._elapsed_s / done if done else each
            return (total - done) * own + (0.0 if self.work is None else ROUNDING * each)
        if self.work is None:
            return 0.0
        bf16 = self.work.held_out_references * (self._bf16_s() or each)
        return bf16 + (self.work.pictures_of_verification + BESIDE_VERIFICATION) * each
