"""What is said of a search before its first picture."""

from dataclasses import replace
from pathlib import Path

import pytest

from sensitivity.fidelity.score import Score
from sensitivity.search.candidates import baselines
from sensitivity.search.store import Store
from sensitivity.workflows import outlook
from sensitivity.workflows.outlook import outlook_of, picture_seconds
from sensitivity.workflows.plan import slower
from sensitivity.workflows.prepare import Prepared
from sensitivity.workflows.progress import PictureSeconds
from sensitivity.workflows.requests import SearchRequest

REQUEST = SearchRequest()


def test_gains_by_hand_are_those_of_the_candidates(prepared: Prepared) -> None:
    """Each list by hand but bf16 with its priced seconds, and what there is to search."""
    candidates = prepared.candidates
    found = outlook_of(candidates, prepared.latency)
    assert found.lists == {
        label: candidates.latency_s(choice)
        for label, choice in baselines(candidates)
        if label != "none"
    }
    assert (found.bf16_s, found.groups) == (candidates.bf16_s, len(candidates.groups))
    assert found.linears == sum(len(group.fqns) for group in candidates.groups)
    assert (found.picture, found.timing_s) == (None, 0.0)
    words = found.describe()
    assert f"bf16 takes {candidates.bf16_s * 1e3:.2f} ms a run (predicted for b200): " in words
    for label, seconds in found.lists.items():
        assert f"{label} {candidates.bf16_s / seconds:.3f}x" in words


def test_seconds_of_a_picture_are_those_of_scores_else_a_dry_runs(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores of the same prompts tell what a quantized picture takes; without one it is what a dry
    run says of bf16, and nothing where memory is too short for it.
    """
    assert prepared.run is not None
    evaluator, factor = prepared.evaluator, slower(REQUEST)
    pictures = len(evaluator.prompts("search")[0])

    def no_memory(*_: object) -> None:
        raise RuntimeError("CUDA out of memory")

    with Store.open(tmp_path / "s.db") as store:
        assert picture_seconds(replace(prepared, run=None), REQUEST, store) is None
        monkeypatch.setattr(outlook, "seconds_of_run", no_memory)
        assert picture_seconds(prepared, REQUEST, store) is None
        monkeypatch.setattr(outlook, "seconds_of_run", lambda *_: (6.0, "a test"))
        bf16 = 6.0 / prepared.run.table.batch_size
        said = picture_seconds(prepared, REQUEST, store)
        assert said == PictureSeconds(bf16=bf16, quantized=bf16 * factor)
        score = Score(net="tiny", mean=0.1, per_prompt=(0.1,) * pictures, noise_floor=None)
        for name, seconds in (("a", 1.0), ("b", 9.0), ("c", 2.0)):
            store.save_score(evaluator.evaluation_key("search"), name, score, seconds=seconds)
        said = picture_seconds(prepared, REQUEST, store)
    assert said == PictureSeconds(bf16=2.0 / pictures / factor, quantized=2.0 / pictures)
