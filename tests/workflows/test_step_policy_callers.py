"""Who draws, keys and times a recipe goes by its step policy, and none by its layers alone."""

from types import SimpleNamespace
from typing import Any

import pytest

from sensitivity.recipes.recipe import Recipe
from sensitivity.recipes.without_policy import without_step_policy
from sensitivity.workflows import check, recipe_times
from sensitivity.workflows.gate import Drawing, Gate
from sensitivity.workflows.recipe_times import why_not_timed
from sensitivity.workflows.report.verdict import verdict_of

from support.policies import with_steps
from support.tiny_flux_recipes import SPEC, first_recipe


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    """A recipe of tiny-flux whose first of 8 steps runs in bf16."""
    return with_steps(first_recipe(), mode="bf16", steps=8)


def drawn_for(monkeypatch: pytest.MonkeyPatch, recipe: Recipe, against: Recipe) -> list[Any]:
    """What a check asks the evaluator to draw."""
    seen: list[Any] = []
    evaluator = SimpleNamespace(
        prompts=lambda _split: (["a"], [1]),
        score=lambda formats, _split: seen.append(formats),
        close=lambda: None,
    )
    loaded = SimpleNamespace(weights_hash="0")
    pipeline = SimpleNamespace(evaluator=lambda **_: evaluator, loaded=loaded)
    asked = SimpleNamespace(
        recipe=recipe,
        against=against,
        how=Drawing(device="cpu"),
        gate=Gate(),
        spec=SPEC,
        say=lambda _text: None,
    )
    monkeypatch.setattr(check, "_rules", lambda *_: None)
    check._draw(asked, pipeline)  # type: ignore[arg-type]
    return seen


def test_a_check_draws_by_the_policy(monkeypatch: pytest.MonkeyPatch, recipe: Recipe) -> None:
    """The same list at other steps is drawn for itself, and the same recipe once."""
    alone = without_step_policy(recipe)
    seen = drawn_for(monkeypatch, recipe, alone)
    assert seen == [recipe.assignment, alone.assignment]
    assert [one.policy.first_steps for one in seen] == [1, 0]
    assert drawn_for(monkeypatch, recipe, recipe) == [recipe.assignment]


def test_a_recipe_with_a_policy_is_not_timed(
    monkeypatch: pytest.MonkeyPatch, recipe: Recipe
) -> None:
    """Whole runs are timed with every step alike, which the reason says."""
    monkeypatch.setattr(recipe_times, "gpu_name", lambda _device: "NVIDIA B200")
    why = why_not_timed(recipe, SPEC, device="cuda")
    assert (
        why == "lists are timed with every step alike, and the recipe runs its first 1 step in bf16"
    )


def test_a_report_says_which_steps_run_in_bf16(recipe: Recipe) -> None:
    """Beside how many Linears are quantized."""
    assert verdict_of(recipe).steps == "first 1 step in bf16 (7 of 8 steps quantized)"
    assert verdict_of(first_recipe()).steps == ""
