"""Trials that fail, repeat or were made before, under every sampler. No picture is generated."""

import json
import sqlite3
import weakref
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from sensitivity.errors import FormatError, MeasurementError, OutputError, StoreError, UserError
from sensitivity.fidelity.score import Score
from sensitivity.search.attempts import ATTEMPTS, DEATHS
from sensitivity.search.loop import run_search
from sensitivity.search.proposers import STOCK, SamplerName, optuna_proposer
from sensitivity.search.settings import SearchSettings
from sensitivity.search.store import Store
from sensitivity.search.trial_runner import MOST_FAILURES
from sensitivity.search.trials import SearchEvents
from sensitivity.search.work import SearchWork
from sensitivity.workflows.prepare import Prepared

from support.searches import BASELINES, NVFP4, Scorer, essence, states_of


@pytest.fixture(autouse=True)
def no_garbage_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed trial holds no memory here, and looking for some takes most of a second."""
    monkeypatch.setattr("sensitivity.fidelity.evaluator.release_memory", lambda *_, **__: None)


OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize(
    ("error", "tries", "call"),
    [
        (MeasurementError("NaN pictures"), 1, 2),
        (FormatError("refused"), 1, 5),
        (OUT_OF_MEMORY, ATTEMPTS, 5),
        (MemoryError(), ATTEMPTS, 1),
        (OSError(5, "Input/output error"), ATTEMPTS, 3),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_a_failing_trial_is_recorded_and_the_search_goes_on(
    quick: Any, tmp_path: Path, error: Exception, tries: int, call: int
) -> None:
    """A skip-list whose every run fails, be it a baseline or a proposal, is kept with its reason,
    is not proposed again, and the budget is still reached. What may pass is tried once more.
    """
    failed: list[tuple[str, str]] = []
    scorer = Scorer(lambda at: error if call <= at < call + tries else None)
    events = SearchEvents(failed=lambda name, reason: failed.append((name, reason)))
    result = quick(scorer, budget=3, events=events)
    name = {1: "none", 2: "all nvfp4", 3: "rule of thumb"}.get(call, f"trial {call - 3}")
    total = 6 if name.startswith("trial") else 5
    assert result.tried == 3
    assert [t.index for t in result.trials] == list(range(total))
    assert result.failures == (f"{type(error).__name__}: {str(error) or 'no message'}",)
    assert failed == [(name, result.failures[0])]
    assert len(scorer.asked) == total + tries
    assert len(set(scorer.asked)) == total + 1
    assert states_of(tmp_path / "quick.db").count("RUNNING") == 0
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
        lambda at: torch.OutOfMemoryError(f"tried to allocate {at}.5 GiB") if at > 2 else None
    )
    with pytest.raises(
        MeasurementError, match=r"3 trials in a row failed alike .*tried to allocate.*run again"
    ):
        quick(scorer, budget=6)
    assert len(scorer.asked) == 2 + 3 * ATTEMPTS
    mended = Scorer()
    result = quick(mended, budget=6)
    assert result.trials[2].label == "rule of thumb"
    assert len(result.trials) == 9


@pytest.mark.parametrize(
    ("error", "sampler"),
    [(OUT_OF_MEMORY, SamplerName("knapsack")), (RuntimeError("busy"), SamplerName("nsga2"))],
)
def test_a_passing_failure_changes_nothing(
    quick: Any, tmp_path: Path, error: Exception, sampler: SamplerName
) -> None:
    """A baseline and a proposal that fail once are tried once more, with a note, and the search
    equals one in which nothing failed.
    """
    few: dict[str, Any] = {"budget": 5, "groups": 6, "sampler": sampler}
    undisturbed = quick(Scorer(), **few)
    (tmp_path / "quick.db").unlink()
    noted: list[str] = []
    events = SearchEvents(noted=noted.append)
    result = quick(Scorer(lambda at: error if at in (2, 6) else None), events=events, **few)
    assert essence(result.trials) == essence(undisturbed.trials)
    assert result.failures == ()
    assert [text.partition(":")[0] for text in noted] == ["all nvfp4", "trial 3"]
    assert "tried once more" in noted[0]


def test_memory_is_given_back_before_the_second_run(quick: Any, prepared: Prepared) -> None:
    """What the failed run held is free when it is tried again: no traceback keeps its tensors."""
    held: list[weakref.ref[torch.Tensor]] = []
    states: list[bool] = []

    class Hungry(Scorer):
        def __call__(self, formats: Any, split: str, **more: Any) -> Score:
            if held:
                states.append(held[0]() is None)
            else:
                tensor = torch.zeros(3)
                held.append(weakref.ref(tensor))
                raise torch.OutOfMemoryError(f"no room beside {tensor.shape}")
            return super().__call__(formats, split, **more)

    quick(Hungry(), budget=1)
    assert states
    assert all(states)
    assert prepared.evaluator.switch.weights is not None


class Died(BaseException):
    """Stands for the end of the process: nothing handles it."""


def test_a_skip_list_that_ends_its_process_is_given_up(quick: Any, tmp_path: Path) -> None:
    """After `DEATHS` restarts the trial is a failure that says so, and the search goes on with
    others. A process that ends once less often changes nothing.
    """
    plain = Scorer()
    undisturbed = quick(plain, budget=2)
    victim, notes = plain.asked[3], list[str]()

    class Deadly(Scorer):
        def __call__(self, formats: Any, split: str, **more: Any) -> Score:
            score = super().__call__(formats, split, **more)
            if self.asked[-1] == victim:
                raise Died
            return score

    events = SearchEvents(noted=notes.append)
    (tmp_path / "quick.db").unlink()
    for _ in range(DEATHS - 1):
        with pytest.raises(Died):
            quick(Deadly(), budget=2)
    saved = (tmp_path / "quick.db").read_bytes()
    assert essence(quick(Scorer(), budget=2, events=events).trials) == essence(undisturbed.trials)
    assert notes == [
        f"trial 1: the last process ended in the middle of it; it is tried again, attempt {DEATHS}"
        f" of {DEATHS}"
    ]
    (tmp_path / "quick.db").write_bytes(saved)
    with pytest.raises(Died):
        quick(Deadly(), budget=2)
    result = quick(Deadly(), budget=2)
    assert result.failures == (
        f"it ended its process {DEATHS} times (killed, out of memory, or a crash)",
    )
    assert len(result.trials) == 5
    assert essence(result.trials[:3]) == essence(undisturbed.trials[:3])
    assert states_of(tmp_path / "quick.db") == ["COMPLETE"] * 3 + ["FAIL"] + ["COMPLETE"] * 2


@pytest.mark.parametrize(
    ("error", "raised", "match"),
    [
        (OSError(28, "No space left on device"), OutputError, "a disk with room: free some"),
        (OSError(30, "Read-only file system"), OutputError, "Read-only file system"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), OutputError, "room"),
        (StoreError("the database is gone"), StoreError, "is gone"),
        (KeyboardInterrupt(), None, ""),
        (SystemExit(143), SystemExit, "143"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_what_is_not_the_skip_lists_fault_is_not_counted(
    quick: Any, tmp_path: Path, error: BaseException, raised: Any, match: str
) -> None:
    """A full disk, a lost database, Ctrl-C and an exit end the search however often they come at
    the same trial, and it then goes on as if they had not.
    """
    undisturbed = quick(Scorer(), budget=1)
    (tmp_path / "quick.db").unlink()
    for _ in range(DEATHS + 1):
        scorer = Scorer(lambda at: error if at == 1 else None)
        if raised is None:
            assert quick(scorer, budget=1).interrupted
        else:
            with pytest.raises(raised, match=match):
                quick(scorer, budget=1)
        assert len(scorer.asked) == 1
    result = quick(Scorer(), budget=1)
    assert essence(result.trials) == essence(undisturbed.trials)
    assert result.failures == ()


@pytest.mark.parametrize("event", ["began", "scored"])
def test_an_error_of_a_listener_is_no_failure_of_the_trial(
    quick: Any, tmp_path: Path, event: str
) -> None:
    """A screen that is gone ends the search; the trial is scored or taken again."""
    undisturbed = quick(Scorer(), budget=3)
    (tmp_path / "quick.db").unlink()

    def gone(*_: Any) -> None:
        raise BrokenPipeError

    for _ in range(DEATHS + 1):
        with pytest.raises(BrokenPipeError):
            quick(
                Scorer(), budget=3 if event == "began" else 99, events=SearchEvents(**{event: gone})
            )
        if event == "scored":
            break
    result = quick(Scorer(), budget=3)
    assert (essence(result.trials), result.failures) == (essence(undisturbed.trials), ())


def test_endless_failures_of_all_kinds_stop_the_search(quick: Any) -> None:
    """Ten failures in a row end the search, though no two are alike."""
    scorer = Scorer(lambda at: MeasurementError("x" * at) if at > 1 else None)
    with pytest.raises(MeasurementError, match=r"10 trials in a row failed, .*run again"):
        quick(scorer, budget=9)
    assert len(scorer.asked) == 1 + MOST_FAILURES


def test_unlike_failures_do_not_stop_the_search(quick: Any) -> None:
    """Three failures in a row with different reasons are three failed trials, and the search goes
    on.
    """
    words = {4: "one", 5: "two", 6: "three"}
    result = quick(
        Scorer(lambda at: MeasurementError(words[at]) if at in words else None), budget=3
    )
    assert (len(result.trials), result.failed) == (6, 3)


@pytest.mark.parametrize("sampler", [SamplerName("knapsack"), *map(SamplerName, STOCK)])
def test_no_skip_list_is_scored_twice(
    quick: Any, sampler: SamplerName, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On two groups, every sampler scores each of the four choices once, and ends cleanly when no
    new one is found.
    """
    monkeypatch.setattr(optuna_proposer, "MAX_REPEATS", 15)
    scorer = Scorer()
    result = quick(scorer, budget=50, groups=2, sampler=sampler)
    assert len(scorer.asked) == len(set(scorer.asked)) == len(result.trials)
    assert len(result.trials) == 4
    assert result.failed == 0
    assert not result.interrupted


@pytest.mark.parametrize("sampler", [SamplerName("knapsack"), SamplerName("nsga2")])
def test_a_search_continues_as_if_never_interrupted(
    quick: Any, tmp_path: Path, sampler: SamplerName
) -> None:
    """A search in four pieces, one of them cut by Ctrl-C, gives the trials of a search in one
    piece.
    """
    few: dict[str, Any] = {"groups": 4, "sampler": sampler}
    first = quick(Scorer(), budget=7, **few)
    (tmp_path / "quick.db").unlink()
    quick(Scorer(), budget=4, **few)

    def interrupt(_index: int, _label: str) -> None:
        raise KeyboardInterrupt

    assert quick(Scorer(), budget=7, events=SearchEvents(began=interrupt), **few).interrupted
    quick(Scorer(), budget=5, **few)
    assert essence(quick(Scorer(), budget=7, **few).trials) == essence(first.trials)


def test_a_finished_study_scores_nothing(quick: Any) -> None:
    """The same budget again scores nothing and gives the same trials."""
    first, again = Scorer(), Scorer()
    trials = quick(first, budget=5).trials
    assert quick(again, budget=5).trials == trials
    assert again.asked == []


def test_the_work_is_counted_before_it_begins(prepared: Prepared, quick: Any) -> None:
    """Trials and baselines that are done, pictures of a trial, and the most that is verified; a
    search that is continued says what is left.
    """
    plans: list[SearchWork] = []
    for budget in (2, 5, 5):
        quick(Scorer(), budget=budget, events=SearchEvents(planned=plans.append))
    splits = prepared.evaluator.spec.prompts
    assert {work.prompts for work in plans} == {len(splits.search)}
    assert {work.held_out for work in plans} == {len(splits.held_out)}
    assert [(work.trials, work.trials_done, work.trials_left) for work in plans] == [
        (2, 0, 2),
        (5, 2, 3),
        (5, 5, 0),
    ]
    assert [work.baselines_done for work in plans] == [0, BASELINES, BASELINES]
    assert {work.baselines for work in plans} == {BASELINES}
    assert [work.lists for work in plans] == [2 + BASELINES - 1, *[5 + BASELINES - 1] * 2]
    assert plans[0].pictures_of_verification == plans[0].lists * len(splits.held_out)


def test_another_seed_is_another_study_that_reads_known_scores(
    prepared: Prepared, quick: Any, tmp_path: Path
) -> None:
    """Two seeds in one database keep their trials apart, the second says so and scores no skip-list
    that the first scored.
    """
    first = quick(Scorer(), budget=2)
    scorer = Scorer()
    prepared.evaluator.score = scorer  # type: ignore[method-assign]
    settings = SearchSettings(formats=NVFP4, target="b200", budget=2, seed=1, calibrated=False)
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
    with pytest.raises(
        UserError, match=r"`budget` is 0, which searches nothing: .* expected 1 or more"
    ):
        quick(Scorer(), budget=0)


def test_another_search_on_the_same_database_is_refused(quick: Any, tmp_path: Path) -> None:
    """While a search holds a database, a second one is told to wait or to take another."""
    with (
        Store.open(tmp_path / "quick.db"),
        pytest.raises(StoreError, match="in use by another search"),
    ):
        quick(Scorer(), budget=1)
