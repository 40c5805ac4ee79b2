"""What is remembered of trials is what is in the database, and is read from there once."""

from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from sensitivity.search.remembered_trials import RememberedTrials


def test_what_is_remembered_is_what_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After any writes the trials are those that another process would read, finished ones and the
    running one; the database is asked for them once.
    """
    asked: list[int] = []
    read = RDBStorage._get_trials
    monkeypatch.setattr(
        RDBStorage,
        "_get_trials",
        lambda self, *args, **more: asked.append(1) or read(self, *args, **more),
    )
    url = f"sqlite:///{tmp_path / 'a.db'}"
    storage = RememberedTrials(RDBStorage(url))
    study = optuna.create_study(storage=storage, study_name="a", directions=["minimize"] * 2)
    for values in ([1.0, 2.0], None):
        trial = study.ask({"x": CategoricalDistribution((0, 1))})
        trial.set_user_attr("choice", (1, 0))
        before = study.get_trials(deepcopy=False)[-1]
        trial.set_user_attr("why", None)
        assert "why" not in before.user_attrs, "who has a trial keeps it as it was"
        if values is None:
            study.tell(trial, state=TrialState.FAIL)
        else:
            study.tell(trial, values)
    running = study.ask()
    running.set_user_attr("choice", [3])
    assert len(asked) == 1
    other = optuna.load_study(study_name="a", storage=RDBStorage(url))
    assert study.get_trials() == other.get_trials()
    assert [t.state.name for t in study.get_trials()] == ["COMPLETE", "FAIL", "RUNNING"]
    assert study.trials[0].user_attrs["choice"] == [1, 0]
    own = storage.get_trial(running._trial_id)
    own.user_attrs["choice"] = "mine"
    assert storage.get_trial(running._trial_id).user_attrs == {"choice": [3]}
