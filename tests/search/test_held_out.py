"""Held-out scores that judges did not see: used as they are, or drawn again when somebody asks.
Several workers draw them together.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sensitivity.core.format_name import quantized
from sensitivity.errors import MeasurementError
from sensitivity.fidelity.judges.panel import Panel
from sensitivity.fidelity.judges.wishes import JudgeWishes
from sensitivity.fidelity.score import JudgeValues, PartialScore, Score
from sensitivity.search.held_out import HeldOutScores
from sensitivity.search.store import Store
from sensitivity.search.trials import ScoredTrial

from support.fake_search import CANDIDATES, FakeEvaluator
from support.sharing import FolderSharing

TRIAL = ScoredTrial(
    index=0,
    number=1,
    choice=(1, 0, 1, 0),
    label="",
    latency_s=1.0,
    score=Score(net="tiny", mean=0.1, per_prompt=(0.1,), noise_floor=None),
    seconds=0.0,
)


class Judged(FakeEvaluator):
    """Its scores have what these judges say."""

    def __init__(self, *judges: str, **wishes: Any) -> None:
        super().__init__()
        self.judges = judges
        asked = JudgeWishes(**wishes)
        self.panel = Panel(asked, prompts=self.prompts("held_out")[0]) if wishes else None

    def score(self, *args: Any, **options: Any) -> Score | PartialScore:
        score = super().score(*args, **options)
        assert isinstance(score, Score)
        said = JudgeValues(per_prompt=(0.5,), noise_floor=None)
        return replace(score, judges=dict.fromkeys(self.judges, said))


def scores_of(evaluator: Judged, store: Store, *, compute: bool = True) -> HeldOutScores:
    return HeldOutScores(
        evaluator=evaluator,  # type: ignore[arg-type]
        store=store,
        candidates=CANDIDATES,
        compute=compute,
    )


@pytest.fixture(autouse=True)
def _all_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every judge could look."""
    monkeypatch.setattr("sensitivity.fidelity.judges.panel.why_missing", lambda _name: "")


def test_a_stored_score_is_completed_only_when_its_judge_is_asked_for(tmp_path: Path) -> None:
    """By default it is read as it is, and a note says which judges did not look; asked for by
    name, or bounded, it is drawn again, and what only the old one said is kept.
    """
    with Store.open(tmp_path / "a.db") as store:
        assert scores_of(Judged("own:old"), store)(TRIAL) is not None
        default = Judged("psnr", asked=())
        default.panel = Panel(JudgeWishes(), prompts=default.prompts("held_out")[0])
        looked = scores_of(default, store)
        assert set((looked(TRIAL) or TRIAL.score).judges) == {"own:old"}
        assert default.scored["held_out"] == 0
        assert "older than the judges psnr, ssim, flip" in looked.announce([TRIAL])

        asked = Judged("psnr", "flip", asked=("flip",))
        again = scores_of(asked, store)
        assert "1 to draw" in again.announce([TRIAL])
        assert set((again(TRIAL) or TRIAL.score).judges) == {"own:old", "psnr", "flip"}
        assert asked.scored["held_out"] == 1
        assert set((again(TRIAL) or TRIAL.score).judges) == {"own:old", "psnr", "flip"}
        assert asked.scored["held_out"] == 1


def test_without_drawing_only_a_bound_passes_a_score_over(tmp_path: Path) -> None:
    """A judge that is merely recorded does not make a known score unknown."""
    with Store.open(tmp_path / "a.db") as store:
        scores_of(Judged(), store)(TRIAL)
        recorded = scores_of(Judged(asked=("flip",)), store, compute=False)
        bounded = scores_of(Judged(max_judge={"flip": 0.1}), store, compute=False)
        assert recorded(TRIAL) is not None
        assert bounded(TRIAL) is None


class Failing(Judged):
    """Cannot score the list that quantizes most."""

    def score(self, formats: Any, split: str, **options: Any) -> Score | PartialScore:
        if len(quantized(formats)) == 4:
            self.scored[split] += 1
            raise MeasurementError("it is not finite")
        return super().score(formats, split, **options)


def test_workers_draw_what_is_planned_together(tmp_path: Path) -> None:
    """Each score is made once and read by all; a list that fails is tried by each worker, and
    nobody waits for it.
    """
    choices = [(1, 0, 0, 0), (1, 1, 0, 0), (0, 1, 1, 0), (0, 0, 1, 1), (1, 1, 1, 1)]
    trials = [replace(TRIAL, index=i, choice=choice) for i, choice in enumerate(choices)]
    with Store.open(tmp_path / "a.db") as store:
        workers = [scores_of(Failing(), store) for _ in range(3)]
        told: list[tuple[int, int]] = []
        workers[0].progress = lambda done, total: told.append((done, total))
        for name, worker in zip("abc", workers, strict=True):
            worker.evaluator.sharing = FolderSharing(tmp_path / "claims", name)
            worker.announce(trials)
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(HeldOutScores.draw_together, workers, [trials] * 3))
        drawn = [worker.evaluator.scored["held_out"] for worker in workers]  # type: ignore[attr-defined]
        assert sum(drawn) == 4 + 3
        assert told[-1][0] == told[-1][1]
        for worker in workers:
            assert [worker.find(trial) is not None for trial in trials] == [True] * 4 + [False]
            assert set(worker.failures) == {4}
            worker.draw_together(trials)
        assert sum(worker.evaluator.scored["held_out"] for worker in workers) == 7  # type: ignore[attr-defined]


def test_alone_nothing_is_drawn_before_it_is_asked_for(tmp_path: Path) -> None:
    """A worker by itself draws by turns, as the choice asks."""
    with Store.open(tmp_path / "a.db") as store:
        scores = scores_of(Judged(), store)
        scores.draw_together([TRIAL])
        assert scores.evaluator.scored["held_out"] == 0  # type: ignore[attr-defined]
