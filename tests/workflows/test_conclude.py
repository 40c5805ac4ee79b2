"""The end of a search where verifications fail. No picture is generated."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from sensitivity.core.format_name import FormatName, quantized
from sensitivity.errors import ConstraintError, MeasurementError
from sensitivity.fidelity.score import Score
from sensitivity.fidelity.sharing import Alone
from sensitivity.search.attempts import ATTEMPTS, DEATHS
from sensitivity.search.front import Constraints
from sensitivity.search.held_out import HeldOutScores
from sensitivity.search.log import study_names
from sensitivity.search.loop import read_search, run_search
from sensitivity.search.settings import SearchSettings
from sensitivity.search.store import Store
from sensitivity.workflows.conclude import SearchOutcome, conclude, verify_together
from sensitivity.workflows.prepare import Prepared

from support.searches import NVFP4
from support.sharing import FolderSharing

Formats = Mapping[str, FormatName]


class Died(BaseException):
    """Stands for the end of the process: nothing handles it."""


class Judge:
    """Stands for `Evaluator.score`: LPIPS is the squared share of quantized Linears. `fails(split,
    number of quantized Linears)` gives an error, or none. `runs` counts calls by (split, number).
    """

    def __init__(
        self, prepared: Prepared, fails: Callable[[str, int], BaseException | None]
    ) -> None:
        self.prompts, self.fails = prepared.evaluator.prompts, fails
        self.runs: dict[tuple[str, int], int] = {}

    def __call__(self, formats: Formats, split: Any, **_more: Any) -> Score:
        """A score without a picture, or the error."""
        count = len(quantized(formats))
        self.runs[split, count] = self.runs.get((split, count), 0) + 1
        if (error := self.fails(split, count)) is not None:
            raise error
        mean = (count / len(formats)) ** 2
        values = [mean * (1 + 0.1 * i) for i in range(len(self.prompts(split)[0]))]
        return Score(
            net="tiny",
            mean=sum(values) / len(values),
            per_prompt=tuple(values),
            noise_floor=None,
        )


@pytest.fixture(autouse=True)
def no_garbage_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed run holds no memory here, and looking for some takes most of a second."""
    monkeypatch.setattr("sensitivity.fidelity.evaluator.release_memory", lambda *_, **__: None)


@pytest.fixture
def ended(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., SearchOutcome]:
    """Runs a search of four trials beside the baselines with a `Judge`, and its end; with `reads`
    the end alone. `first` is called before the end, as `verify_together` is.
    """

    def run(
        judge: Judge,
        *,
        said: list[str] | None = None,
        budget: int = 4,
        reads: bool = False,
        first: Callable[..., None] = lambda *_: None,
        **bounds: float,
    ) -> SearchOutcome:
        monkeypatch.setattr(prepared.evaluator, "score", judge)
        settings = SearchSettings(formats=NVFP4, target="b200", budget=budget, calibrated=False)
        say = [].append if said is None else said.append
        with Store.open(tmp_path / "ended.db") as store:
            if reads:
                result = read_search(store, *study_names(store), prepared.candidates)
            else:
                result = run_search(prepared.evaluator, prepared.candidates, store, settings)
            scores = HeldOutScores(
                evaluator=prepared.evaluator,
                store=store,
                candidates=prepared.candidates,
                noted=say,
            )
            first(prepared, Constraints(**bounds), result, scores, say)
            return conclude(prepared, settings, Constraints(**bounds), result, scores, say)

    return run


def never(_split: str, _count: int) -> None:
    """Nothing fails."""


def count_of(prepared: Prepared, outcome: SearchOutcome) -> int:
    """How many Linears the winner quantizes."""
    assert outcome.chosen is not None
    return len(quantized(prepared.candidates.decode(outcome.chosen.choice)))


def test_workers_draw_the_shortlist_before_one_chooses(
    prepared: Prepared, ended: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the choice asks for is known then, and the recipe is the same; where nothing can win,
    that is left to the choice to say. A worker by itself draws nothing before.
    """
    usual = ended(Judge(prepared, never))
    (tmp_path / "ended.db").unlink()
    judge, drawn = Judge(prepared, never), list[int]()

    def together(*args: Any) -> None:
        for sharing in (Alone(), FolderSharing(tmp_path / "claims")):
            monkeypatch.setattr(prepared.evaluator, "sharing", sharing)
            verify_together(*args)
            drawn.append(sum(n for (split, _), n in judge.runs.items() if split == "held_out"))

    assert ended(judge, first=together).recipe == usual.recipe
    assert drawn[0] == 0
    assert drawn[1] == sum(n for (split, _), n in judge.runs.items() if split == "held_out") > 2
    with pytest.raises(ConstraintError):
        ended(judge, first=together, reads=True, min_speedup=1_000.0)


@pytest.mark.parametrize("bounds", [{}, {"max_lpips": 0.3}, {"min_speedup": 1.01}], ids=str)
def test_a_winner_that_cannot_be_verified_gives_way_to_the_next(
    prepared: Prepared, ended: Any, tmp_path: Path, bounds: dict[str, float]
) -> None:
    """Its failure is said and stands in the outcome and the recipe, the others are verified, and
    the recipe is one of them and quantizes something.
    """
    usual = ended(Judge(prepared, never), **bounds)
    best, said = count_of(prepared, usual), list[str]()
    (tmp_path / "ended.db").unlink()

    def fails(split: str, count: int) -> Exception | None:
        return RuntimeError("CUBLAS error") if (split, count) == ("held_out", best) else None

    judge = Judge(prepared, fails)
    outcome = ended(judge, said=said, **bounds)
    assert judge.runs["held_out", best] == ATTEMPTS
    assert outcome.winner.first.index == usual.winner.first.index
    assert count_of(prepared, outcome) not in (0, best)
    assert outcome.unverified == {usual.chosen.name: "RuntimeError: CUBLAS error"}
    assert outcome.recipe.choice.passed_over == (usual.chosen.name,)
    assert f"{usual.chosen.name} could not be verified: RuntimeError: CUBLAS error" in said
    judge.fails = never
    assert ended(judge, **bounds).recipe == usual.recipe


def test_where_the_whole_shortlist_fails_others_are_asked(
    prepared: Prepared, ended: Any, tmp_path: Path
) -> None:
    """Every skip-list of the shortlist but bf16 fails: the next best is named, not bf16."""
    usual = ended(Judge(prepared, never))
    decode = prepared.candidates.decode
    bad = {len(quantized(decode(t.choice))) for t in usual.winner.shortlist} - {0}
    (tmp_path / "ended.db").unlink()

    def fails(split: str, count: int) -> Exception | None:
        return ValueError(f"{count}") if split == "held_out" and count in bad else None

    outcome = ended(Judge(prepared, fails))
    assert count_of(prepared, outcome) not in {0, *bad}
    assert {t.name for t in usual.winner.shortlist} - {"none"} <= set(outcome.unverified)


def test_where_every_verification_fails_nothing_is_named(prepared: Prepared, ended: Any) -> None:
    """That is said with the reasons, and no recipe of bf16 stands in for it."""

    def fails(split: str, count: int) -> Exception | None:
        return TypeError("no") if split == "held_out" and count else None

    with pytest.raises(MeasurementError, match=r"failed when they were verified \(TypeError: no\)"):
        ended(Judge(prepared, fails))


def test_a_bound_that_nothing_meets_is_said_though_some_failed(
    prepared: Prepared, ended: Any
) -> None:
    """Where what ran breaks the bound on the held-out prompts, that is the message."""
    judge = Judge(
        prepared, lambda split, count: ValueError() if split == "held_out" and count > 40 else None
    )
    usual = ended(judge, max_lpips=1e-9)
    assert count_of(prepared, usual) == 0


def test_where_every_quantized_trial_fails_that_is_said(prepared: Prepared, ended: Any) -> None:
    """bf16 alone is no result of a search."""
    kinds = [ValueError, TypeError, KeyError, IndexError, OSError, AssertionError, RuntimeError]

    def fails(_split: str, count: int) -> Exception | None:
        return kinds[count % len(kinds)](f"{'x' * count}") if count else None

    with pytest.raises(MeasurementError, match="10 trials in a row failed"):
        ended(Judge(prepared, fails))
    with pytest.raises(MeasurementError, match=r"all \d+ quantized trials failed \(.*run the same"):
        ended(Judge(prepared, fails), reads=True)


def test_a_verification_that_ends_its_process_is_given_up(
    prepared: Prepared, ended: Any, tmp_path: Path
) -> None:
    """After `DEATHS` restarts the others are verified, and one of them is named."""
    usual = ended(Judge(prepared, never))
    best = count_of(prepared, usual)
    (tmp_path / "ended.db").unlink()

    def dies(split: str, count: int) -> BaseException | None:
        return Died() if (split, count) == ("held_out", best) else None

    for _ in range(DEATHS):
        with pytest.raises(Died):
            ended(Judge(prepared, dies))
    outcome = ended(Judge(prepared, dies))
    assert list(outcome.unverified) == [usual.chosen.name]
    assert f"it ended its process {DEATHS} times" in outcome.unverified[usual.chosen.name]
    assert count_of(prepared, outcome) not in (0, best)


def test_ctrl_c_in_a_verification_is_not_counted(prepared: Prepared, ended: Any) -> None:
    """However often it comes, the skip-list is verified in the end."""
    interrupts = [True] * (DEATHS + 2)

    def fails(split: str, count: int) -> BaseException | None:
        return KeyboardInterrupt() if split == "held_out" and count and interrupts else None

    for _ in range(len(interrupts)):
        outcome = ended(Judge(prepared, fails))
        assert outcome.result.interrupted
        assert outcome.recipe is None
        interrupts.pop()
    assert ended(Judge(prepared, fails)).unverified == {}
