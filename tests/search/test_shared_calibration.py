"""A calibration that several workers share: each job is measured once, by one of them, and the
errors are those of one worker, bit by bit.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from sensitivity.core.format_name import FormatName
from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.latency import ShapeScale, stand_for
from sensitivity.latency.devices import get_device
from sensitivity.latency.predicted import PredictedLatency
from sensitivity.search.attempts import DEATHS, RunError
from sensitivity.search.calibration import stored
from sensitivity.search.calibration._base import Estimator
from sensitivity.search.calibration.choosing import get_estimator
from sensitivity.search.calibration.jobs import EstimatorName, Job
from sensitivity.search.calibration.stored import calibrate
from sensitivity.search.candidates import Candidates
from sensitivity.search.grouping import make_candidates
from sensitivity.search.store import Store

GROUPS, JOBS = 3, 6


@pytest.fixture
def candidates(evaluator: Evaluator) -> Candidates:
    """Three groups of the tiny pipeline, in two formats."""
    made = make_candidates(
        stand_for(evaluator.profile(), ShapeScale(factor=16)),
        evaluator.spec,
        formats=(FormatName.MXFP8, FormatName.NVFP4),
        latency=PredictedLatency(get_device("b200")),
    )
    return dataclasses.replace(made, groups=made.groups[::9][:GROUPS])


class OneOfMany:
    """A worker that does the items that `mine` chooses; then `others` do the rest."""

    def __init__(self, mine: Callable[[int], bool], others: Callable[[], None]) -> None:
        self.mine, self.others = mine, others
        self.asked: list[tuple[str, tuple[str, ...]]] = []

    def run(
        self, scope: str, items: Sequence[str], *, is_done: Any, do: Any, **_options: Any
    ) -> None:
        self.asked.append((scope, tuple(items)))
        for i, item in enumerate(items):
            if self.mine(i) and not is_done(item):
                do(item)
        self.others()
        until = time.monotonic() + 5
        while not all(map(is_done, items)):
            assert time.monotonic() < until
            time.sleep(0.02)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[list[Job]]]:
    """The jobs of each list that an estimator was given."""
    lists: list[list[Job]] = []
    for name in EstimatorName:
        kind: type[Estimator] = type(get_estimator(name))
        begin = kind.begin

        def noting(self: Any, *args: Any, begin: Any = begin, **how: Any) -> Any:
            run = begin(self, *args, **how)

            def noted(jobs: Sequence[Job]) -> Any:
                lists.append(list(jobs))
                return run(jobs)

            return noted

        monkeypatch.setattr(kind, "begin", noting)
    yield lists
    lists.clear()


@pytest.mark.parametrize(
    "estimator", [EstimatorName.ROLLOUT, EstimatorName.OUTPUT, EstimatorName.GRADIENT]
)
def test_two_workers_measure_each_job_once(
    evaluator: Evaluator,
    candidates: Candidates,
    store: Store,
    tmp_path: Path,
    measured: list[list[Job]],
    estimator: EstimatorName,
) -> None:
    """Both get the errors of one worker by itself, to the last bit."""
    how: dict[str, Any] = {"estimator": estimator, "states": 1, "prompts": 1}
    with Store.open(tmp_path / "alone.db") as own:
        expected = calibrate(evaluator, candidates, own, **how)
    assert len(measured) == 1
    measured.clear()
    found = []

    def second_worker() -> None:
        before, evaluator.sharing = evaluator.sharing, second
        found.append(calibrate(evaluator, candidates, store, **how))
        evaluator.sharing = before

    first = OneOfMany(lambda i: i % 2 == 1, second_worker)
    second = OneOfMany(lambda _i: True, lambda: None)
    evaluator.sharing = first
    found.append(calibrate(evaluator, candidates, store, **how))
    assert found == [expected, expected]
    assert first.asked == second.asked
    keys = [job.key for jobs in measured for job in jobs]
    assert len(keys) == len(set(keys))
    by_job = get_estimator(estimator).unit == "job"
    assert len(measured) == (JOBS if by_job else 1)
    assert calibrate(evaluator, candidates, store, **how) == expected
    assert len(measured) == (JOBS if by_job else 1)


@pytest.mark.parametrize("estimator", ["rollout", "preview"])
def test_a_worker_runs_bf16_once_for_all_its_blocks(
    evaluator: Evaluator, candidates: Candidates, store: Store, tmp_path: Path, estimator: str
) -> None:
    """Blocks take no more denoiser calls than one list of all jobs."""
    calls: list[int] = []
    hook = evaluator.loaded.denoiser.register_forward_hook(lambda *_: calls.append(1))
    how: dict[str, Any] = {"estimator": estimator, "states": 1, "prompts": 1}
    with Store.open(tmp_path / "alone.db") as own:
        calibrate(evaluator, candidates, own, **how)
    alone = len(calls)
    evaluator.sharing = OneOfMany(lambda _i: True, lambda: None)
    calibrate(evaluator, candidates, store, **how)
    hook.remove()
    assert len(calls) == 2 * alone


def test_a_block_holds_several_jobs(
    evaluator: Evaluator, candidates: Candidates, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There are at most `BLOCKS`, of equal size, and their names do not depend on what is known."""
    monkeypatch.setattr(stored, "BLOCKS", 4)
    sharing = OneOfMany(lambda i: i == 1, lambda: None)
    sharing.others = lambda: (_ for _ in ()).throw(KeyboardInterrupt)
    evaluator.sharing = sharing
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            calibrate(evaluator, candidates, store, estimator="output", states=1, prompts=1)
    first, again = sharing.asked
    assert first == again
    assert len(first[1]) == 3
    assert (
        stored.calibration_cost(
            evaluator, candidates, store, estimator="output", states=1, prompts=1
        ).known
        == 2
    )


def test_a_block_that_ends_its_process_is_given_up(
    evaluator: Evaluator,
    candidates: Candidates,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After as many deaths as a score may have, no worker begins it; workers that are in the middle
    of other blocks do not count.
    """

    class Killed(BaseException):
        """Nothing catches it, as nothing catches SIGKILL."""

    how: dict[str, Any] = {"estimator": "output", "states": 1, "prompts": 1}
    monkeypatch.setattr(stored, "_measure", lambda *_: (_ for _ in ()).throw(Killed))
    for i in range(DEATHS + 2):
        evaluator.sharing = OneOfMany(lambda at, i=i: at == i, lambda: None)  # type: ignore[misc]
        with pytest.raises(Killed):
            calibrate(evaluator, candidates, store, **how)
    evaluator.sharing = OneOfMany(lambda at: at == 0, lambda: None)
    noted: list[str] = []
    for _ in range(DEATHS - 1):
        with pytest.raises(Killed):
            calibrate(evaluator, candidates, store, noted=noted.append, **how)
    with pytest.raises(RunError, match="ended its process 3 times"):
        calibrate(evaluator, candidates, store, **how)
    assert len(noted) == DEATHS - 1
