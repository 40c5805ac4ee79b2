"""The simulation of many workers keeps to what can be computed by hand."""

import pytest
from many_workers import Search
from many_workers_times import Times


def times(*, lock_s: float, propose_s: float = 0.0) -> Times:
    """Taking and finishing take half of `lock_s` each, whatever the number of workers."""
    steps = {"read_s": 0.0, "propose_s": propose_s, "take_s": lock_s / 2, "finish_s": lock_s / 2}
    return Times({}, {}, {step: {1: seconds} for step, seconds in steps.items()})


@pytest.mark.parametrize("workers", [1, 16])
def test_a_database_that_takes_no_time_is_no_limit(workers: int) -> None:
    """N workers do N times the trials of one: an hour over the time of a trial and its proposal."""
    played = Search(workers, 20.0, times(lock_s=0.0, propose_s=5.0)).play(2_000)
    assert played.trials_an_hour == pytest.approx(workers * 3600 / 25, rel=0.01)
    assert played.waits["lock"] == 0


def test_the_lock_is_the_limit_of_very_many() -> None:
    """A trial has it for 0.1 s, so there are 36,000 an hour at most, and nearly that."""
    played = Search(200, 5.0, times(lock_s=0.1)).play(4_000)
    assert 0.9 * 36_000 < played.trials_an_hour <= 36_001
    assert played.waits["lock"] > 0.5


def test_who_has_read_the_same_proposes_again() -> None:
    """Workers that begin at once read one state: all but one of them propose a second time."""
    search = Search(8, 10.0, times(lock_s=0.0, propose_s=1.0))
    search.begin()
    search._until(1)
    assert search.again == 7 + 6 + 5 + 4 + 3 + 2 + 1
