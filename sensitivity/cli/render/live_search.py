"""What does a search show while it runs? `SearchProgress`: one live view on a terminal, plain lines
in a pipe.

with SearchProgress(console, budget=50, constraints=request.constraints) as progress:
    find_recipe(
        spec, request, events=progress.events, say=progress.say, expected=progress.expected
    )

The plan comes before the work: what lists by hand gain, how many trials and pictures, and about how
long. On a terminal `cli.render.search_view` then shows the stage, the last trial, the best one, and
the time that is left (`workflows.time_left`). In a pipe each trial is a line, and so is each step.
If the search is ended from outside (Ctrl-C, SIGTERM), it says what is kept.

Trials of other workers of the study count as done, and can be the best; each process prints its
own. Those beside the first of a host say less (`cli.render.quiet_search`).
"""

import re
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live

from sensitivity.cli.render.progress import Follower
from sensitivity.cli.render.search_view import SearchView, about, left_words
from sensitivity.errors import ConstraintError
from sensitivity.fidelity.words import lpips_words
from sensitivity.search.front import Constraints, pareto_front
from sensitivity.search.shortlist import Contest
from sensitivity.search.trials import (
    ScoredTrial,
    SearchEvents,
    StoppedTrial,
    Tried,
    proposals,
)
from sensitivity.search.work import SearchWork
from sensitivity.workflows.progress import Outlook
from sensitivity.workflows.time_left import TimeLeft

REFERENCES, SENSITIVITIES = "drawing in bf16", "measuring layer sensitivities"
VERIFYING = "verifying on held-out prompts"
_CLAUSE = re.compile(r"[:;,] ")
QUIET_S = 60.0
"""Seconds after which a pipe gets another line on something that goes on."""
REFRESHED = 4
"""Times a second that the view is drawn."""


class SearchProgress(Follower):
    """Receives a search's events.

    `events`, `say`, `expected`, `verifying` and `measuring` are arguments of
    `workflows.find.find_recipe`.

    Args:
        console: where to print.
        budget: trials of the search; 0 where trials are only chosen from.
        constraints: what the best trial so far is chosen by.
        held_out: held-out prompts of the study, where no plan of a search will tell.
        clock: gives seconds, from any start.
    """

    def __init__(
        self,
        console: Console,
        *,
        budget: int,
        constraints: Constraints | None = None,
        held_out: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(console)
        self.budget, self.constraints, self.clock = budget, constraints or Constraints(), clock
        self.held_out = held_out
        self.view, self.left = SearchView(clock), TimeLeft(clock)
        self.live = Live(
            self.view,
            console=console,
            transient=True,
            refresh_per_second=REFRESHED,
            auto_refresh=self.moving,
        )
        self.trials: list[ScoredTrial] = []
        self.names: dict[int, str] = {}
        self.bf16_s = 0.0
        self.work: SearchWork | None = None
        self.tried = self.baselines = self.failures = 0
        self.own = self.others = 0
        self.left.workers = self._company
        self.sensitivities = self.verified = (0, 0)
        self._said_at, self._verified_lists, self._outlook = clock(), 0, ""
        self.events = SearchEvents(
            started=self._started,
            planned=self._planned,
            referenced=self._referenced,
            calibrating=self.print,
            calibrated=self._calibrated,
            noted=self.warn,
            continued=self._continued,
            began=self._began,
            pictures=self._drew,
            scored=self._scored,
            stopped=self._stopped,
            elsewhere=self._elsewhere,
            waiting=self._waiting,
            failed=self._failed,
        )

    def __enter__(self) -> Self:
        if self.moving:
            self.live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with suppress(OSError):  # a terminal that is closed takes nothing any more
            self.live.stop()
            if kind is not None and issubclass(kind, KeyboardInterrupt | SystemExit):
                self.tell_kept()

    def show(self, text: str, done: int | None, total: int | None) -> None:
        """Show what is done, and how much of it."""
        view = self.view
        if text != view.stage:
            view.picture = ""
        view.stage, view.done, view.total = text, done or 0, total
        self._expect_end()

    def _expect_end(self) -> None:
        """Show when the search will end, by what is known now."""
        left = self.left.seconds
        self.view.ends_at = None if left is None else self.clock() + left

    def say(self, text: str) -> None:
        """A step begins."""
        self.show(_CLAUSE.split(text, maxsplit=1)[0], None, None)
        if not self.moving:
            self.print(text)

    def expected(self, outlook: Outlook) -> None:
        """What lists by hand gain: the first that is known of the model, said once."""
        self.left.expect(outlook)
        self.bf16_s = outlook.bf16_s
        if (said := outlook.describe()) != self._outlook:
            self._outlook = said
            self.print(said)

    def timing(self) -> None:
        """The winner is named, and whole runs are timed from now on."""
        self.left.timing()

    def verifying(self, done: int, total: int) -> None:
        """`done` of `total` held-out pictures are generated."""
        self.left.verify(done, total)
        self.verified = (done, total)
        self.show(VERIFYING, done, total)
        each = self.held_out
        lists = done // each if each else 0
        if not self.moving and lists > self._verified_lists:
            self._verified_lists = lists
            self._line(f"verified {lists} of {total // each} skip-lists{self._left()}")
        elif not self.moving and done and self._was_quiet():
            self._line(f"verifying: {done}/{total} pictures{self._left()}")

    def warn(self, text: str) -> None:
        """Print that something did not go as planned."""
        self.print(text)

    def kept(self) -> str:
        """What is finished, in words."""
        sensitivities, verified = self.sensitivities, self.verified
        each = self.held_out
        parts = [f"{self.tried} of {self.budget} trials"] * (self.budget > 0 and self.tried > 0)
        if self.baselines:
            of = f" of {self.work.baselines}" if self.work is not None else ""
            parts.append(f"{self.baselines}{of} baselines")
        if sensitivities[0] and not parts:
            parts.append(f"{sensitivities[0]} of {sensitivities[1]} layer sensitivities")
        if verified[1] and each:
            parts.append(f"{verified[0] // each} of {verified[1] // each} verifications")
        failed = f"; {self.failures} failed" if self.failures else ""
        return ", ".join(parts) + failed if parts else "nothing yet"

    def tell_kept(self) -> None:
        """Say what is finished."""
        self.print(f"finished and kept: {self.kept()}")

    def _started(self, name: str, others: tuple[str, ...]) -> None:
        if others:
            self.print(
                f"new study {name}: the database's {len(others)} other studies of this model"
                f" ({', '.join(others[:3])}) have other settings, seed, formats, package versions"
                " or thread count"
            )

    def _continued(self, name: str, trials: tuple[Tried, ...]) -> None:
        for trial in trials:
            self._count(trial)
        done = len(proposals(trials))
        baselines = len(trials) - done
        self.print(
            f"continuing study {name}: {done} of {self.budget} trials are done,"
            f" {max(0, self.budget - done)} to go"
            f"{f'; {baselines} baselines are scored' if baselines else ''}"
        )

    def _planned(self, work: SearchWork) -> None:
        """The plan, as one line."""
        self.work, self.held_out = work, work.held_out
        self.left.plan(work)
        self.print(plan_words(work, self.left.seconds))

    def _referenced(self, done: int, total: int) -> None:
        self.left.drew_references(done, total)
        self.show(REFERENCES, done, total)
        if not self.moving and (done == 0 or self._was_quiet()):
            self._line(f"{REFERENCES}: {done}/{total} pictures")

    def _calibrated(self, done: int, total: int) -> None:
        first = self.sensitivities == (0, 0)
        self.sensitivities = (done, total)
        self.left.measured(done, total)
        self.show(SENSITIVITIES, done, total)
        if not self.moving and (first or done == total or self._was_quiet()):
            self._line(f"{SENSITIVITIES}: {done}/{total} groups{self._left()}")

    def _began(self, number: int, label: str) -> None:
        self.left.began(number, label)
        self._at_trial(number, label)
        self.view.picture = label

    def _drew(self, done: int) -> None:
        """So many pictures of the current trial are drawn."""
        self.left.drew(done)
        of = f"/{self.work.prompts}" if self.work is not None else ""
        self.view.picture = f"picture {done}{of}"
        self._expect_end()

    def _scored(self, trial: ScoredTrial) -> None:
        self._count(trial)
        self._ended(trial)
        front = pareto_front([(t.latency_s, t.score.typical) for t in self.trials])
        said = f"{self._head(trial)}, typical LPIPS {lpips_words(trial.typical)}"
        self.view.last = said + _sound(trial)
        if self.moving:
            self.view.best = self._best(len(front))
        else:
            on_front = trial.score.is_allowed and len(self.trials) - 1 in front
            self.tell_trial(
                f"{said}, mean {lpips_words(trial.mean)}{_sound(trial)}"
                f"{', on the front' if on_front else ''}; front {len(front)}{self._left()}"
            )

    def _stopped(self, trial: StoppedTrial) -> None:
        self._count(trial)
        self._ended(trial)
        stop = trial.stop
        rival = self.names.get(stop.rival, "another one")
        self.view.last = (
            f"{self._head(trial)}, stopped after {stop.prompts} prompts: {rival} is as fast with"
            f" less LPIPS (p = {stop.p_value:.2g})"
        )
        if not self.moving:
            self.tell_trial(f"{self.view.last}{self._left()}")

    def _elsewhere(self, trial: Tried) -> None:
        """Another worker finished a trial."""
        self._count(trial)
        self.others += 1
        if self.moving and isinstance(trial, ScoredTrial):
            front = pareto_front([(t.latency_s, t.score.typical) for t in self.trials])
            self.view.best = self._best(len(front))
            self._expect_end()

    def _waiting(self, trials: int) -> None:
        """Other workers are at the last trials."""
        text = f"waiting for {trials} trial{'' if trials == 1 else 's'} of other workers"
        if trials and not self.moving and not self.view.stage.startswith("waiting"):
            self.print(text)
        if trials:
            self.show(text, self.tried, self.budget)

    def _company(self) -> int:
        """How many workers there seem to be: as many as trials end while one ends here."""
        return max(1, round((self.own + self.others) / self.own)) if self.own else 1

    def _failed(self, name: str, reason: str) -> None:
        self.failures += 1
        self.warn(f"{name} failed: {reason}")

    def _ended(self, trial: Tried) -> None:
        """A trial ended."""
        self.own += 1
        self.left.tried(trial)
        self._at_trial(trial.number, trial.label)

    def tell_trial(self, text: str) -> None:
        """A line in a pipe on a trial that ended."""
        self._line(text)

    def _at_trial(self, number: int, label: str) -> None:
        """Show a trial and how many are done: baselines are no trials of the budget."""
        if label:
            of = None if self.work is None else self.work.baselines
            self.show("scoring baselines", self.baselines, of)
        else:
            self.show(f"trial {number}", self.tried, self.budget)

    def _count(self, trial: Tried) -> None:
        """Keep what later lines say: numbers, the trials with scores, names, bf16's seconds."""
        self.names[trial.index] = trial.name
        if trial.label:
            self.baselines += 1
        else:
            self.tried += 1
        if isinstance(trial, StoppedTrial):
            return
        if trial.score.is_allowed:
            self.trials.append(trial)
        if trial.label == "none":
            self.bf16_s = trial.latency_s

    def _head(self, trial: Tried) -> str:
        """A trial's number, or a baseline's name, and its speedup; its time where bf16's is not
        known yet.
        """
        name = f"baseline {trial.label}" if trial.label else f"{trial.name}/{self.budget}"
        edges = "" if trial.policy.is_plain else f", {trial.policy.words}"
        return f"{name}: {self._gain(trial)}{edges}"

    def _gain(self, trial: Tried) -> str:
        if self.bf16_s:
            return f"{self.bf16_s / trial.latency_s:.3f}x"
        return f"{trial.latency_s * 1e3:.2f} ms"

    def _best(self, front: int) -> str:
        """What would be chosen if the search ended now, by the search prompts alone."""
        contest = Contest.of(self.trials, self.constraints, bf16_s=self.bf16_s)
        try:
            best = contest.first_choice()
        except ConstraintError:
            return f"none keeps to the constraints yet; front of {front}"
        return (
            f"{best.name}: {self._gain(best)}, typical LPIPS {lpips_words(best.typical)}; front of"
            f" {front}"
        )

    def _left(self) -> str:
        """The time that is left, for the end of a line; "" where it is not known."""
        left = self.left.seconds
        return "" if left is None else f", {left_words(left)}"

    def _line(self, text: str) -> None:
        """A line in a pipe on how the search goes."""
        self._said_at = self.clock()
        self.print(text)

    def _was_quiet(self) -> bool:
        """Whether the last line is long ago."""
        return self.clock() - self._said_at >= QUIET_S


def plan_words(work: SearchWork, left_s: float | None) -> str:
    """What a search is about to do, as one line. Where no trial is left, what is verified and known
    already decides how long it takes, so no time is said.
    """
    takes = f": {about(left_s)}" if left_s is not None and work.trials_left else ""
    done = f"{work.trials_done} done" if work.trials_left else "all done"
    return (
        f"{work.trials} trials x {work.prompts} prompts, {done}, then at most {work.lists}"
        f" skip-lists x {work.held_out} held-out prompts{takes}; Ctrl-C keeps what is finished"
    )


def _sound(trial: ScoredTrial) -> str:
    """The distance of a trial's sound in words; "" where there is none."""
    if trial.score.audio is None:
        return ""
    beyond = "" if trial.score.is_allowed else " (more than the study allows)"
    return f", sound {lpips_words(trial.score.audio.mean)}{beyond}"
