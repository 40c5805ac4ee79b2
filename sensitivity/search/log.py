"""How is a search kept? As an Optuna study, opened, read and written in our terms: `StudyLog`.

Optuna's tables lie in the study's database, beside ours. A scored trial is complete and a stopped
one pruned. A trial that failed, was interrupted or only repeated another is failed, with the
reason. What else there is to know of a trial are its user attributes, as JSON.

    log = open_log(store, name, candidates, settings)
    log.history()                          # scored and stopped trials, in order

Before a study is used it is compared with its checksums (`search.seals`), and each trial is read
through its record. A study that is not what was written is set aside under another name, and its
search begins anew with the scores that are kept (`open_log`); who only reads it gets an error
(`read_log`).
"""

import json
import logging
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from pydantic import BaseModel, ConfigDict, Json, TypeAdapter, ValidationError

from sensitivity.core.words import first_line, printable
from sensitivity.errors import DamageError, FormatError, SensitivityError, StoreError
from sensitivity.fidelity.score import Score
from sensitivity.fidelity.summary import SummaryRules
from sensitivity.search.calibration.jobs import Errors, broken_options
from sensitivity.search.candidates import Candidates, Choice
from sensitivity.search.estimate import FEWEST, estimate_all
from sensitivity.search.optuna_storage import open_storage
from sensitivity.search.proposers import KnapsackProposer, Observation
from sensitivity.search.remembered_trials import RememberedTrials
from sensitivity.search.seals import (
    CONTINUES,
    OURS,
    PRICES,
    StudyEntry,
    keep_orphans,
    list_studies,
    set_aside,
    study_fault,
)
from sensitivity.search.stopping import Stop
from sensitivity.search.store import Store
from sensitivity.search.trials import ScoredTrial, StoppedTrial, Tried, proposals

SAME_FAILURES = 3
"""Failures in a row with one reason that end a search."""
INTERRUPTED = "interrupted"
"""The reason of a trial that was cut by something else: its choice is tried again."""
TRIED = (TrialState.COMPLETE, TrialState.PRUNED)
_DIRECTIONS = [StudyDirection.MINIMIZE, StudyDirection.MINIMIZE]
_MADE_AGAIN = "run the same search again, which makes it again from the scores that are kept"
_notes = logging.getLogger(__name__)
_CHOICE = TypeAdapter(Json[tuple[int, ...]])
_ERRORS = TypeAdapter(list[tuple[int, int, float]])


class _Kept(BaseModel):
    """The user attributes of a scored or stopped trial; others are ignored."""

    model_config = ConfigDict(frozen=True)

    index: int
    choice: Json[tuple[int, ...]]
    seconds: float
    label: str = ""
    score: Json[dict[str, Any]] | None = None
    stopped: Stop | None = None


@dataclass(frozen=True)
class StudyLog:
    """The Optuna study of one search.

    Attributes:
        study: Optuna's.
        candidates: what the choices of its trials mean.
    """

    study: optuna.Study
    candidates: Candidates

    def history(self) -> list[Tried]:
        """Scored and stopped trials by index: place i has index i.

        Raises DamageError where a trial cannot be read, is missing or is there twice.
        """
        trials = [
            self._read(t)
            for t in self.study.get_trials(deepcopy=False, states=TRIED)
            if "index" in t.user_attrs
        ]
        trials.sort(key=lambda t: t.index)
        trials = [
            trial if trial.label else replace(trial, number=len(proposals(trials[:place])) + 1)
            for place, trial in enumerate(trials)
        ]
        for place, trial in enumerate(trials):
            if trial.index != place:
                raise DamageError(
                    f"the study {self.study.study_name} has trial {trial.index} at place {place};"
                    f" expected each index from 0 once: {_MADE_AGAIN}"
                )
        return trials

    def _read(self, trial: FrozenTrial) -> Tried:
        try:
            kept = _Kept.model_validate(trial.user_attrs)
            latency_s = self.candidates.latency_s(kept.choice)
            common: dict[str, Any] = {
                "index": kept.index,
                "choice": kept.choice,
                "seconds": kept.seconds,
            }
            if kept.stopped is not None:
                return StoppedTrial(**common, latency_s=latency_s, stop=kept.stopped)
            score = Score.from_json(kept.score or {})
            _check_values(trial.values, latency_s, score)
        except ValidationError as error:
            raise self._unreadable(trial, first_fault(error)) from None
        except (StoreError, FormatError, ValueError) as error:
            raise self._unreadable(trial, first_line(error)) from None
        return ScoredTrial(**common, label=kept.label, latency_s=trial.values[0], score=score)

    def _unreadable(self, trial: FrozenTrial, why: str) -> DamageError:
        return DamageError(
            f"trial {trial.number} of the study {self.study.study_name} cannot be read"
            f" ({printable(why)}); expected what a search writes: {_MADE_AGAIN}, or name another"
            " `storage`"
        )

    def failed_choices(self) -> set[Choice]:
        """Choices that failed for a reason of their own.

        Not because the process ended, and not among the failures alike that ended a search.
        """
        failed: set[Choice] = set()
        row: list[tuple[str, Choice]] = []  # failures since the last scored or stopped trial
        for trial in self.study.get_trials(deepcopy=False, states=(*TRIED, TrialState.FAIL)):
            reason = trial.user_attrs.get("reason")
            if trial.state in TRIED:
                row.clear()
            elif "choice" in trial.user_attrs and reason != INTERRUPTED:
                choice = _CHOICE.validate_python(trial.user_attrs["choice"])
                row.append((gist(reason or ""), choice))
                failed.add(choice)
                if all_alike([gist for gist, _ in row]):
                    failed -= {choice for _, choice in row[-SAME_FAILURES:]}
                    row.clear()
        return failed

    def failures(self) -> list[tuple[Choice, str]]:
        """(choice, reason) of each trial that failed, in order; interrupted ones and proposals that
        only repeated are left out.
        """
        trials = self.study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
        return [
            (_CHOICE.validate_python(t.user_attrs["choice"]), str(t.user_attrs.get("reason", "")))
            for t in trials
            if "choice" in t.user_attrs and t.user_attrs.get("reason") != INTERRUPTED
        ]

    def fail_running(self) -> None:
        """Mark the trials of a process that died as failed, `INTERRUPTED`.

        No other process runs them: one process has the database (`search.held_file`).
        """
        for trial in self.study.get_trials(
            deepcopy=False, states=(TrialState.RUNNING, TrialState.WAITING)
        ):
            self.study._storage.set_trial_user_attr(trial._trial_id, "reason", INTERRUPTED)
            self.study._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)

    def begin(self, trial: optuna.Trial, choice: Choice) -> None:
        """Keep what the trial is about to score."""
        trial.set_user_attr("choice", json.dumps(choice))

    def complete(self, trial: optuna.Trial, scored: ScoredTrial) -> None:
        """Keep a trial with its score."""
        attributes = {
            "index": scored.index,
            "label": scored.label,
            "seconds": scored.seconds,
            "score": json.dumps(scored.score.to_json()),
        }
        for key, value in attributes.items():
            trial.set_user_attr(key, value)
        self.study.tell(trial, [scored.latency_s, scored.score.cost])

    def stop(self, trial: optuna.Trial, stopped: StoppedTrial) -> None:
        """Keep a stopped trial: pruned, without values.

        Optuna's samplers rank such a trial below all that finished.
        """
        attributes = {
            "index": stopped.index,
            "label": stopped.label,
            "seconds": stopped.seconds,
            "stopped": stopped.stop.to_json(),
        }
        for key, value in attributes.items():
            trial.set_user_attr(key, value)
        self.study.tell(trial, state=TrialState.PRUNED)

    def fail(self, trial: optuna.Trial, reason: str) -> None:
        """Keep a trial as failed, with the reason."""
        trial.set_user_attr("reason", reason)
        self.study.tell(trial, state=TrialState.FAIL)

    def keep_continued(self, earlier: str) -> None:
        """Keep the name of the earlier version's study that this one continues."""
        self.study.set_user_attr(CONTINUES, earlier)

    def keep_errors(self, errors: Errors | None) -> None:
        """Keep the layer sensitivities, so that `estimated` needs no model later."""
        rows = None if errors is None else [[g, o, error] for (g, o), error in errors.items()]
        attributes = self.study.user_attrs
        if "errors" not in attributes or attributes["errors"] != rows:
            self.study.set_user_attr("errors", rows)

    def errors(self) -> Errors | None:
        """The layer sensitivities that were kept; None where the search had none."""
        rows = self.study.user_attrs.get("errors")
        if rows is None:
            return None
        return {(g, o): error for g, o, error in _ERRORS.validate_python(rows)}

    def estimated(self, trials: Sequence[ScoredTrial]) -> tuple[ScoredTrial, ...]:
        """The trials with the typical and mean damage that all of them say each has."""
        if not trials:
            return ()
        proposer = self._proposer(self.errors())
        estimates = estimate_all(proposer, _observed(trials), [t.score.logs for t in trials])
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
        found = proposer.believe(_observed(trials)).damages
        return dict(zip(proposer.items, map(float, found), strict=True))

    def _proposer(self, errors: Errors | None) -> KnapsackProposer:
        left = self.candidates.without(broken_options(errors or {}))
        return KnapsackProposer(left, seed=0, errors=errors)


def open_log(
    store: Store, name: str, candidates: Candidates, settings: Mapping[str, Any]
) -> StudyLog:
    """The log of a study, which is made if it is not there; running trials are marked as failed.

    The model, the settings (`search.settings`) and the measured prices (`search.kept_prices`) are
    kept with the study, as `search.finished` reads them. A study that is not what was written is
    set aside, said, and made again.

    Raises:
        StoreError: the database holds an Optuna study that is not ours.
    """
    storage = open_storage(store)
    studies = _own_studies(store, name)
    with store.engine.begin() as connection:
        if keep_orphans(connection):
            _notes.warning("%s: rows of deleted studies or trials are kept aside", store.path)
    if name in studies:
        try:
            _check(store, storage, studies[name], candidates)
        except DamageError as error:
            with store.engine.begin() as connection:
                kept = set_aside(connection, studies[name])
            _notes.warning(
                "%s; it is kept as %s, and made again from the scores that are kept",
                str(error).partition("; expected")[0],
                kept,
            )
    study = optuna.create_study(
        storage=storage, study_name=name, directions=["minimize", "minimize"], load_if_exists=True
    )
    if OURS not in study.user_attrs:
        study.set_user_attr(OURS, 1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names(["latency_s", "typical_lpips"])
    log = StudyLog(study, candidates)
    log.fail_running()
    study.set_user_attr("settings", dict(settings))
    if candidates.prices is not None and PRICES not in study.user_attrs:
        study.set_user_attr(PRICES, candidates.prices.to_json())
    return log


def read_log(store: Store, name: str, candidates: Candidates) -> StudyLog:
    """The log of a study that is in the database. Nothing is written.

    Raises DamageError where it is not what was written.
    """
    storage = open_storage(store)
    with store.engine.connect() as connection:
        found = {study.name: study for study in list_studies(connection)}
    if name not in found:
        raise StoreError(f"{store.path} holds no study {name}; expected one: run its search first")
    return _check(store, storage, found[name], candidates)


def study_names(store: Store) -> list[str]:
    """The names of the studies in a database, without those that were set aside."""
    with store.engine.connect() as connection:
        return [study.name for study in list_studies(connection) if not study.is_set_aside]


def _own_studies(store: Store, name: str) -> dict[str, StudyEntry]:
    """{name: study} of a database. Raises StoreError where one is neither ours nor `name`."""
    with store.engine.connect() as connection:
        studies = list_studies(connection)
    for study in studies:
        if not study.is_ours and not study.is_set_aside and study.name != name:
            raise StoreError(
                f"{store.path} holds the Optuna study {study.name!r}, which sensitivity did not"
                " make; expected a database of its own: name another `storage`"
            )
    return {study.name: study for study in studies}


def _check(
    store: Store, storage: RememberedTrials, study: StudyEntry, candidates: Candidates
) -> StudyLog:
    """The log of a study that is what was written, all of which can be read.

    Raises DamageError, which names what is not.
    """
    why: str | None = None
    if store.has_checksums:
        with store.engine.connect() as connection:
            why = study_fault(connection, study.study_id)
    try:
        if why is None:
            log = StudyLog(optuna.load_study(study_name=study.name, storage=storage), candidates)
            if log.study.directions != _DIRECTIONS:
                raise ValueError("its objectives are not both minimized")
            log.history(), log.failed_choices(), log.errors()
            return log
    except SensitivityError:
        raise
    except Exception as error:  # whatever Optuna makes of what is in its tables
        why = f"it cannot be read: {printable(first_line(error))}"
    raise DamageError(
        f"the study {study.name} in {store.path} is damaged: {why}; expected what a search wrote:"
        f" {_MADE_AGAIN}"
    )


def _check_values(values: Sequence[float] | None, latency_s: float, score: Score) -> None:
    """Raise ValueError where the values that Optuna has are not those of choice and score. Earlier
    versions kept the mean damage.
    """
    if not all(math.isfinite(number) for number in (score.mean, *score.per_prompt)):
        raise ValueError("its score is NaN or inf")
    expected, earlier = [latency_s, score.cost], [latency_s, score.damage * score.penalty]
    if values is None or not any(
        len(values) == 2 and all(map(_alike, values, known)) for known in (expected, earlier)
    ):
        raise ValueError(f"its values are {values}, those of its choice and score {expected}")


def _alike(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-12)


def first_fault(error: ValidationError) -> str:
    """The first field of a record that pydantic refused, and why."""
    first = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


def gist(reason: str) -> str:
    """A reason without its numbers: two that differ only in bytes or addresses are alike."""
    return re.sub(r"0x[0-9a-fA-F]+|\d[\d.]*", "#", reason)


def all_alike(gists: list[str]) -> bool:
    """Whether the last `SAME_FAILURES` failures have one reason."""
    return len(gists) >= SAME_FAILURES and len(set(gists[-SAME_FAILURES:])) == 1


def _observed(trials: Sequence[ScoredTrial]) -> list[Observation]:
    return [Observation(choice=t.choice, typical=t.score.typical, latent=t.latent) for t in trials]
