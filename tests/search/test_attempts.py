"""What is tried again, what is not, and whose fault an error is."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from sensitivity.errors import DeviceLostError, MeasurementError, OutputError, PipelineError
from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.search.attempts import (
    ATTEMPTS,
    DEATHS,
    RunError,
    attempt,
    counting_deaths,
    make_references,
    of_the_caller,
    says_no_room,
)
from sensitivity.search.store import Store

from support import fake_search


class Died(BaseException):
    """Stands for the end of the process: nothing handles it."""


class Recovering:
    """Stands for an evaluator: counts `recover`, and gives references or an error."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.recovered, self.noise_floors = error, 0, {}  # type: ignore[var-annotated]

    def recover(self) -> None:
        """Count."""
        self.recovered += 1

    def references(self, _split: str) -> None:
        """Fail, or nothing."""
        if self.error is not None:
            raise self.error


def failing(*errors: BaseException | None) -> Callable[[], str]:
    """A run that raises these, one a call, and then gives "done"."""
    left = list(errors)

    def run() -> str:
        error = left.pop(0) if left else None
        if error is not None:
            raise error
        return "done"

    return run


def tried(run: Callable[[], Any], evaluator: Recovering, noted: list[str] | None = None) -> Any:
    """The run, attempted."""
    note = [].append if noted is None else noted.append
    return attempt(run, cast("Evaluator", evaluator), noted=note)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("x"), MemoryError(), ZeroDivisionError(), AssertionError("y")]
)
def test_a_failure_of_any_kind_is_tried_once_more(error: Exception) -> None:
    """Memory is given back in between, and it is said; the second failure is final."""
    evaluator, noted = Recovering(), list[str]()
    assert tried(failing(error), evaluator, noted) == "done"
    assert (evaluator.recovered, len(noted)) == (1, 1)
    assert type(error).__name__ in noted[0]
    with pytest.raises(RunError, match=rf"^{type(error).__name__}: "):
        tried(failing(*[error] * ATTEMPTS), evaluator)
    assert evaluator.recovered == 1 + ATTEMPTS


@pytest.mark.parametrize(
    "error", [MeasurementError("NaN"), PipelineError("blank"), KeyboardInterrupt(), SystemExit(1)]
)
def test_what_would_come_again_passes_at_once(error: BaseException) -> None:
    """Errors of the program itself, and what ends the process."""
    evaluator = Recovering()
    with pytest.raises(type(error)):
        tried(failing(error), evaluator)
    assert evaluator.recovered == 0


def test_the_callers_errors_are_the_callers() -> None:
    """A listener that fails inside of a run ends it with its own error, once."""
    calls: list[int] = []

    def listener(done: int) -> None:
        calls.append(done)
        raise BrokenPipeError(errno.EPIPE, "gone")

    with pytest.raises(BrokenPipeError, match="gone"):
        tried(lambda: of_the_caller(listener)(3), Recovering())
    assert calls == [3]


def test_a_full_disk_is_nobodys_failure() -> None:
    """However deep it is wrapped; other errors of files are failures of the run."""
    full = OSError(errno.ENOSPC, "No space left on device")
    wrapped = RuntimeError("the cache failed")
    wrapped.__cause__ = full
    for error in (full, wrapped, OSError(errno.EDQUOT, "quota"), OSError(errno.EROFS, "ro")):
        assert says_no_room(error)
        with pytest.raises(OutputError, match="a disk with room: free some and run the same"):
            tried(failing(error), Recovering())
    assert not says_no_room(OSError(errno.EIO, "Input/output error"))
    assert not says_no_room(None)
    circle = RuntimeError("a")
    circle.__cause__ = ValueError("b")
    circle.__cause__.__cause__ = circle
    assert not says_no_room(circle)


def test_a_gpu_that_answers_no_more_ends_the_process() -> None:
    """It is not tried again in this process, and it is no failure of the run's kind."""
    error = RuntimeError("CUDA error: an illegal memory access was encountered")
    evaluator = Recovering()
    with pytest.raises(DeviceLostError, match=r"illegal memory access.*expected a new process"):
        tried(failing(error), evaluator)
    assert evaluator.recovered == 0
    assert not issubclass(DeviceLostError, MeasurementError)


def test_a_run_that_breaks_the_gpu_counts_as_a_death(tmp_path: Path) -> None:
    """So a skip-list that does it again and again is given up; other errors count nothing."""
    with Store.open(tmp_path / "study.db") as store:
        for error in (DeviceLostError("lost"), KeyboardInterrupt(), OutputError("full")):
            with pytest.raises(type(error)), counting_deaths(store, "e", "a", print):
                raise error
            assert store.find_deaths("e", "a") == 1
        for _ in range(DEATHS - 1):
            with pytest.raises(DeviceLostError), counting_deaths(store, "e", "a", print):
                raise DeviceLostError("lost")
        with (
            pytest.raises(RunError, match="ended its process 3 times"),
            counting_deaths(store, "e", "a", print),
        ):
            raise AssertionError("it was begun")


def test_a_reason_is_one_printable_line() -> None:
    """Whatever the error says."""
    error = RuntimeError("\x1b[31mred\u202e\nsecond line")
    with pytest.raises(RunError) as caught:
        tried(failing(error, error), Recovering())
    assert str(caught.value).isprintable()
    assert "second" not in str(caught.value)
    assert len(str(caught.value)) < 1_100


def test_bf16_that_does_not_run_is_said_as_that() -> None:
    """It is no failure of a skip-list, and the message has a next step."""
    error = torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(MeasurementError, match=r"bf16's own .*search\.batch_size") as caught:
        make_references(cast("Evaluator", Recovering(error)), "search")
    assert not isinstance(caught.value, RunError)


def test_layer_sensitivities_that_end_their_process_are_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One restart less often than `DEATHS` changes nothing; after that the search goes on without
    them and reaches its budget.
    """
    calibrate = fake_search.calibrate

    def die(*_: Any, **_more: Any) -> None:
        raise Died

    def run(name: str, *, deaths: int = 0) -> Any:
        for left in range(deaths, -1, -1):
            monkeypatch.setattr(fake_search, "calibrate", die if left else calibrate)
            evaluator = fake_search.FakeEvaluator()
            how = (tmp_path / f"{name}.db", evaluator, fake_search.settings(), monkeypatch)
            if left:
                with pytest.raises(Died):
                    fake_search.search(*how)
        return fake_search.search(*how)

    undisturbed = run("plain")
    assert run("disturbed", deaths=DEATHS - 1) == undisturbed
    without = run("without", deaths=DEATHS)
    assert len(without[0]) == fake_search.BASELINES + fake_search.BUDGET
    assert [t[5] for t in without[0]] != [t[5] for t in undisturbed[0]]  # other estimates
