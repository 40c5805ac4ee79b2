"""What can a recipe say before any picture is generated? Formats and predicted seconds.

    run = run_shapes(spec)
    priced = Pricer.of(spec, run).price("mine", formats)
    recipe = priced_recipe(priced, run, spec, name="mine", notice="no picture was generated")

A skip-list that somebody wrote, or the nearest recipe that a consumer can express, has a price at
once, but no LPIPS. Its recipe is unverified: `fidelity` and `verified` are null, and `notice` is
shown wherever the recipe is.

Conventions. Seconds are those of `priced.estimate`, for its target and batch; a list that is slower
than bf16 has a recipe as well. Memory is that of the denoisers' weights.

What this module does not do: choose formats, or say anything about quality.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch

from sensitivity.core.assignment import Assignment
from sensitivity.core.environment import describe_environment
from sensitivity.core.format_name import FormatName
from sensitivity.errors import FormatError, UnknownModelError
from sensitivity.formats.registry import get_format
from sensitivity.latency.pricer import PricedList
from sensitivity.latency.step_mix import steps_of
from sensitivity.recipes.parts import (
    NEVER_CALLED,
    beside_bytes,
    latency_record,
    layer_records,
    made_record,
)
from sensitivity.recipes.recipe import UNSAFE, Recipe
from sensitivity.recipes.step_policy_record import StepPolicyRecord
from sensitivity.shapes.shape_run import ShapeRun
from sensitivity.shapes.table import ShapeTable
from sensitivity.spec.loading import load_spec
from sensitivity.spec.shipped import list_studies
from sensitivity.spec.study_spec import StudySpec

_FORMAT = "|".join(sorted((re.escape(name) for name in FormatName), key=len, reverse=True))
FINGERPRINT = re.compile(rf"-(?:{_FORMAT})(?:\+(?:{_FORMAT}))*-[\w.-]+-[0-9a-f]{{8}}")
"""What a search appends to the name of its study: formats, target, eight digits of a hash."""
OF_A_DEVICE = ("device_type", "device")
"""Fields of an environment that a prediction does not depend on."""


def priced_recipe(
    priced: PricedList, run: ShapeRun, spec: StudySpec, *, name: str, notice: str
) -> Recipe:
    """The unverified recipe of a priced list.

    Args:
        priced: the list; Linears that it does not name stay bf16. An `Assignment` may have a step
            policy, which the recipe gets.
        run: the run that it was priced on, of all denoisers of the study.
        spec: the study.
        name: the recipe's name; characters that are not safe in a file name become hyphens.
        notice: why no picture was compared, for people; it is shown wherever the recipe is.

    Raises:
        FormatError: a format refuses the shape of a Linear that should get it.
        UserError: there is a step policy, and the run does not say how many steps it has.
    """
    policy = Assignment.of(priced.formats).policy
    formats = Assignment(complete_formats(priced.formats, run.table), policy)
    environment = describe_environment("cpu")
    uncalled = dict.fromkeys(run.table.uncalled, NEVER_CALLED)
    return Recipe.from_mapping(
        {
            "name": safe_name(name),
            "notice": notice,
            "fidelity": None,
            "verified": None,
            "model": _model_record(spec, run),
            "made": made_record(None),
            **layer_records(formats, fixed={**priced.refused, **uncalled}),
            "step_policy": _policy_record(formats, run),
            "latency": latency_record(priced.estimate),
            "memory": _memory_record(formats, run),
            "refused": dict(priced.refused),
            "search": {
                "study": spec.name,
                "budget": 0,
                "trials": 0,
                "sampler": "none",
                "seed": None,
            },
            "environment": {
                key: value for key, value in environment.items() if key not in OF_A_DEVICE
            },
        }
    )


def _policy_record(assignment: Assignment, run: ShapeRun) -> dict[str, Any] | None:
    """The field `step_policy` of a recipe that was priced for this run."""
    if assignment.policy.is_plain:
        return None
    record = StepPolicyRecord.of(assignment, steps=steps_of(run.table))
    return None if record is None else record.model_dump(mode="json")


def _model_record(spec: StudySpec, run: ShapeRun) -> dict[str, Any]:
    main = spec.model.component
    return {
        "id": spec.model.hub or spec.name,
        "revision": spec.model.revision,
        "pipeline_class": run.pipeline_class,
        "component": main,
        "component_class": run.classes[main],
        "components": dict(run.classes) if len(run.classes) > 1 else {},
        "weights": spec.model.weights,
    }


def _memory_record(formats: Assignment, run: ShapeRun) -> dict[str, Any]:
    """Predicted bytes of the denoisers' weights, in bf16 and in these formats."""
    saved = sum(
        2 * x.k * x.n - get_format(formats[x.fqn]).weight_bytes(k=x.k, n=x.n)
        for x in run.table.linears
    )
    beside = beside_bytes(formats, {x.fqn: (x.k, x.n) for x in run.table.linears})
    components = run.table.run.components if run.table.run is not None else ()
    bf16 = sum(part.weight_bytes for part in components if part.component in run.classes)
    return {
        "bf16_bytes": bf16,
        "quantized_bytes": bf16 - saved + beside,
        "beside_bytes": beside,
        "source": "predicted",
    }


def safe_name(text: str) -> str:
    """A text as the name of a recipe, which is safe as a file name."""
    return re.sub(rf"^\.|[{UNSAFE}]", "-", text[:256]) or "recipe"


def complete_formats(formats: Mapping[str, FormatName], table: ShapeTable) -> dict[str, FormatName]:
    """{FQN: format} of every Linear of a run, those that were never called last.

    Args:
        formats: of some Linears; the others are bf16.
        table: the run.

    Raises:
        FormatError: a format refuses a Linear's shape or dtype.
    """
    whole = {
        fqn: formats.get(fqn, FormatName.BF16)
        for fqn in (*(linear.fqn for linear in table.linears), *table.uncalled)
    }
    for fqn, reason in refusals(whole, table).items():
        raise FormatError(
            f"found {fqn} in {whole[fqn]}: {reason}; expected a format that takes it: leave it in"
            " bf16"
        )
    return whole


def refusals(formats: Mapping[str, FormatName], table: ShapeTable) -> dict[str, str]:
    """{FQN: why} of the Linears of a run whose shape or dtype their format does not take."""
    reasons = {
        x.fqn: get_format(formats[x.fqn]).refusal(k=x.k, n=x.n, dtype=getattr(torch, x.dtype))
        for x in table.linears
    }
    return {fqn: reason for fqn, reason in reasons.items() if reason}


def study_of(recipe: Recipe) -> StudySpec:
    """The study of the package that a recipe was searched or priced with.

    The study's name in the recipe is compared with the names of studies; it is never used as a
    path.

    Raises:
        UnknownModelError: it is not one of the package's.
    """
    named = recipe.search.study
    for name, path in list_studies().items():
        searched = named.startswith(name) and FINGERPRINT.fullmatch(named.removeprefix(name))
        if named == name or searched:
            spec = load_spec(path)
            if recipe.model.id == (spec.model.hub or spec.name):
                return spec
    raise UnknownModelError(
        f"the recipe {recipe.name!r} is of the study {named[:80]!r} of {recipe.model.id[:80]!r};"
        " expected a study that comes with the package: set `model` to the study's TOML, folder or"
        " Hub id"
    )
