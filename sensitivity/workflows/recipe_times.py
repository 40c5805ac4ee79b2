"""What does a recipe take on the GPU at hand, beside bf16 and the lists that people write by hand?

    if why_not_timed(recipe, spec, device="cuda") is None:
        times = time_recipe(recipe, loaded, run, device="cuda")
        times.find(RECIPE).ratio.value

The recipe, nothing, everything and the rule of thumb are timed end to end, in turns
(`end_timing`), in the way of running that the recipe names. Everything, and the rule of thumb,
are quantized to the format that most Linears of the recipe have.

Times are not measured on a device that lacks a format of the recipe, for a model that stands for a
larger one, nor for a recipe with a step policy: `why_not_timed` says so.
"""

from collections import Counter
from typing import Any

import torch

from sensitivity.core.environment import describe_environment
from sensitivity.core.format_name import FormatName, quantized
from sensitivity.formats.registry import get_format
from sensitivity.latency.devices import find_device
from sensitivity.latency.predicted import PredictedLatency
from sensitivity.latency.runtimes import RUNTIMES, Runtime, runtime_of
from sensitivity.models.loading import LoadedPipeline
from sensitivity.recipes.recipe import Recipe
from sensitivity.shapes.by_hand import rule_of_thumb
from sensitivity.shapes.shape_run import ShapeRun
from sensitivity.shapes.table import ShapeTable
from sensitivity.spec.study_spec import StudySpec
from sensitivity.workflows.end_timing import EndTimes, conditions_of, time_lists
from sensitivity.workflows.latency_source import gpu_name, native_refusal
from sensitivity.workflows.progress import Say, silent

RECIPE = "the recipe"


def why_not_timed(recipe: Recipe, spec: StudySpec, *, device: str) -> str | None:
    """Why the recipe's time cannot be measured on a device; None if it can."""
    if gpu_name(device) is None:
        return f"torch runs on {device}, and times are measured on a GPU"
    if not (policy := recipe.assignment.policy).is_plain:
        return f"lists are timed with every step alike, and the recipe runs its {policy.words}"
    if spec.pricing.stands_for > 1:
        return f"{spec.name} stands for a model {spec.pricing.stands_for} times its size"
    for name in dict.fromkeys(quantized(recipe.layers).values()):
        if (refused := native_refusal(name, device)) is not None:
            return refused
    return None


def time_recipe(
    recipe: Recipe,
    loaded: LoadedPipeline,
    run: ShapeRun | None,
    *,
    say: Say = silent,
    **changes: Any,
) -> EndTimes:
    """Time the recipe and the lists beside it.

    Args:
        recipe: the recipe.
        loaded: its pipeline, with plain bf16 Linears. All of it stays on the device from now on.
        run: its run without weights; without it there is no list beside the recipe.
        say: called with each step as it begins.
        changes: other conditions (`latency.timing.timed_lists.Conditions`).

    Raises:
        MeasurementError: bf16 failed, or ran out of memory.
    """
    lists = {RECIPE: dict(recipe.layers)}
    if run is not None:
        lists |= lists_by_hand(recipe, run.table, loaded.spec, device=loaded.device)
    how = conditions_of(loaded, runtime_named(recipe), say=say, **changes)
    return time_lists(loaded, run, lists, how)


def runtime_named(recipe: Recipe) -> Runtime:
    """The way of running that a recipe names, if torchao runs so; else that of its compile mode,
    and CUDA graphs if it has none.
    """
    named = RUNTIMES.get(recipe.latency.runtime)
    if named is not None and not named.fused_quantizers:
        return named
    is_default = recipe.latency.compile_mode == "default"
    return runtime_of("default" if is_default else "reduce-overhead")


def lists_by_hand(
    recipe: Recipe, table: ShapeTable, spec: StudySpec, *, device: str
) -> dict[str, dict[str, FormatName]]:
    """Everything that the recipe's commonest format takes, and the rule of thumb of that."""
    counts = Counter(quantized(recipe.layers).values())
    if not counts:
        return {}
    name = counts.most_common(1)[0][0]
    found = find_device(describe_environment(device)["device"])
    known = None if found is None else PredictedLatency(found)
    takes = {
        linear.fqn
        for linear in table.linears
        if not get_format(name).refusal(k=linear.k, n=linear.n, dtype=getattr(torch, linear.dtype))
        and not (known is not None and known.refuses(linear, name))
    }
    thumb = rule_of_thumb(table, spec) & takes
    return {
        "all": dict.fromkeys(sorted(takes), name),
        "rule of thumb": dict.fromkeys(sorted(thumb), name),
    }
