"""What is the JSON Schema of a recipe file?

`recipe.schema.json` beside this module is `recipe_json_schema()`. Write it again with

    python -m sensitivity.recipes > new.json && mv new.json sensitivity/recipes/recipe.schema.json

The schema has the fields, their types and their bounds. Most rules between fields
(`recipes.rules`) are checked only when a recipe is read.
"""

from typing import Any

from sensitivity.recipes.recipe import SCHEMA_VERSION, Recipe


def recipe_json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a recipe file."""
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:sensitivity:recipe:{SCHEMA_VERSION}",
    }
    unverified = {
        "required": ["notice"],
        "properties": {"notice": {"type": "string"}, "verified": {"type": "null"}},
    }
    rule = {"if": {"properties": {"fidelity": {"type": "null"}}}, "then": unverified}
    title = {"title": f"sensitivity recipe {SCHEMA_VERSION}"}
    return {**head, **Recipe.model_json_schema(), **rule, **title}
