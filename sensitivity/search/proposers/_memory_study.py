"""What does an Optuna sampler see of a search? `MemoryStudy`: the history as a study in memory.

    study = MemoryStudy(candidates)
    study.follow(history, pending)
    study.ask(sampler)                      # Proposal(choice=(0, 1, ...), state={...})

A trial has a parameter for each group, with the group's name and the number of an option as its
value. Where step policies are searched, `STEP_POLICY` is one more, with the place of a policy.
Trial i of the study is trial i of the history, and pending ones, which run, come after them.
Nothing of a question stays, so answers depend on what was followed last and on the sampler alone.

What a sampler sets as system attributes while it is asked is the proposal's state: of its trial
under their own names, of the study under `OF_STUDY`. NSGA-II notes there the generation of a trial,
and the parents of a generation. `ASKED` has the options that the sampler gave where a group does
not take one of them.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.samplers import BaseSampler
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from sensitivity.search.candidates import Candidates, Choice
from sensitivity.search.proposers._base import Observation, Proposal, State

ASKED, OF_STUDY = "sensitivity:asked", "sensitivity:study"
STEP_POLICY = "step_policy"
_SOME_TIME = datetime(2000, 1, 1)
"""Of every trial: no sampler may depend on when it ran."""


class MemoryStudy:
    """See the module.

    Args:
        candidates: groups, formats and seconds.
    """

    def __init__(self, candidates: Candidates) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.candidates = candidates
        self._storage = _Storage()
        self._id = self._storage.create_new_study([StudyDirection.MINIMIZE] * 2, "memory")
        self._followed: list[Observation] = []
        self._pending, self._of_study = 0, dict[str, Any]()
        options = CategoricalDistribution(range(len(candidates.formats)))
        self._distributions = {group.name: options for group in candidates.groups}
        if candidates.chooses_policy:
            places = range(len(candidates.policies))
            self._distributions[STEP_POLICY] = CategoricalDistribution(places)

    def follow(self, history: Sequence[Observation], pending: Sequence[Proposal] = ()) -> None:
        """Have the trials of a history and the pending ones, and no others."""
        same = 0
        for old, new in zip(self._followed, history, strict=False):
            if old is not new and old != new:
                break
            same += 1
        self._storage.cut(self._id, same)
        for obs in history[same:]:
            self._storage.append(self._id, self._finished(obs))
        for proposal in pending:
            trial = self._trial(TrialState.RUNNING, proposal.choice, proposal.state)
            self._storage.append(self._id, trial)
        self._followed, self._pending = list(history), len(pending)
        of_study: dict[str, Any] = {}
        for state in [*(obs.state for obs in history), *(other.state for other in pending)]:
            of_study = {**state.get(OF_STUDY, {}), **of_study}
        self._of_study = of_study
        self._storage.set_attributes(self._id, of_study)

    def ask(self, sampler: BaseSampler) -> Proposal:
        """What a sampler proposes."""
        study = optuna.load_study(study_name="memory", storage=self._storage, sampler=sampler)
        trial = study.ask()
        asked = tuple(
            trial.suggest_categorical(name, range(len(own.choices)))
            for name, own in self._distributions.items()
        )
        state: dict[str, Any] = dict(self._storage.get_trial(trial._trial_id).system_attrs)
        after = self._storage.get_study_system_attrs(self._id)
        added = {key: value for key, value in after.items() if key not in self._of_study}
        if added:
            state[OF_STUDY] = added
        choice = self.candidates.canonical(asked)
        if choice != asked:
            state[ASKED] = list(asked)
        self._storage.cut(self._id, len(self._followed) + self._pending)
        return Proposal(choice=choice, state=state)

    def _finished(self, obs: Observation) -> FrozenTrial:
        """A trial with a score is complete; one that was stopped is pruned, without values."""
        if obs.share < 1:
            return self._trial(TrialState.PRUNED, obs.choice, obs.state)
        values = [self.candidates.latency_s(obs.choice), obs.typical]
        return self._trial(TrialState.COMPLETE, obs.choice, obs.state, values)

    def _trial(
        self,
        state: TrialState,
        choice: Choice,
        noted: State,
        values: Sequence[float] | None = None,
    ) -> FrozenTrial:
        options: Sequence[int] = noted.get(ASKED, choice)
        own: Mapping[str, Any] = {
            key: value for key, value in noted.items() if key not in (ASKED, OF_STUDY)
        }
        return FrozenTrial(
            number=-1,
            trial_id=-1,
            state=state,
            value=None,
            values=values,
            datetime_start=_SOME_TIME,
            datetime_complete=_SOME_TIME if state.is_finished() else None,
            params=dict(zip(self._distributions, options, strict=True)),
            distributions=dict(self._distributions),
            user_attrs={},
            system_attrs=dict(own),
            intermediate_values={},
        )


class _Storage(InMemoryStorage):
    """Optuna's storage in memory, from whose end trials can be taken. The id of a trial is its
    number.
    """

    def append(self, study_id: int, trial: FrozenTrial) -> None:
        """Add a trial as it is; unlike `create_new_trial`, without a copy of it."""
        with self._lock:
            trials = self._studies[study_id].trials
            trial.number = trial._trial_id = len(trials)
            trials.append(trial)
            self._trial_id_to_study_id_and_number[trial._trial_id] = (study_id, trial.number)
            self._max_trial_id = trial._trial_id

    def cut(self, study_id: int, count: int) -> None:
        """Keep the first `count` trials."""
        with self._lock:
            trials = self._studies[study_id].trials
            for trial in trials[count:]:
                del self._trial_id_to_study_id_and_number[trial._trial_id]
            del trials[count:]
            self._max_trial_id = len(trials) - 1
            self._prev_waiting_trial_number[study_id] = 0

    def set_attributes(self, study_id: int, attributes: dict[str, Any]) -> None:
        """Have these system attributes of the study, and no others."""
        with self._lock:
            self._studies[study_id].system_attrs = dict(attributes)
