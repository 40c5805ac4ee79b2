"""Two recipes of tiny-flux, priced without weights, and variations of them."""

from functools import cache
from typing import Any

from sensitivity.core.format_name import FormatName
from sensitivity.core.fqns import block_of
from sensitivity.latency.pricer import Pricer
from sensitivity.recipes.recipe import Recipe
from sensitivity.recipes.unverified import priced_recipe
from sensitivity.spec.loading import resolve_spec

from support.shape_runs import shape_run

SPEC = resolve_spec("tiny-flux")
LPIPS = {
    "mean": 0.2,
    "ci95": [0.1, 0.3],
    "net": "tiny",
    "noise_floor": None,
    "prompts": ["a", "b"],
    "seeds": [1, 2],
    "per_prompt": [0.1, 0.3],
}


@cache
def tiny_pricer() -> Pricer:
    """Prices of tiny-flux on the study's GPU."""
    return Pricer.of(SPEC, shape_run("tiny-flux"))


@cache
def first_recipe() -> Recipe:
    """Every Linear of a block in nvfp4."""
    run = shape_run("tiny-flux")
    formats = {x.fqn: FormatName.NVFP4 for x in run.table.linears if x.block}
    priced = tiny_pricer().price("first", formats)
    return priced_recipe(priced, run, SPEC, name="first", notice="for a test")


@cache
def second_recipe() -> Recipe:
    """ff.net.2 of blocks 0 and 2 in mxfp8, all of single block 5 and to_q of double block 1 in
    bf16.
    """
    first = first_recipe()
    bf16 = {
        fqn: "bf16"
        for fqn in first.layers
        if block_of(fqn) == "single_transformer_blocks.5" or fqn == "transformer_blocks.1.attn.to_q"
    }
    mxfp8 = {f"transformer_blocks.{i}.ff.net.2": "mxfp8" for i in (0, 2)}
    return changed(first, bf16 | mxfp8, name="second")


def changed(recipe: Recipe, formats: dict[str, str], **fields: Any) -> Recipe:
    """The recipe with other formats and fields."""
    data = recipe.model_dump(mode="json") | {"patterns": []} | fields
    data["layers"] |= formats
    return Recipe.from_mapping(data)


def verified(
    recipe: Recipe,
    lpips: dict[str, Any],
    settings: dict[str, Any] | None = None,
    kernels: str = "emulated",
    **fields: Any,
) -> Recipe:
    """The recipe as if its pictures had been compared."""
    return changed(
        recipe,
        {},
        notice=None,
        fidelity={
            "lpips": LPIPS | lpips,
            "pictures": {"settings": settings or {}},
            "kernels": kernels,
        },
        **fields,
    )
