"""What did the search not look at? Each thing in words, with names.

for entry in unseen_of(recipe, side, result): print(entry.what, entry.why)
"""

from collections.abc import Mapping, Sequence

from sensitivity.recipes.recipe import Recipe
from sensitivity.search.loop import SearchResult
from sensitivity.workflows.report.model_side import ModelSide
from sensitivity.workflows.report.records import Unseen


def unseen_of(
    recipe: Recipe | None, side: ModelSide | None, result: SearchResult | None
) -> tuple[Unseen, ...]:
    """What was not looked at, as far as it is known.

    Args:
        recipe: knows what its formats refused.
        side: knows what was never called, always skipped, or is no Linear.
        result: knows what failed and what was stopped.
    """
    found = [*_of_model(side)] if side is not None else [*_of_recipe(recipe)]
    if result is not None:
        found += _of_search(result)
    if recipe is not None and recipe.fidelity is not None:
        prompts = len(set(recipe.fidelity.lpips.prompts))
        found.append(
            Unseen(
                what=f"every prompt but the {prompts} unseen ones and those of the search",
                why=(
                    "the numbers hold for prompts like these; other subjects, lengths, sizes or"
                    " step counts may react otherwise"
                ),
            )
        )
    return tuple(found)


def _of_model(side: ModelSide) -> list[Unseen]:
    candidates, found = side.candidates, list[Unseen]()
    by_reason: dict[str, list[str]] = {}
    for fqn, why in candidates.fixed.items():
        by_reason.setdefault(why, []).append(fqn)
    for why, fqns in by_reason.items():
        found.append(
            Unseen(what=f"{_linears(fqns)} in bf16 in every list", why=why, names=tuple(fqns))
        )
    partly = {fqn: why for fqn, why in candidates.refused.items() if fqn not in candidates.fixed}
    for why, fqns in _by_value(partly).items():
        found.append(
            Unseen(
                what=f"{_linears(fqns)} in bf16 for want of a format", why=why, names=tuple(fqns)
            )
        )
    if candidates.dead:
        found.append(
            Unseen(
                what="patterns of the study that match nothing",
                why="no Linear of this model has such a name",
                names=candidates.dead,
            )
        )
    run = side.run
    if run.other_denoisers:
        found.append(
            Unseen(
                what="other denoisers of the pipeline",
                why="the study treats one component",
                names=run.other_denoisers,
            )
        )
    if run.other_weights:
        found.append(
            Unseen(
                what="weights of matrix products that are no Linears",
                why="only Linears change format",
                names=tuple(str(weight) for weight in run.other_weights),
            )
        )
    return found


def _of_recipe(recipe: Recipe | None) -> list[Unseen]:
    if recipe is None:
        return []
    return [
        Unseen(what=f"{_linears(fqns)} in bf16 for want of a format", why=why, names=tuple(fqns))
        for why, fqns in _by_value(recipe.refused).items()
    ]


def _of_search(result: SearchResult) -> list[Unseen]:
    found = []
    if result.stopped:
        found.append(
            Unseen(
                what=f"the last prompts of {len(result.stopped)} lists",
                why="they were stopped early: another list was faster and better on the first ones",
            )
        )
    for why in dict.fromkeys(result.failures):
        count = result.failures.count(why)
        found.append(Unseen(what=f"{count} list{'s' * (count != 1)} that failed", why=why))
    return found


def _by_value(reasons: Mapping[str, str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, why in reasons.items():
        found.setdefault(why, []).append(name)
    return found


def _linears(fqns: Sequence[str]) -> str:
    return f"{len(fqns)} Linear{'s' * (len(fqns) != 1)}"
