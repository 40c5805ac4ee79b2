"""A search prepares on a model's own run; a suspicion about its config files does not stop it."""

from pathlib import Path

import pytest

from sensitivity.errors import ConfigMismatchError
from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.spec.study_spec import StudySpec
from sensitivity.workflows import prepare as preparing
from sensitivity.workflows.requests import SearchRequest


def test_with_weights_a_run_judges_the_configs(
    evaluator: Evaluator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A suspicion about configs does not stop a search of a model that runs."""

    def suspect(_spec: StudySpec) -> None:
        raise ConfigMismatchError("suspicious")

    monkeypatch.setattr(preparing, "run_shapes", suspect)
    prepared = preparing.prepare(evaluator.spec, SearchRequest(cache_folder=tmp_path))
    assert prepared.table.linears == evaluator.profile().linears
