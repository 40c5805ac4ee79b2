"""Which arithmetic a list is drawn in beside its own, and what happens where a run fails. The
measurement itself is in `tests/workflows/test_find.py`, with a search.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sensitivity.core.arithmetic import Arithmetic
from sensitivity.core.format_name import FormatName
from sensitivity.errors import OutputError
from sensitivity.fidelity.score import Score, score_of
from sensitivity.formats.served import format_in
from sensitivity.search.attempts import ATTEMPTS, DEATHS
from sensitivity.search.native_rounding import NativeRounding, against, relative_change
from sensitivity.search.native_rounding import native_rounding as measure
from sensitivity.search.store import Store

from support.fake_search import CANDIDATES, FakeEvaluator

MXFP8, NVFP4, FP8 = FormatName.MXFP8, FormatName.NVFP4, FormatName.FP8
EAGER, COMPILED, MSLK = Arithmetic.EAGER, Arithmetic.COMPILED, Arithmetic.MSLK


@pytest.mark.parametrize(
    ("formats", "own", "other"),
    [
        ({NVFP4}, EAGER, MSLK),
        ({NVFP4, MXFP8}, EAGER, MSLK),
        ({FP8}, EAGER, COMPILED),
        ({FP8, NVFP4}, EAGER, COMPILED),
        ({NVFP4}, MSLK, EAGER),
        ({FP8}, COMPILED, EAGER),
        ({MXFP8}, EAGER, None),
        (set(), EAGER, None),
    ],
)
def test_the_other_arithmetic_is_known_and_differs(
    formats: set[FormatName], own: Arithmetic, other: Arithmetic | None
) -> None:
    """Every format has exact numbers in it, and one at least has others than in its own."""
    assert against(formats, own) is other
    if other is not None:
        assert any(format_in(name, own) is not format_in(name, other) for name in formats)


def test_the_change_is_that_of_geometric_means() -> None:
    """Twice as large on one of two prompts is a factor of the square root of 2, in both
    directions; next to a large floor it vanishes.
    """

    def score(*values: float) -> Score:
        return score_of(torch.tensor(values), net="tiny", noise_floor=None)

    one, two = score(0.1, 0.02), score(0.2, 0.02)
    assert relative_change(one, two, floor=None) == pytest.approx(2**0.5 - 1, rel=1e-4)
    assert relative_change(two, one, floor=None) == pytest.approx(2**0.5 - 1, rel=1e-4)
    assert relative_change(one, one, floor=None) == 0
    assert relative_change(score(0.0, 0.02), score(0.01, 0.02), floor=1.0) < 0.01


class Died(BaseException):
    """Stands for the end of the process: nothing handles it."""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., NativeRounding | None]:
    """Measures in one database; the drawing raises each of the given errors before it succeeds."""
    scores = [score_of(torch.tensor([x, x]), net="tiny", noise_floor=None) for x in (0.2, 0.1, 0.1)]
    evaluator: Any = FakeEvaluator()
    evaluator.arithmetic, evaluator.noise_floor = EAGER, None

    def measured(*errors: BaseException, notes: list[str] | None = None) -> NativeRounding | None:
        left = list(errors)

        def draw(*_: Any) -> list[Score]:
            if left:
                raise left.pop(0)
            return scores

        monkeypatch.setattr("sensitivity.search.native_rounding._compare", draw)
        say = (notes if notes is not None else []).append
        with Store.open(tmp_path / "study.db") as store:
            return measure(evaluator, store, CANDIDATES, compute=True, say=say)

    return measured


def test_memory_that_was_short_in_passing_changes_nothing(run: Callable[..., Any]) -> None:
    """It is tried once more, which is said, and the result is that of an undisturbed run."""
    notes: list[str] = []
    found = run(torch.OutOfMemoryError("CUDA out of memory"), notes=notes)
    assert found == NativeRounding(lpips=pytest.approx(0.2), change=0, arithmetic=MSLK, prompts=2)
    assert "native rounding: it failed and is tried once more" in notes[1]
    assert run(RuntimeError("never reached")) == found


def test_a_run_that_fails_for_good_costs_the_floor_alone(
    run: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """A lasting error is said and gives no floor; a full disk is the user's to mend."""
    assert run(*[RuntimeError("cuBLAS")] * ATTEMPTS) is None
    assert "native rounding is not known: RuntimeError: cuBLAS" in caplog.text
    with pytest.raises(OutputError, match="expected a disk with room"):
        run(OSError(28, "No space left on device"))
    assert run() is not None


def test_a_run_that_ends_its_process_is_given_up(
    run: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """So a search whose trials are all done comes to its recipe."""
    for _ in range(DEATHS):
        with pytest.raises(Died):
            run(Died())
    assert run() is None
    assert f"not known: it ended its process {DEATHS} times" in caplog.text
