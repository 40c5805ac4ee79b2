"""Score a recipe again on the held-out prompts: `verify_recipe`.

    score = verify_recipe(load_recipe("recipe.json"), resolve_spec("tiny-flux"), device="cpu")
    score.mean, score.ci95

The recipe's formats are emulated, so the score is about quality and never about time. References
come from the cache; the recipe's pictures are generated anew.
"""

from sensitivity.core.arithmetic import Arithmetic
from sensitivity.core.devices import check_device
from sensitivity.core.format_name import quantized
from sensitivity.fidelity.references import default_cache_folder
from sensitivity.fidelity.score import Score
from sensitivity.formats.served import format_in
from sensitivity.recipes.recipe import Recipe
from sensitivity.shapes.deriving import derive_study
from sensitivity.spec.study_spec import StudySpec
from sensitivity.workflows.prepare import load_checked


def verify_recipe(
    recipe: Recipe,
    spec: StudySpec,
    *,
    device: str,
    arithmetic: Arithmetic = Arithmetic.EAGER,
) -> Score:
    """Apply a recipe to the study's model by emulation and score it on the held-out prompts.

    Args:
        recipe: the recipe.
        spec: the study.
        device: where torch runs.
        arithmetic: the runtime whose quantized numbers are emulated.

    Raises:
        RecipeMismatchError: the recipe is for another component or other Linears.
        FormatError: a format's numbers are not known in that arithmetic.
        UserError: and its kinds, for a device or a model that cannot be used.
    """
    check_device(device)
    for name in set(quantized(recipe.layers).values()):
        format_in(name, arithmetic)
    spec = derive_study(spec)
    pipeline = load_checked(spec, device=device)
    recipe.apply(
        pipeline.loaded.pipe, emulate=True, allow_random_weights=spec.model.weights == "random"
    )
    evaluator = pipeline.evaluator(cache_folder=default_cache_folder(), arithmetic=arithmetic)
    try:
        return evaluator.score(recipe.layers, "held_out")
    finally:
        evaluator.close()
