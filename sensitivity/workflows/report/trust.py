"""Why should one believe the page? Three comparisons of what was said with what came true.

1. Predicted against measured: the speedup of a list as the sum of its shapes, and as whole runs
   that were timed.
2. Believed against observed: the damage of a list as all trials together estimate it, and as its
   own pictures on the search prompts gave it.
3. Search against held-out: the damage on the prompts that chose, and on prompts that the search
   never saw. A search that fitted its own prompts shows here.

    trust_of(recipe, trials)
"""

from collections.abc import Sequence

from sensitivity.recipes.recipe import Recipe
from sensitivity.workflows.report.compared import compared_lists
from sensitivity.workflows.report.records import Comparison, Pair, Trial


def trust_of(recipe: Recipe | None, trials: Sequence[Trial]) -> tuple[Comparison, ...]:
    """The comparisons that there are values for, and those that there are none for, with a word.

    Args:
        recipe: has timed runs and held-out values; None where there is none yet.
        trials: what was tried.
    """
    return (
        _predicted_and_measured(recipe, trials),
        _believed_and_observed(trials),
        _search_and_held_out(recipe, trials),
    )


def _predicted_and_measured(recipe: Recipe | None, trials: Sequence[Trial]) -> Comparison:
    speedups = {trial.name: trial.speedup for trial in trials}
    if recipe is not None:
        shapes = recipe.latency.shapes
        own = recipe.latency.speedup if shapes is None else shapes.speedup
        speedups |= {f"trial {recipe.search.trial}": own, "the recipe": own, recipe.name: own}
    pairs = tuple(
        Pair(
            name=timing.name,
            first=speedups[timing.name],
            second=timing.speedup,
            second_ci=timing.speedup_interval90,
        )
        for timing in (() if recipe is None else recipe.timings)
        if timing.speedup is not None and timing.name in speedups
    )
    text = (
        "Each point is a list that was run as a whole. On the diagonal, the sum of the shapes"
        " predicts the run exactly."
        if pairs
        else "No list was run as a whole: this machine is not the GPU whose seconds are stated."
        " The seconds on this page are predictions, with the interval that is stated beside them;"
        " verifying the recipe on the GPU measures it."
    )
    return Comparison(
        title="Speed: predicted against measured",
        first="speedup as the sum of shapes",
        second="speedup of timed runs",
        text=text,
        pairs=pairs,
    )


def _believed_and_observed(trials: Sequence[Trial]) -> Comparison:
    pairs = tuple(
        Pair(
            name=trial.name, first=trial.typical, second=trial.own_typical, second_ci=trial.own_ci95
        )
        for trial in trials
        if trial.own_typical and trial.typical > 0
    )
    return Comparison(
        title="Damage: believed against observed",
        first="typical LPIPS as all trials together estimate it",
        second="typical LPIPS of its own pictures",
        text=(
            "The search ranks lists by the first value, which uses all trials; the second is what"
            " each list's own pictures gave. Points near the diagonal say that damages add up as"
            " the search assumes."
        ),
        pairs=pairs,
    )


def _search_and_held_out(recipe: Recipe | None, trials: Sequence[Trial]) -> Comparison:
    own = {trial.name: trial.own_typical for trial in trials}
    rows = compared_lists(recipe)
    is_typical = any(row.typical and own.get(row.name) for row in rows)
    pairs = tuple(
        Pair(name=row.name, first=first, second=second, second_ci=interval)
        for row in rows
        for first, second, interval in (
            [(own.get(row.name), row.typical, row.typical_ci95)]
            if is_typical
            else [(row.lpips_search, row.lpips_held_out, None)]
        )
        if first and second
    )
    kind = "typical" if is_typical else "mean"
    return Comparison(
        title="Damage: search prompts against unseen prompts",
        first=f"{kind} LPIPS on the search prompts",
        second=f"{kind} LPIPS on unseen prompts",
        text=(
            "The prompts of the first value chose the recipe; those of the second were kept apart."
            " Points far above the diagonal would say that the search fitted its own prompts."
            if pairs
            else "No list has been scored on unseen prompts yet."
        ),
        pairs=pairs,
    )
