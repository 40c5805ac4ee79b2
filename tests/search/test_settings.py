"""Scores of different kernels are of different studies."""

from pathlib import Path

import pytest

from sensitivity.core.format_name import FormatName
from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.fidelity.score import Score
from sensitivity.formats.execution import Execution
from sensitivity.search.settings import study_name
from sensitivity.search.store import Store, assignment_key

from support.blackwell import a_blackwell
from support.fake_search import CANDIDATES, settings


def test_native_and_emulated_scores_are_never_mixed(
    evaluator: Evaluator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On one GPU they are two studies with scores of their own; a search that keeps to emulation
    goes on with the study that an earlier version made there.
    """
    score = Score(net="tiny", mean=0.1, per_prompt=(0.1,), noise_floor=None)
    assignment = assignment_key({"x.0": FormatName.NVFP4})

    def name_and_key(*, emulate: bool) -> tuple[str, str]:
        evaluator.execution = Execution(device="cpu", formats=(FormatName.NVFP4,), emulate=emulate)
        return study_name(evaluator, CANDIDATES, settings()), evaluator.evaluation_key("search")

    before = name_and_key(emulate=False)
    with a_blackwell(monkeypatch), Store.open(tmp_path / "study.db") as store:
        native, emulated = name_and_key(emulate=False), name_and_key(emulate=True)
        assert emulated == before
        assert native[0] != emulated[0]
        store.save_score(native[1], assignment, score, seconds=1.0)
        assert store.find_score(native[1], assignment) == score
        assert store.find_score(emulated[1], assignment) is None
