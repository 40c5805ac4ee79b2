"""The field `step_policy` of a recipe: what it may say, what it changes, and who must notice it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sensitivity.core.assignment import Assignment
from sensitivity.core.format_name import FormatName
from sensitivity.core.step_policy import PLAIN, EdgeMode, StepPolicy
from sensitivity.errors import RecipeError
from sensitivity.recipes.diff import compare_recipes
from sensitivity.recipes.gate_record import layers_digest
from sensitivity.recipes.parts import beside_bytes, weight_bytes
from sensitivity.recipes.recipe import Recipe, load_recipe
from sensitivity.recipes.step_policy_record import StepPolicyRecord
from sensitivity.recipes.without_policy import without_step_policy

from support.two_blocks import LAYERS, TwoBlockNet, recipe_data, two_block_recipe

STEPS = {"first_steps": 2, "last_steps": 1, "mode": "bf16", "steps": 28}
POLICY = StepPolicy(first_steps=2, last_steps=1)
OLD = Path(__file__).parents[1] / "data" / "recipe-1.0-first.json"


def with_policy(**changes: Any) -> Recipe:
    """The two-block recipe with a policy."""
    return two_block_recipe(step_policy=STEPS | changes)


def test_a_policy_survives_and_is_assigned(tmp_path: Path) -> None:
    """It comes back from the file, and what is drawn and priced has it."""
    recipe = with_policy()
    again = load_recipe(recipe.save(tmp_path / "r.json"))
    assert again == recipe
    assert again.assignment == Assignment(recipe.layers, POLICY)
    assert again.step_policy is not None
    assert again.step_policy.share == 25 / 28
    assert again.step_policy.words == "first 2 and last 1 steps in bf16 (25 of 28 steps quantized)"


def test_files_without_one_are_written_back_as_they_were() -> None:
    """Recipes of all earlier versions have the plain policy and no new key, at any level."""
    for recipe in (two_block_recipe(), load_recipe(OLD)):
        assert recipe.assignment == recipe.layers
        assert recipe.assignment.policy == PLAIN
        assert "step_policy" not in recipe.to_json()
        assert "beside_bytes" not in recipe.to_json()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"first_steps": -1}, r"step_policy\.first_steps"),
        ({"first_steps": True}, r"step_policy\.first_steps"),
        ({"first_steps": 2.0}, r"step_policy\.first_steps"),
        ({"first_steps": "2"}, r"step_policy\.first_steps"),
        ({"last_steps": 10**30}, r"step_policy\.last_steps"),
        ({"mode": "fp16"}, r"step_policy\.mode"),
        ({"mode": None}, r"step_policy\.mode"),
        ({"steps": 0}, r"step_policy\.steps"),
        ({"steps": 3}, "found 2 first and 1 last steps of 3, by which no step runs quantized"),
        ({"first_steps": 0, "last_steps": 0}, "found a policy without first and last steps"),
    ],
)
def test_a_wrong_policy_is_refused(changes: dict[str, Any], message: str) -> None:
    """Numbers that are none, unknown words, and policies that another recipe would say."""
    with pytest.raises(RecipeError, match=message):
        with_policy(**changes)


def test_a_policy_of_nothing_quantized_is_refused() -> None:
    """A recipe in bf16 has one form."""
    layers = dict.fromkeys(LAYERS, "bf16")
    data = recipe_data(layers=layers, patterns=[], step_policy=STEPS)
    with pytest.raises(RecipeError, match="found a step policy and 5 layers in bf16"):
        Recipe.from_mapping(data)


def test_a_record_of_what_was_assigned() -> None:
    """With the number of steps it was searched at; None where every step runs alike."""
    formats = {"a": FormatName.NVFP4}
    record = StepPolicyRecord.of(Assignment(formats, POLICY), steps=28)
    assert record is not None
    assert record.model_dump(mode="json") == STEPS
    assert record.policy == POLICY
    assert StepPolicyRecord.of(Assignment(formats), steps=28) is None


def test_the_policy_is_shown() -> None:
    """In a line, and in the table of a notebook with the bytes that are kept beside."""
    data = recipe_data(step_policy=STEPS)
    data["memory"] |= {"quantized_bytes": 3 * 2**20, "beside_bytes": 2**20}
    recipe = Recipe.from_mapping(data)
    assert "3 of 5 Linears quantized, first 2 and last 1 steps in bf16, 1.500x" in repr(recipe)
    assert "1 MiB of them bf16 weights kept beside" in recipe._repr_html_()
    assert "first 2" not in repr(two_block_recipe())


def test_more_beside_than_there_is_is_refused() -> None:
    """What is kept beside is a part of what is held."""
    data = recipe_data()
    data["memory"] |= {"beside_bytes": 601}
    with pytest.raises(RecipeError, match="found beside_bytes 601 of quantized_bytes 600"):
        Recipe.from_mapping(data)


def test_a_gate_that_tested_other_steps_is_told() -> None:
    """The digest has the policy; without one it is what it always was."""
    plain, recipe = two_block_recipe(), with_policy()
    assert layers_digest(plain.assignment) == layers_digest(plain.layers)
    digests = {
        layers_digest(one.assignment)
        for one in (plain, recipe, with_policy(mode="a16"), with_policy(last_steps=2))
    }
    assert len(digests) == 4
    assert layers_digest(recipe.assignment) == layers_digest(with_policy(steps=50).assignment)


def test_two_recipes_that_differ_in_steps_are_not_identical() -> None:
    """A diff says so, in words and in JSON."""
    found = compare_recipes(two_block_recipe(), with_policy())
    assert found.steps_differ
    assert "0 Linears differ, steps differ" in repr(found)
    data = found.to_json()
    assert (data["identical"], data["steps_differ"], data["changes"]) == (False, True, [])
    assert (data["a"]["step_policy"], data["b"]["step_policy"]) == (None, STEPS)
    same = compare_recipes(with_policy(), with_policy(steps=50))
    assert same.to_json()["identical"] is True


def test_bytes_of_the_weights_that_are_kept() -> None:
    """Two for each value of a quantized weight, of edge steps in bf16 alone."""
    net, formats = TwoBlockNet(), two_block_recipe().layers
    values = sum(
        module.weight.numel()
        for fqn, module in net.named_modules()
        if isinstance(module, nn.Linear) and formats[fqn].is_quantized
    )
    own = weight_bytes(net, formats)
    kept = weight_bytes(net, Assignment(formats, POLICY))
    assert (kept[0], kept[1] - own[1]) == (own[0], 2 * values)
    a16 = StepPolicy(first_steps=2, mode=EdgeMode.A16)
    assert weight_bytes(net, Assignment(formats, a16)) == own
    assert beside_bytes(Assignment({"a": FormatName.FP8}, POLICY), {}) == 0


def test_the_list_alone() -> None:
    """It runs every step as the list says, holds less, was not tested, and says so."""
    data = recipe_data(step_policy=STEPS, notice="small budget")
    data["memory"] |= {"quantized_bytes": 800, "beside_bytes": 200}
    alone = without_step_policy(Recipe.from_mapping(data))
    assert alone.assignment == two_block_recipe().layers
    assert (alone.memory.quantized_bytes, alone.memory.beside_bytes) == (600, 0)
    assert alone.caveat.startswith("notice: without its step policy (first 2 and last 1 steps in")
    assert alone.caveat.endswith("small budget")
    assert "step_policy" not in json.loads(alone.to_json())


def test_applying_says_that_steps_are_still_to_be_run(caplog: pytest.LogCaptureFixture) -> None:
    """In the report and in a warning; a recipe without a policy says nothing."""
    report = with_policy().apply(TwoBlockNet().to(torch.bfloat16), emulate=True)
    assert report.policy == POLICY
    assert "until the pipeline is called inside `with sensitivity.precision_by_step" in report.note
    assert report.note in repr(report)
    assert report.note in caplog.text
    caplog.clear()
    plain = two_block_recipe().apply(TwoBlockNet().to(torch.bfloat16), emulate=True)
    assert (plain.note, caplog.text) == ("", "")
