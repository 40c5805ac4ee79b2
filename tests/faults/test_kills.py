"""Workers that are killed with SIGKILL lose nothing, whenever it happens.

FAULT_ROUNDS=50 tests/faults/test_kills.py takes the full number of rounds.
"""

import os
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from sensitivity.search import attempts

from support.fake_workers import POINTS, FakeWorker, Fault, settings, start_worker
from support.fault_audit import audit, kept_trials

ROUNDS = int(os.environ.get("FAULT_ROUNDS", "4"))
MOST = {"claimed": 2, "scoring": 2, "scored": 2, "finishing": 2, "statement": 90}
"""The latest time at which a point strikes in a round; others 12. A round has few trials to do."""


def a_fault(chance: random.Random) -> Fault:
    """A kill at a random point."""
    point = chance.choice(POINTS)
    return Fault(point, chance.randint(1, MOST.get(point, 12)))


def test_one_worker_killed_at_any_point_comes_to_the_same_end(
    storage: Path | str, tmp_path: Path, uninterrupted: Callable[[int], list[object]]
) -> None:
    """After a claim, while and after scoring, before and in the middle of a transaction, and after
    a commit that nobody heard of: the trials are those of a search that nothing disturbed.
    """
    chance, deaths = random.Random(str(type(storage))), Counter[str]()
    for done in range(ROUNDS):
        fault = a_fault(chance)
        worker = start_worker(
            storage, tmp_path, settings(budget=1 + done), fault, before=forget_lists_that_kill
        )
        code = worker.wait()
        assert code in (0, -9), worker.output
        deaths[fault.point] += code == -9
    last = start_worker(storage, tmp_path, settings(budget=ROUNDS + 1))
    assert last.wait() == 0, last.output
    print(f"{sum(deaths.values())} kills in {ROUNDS} rounds: {dict(deaths)}")
    assert sum(deaths.values()) >= ROUNDS // 2
    audit(storage, tmp_path).check(budget=ROUNDS + 1)
    assert kept_trials(storage) == uninterrupted(ROUNDS + 1)


def test_workers_killed_while_others_go_on(storage: Path | str, tmp_path: Path) -> None:
    """Three at a time, of which one is killed at a random point and one at a random moment; what
    they held is taken over, and the budget is met exactly.
    """
    chance, deaths, rounds = random.Random(3), 0, max(2, ROUNDS // 3)
    for done in range(rounds):
        asked = settings(budget=4 * (done + 1))
        workers = [
            start_worker(
                storage, tmp_path, asked, fault, seconds=0.005, before=forget_lists_that_kill
            )
            for fault in (a_fault(chance), Fault(), Fault())
        ]
        kill_later(workers[1], 0.4 * chance.random())
        codes = [worker.wait() for worker in workers]
        assert set(codes) <= {0, -9}, [worker.output for worker in workers]
        assert codes[2] == 0
        deaths += codes.count(-9)
        audit(storage, tmp_path).check(budget=4 * (done + 1))
    print(f"{deaths} kills in {rounds} rounds of three workers")
    assert deaths >= rounds // 2


def test_a_worker_killed_between_its_claim_and_its_first_beat(
    storage: Path | str, tmp_path: Path
) -> None:
    """Nothing but its claim says that it was there; the next one takes the choice over."""
    killed = start_worker(storage, tmp_path, settings(budget=2), Fault("claimed"))
    assert killed.wait() == -9
    left = audit(storage, tmp_path)
    assert (left.claims, left.trials, left.running) == (1, 0, 0)
    assert start_worker(storage, tmp_path, settings(budget=2)).wait() == 0
    audit(storage, tmp_path).check(budget=2)


def forget_lists_that_kill() -> None:
    """Let no list be given up: here somebody else kills, three times in one trial by chance."""
    attempts.DEATHS = 1_000


def kill_later(worker: FakeWorker, seconds: float) -> None:
    """Kill a worker after a time, unless it has ended."""
    time.sleep(seconds)
    if worker.poll() is None:
        worker.kill()
