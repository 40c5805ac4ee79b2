"""Recipes with a step policy."""

from typing import Any

from sensitivity.consumers.step_policies import COSMOS3
from sensitivity.recipes.recipe import Recipe

from support.recipes import make_recipe

ATTENTION = ("to_q", "to_k", "to_v", "to_out", "add_q_proj", "add_k_proj", "add_v_proj")
COSMOS3_LINEARS = (
    *(f"layers.{n}.self_attn.{name}" for n in range(2) for name in (*ATTENTION, "to_add_out")),
    *(
        f"layers.{n}.{path}.{name}_proj"
        for n in range(2)
        for path in ("mlp", "mlp_moe_gen")
        for name in ("gate", "up", "down")
    ),
    "lm_head",
    "proj_in",
    "proj_out",
    "time_embedder.linear_1",
    "time_embedder.linear_2",
)
"""The Linears of diffusers' `Cosmos3OmniTransformer` with two layers, without sound and action."""


def with_steps(recipe: Recipe, **policy: Any) -> Recipe:
    """The recipe with a step policy: the first of 28 steps in 16 bits, with changes."""
    steps = {"first_steps": 1, "last_steps": 0, "mode": "a16", "steps": 28} | policy
    return Recipe.from_mapping(recipe.model_dump(mode="json") | {"step_policy": steps})


def cosmos3_recipe(
    fmt: str, *, kind: str = COSMOS3, component: str = "transformer", **policy: Any
) -> Recipe:
    """A recipe of Cosmos3 whose second layer is quantized."""
    quantized = [fqn for fqn in COSMOS3_LINEARS if fqn.startswith("layers.1.")]
    recipe = make_recipe(
        COSMOS3_LINEARS,
        quantized,
        fmt,
        component=component,
        component_class=kind,
        pipeline_class="Cosmos3OmniPipeline",
    )
    return with_steps(recipe, **policy)
