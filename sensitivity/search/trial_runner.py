"""How does one trial go? `TrialRunner`: choose, score or stop, and record.

The baselines that are missing come first (`search.candidates.baselines`), then what the proposer
proposes. The choice is scored on the search prompts, or read from the store where an earlier study
scored it. A proposal that a finished trial dominates is stopped after some of its prompts
(`search.stopping`); a baseline is always scored in full. An error in the run makes a failed trial
with a reason. Three failures alike in a row raise MeasurementError.

    runner = TrialRunner(evaluator=evaluator, store=store, log=log, ...)
    tried = runner.run_next(history)
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import optuna

from sensitivity.core.words import first_line
from sensitivity.errors import MeasurementError
from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.fidelity.score import PartialScore, Score
from sensitivity.models.compiled_regions import compiled_graphs
from sensitivity.search.candidates import Candidates, Choice, baselines
from sensitivity.search.held_out import known_or_scored
from sensitivity.search.log import SAME_FAILURES, StudyLog, all_alike, gist
from sensitivity.search.proposers import Observation, Proposer
from sensitivity.search.stopping import Rival, Stop, StoppingRule
from sensitivity.search.store import Store
from sensitivity.search.trials import ScoredTrial, SearchEvents, StoppedTrial, Tried

MAX_REPEATS = 100
"""Proposals in a row that may repeat a choice before the search takes it that none is left."""


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
    events: SearchEvents
    failures: list[str] = field(default_factory=list, init=False)

    def run_next(self, history: Sequence[Tried]) -> Tried | None:
        """Score the next choice, or stop at it.

        None where it failed (`failures` then has the reason) or where no new choice is left.

        Raises:
            MeasurementError: the last three trials failed with one reason.
        """
        seen = {t.choice for t in history} | self.log.failed_choices()
        trial, label, choice = self._next_choice(history, seen)
        if choice in seen:
            self.log.fail(trial, "repeated")
            self.failures.clear()
            return None
        self.log.begin(trial, choice)
        self.events.began(len(history), label)
        begun, graphs, stops = time.monotonic(), compiled_graphs(), list[Stop]()
        score = self._score(trial, label, choice, history, stops)
        if score is None:
            return None
        self.failures.clear()
        seconds = time.monotonic() - begun
        if self.evaluator.compiled:  # 0: switching formats compiles nothing
            trial.set_user_attr("compiled_graphs", compiled_graphs() - graphs)
        latency_s = self.candidates.latency_s(choice)
        if isinstance(score, PartialScore):
            stopped = StoppedTrial(
                index=len(history),
                choice=choice,
                latency_s=latency_s,
                stop=stops[-1],
                seconds=seconds,
            )
            self.log.stop(trial, stopped)
            self.events.stopped(stopped)
            return stopped
        scored = ScoredTrial(
            index=len(history),
            choice=choice,
            label=label,
            latency_s=latency_s,
            score=score,
            seconds=seconds,
        )
        self.log.complete(trial, scored)
        self.events.scored(scored)
        return scored

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
        observed = [_observed(t) for t in history]
        # Counted, since baselines that failed are not in the history.
        proposed = sum(not t.label for t in history)
        for attempt in range(MAX_REPEATS):
            index = proposed + attempt * 10_000
            proposer.prepare(study, index)
            trial = study.ask()
            choice = self.candidates.canonical(proposer.propose(trial, observed, seen, index))
            if choice not in seen or attempt == MAX_REPEATS - 1 or not proposer.may_repeat:
                break
            self.log.fail(trial, "repeated")
        return trial, "", choice

    def _score(
        self,
        trial: optuna.Trial,
        label: str,
        choice: Choice,
        history: Sequence[Tried],
        stops: list[Stop],
    ) -> Score | PartialScore | None:
        """The score of a choice; None, recorded as a failure, where the run fails.

        Where the rule stops it, the reason is appended to `stops`.
        """
        try:
            return known_or_scored(
                self.evaluator,
                self.store,
                self.candidates.decode(choice),
                "search",
                self.events.pictures,
                keep_going=None if label else self._keep_going(choice, history, stops),
            )
        except KeyboardInterrupt:
            self.log.fail(trial, "interrupted")
            raise
        except (MeasurementError, RuntimeError) as error:  # out of memory is a RuntimeError
            text = first_line(error, most=1_000) if str(error) else "no message"
            reason = f"{type(error).__name__}: {text}"
            self.evaluator.recover()
            self.log.fail(trial, reason)
            self.failures.append(gist(reason))
            self.events.failed(len(history), reason)
            if all_alike(self.failures):
                raise MeasurementError(
                    f"{SAME_FAILURES} trials in a row failed alike ({reason}); the study is kept:"
                    " mend the cause and run again"
                ) from error
            return None

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


def _observed(tried: Tried) -> Observation:
    """What a proposer knows of a trial."""
    if isinstance(tried, StoppedTrial):
        return Observation(choice=tried.choice, lpips=tried.stop.estimate, share=tried.stop.share)
    return Observation(choice=tried.choice, lpips=tried.score.cost)
