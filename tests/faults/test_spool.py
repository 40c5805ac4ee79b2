"""A result that the database does not take waits on disk, and is written once."""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sensitivity.errors import LostDatabaseError, OutputError
from sensitivity.fidelity.score import Score
from sensitivity.search import loop, patience
from sensitivity.search.patience import UnreachableError, patient
from sensitivity.search.spool import KeptScore, KeptTrial, Spool
from sensitivity.search.stopping import Stop
from sensitivity.search.store import Store
from sensitivity.search.trials import ScoredTrial, StoppedTrial, Tried

from support.fake_search import FakeEvaluator
from support.fake_workers import CANDIDATES, settings

SCORE = Score(net="tiny", mean=0.1 + 0.2, per_prompt=(0.1, 1 / 3), noise_floor=1e-17)
SCORED = ScoredTrial(
    index=4, number=2, choice=(0, 1, 1), label="", latency_s=0.7, score=SCORE, seconds=1.25
)
STOPPED = StoppedTrial(
    index=5,
    number=3,
    choice=(1, 1, 1),
    latency_s=0.6,
    stop=Stop(prompts=4, share=0.5, rival=2, p_value=0.01, estimate=0.3),
    seconds=0.5,
)
LOST = LostDatabaseError("db:5432 does not answer (refused); expected a server: start it")


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask again after a millisecond."""
    monkeypatch.setattr(patience, "FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(patience, "LONGEST_WAIT_S", 0.002)


def failing(times: int, error: BaseException, then: Callable[[], Any] = lambda: "done") -> Any:
    """A call that raises an error so many times, and then does something."""
    left = [error] * times

    def call(*_arguments: object) -> Any:
        if left:
            raise left.pop()
        return then()

    return call


def replayed(spool: Spool, study: str = "s", noted: list[str] | None = None) -> list[Any]:
    """What a spool writes when it is replayed."""
    written: list[Any] = []
    note = [].append if noted is None else noted.append
    spool.replay(study, score=written.append, trial=written.append, noted=note)
    return written


@pytest.mark.parametrize("tried", [SCORED, STOPPED])
def test_a_result_waits_until_the_database_is_back(tried: Tried, tmp_path: Path) -> None:
    """It is on disk, for its owner alone, when the database is asked again, and gone after that."""
    spool, noted, seen = Spool.of("db", tmp_path / "spool"), list[str](), list[Path]()
    kept = KeptTrial(study="s", tried=tried, extra={"token": "t"})

    def write() -> str:
        seen.extend(spool.waiting())
        if len(seen) < 3:
            raise LOST
        return "done"

    assert spool.deliver(kept, write, noted=noted.append) == "done"
    assert seen == [spool.path_of(kept)] * 3
    assert spool.waiting() == []
    assert "waits in" in noted[0]
    assert "answers again" in noted[-1]


def test_what_a_dead_process_left_is_written_once(tmp_path: Path) -> None:
    """A result comes back as it was, its floats to the last bit, oldest first, to its own study."""
    spool = Spool.of("db", tmp_path)
    kept = [
        KeptTrial(study="s", tried=SCORED, extra={"item": "x"}),
        KeptTrial(study="s", tried=STOPPED),
        KeptTrial(study="other", tried=STOPPED),
    ]
    for place, result in enumerate(kept):
        with pytest.raises(KeyboardInterrupt):  # the process ends while it waits
            spool.deliver(result, failing(1, LOST, then=_interrupt), noted=[].append)
        os.utime(spool.path_of(result), (place, place))
    assert spool.path_of(kept[0]).parent.stat().st_mode & 0o077 == 0
    assert replayed(spool) == kept[:2]
    assert replayed(spool) == []
    assert replayed(Spool.of("another db", tmp_path), "other") == []
    assert replayed(spool, "other") == kept[2:]


def test_a_result_that_cannot_be_written_yet_waits_on(tmp_path: Path) -> None:
    """The database goes away again in the middle of a replay: nothing is removed unwritten."""
    spool = Spool.of("db", tmp_path)
    _leave(spool, KeptTrial(study="s", tried=SCORED))
    with pytest.raises(LostDatabaseError):
        spool.replay("s", score=failing(1, LOST), trial=failing(1, LOST), noted=[].append)
    assert len(replayed(spool)) == 1


def test_a_database_that_stays_away_ends_the_search_with_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the file, and that the same command goes on; it is not tried again."""
    monkeypatch.setattr(patience, "PATIENCE_S", 0.01)
    spool, calls = Spool.of("db", tmp_path), list[int]()

    def write() -> None:
        calls.append(1)
        raise LOST

    kept = KeptTrial(study="s", tried=SCORED)
    with pytest.raises(UnreachableError) as caught:
        patient(lambda: spool.deliver(kept, write, noted=[].append))
    assert str(spool.path_of(kept)) in str(caught.value)
    assert "run the same command" in str(caught.value)
    assert len(calls) > 2
    assert replayed(spool) == [kept]


@pytest.mark.parametrize(
    "error",
    [OutputError("the server's disk is full"), KeyboardInterrupt("x"), SystemExit(143)],
)
def test_whatever_ends_a_write_leaves_the_result_on_disk(
    error: BaseException, tmp_path: Path
) -> None:
    """A full disk of the server, or a signal just then: the error passes at once, and the next
    start writes the result.
    """
    spool, noted = Spool.of("db", tmp_path), list[str]()
    kept = KeptScore(evaluation="e", assignment="a", score=SCORE, seconds=1.0, replaces=True)
    with pytest.raises(type(error), match=str(error)):
        spool.deliver(kept, failing(1, error), noted=noted.append)
    assert str(spool.path_of(kept)) in noted[0]
    assert replayed(spool) == [kept]


def test_a_spool_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    """It is said that the result is only in memory, and the database is asked again all the
    same.
    """
    (tmp_path / "file").write_text("")
    spool, noted = Spool.of("db", tmp_path / "file"), list[str]()
    kept = KeptTrial(study="s", tried=SCORED)
    assert spool.deliver(kept, failing(2, LOST), noted=noted.append) == "done"
    assert "lost if this process ends" in noted[0]


@pytest.mark.parametrize("fault", ["torn", "flipped", "other format", "deep", "no choice"])
def test_a_torn_or_changed_file_is_set_aside(fault: str, tmp_path: Path) -> None:
    """It is said, kept under another name, and never believed; the others are written."""
    spool, noted = Spool.of("db", tmp_path), list[str]()
    kept = [KeptTrial(study="s", tried=SCORED), KeptTrial(study="s", tried=STOPPED)]
    for result in kept:
        _leave(spool, result)
    path = spool.path_of(kept[0])
    text = path.read_text()
    changed = {
        "torn": text[: len(text) // 2],
        "flipped": text.replace("0.7", "0.6"),
        "other format": _with_checksum(json.loads(text)["kept"] | {"format": 9}),
        "deep": "[" * 100_000,
        "no choice": _with_checksum({"format": 1, "trial": {"study": "s"}}),
    }[fault]
    assert changed != text
    path.write_text(changed)
    assert replayed(spool, noted=noted) == kept[1:]
    assert "is not what was written" in noted[0]
    assert not path.exists()
    assert path.with_suffix(".damaged").read_text() == changed
    assert replayed(spool) == []


def test_a_choice_that_no_longer_fits_is_set_aside(tmp_path: Path) -> None:
    """Whatever writes it says so by ValueError."""
    spool, noted = Spool.of("db", tmp_path), list[str]()
    kept = KeptTrial(study="s", tried=SCORED)
    _leave(spool, kept)
    unfit = failing(1, ValueError("3 options, 5 groups"))
    assert spool.replay("s", score=unfit, trial=unfit, noted=noted.append) == 0
    assert "3 options, 5 groups" in noted[0]
    assert spool.waiting() == []


def test_a_store_writes_its_scores_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A score whose transaction fails is asked for again, or waits for the next start."""
    with Store.open(tmp_path / "study.db") as store:
        store.spool = Spool.of("db", tmp_path / "spool")
        written = store.write_score
        monkeypatch.setattr(store, "write_score", _first_fails(written))
        store.save_score("e", "a", SCORE, seconds=2.0)
        assert store.find_score("e", "a") == SCORE
        kept = KeptScore(evaluation="e", assignment="b", score=SCORE, seconds=1.0)
        _leave(store.spool, kept)
        for _ in range(2):
            store.spool.replay("s", score=written, trial=written, noted=[].append)
        assert store.find_score("e", "b") == SCORE
        assert sorted(store.find_seconds("e")) == [1.0, 2.0]


def test_a_study_that_is_done_takes_what_waited(tmp_path: Path) -> None:
    """Others met the budget while this host was out of contact: its result is kept all the same."""
    with Store.open(tmp_path / "study.db") as store:
        store.spool = Spool.of("db", tmp_path / "spool")
        evaluator, asked = FakeEvaluator(), settings(budget=1)
        done = loop.run_search(evaluator, CANDIDATES, store, asked)  # type: ignore[arg-type]
        choice = (1, *[0] * (len(CANDIDATES.groups) - 1))
        assert choice not in {trial.choice for trial in done.trials}
        seconds, count = CANDIDATES.latency_s(choice), dict(evaluator.scored)
        late = replace(SCORED, choice=choice, latency_s=seconds, score=done.trials[-1].score)
        _leave(store.spool, KeptTrial(study=done.study, tried=late))
        again = loop.run_search(evaluator, CANDIDATES, store, asked)  # type: ignore[arg-type]
        assert [trial.choice for trial in again.trials[len(done.trials) :]] == [choice]
        assert evaluator.scored == count
        assert store.spool.waiting() == []


def _first_fails(write: Callable[[KeptScore], None]) -> Callable[[KeptScore], None]:
    calls: list[int] = []

    def writing(kept: KeptScore) -> None:
        calls.append(1)
        if len(calls) == 1:
            raise LOST
        write(kept)

    return writing


def _interrupt() -> None:
    raise KeyboardInterrupt


def _leave(spool: Spool, kept: KeptScore | KeptTrial) -> None:
    """Let a result wait as a process does that dies."""
    with pytest.raises(KeyboardInterrupt):
        spool.deliver(kept, failing(1, LOST, then=_interrupt), noted=[].append)


def _with_checksum(kept: dict[str, Any]) -> str:
    checksum = hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()
    return json.dumps({"checksum": checksum, "kept": kept})
