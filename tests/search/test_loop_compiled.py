"""A search whose denoiser is compiled: one set of graphs serves every trial, which the trials' own
record says, and scores are those of eager runs.
"""

import functools
from pathlib import Path

import optuna
import pytest
import torch

from sensitivity.core.format_name import FormatName
from sensitivity.models.compiled_regions import CompiledRegions, compiled_graphs
from sensitivity.search.trials import proposals
from sensitivity.spec.loading import load_spec
from sensitivity.workflows.find import find_recipe
from sensitivity.workflows.requests import SearchRequest

FORMATS = (FormatName.MXFP8, FormatName.NVFP4)


def test_no_trial_compiles_anything(
    tiny_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """References and noise floor compile; after them no trial does, whatever its formats, and
    scores are the eager search's to the bit.
    """
    torch._dynamo.reset()
    monkeypatch.setattr(
        "sensitivity.fidelity.compiled_blocks.CompiledRegions",
        functools.partial(CompiledRegions, backend="eager"),
    )
    before, outcomes = compiled_graphs(), {}
    for compiled in (False, True):
        request = SearchRequest(
            formats=FORMATS,
            budget=2,
            storage=tmp_path / f"{compiled}.db",
            cache_folder=tmp_path / "cache",
            compiled=compiled,
            calibrated=False,
        )
        outcomes[compiled] = find_recipe(load_spec(tiny_study), request)
        assert (compiled_graphs() > before) is compiled
    eager, graphs = outcomes[False].result, outcomes[True].result
    assert [t.score.per_prompt for t in graphs.trials] == [t.score.per_prompt for t in eager.trials]
    assert len({t.choice for t in proposals(graphs.trials)}) == 2
    kept = optuna.load_study(
        study_name=graphs.study, storage=f"sqlite:///{tmp_path / 'True.db'}"
    ).trials
    assert [t.user_attrs["compiled_graphs"] for t in kept] == [0] * len(graphs.trials)
    assert eager.study != graphs.study  # pictures of a compiled denoiser are other pictures


def test_a_failure_gives_memory_back(
    tiny_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Out of memory in one trial: no quantized weight is held any more when it is tried once more,
    and when the next begins; its reason is kept, and the search goes on.
    """
    held: list[int] = []

    def fails_twice(self: object, *args: object, **more: object) -> object:
        switch = self.switch  # type: ignore[attr-defined]
        held.append(len(switch.weights))
        if len(held) in (3, 4):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(self, *args, **more)  # type: ignore[arg-type]

    from sensitivity.fidelity.evaluator import Evaluator

    plain = Evaluator.score
    monkeypatch.setattr(Evaluator, "score", fails_twice)
    request = SearchRequest(
        formats=FORMATS,
        budget=1,
        calibrated=False,
        storage=tmp_path / "x.db",
        cache_folder=tmp_path / "cache",
    )
    outcome = find_recipe(load_spec(tiny_study), request)
    assert outcome.result.failed == 1
    assert len(proposals(outcome.result.trials)) == 1
    assert held[2] > 0
    assert held[3] == held[4] == 0
