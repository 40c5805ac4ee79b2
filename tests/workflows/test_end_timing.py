"""Lists of a loaded pipeline are timed end to end; sums of shapes stand beside them."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from sensitivity.core.format_name import FormatName
from sensitivity.latency.devices import get_device
from sensitivity.latency.predicted import PredictedLatency
from sensitivity.latency.runtimes import runtime_of
from sensitivity.latency.timing.timed_lists import Conditions
from sensitivity.spec.loading import resolve_spec
from sensitivity.workflows import end_timing
from sensitivity.workflows.end_timing import time_lists, with_shapes

from support.shape_runs import shape_run
from support.timed import end_times, timed

HOW = Conditions(runtime=runtime_of("default"), device="cpu")


@pytest.mark.parametrize(
    ("weights", "has_run", "whole"),
    [("pretrained", True, True), ("random", True, False), ("random", False, True)],
)
def test_what_is_timed(
    monkeypatch: pytest.MonkeyPatch, weights: str, has_run: bool, whole: bool
) -> None:
    """With random weights the denoisers' calls, if they are known; else the whole pipeline call,
    with all of the pipeline on the device. Every case says which.
    """
    spec, run = resolve_spec("flux1-dev"), shape_run("flux1-dev")
    spec = spec.model_copy(update={"model": spec.model.model_copy(update={"weights": weights})})
    done: list[str] = []
    loaded: Any = SimpleNamespace(
        spec=spec, denoisers={"transformer": None}, keep_resident=lambda: done.append("resident")
    )

    def fake(kind: str) -> Any:
        def time(*arguments: Any) -> Any:
            done.append(kind)
            how: Conditions = arguments[-1]
            assert (how.activation_bytes > 0) == has_run
            return {"none": timed("none"), "all": timed("all")}

        return time

    monkeypatch.setattr(end_timing, "time_denoisers", fake("denoisers"))
    monkeypatch.setattr(end_timing, "time_pipeline", fake("pipeline"))
    times = time_lists(loaded, run if has_run else None, {"all": {}}, HOW)
    assert done == (["resident", "pipeline"] if whole else ["denoisers"])
    assert times.whole == whole
    assert times.covers == (
        "the whole pipeline call"
        if whole
        else "28 denoiser calls with random weights and inputs; nothing else of the pipeline"
    )
    assert [run.name for run in times.runs] == ["none", "all"]


def test_sums_of_shapes_cover_what_was_timed() -> None:
    """Beside denoiser calls stands the sum without the other components."""
    run, latency = shape_run("flux1-dev"), PredictedLatency(get_device("b200"))
    lists = {"all": {"proj_out": FormatName.NVFP4}}
    whole = end_times(lists, {})
    table = run.table
    others_s = latency.others_s(table)
    assert others_s > 0
    full = with_shapes(whole, latency, table, lists)
    part = with_shapes(replace(whole, whole=False), latency, table, lists)
    for name in ("none", "all"):
        assert full.shapes[name].bf16_s == latency.estimate(table, {}).bf16_s
        assert part.shapes[name].bf16_s == pytest.approx(full.shapes[name].bf16_s - others_s)
    assert "by the sum of shapes" in full.difference("all")
    assert full.difference("none") == ""
    data = full.to_json()
    assert data["runs"][1]["shapes"]["source"] == "predicted"
    assert data["runs"][1]["rounds_s"] == pytest.approx([2.0, 2.02, 1.98])
