"""Which lists does a recipe say it was verified beside? `compared_lists`.

    compared_lists(recipe)[0].expected_mean

A recipe may come from anybody, and what it says of other lists is free JSON. Rows of another form
are passed over.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sensitivity.recipes.recipe import Recipe

Real = Annotated[float, Field(allow_inf_nan=False)]


class ComparedList(BaseModel):
    """One list that was scored on the held-out prompts; None is not said (an older recipe).

    Attributes:
        name: a baseline's label, or "trial 7".
        speedup: priced, over bf16.
        lpips_search, lpips_held_out: mean LPIPS on both splits, of its own pictures.
        typical, typical_ci95: on the held-out prompts.
        expected_mean, ci95: the mean that is stated, on the held-out prompts, and its interval.
        flips: places of the prompts that became another picture.
        per_prompt: LPIPS of the held-out prompts.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    speedup: Real | None = None
    lpips_search: Real | None = None
    lpips_held_out: Real
    typical: Real | None = None
    typical_ci95: tuple[Real, Real] | None = None
    expected_mean: Real | None = None
    ci95: tuple[Real, Real] | None = None
    flips: tuple[int, ...] | None = None
    per_prompt: tuple[Real, ...] = ()

    @property
    def mean(self) -> float:
        """The mean that is stated."""
        return self.lpips_held_out if self.expected_mean is None else self.expected_mean


def compared_lists(recipe: Recipe | None) -> tuple[ComparedList, ...]:
    """The lists of a recipe's `verified`, in its order."""
    rows = None if recipe is None or recipe.verified is None else recipe.verified.get("compared")
    found = []
    for row in rows if isinstance(rows, (list, tuple)) else ():
        if isinstance(row, Mapping):
            with suppress(ValidationError):
                found.append(ComparedList.model_validate(dict(row)))
    return tuple(found)
