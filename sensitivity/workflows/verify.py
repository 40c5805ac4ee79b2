"""Score a recipe again on the held-out prompts: `verify_recipe`.

    score = verify_recipe(load_recipe("recipe.json"), resolve_spec("tiny-flux"), device="cpu")
    score.mean, score.ci95

The recipe's formats are emulated, so the score is about quality and never about time. References
come from the cache; the recipe's pictures are generated anew.
"""

from sensitivity.core.devices import check_device
from sensitivity.fidelity.references import default_cache_folder
from sensitivity.fidelity.score import Score
from sensitivity.recipes.recipe import Recipe
from sensitivity.shapes.deriving import derive_study
from sensitivity.spec.study_spec import StudySpec
from sensitivity.workflows.prepare import load_checked


def verify_recipe(recipe: Recipe, spec: StudySpec, *, device: str) -> Score:
    """Apply a recipe to the study's model by emulation and score it on the held-out prompts.

    Raises:
        RecipeMismatchError: the recipe is for another component or other Linears.
        UserError: and its kinds, for a device or a model that cannot be used.
    """
    check_device(device)
    spec = derive_study(spec)
    pipeline = load_checked(spec, device=device)
    recipe.apply(
        pipeline.loaded.pipe, emulate=True, allow_random_weights=spec.model.weights == "random"
    )
    evaluator = pipeline.evaluator(cache_folder=default_cache_folder())
    try:
        return evaluator.score(recipe.layers, "held_out")
    finally:
        evaluator.close()
