"""A search's Optuna study, read and written in our terms: which trials have a score, were stopped
or failed, and what all scores say together.

    log = StudyLog(study, candidates, events)
    log.history()                          # scored and stopped trials, in order

A scored trial is complete, a stopped one pruned, and one that failed, was interrupted or only
repeated another is failed, with the reason.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import optuna
from optuna.trial import FrozenTrial, TrialState

from sensitivity.fidelity.score import Score
from sensitivity.search.calibration.jobs import broken_options
from sensitivity.search.candidates import Candidates, Choice
from sensitivity.search.estimate import estimate_all
from sensitivity.search.proposers import KnapsackProposer
from sensitivity.search.stopping import Stop
from sensitivity.search.trials import ScoredTrial, SearchEvents, StoppedTrial, Tried

SAME_FAILURES = 3
TRIED = (TrialState.COMPLETE, TrialState.PRUNED)


@dataclass
class StudyLog:
    """The Optuna study, read and written in our terms."""

    study: optuna.Study
    candidates: Candidates
    events: SearchEvents
    failures: list[str] = field(default_factory=list)

    def history(self) -> list[Tried]:
        """Scored and stopped trials by index: place i has index i."""
        trials = [
            self._thaw(t)
            for t in self.study.get_trials(deepcopy=False, states=TRIED)
            if "index" in t.user_attrs
        ]
        return sorted(trials, key=lambda t: t.index)

    def _thaw(self, trial: FrozenTrial) -> Tried:
        kept = trial.user_attrs
        index, choice, seconds = kept["index"], tuple(json.loads(kept["choice"])), kept["seconds"]
        if trial.state is TrialState.PRUNED:
            return StoppedTrial(
                index=index,
                choice=choice,
                latency_s=self.candidates.latency_s(choice),
                stop=Stop(**kept["stopped"]),
                seconds=seconds,
            )
        return ScoredTrial(
            index=index,
            choice=choice,
            label=kept["label"],
            latency_s=trial.values[0],
            seconds=seconds,
            score=Score.from_json(json.loads(kept["score"])),
        )

    def failed_choices(self) -> set[Choice]:
        """Choices that failed for a reason of their own: not because the process ended, nor among
        those alike that ended a search.
        """
        failed: set[Choice] = set()
        row: list[
            tuple[str, Choice]
        ] = []  # failures since the last trial that finished or was stopped
        for trial in self.study.get_trials(deepcopy=False, states=(*TRIED, TrialState.FAIL)):
            reason = trial.user_attrs.get("reason")
            if trial.state in TRIED:
                row.clear()
            elif "choice" in trial.user_attrs and reason != "interrupted":
                row.append((gist(reason or ""), tuple(json.loads(trial.user_attrs["choice"]))))
                failed.add(row[-1][1])
                if all_alike([gist for gist, _ in row]):
                    failed -= {choice for _, choice in row[-SAME_FAILURES:]}
                    row.clear()
        return failed

    def count_failed(self) -> int:
        """Trials that were tried and failed: neither interrupted ones nor proposals that were only
        repeated.
        """
        trials = self.study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
        return sum(
            "choice" in t.user_attrs and t.user_attrs.get("reason") != "interrupted" for t in trials
        )

    def reap(self) -> None:
        """Trials of a process that died are failed, as "interrupted"; the lock file says that no
        other process runs.
        """
        for trial in self.study.get_trials(
            deepcopy=False, states=(TrialState.RUNNING, TrialState.WAITING)
        ):
            self.study._storage.set_trial_user_attr(trial._trial_id, "reason", "interrupted")
            self.study._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)

    def complete(self, trial: optuna.Trial, scored: ScoredTrial) -> None:
        data = scored.score.to_json()
        for key, value in {
            "index": scored.index,
            "label": scored.label,
            "seconds": scored.seconds,
            "score": json.dumps(data),
        }.items():
            trial.set_user_attr(key, value)
        self.study.tell(trial, [scored.latency_s, scored.score.cost])

    def stop(self, trial: optuna.Trial, stopped: StoppedTrial) -> None:
        """Pruned, without values:

        Optuna's samplers take such a trial for worse than all that finished.
        """
        kept = {
            "index": stopped.index,
            "label": stopped.label,
            "seconds": stopped.seconds,
            "stopped": stopped.stop.to_json(),
        }
        for key, value in kept.items():
            trial.set_user_attr(key, value)
        self.study.tell(trial, state=TrialState.PRUNED)

    def keep_errors(self, errors: Mapping[tuple[int, int], float] | None) -> None:
        """Layer sensitivities are kept with the study, so that its trials can be judged again
        without the model.
        """
        self.study.set_user_attr(
            "errors",
            None if errors is None else [[g, o, error] for (g, o), error in errors.items()],
        )

    def estimated(self, trials: Sequence[ScoredTrial]) -> tuple[ScoredTrial, ...]:
        """The trials with what they all together say about each."""
        if not trials:
            return ()
        kept = self.study.user_attrs.get("errors")
        errors = None if kept is None else {(g, o): error for g, o, error in kept}
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

    def fail(self, trial: optuna.Trial, reason: str) -> None:
        trial.set_user_attr("reason", reason)
        self.study.tell(trial, state=TrialState.FAIL)


def gist(reason: str) -> str:
    """A reason without its numbers: two that differ only in bytes or addresses are alike."""
    return re.sub(r"\d[\d.]*", "#", reason)


def all_alike(gists: list[str]) -> bool:
    """Whether the last `SAME_FAILURES` failures have one reason."""
    return len(gists) >= SAME_FAILURES and len(set(gists[-SAME_FAILURES:])) == 1
