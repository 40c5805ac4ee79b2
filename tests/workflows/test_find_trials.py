"""Trials that fail, repeat or were made before, under every sampler. No picture is generated."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from sensitivity.errors import MeasurementError, StoreError, UserError
from sensitivity.search import trial_runner
from sensitivity.search.loop import run_search
from sensitivity.search.proposers import STOCK, SamplerName
from sensitivity.search.settings import SearchSettings
from sensitivity.search.store import Store
from sensitivity.search.trials import SearchEvents
from sensitivity.workflows.prepare import Prepared

from support.searches import NVFP4, Scorer, essence


@pytest.fixture(autouse=True)
def no_garbage_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed trial holds no memory here, and looking for some takes most of a second."""
    monkeypatch.setattr("sensitivity.fidelity.evaluator.release_memory", lambda *_, **__: None)


@pytest.mark.parametrize(
    "error",
    [MeasurementError("NaN pictures"), torch.OutOfMemoryError("CUDA out of memory")],
    ids=["measurement", "memory"],
)
@pytest.mark.parametrize("call", [2, 5], ids=["baseline", "proposal"])
def test_a_failing_trial_is_recorded_and_the_search_goes_on(
    quick: Any, tmp_path: Path, error: Exception, call: int
) -> None:
    """One failing trial, be it a baseline or a proposal, is kept with its reason, is not tried
    again, and the budget is still reached.
    """
    failed: list[tuple[int, str]] = []
    scorer = Scorer(lambda at: error if at == call else None)
    events = SearchEvents(failed=lambda index, reason: failed.append((index, reason)))
    result = quick(scorer, budget=7, events=events)
    assert len(result.trials) == 7
    assert [t.index for t in result.trials] == list(range(7))
    assert result.failed == 1
    assert failed == [(call - 1, f"{type(error).__name__}: {error}")]
    assert len(scorer.asked) == len(set(scorer.asked)) == 8
    with closing(sqlite3.connect(tmp_path / "quick.db")) as connection:
        reasons = [
            json.loads(row[0])
            for row in connection.execute(
                "SELECT value_json FROM trial_user_attributes WHERE key = 'reason'"
            )
        ]
    assert reasons == [failed[0][1]]


def test_three_alike_failures_in_a_row_stop_with_the_reason(quick: Any) -> None:
    """Three failures that differ only in numbers end the search with the reason and a next step;
    once it is mended, the same trials are run.
    """
    scorer = Scorer(
        lambda at: (
            torch.OutOfMemoryError(f"tried to allocate {at}.5 GiB") if at in (3, 4, 5) else None
        )
    )
    with pytest.raises(
        MeasurementError, match=r"3 trials in a row failed alike .*tried to allocate.*run again"
    ):
        quick(scorer, budget=9)
    assert len(scorer.asked) == 5
    mended = Scorer()
    result = quick(mended, budget=9)
    assert result.trials[2].label == "rule of thumb"
    assert len(result.trials) == 9


def test_unlike_failures_do_not_stop_the_search(quick: Any) -> None:
    """Three failures in a row with different reasons are three failed trials, and the search goes
    on.
    """
    words = {4: "one", 5: "two", 6: "three"}
    result = quick(
        Scorer(lambda at: MeasurementError(words[at]) if at in words else None), budget=6
    )
    assert (len(result.trials), result.failed) == (6, 3)


@pytest.mark.parametrize("sampler", [SamplerName("knapsack"), *map(SamplerName, STOCK)])
def test_no_skip_list_is_scored_twice(
    quick: Any, sampler: SamplerName, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On three groups, every sampler scores each of the eight choices at most once, and ends
    cleanly when no new one is found.
    """
    monkeypatch.setattr(trial_runner, "MAX_REPEATS", 25)  # each repeat is written to the database
    scorer = Scorer()
    result = quick(scorer, budget=50, groups=3, sampler=sampler)
    assert len(scorer.asked) == len(set(scorer.asked)) == len(result.trials)
    assert len(result.trials) == 8
    assert result.failed == 0
    assert not result.interrupted


@pytest.mark.parametrize("sampler", [SamplerName("knapsack"), *map(SamplerName, STOCK)])
def test_every_sampler_continues_as_if_never_interrupted(
    quick: Any, tmp_path: Path, sampler: SamplerName
) -> None:
    """A search in four pieces, one of them cut by Ctrl-C, gives the trials of a search in one
    piece.
    """
    few: dict[str, Any] = {"groups": 6, "sampler": sampler}
    first = quick(Scorer(), budget=9, **few)
    (tmp_path / "quick.db").unlink()
    quick(Scorer(), budget=4, **few)

    def interrupt(_index: int, _label: str) -> None:
        raise KeyboardInterrupt

    assert quick(Scorer(), budget=9, events=SearchEvents(began=interrupt), **few).interrupted
    quick(Scorer(), budget=6, **few)
    assert essence(quick(Scorer(), budget=9, **few).trials) == essence(first.trials)


def test_a_finished_study_scores_nothing(quick: Any) -> None:
    """The same budget again scores nothing and gives the same trials."""
    first, again = Scorer(), Scorer()
    trials = quick(first, budget=5).trials
    assert quick(again, budget=5).trials == trials
    assert again.asked == []


def test_another_seed_is_another_study_that_reads_known_scores(
    prepared: Prepared, quick: Any, tmp_path: Path
) -> None:
    """Two seeds in one database keep their trials apart, the second says so and scores no skip-list
    that the first scored.
    """
    first = quick(Scorer(), budget=5)
    scorer = Scorer()
    prepared.evaluator.score = scorer  # type: ignore[method-assign]
    settings = SearchSettings(formats=NVFP4, target="b200", budget=5, seed=1, calibrated=False)
    started: list[tuple[str, tuple[str, ...]]] = []
    events = SearchEvents(started=lambda name, others: started.append((name, others)))
    with Store.open(tmp_path / "quick.db") as store:
        second = run_search(prepared.evaluator, prepared.candidates, store, settings, events)
    assert started == [(second.study, (first.study,))]
    assert second.study != first.study
    assert len(second.trials) == 5
    assert len(scorer.asked) <= 2


def test_a_budget_below_one_is_refused(quick: Any) -> None:
    """Budget 0 names the value, what was expected and a usual one."""
    with pytest.raises(UserError, match="`budget` is 0; expected 1 or more"):
        quick(Scorer(), budget=0)


def test_another_search_on_the_same_database_is_refused(quick: Any, tmp_path: Path) -> None:
    """While a search holds a database, a second one is told to wait or to take another."""
    with (
        Store.open(tmp_path / "quick.db"),
        pytest.raises(StoreError, match="in use by another search"),
    ):
        quick(Scorer(), budget=1)
