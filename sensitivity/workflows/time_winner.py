"""How does the winner of a search by measured latency get its end-to-end time? `time_winner`.

    if is_timed(outcome):
        outcome.recipe.save(path)                  # its seconds are the sum of shapes
        outcome = time_winner(outcome)             # and now those of a run

The winner, nothing, everything, the rule of thumb and the published lists are timed in turns
(`end_timing`). Whatever goes wrong, or is interrupted, the recipe stays: then its seconds are the
sum of shapes, and its note says why.
"""

import logging
from dataclasses import replace
from typing import Any

from sensitivity.core.format_name import FormatName
from sensitivity.core.words import first_line
from sensitivity.errors import OutputError, RecipeError, StoreError
from sensitivity.latency.timing.interleaved import BF16
from sensitivity.recipes.recipe import Recipe
from sensitivity.search.candidates import baselines
from sensitivity.search.store import Store, assignment_key
from sensitivity.workflows.conclude import SearchOutcome
from sensitivity.workflows.end_timing import (
    conditions_of,
    time_lists,
    untimed,
    whole_run_of,
    with_shapes,
    with_timing,
)
from sensitivity.workflows.progress import Say, silent

NOT_RUN = "choosing again runs nothing, and the search did not time this choice: verify the recipe"
_KEPT = ("latency", "timings", "memory")
CLOSE = 1e-9
"""Relative difference up to which two sums of shapes are of the same part of a run."""
log = logging.getLogger(__name__)


def is_timed(outcome: SearchOutcome) -> bool:
    """Whether the winner's run is to be timed: shapes were measured, and there is a winner."""
    return outcome.recipe is not None and outcome.prepared.latency.source == "measured"


def lists_beside(outcome: SearchOutcome) -> tuple[str, dict[str, dict[str, FormatName]]]:
    """The winner's name, and {name: formats} of the winner and what it is compared with."""
    candidates, chosen = outcome.prepared.candidates, outcome.chosen
    if chosen is None:
        return "", {}
    choice = candidates.canonical(chosen.choice)
    name = BF16 if choice == candidates.none_quantized else chosen.name
    others = {label: other for label, other in baselines(candidates) if other != choice}
    return name, {
        label: dict(candidates.decode(own))
        for label, own in ({name: choice} | others).items()
        if label != BF16
    }


def time_winner(outcome: SearchOutcome, *, say: Say = silent, **changes: Any) -> SearchOutcome:
    """Time the winner and the lists beside it end to end, and state that in the recipe.

    Args:
        outcome: of a search; its evaluator is closed. One that is not `is_timed` is given back.
        say: called with each step as it begins.
        changes: other conditions (`latency.timing.timed_lists.Conditions`).
    """
    recipe = outcome.recipe
    if recipe is None or not is_timed(outcome):
        return outcome
    prepared, (name, lists) = outcome.prepared, lists_beside(outcome)
    loaded, runtime = prepared.evaluator.loaded, prepared.latency.runtime
    if runtime.fused_quantizers:
        return _without_times(outcome, recipe, f"torchao does not run as {runtime.name} does")
    if not (policy := recipe.assignment.policy).is_plain:
        why = f"lists are timed with every step alike, and the winner runs its {policy.words}"
        return _without_times(outcome, recipe, why)
    how = conditions_of(loaded, runtime, say=say, **changes)
    try:
        say(f"timing {len(lists) + 1} lists end to end; if this is ended, the recipe stays")
        times = time_lists(loaded, prepared.run, lists, how)
        times = with_shapes(times, prepared.latency, prepared.priced, lists)
        timed = with_timing(recipe, times, chosen=name)
    except KeyboardInterrupt:
        return _without_times(outcome, recipe, "it was interrupted")
    except Exception as error:  # whatever it is, the search is done and its recipe stays
        return _without_times(outcome, recipe, first_line(error, most=300))
    return replace(outcome, recipe=timed, times=times, untimed=times.find(name).failure)


def _without_times(outcome: SearchOutcome, recipe: Recipe, why: str) -> SearchOutcome:
    return replace(outcome, recipe=untimed(recipe, why), untimed=why)


def keep_times(outcome: SearchOutcome, store: Store) -> None:
    """Keep what the winner took with its study, for whoever chooses it again.

    Where the database cannot be written any more, a warning says so: the recipe has the times.
    """
    recipe = outcome.recipe
    if recipe is None or outcome.times is None or outcome.untimed:
        return
    data = recipe.model_dump(mode="json", include=set(_KEPT))
    try:
        store.save_end_times(outcome.result.study, assignment_key(recipe.assignment), data)
    except (OutputError, StoreError) as error:
        log.warning("end-to-end times stand in the recipe alone: %s", first_line(error))


def with_kept_times(outcome: SearchOutcome, store: Store) -> SearchOutcome:
    """The outcome with the times that the search of its study kept of the same choice.

    Without such times the recipe's seconds are the sum of shapes, and its note says so.
    """
    recipe = outcome.recipe
    if recipe is None or not is_timed(outcome):
        return outcome
    kept = store.find_end_times(outcome.result.study, assignment_key(recipe.assignment))
    if kept is None:
        return _without_times(outcome, recipe, NOT_RUN)
    data = recipe.model_dump(mode="json") | {key: kept[key] for key in _KEPT if key in kept}
    data["latency"] = _with_whole_run(data["latency"], recipe)
    try:
        return replace(outcome, recipe=Recipe.from_mapping(data))
    except RecipeError as error:
        why = f"what the study kept cannot be read ({first_line(error)}): verify the recipe"
        return _without_times(outcome, recipe, why)


def _with_whole_run(latency: Any, recipe: Recipe) -> Any:
    """Kept seconds with those of a whole run beside them, which earlier versions did not keep where
    the denoisers' calls alone were timed.
    """
    own, shapes = recipe.latency, latency.get("shapes") if isinstance(latency, dict) else None
    if not isinstance(shapes, dict) or "whole_run" in latency:
        return latency
    if not shapes.get("bf16_s", own.bf16_s) < own.bf16_s * (1 - CLOSE):
        return latency
    return latency | {"whole_run": whole_run_of(own)}
