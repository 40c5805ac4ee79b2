"""Score a recipe again on the held-out prompts: `verify_recipe`."""

from sensitivity.core.devices import check_device
from sensitivity.fidelity.evaluator import Evaluator, default_cache_folder
from sensitivity.fidelity.score import Score
from sensitivity.models.loading import load_pipeline
from sensitivity.recipes.recipe import Recipe
from sensitivity.shapes.deriving import derive_study
from sensitivity.spec.study_spec import StudySpec
from sensitivity.workflows.find import _distance, _room, _shapes


def verify_recipe(recipe: Recipe, spec: StudySpec, *, device: str) -> Score:
    """Apply a recipe to the study's model by emulation and score it on the held-out prompts, drawn
    anew.

    Raises:
        RecipeMismatchError: the recipe is for another component or other Linears.
    """
    check_device(device)
    spec = derive_study(spec)
    distance = _distance(spec, device=device)
    room = _room(spec, _shapes(spec), device)
    loaded = load_pipeline(spec, device=device)
    recipe.apply(loaded.pipe, emulate=True, allow_random_weights=spec.model.weights == "random")
    evaluator = Evaluator(loaded, cache_folder=default_cache_folder(), distance=distance)
    evaluator.switch.weight_cache_bytes = room
    try:
        return evaluator.score(recipe.layers, "held_out")
    finally:
        evaluator.close()
