"""Several workers search one study, on a file that they share and on a server."""

import json
import os
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from optuna.trial import TrialState
from sqlalchemy import select, update

from sensitivity.core.format_name import FormatName
from sensitivity.core.storage_url import Storage
from sensitivity.fidelity.score import Score
from sensitivity.search import priors, trial_runner
from sensitivity.search.candidates import Candidates, Group, baselines
from sensitivity.search.claims import Claims
from sensitivity.search.ending import Ending
from sensitivity.search.finished_rows import choice_digest
from sensitivity.search.log import open_log
from sensitivity.search.loop import SearchResult, read_search, run_search
from sensitivity.search.settings import study_name
from sensitivity.search.store import Store
from sensitivity.search.study_log import StudyLog
from sensitivity.search.tables import ClaimRow, FinishedRow, WorkerRow
from sensitivity.search.trials import ScoredTrial, SearchEvents
from sensitivity.search.workers import Worker

from support import fake_search
from support.databases import run_at_once
from support.fake_search import BASELINES, FakeEvaluator, settings

GROUPS = 12
CANDIDATES = Candidates(
    formats=(FormatName.BF16, FormatName.NVFP4),
    groups=tuple(
        Group(
            name=f"x[{g}]",
            fqns=(f"x.{g % 10}",) if g < 10 else (f"y.{g % 10}",),
            members=((), (f"x.{g % 10}",) if g < 10 else (f"y.{g % 10}",)),
            gains_s=(0.0, 0.1 + 0.03 * g),
        )
        for g in range(GROUPS)
    ),
    fixed={},
    refused={},
    fqns=tuple(f"x.{g % 10}" if g < 10 else f"y.{g % 10}" for g in range(GROUPS)),
    rule_of_thumb=(1, 0) + (1,) * (GROUPS - 2),
    bf16_s=3.0,
)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layer sensitivities are computed from names, and workers look at each other often."""
    monkeypatch.setattr(priors, "calibrate", fake_search.calibrate)
    cost = SimpleNamespace(describe=lambda: "none", known=0, jobs=GROUPS, numbers=0, trials=1.0)
    monkeypatch.setattr(priors, "calibration_cost", lambda *_: cost)
    monkeypatch.setattr(trial_runner, "POLL_S", 0.02)


class Scorer(FakeEvaluator):
    """Calls `before(number of the score, quantized Linears)` first, and notes what it scored."""

    def __init__(self, before: Callable[[int, Any], object] = lambda *_: None) -> None:
        super().__init__()
        self.before, self.asked = before, list[tuple[str, ...]]()

    def score(self, formats: Mapping[str, FormatName], split: str, **more: Any) -> Any:
        names = tuple(sorted(n for n, fmt in formats.items() if fmt is not FormatName.BF16))
        self.asked.append(names)
        self.before(len(self.asked), names)
        return super().score(formats, split, **more)


def search(
    storage: Storage, scorer: Scorer, budget: int, sampler: str = "knapsack", **more: Any
) -> SearchResult:
    """One worker, by a connection of its own."""
    with Store.open(storage, shared=True) as store:
        asked = settings(sampler, budget=budget)
        return run_search(scorer, CANDIDATES, store, asked, **more)  # type: ignore[arg-type]


def check(storage: Storage, budget: int, sampler: str = "knapsack") -> None:
    """What must hold of a study that several workers have searched."""
    name = name_of(sampler)
    with Store.open(storage, shared=True) as store:
        result = read_search(store, name, CANDIDATES)
        with store.reading() as session:
            connection = session.connection()
            states = [row[0] for row in connection.exec_driver_sql("SELECT state FROM trials")]
            claims = connection.execute(select(ClaimRow.item)).all()
            rows = connection.execute(select(FinishedRow.place, FinishedRow.choice)).all()
    trials = result.trials
    assert [t.index for t in trials] == list(range(len(trials)))
    assert len({t.choice for t in trials}) == len(trials)
    assert {t.label for t in trials} - {""} == {label for label, _ in baselines(CANDIDATES)}
    assert result.tried == budget
    assert [t.number for t in trials if not t.label] == list(range(1, budget + 1))
    assert states == ["COMPLETE"] * len(trials)
    assert claims == []
    assert sorted(map(tuple, rows)) == [(t.index, choice_digest(t.choice)) for t in trials]


def name_of(sampler: str = "knapsack") -> str:
    """The name of the study of these settings."""
    return study_name(Scorer(), CANDIDATES, settings(sampler))  # type: ignore[arg-type]


@pytest.mark.parametrize("sampler", ["nsga2"])
def test_four_processes_meet_the_budget_exactly_and_score_nothing_twice(
    shared_storage: Storage, tmp_path: Path, sampler: str
) -> None:
    """They begin on an empty database at the same moment; each skip-list is scored once."""

    def work(number: int) -> None:
        chance = random.Random(number)
        scorer = Scorer(lambda *_: time.sleep(0.01 * chance.random()))
        result = search(shared_storage, scorer, budget=10, sampler=sampler)
        assert not result.interrupted
        assert result.tried == 10
        (tmp_path / f"{number}.json").write_text(json.dumps(scorer.asked))

    assert run_at_once(4, work) == [0] * 4
    asked = [json.loads((tmp_path / f"{number}.json").read_text()) for number in range(4)]
    scored = [tuple(names) for own in asked for names in own]
    assert len(scored) == len(set(scored)) == BASELINES + 10
    assert sum(map(bool, asked)) > 1
    check(shared_storage, 10, sampler)


def test_two_workers_and_one_baseline(shared_storage: Storage) -> None:
    """The second one does not score what the first one is at, and tells what it scored."""
    begun, go_on = threading.Event(), threading.Event()

    def first_at(number: int, _names: Any) -> None:
        if number == 1:
            begun.set()
            assert go_on.wait(20)

    first, second = Scorer(first_at), Scorer()
    elsewhere, waiting = list[int](), list[int]()

    def waits(count: int) -> None:
        waiting.append(count)
        go_on.set()

    events = SearchEvents(elsewhere=lambda t: elsewhere.append(t.index), waiting=waits)
    with Store.open(shared_storage, shared=True) as store:
        work = partial(run_search, candidates=CANDIDATES, store=store, settings=settings(budget=2))
        thread = threading.Thread(target=lambda: work(first))  # type: ignore[arg-type]
        thread.start()
        assert begun.wait(20)
        result = work(second, events=events)  # type: ignore[arg-type]
        thread.join(20)
    assert waiting == [1]
    assert first.asked[0] == ()
    assert len(first.asked) + len(second.asked) == BASELINES + 2
    assert not set(first.asked) & set(second.asked)
    assert len(elsewhere) == len(first.asked)
    assert result.tried == 2
    check(shared_storage, 2)


def test_a_choice_of_a_dead_worker_is_scored_by_another(shared_storage: Storage) -> None:
    """A worker waits for the last trial of another, and takes it over when that one is dead."""
    with (
        Store.open(shared_storage, shared=True) as store,
        Worker.join(store, work="search") as other,
    ):
        name, details = name_of(), {"choice": [0] * GROUPS, "label": "none", "state": {}}
        log = open_log(store, name, CANDIDATES, {"budget": 1}, worker=other)
        none = choice_digest(CANDIDATES.none_quantized)
        assert Claims(store, other).take(log.scope, none, details) is not None
        scorer, waiting = Scorer(), list[int]()

        def dies(count: int) -> None:
            waiting.append(count)
            assert () not in scorer.asked
            with store.writing() as session:  # as if its lease had ended
                session.execute(update(WorkerRow).values(seen=0.0))

        asked, events = settings(budget=1), SearchEvents(waiting=dies)
        result = run_search(scorer, CANDIDATES, store, asked, events)  # type: ignore[arg-type]
    assert waiting == [1]
    assert scorer.asked[-1] == ()
    assert len(scorer.asked) == len(result.trials) == BASELINES + 1
    check(shared_storage, 1)


def next_proposal(log: StudyLog) -> tuple[int, ...]:
    """A choice that the study does not have."""
    tried = {t.choice for t in log.history()}
    return next(
        choice
        for g in range(GROUPS)
        if (choice := tuple(int(i == g) for i in range(GROUPS))) not in tried
    )


def test_a_late_result_is_kept_once(shared_storage: Storage) -> None:
    """A worker that was taken for dead finishes: its result is kept, and that of the one that took
    its choice over is not kept beside it, whichever comes first.
    """
    with Store.open(shared_storage, shared=True) as store:
        run_search(Scorer(), CANDIDATES, store, settings(budget=1))  # type: ignore[arg-type]
        name = name_of()
        with (
            Worker.join(store, work="search") as late,
            Worker.join(store, work="search") as quick,
        ):
            logs = [
                open_log(store, name, CANDIDATES, {"budget": 2}, worker=w) for w in (late, quick)
            ]
            choice = next_proposal(logs[0])
            done = replace(logs[0].tried[-1], choice=choice, latency_s=CANDIDATES.latency_s(choice))
            claim = Claims(store, quick).take(logs[0].scope, choice_digest(choice))
            assert claim is not None
            logs[0].finish(replace(done, seconds=1.0))
            assert Claims(store, quick).live(logs[0].scope) == []
            logs[1].finish(replace(done, seconds=2.0))
            logs[1].fail(choice, "it failed here")
            for log in logs:
                log.read_new()
                kept = log.find(choice)
                assert kept is not None
                assert (kept.index, kept.number, kept.seconds) == (BASELINES + 1, 2, 1.0)
                assert log.failures() == []
    check(shared_storage, 2)


def test_the_largest_budget_holds_while_others_search(shared_storage: Storage) -> None:
    """A worker that joins with a larger budget raises that of all; with a smaller one it lowers
    nothing. Alone it does.
    """
    with Store.open(shared_storage, shared=True) as store:
        name = name_of()
        with (
            Worker.join(store, work="search", study=name) as one,
            Worker.join(store, work="search", study=name) as two,
        ):
            first = open_log(store, name, CANDIDATES, {"budget": 9}, worker=one)
            open_log(store, name, CANDIDATES, {"budget": 4}, worker=two)
            assert first.budget() == 9
            open_log(store, name, CANDIDATES, {"budget": 20}, worker=two)
            assert first.budget() == 20
            two.leave()
            open_log(store, name, CANDIDATES, {"budget": 3}, worker=one)
            assert first.budget() == 3


def test_an_interrupted_worker_leaves_its_choice_to_others(shared_storage: Storage) -> None:
    """Ctrl-C releases the claim; nothing of the trial is kept, and another worker scores it."""

    def interrupt(number: int, _names: Any) -> None:
        if number == 2:
            raise KeyboardInterrupt

    scorer = Scorer(interrupt)
    assert search(shared_storage, scorer, budget=1).interrupted
    other = Scorer()
    assert search(shared_storage, other, budget=1).tried == 1
    assert other.asked[0] == scorer.asked[1]
    check(shared_storage, 1)


def test_one_worker_ends_a_study(shared_storage: Storage) -> None:
    """While it does, and after it, the others that were there are told its name. One that comes
    later ends it anew, as does another one if it died.
    """
    with Store.open(shared_storage, shared=True) as store:
        run_search(Scorer(), CANDIDATES, store, settings(budget=1))  # type: ignore[arg-type]
        name = name_of()
        with (
            Worker.join(store, work="search") as one,
            Worker.join(store, work="search") as two,
        ):
            first, second, third = Ending(store, one), Ending(store, two), Ending(store, two)
            assert first.take(name) is None
            assert second.take(name) == one.name
            first.release()  # it was interrupted
            assert second.take(name) is None
            second.note()
            second.release()
            assert third.take(name) == two.name
            assert first.take(name) == two.name
            later = Ending(store, one)
            assert later.take(name) is None
            later.release()


def test_who_has_a_file_alone_ends_every_study(store: Store) -> None:
    """Nothing is claimed or kept."""
    with Worker.join(store, work="search") as worker:
        ending = Ending(store, worker)
        assert [ending.take("a study"), ending.take("a study")] == [None, None]
        ending.note()
        ending.release()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forks")
def test_a_lone_search_is_the_same_on_every_engine(shared_storage: Storage, tmp_path: Path) -> None:
    """One worker of a shared database makes the trials that it makes with a file of its own."""
    shared = search(shared_storage, Scorer(), budget=4)
    with Store.open(tmp_path / "alone.db") as store:
        alone = run_search(Scorer(), CANDIDATES, store, settings(budget=4))  # type: ignore[arg-type]
    assert [(t.index, t.choice, t.score, t.estimate) for t in shared.trials] == [
        (t.index, t.choice, t.score, t.estimate) for t in alone.trials
    ]


def test_a_trial_that_an_earlier_version_left_running_is_ended(store: Store) -> None:
    """It becomes a failed one, which is no failure of its choice; what is new is read past it."""
    with Worker.join(store, work="search") as worker:
        log = open_log(store, "a study", CANDIDATES, {"budget": 2}, worker=worker)
        log.study.ask()
        again = open_log(store, "a study", CANDIDATES, {"budget": 2}, worker=worker)
        assert [t.state for t in again.study.get_trials()] == [TrialState.FAIL]
        choice = CANDIDATES.all_quantized()
        again.fail(choice, "it failed")
        score = FakeEvaluator().score(CANDIDATES.decode(CANDIDATES.none_quantized), "search")
        assert isinstance(score, Score)
        none = ScoredTrial(
            index=7,
            choice=CANDIDATES.none_quantized,
            label="none",
            latency_s=CANDIDATES.bf16_s,
            score=score,
            seconds=1.0,
        )
        again.finish(none)
        for own in (log, again):
            assert own.read_new() == [replace(none, index=0)]
            assert own.read_new() == []
            assert own.failures() == [(choice, "it failed")]
            assert own.failed_choices() == {choice}
