"""The record of a gate: it says which formats were tested, and recipes without one have no key."""

import json
from pathlib import Path

import pytest

from sensitivity.errors import RecipeError
from sensitivity.recipes.gate_record import layers_digest
from sensitivity.recipes.recipe import Recipe, load_recipe

from support.two_blocks import recipe_data, two_block_recipe

GATE = {
    "date": "2026-11-29",
    "decision": "passes",
    "gate": {"max_flips": 2},
    "criteria": [],
    "layers_sha256": layers_digest(two_block_recipe().layers),
    "environment": {},
}


def test_a_recipe_without_a_gate_has_no_key() -> None:
    """Files of earlier versions are written back as they were."""
    assert "gate" not in json.loads(two_block_recipe().to_json())


def test_a_record_survives_and_knows_its_formats(tmp_path: Path) -> None:
    """A recipe that was edited afterwards is told from the one that was tested."""
    recipe = Recipe.from_mapping(recipe_data(gate=GATE))
    recipe.save(tmp_path / "r.json")
    kept = load_recipe(tmp_path / "r.json").gate
    assert kept == recipe.gate
    assert kept is not None
    assert kept.is_of(recipe.layers)
    assert not kept.is_of({**recipe.layers, "head": "bf16"})
    assert layers_digest({"b": "fp8", "a": "bf16"}) == layers_digest({"a": "bf16", "b": "fp8"})


@pytest.mark.parametrize(
    ("field", "value"),
    [("decision", "good"), ("date", "yesterday"), ("layers_sha256", "0"), ("per_prompt", [-1.0])],
)
def test_a_wrong_record_is_refused(field: str, value: object) -> None:
    """The message names the field."""
    with pytest.raises(RecipeError, match=rf"gate\.{field}"):
        Recipe.from_mapping(recipe_data(gate=GATE | {field: value}))
