"""A search brings its study to a budget of proposals, and continues an earlier version's."""

from functools import partial
from pathlib import Path

import pytest

from sensitivity.fidelity.score import Score
from sensitivity.search import loop
from sensitivity.search.finished import Wanted, list_optuna_studies
from sensitivity.search.settings import EARLIER, study_name
from sensitivity.search.store import Store

from support.fake_search import BASELINES, MODEL, FakeEvaluator, search, settings


def test_the_budget_counts_proposals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Baselines come first and on top; a larger budget adds the difference, an equal one none."""
    path, evaluator = tmp_path / "study.db", FakeEvaluator()
    small = search(path, evaluator, settings(budget=2), monkeypatch)
    assert [label for _, _, label, *_ in small[0]] == [
        "none",
        "all nvfp4",
        "rule of thumb",
        "",
        "",
    ]
    large = search(path, evaluator, settings(budget=4), monkeypatch)
    assert [t[:5] for t in large[0][: BASELINES + 2]] == [t[:5] for t in small[0]]
    assert search(path, evaluator, settings(budget=4), monkeypatch) == large
    assert evaluator.scored["search"] == len(large[0]) == BASELINES + 4


def test_a_study_of_the_version_before_is_continued_with_its_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its proposals, which were ranked by the mean, are the first trials of a new study in their
    order, and no score is computed again. Of the two studies the new one is meant where none is
    named.
    """
    path = tmp_path / "study.db"
    with monkeypatch.context() as earlier:
        earlier.setattr(loop, "study_name", partial(study_name, proposals=EARLIER))
        earlier.setattr(Score, "cost", property(lambda score: score.damage))
        old = search(path, FakeEvaluator(), settings(budget=3), earlier)
    evaluator = FakeEvaluator()
    new = search(path, evaluator, settings(budget=4), monkeypatch)
    assert [t[:5] for t in new[0][:-1]] == [t[:5] for t in old[0]]
    assert evaluator.scored["search"] == 1
    with Store.open(path) as store:
        before, after = list_optuna_studies(store, MODEL)
    assert (before.is_continued, after.is_continued) == (True, False)
    assert [study.is_wanted(Wanted()) for study in (before, after)] == [False, True]
    assert before.is_wanted(Wanted(name=before.name))
