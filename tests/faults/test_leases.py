"""Workers that come, go, pause and meet: what one holds, no other does, and what it leaves is taken
over.
"""

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path

from sensitivity.core.format_name import quantized
from sensitivity.fidelity.score import Score
from sensitivity.search import processes

from support.fake_search import PROMPTS
from support.fake_workers import CANDIDATES, Fault, settings, start_worker, stop_self
from support.fault_audit import audit, kept_trials

LEASE_S = 0.4
FOREIGN = Score(net="another", mean=0.2, per_prompt=(0.2,) * PROMPTS, noise_floor=None)
"""What tells the scores of one worker from those of others."""


def test_paused_past_its_lease_and_resumed(storage: Path | str, tmp_path: Path) -> None:
    """Another worker takes the choice over. The paused one wakes first to finish it: its late
    result is kept, that of the other is not, and both go on to the end.
    """
    paused = start_worker(
        storage, tmp_path, settings(budget=3), Fault("scored", 2, stop_self), lease_s=LEASE_S
    )
    paused.wait_stopped()
    time.sleep(LEASE_S)
    foreign = Fault(score=lambda _formats: FOREIGN)
    other = start_worker(storage, tmp_path, settings(budget=3), foreign, seconds=0.3)
    other.wait_for("scoring")
    paused.send(signal.SIGCONT)
    assert (paused.wait(), other.wait()) == (0, 0), paused.output + other.output
    late = paused.lines("scored")[1]["names"]
    assert other.lines("scoring")[0]["names"] == late
    nets = {
        names_of(json.loads(choice)): json.loads(score)["net"]
        for _, choice, _, score, _ in kept_trials(storage)
    }
    assert nets[tuple(late)] == "tiny"
    assert audit(storage, tmp_path).check(budget=3).scored_again == 1


def test_paused_past_its_lease_with_nobody_there(
    storage: Path | str, tmp_path: Path, uninterrupted: Callable[[int], list[object]]
) -> None:
    """Its late result is kept, and it goes on as if nothing had happened."""
    paused = start_worker(
        storage, tmp_path, settings(budget=3), Fault("scored", 2, stop_self), lease_s=LEASE_S
    )
    paused.wait_stopped()
    time.sleep(LEASE_S)
    paused.send(signal.SIGCONT)
    assert paused.wait() == 0, paused.output
    assert audit(storage, tmp_path).check(budget=3).scored_again == 0
    assert kept_trials(storage) == uninterrupted(3)


def test_a_paused_worker_whose_study_is_done(storage: Path | str, tmp_path: Path) -> None:
    """All that it held was taken over, and the budget is met: it ends without a word against it."""
    paused = start_worker(
        storage, tmp_path, settings(budget=2), Fault("scored", 1, stop_self), lease_s=LEASE_S
    )
    paused.wait_stopped()
    time.sleep(LEASE_S)
    other = start_worker(storage, tmp_path, settings(budget=2))
    assert other.wait() == 0, other.output
    before = kept_trials(storage)
    paused.send(signal.SIGCONT)
    assert paused.wait() == 0, paused.output
    audit(storage, tmp_path).check(budget=2)
    assert kept_trials(storage) == before


def test_four_workers_open_an_empty_database(storage: Path | str, tmp_path: Path) -> None:
    """All at once: the tables are made once, there is one study, and nothing is scored twice."""
    started = [start_worker(storage, tmp_path, settings(budget=5)) for _ in range(4)]
    codes = [worker.wait() for worker in started]
    assert codes == [0] * 4, [worker.output for worker in started]
    assert audit(storage, tmp_path).check(budget=5).scored_again == 0


def test_two_workers_and_one_trial(storage: Path | str, tmp_path: Path) -> None:
    """There is one trial left to do, and it is done by one of them."""
    for budget in (1, 2):
        pair = [
            start_worker(storage, tmp_path, settings(budget), seconds=0.01 * (budget > 1))
            for _ in range(2)
        ]
        assert [worker.wait() for worker in pair] == [0, 0], [worker.output for worker in pair]
        assert audit(storage, tmp_path).check(budget=budget).scored_again == 0


def test_sigterm_releases_the_claim(
    storage: Path | str,
    tmp_path: Path,
    uninterrupted: Callable[[int], list[object]],
) -> None:
    """Exit code 143, 128 + the signal's. The claim is gone at once, no trial is recorded for it,
    and the same command goes on.
    """
    worker = start_worker(storage, tmp_path, settings(budget=2), seconds=30.0)
    worker.wait_for("scoring")
    assert audit(storage, tmp_path).claims == 1
    worker.send(signal.SIGTERM)
    assert worker.wait() == 143, worker.output
    left = audit(storage, tmp_path)
    assert (left.claims, left.trials, left.failed) == (0, 0, 0)
    assert start_worker(storage, tmp_path, settings(budget=2)).wait() == 0
    audit(storage, tmp_path).check(budget=2)
    assert kept_trials(storage) == uninterrupted(2)


def test_clocks_of_hosts_that_differ(storage: Path | str, tmp_path: Path) -> None:
    """One is an hour ahead, one an hour behind: neither takes the other for dead. One that died is
    found dead by the one that is behind.
    """
    pair = [
        start_worker(
            storage,
            tmp_path,
            settings(budget=5),
            seconds=0.01,
            lease_s=1.0,
            before=lambda hours=hours: set_clock(hours),
        )
        for hours in (1, -1)
    ]
    assert [worker.wait() for worker in pair] == [0, 0], [worker.output for worker in pair]
    assert audit(storage, tmp_path).check(budget=5).scored_again == 0
    dead = start_worker(
        storage,
        tmp_path,
        settings(budget=6),
        Fault("claimed"),
        lease_s=LEASE_S,
        before=lambda: (set_clock(1), be_of_another_host()),
    )
    assert dead.wait() == -9
    began = time.monotonic()
    last = start_worker(storage, tmp_path, settings(budget=6), before=lambda: set_clock(-1))
    assert last.wait() == 0, last.output
    assert time.monotonic() - began < 10 * LEASE_S
    audit(storage, tmp_path).check(budget=6)


def names_of(choice: list[int]) -> tuple[str, ...]:
    """What a choice quantizes, as journals have it."""
    return tuple(sorted(quantized(CANDIDATES.decode(choice))))


def set_clock(hours: float) -> None:
    """Let this process see another time than the database."""
    real_time = time.time
    time.time = lambda: real_time() + 3600 * hours


def be_of_another_host() -> None:
    """Let other processes not see whether this one lives."""
    processes._machine = lambda: "another machine"  # type: ignore[assignment]
