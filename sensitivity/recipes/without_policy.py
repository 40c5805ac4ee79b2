"""What is left of a recipe when its step policy is taken out? The list alone, which says so.

    alone = without_step_policy(recipe)      # for a tool that runs every step alike
    alone.caveat     # "notice: without its step policy (first 2 steps in bf16): ..."

Its seconds and its LPIPS are those of the recipe with the policy. Nothing here computes others: the
list alone is at least as fast, and at least as far from bf16. The notice says so wherever the
recipe is shown, and above what is exported of it.
"""

from sensitivity.recipes.recipe import Recipe

MAX_NOTICE = 2_000
"""Characters of a recipe's notice."""


def without_step_policy(recipe: Recipe) -> Recipe:
    """The recipe with every step as its list says, and a notice; itself where it has no policy.

    What was tested with the policy (`gate`) is left out. Bytes of bf16 weights that the policy kept
    beside are subtracted.
    """
    if recipe.step_policy is None:
        return recipe
    notice = (
        f"without its step policy ({recipe.step_policy.policy.words}), which was left out on"
        " request: its seconds, and the LPIPS where there is one, are those of the recipe with the"
        " policy; the list alone is faster and further from bf16"
    )
    if recipe.notice:
        notice = f"{notice}. {recipe.notice}"
    memory = recipe.memory
    data = recipe.model_dump(mode="json", exclude={"step_policy", "gate"})
    data["notice"] = notice[:MAX_NOTICE]
    data["memory"] |= {
        "quantized_bytes": memory.quantized_bytes - memory.beside_bytes,
        "beside_bytes": 0,
    }
    return Recipe.from_mapping(data)
