"""How is a search kept? As an Optuna study, opened, read and written in our terms: `StudyLog`.

Optuna's tables lie in the study's database, beside ours. A scored trial is complete and a stopped
one pruned. A trial that failed, was interrupted or only repeated another is failed, with the
reason. What else there is to know of a trial are its user attributes, as JSON.

    log = open_log(store, name, candidates, settings)
    log.history()                          # scored and stopped trials, in order
"""

import json
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import optuna
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from pydantic import BaseModel, ConfigDict, Json, TypeAdapter, ValidationError

from sensitivity.core.words import first_line
from sensitivity.errors import StoreError
from sensitivity.fidelity.score import Score
from sensitivity.search.calibration.jobs import Errors, broken_options
from sensitivity.search.candidates import Candidates, Choice
from sensitivity.search.estimate import estimate_all
from sensitivity.search.proposers import KnapsackProposer
from sensitivity.search.stopping import Stop
from sensitivity.search.store import Store
from sensitivity.search.trials import ScoredTrial, StoppedTrial, Tried

OURS = "sensitivity"
"""User attribute of the Optuna studies that a search made."""
SAME_FAILURES = 3
"""Failures in a row with one reason that end a search."""
TRIED = (TrialState.COMPLETE, TrialState.PRUNED)
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

        Raises StoreError where a trial cannot be read.
        """
        trials = [
            self._read(t)
            for t in self.study.get_trials(deepcopy=False, states=TRIED)
            if "index" in t.user_attrs
        ]
        return sorted(trials, key=lambda t: t.index)

    def _read(self, trial: FrozenTrial) -> Tried:
        try:
            kept = _Kept.model_validate(trial.user_attrs)
        except ValidationError as error:
            raise StoreError(
                f"trial {trial.number} of the study {self.study.study_name} cannot be read"
                f" ({first_fault(error)}); expected what a search writes: remove the database, or"
                " name another `storage`"
            ) from None
        common: dict[str, Any] = {
            "index": kept.index,
            "choice": kept.choice,
            "seconds": kept.seconds,
        }
        if kept.stopped is not None:
            latency_s = self.candidates.latency_s(kept.choice)
            return StoppedTrial(**common, latency_s=latency_s, stop=kept.stopped)
        score = Score.from_json(kept.score or {})
        return ScoredTrial(**common, label=kept.label, latency_s=trial.values[0], score=score)

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
            elif "choice" in trial.user_attrs and reason != "interrupted":
                choice = _CHOICE.validate_python(trial.user_attrs["choice"])
                row.append((gist(reason or ""), choice))
                failed.add(choice)
                if all_alike([gist for gist, _ in row]):
                    failed -= {choice for _, choice in row[-SAME_FAILURES:]}
                    row.clear()
        return failed

    def count_failed(self) -> int:
        """Trials that failed; interrupted ones and proposals that only repeated are left out."""
        trials = self.study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
        return sum(
            "choice" in t.user_attrs and t.user_attrs.get("reason") != "interrupted" for t in trials
        )

    def fail_running(self) -> None:
        """Mark the trials of a process that died as failed, "interrupted".

        The lock file guarantees that no other process runs them.
        """
        for trial in self.study.get_trials(
            deepcopy=False, states=(TrialState.RUNNING, TrialState.WAITING)
        ):
            self.study._storage.set_trial_user_attr(trial._trial_id, "reason", "interrupted")
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

    def keep_errors(self, errors: Errors | None) -> None:
        """Keep the layer sensitivities, so that `estimated` needs no model later."""
        rows = None if errors is None else [[g, o, error] for (g, o), error in errors.items()]
        self.study.set_user_attr("errors", rows)

    def errors(self) -> Errors | None:
        """The layer sensitivities that were kept; None where the search had none."""
        rows = self.study.user_attrs.get("errors")
        if rows is None:
            return None
        return {(g, o): error for g, o, error in _ERRORS.validate_python(rows)}

    def estimated(self, trials: Sequence[ScoredTrial]) -> tuple[ScoredTrial, ...]:
        """The trials with the estimate that all of them together give for each."""
        if not trials:
            return ()
        errors = self.errors()
        proposer = KnapsackProposer(
            self.candidates.without(broken_options(errors or {})), seed=0, errors=errors
        )
        estimates = estimate_all(
            proposer, [t.choice for t in trials], [t.score.damages for t in trials]
        )
        return tuple(
            replace(trial, estimate=float(value))
            for trial, value in zip(trials, estimates, strict=True)
        )


def open_storage(store: Store) -> RDBStorage:
    """Optuna's side of the database.

    Raises StoreError where another version of Optuna wrote it.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        return RDBStorage(store.url, engine_kwargs={"connect_args": {"timeout": 30}})
    except RuntimeError as error:
        raise StoreError(
            f"{store.path} has the tables of another version of Optuna ({first_line(error)}); name"
            " another `storage`"
        ) from None


def open_log(
    store: Store, name: str, candidates: Candidates, settings: Mapping[str, Any]
) -> StudyLog:
    """The log of a study, which is made if it is not there; running trials are marked as failed.

    The model and the settings (`search.settings`) are kept with the study, as `search.finished`
    reads them.

    Raises:
        StoreError: the database holds an Optuna study that is not ours.
    """
    storage = open_storage(store)
    foreign = [
        s.study_name
        for s in optuna.get_all_study_summaries(storage)
        if OURS not in s.user_attrs and s.study_name != name
    ]
    if foreign:
        raise StoreError(
            f"{store.path} holds the Optuna study {foreign[0]!r}, which sensitivity did not make;"
            " expected a database of its own: name another `storage`"
        )
    study = optuna.create_study(
        storage=storage, study_name=name, directions=["minimize", "minimize"], load_if_exists=True
    )
    if OURS not in study.user_attrs:
        study.set_user_attr(OURS, 1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names(["latency_s", "lpips"])
    log = StudyLog(study, candidates)
    log.fail_running()
    study.set_user_attr("settings", dict(settings))
    return log


def first_fault(error: ValidationError) -> str:
    """The first field of a record that pydantic refused, and why."""
    first = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


def gist(reason: str) -> str:
    """A reason without its numbers: two that differ only in bytes or addresses are alike."""
    return re.sub(r"\d[\d.]*", "#", reason)


def all_alike(gists: list[str]) -> bool:
    """Whether the last `SAME_FAILURES` failures have one reason."""
    return len(gists) >= SAME_FAILURES and len(set(gists[-SAME_FAILURES:])) == 1
