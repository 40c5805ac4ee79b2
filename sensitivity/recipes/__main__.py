"""`python -m sensitivity.recipes` prints the JSON Schema of a recipe file."""

import json

from sensitivity.recipes.schema import recipe_json_schema

print(json.dumps(recipe_json_schema(), indent=2))
