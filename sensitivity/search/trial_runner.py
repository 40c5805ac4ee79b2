"""How does one trial go? `TrialRunner`: choose, score or stop, and record.

The baselines that are missing come first (`search.candidates.baselines`), then what an earlier
version's study of the same search has scored, then what the proposer proposes. The choice is scored
on the search prompts, or read from the store where an earlier study scored it. A proposal that a
finished trial dominates is stopped after some of its prompts (`search.stopping`); a baseline is
always scored in full. A run that fails for good (`search.attempts`) makes a failed trial with a
reason, and the search goes on. Three failures alike in a row, or `MOST_FAILURES` of any kind, raise
MeasurementError. Whatever else ends the search (Ctrl-C, a full disk) leaves the trial to be taken
again.

    runner = TrialRunner(evaluator=evaluator, store=store, log=log, ...)
    tried = runner.run_next(history)
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace

import optuna

from sensitivity.errors import MeasurementError
from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.fidelity.score import PartialScore
from sensitivity.models.compiled_regions import compiled_graphs
from sensitivity.search.attempts import RunError, forget_deaths, known_or_scored
from sensitivity.search.candidates import Candidates, Choice, baselines
from sensitivity.search.log import INTERRUPTED, SAME_FAILURES, StudyLog, all_alike, gist
from sensitivity.search.proposers import Observation, Proposer
from sensitivity.search.stopping import Rival, Stop, StoppingRule
from sensitivity.search.store import Store
from sensitivity.search.trials import (
    ScoredTrial,
    SearchEvents,
    StoppedTrial,
    Tried,
    name_of,
    proposals,
)

MAX_REPEATS = 100
"""Proposals in a row that may repeat a choice before the search takes it that none is left."""
MOST_FAILURES = 10
"""Failures in a row, whatever their reasons, that end a search."""


@dataclass(kw_only=True)
class TrialRunner:
    """Runs the trials of one search.

    Attributes:
        evaluator: scores choices.
        store: keeps scores.
        log: keeps trials.
        candidates: what may be chosen.
        proposer: proposes choices.
        rule: stops trials; None never does.
        known: choices that have a score already, of the study of an earlier version.
        events: are called as a trial goes on.
        failures: the reasons, without numbers, of the failures since the last trial that finished
            or was stopped.
    """

    evaluator: Evaluator
    store: Store
    log: StudyLog
    candidates: Candidates
    proposer: Proposer
    rule: StoppingRule | None
    known: Sequence[Choice]
    events: SearchEvents
    failures: list[str] = field(default_factory=list, init=False)

    def run_next(self, history: Sequence[Tried]) -> Tried | None:
        """Score the next choice, or stop at it.

        None where it failed (`failures` then has the reason) or where no new choice is left.

        Raises:
            MeasurementError: the last three trials failed with one reason, or the last
                `MOST_FAILURES` with any.
        """
        seen = {t.choice for t in history} | self.log.failed_choices()
        trial, label, choice = self._next_choice(history, seen)
        if choice in seen:
            self.log.fail(trial, "repeated")
            self.failures.clear()
            return None
        with self._taken_again_if_cut(trial):
            tried = self._try(trial, label, choice, history)
        if isinstance(tried, RunError):
            self.failures.append(gist(str(tried)))
            self.events.failed(name_of(label, _next_number(history)), str(tried))
            self._check_failures(str(tried))
            return None
        self.failures.clear()
        if isinstance(tried, StoppedTrial):
            self.events.stopped(tried)
        else:
            self.events.scored(tried)
        return tried

    @contextmanager
    def _taken_again_if_cut(self, trial: optuna.Trial) -> Iterator[None]:
        """Whatever ends the search inside is not the trial's fault: its choice is tried again."""
        try:
            yield
        except (Exception, KeyboardInterrupt, SystemExit):
            with suppress(Exception):  # the first error is the one to tell
                self.log.fail(trial, INTERRUPTED)
            raise

    def _try(
        self, trial: optuna.Trial, label: str, choice: Choice, history: Sequence[Tried]
    ) -> Tried | RunError:
        """Score the choice, and record what comes of it."""
        number = 0 if label else _next_number(history)
        name, latency_s = name_of(label, number), self.candidates.latency_s(choice)
        self.log.begin(trial, choice)
        self.events.began(number, label)
        begun, graphs, stops = time.monotonic(), compiled_graphs(), list[Stop]()
        try:
            score = known_or_scored(
                self.evaluator,
                self.store,
                self.candidates.decode(choice),
                "search",
                self.events.pictures,
                noted=lambda text: self.events.noted(f"{name}: {text}"),
                keep_going=None if label else self._keep_going(choice, history, stops),
            )
        except RunError as failed:
            self.log.fail(trial, str(failed))
            return failed
        seconds = time.monotonic() - begun
        if self.evaluator.compiled:  # 0: switching formats compiles nothing
            trial.set_user_attr("compiled_graphs", compiled_graphs() - graphs)
        if isinstance(score, PartialScore):
            stopped = StoppedTrial(
                index=len(history),
                number=number,
                choice=choice,
                latency_s=latency_s,
                stop=stops[-1],
                seconds=seconds,
            )
            self.log.stop(trial, stopped)
            return stopped
        scored = ScoredTrial(
            index=len(history),
            number=number,
            choice=choice,
            label=label,
            latency_s=latency_s,
            score=score,
            seconds=seconds,
        )
        self.log.complete(trial, scored)
        return scored

    def _check_failures(self, reason: str) -> None:
        """Raise MeasurementError where the failures in a row say that it is not the skip-lists."""
        alike = all_alike(self.failures)
        if not alike and len(self.failures) < MOST_FAILURES:
            return
        if alike:  # `StudyLog.failed_choices` lets these be tried again
            for choice, _reason in self.log.failures()[-SAME_FAILURES:]:
                formats = self.candidates.decode(choice)
                forget_deaths(self.evaluator, self.store, formats, "search")
        how = (
            f"{SAME_FAILURES} trials in a row failed alike"
            if alike
            else (f"{MOST_FAILURES} trials in a row failed, the last one")
        )
        raise MeasurementError(f"{how} ({reason}); the study is kept: mend the cause and run again")

    def _next_choice(
        self, history: Sequence[Tried], seen: set[Choice]
    ) -> tuple[optuna.Trial, str, Choice]:
        """The next trial, its label and its choice; a choice in `seen` where none is left.

        Proposals that repeat a choice are recorded as failed, and another is asked for.
        """
        study, proposer = self.log.study, self.proposer
        for label, choice in baselines(self.candidates):
            if choice not in seen:
                return proposer.ask_for(study, choice), label, choice
        for choice in self.known:
            if choice not in seen:
                return proposer.ask_for(study, choice), "", choice
        observed = [_observed(t) for t in history]
        for attempt in range(MAX_REPEATS):
            index = _next_number(history) - 1 + attempt * 10_000
            proposer.prepare(study, index)
            trial = study.ask()
            choice = self.candidates.canonical(proposer.propose(trial, observed, seen, index))
            if choice not in seen or attempt == MAX_REPEATS - 1 or not proposer.may_repeat:
                break
            self.log.fail(trial, "repeated")
        return trial, "", choice

    def _keep_going(
        self, choice: Choice, history: Sequence[Tried], stops: list[Stop]
    ) -> Callable[[tuple[float, ...]], bool] | None:
        """A function that says, from the damages so far, whether a trial goes on; None without a
        rule.
        """
        rule = self.rule
        if rule is None:
            return None
        latency_s = self.candidates.latency_s(choice)
        finished = [t for t in history if isinstance(t, ScoredTrial) and t.score.is_allowed]
        rivals = [Rival(latency_s=t.latency_s, per_prompt=t.score.damages) for t in finished]

        def keep_going(damages: tuple[float, ...]) -> bool:
            stop = rule.decide(damages, latency_s, rivals)
            if stop is not None:
                stops.append(replace(stop, rival=finished[stop.rival].index))
            return stop is None

        return keep_going


def _next_number(history: Sequence[Tried]) -> int:
    """The number of the next proposal."""
    return len(proposals(history)) + 1


def _observed(tried: Tried) -> Observation:
    """What a proposer knows of a trial."""
    if isinstance(tried, StoppedTrial):
        return Observation(choice=tried.choice, typical=tried.stop.estimate, share=tried.stop.share)
    return Observation(choice=tried.choice, typical=tried.score.cost, latent=tried.latent)
