"""Which Linears does a recipe's model have, and does the recipe name them all?

    check_same_linears(recipe, run_shapes(spec).table)       # RecipeMismatchError if it does not
    linears_of(recipe, spec)                                 # FQNs of the modules themselves

A table lists the Linears of a run. `linears_of` builds the modules, without weights and without a
run, for an export that must name each of them.
"""

from torch import nn

from sensitivity.errors import RecipeMismatchError
from sensitivity.recipes.recipe import Recipe
from sensitivity.shapes.table import ShapeTable
from sensitivity.spec.study_spec import StudySpec


def check_same_linears(recipe: Recipe, table: ShapeTable) -> None:
    """Raise RecipeMismatchError unless the recipe names exactly the Linears of a run."""
    odd = table.mismatch(recipe.layers)
    if odd:
        raise RecipeMismatchError(
            f"the recipe {recipe.name!r} and {table.model} differ in {len(odd)} Linears, the first"
            f" is {odd[0]}; expected a recipe for this model: pass the model that it is for"
        )


def linears_of(recipe: Recipe, spec: StudySpec) -> list[str]:
    """FQNs of every Linear in the study's own modules of a recipe's components, as recipes name
    them.

    Raises:
        RecipeMismatchError: the pipeline lacks a component of the recipe, or has another class
            there.
    """
    from sensitivity.models.denoisers import joined
    from sensitivity.models.skeleton import build_skeleton

    pipe = build_skeleton(spec)
    parts = {name: getattr(pipe, name, None) for name in recipe.model.classes}
    for name, kind in recipe.model.classes.items():
        if type(parts[name]).__name__ != kind:
            raise RecipeMismatchError(
                f"the recipe {recipe.name!r} is for {name} ({kind}), and {spec.name} has"
                f" {type(parts[name]).__name__ if parts[name] is not None else 'none'} there; pass"
                " the model that it is for"
            )
    whole = joined({name: part for name, part in parts.items() if part is not None})
    return [fqn for fqn, child in whole.named_modules() if isinstance(child, nn.Linear)]
