"""Must Optuna read a trial again that this process wrote? `RememberedTrials`: no.

Each time that Optuna is asked for trials it asks the database for all that are not finished, and
for new ones, since other processes may have written them. A database of ours has one writer
(`search.held_file`), so a study is read once. What is written then goes into the database and into
memory. A trial whose state changes is read back.

    storage = RememberedTrials(sealed_storage)
    optuna.load_study(study_name=name, storage=storage)

What it does not do: notice what another process writes.
"""

import copy
import json
from collections.abc import Callable, Sequence
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.storages._cached_storage import _CachedStorage
from optuna.storages._rdb.storage import RDBStorage
from optuna.trial import FrozenTrial, TrialState


class RememberedTrials(_CachedStorage):
    """Optuna's cache in front of a database that nobody else writes."""

    def __init__(self, backend: RDBStorage) -> None:
        super().__init__(backend)
        self._were_read: set[int] = set()

    def _read_trials_from_remote_storage(self, study_id: int) -> None:
        """Once a study."""
        if study_id not in self._were_read:
            super()._read_trials_from_remote_storage(study_id)
            self._were_read.add(study_id)

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """As Optuna's; a trial that is not finished is a copy, which its owner may change."""
        with self._lock:
            trial = self._find(trial_id)
        if trial is None:
            return super().get_trial(trial_id)
        return trial if trial.state.is_finished() else copy.deepcopy(trial)

    def set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
    ) -> None:
        """As Optuna's."""
        super().set_trial_param(trial_id, param_name, param_value_internal, distribution)

        def change(trial: FrozenTrial) -> None:
            value = distribution.to_external_repr(param_value_internal)
            trial._params = trial._params | {param_name: value}
            trial._distributions = trial._distributions | {param_name: distribution}

        self._change(trial_id, change)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """As Optuna's."""
        super().set_trial_user_attr(trial_id, key, value)

        def change(trial: FrozenTrial) -> None:
            trial._user_attrs = trial._user_attrs | {key: json.loads(json.dumps(value))}

        self._change(trial_id, change)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """As Optuna's."""
        super().set_trial_system_attr(trial_id, key, value)

        def change(trial: FrozenTrial) -> None:
            trial._system_attrs = trial._system_attrs | {key: json.loads(json.dumps(value))}

        self._change(trial_id, change)

    def set_trial_intermediate_value(
        self, trial_id: int, step: int, intermediate_value: float
    ) -> None:
        """As Optuna's; the trial is read back."""
        super().set_trial_intermediate_value(trial_id, step, intermediate_value)
        self._read_back(trial_id)

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """As Optuna's; the trial is read back."""
        is_set: bool = super().set_trial_state_values(trial_id, state, values)
        self._read_back(trial_id)
        return is_set

    def _find(self, trial_id: int) -> FrozenTrial | None:
        """The trial as it is remembered."""
        place = self._trial_id_to_study_id_and_number.get(trial_id)
        return None if place is None else self._studies[place[0]].trials[place[1]]

    def _change(self, trial_id: int, change: Callable[[FrozenTrial], None]) -> None:
        """Remember a trial with a change; whoever has the earlier one keeps it as it was."""
        with self._lock:
            known = self._find(trial_id)
            if known is not None:
                changed = copy.copy(known)
                change(changed)
                study_id, number = self._trial_id_to_study_id_and_number[trial_id]
                self._studies[study_id].trials[number] = changed

    def _read_back(self, trial_id: int) -> None:
        """Remember a trial as it is in the database."""
        with self._lock:
            place = self._trial_id_to_study_id_and_number.get(trial_id)
            if place is not None:
                self._studies[place[0]].trials[place[1]] = self._backend.get_trial(trial_id)
