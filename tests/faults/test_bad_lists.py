"""A skip-list that kills, runs out of memory, breaks the GPU or gives no number is a recorded
failure after a stated number of tries, and the search goes on without it.
"""

import json
import math
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from sqlalchemy import text

from sensitivity.core.format_name import FormatName, quantized
from sensitivity.core.supervised import REPLACE_ME
from sensitivity.fidelity.score import Score
from sensitivity.search.attempts import ATTEMPTS, DEATHS

from support.fake_workers import CANDIDATES, Fault, settings, start_worker
from support.fault_audit import audit, reading

VICTIM = tuple(sorted(quantized(CANDIDATES.decode(CANDIDATES.rule_of_thumb))))
"""A baseline, so every search comes to it."""
BUDGET = 1


def at_victim(act: Callable[[], Score | None]) -> Fault:
    """What happens when one skip-list is scored."""

    def score(formats: Mapping[str, FormatName]) -> Score | None:
        return act() if tuple(sorted(quantized(formats))) == VICTIM else None

    return Fault(score=score)


def failures(storage: Path | str) -> list[str]:
    """The reasons of the recorded failures, each of which is of the victim."""
    with reading(storage) as connection:
        rows = connection.execute(
            text(
                "SELECT a.trial_id, a.key, a.value_json FROM trial_user_attributes a"
                " JOIN trials t ON t.trial_id = a.trial_id WHERE t.state = 'FAIL'"
            )
        ).all()
    kept: dict[int, dict[str, str]] = {}
    for trial, key, value in rows:
        kept.setdefault(trial, {})[key] = json.loads(value)
    for own in kept.values():
        choice = json.loads(own["choice"])
        assert tuple(sorted(quantized(CANDIDATES.decode(choice)))) == VICTIM
    return [own["reason"] for own in kept.values()]


def test_a_list_that_always_kills_its_worker(storage: Path | str, tmp_path: Path) -> None:
    """It may kill `DEATHS` workers; the next one records it as failed, and goes on."""
    fault, codes = at_victim(lambda: os.kill(os.getpid(), signal.SIGKILL)), list[int]()
    while codes[-1:] != [0]:
        assert len(codes) <= DEATHS, "it kills more workers than is stated"
        codes.append(start_worker(storage, tmp_path, settings(BUDGET), fault).wait())
    assert codes == [-9] * DEATHS + [0]
    (reason,) = failures(storage)
    assert f"ended its process {DEATHS} times" in reason
    assert audit(storage, tmp_path).check(budget=BUDGET).failed == 1


def test_out_of_memory_once(storage: Path | str, tmp_path: Path) -> None:
    """It is tried once more, and scored."""
    tries = list[int]()

    def once() -> None:
        tries.append(1)
        if len(tries) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    worker = start_worker(storage, tmp_path, settings(BUDGET), at_victim(once))
    assert worker.wait() == 0, worker.output
    assert failures(storage) == []
    audit(storage, tmp_path).check(budget=BUDGET)


def test_out_of_memory_always(storage: Path | str, tmp_path: Path) -> None:
    """After `ATTEMPTS` it is a recorded failure, which names it."""

    def always() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    worker = start_worker(storage, tmp_path, settings(BUDGET), at_victim(always))
    assert worker.wait() == 0, worker.output
    (reason,) = failures(storage)
    assert reason.startswith("OutOfMemoryError: CUDA out of memory")
    tried = [tuple(line["names"]) for line in worker.journal if line["kind"] == "scoring"]
    assert tried.count(VICTIM) == ATTEMPTS
    audit(storage, tmp_path).check(budget=BUDGET)


def test_a_list_that_breaks_the_gpu(storage: Path | str, tmp_path: Path) -> None:
    """The process can do no more: it ends with an error that asks for a new one and releases its
    claim, and no failure is recorded. It counts as a death, so a list that always does it is given
    up like one that kills. The new process goes on.
    """

    def breaks() -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    worker = start_worker(storage, tmp_path, settings(BUDGET), at_victim(breaks))
    assert worker.wait() == REPLACE_ME, worker.output
    assert "DeviceLostError" in worker.output
    left = audit(storage, tmp_path)
    assert (left.claims, left.failed) == (0, 0)
    with reading(storage) as connection:
        deaths = connection.execute(text("SELECT max(deaths) FROM sensitivity_attempts"))
        assert deaths.scalar_one() == 1
    assert start_worker(storage, tmp_path, settings(BUDGET)).wait() == 0
    assert audit(storage, tmp_path).check(budget=BUDGET).failed == 0


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_score_that_is_no_number(value: float, storage: Path | str, tmp_path: Path) -> None:
    """It is a recorded failure with its reason: never a complete trial, never a stored score."""
    score = Score(net="tiny", mean=value, per_prompt=(0.1, value), noise_floor=None)
    worker = start_worker(storage, tmp_path, settings(BUDGET), at_victim(lambda: score))
    assert worker.wait() == 0, worker.output
    (reason,) = failures(storage)
    assert "finite" in reason
    audit(storage, tmp_path).check(budget=BUDGET)
    with reading(storage) as connection:
        kept = connection.execute(text("SELECT count(*) FROM sensitivity_scores")).scalar_one()
    assert kept == audit(storage, tmp_path).trials
