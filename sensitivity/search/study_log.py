"""What is in the study of a search, and how is more added? `StudyLog`: Optuna's, in our terms.

    log = open_log(store, name, candidates, settings)       # `search.log`
    log.read_new()                         # trials that were scored or stopped since, by anybody
    log.finish(tried)                      # a trial of this process

A trial is added when it is finished, in one transaction with its index, its seal, and the end of
the claim on its choice (`search.claims`). So no trial runs for ever, whatever dies, and a choice is
in a study once: a second result of it changes nothing.

Conventions. Index i has the i-th trial that was scored or stopped, whichever worker did it. Trials
are read once, and in order: what was read does not change.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from pydantic import TypeAdapter
from sqlalchemy import Connection, func, insert, select

from sensitivity.core.words import first_line, printable
from sensitivity.errors import DamageError
from sensitivity.fidelity.summary import SummaryRules
from sensitivity.search.calibration.jobs import Errors, broken_options
from sensitivity.search.candidates import Candidates, Choice
from sensitivity.search.claims import remove_claim, trials_scope
from sensitivity.search.estimate import FEWEST, estimate_all
from sensitivity.search.finished_rows import choice_digest
from sensitivity.search.kept_trials import (
    INTERRUPTED,
    TRIED,
    failed_trial,
    finished_trial,
    has_place,
    read_failed,
    read_state,
    read_tried,
)
from sensitivity.search.optuna_storage import sealed
from sensitivity.search.proposers import KnapsackProposer, Observation, State
from sensitivity.search.seals import CONTINUES, SETTINGS
from sensitivity.search.step_table import StepTable
from sensitivity.search.store import Store
from sensitivity.search.tables import FinishedRow, Table
from sensitivity.search.trials import ScoredTrial, StoppedTrial, Tried

SAME_FAILURES = 3
"""Failures in a row with one reason that end a search."""
STEPS = "steps"
"""The attribute of a study that has its `StepTable`."""
_ERRORS = TypeAdapter(list[tuple[int, int, float]])
_FINISHED = Table.metadata.tables[FinishedRow.__tablename__]
_MADE_AGAIN = "run the same search again, which makes it again from the scores that are kept"


class StudyLog:
    """The Optuna study of one search.

    Args:
        store: the database.
        study: Optuna's.
        candidates: what the choices of its trials mean.

    Attributes:
        name: of the study.
        scope: of the claims on its choices.
        tried: what was scored or stopped, as far as it was read: place i has index i.
        observations: the same for a proposer.
    """

    def __init__(self, store: Store, study: optuna.Study, candidates: Candidates) -> None:
        self.store, self.study, self.candidates = store, study, candidates
        self.name: str = study.study_name
        self.scope = trials_scope(self.name)
        self.tried: list[Tried] = []
        self.observations: list[Observation] = []
        self._by_choice: dict[Choice, Tried] = {}
        self._proposals, self._count = 0, 0
        self._failures: list[tuple[Choice, str]] = []
        self._failed: set[Choice] = set()
        self._row: list[tuple[str, Choice]] = []  # failures since the last of `tried`

    def history(self) -> list[Tried]:
        """Scored and stopped trials by index, read now.

        Raises DamageError where a trial cannot be read, is missing or is there twice.
        """
        self.read_new()
        return list(self.tried)

    def read_new(self) -> list[Tried]:
        """The scored and stopped trials since the last call, or since the study was opened.

        Raises DamageError as `history`.
        """
        known = len(self.tried)
        trials = self.study.get_trials(deepcopy=False)
        for trial in trials[self._count :]:
            self._take_in(trial)
            self._count += 1
        return self.tried[known:]

    def _take_in(self, trial: FrozenTrial) -> None:
        if trial.state is TrialState.FAIL:
            failed = read_failed(trial)
            if failed is not None:
                self._note_failure(*failed)
            return
        if trial.state not in TRIED:
            return  # an earlier version began it, and died
        self._row.clear()
        if not has_place(trial):
            return
        try:
            tried = read_tried(trial, self.candidates)
        except ValueError as error:
            raise DamageError(
                f"trial {trial.number} of the study {self.name} cannot be read"
                f" ({printable(first_line(error))}); expected what a search writes: {_MADE_AGAIN},"
                " or name another `storage`"
            ) from None
        place = len(self.tried)
        if tried.index != place:
            raise DamageError(
                f"the study {self.name} has trial {tried.index} at place {place}; expected each"
                f" index from 0 once: {_MADE_AGAIN}"
            )
        if not tried.label:
            self._proposals += 1
            tried = replace(tried, number=self._proposals)
        self.tried.append(tried)
        self._by_choice[tried.choice] = tried
        state = read_state(trial, tried.choice, self.candidates)
        self.observations.append(_observed(tried, state))

    def _note_failure(self, choice: Choice, reason: str) -> None:
        self._failures.append((choice, reason))
        self._row.append((gist(reason), choice))
        self._failed.add(choice)
        if all_alike([alike for alike, _ in self._row]):
            self._failed -= {choice for _, choice in self._row[-SAME_FAILURES:]}
            self._row.clear()

    @property
    def proposals(self) -> int:
        """How many of `tried` count towards the budget: all but the baselines."""
        return self._proposals

    def find(self, choice: Choice) -> Tried | None:
        """The trial of a choice, of those that were read."""
        return self._by_choice.get(choice)

    def tried_choices(self) -> set[Choice]:
        """The choices of `tried`."""
        return set(self._by_choice)

    def failed_choices(self) -> set[Choice]:
        """Choices that failed for a reason of their own, as far as was read.

        Not because the process ended, and not among the failures alike that ended a search.
        """
        return set(self._failed)

    def failures(self) -> list[tuple[Choice, str]]:
        """(choice, reason) of each trial that failed, in order, as far as was read."""
        return list(self._failures)

    def fail_running(self) -> None:
        """Mark trials that an earlier version began, and never ended, as failed, `INTERRUPTED`.

        This version adds trials that are finished, and no others.
        """
        for trial in self.study.get_trials(
            deepcopy=False, states=(TrialState.RUNNING, TrialState.WAITING)
        ):
            self.study._storage.set_trial_user_attr(trial._trial_id, "reason", INTERRUPTED)
            self.study._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)

    def finish(
        self, tried: Tried, *, state: State | None = None, compiled_graphs: int | None = None
    ) -> None:
        """Keep a trial that was scored or stopped, and end the claim on its choice, whoever has it.

        A choice that the study has already stays as it is. The trial's index and number are not
        used: it gets the next place. `read_new` gives what was kept.

        Args:
            tried: the trial.
            state: of its proposal.
            compiled_graphs: as in `finished_trial`.
        """
        digest = choice_digest(tried.choice)

        def take_place(connection: Connection, trial_id: int) -> Mapping[str, Any]:
            self._check_new(connection, digest)
            place = self.count_finished(connection)
            row = {"study_id": self.study._study_id, "choice": digest}
            connection.execute(insert(_FINISHED).values(**row, place=place, trial_id=trial_id))
            remove_claim(connection, self.scope, digest)
            return {"index": place}

        self._add(
            finished_trial(tried, state=state or {}, compiled_graphs=compiled_graphs),
            digest,
            take_place,
        )

    def fail(self, choice: Choice, reason: str, seconds: float = 0.0) -> None:
        """Keep that a choice failed, with the reason, and end the claim on it; a choice that
        another worker has scored meanwhile stays as it is.
        """
        digest = choice_digest(choice)

        def end_claim(connection: Connection, _trial_id: int) -> None:
            self._check_new(connection, digest)
            remove_claim(connection, self.scope, digest)

        self._add(failed_trial(choice, reason, seconds), digest, end_claim)

    def _add(self, trial: FrozenTrial, digest: str, and_then: Any) -> None:
        try:
            sealed(self.study._storage).add_finished(self.study._study_id, trial, and_then=and_then)
        except _KnownError:  # and nothing of this trial is added
            with self.store.writing() as session:
                remove_claim(session.connection(), self.scope, digest)

    def _check_new(self, connection: Connection, digest: str) -> None:
        """Raise _KnownError where the study has a trial of this choice."""
        query = select(_FINISHED.c.trial_id).where(
            _FINISHED.c.study_id == self.study._study_id, _FINISHED.c.choice == digest
        )
        if connection.execute(query).first() is not None:
            raise _KnownError

    def count_finished(self, connection: Connection) -> int:
        """How many trials are scored or stopped, in a transaction of the caller's."""
        of_study = _FINISHED.c.study_id == self.study._study_id
        query = select(func.count()).select_from(_FINISHED).where(of_study)
        return int(connection.execute(query).scalar_one())

    def keep(self, key: str, value: Any) -> None:
        """Keep a fact of the study, as JSON can hold it."""
        self.study.set_user_attr(key, value)

    def kept(self, key: str) -> Any:
        """A fact of the study; None where there is none."""
        return self.study.user_attrs.get(key)

    def budget(self) -> int:
        """The budget that the study has now."""
        return int(self.kept(SETTINGS)["budget"])

    def keep_continued(self, earlier: str) -> None:
        """Keep the name of the earlier version's study that this one continues."""
        if self.kept(CONTINUES) != earlier:
            self.keep(CONTINUES, earlier)

    def keep_errors(self, errors: Errors | None) -> None:
        """Keep the layer sensitivities, so that `estimated` needs no model later."""
        rows = None if errors is None else [[g, o, error] for (g, o), error in errors.items()]
        self._keep_changed("errors", rows)

    def keep_steps(self, steps: StepTable | None) -> None:
        """Keep what each group does in which part of a run, as far as that was ever measured."""
        if steps is not None or STEPS in self.study.user_attrs:
            self._keep_changed(STEPS, None if steps is None else steps.to_json())

    def _keep_changed(self, key: str, value: Any) -> None:
        attributes = self.study.user_attrs
        if key not in attributes or attributes[key] != value:
            self.study.set_user_attr(key, value)

    def errors(self) -> Errors | None:
        """The layer sensitivities that were kept; None where the search had none."""
        rows = self.study.user_attrs.get("errors")
        if rows is None:
            return None
        return {(g, o): error for g, o, error in _ERRORS.validate_python(rows)}

    def step_table(self) -> StepTable | None:
        """What each group does in which part of a run; None where it was not measured."""
        kept = self.study.user_attrs.get(STEPS)
        return None if kept is None else StepTable.from_json(kept)

    def estimated(self, trials: Sequence[ScoredTrial]) -> tuple[ScoredTrial, ...]:
        """The trials with the typical and mean damage that all of them say each has."""
        if not trials:
            return ()
        proposer = self._proposer(self.errors())
        estimates = estimate_all(proposer, _all_observed(trials), [t.score.logs for t in trials])
        curve = SummaryRules.of([t.score for t in trials], another_seed=None).damage_curve
        return tuple(
            replace(trial, estimate=float(value), expected_mean=curve.mean(float(value)))
            for trial, value in zip(trials, estimates, strict=True)
        )

    def damages(self, trials: Sequence[ScoredTrial]) -> dict[tuple[int, int], float]:
        """{(group, option): the damage that it is believed to do}; {} if too little is known."""
        errors = self.errors()
        if errors is None and len(trials) < FEWEST:
            return {}
        proposer = self._proposer(errors)
        found = proposer.believe(_all_observed(trials)).damages
        return dict(zip(proposer.items, map(float, found), strict=True))

    def _proposer(self, errors: Errors | None) -> KnapsackProposer:
        left = self.candidates.without(broken_options(errors or {}))
        return KnapsackProposer(left, seed=0, errors=errors, steps=self.step_table())


def read_fact(text: object) -> Any:
    """A fact of a study as `StudyLog.keep` kept it, from its column; None where there is none, or
    where it cannot be read.
    """
    try:
        return None if text is None else json.loads(str(text))
    except (ValueError, RecursionError):
        return None


class _KnownError(Exception):
    """The study has the choice already."""


def gist(reason: str) -> str:
    """A reason without its numbers: two that differ only in bytes or addresses are alike."""
    return re.sub(r"0x[0-9a-fA-F]+|\d[\d.]*", "#", reason)


def all_alike(gists: Sequence[str]) -> bool:
    """Whether the last `SAME_FAILURES` failures have one reason."""
    return len(gists) >= SAME_FAILURES and len(set(gists[-SAME_FAILURES:])) == 1


def _observed(tried: Tried, state: State) -> Observation:
    """What a proposer knows of a trial."""
    if isinstance(tried, StoppedTrial):
        stop = tried.stop
        return Observation(
            choice=tried.choice, typical=stop.estimate, share=stop.share, state=state
        )
    return Observation(
        choice=tried.choice, typical=tried.score.cost, latent=tried.latent, state=state
    )


def _all_observed(trials: Iterable[ScoredTrial]) -> list[Observation]:
    return [Observation(choice=t.choice, typical=t.score.typical, latent=t.latent) for t in trials]
