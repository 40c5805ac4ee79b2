"""The JSON Schema of a recipe file: it is current, and judges files as the records do."""

import json
from pathlib import Path

import jsonschema

from sensitivity.recipes import schema as schema_module
from sensitivity.recipes.recipe import SCHEMA_VERSION
from sensitivity.recipes.schema import recipe_json_schema

from support.two_blocks import changed, recipe_data, two_block_recipe

DATA = Path(__file__).parents[1] / "data"
FIRST = json.loads((DATA / "recipe-1.0-first.json").read_text())
LATER = json.loads((DATA / "recipe-1.9-later.json").read_text())
UNVERIFIED = {**FIRST, "fidelity": None, "notice": "priced by shapes", "front": []}


def test_the_committed_schema_is_current() -> None:
    """`recipe.schema.json` equals what the code says; the module's docstring has the command that
    writes it.
    """
    committed = Path(schema_module.__file__).with_name("recipe.schema.json").read_text()
    assert json.loads(committed) == recipe_json_schema()


def test_the_schema_judges_like_the_records() -> None:
    """A saved recipe is valid, and one with a wrong word or a missing field is not."""
    schema = recipe_json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    validator.validate(json.loads(two_block_recipe().to_json()))
    validator.validate(recipe_data(later=1))
    for path, value in (
        ("choice", {"rule": "best"}),
        ("latency.source", "guessed"),
        ("layers.head", "int4"),
        ("fidelity", {}),
        ("memory.bf16_bytes", -1),
    ):
        assert not validator.is_valid(changed(path, value))


def test_the_schema_knows_the_rule() -> None:
    """JSON Schema alone tells an unverified recipe with its notice from one without; its id and
    title carry the version.
    """
    schema = recipe_json_schema()
    judge = jsonschema.Draft202012Validator(schema)
    assert judge.is_valid(UNVERIFIED)
    assert judge.is_valid(FIRST)
    assert judge.is_valid(LATER)
    assert not judge.is_valid(UNVERIFIED | {"notice": None})
    assert not judge.is_valid(UNVERIFIED | {"verified": {}})
    for names in ({}, {"../x": "bf16"}, {"a b": "bf16"}, {"a..b": "bf16"}, {"a": "int3"}):
        assert not judge.is_valid(FIRST | {"layers": names})
    assert not judge.is_valid(FIRST | {"model": FIRST["model"] | {"components": {"a b": "C"}}})
    assert schema["$id"].endswith(f":{SCHEMA_VERSION}")
    assert schema["title"].endswith(f" {SCHEMA_VERSION}")
