"""How does one trial go? `TrialRunner`: choose, claim, score or stop, and record.

The baselines that are missing come first (`search.candidates.baselines`), then what an earlier
version's study of the same search has scored, then what the proposer proposes. The choice is
claimed, so that no other worker scores it (`search.claims`). It is scored on the search prompts, or
read from the store where an earlier study scored it. A proposal that a finished trial dominates is
stopped after some of its prompts (`search.stopping`); a baseline is always scored in full. One
transaction then adds the trial to the study and ends the claim (`search.study_log`).

A run that fails for good (`search.attempts`) makes a failed trial with a reason, and the search
goes on. Three failures alike in a row, or `MOST_FAILURES` of any kind, raise MeasurementError.
Whatever else ends the search (Ctrl-C, a full disk) releases the claim, and leaves the choice to be
taken again. A process that is killed leaves its claim to die with it.

    runner = TrialRunner(evaluator=evaluator, store=store, log=log, ...)
    runner.run()

Several workers. Trials that others are at count towards the budget and are known to the proposer.
Where nothing is left to take while others are at work, a worker waits: if one of them dies, its
choice is free again. A worker that was paused for so long that others took it for dead may finish:
its result is kept unless somebody was faster, and may then be one more than the budget.
"""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import Connection

from sensitivity.errors import MeasurementError
from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.fidelity.score import PartialScore
from sensitivity.models.compiled_regions import compiled_graphs
from sensitivity.search.attempts import RunError, forget_deaths, known_or_scored
from sensitivity.search.candidates import Candidates, Choice, baselines
from sensitivity.search.claims import Claim, Claims
from sensitivity.search.finished_rows import choice_digest
from sensitivity.search.patience import patient
from sensitivity.search.proposers import Proposal, Proposer, State
from sensitivity.search.spool import KeptTrial
from sensitivity.search.stopping import Rival, Stop, StoppingRule
from sensitivity.search.store import Store
from sensitivity.search.study_log import SAME_FAILURES, StudyLog, all_alike, gist
from sensitivity.search.trials import ScoredTrial, SearchEvents, StoppedTrial, Tried, name_of

MOST_FAILURES = 10
"""Failures in a row, whatever their reasons, that end a search."""
POLL_S = 0.5
"""Seconds between two looks at what other workers are at."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.02, 10.0
"""Workers that ask at the same instant see the same and propose the same: one of them gets it. The
others pause at random, for up to twice as long each time, so that hundreds of them spread out.
"""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A choice to score.

    Attributes:
        choice: one option for each group.
        label: which baseline it is; "" for a proposal.
        number: of a proposal, if those that are pending end before it; 0 for a baseline.
        state: what the proposer noted.
    """

    choice: Choice
    label: str
    number: int
    state: State = field(default_factory=dict)

    @property
    def details(self) -> dict[str, Any]:
        """What others read of it in its claim."""
        return {"choice": list(self.choice), "label": self.label, "state": dict(self.state)}


@dataclass(kw_only=True)
class TrialRunner:
    """Runs the trials of one search.

    Attributes:
        evaluator: scores choices.
        store: keeps scores.
        log: keeps trials.
        claims: of this worker.
        candidates: what may be chosen.
        proposer: proposes choices.
        rule: stops trials; None never does.
        known: choices that have a score already, of the study of an earlier version.
        budget: gives how many proposals the study is to have.
        events: are called as a trial goes on.
        failures: (reason without numbers, choice) of the failures here since the last trial that
            finished or was stopped here.
    """

    evaluator: Evaluator
    store: Store
    log: StudyLog
    claims: Claims
    candidates: Candidates
    proposer: Proposer
    rule: StoppingRule | None
    known: Sequence[Choice]
    budget: Callable[[], int]
    events: SearchEvents
    failures: list[tuple[str, Choice]] = field(default_factory=list, init=False)

    def run(self) -> None:
        """Run trials until the study has all of its budget, or every choice has been tried.

        Raises:
            MeasurementError: the last three trials here failed with one reason, or the last
                `MOST_FAILURES` with any.
        """
        while (taken := self._take_next()) is not None:
            claim, wanted = taken
            with self._free_if_cut(claim):
                failed = self._try(wanted)
            if failed is None:
                self.failures.clear()
                self.read_new(own=wanted.choice)
            else:
                self.failures.append((gist(str(failed)), wanted.choice))
                self.events.failed(name_of(wanted.label, wanted.number), str(failed))
                self._check_failures(str(failed))

    def read_new(self, own: Choice | None = None) -> None:
        """Read what is new in the study, and say it.

        Args:
            own: the choice that was scored here.
        """
        for tried in self._patient(self.log.read_new):
            if tried.choice != own:
                self.events.elsewhere(tried)
            elif isinstance(tried, StoppedTrial):
                self.events.stopped(tried)
            else:
                self.events.scored(tried)

    def _take_next(self) -> tuple[Claim, Wanted] | None:
        """The next choice, claimed; None where none is left and nobody is at work."""
        waited_for = lost = 0
        while True:
            self._patient(lambda: replay_waiting(self.log, self.events.noted))
            self.read_new()
            live = self._patient(lambda: self.claims.live(self.log.scope))
            others = [claim for claim in live if claim.worker != self.claims.worker.name]
            wanted = self._next_wanted(others)
            if wanted is not None:
                claim = self._taken(wanted)
                if claim is not None:
                    return claim, wanted
                lost += 1
                time.sleep(random.uniform(0, min(FIRST_PAUSE_S * 2**lost, LONGEST_PAUSE_S)))
            elif not others:
                return None
            else:
                if len(others) != waited_for:
                    self.events.waiting(len(others))
                waited_for = len(others)
                time.sleep(POLL_S)

    def _next_wanted(self, others: Sequence[Claim]) -> Wanted | None:
        """What is to be scored next, while others are at their choices; None where nothing is."""
        pending = [
            Proposal(choice=tuple(own.details["choice"]), state=own.details["state"])
            for own in others
        ]
        seen = self.log.tried_choices() | self.log.failed_choices()
        seen |= {own.choice for own in pending}
        for label, choice in baselines(self.candidates):
            if choice not in seen:
                return Wanted(choice=choice, label=label, number=0)
        index = self.log.proposals + sum(not own.details["label"] for own in others)
        if index >= self._patient(self.budget):
            return None
        for choice in self.known:
            if choice not in seen:
                return Wanted(choice=choice, label="", number=index + 1)
        found = self.proposer.propose(self.log.observations, seen, index, pending)
        if found.choice in seen:
            return None
        return Wanted(choice=found.choice, label="", number=index + 1, state=found.state)

    def _taken(self, wanted: Wanted) -> Claim | None:
        """The claim on a choice; None where others were faster, or have used up the budget."""
        read, budget = len(self.log.tried), self._patient(self.budget)

        def is_allowed(connection: Connection, live: Sequence[Claim]) -> bool:
            finished = self.log.count_finished(connection) - read  # of any kind, since it was read
            busy = sum(not own.details["label"] for own in live)
            return bool(wanted.label) or self.log.proposals + finished + busy < budget

        claim: Claim | None = self._patient(
            lambda: self.claims.take(
                self.log.scope,
                choice_digest(wanted.choice),
                wanted.details,
                allowed=is_allowed,
            )
        )
        if claim is None:
            return None
        self.read_new()  # from here on nobody else ends it
        if self.log.find(wanted.choice) or wanted.choice in self.log.failed_choices():
            self.claims.release(claim)
            return None
        return claim

    @contextmanager
    def _free_if_cut(self, claim: Claim) -> Iterator[None]:
        """Whatever ends the search inside is not the trial's fault: its choice is tried again."""
        try:
            yield
        except (Exception, KeyboardInterrupt, SystemExit):
            self.claims.release(claim)
            raise

    def _try(self, wanted: Wanted) -> RunError | None:
        """Score the choice, and record what comes of it; why, where it failed."""
        name, choice = name_of(wanted.label, wanted.number), wanted.choice
        formats = self.candidates.decode(choice)
        self.events.began(wanted.number, wanted.label)
        begun, graphs, stops = time.monotonic(), compiled_graphs(), list[Stop]()
        try:
            score = known_or_scored(
                self.evaluator,
                self.store,
                formats,
                "search",
                self.events.pictures,
                noted=lambda text: self.events.noted(f"{name}: {text}"),
                keep_going=None if wanted.label else self._keep_going(choice, stops),
            )
        except RunError as failed:
            self._record_failure(choice, str(failed), time.monotonic() - begun)
            return failed
        common: dict[str, Any] = {
            "index": len(self.log.tried),
            "number": wanted.number,
            "choice": choice,
            "latency_s": self.candidates.latency_s(choice),
            "seconds": time.monotonic() - begun,
            "policy": formats.policy,
        }
        tried: Tried
        if isinstance(score, PartialScore):
            tried = StoppedTrial(**common, stop=stops[-1])
        else:
            memory = self.candidates.memory_bytes(choice)
            tried = ScoredTrial(**common, label=wanted.label, score=score, memory_bytes=memory)
        compiled = compiled_graphs() - graphs if self.evaluator.compiled else None
        self._record(tried, wanted.state, compiled)  # 0: switching formats compiles nothing
        return None

    def _record(self, tried: Tried, state: State, compiled: int | None) -> None:
        """Keep a trial; it waits on disk while the database does not answer."""
        kept = KeptTrial(
            study=self.log.name,
            tried=tried,
            extra={"state": dict(state), "compiled_graphs": compiled},
        )
        self.store.spool.deliver(
            kept,
            lambda: self.log.finish(tried, state=state, compiled_graphs=compiled),
            noted=self.events.noted,
        )

    def _record_failure(self, choice: Choice, reason: str, seconds: float) -> None:
        """Keep a failure once, though the answer of a transaction may get lost."""
        before = self._times_failed(choice)

        def record() -> None:
            self.read_new()
            if self._times_failed(choice) == before:
                self.log.fail(choice, reason, seconds)

        self._patient(record)
        self.read_new()

    def _times_failed(self, choice: Choice) -> int:
        return sum(failed == choice for failed, _reason in self.log.failures())

    def _patient(self, call: Callable[[], Any]) -> Any:
        """What a call of the database returns, which waits for one that is away."""
        return patient(call, noted=self.events.noted)

    def _check_failures(self, reason: str) -> None:
        """Raise MeasurementError where the failures in a row say that it is not the skip-lists."""
        alike = all_alike([own for own, _ in self.failures])
        if not alike and len(self.failures) < MOST_FAILURES:
            return
        if alike:  # `StudyLog.failed_choices` lets these be tried again
            for _, choice in self.failures[-SAME_FAILURES:]:
                formats = self.candidates.decode(choice)
                forget_deaths(self.evaluator, self.store, formats, "search")
        how = (
            f"{SAME_FAILURES} trials in a row failed alike"
            if alike
            else (f"{MOST_FAILURES} trials in a row failed, the last one")
        )
        raise MeasurementError(f"{how} ({reason}); the study is kept: mend the cause and run again")

    def _keep_going(
        self, choice: Choice, stops: list[Stop]
    ) -> Callable[[tuple[float, ...]], bool] | None:
        """A function that says, from the damages so far, whether a trial goes on; None without a
        rule.
        """
        rule = self.rule
        if rule is None:
            return None
        latency_s = self.candidates.latency_s(choice)
        finished = [t for t in self.log.tried if isinstance(t, ScoredTrial) and t.score.is_allowed]
        rivals = [Rival(latency_s=t.latency_s, per_prompt=t.score.damages) for t in finished]

        def keep_going(damages: tuple[float, ...]) -> bool:
            stop = rule.decide(damages, latency_s, rivals)
            if stop is not None:
                stops.append(replace(stop, rival=finished[stop.rival].index))
            return stop is None

        return keep_going


def replay_waiting(log: StudyLog, noted: Callable[[str], Any]) -> None:
    """Keep the results of a study that waited on disk for the database (`search.spool`).

    Raises StoreError, OutputError: as the database says; what it does not take waits on.
    """

    def keep(kept: KeptTrial) -> None:
        tried = kept.tried
        if len(tried.choice) != log.candidates.length:
            raise ValueError(f"it has {len(tried.choice)} options")
        seconds = log.candidates.latency_s(tried.choice)
        if tried.latency_s != seconds:
            raise ValueError(f"it has {tried.latency_s} s; this search has {seconds}")
        compiled = kept.extra.get("compiled_graphs")
        log.finish(tried, state=kept.extra.get("state") or {}, compiled_graphs=compiled)

    store = log.store
    store.spool.replay(log.name, score=store.write_score, trial=keep, noted=noted)
