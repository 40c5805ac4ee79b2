"""A search prepares on a model's own run; a suspicion about its config files does not stop it. What
can be searched is told before the model is loaded.
"""

from pathlib import Path

import pytest

from sensitivity.errors import ConfigMismatchError
from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.latency import LatencyModel
from sensitivity.search.candidates import Candidates
from sensitivity.spec.loading import load_spec
from sensitivity.spec.study_spec import StudySpec
from sensitivity.workflows import prepare as preparing
from sensitivity.workflows.prepare import CheckedStudy, Prepared, prepare
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


class ToldError(Exception):
    """Ends a preparation when it has told what can be searched."""


def test_what_can_be_searched_is_told_before_the_model_is_loaded(
    prepared: Prepared, tiny_study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`grouped` gets the candidates and what prices them while no weight is read yet."""
    seen: list[Candidates] = []

    def grouped(candidates: Candidates, latency: LatencyModel) -> None:
        assert (latency.source, latency.target) == ("predicted", "b200")
        seen.append(candidates)
        raise ToldError

    monkeypatch.setattr(CheckedStudy, "load", lambda *_, **__: pytest.fail("it is loaded"))
    with pytest.raises(ToldError):
        prepare(load_spec(tiny_study), SearchRequest(), grouped=grouped)
    assert seen == [prepared.candidates]
