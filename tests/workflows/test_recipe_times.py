"""A verification times the recipe where the GPU has its formats, and says elsewhere why not. No GPU
here: devices and times are made up.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from sensitivity.core.format_name import FormatName
from sensitivity.fidelity.score import Score
from sensitivity.recipes.recipe import Recipe
from sensitivity.spec.loading import resolve_spec
from sensitivity.workflows import recipe_times, verify
from sensitivity.workflows.end_timing import EndTimes
from sensitivity.workflows.recipe_times import (
    RECIPE,
    lists_by_hand,
    runtime_named,
    time_recipe,
    why_not_timed,
)
from sensitivity.workflows.verify import Verification, verify_and_time

from support.shape_runs import shape_run
from support.timed import end_times
from support.two_blocks import changed, two_block_recipe

FP8 = FormatName.FP8


def flux_recipe() -> Recipe:
    """A recipe of FLUX.1-dev's Linears, all in FP8."""
    table = shape_run("flux1-dev").table
    layers = dict.fromkeys(table.fqns, "fp8")
    return two_block_recipe(layers=layers, skip=[], patterns=[])


def test_time_is_not_measured_without_the_formats(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU, for a model that stands for a larger one, and on a GPU that lacks a format."""
    recipe, flux = two_block_recipe(), resolve_spec("flux1-dev")
    assert (
        why_not_timed(recipe, flux, device="cpu")
        == "torch runs on cpu, and times are measured on a GPU"
    )
    monkeypatch.setattr(recipe_times, "gpu_name", lambda _device: "NVIDIA H200")
    tiny = why_not_timed(recipe, resolve_spec("tiny-flux"), device="cuda")
    assert tiny is not None
    assert "stands for a model 16 times its size" in tiny
    monkeypatch.setattr(
        recipe_times, "native_refusal", lambda name, _device: f"{name} needs a B200"
    )
    assert why_not_timed(recipe, flux, device="cuda") == "mxfp8 needs a B200"
    monkeypatch.setattr(recipe_times, "native_refusal", lambda *_: None)
    assert why_not_timed(recipe, flux, device="cuda") is None


@pytest.mark.parametrize(
    ("latency", "expected"),
    [
        ({"runtime": "torchao-step-graph"}, "torchao-step-graph"),
        ({"runtime": "of another version", "compile_mode": "default"}, "torchao-compiled"),
        ({"runtime": "", "compile_mode": None}, "torchao-graphs"),
    ],
)
def test_the_recipe_names_its_runtime(latency: dict[str, Any], expected: str) -> None:
    """It runs as the recipe says; as its compile mode says where the name is not known."""
    own = two_block_recipe().latency.model_dump() | latency
    assert runtime_named(Recipe.from_mapping(changed("latency", own))).name == expected


def test_lists_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that the format takes and that the GPU's kernels do not refuse, and the rule of
    thumb of that.
    """
    monkeypatch.setattr(
        recipe_times, "describe_environment", lambda _device: {"device": "NVIDIA H200"}
    )
    table = shape_run("flux1-dev").table
    lists = lists_by_hand(flux_recipe(), table, resolve_spec("flux1-dev"), device="cuda")
    assert [*lists] == ["all", "rule of thumb"]
    assert set(lists["rule of thumb"]) < set(lists["all"]) <= set(table.fqns)
    assert set(lists["all"].values()) == {FP8}
    bf16 = two_block_recipe(
        layers={"head": "bf16"}, skip=["head"], patterns=[{"pattern": "head", "reason": ""}]
    )
    assert lists_by_hand(bf16, table, resolve_spec("flux1-dev"), device="cuda") == {}


def test_a_recipe_is_timed_beside_lists_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe comes first, then the lists beside it; without a run the recipe is alone."""
    asked: list[dict[str, Any]] = []

    def time_lists(_loaded: Any, _run: Any, lists: Any, _how: Any) -> EndTimes:
        asked.append(lists)
        return end_times(lists, {})

    monkeypatch.setattr(recipe_times, "time_lists", time_lists)
    loaded: Any = SimpleNamespace(spec=resolve_spec("flux1-dev"), device="cpu")
    times = time_recipe(flux_recipe(), loaded, shape_run("flux1-dev"))
    assert [*asked[0]] == [RECIPE, "all", "rule of thumb"]
    assert times.find(RECIPE).ratio.value == pytest.approx(1.5)
    time_recipe(flux_recipe(), loaded, None)
    assert [*asked[1]] == [RECIPE]


SCORE = Score(net="tiny", mean=0.1, per_prompt=(0.1, 0.1), noise_floor=None)


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], list[Verification]]:
    """Verifies with a made-up score, where the timing is what a test gives."""

    def run(timing: Callable[[], EndTimes], **changes: Any) -> list[Verification]:
        pipeline = SimpleNamespace(loaded=None, run=None)
        monkeypatch.setattr(verify, "compare_by", lambda *_, **__: None)
        monkeypatch.setattr(verify, "_scored", lambda *_: (SCORE, pipeline))
        monkeypatch.setattr(verify, "why_not_timed", lambda *_, **__: None)
        monkeypatch.setattr(verify, "time_recipe", lambda *_, **__: timing())
        seen: list[Verification] = []
        spec = resolve_spec("flux1-dev")
        found = verify_and_time(
            two_block_recipe(), spec, device="cpu", scored=seen.append, **changes
        )
        return [*seen, found]

    return run


def _raise(error: BaseException) -> Any:
    raise error


def test_the_score_comes_first_and_stays(scored: Callable[..., list[Verification]]) -> None:
    """It is handed over before the timing; a failure or an interruption leaves it."""
    first, found = scored(lambda: end_times({RECIPE: {}}, {}))
    assert (first.score, first.times) == (SCORE, None)
    assert found.times is not None
    assert found.untimed == ""
    for error, words in (
        (RuntimeError("no memory"), "no memory"),
        (KeyboardInterrupt(), "it was interrupted"),
    ):
        found = scored(lambda error=error: _raise(error))[-1]
        assert (found.score, found.times, found.untimed) == (SCORE, None, words)
    assert scored(lambda: _raise(AssertionError()), timed=False)[-1].untimed
    failed = scored(lambda: end_times({RECIPE: {}}, {RECIPE: "a kernel refused it"}))[-1]
    assert failed.untimed == "a kernel refused it"
    assert failed.times is not None
